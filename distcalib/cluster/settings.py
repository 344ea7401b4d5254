"""How Dask itself is set: the same for every kind of cluster, and why."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from distcalib.config import ClusterConfig

# One thread a worker in every numeric library: workers are the parallelism, and a fork server must not
# have threads when it forks (Arrow's allocator would start one when it is loaded).
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "BLOSC")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES} | {
    "NUMEXPR_MAX_THREADS": "1",
    "BLOSC_NTHREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

#: Of workers, wherever they run.
WORKER: Mapping[str, Any] = {
    "distributed.worker.profile.enabled": False,
    # Dask's HTTP servers know no authentication: they keep their port but serve nothing.
    "distributed.worker.http.routes": [],
    # Memory of a worker is one simulation, freed when its task ends: spilling results or pausing the
    # worker frees nothing. One that outgrows its limit is ended, and its task told why.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
}


def dask_settings(config: ClusterConfig) -> dict[str, Any]:
    """Return settings of a scheduler in this process, its client, and workers that inherit them."""
    wait = f"{config.scheduler.wait:g}s"
    return {
        **WORKER,
        # A GPU or FIT task without such a worker is an error, not an endless wait.
        "distributed.scheduler.no-workers-timeout": wait,
        # The executor counts the deaths of a task's workers itself, and decides what runs again and where.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.http.routes": [],
        "distributed.comm.timeouts.connect": wait,
    }


def worker_environment(threads: int, own: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the environment variables of a worker that no process of ours starts: `WORKER`, threads, `own`.

    >>> worker_environment(1, {})["DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE"]
    '0.98'
    """
    libraries = ONE_THREAD if threads == 1 else {f"{name}_NUM_THREADS": str(threads) for name in _LIBRARIES}
    dask = {f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": repr(v) for key, v in WORKER.items()}
    return {**libraries, **dask, **own}


def exports(environment: Mapping[str, str | None]) -> list[str]:
    """Return the lines of a shell that set or unset environment variables.

    >>> exports({"A": "x y", "B": None})
    ["export A='x y'", 'unset B']
    """
    return [
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in environment.items()
    ]


def resources_of(config: ClusterConfig, group: str) -> str:
    """Return the Dask resources of the workers of a group, as ``--resources`` takes them; may be empty.

    >>> from distcalib.config import ClusterConfig
    >>> resources_of(ClusterConfig(), "sim")
    'FIT=1'
    """
    fits = group == "fit" or not config.fit.workers
    gpu = getattr(config, group).gpu
    return ",".join(["FIT=1"] * fits + ["GPU=1"] * bool(gpu))
