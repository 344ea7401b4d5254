"""Workers as jobs of SLURM, the scheduler in this process; a job that ends is asked for again."""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from distributed.deploy.adaptive import Adaptive
from distributed.security import Security

from distcalib.cluster.address import join, wait_for_workers
from distcalib.cluster.security import certificates, tls_options
from distcalib.cluster.settings import dask_settings, exports, resources_of, worker_environment
from distcalib.config import ClusterConfig, memory_bytes
from distcalib.errors import InputError, RunError


class Demand(Adaptive):
    """As many workers as there are tasks to do, within bounds; what ends is replaced.

    A cluster's own `scale(n)` never replaces a job that was killed. And dask's own adaptivity looks at the
    tasks that it holds, which here are no more than there are workers: the executor says in the cluster's
    attribute ``open_tasks`` how many there are. Nothing said stands for many.
    """

    async def target(self) -> float:
        """See `distributed.deploy.adaptive.Adaptive`."""
        open_tasks: int | None = getattr(self.cluster, "open_tasks", None)
        return math.inf if open_tasks is None else open_tasks


def adapt(cluster: Any, config: ClusterConfig) -> None:
    """Keep a cluster at what the settings say; workers without a task go after a minute."""
    least, most = config.group.bounds
    cluster.adapt(Adaptive=Demand, minimum=least, maximum=most, interval="1s", wait_count=60)


@contextmanager
def slurm_client(config: ClusterConfig) -> Iterator[Client]:
    """Start a scheduler here and submit its workers; all jobs are cancelled afterwards."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "kind: slurm needs dask-jobqueue", place=config.file, expected="pip install 'distcalib[slurm]'"
        ) from None
    until = time.monotonic() + config.scheduler.wait
    with dask.config.set(dask_settings(config)), certificates(config) as (security, folder), _logs(folder):
        if any(character.isspace() for character in str(folder)):
            raise InputError(
                "batch jobs cannot read a folder with a space in its name",
                place=f"{config.file}: security.folder", value=str(folder.parent),
            )  # fmt: skip
        try:
            cluster = SLURMCluster(**cluster_options(config, security, folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(f"{config.file}: no scheduler can be started here: {error}") from None
        fit_job = None
        with cluster:
            try:
                adapt(cluster, config)
                if config.fit.workers:
                    fit_job = _submit(fit_script(config, cluster.scheduler_address, security, folder), config)
                with join(config, cluster, security, until) as client:
                    try:
                        wait_for_workers(client, config, max(1, config.sim.minimum or 1), until)
                    except RunError as error:
                        raise RunError(f"{error}, in {_log_folder(folder)}") from None
                    yield client
            finally:
                if fit_job is not None:
                    subprocess.run(["scancel", fit_job], check=False, capture_output=True)


def _log_folder(folder: Path) -> Path:
    """Return where jobs print to: beside the folder of the certificates, which goes with the run."""
    return folder.with_name(f"log-{folder.name}")


@contextmanager
def _logs(folder: Path) -> Iterator[None]:
    """Keep what jobs print where the block fails."""
    log = _log_folder(folder)
    log.mkdir(mode=0o700)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            log.rmdir()  # no job has printed
        raise
    shutil.rmtree(log, ignore_errors=True)


def cluster_options(config: ClusterConfig, security: Security | None, folder: Path) -> dict[str, Any]:
    """Return what `dask_jobqueue.SLURMCluster` is called with; what is not said, its own settings say."""
    group, scheduler = config.group, config.scheduler
    listening: dict[str, Any] = {
        "port": scheduler.port,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    if scheduler.interface is not None:
        listening["interface"] = scheduler.interface
    resources = resources_of(config, "sim")
    return {
        "n_workers": 0,
        # One task at a time, whatever the processors of the job.
        "cores": 1,
        "processes": 1,
        "job_cpu": group.threads,
        "memory": f"{memory_bytes(group.memory_limit)}B",
        "queue": group.queue,
        "account": group.account,
        "walltime": group.walltime,
        "job_name": "distcalib",
        "job_extra_directives": _directives(config, "sim"),
        "job_script_prologue": exports(worker_environment(group.threads, group.environment)),
        "worker_extra_args": [
            "--no-dashboard",
            *_lifetime(group.lifetime),
            *(["--resources", resources] if resources else []),
        ],
        "death_timeout": round(scheduler.wait),
        "log_directory": str(_log_folder(folder)),
        "protocol": "tls://" if security is not None else "tcp://",
        "security": security,
        "scheduler_options": listening,
        "python": sys.executable,
    }


def fit_script(config: ClusterConfig, address: str, security: Security | None, folder: Path) -> str:
    """Return the batch script of the fit's own worker, which joins the scheduler at `address`."""
    fit = config.fit
    memory = memory_bytes(fit.memory_limit)
    options = {"-J": "distcalib-fit", "-p": fit.queue, "-A": fit.account, "-t": fit.walltime, "-n": 1}
    head = [f"{name} {value}" for name, value in options.items() if value is not None]
    head += [
        f"--cpus-per-task={fit.threads}",
        f"--mem={-(-memory // 2**20)}M",
        f"-o {_log_folder(folder)}/fit-%J.out",
        f"-e {_log_folder(folder)}/fit-%J.err",
        "--requeue",
        *_directives(config, "fit"),
    ]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", "distcalib-fit"]
    command += ["--nthreads", "1", "--memory-limit", str(memory), "--nanny", "--no-dashboard"]
    command += ["--death-timeout", str(round(config.scheduler.wait))]
    command += ["--resources", resources_of(config, "fit"), *_lifetime(fit.lifetime)]
    command += tls_options(security)
    lines = ["#!/bin/sh", *(f"#SBATCH {line}" for line in head)]
    lines += exports(worker_environment(fit.threads, fit.environment))
    return "\n".join([*lines, f"exec {shlex.join(command)}", ""])


def _lifetime(seconds: int | None) -> list[str]:
    """Let a worker leave before its job is ended, or its task would count as one that a worker died of."""
    return [] if seconds is None else ["--lifetime", f"{seconds}s"]


def _directives(config: ClusterConfig, name: str) -> list[str]:
    group = config.fit if name == "fit" else config.group
    return [f"--gres=gpu:{group.gpu}"] * bool(group.gpu) + list(group.directives)


def _submit(script: str, config: ClusterConfig) -> str:
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    except OSError as error:
        raise RunError(f"{config.file}: sbatch cannot be started: {error.strerror}") from None
    if done.returncode:
        raise RunError(f"{config.file}: SLURM refused the fit's job: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]
