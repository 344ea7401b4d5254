"""Executors: they take tasks and give results in the order of completion. Each knows one way of running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from distcalib.errors import DistcalibError, RunError

Result = dict[str, Any]


class Executor(Protocol):
    """Runs tasks."""

    def run(
        self, function: Callable[[Any], Result], tasks: Sequence[Any], resource: str | None = None
    ) -> Iterator[Result]:
        """Yield the result of every task as it finishes; raise `RunError` for the first that cannot."""
        ...


class SerialExecutor:
    """One task after the other in this process: for debugging, and for tests of pure logic."""

    def run(
        self, function: Callable[[Any], Result], tasks: Sequence[Any], resource: str | None = None
    ) -> Iterator[Result]:
        """See `Executor`."""
        del resource
        for task in tasks:
            yield function(task)


class DaskExecutor:
    """Tasks on the workers of a Dask cluster.

    A task whose worker dies is run again elsewhere by Dask (three deaths are allowed); a task that raises is
    not, because it would raise again. Results are receipts, so nothing of value lives in the cluster.

    Parameters
    ----------
    client
        A `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(
        self, function: Callable[[Any], Result], tasks: Sequence[Any], resource: str | None = None
    ) -> Iterator[Result]:
        """See `Executor`; tasks start in the order given."""
        from distributed import KilledWorker, as_completed

        wanted = {resource: 1} if resource else None
        futures = [
            self.client.submit(
                function, task, key=f"{task.stage}-{task.id}", resources=wanted, pure=False, priority=-i
            )
            for i, task in enumerate(tasks)
        ]
        words = {f.key: f"{t.stage} {t.id[:12]}" for f, t in zip(futures, tasks, strict=True)}
        try:
            for future in as_completed(futures, loop=self.client.loop):
                try:
                    yield future.result()
                except KilledWorker as error:
                    raise RunError(
                        f"{words[future.key]}: every worker that ran it died (out of memory?): {error}"
                    ) from error
                except DistcalibError:
                    raise
                except Exception as error:
                    raise RunError(f"{words[future.key]}: {type(error).__name__}: {error}") from error
        finally:
            self.client.cancel(futures)


def choose_resource(client: Any) -> str:
    """Return the resource that the fit asks for: GPU if any worker has one, else FIT."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return "GPU" if any(w.get("resources", {}).get("GPU") for w in workers) else "FIT"
