"""Executors: they take tasks and give results in the order of completion. Each knows one way of running."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

from distcalib.errors import DistcalibError, InputError, RunError

Result = dict[str, Any]

# What to run in place of a task that died of memory, given the task and how it died.
Instead = Callable[[Any, str], Sequence[Any]]

# How many workers may die of a task before something else runs in its place, and before the run ends. A
# slice in halves costs two seconds more than the whole; another death costs what the slice takes to fill the
# memory, and one may come from outside. Splitting an innocent changes no digest; ending its run is dear.
DEATHS_INSTEAD, DEATHS = 2, 4


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

        The error names the task, its place (state and slice) and the cause; an `InputError` stays one. A
        task that raises MemoryError, or whose workers die again and again, is replaced by the tasks that
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
            except Exception as error:
                raise _failure(task, error) from error
            else:
                yield result
                continue
            # Outside of the handler, for the error holds what the task had in memory.
            waiting.extendleft(reversed(_replacements(task, why, instead)))


class DaskExecutor:
    """Tasks on the workers of a Dask cluster.

    A task whose worker dies is run again (`DEATHS_INSTEAD`, `DEATHS`); a task that raises is not, because it
    would raise again. Results are receipts, so nothing of value lives in the cluster.

    No more tasks are handed out than the workers that are there have threads. Dask blames every task that
    waits on a worker for its death, so one that waited there would be taken for the cause. For the same
    reason deaths are counted here and the cluster allows none: Dask would move the task at once to a worker
    that is busy with another, or keep it where the next one is put behind it.

    Parameters
    ----------
    client
        A `distributed.Client`.
    through
        Runs on the worker in place of each task's function and is given it: ``through(function, task)``.
    retried
        Called with a task that is begun again because its worker died, and how often that happened.
    """

    def __init__(
        self,
        client: Any,
        through: Callable[..., Result] | None = None,
        retried: Callable[[Any, int], None] = lambda task, deaths: None,
    ) -> None:
        self.client, self.through, self.retried = client, through, retried

    def run(
        self,
        function: Callable[[Any], Result],
        tasks: Sequence[Any],
        resource: str | None = None,
        instead: Instead | None = None,
    ) -> Iterator[Result]:
        """See `Executor`; tasks start in the order given."""
        from distributed import KilledWorker

        wanted = {resource: 1} if resource else None
        work = function if self.through is None else partial(self.through, function)
        waiting = deque(tasks)
        running: dict[str, tuple[Any, Any]] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        # A cluster that serves several runs may remember how a task of the same id ended in another.
        this = uuid4().hex[:8]
        deaths: Counter[str] = Counter()
        try:
            while waiting or running:
                threads = max(1, sum(self.client.nthreads().values()))
                if self.client.cluster is not None:
                    # A cluster that grows and shrinks does so by this (`distcalib.cluster.slurm.Demand`).
                    self.client.cluster.open_tasks = len(waiting) + len(running)
                while waiting and len(running) < threads:
                    task = waiting.popleft()
                    key = f"{task.stage}-{task.id}-{this}-{deaths[task.id]}"
                    future = self.client.submit(work, task, key=key, resources=wanted, pure=False)
                    running[key] = future, task
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=1)
                except Empty:
                    continue  # a worker may have joined, or come back
                _, task = running.pop(future.key)
                try:
                    result = future.result()
                except KilledWorker as error:
                    deaths[task.id] += error.allowed_failures + 1
                    if deaths[task.id] < (DEATHS if instead is None else DEATHS_INSTEAD):
                        waiting.appendleft(task)
                        self.retried(task, deaths[task.id])
                        continue
                    why = (
                        f"{deaths[task.id]} workers that ran it died (out of memory?), "
                        f"the last of them {error.last_worker.address}"
                    )
                except MemoryError as error:
                    why = f"MemoryError: {error}"
                except Exception as error:
                    raise _failure(task, error) from error
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


def _failure(task: Any, error: Exception) -> DistcalibError:
    """Return the error that names the task and where it was, and says what an error says."""
    if isinstance(error, InputError):
        return InputError(f"{_words(task)}: {error}")
    cause = str(error) if isinstance(error, DistcalibError) else f"{type(error).__name__}: {error}"
    return RunError(f"{_words(task)}: {cause}")


def _words(task: Any) -> str:
    place = getattr(task, "place", "")
    return f"{task.stage} {task.id[:12]}" + (f" ({place})" if place else "")
