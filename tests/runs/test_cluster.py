"""The local cluster: warm workers, closed to the network, replaced when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import dask
import psutil
import pytest

from distcalib import ClusterConfig
from distcalib.cluster.local import local_client, worker_count
from distcalib.errors import RunError
from distcalib.runs.capacity import fit_resource


@pytest.fixture(scope="module")
def client():
    with local_client(ClusterConfig(workers=2)) as client:
        yield client


def state_of_worker() -> dict:
    import sys

    from distcalib.simulation import warm

    return {
        "pid": os.getpid(),
        "loaded": "policyengine_us" in sys.modules,
        "error": warm.ERROR,
        "omp": os.environ.get("OMP_NUM_THREADS"),
    }


def test_workers_start_with_the_rules_engine_loaded(client):
    for state in client.run(state_of_worker).values():
        assert state["loaded"]
        assert state["error"] is None
        assert state["omp"] == "1"


def test_nothing_listens_beyond_the_loopback_address(client):
    assert client.scheduler.address.startswith("tcp://127.0.0.1:")
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        connections = []
        with suppress(psutil.NoSuchProcess):  # it ended since it was listed
            connections = process.net_connections("inet")
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1", connection


@pytest.mark.parametrize(
    "page", ["status", "info/main/workers.html", "json/counts.json", "metrics", "api/v1"]
)
def test_no_page_is_served_without_authentication(client, page):
    for port in client.scheduler_info(n_workers=-1)["services"].values():
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10)


def test_the_fit_asks_for_a_resource_that_a_worker_has(client):
    assert fit_resource(client, ["cpu"]) == fit_resource(client, ["cuda"]) == ("FIT", "")
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    assert any("FIT" in w["resources"] for w in workers)


@pytest.mark.parametrize(
    ("workers", "by_cpu", "by_cuda"),
    [
        ([{"FIT": 1}, {"GPU": 1}], "FIT", "GPU"),
        (
            [{"FIT": 1, "GPU": 1}, {}],
            "FIT",
            "GPU",
        ),  # a worker of both is that of the fit, whatever its engine
        ([{"GPU": 1}, {}], "GPU", "GPU"),
        ([{"FIT": 1}, {"GPU": 0}], "FIT", "FIT"),
        ([{}, {}], None, None),
    ],
)
def test_a_gpu_is_asked_for_by_a_fit_that_uses_it_and_else_by_none_that_has_another_worker(
    workers, by_cpu, by_cuda
):
    class Scheduler:
        def scheduler_info(self, n_workers):
            return {"workers": {f"tcp://{i}": {"resources": one} for i, one in enumerate(workers)}}

    assert fit_resource(Scheduler(), ["cpu", "torch"])[0] == by_cpu
    assert fit_resource(Scheduler(), ["cpu", "cuda"])[0] == by_cuda


def test_a_killed_worker_comes_back_warm(client):
    before = client.run(state_of_worker)
    os.kill(min(state["pid"] for state in before.values()), signal.SIGKILL)
    # The scheduler still knows the dead for a moment, so there are two workers before one is back.
    until = time.monotonic() + 60
    while not (new := {*client.scheduler_info(n_workers=-1)["workers"]} - {*before}):
        assert time.monotonic() < until, "no worker replaced the killed one"
        time.sleep(0.05)
    result = client.submit(state_of_worker, workers=[*new], pure=False).result(timeout=60)
    assert result["loaded"]
    assert result["pid"] not in {state["pid"] for state in before.values()}


def test_as_many_workers_as_memory_holds(monkeypatch):
    assert worker_count(ClusterConfig(workers=7)) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    total = psutil.virtual_memory().total
    assert worker_count(ClusterConfig(memory_limit="4GiB")) == min(64, total // 2**32)
    assert worker_count(ClusterConfig(memory_limit="900GiB")) == 1


def test_the_settings_that_hosts_and_the_image_have_are_fine_for_a_local_cluster():
    program = (
        "from distcalib import ClusterConfig\n"
        "from distcalib.cluster.local import local_client\n"
        "with local_client(ClusterConfig(workers=1, warm=False)) as client:\n"
        "    print(client.submit(abs, -7).result(), client.scheduler.address.startswith('tcp://127.0.0.1:'))"
    )
    closed = {"DASK_CONFIG": str(Path(__file__).parents[2] / "deploy/dask.yaml")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | closed, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["7", "True"], done.stderr


def test_a_local_cluster_that_cannot_start_says_why():
    with (
        dask.config.set({"distributed.scheduler.preload": ["no_such_module"]}),
        pytest.raises(RunError, match=r"no cluster can be started here .*no_such_module"),
        local_client(ClusterConfig(workers=1, warm=False)),
    ):
        pass
