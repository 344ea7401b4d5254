"""Fits of folds, budgets and trials, here or over processes: the same answers in the same order."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from distcalib.config import ClusterConfig
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
    workers: int | None, done: Callable[[], None], always: Mapping[str, Any] = NOTHING
) -> Iterator[Map]:
    """Give a `map` over `Job`s: in this process, or over so many processes of this machine.

    A function of jobs holds the matrix, so it is written once and each process reads it; what goes to and
    fro is small. Answers come in the order of the jobs; `done` is called after each. Every job has the
    settings `always`, too.
    """
    if workers is None:

        def here(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
            for fold, settings in jobs:
                yield function((fold, {**settings, **always}))
                done()

        yield here
        return
    import psutil

    from distcalib.cluster.local import local_client
    from distcalib.fit.columns import available_threads
    from distcalib.runs.execute import DaskExecutor

    threads = max(1, available_threads() // workers)
    memory = f"{psutil.virtual_memory().total // workers}B"
    config = ClusterConfig(workers=workers, memory_limit=memory, warm=False)
    with tempfile.TemporaryDirectory(prefix="distcalib-") as scratch, local_client(config) as client:
        executor = DaskExecutor(client)
        known: list[Any] = []

        def file_of(function: Callable[[Any], Any]) -> str:
            for number, one in enumerate(known):
                if one is function:
                    return f"{scratch}/{number}.pickle"
            known.append(function)
            file = Path(scratch) / f"{len(known) - 1}.pickle"
            file.write_bytes(pickle.dumps(function, protocol=pickle.HIGHEST_PROTOCOL))
            return str(file)

        def away(function: Callable[[Any], Any], jobs: Iterable[Any]) -> list[Any]:
            file = file_of(function)
            # Threads have no influence on a fit, but they are no part of what the study of a search is of.
            tasks = [
                _Task(file, number, (fold, {**settings, **always, "threads": threads}))
                for number, (fold, settings) in enumerate(jobs)
            ]
            answers: dict[int, Any] = {}
            for answer in executor.run(_on_worker, tasks):
                answers[answer["number"]] = answer["answer"]
                done()
            return [answers[number] for number in range(len(tasks))]

        yield away


@dataclass(frozen=True)
class _Task:
    """One job of a function that is in a file."""

    file: str
    number: int
    job: Job
    stage: str = "fit"

    @property
    def id(self) -> str:
        return f"{Path(self.file).stem}.{self.number}"

    @property
    def place(self) -> str:
        return "all targets" if self.job[0] is None else f"without fold {self.job[0]}"


def _on_worker(task: _Task) -> dict[str, Any]:
    return {"number": task.number, "answer": _function(task.file)(task.job)}


@lru_cache(maxsize=2)
def _function(file: str) -> Callable[[Job], Any]:
    """Read a function once a process; the scratch folder of a spread has a name of its own."""
    with open(file, "rb") as handle:
        return pickle.load(handle)
