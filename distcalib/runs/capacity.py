"""What the workers of a cluster can do, against what a plan asks of them; said before anything waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distcalib.config import ClusterConfig
from distcalib.errors import RunError

if TYPE_CHECKING:
    from distcalib.runs.plan import Plan

#: Engines of the fit that compute on a GPU.
GPU_ENGINES = ("cuda",)


def unmet(plan: Plan, cluster: ClusterConfig) -> list[str]:
    """Return what no worker of a cluster can satisfy and what will happen, a sentence each.

    Only the settings are looked at: nothing is started or joined. Workers that run already say more when the
    run begins (`fit_resource`, `require_memory`), or to ``distcalib doctor``.
    """
    said = []
    engines = sorted(set(plan.engines.values()))
    own_gpu = cluster.fit.gpu if cluster.fit.workers else cluster.group.gpu
    on_gpu = [engine for engine in engines if engine in GPU_ENGINES]
    if on_gpu and cluster.kind in ("slurm", "kubernetes") and not own_gpu:
        said.append(
            f"no worker of the fit has a GPU ({cluster.file}: fit.gpu is 0), and its engine is {on_gpu[0]}: "
            "the fit ends in an error where no device is found; set fit.workers: 1 and fit.gpu: 1 there, or "
            "fit.engine: cpu in the settings of the run"
        )
    if own_gpu and not on_gpu:
        said.append(
            f"the fit goes to a worker with a GPU and does not use it, for its engine is {', '.join(engines)}"
        )
    stage, seconds = max(plan.facts.get("task_seconds", {}).items(), key=lambda t: t[1], default=("", 0))
    lifetime = cluster.group.lifetime
    if lifetime is not None and lifetime < seconds:
        said.append(
            f"the longest task of the stage {stage} takes about {seconds / 60:.0f} min, and a worker leaves "
            f"after {lifetime / 60:.0f} (a minute before sim.walltime): the run will end in an error"
        )
    if cluster.kind == "address":
        said.append(
            "the workers of a running scheduler are asked when the run begins: one with less memory than a "
            "task needs is named, one with other versions gets no task; without a worker of the resource GPU "
            "or FIT the fit goes to any. `distcalib doctor` asks them now"
        )
    if cluster.kind in ("address", "slurm", "kubernetes"):
        said.append(
            f"a task that no worker can take ends the run after {cluster.scheduler.wait:g} s "
            "(scheduler.wait); what is done stays, and the same command goes on from there"
        )
    return said


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Return what a scheduler knows of each worker, by address."""
    return dict(sorted(client.scheduler_info(n_workers=-1)["workers"].items()))


def fit_resource(client: Any, engines: Iterable[str]) -> tuple[str | None, str]:
    """Return the resource that fits by some engines ask for, and what to tell the user (empty: nothing).

    GPU before FIT where one of them computes there, else FIT before GPU: a GPU is not held by a fit that does
    not use it while another worker is meant for it. None where no worker has either: any takes the fit, for a
    resource that no worker has would be waited for in vain.
    """
    held = {name for worker in workers_of(client).values() for name, n in worker["resources"].items() if n}
    for resource in ("GPU", "FIT") if set(engines) & set(GPU_ENGINES) else ("FIT", "GPU"):
        if resource in held:
            return resource, ""
    return None, (
        "no worker has the resource GPU or FIT, so the fit goes to any worker: start one with "
        "`dask worker --resources FIT=1` (FIT=1,GPU=1 where it has a GPU) to choose which"
    )


def fit_takers(workers: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some workers that may be given the fit: with the resource GPU or FIT, else all."""
    able = {a: w for a, w in workers.items() if any(w["resources"].get(name) for name in ("GPU", "FIT"))}
    return able or dict(workers)


def require_memory(client: Any, task_bytes: Mapping[str, int], file: str) -> list[str]:
    """Hold the memory of all workers to the largest task that they may be given; return what to tell.

    Parameters
    ----------
    client
        A `distributed.Client`.
    task_bytes
        Of each stage, as ``facts`` of a plan has them.
    file
        Name of the cluster file, for the error.

    Raises
    ------
    RunError
        When no worker has enough.
    """
    workers, told = workers_of(client), []
    groups = (task_bytes.keys() - {"fit"}, workers), (task_bytes.keys() & {"fit"}, fit_takers(workers))
    for stages, given in groups:
        stage, needed = max(((s, task_bytes[s]) for s in stages), key=lambda item: item[1], default=("", 0))
        small = {a: w["memory_limit"] for a, w in given.items() if 0 < w["memory_limit"] < needed}
        if not small:
            continue
        address, least = min(small.items(), key=lambda item: item[1])
        words = (
            f"the largest task of the stage {stage} needs {needed / 2**30:.1f} GiB, and {len(small)} workers "
            f"have less (worker {address}: {least / 2**30:.1f} GiB)"
        )
        if len(small) == len(given):
            raise RunError(
                f"{file}: {words}, so nobody can do it: start workers with a larger --memory-limit"
            )
        halves = "" if stage == "fit" else " or in halves"
        told.append(f"{words}: such a task dies there, and is done by another{halves}")
    return told
