"""A cluster of worker processes on this machine, forked from one process that holds the rules engine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dask
import psutil
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

from distcalib.cluster.settings import ONE_THREAD, dask_settings
from distcalib.config import ClusterConfig, memory_bytes
from distcalib.errors import RunError

# Loaded by the fork server, in this order, before it forks a worker.
PRELOAD = ["distcalib.simulation.warm", "distcalib.runs.before_fork"]


def worker_count(config: ClusterConfig) -> int:
    """Return how many workers there will be: one a core, as far as memory holds them, unless the file says.

    Elsewhere than on this machine, at most; of a scheduler that runs already, as many as are waited for.
    """
    if config.kind != "local":
        return config.group.bounds[1] + (config.fit.workers or 0)
    if config.group.workers is not None:
        return config.group.workers
    fits = psutil.virtual_memory().total // memory_bytes(config.worker_memory)
    return max(1, min(os.cpu_count() or 1, int(fits)))


def warm_error() -> str | None:
    """Return the last line of why the warm-up of this worker's fork server failed, if it did."""
    from distcalib.simulation import warm

    return warm.ERROR.strip().splitlines()[-1] if warm.ERROR else None


def _cluster(config: ClusterConfig, scratch: str) -> LocalCluster:
    return LocalCluster(
        n_workers=worker_count(config),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        memory_limit=memory_bytes(config.worker_memory),
        # No dashboard; its HTTP server takes a free port, so that two runs do not meet on one.
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        local_directory=scratch,
        resources={"FIT": 1},
        # A fork server keeps the environment that it began in; a store's may have been set since.
        env={name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        silence_logs=40,
    )


@contextmanager
def local_client(config: ClusterConfig) -> Iterator[Client]:
    """Start worker processes and give a client; everything is gone afterwards.

    The scheduler listens on the loopback address only and has no dashboard.

    Raises
    ------
    RunError
        When scheduler or workers cannot be started: says why.
    """
    method = "forkserver" if config.warm else "spawn"
    settings = dask_settings(config) | {
        "distributed.worker.multiprocessing-method": method,
        # Nothing but the loopback interface is listened on; `deploy/dask.yaml` asks for TLS.
        "distributed.comm.require-encryption": False,
        # The fork server loads the rules engine before the first worker answers.
        "distributed.comm.timeouts.connect": "300s",
        # Dask gives up for good a worker that is away at the moment this long after a death of its. One that
        # died again meanwhile is away too, and comes back.
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        with dask.config.set(settings), tempfile.TemporaryDirectory(prefix="distcalib-") as scratch:
            if config.warm:
                # Dask sets a preload list of its own when the context is first made; ours replaces it.
                get_mp_context().set_forkserver_preload(PRELOAD)
            with ExitStack() as stack:
                try:
                    cluster = stack.enter_context(_cluster(config, scratch))
                    client = stack.enter_context(Client(cluster, set_as_default=False))
                except (OSError, RuntimeError) as error:
                    cause: BaseException = error
                    while cause.__cause__ is not None:
                        cause = cause.__cause__
                    words = f"{type(cause).__name__}: {cause}"
                    raise RunError(f"{config.file}: no cluster can be started here ({words})") from error
                yield client
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
