"""What a task costs beside its own work: plan, receipts, events, scheduler; and a resume of what is finished.

    python benchmarks/overhead.py [--tasks 5000] [--workers 2] [--resume 1000]

A real plan with that many slices is carried out by `Run` up to the stage `simulate`, in worker processes,
with its receipts and events on disk; only the simulation itself is replaced, by one that writes some bytes.
The parts of the table are run alone: `in this process` is the same stage without Dask (kind: serial),
`without fsync` the same where a flush to the disk does nothing, `Dask alone` the executor with tasks that
write nothing. Resuming takes up a folder whose tasks all have receipts: `files` are as here, `blocks` are
sparse matrices as a simulation leaves them. Seconds are wall and CPU seconds; the scheduler of a local
cluster is a thread of the coordinator.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cluster.local import local_client
from distcalib.runs import run as run_module
from distcalib.runs.execute import DaskExecutor
from distcalib.runs.plan import Prepared
from distcalib.runs.receipts import Receipt
from distcalib.runs.tasks import SimulateTask, finished
from distcalib.storage import publish


@finished
def trivial(task: SimulateTask) -> tuple[list[str], dict[str, Any]]:
    """A task that writes a small file."""
    path = f"matrix/{task.id}"
    publish(Path(task.inputs.run) / path, lambda p: p.write_text(task.place, encoding="utf-8"))
    return [path], {"columns": task.stop - task.start}


@finished
def block(task: SimulateTask) -> tuple[list[str], dict[str, Any]]:
    """A task that writes a small sparse block."""
    from scipy import sparse

    from distcalib.matrix.blocks import write_block

    path = f"matrix.zarr/blocks/{task.id}"
    rows = np.arange(5000) % 2  # every second row has a value
    made = sparse.csr_array((np.ones(2500), np.arange(2500), np.r_[0, np.cumsum(rows)]), shape=(5000, 30_000))
    write_block(Path(task.inputs.run) / path, made)
    return [path], {"columns": task.stop - task.start}


def nothing(task: SimulateTask) -> dict[str, Any]:
    return {"stage": task.stage, "id": task.id, "outputs": {}}


def prepared(tasks: int, folder: Path) -> tuple[Run, Prepared]:
    """Return a run of the nation's districts that is cut into about so many slices, and its plan."""
    config = RunConfig.load("demo").changed(households=min(12_000, 25 * tasks))
    config = config.changed(fit=replace(config.fit, records=None))
    size = max(1, round(config.households * config.n_clones / tasks))  # type: ignore[operator]
    config = config.changed(simulation=replace(config.simulation, slice_households=size))
    run = Run(config, folder, ClusterConfig(kind="serial"))
    return run, run.prepare()


class Clock:
    """Wall seconds, and CPU seconds of this process's threads and of its children, since it was made."""

    def __init__(self) -> None:
        self.began, self.main, self.all, self.children = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        me = psutil.Process()
        children = 0.0
        for child in me.children(recursive=True):
            times = child.cpu_times()
            children += times.user + times.system
        return time.perf_counter(), time.thread_time(), time.process_time(), children

    def read(self) -> dict[str, float]:
        """Return the seconds of all: wall, coordinator, scheduler (its other threads), workers."""
        wall, main, everything, children = self._now()
        own = main - self.main
        return {
            "wall": wall - self.began,
            "coordinator": own,
            "scheduler": everything - self.all - own,
            "workers": children - self.children,
        }


@contextmanager
def lent(client: Any, function: Callable[..., Any] | None) -> Iterator[None]:
    """Let runs use these workers, or none, and this function for a simulation."""
    real, start = run_module.simulate_slice, Run._start_executor
    if function is not None:
        run_module.simulate_slice = function
    if client is not None:
        Run._start_executor = lambda self: DaskExecutor(client)  # type: ignore[method-assign]
    try:
        yield
    finally:
        run_module.simulate_slice, Run._start_executor = real, start  # type: ignore[method-assign]


def timed(tasks: int, what: Callable[[], object]) -> dict[str, float]:
    clock = Clock()
    what()
    return {"tasks": tasks} | clock.read()


def show(name: str, said: dict[str, float]) -> None:
    rate = said["tasks"] / said["wall"]
    ms = 1000 / said["tasks"]
    print(
        f"{name:34}{said['tasks']:8.0f}{said['wall']:9.1f}{rate:10.0f}"
        + "".join(f"{said[part] * ms:12.2f}" for part in ("coordinator", "scheduler", "workers")),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--resume", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{options.workers} workers, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
    )
    heads = ("coordinator", "scheduler", "workers")
    print(f"{'':34}{'tasks':>8}{'wall s':>9}{'tasks/s':>10}" + "".join(f"{head:>12}" for head in heads))
    print(f"{'':34}{'':27}{'CPU ms a task, each':>36}")
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        home = Path(scratch)
        run, plan = prepared(options.tasks, home / "all")
        n = len(plan.plan.slices)
        with local_client(ClusterConfig(workers=options.workers, warm=False)) as client:
            client.run(lambda: __import__("distcalib.runs.tasks"))
            with lent(client, trivial):
                show("a run", timed(n, partial(run.execute, plan, until="simulate")))
                inputs = run._inputs(plan.plan)
                tasks = [SimulateTask(inputs, s.id, s.state_fips, s.start, s.stop) for s in plan.plan.slices]
                executor = DaskExecutor(client)
                show("Dask alone", timed(n, partial(deque, executor.run(nothing, tasks), 0)))
        with lent(None, trivial):
            for name, flush in (("in this process", os.fsync), ("without fsync", lambda _: None)):
                real, os.fsync = os.fsync, flush  # type: ignore[assignment]
                try:
                    alone, _ = prepared(options.tasks, home / name)
                    show(name, timed(n, partial(alone.execute, plan, until="simulate")))
                finally:
                    os.fsync = real
        show("events", timed(n, partial(events, n, home)))
        for name, function in (("resume, files", trivial), ("resume, blocks", block)):
            again, plan = prepared(options.resume, home / name)
            with lent(None, function):
                again.execute(plan, until="simulate")
                n = len(plan.plan.slices)
                show(name, timed(n, partial(again.execute, until="simulate")))


def events(n: int, folder: Path) -> None:
    from distcalib.runs.events import Events

    stream = Events(folder / "events.ndjson")
    receipt = Receipt("simulate", "0" * 64, {})
    for _ in range(n):
        stream.emit("task", stage="simulate", id=receipt.id, seconds=1.0, peak_bytes=1, place="NH")


if __name__ == "__main__":
    sys.exit(main())
