"""Texts of batch jobs, and how many workers a cluster that grows and shrinks asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from by_command_line import Task, where
from dask_jobqueue.slurm import SLURMJob
from distributed import Client, LocalCluster

from distcalib import ClusterConfig
from distcalib.cluster.security import make_certificates
from distcalib.cluster.settings import worker_environment
from distcalib.cluster.slurm import Demand, adapt, cluster_options, fit_script
from distcalib.runs.execute import DaskExecutor

SETTINGS = {
    "kind": "slurm",
    "sim": {
        "workers": 40,
        "memory_limit": "6GiB",
        "walltime": "04:00:00",
        "queue": "short",
        "account": "tax",
        "environment": {"SCRATCH": "it's $HOME", "GONE": None},
        "directives": ["--constraint=avx2"],
    },
    "fit": {
        "workers": 1,
        "threads": 16,
        "memory_limit": "100GiB",
        "gpu": 2,
        "queue": "gpu",
        "walltime": "1-00:00",
    },
}


@pytest.fixture
def security(tmp_path):
    return make_certificates(tmp_path)


def test_the_job_of_a_sim_worker(tmp_path, security):
    options = cluster_options(ClusterConfig.load(None, SETTINGS), security, tmp_path)
    options.pop("n_workers")
    options.pop("scheduler_options")
    script = SLURMJob("tls://10.0.0.1:8786", name="w", **options).job_script()
    head = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    wanted = {"-J distcalib", "-p short", "-A tax", "-t 04:00:00", "--cpus-per-task=1", "--mem=6G"}
    assert {*wanted, "-n 1", "--constraint=avx2"} <= head
    command = script.splitlines()[-1]
    for words in (
        "distributed.cli.dask_worker tls://10.0.0.1:8786",
        "--nthreads 1",
        "--no-dashboard",
        "--lifetime 14340s",
        f"--tls-key {tmp_path / 'key.pem'}",
        "--protocol tls://",
    ):
        assert words in command
    # The fit has a worker of its own, so these do not take it.
    assert "--resources" not in command
    assert "PRIVATE KEY" not in script


def test_the_job_of_the_fit(tmp_path, security):
    script = fit_script(ClusterConfig.load(None, SETTINGS), "tls://10.0.0.1:8786", security, tmp_path)
    head = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"-p gpu", "-t 1-00:00", "--cpus-per-task=16", "--mem=102400M", "--gres=gpu:2"} <= set(head)
    assert not any(line.startswith("-A") for line in head)
    command = script.splitlines()[-1]
    assert command.startswith(f"exec {sys.executable} -m distributed.cli.dask_worker tls://10.0.0.1:8786 ")
    assert "--resources FIT=1,GPU=1" in command
    assert "export OMP_NUM_THREADS=16" in script.splitlines()
    assert "PRIVATE KEY" not in script


def test_without_a_worker_of_its_own_the_sim_workers_do_the_fit(tmp_path, security):
    config = ClusterConfig.load(None, {"kind": "slurm", "workers": 2})
    options = cluster_options(config, security, tmp_path)
    assert options["worker_extra_args"] == ["--no-dashboard", "--resources", "FIT=1"]


def test_the_scheduler_listens_where_it_is_told_and_shows_no_dashboard(tmp_path, security):
    over = {**SETTINGS, "scheduler": {"interface": "ib0", "port": 8786}}
    listening = cluster_options(ClusterConfig.load(None, over), security, tmp_path)["scheduler_options"]
    assert listening == {
        "interface": "ib0", "port": 8786, "dashboard": False, "dashboard_address": "127.0.0.1:0",
    }  # fmt: skip


def test_what_a_shell_makes_of_the_environment_is_what_the_file_says(tmp_path, security):
    script = fit_script(
        ClusterConfig.load(
            None, {**SETTINGS, "fit": {**SETTINGS["fit"], "environment": {"ODD": "it's $HOME;`id`"}}}
        ),
        "tls://10.0.0.1:8786",
        security,
        tmp_path,
    )
    lines = [line for line in script.splitlines() if not line.startswith("exec ")]
    shell = "\n".join([*lines, 'printf "%s|%s" "$ODD" "$DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"'])
    done = subprocess.run(["sh"], input=shell, capture_output=True, text=True, check=True)
    assert done.stdout == "it's $HOME;`id`|[]"


def test_a_worker_reads_from_its_environment_what_workers_here_are_set_to():
    program = (
        "import dask, distributed\n"
        "from distcalib.cluster.settings import WORKER\n"
        "print(all(dask.config.get(key) == value for key, value in WORKER.items()))"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    said = {k: v for k, v in worker_environment(1, {}).items() if v is not None}
    for environment, expected in ((clean | said, "True"), (clean, "False")):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_a_cluster_replaces_what_was_lost_and_shrinks_to_its_tasks():
    config = ClusterConfig.load(None, {"kind": "slurm", "sim": {"minimum": 1, "maximum": 3}})
    with (
        LocalCluster(
            n_workers=0, processes=False, threads_per_worker=1, host="127.0.0.1", protocol="tcp://",
            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        adapt(cluster, config)
        # Nobody said yet how many tasks there are: as many workers as may be.
        client.wait_for_workers(3, timeout=30)
        cluster.scale(2)
        until(lambda: len(cluster.workers) == 3)
        cluster.adapt(Adaptive=Demand, minimum=1, maximum=3, interval="100ms", wait_count=2)
        tasks = [Task(str(n)) for n in range(4)]
        assert {r["id"] for r in DaskExecutor(client).run(where, tasks)} == {"0", "1", "2", "3"}
        # The executor said how many were open, at last one: the least of workers.
        assert cluster.open_tasks == 1
        until(lambda: len(cluster.workers) == 1)
        cluster.open_tasks = 2
        until(lambda: len(cluster.workers) == 2)


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
