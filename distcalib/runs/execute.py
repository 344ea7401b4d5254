"""Executors: they take tasks and give results in the order of completion. Each knows one way of running."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

from distcalib.errors import DistcalibError, InputError, RunError
from distcalib.runs.saying import heard_by
from distcalib.storage import passing

Result = dict[str, Any]

# Takes a task and what it says while it runs.
Said = Callable[[Any, dict[str, Any]], None]

# What to run in place of a task that died of memory, given the task and how it died.
Instead = Callable[[Any, str], Sequence[Any]]

# How many workers may die of a task before something else runs in its place, and before the run ends. A
# slice in halves costs two seconds more than the whole; another death costs what the slice takes to fill the
# memory, and one may come from outside. Splitting an innocent changes no digest; ending its run is dear.
DEATHS_INSTEAD, DEATHS = 2, 4
# Where workers die of other things too, a run ends only at so many deaths of a task that chance explains them
# less often than this.
CHANCE = 1e-5
# How often a task is run in all that storage fails for a reason that may pass.
TRIES = 3
# How many workers may leave, as they do before the end of their jobs, while they do one and the same task.
BEGINS = 6
# Seconds in which a scheduler says which workers it has, before it is asked again.
ANSWER = 10
# Seconds for which tasks go together, and how many at most.
PACK_SECONDS, PACKED = 1.0, 32


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
        `instead` gives, which go first; without `instead` it raises `RunError` like any other. One that
        storage fails for a reason that may pass (`distcalib.storage.passing`) is run `TRIES` times.
        """
        ...


def _nobody(task: Any, facts: dict[str, Any]) -> None:
    """Listen to nothing."""


class SerialExecutor:
    """One task after the other in this process: for debugging, and for tests of pure logic.

    Parameters
    ----------
    said
        Called with a task and what it says while it runs (`distcalib.runs.saying`).
    """

    def __init__(self, said: Said = _nobody) -> None:
        self.said = said

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
        tries: Counter[str] = Counter()
        while waiting:
            task = waiting.popleft()
            try:
                with heard_by(partial(self.said, task)):
                    result = function(task)
            except MemoryError as error:
                why = f"MemoryError: {error}"
            except Exception as error:
                tries[task.id] += 1
                if not passing(error) or tries[task.id] == TRIES:
                    raise _failure(task, error) from error
                waiting.append(task)  # last, so that storage has time to come back
                continue
            else:
                yield result
                continue
            # Outside of the handler, for the error holds what the task had in memory.
            waiting.extendleft(reversed(_replacements(task, why, instead)))


class DaskExecutor:
    """Tasks on the workers of a Dask cluster.

    A task whose worker dies is run again (`DEATHS_INSTEAD`, `DEATHS`); a task that raises is not, because it
    would raise again, unless storage failed it (`TRIES`). Results are receipts, so nothing of value lives in
    the cluster.

    No more is handed out than the workers that are there have threads, or units of a resource. Dask blames
    every task that waits on a worker for its death, so one that waited there would be taken for the cause.
    For the same reason deaths are counted here and the cluster allows none: Dask would move the task at once
    to a worker that is busy with another, or keep it where the next one is put behind it.

    Short tasks go in packs, since handing out would cost more than they do. The death of a pack is
    held against nobody: its tasks are handed out again, each alone.

    Parameters
    ----------
    client
        A `distributed.Client`.
    through
        Runs on the worker in place of each task's function and is given it: ``through(function, task)``.
    retried
        Called with a task that is begun again because its worker died, and how often that happened.
    known
        Of tasks that were finished, so that nothing was wrong with them: how often they were begun, and how
        often their worker died.
    said
        Called with a task and what it says while it runs (`distcalib.runs.saying`), in another thread.
    wait
        Seconds of silence after which a scheduler that is connected is taken for gone.
    """

    def __init__(
        self,
        client: Any,
        through: Callable[..., Result] | None = None,
        retried: Callable[[Any, int], None] = lambda task, deaths: None,
        known: tuple[int, int] = (0, 0),
        said: Said = _nobody,
        wait: float = 300,
    ) -> None:
        self.client, self.through, self.retried, self.said = client, through, retried, said
        self._begun, self._died = known
        self.wait, self._silent = wait, 0.0

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
        waiting, alone, packed = deque(tasks), set[str](), 1
        running: dict[str, tuple[Any, list[Any], float]] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        # A cluster that serves several runs may remember how a task of the same id ended in another.
        this, number = uuid4().hex[:8], count()
        deaths: Counter[str] = Counter()
        tries: Counter[str] = Counter()
        begins: Counter[str] = Counter()
        by_id = {task.id: task for task in tasks}

        def hear(event: tuple[float, Any]) -> None:
            # Dask adds the worker that spoke. What is wrong with the one who listens shows elsewhere; a
            # word is not worth a run.
            said = event[1]
            if "begun" in said:
                begins[said["begun"]] += 1
            elif said["id"] in by_id:
                with suppress(Exception):
                    self.said(by_id[said["id"]], said["facts"])

        topic = f"distcalib-{this}"
        work = partial(_aloud, topic, work)
        self.client.subscribe_topic(topic, hear)
        try:
            while waiting or running:
                threads = self._threads(resource)
                if often := [key for key in running if begins[key] > BEGINS]:
                    raise _never_done(running[often[0]][1][0], begins[often[0]])
                if self.client.cluster is not None:
                    # A cluster that grows and shrinks does so by this (`distcalib.cluster.slurm.Demand`).
                    held = sum(len(pack) for _, pack, _ in running.values())
                    self.client.cluster.open_tasks = len(waiting) + held
                while waiting and len(running) < threads:
                    # Where few are left, they are for all workers.
                    pack = _pack(waiting, alone, 1 if resource else min(packed, len(waiting) // threads))
                    key = f"{pack[0].stage}-{pack[0].id}-{this}-{next(number)}"
                    call = (work, pack[0]) if len(pack) == 1 else (_several, work, pack)
                    call = (_begin, topic, key, *call)
                    future = self.client.submit(*call, key=key, resources=wanted, pure=False)
                    running[key] = future, pack, time.monotonic()
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=1)
                except Empty:
                    continue  # a worker may have joined, or come back
                _, pack, began = running.pop(future.key)
                results, why, failure = [], "", None
                try:
                    result = future.result()
                    results, failure = ([result], None) if len(pack) == 1 else result
                except KilledWorker as error:
                    alone.update(task.id for task in pack)
                    if len(pack) > 1:
                        waiting.extendleft(reversed(pack))
                        continue
                    mine = pack[0].id
                    deaths[mine] += error.allowed_failures + 1
                    if deaths[mine] < (self._too_many() if instead is None else DEATHS_INSTEAD):
                        waiting.extendleft(pack)
                        self.retried(pack[0], deaths[mine])
                        continue
                    why = (
                        f"{deaths[mine]} workers that ran it died (out of memory?), "
                        f"the last of them {error.last_worker.address}"
                    )
                except CancelledError:
                    raise self._gone() from None
                except Exception as error:
                    failure = error
                if len(pack) == packed:
                    packed = _next_size(packed, time.monotonic() - began)
                for task, result in zip(pack, results, strict=False):
                    self._begun += deaths[task.id] + 1
                    self._died += deaths[task.id]
                    yield result
                if len(results) == len(pack):
                    continue
                task, rest = pack[len(results)], pack[len(results) + 1 :]
                waiting.extendleft(reversed(rest))
                if failure is not None and not isinstance(failure, MemoryError):
                    tries[task.id] += 1
                    if not passing(failure) or tries[task.id] == TRIES:
                        raise _failure(task, failure) from failure
                    waiting.append(task)  # last, so that storage has time to come back
                    continue
                parts = _replacements(task, why or f"MemoryError: {failure}", instead)
                alone.update(part.id for part in parts)
                waiting.extendleft(reversed(parts))
        finally:
            if self.client.status == "running":
                self.client.unsubscribe_topic(topic)
                self.client.cancel([future for future, _, _ in running.values()])

    def _threads(self, resource: str | None) -> int:
        """Return how many tasks the workers that are there now can do at once; 0 while nobody says.

        That is a task a thread, or one for each unit of `resource`.
        """
        if self.client.status != "running":
            raise self._gone()
        asked = time.monotonic()
        try:
            # As `Client.nthreads` and `scheduler_info`, which would wait for a scheduler that is gone.
            if resource is None:
                said = self.client.sync(self.client.scheduler.ncores, workers=None, callback_timeout=ANSWER)
            else:
                ask = self.client.scheduler.identity
                told = self.client.sync(ask, n_workers=-1, callback_timeout=ANSWER)["workers"]
                said = {a: min(w["nthreads"], w["resources"].get(resource, 0)) for a, w in told.items()}
        except OSError:
            # Where this process itself was stopped meanwhile, that was no silence of the scheduler.
            self._silent += min(time.monotonic() - asked, ANSWER)
            if self._silent > self.wait:
                raise self._gone() from None
            return 0
        self._silent = 0.0
        return max(1, int(sum(said.values())))

    def _gone(self) -> RunError:
        how = "is gone" if self._silent <= self.wait else f"said nothing for {self._silent:.0f} s"
        return RunError(
            f"the scheduler {self.client.scheduler.address} {how}: what was finished stays, and the same "
            "command goes on from there once a scheduler can be joined"
        )

    def _too_many(self) -> int:
        """Return how many deaths a task is blamed for: more than chance explains where others die too."""
        rate = min(self._died / self._begun, 0.5) if self._begun else 0.0
        return max(DEATHS, math.ceil(math.log(CHANCE) / math.log(rate))) if rate else DEATHS


def _begin(topic: str, key: str, work: Callable[..., Any], *args: Any) -> Any:
    """Say that a call is begun on this worker, and carry it out."""
    from distributed import get_worker

    get_worker().log_event(topic, {"begun": key})
    return work(*args)


def _never_done(task: Any, begun: int) -> RunError:
    return RunError(
        f"{_words(task)}: was begun {begun} times and never done, for its workers left before: the life of "
        "their jobs (a walltime) is shorter than the task takes. Make it longer; what was finished stays, "
        "and the same command goes on from there"
    )


def _aloud(topic: str, work: Callable[[Any], Result], task: Any) -> Result:
    """Run a task on a worker whose scheduler passes on what it says."""
    from distributed import get_worker

    worker = get_worker()

    def pass_on(facts: dict[str, Any]) -> None:
        worker.log_event(topic, {"facts": facts, "id": task.id})

    with heard_by(pass_on):
        return work(task)


def _pack(waiting: deque[Any], alone: set[str], most: int) -> list[Any]:
    """Take the next task, and those after it that may go with it."""
    pack = [waiting.popleft()]
    while len(pack) < most and waiting and not {pack[0].id, waiting[0].id} & alone:
        pack.append(waiting.popleft())
    return pack


def _next_size(packed: int, seconds: float) -> int:
    """Return how many tasks go together after so many took so long."""
    if seconds > PACK_SECONDS:
        return max(1, packed // 2)
    return min(2 * packed, PACKED) if seconds < PACK_SECONDS / 2 else packed


def _several(work: Callable[[Any], Result], tasks: Sequence[Any]) -> tuple[list[Result], Exception | None]:
    """Run tasks one after the other; return results up to the first that fails, and its error."""
    done: list[Result] = []
    for task in tasks:
        try:
            done.append(work(task))
        except Exception as error:
            # Without what its frames hold: it is a result that stays on the worker.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return done, error
    return done, None


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
