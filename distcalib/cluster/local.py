"""A cluster of worker processes on this machine, forked from one process that holds the rules engine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import psutil
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

from distcalib.config import ClusterConfig, memory_bytes

# One thread a worker in every numeric library: workers are the parallelism, and a fork server must not
# have threads when it forks (Arrow's allocator would start one when it is loaded).
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "BLOSC")
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES} | {
    "NUMEXPR_MAX_THREADS": "1",
    "BLOSC_NTHREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

# Loaded by the fork server, in this order, before it forks a worker.
PRELOAD = ["distcalib.simulation.warm", "distcalib.runs.before_fork"]


def worker_count(config: ClusterConfig) -> int:
    """Return how many workers to start: one a core, as far as memory holds them, unless the file says."""
    if config.workers is not None:
        return config.workers
    fits = psutil.virtual_memory().total // memory_bytes(config.memory_limit)
    return max(1, min(os.cpu_count() or 1, int(fits)))


def warm_error() -> str | None:
    """Return the last line of why the warm-up of this worker's fork server failed, if it did."""
    from distcalib.simulation import warm

    return warm.ERROR.strip().splitlines()[-1] if warm.ERROR else None


@contextmanager
def local_client(config: ClusterConfig) -> Iterator[Client]:
    """Start worker processes and give a client; everything is gone afterwards.

    The scheduler listens on the loopback address only and has no dashboard.
    """
    method = "forkserver" if config.warm else "spawn"
    settings = {
        "distributed.worker.multiprocessing-method": method,
        # A GPU or FIT task without such a worker is an error, not an endless wait.
        "distributed.scheduler.no-workers-timeout": "300s",
        # The executor counts the deaths of a task's workers itself, and decides what runs again and where.
        "distributed.scheduler.allowed-failures": 0,
        # Dask gives up for good a worker that is away at the moment this long after a death of its. One that
        # died again meanwhile is away too, and comes back.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.profile.enabled": False,
        # Dask's HTTP servers know no authentication: they keep their port but serve nothing.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.comm.timeouts.connect": "300s",
        # Memory of a worker is one simulation, freed when its task ends: spilling results or pausing the
        # worker frees nothing. One that outgrows its limit is ended, and its task told why.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.98,
    }
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        with dask.config.set(settings), tempfile.TemporaryDirectory(prefix="distcalib-") as scratch:
            if config.warm:
                # Dask sets a preload list of its own when the context is first made; ours replaces it.
                get_mp_context().set_forkserver_preload(PRELOAD)
            with (
                LocalCluster(
                    n_workers=worker_count(config),
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    memory_limit=memory_bytes(config.memory_limit),
                    # No dashboard; its HTTP server takes a free port, so that two runs do not meet on one.
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    local_directory=scratch,
                    resources={"FIT": 1},
                    silence_logs=40,
                ) as cluster,
                Client(cluster, set_as_default=False) as client,
            ):
                yield client
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
