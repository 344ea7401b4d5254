"""Executors: they take tasks and give results in the order of completion. Each knows one way of running."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from distcalib.errors import DistcalibError, RunError

Result = dict[str, Any]

# What to run in place of a task that died of memory, given the task and how it died.
Instead = Callable[[Any, str], Sequence[Any]]


class Executor(Protocol):
    """Runs tasks."""

    def run(
        self,
        function: Callable[[Any], Result],
        tasks: Sequence[Any],
        resource: str | None = None,
        instead: Instead | None = None,
    ) -> Iterator[Result]:
        """Yield the result of every task as it finishes; raise `RunError` for the first that cannot.

        A task that raises MemoryError, or whose workers die again and again, is replaced by the tasks that
        `instead` gives, which go first; without `instead` it raises `RunError` like any other.
        """
        ...


class SerialExecutor:
    """One task after the other in this process: for debugging, and for tests of pure logic."""

    def run(
        self,
        function: Callable[[Any], Result],
        tasks: Sequence[Any],
        resource: str | None = None,
        instead: Instead | None = None,
    ) -> Iterator[Result]:
        """See `Executor`."""
        del resource
        waiting = deque(tasks)
        while waiting:
            task = waiting.popleft()
            try:
                result = function(task)
            except MemoryError as error:
                why = f"MemoryError: {error}"
            else:
                yield result
                continue
            # Outside of the handler, for the error holds what the task had in memory.
            waiting.extendleft(reversed(_replacements(task, why, instead)))


class DaskExecutor:
    """Tasks on the workers of a Dask cluster.

    A task whose worker dies is run again elsewhere by Dask (three deaths are allowed); a task that raises is
    not, because it would raise again. Results are receipts, so nothing of value lives in the cluster.

    No more tasks are handed out than workers have threads. Dask blames every task that waits on a worker for
    its death, so one that waited there would be taken for the cause.

    Parameters
    ----------
    client
        A `distributed.Client`.
    through
        Runs on the worker in place of each task's function and is given it: ``through(function, task)``.
    """

    def __init__(self, client: Any, through: Callable[..., Result] | None = None) -> None:
        self.client, self.through = client, through

    def run(
        self,
        function: Callable[[Any], Result],
        tasks: Sequence[Any],
        resource: str | None = None,
        instead: Instead | None = None,
    ) -> Iterator[Result]:
        """See `Executor`; tasks start in the order given."""
        from distributed import KilledWorker, as_completed

        wanted = {resource: 1} if resource else None
        work = function if self.through is None else partial(self.through, function)
        waiting = deque(tasks)
        running: dict[str, tuple[Any, Any]] = {}
        completed = as_completed(loop=self.client.loop)
        try:
            while waiting or running:
                threads = max(1, sum(self.client.nthreads().values()))
                while waiting and len(running) < threads:
                    task = waiting.popleft()
                    key = f"{task.stage}-{task.id}"
                    future = self.client.submit(work, task, key=key, resources=wanted, pure=False)
                    running[key] = future, task
                    completed.add(future)
                future = next(completed)
                _, task = running.pop(future.key)
                try:
                    result = future.result()
                except KilledWorker as error:
                    why = f"every worker that ran it died (out of memory?): {error}"
                except MemoryError as error:
                    why = f"MemoryError: {error}"
                except DistcalibError:
                    raise
                except Exception as error:
                    raise RunError(f"{_words(task)}: {type(error).__name__}: {error}") from error
                else:
                    yield result
                    continue
                waiting.extendleft(reversed(_replacements(task, why, instead)))
        finally:
            self.client.cancel([future for future, _ in running.values()])


def _replacements(task: Any, why: str, instead: Instead | None) -> Sequence[Any]:
    if instead is None:
        raise RunError(f"{_words(task)}: {why}")
    return instead(task, why)


def _words(task: Any) -> str:
    return f"{task.stage} {task.id[:12]}"


def choose_resource(client: Any) -> str:
    """Return the resource that the fit asks for: GPU if any worker has one, else FIT."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return "GPU" if any(w.get("resources", {}).get("GPU") for w in workers) else "FIT"
