"""Fits of folds, budgets and trials, here or on workers of a cluster: the same answers in the same order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from distributed import WorkerPlugin

from distcalib.config import ClusterConfig
from distcalib.errors import RunError
from distcalib.runs.events import Events

if TYPE_CHECKING:
    from distcalib.fit.folds import Map

Report = Callable[[dict[str, Any]], None]
#: A job of a fit: the fold that it must not see (None: it sees all targets), and settings of its own.
Job = tuple[int | None, dict[str, Any]]
#: Settings of no job.
NOTHING: Mapping[str, Any] = MappingProxyType({})


def silent(event: dict[str, Any]) -> None:
    """Report nothing."""


@contextmanager
def stage(report: Report, name: str, tasks: int) -> Iterator[Callable[[], None]]:
    """Report a stage of so many tasks, and signs of life; gives what is to be called after each."""
    events, began = Events(None, [report]), time.perf_counter()
    with events.beating():
        events.emit("stage", stage=name, tasks=tasks, reused=0)
        try:
            yield lambda: events.emit("task")
        except BaseException:
            events.emit("stage_failed", stage=name)
            raise
        events.emit("stage_done", stage=name, seconds=round(time.perf_counter() - began, 3))


@contextmanager
def spread(
    workers: int | ClusterConfig | None,
    done: Callable[[], None],
    always: Mapping[str, Any] = NOTHING,
    engine: str = "cpu",
) -> Iterator[Map]:
    """Give a `map` over `Job`s: in this process, over processes of this machine, or over a cluster's workers.

    A function of jobs holds the matrix, so each worker gets it once, also one that joins later; what goes to
    and fro is small. Workers read no file, so they need not see the run folder. Answers come in the order of
    the jobs; `done` is called after each.

    Parameters
    ----------
    workers
        Processes of this machine, or the cluster to start or join; None, or one of kind serial: this process.
    done
        Called after each job.
    always
        Settings that every job has, too.
    engine
        Of the fits: where it computes on a GPU, workers that have one do them all.

    Raises
    ------
    RunError
        When a worker has other packages or other code than this process, before any job.
    """
    if workers is None or (isinstance(workers, ClusterConfig) and workers.kind == "serial"):

        def here(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
            for fold, settings in jobs:
                yield function((fold, {**settings, **always}))
                done()

        yield here
        return
    from distcalib.cluster import open_client
    from distcalib.runs.capacity import GPU_ENGINES, fit_resource
    from distcalib.runs.execute import DaskExecutor
    from distcalib.runs.workers import admitted, check

    config, threads = _without_rules(workers)
    with open_client(config) as client, _held_by(client) as hold:
        elsewhere = config.kind != "local"  # processes of this machine are started from this installation
        if elsewhere:
            check(client, {"versions": {}, "code": {}}, rules=False)
        executor = DaskExecutor(client, admitted if elsewhere else None)
        resource = fit_resource(client, [engine])[0] if engine in GPU_ENGINES else None

        def away(function: Callable[[Any], Any], jobs: Iterable[Any]) -> list[Any]:
            name = hold(function)
            # Threads have no influence on a fit, but they are no part of what the study of a search is of.
            tasks = [
                _Task(name, number, (fold, {**settings, **always, "threads": threads}))
                for number, (fold, settings) in enumerate(jobs)
            ]
            answers: dict[int, Any] = {}
            for answer in executor.run(_on_worker, tasks, resource):
                answers[answer["number"]] = answer["answer"]
                done()
            return [answers[number] for number in range(len(tasks))]

        yield away


def _without_rules(workers: int | ClusterConfig) -> tuple[ClusterConfig, int | None]:
    """Return the cluster, of this machine without the rules engine, and the threads of a fit.

    Elsewhere a fit takes all that its worker may use (None), as that of a run does.
    """
    import psutil

    from distcalib.cluster.local import worker_count
    from distcalib.fit.columns import available_threads

    if isinstance(workers, int):
        memory = f"{psutil.virtual_memory().total // workers}B"
        workers = ClusterConfig(workers=workers, memory_limit=memory)
    if workers.kind != "local":
        return workers, None
    return replace(workers, warm=False), max(1, available_threads() // worker_count(workers))


class _Holding(WorkerPlugin):
    """Holds a function in every worker of a cluster, for as long as it is registered."""

    def __init__(self, name: str, function: Callable[[Job], Any]) -> None:
        self.name, self.function = name, function

    def setup(self, worker: Any) -> None:
        _held[self.name] = self.function

    def teardown(self, worker: Any) -> None:
        _held.pop(self.name, None)


#: Of this process as a worker: functions by the name of their plugin.
_held: dict[str, Callable[[Job], Any]] = {}


@contextmanager
def _held_by(client: Any) -> Iterator[Callable[[Callable[[Job], Any]], str]]:
    """Give what makes every worker hold a function, once, and returns its name; none holds it afterwards."""
    known: dict[str, Callable[[Job], Any]] = {}

    def hold(function: Callable[[Job], Any]) -> str:
        for name, one in known.items():
            if one is function:
                return name
        name = f"distcalib-fits-{uuid4().hex}"
        client.register_plugin(_Holding(name, function))
        known[name] = function
        return name

    try:
        yield hold
    finally:
        for name in known:
            with suppress(OSError, RuntimeError):  # a scheduler that is gone holds nothing
                client.unregister_worker_plugin(name)


@dataclass(frozen=True)
class _Task:
    """One job of a function that workers hold."""

    function: str
    number: int
    job: Job
    stage: str = "fit"

    @property
    def id(self) -> str:
        return f"{self.function}.{self.number}"

    @property
    def place(self) -> str:
        return "all targets" if self.job[0] is None else f"without fold {self.job[0]}"


def _on_worker(task: _Task) -> dict[str, Any]:
    function = _held.get(task.function)
    if function is None:
        raise RunError("this worker does not hold the matrix: its log says why it could not be given it")
    return {"number": task.number, "answer": function(task.job)}
