"""Jobs that a person waits for: in turn on worker processes, with what they say, and stopped at once.

A run's tasks have receipts and are done again when a worker dies; a job has none and is not. It is a function
and its arguments; it may say how far it is, and its result comes back to who asked.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from distributed import KilledWorker, WorkerPlugin, get_worker

from distcalib.cluster import open_client
from distcalib.config import ClusterConfig
from distcalib.errors import DistcalibError, RunError

Say = Callable[[dict[str, Any]], None]
_TOPIC = "distcalib-jobs"
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


class Job:
    """What became of a job so far; read it from any thread.

    Attributes
    ----------
    state
        ``waiting``, ``running``, and one of ``done``, ``failed`` and ``cancelled`` at the end.
    said
        What its function said, in order; grows.
    result, error
        Once it is done or failed.
    """

    def __init__(self) -> None:
        self.id = uuid4().hex[:12]
        self.state = WAITING
        self.said: list[dict[str, Any]] = []
        self.result: Any = None
        self.error: Exception | None = None
        self.process: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in (DONE, FAILED, CANCELLED)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it died of something else, and nobody has been told yet
        os.kill(process, signal.SIGKILL)


class Jobs:
    """A queue of jobs over the worker processes of a client, first come, first served.

    No more is handed out than there are workers, so that a worker that is stopped has no other's job.
    """

    def __init__(self, client: Any, workers: int) -> None:
        self.client, self.workers = client, workers
        self._waiting: deque[tuple[Job, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._running: dict[str, Job] = {}
        self._lock = threading.RLock()
        client.subscribe_topic(_TOPIC, self._heard)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Let a worker call ``function(*arguments, say=...)`` as soon as one is free."""
        job = Job()
        with self._lock:
            self._waiting.append((job, function, arguments))
            self._hand_out()
        return job

    def ahead(self, job: Job) -> int:
        """Return how many jobs must end before this one begins: 0 where it has begun."""
        with self._lock:
            place = next((i for i, (one, *_) in enumerate(self._waiting) if one is job), None)
            return 0 if place is None else place + len(self._running) - self.workers + 1

    def cancel(self, job: Job) -> None:
        """End a job: one that waits is forgotten, the process of one that runs is killed and replaced."""
        with self._lock:
            if job.ended:
                return
            job.state = CANCELLED
            self._waiting = deque(one for one in self._waiting if one[0] is not job)
            if job.id in self._running and job.process is not None:
                _kill(job.process)

    def _hand_out(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            job, function, arguments = self._waiting.popleft()
            self._running[job.id] = job
            future = self.client.submit(_work, job.id, function, arguments, key=f"job-{job.id}", pure=False)
            future.add_done_callback(lambda future, job=job: self._ended(job, future))

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        said = dict(event[1])
        with self._lock:
            job = self._running.get(said.pop("job"))
            if job is None:
                return
            if "process" in said:
                job.process = said["process"]
                if job.state == CANCELLED:
                    _kill(job.process)
                else:
                    job.state = RUNNING
            elif job.state == RUNNING:
                job.said.append(said)

    def _ended(self, job: Job, future: Any) -> None:
        result, error, died = None, None, False
        try:
            result, error = future.result(timeout=10)
        except KilledWorker:
            died, error = True, RunError("its worker process died; did it run out of memory?")
        except Exception as raised:
            error = RunError((str(raised) or type(raised).__name__).splitlines()[0])
        with self._lock:
            if job.state != CANCELLED:
                job.result, job.error = result, error
                job.state = DONE if error is None else FAILED
        if died:
            threading.Thread(target=self._replaced, args=(job,), daemon=True).start()
        else:
            self._free(job)

    def _replaced(self, job: Job) -> None:
        # Before there is another worker, Dask would put the next job behind one that runs, and lose it with
        # that one's worker.
        with suppress(Exception):  # the client is closed: nothing waits any more
            self.client.wait_for_workers(self.workers, timeout=120)
        self._free(job)

    def _free(self, job: Job) -> None:
        with self._lock:
            self._running.pop(job.id, None)
            if self.client.status == "running":
                self._hand_out()


def _work(
    job: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, DistcalibError | None]:
    worker = get_worker()
    worker.log_event(_TOPIC, {"job": job, "process": os.getpid()})
    try:
        return function(*arguments, say=lambda said: worker.log_event(_TOPIC, {"job": job, **said})), None
    except (
        DistcalibError
    ) as error:  # one that explains itself is an answer: Dask would log it with a traceback
        return None, error


@contextmanager
def open_jobs(workers: int, memory: str) -> Iterator[Jobs]:
    """Start so many worker processes on this machine, each with so much memory; end them afterwards."""
    config = ClusterConfig(workers=workers, memory_limit=memory, warm=False)
    log = logging.getLogger("distributed.scheduler")
    before = log.level
    with open_client(config) as client:
        log.setLevel(logging.CRITICAL)  # the death of a worker is told by the job whose it was
        client.register_plugin(_LeaveCtrlC())
        try:
            yield Jobs(client, workers)
        finally:
            log.setLevel(before)


class _LeaveCtrlC(WorkerPlugin):
    """A terminal sends Ctrl-C to workers too; the process that started them ends them in order."""

    name = "leave-ctrl-c"

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
