"""The workers of a run: started or joined, held to its plan, and asked who does the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from distcalib.config import ClusterConfig
from distcalib.runs.events import Events, deaths_of, read_events
from distcalib.runs.execute import DaskExecutor, Executor, SerialExecutor
from distcalib.runs.home import Home


def start_executor(
    cluster: ClusterConfig,
    home: Home,
    events: Events,
    stack: ExitStack,
    timed: Callable[[], AbstractContextManager[None]],
) -> Executor:
    """Start or join the workers of a run, and return what hands tasks to them.

    Parameters
    ----------
    cluster, home
        Where tasks are done, and the run that is held: its plan says what a worker has to be and to have.
    events
        Told of the workers, and later of retries and of what tasks say.
    stack
        Ends the workers.
    timed
        Opens the stage of the start.

    Raises
    ------
    InputError, RunError
        See `distcalib.cluster.open_client`, `distcalib.runs.workers.check` and
        `distcalib.runs.capacity.require_memory`.
    """

    def said(task: Any, facts: dict[str, Any]) -> None:
        events.emit("progress", stage=task.stage, id=task.id, said=facts)

    def retried(task: Any, deaths: int) -> None:
        place = getattr(task, "place", "")
        events.emit("retry", stage=task.stage, id=task.id, place=place, deaths=deaths)

    if cluster.kind == "serial":
        return SerialExecutor(said)
    from distcalib.cluster import open_client
    from distcalib.cluster.local import warm_error
    from distcalib.runs.capacity import require_memory
    from distcalib.runs.workers import admitted, check

    with timed():
        client = stack.enter_context(open_client(cluster))
        plan = home.plan() or {}
        memory = check(client, plan)
        told = require_memory(client, plan.get("facts", {}).get("task_bytes", {}), cluster.file)
    events.emit("workers", count=len(memory["addresses"]), **memory)
    for failure in {e for e in client.run(warm_error).values() if e}:
        events.emit("warning", text=f"workers start cold, the warm-up failed: {failure}")
    for text in told:
        events.emit("warning", text=text)
    known = deaths_of(read_events(home.folder))
    return DaskExecutor(client, admitted, retried, known, said, cluster.scheduler.wait)


def resource_of_fit(
    executor: Executor, cluster: ClusterConfig, engines: Iterable[str], events: Events
) -> str | None:
    """Ask the workers that are there now: one with a GPU may have left its queue since the start."""
    if not isinstance(executor, DaskExecutor):
        return None
    if cluster.fit.workers:
        return "FIT"  # of its own worker alone, which may be in a queue still; `scheduler.wait` bounds it
    from distcalib.runs.capacity import fit_resource

    resource, words = fit_resource(executor.client, engines)
    if words:
        events.emit("warning", text=words)
    return resource
