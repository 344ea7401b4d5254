"""The tasks of a run: a small frozen spec in, files and a receipt out. They know nothing of Dask."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.areas.area import Area, together
from distcalib.areas.stack import Placing, write_together
from distcalib.errors import RunError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.blocks import write_block
from distcalib.matrix.cells import simulate_columns
from distcalib.matrix.measures import Rows
from distcalib.microdata.model import Microdata
from distcalib.runs.receipts import Receipt, output_digest, verified, write_receipt
from distcalib.simulation.takeup import rates_digest, read_rates
from distcalib.targets.choose import rows_digest

#: The microdata in a run folder: what a trial drew of them, or all where workers see no other file.
MICRODATA = "microdata.h5"


@dataclass(frozen=True)
class Inputs:
    """Where a task finds what it needs, and what it must find there.

    Attributes
    ----------
    run
        The run folder.
    microdata, microdata_digest
        File of the donors and its content digest.
    rows_digest, assignment_digest
        Digests of what targets.parquet and columns.parquet say.
    period, seed, take_up
        As in the run's settings.
    rates_digest
        Of the run's table of take-up rates, ``take_up.csv`` in the run folder; empty where nothing is drawn.
    """

    run: str
    microdata: str
    microdata_digest: str
    rows_digest: str
    assignment_digest: str
    period: int
    seed: int
    take_up: bool
    rates_digest: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what `load_inputs` and `take_up_of` read there."""
        rates = ("take_up.csv",) if self.rates_digest else ()
        return "targets.parquet", "columns.parquet", MICRODATA, *rates


@dataclass(frozen=True)
class SimulateTask:
    """Simulate the columns of one slice and write its block."""

    inputs: Inputs
    id: str
    state_fips: int
    start: int
    stop: int
    stage: str = "simulate"

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what it reads."""
        return self.inputs.needs

    @property
    def place(self) -> str:
        """Words for errors: the state, and which of its columns."""
        return f"{STATE_CODES[self.state_fips]}, columns {self.start} to {self.stop} of the state"


@dataclass(frozen=True)
class AreaTask:
    """Write the files of some areas; each file has a receipt of its own.

    Attributes
    ----------
    areas, receipts
        The areas, and the id of the receipt of each.
    ids
        How units are numbered: ``compact`` or ``ranges``.
    """

    inputs: Inputs
    id: str
    areas: tuple[Area, ...]
    receipts: tuple[str, ...]
    ids: str = "compact"
    stage: str = "areas"

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what it reads."""
        return *self.inputs.needs, *sorted({area.weights for area in self.areas})

    @property
    def place(self) -> str:
        """Words for errors: the names of the areas."""
        return ", ".join(area.name for area in self.areas)


def finished(function: Callable[[Any], tuple[list[str], dict[str, Any]]]) -> Callable[[Any], dict[str, Any]]:
    """Turn a stage's work into a task: skip it when a receipt verifies, else do it and write the receipt."""

    @wraps(function)
    def run_task(task: Any) -> dict[str, Any]:
        run = Path(task.inputs.run)
        done = verified(run, task.stage, task.id)
        if done is None:
            began, cpu = time.perf_counter(), time.process_time()
            cause = None
            try:
                outputs, facts = function(task)
            except Exception as error:
                cause = _memory_error(error)
                if cause is None:
                    raise
            if cause is not None:
                # A new error, for the one that was caught holds every array of the task.
                raise MemoryError(f"{task.stage} {task.id[:12]}: {cause}")
            digests = {path: output_digest(run, path) for path in outputs}
            lost = [path for path, digest in digests.items() if digest is None]
            if lost:
                raise RunError(f"{task.stage} {task.id[:12]}: {lost[0]} cannot be read back")
            done = Receipt(
                stage=task.stage,
                id=task.id,
                outputs={path: str(digest) for path, digest in digests.items()},
                facts=facts,
                seconds=round(time.perf_counter() - began, 3),
                peak_bytes=_peak_bytes(),
                process=os.getpid(),
                cpu_seconds=round(time.process_time() - cpu, 3),
            )
            write_receipt(run, done)
        return asdict(done)

    return run_task


def _peak_bytes() -> int:
    """Return the peak resident memory of this process, by Linux' own count where there is one.

    ``ru_maxrss`` of a process that was not forked begins with that of the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_error(error: BaseException | None) -> str | None:
    """Return the words of the MemoryError that an error is or comes from, else None."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__
    return None if error is None else str(error) or "out of memory"


@finished
def simulate_slice(task: SimulateTask) -> tuple[list[str], dict[str, Any]]:
    """Simulate a slice exactly where its households were placed, and write the block."""
    source, assignment, rows = load_inputs(task.inputs)
    state_columns = np.flatnonzero(assignment.state_fips == task.state_fips)
    columns = state_columns[task.start : task.stop]
    block = simulate_columns(
        source, assignment, columns, rows, seed=task.inputs.seed, take_up=take_up_of(task.inputs)
    )
    path = f"matrix.zarr/blocks/{task.id}"
    write_block(Path(task.inputs.run) / path, block)
    return [path], {
        "columns": len(columns),
        "nonzeros": int(block.nnz),
        "state_fips": task.state_fips,
        "start": task.start,
        "stop": task.stop,
    }


def write_areas(task: AreaTask) -> dict[str, Any]:
    """Write the datasets and mappings that have no verified receipt, and a receipt of each area.

    Returns
    -------
    dict
        A receipt of all of them together, which is not stored.
    """
    run = Path(task.inputs.run)
    began, cpu = time.perf_counter(), time.process_time()
    ids = dict(zip(task.areas, task.receipts, strict=True))
    done = {area: receipt for area, one in ids.items() if (receipt := verified(run, task.stage, one))}

    def finish(area: Area, facts: dict[str, float]) -> None:
        digests = {path: output_digest(run, path) for path in area.outputs}
        if lost := [path for path, digest in digests.items() if digest is None]:
            raise RunError(f"{area.name}: {lost[0]} cannot be read back")
        outputs = {path: str(digest) for path, digest in digests.items()}
        seconds = round(time.perf_counter() - began, 3)
        done[area] = Receipt(task.stage, ids[area], outputs, {"areas": {area.name: facts}}, seconds)
        write_receipt(run, done[area])

    missing = [area for area in task.areas if area not in done]
    if missing:
        source, assignment, _ = load_inputs(task.inputs)
        placing = Placing(source, assignment, task.inputs.seed, take_up_of(task.inputs), task.ids)
        for whole, districts in together(missing):
            some = districts[0] if whole is None else whole
            weights = np.load(run / some.weights)
            write_together(run, placing, weights, whole, districts, finish)
    receipts = [done[area] for area in task.areas]
    return asdict(
        Receipt(
            stage=task.stage,
            id=task.id,
            outputs={path: digest for r in receipts for path, digest in r.outputs.items()},
            facts={"areas": {name: facts for r in receipts for name, facts in r.facts["areas"].items()}},
            seconds=round(time.perf_counter() - began, 3),
            peak_bytes=_peak_bytes(),
            process=os.getpid(),
            cpu_seconds=round(time.process_time() - cpu, 3),
        )
    )


def load_inputs(inputs: Inputs) -> tuple[Microdata, GeographyAssignment, Rows]:
    """Read donors, placement and rows once a process, and hold them to their digests."""
    run = Path(inputs.run)
    marks = tuple(p.stat().st_mtime_ns for p in (run / "columns.parquet", run / "targets.parquet"))
    return _load(inputs, marks)


@lru_cache(maxsize=2)
def _load(inputs: Inputs, marks: tuple[int, ...]) -> tuple[Microdata, GeographyAssignment, Rows]:
    del marks  # part of the key: another plan in the same folder is another input
    run = Path(inputs.run)
    source = Microdata.read(inputs.microdata, inputs.period)
    if source.digest() != inputs.microdata_digest:
        raise RunError(f"{inputs.microdata} changed after the plan was made; start the run again")
    assignment = read_assignment(run)
    targets = pd.read_parquet(run / "targets.parquet")
    if assignment.digest() != inputs.assignment_digest or rows_digest(targets) != inputs.rows_digest:
        raise RunError(f"{run}: columns.parquet or targets.parquet is not the plan's; start the run again")
    return source, assignment, Rows.of(targets)


def take_up_of(inputs: Inputs) -> bool | pd.DataFrame:
    """Return what `place` takes: False, or the run's rates, held to their digest."""
    if not inputs.take_up:
        return False
    table = read_rates(Path(inputs.run) / "take_up.csv")
    if rates_digest(table) != inputs.rates_digest:
        raise RunError(f"{inputs.run}/take_up.csv is not the plan's; start the run again")
    return table


def read_assignment(run: Path) -> GeographyAssignment:
    """Read the placement of the columns of a run."""
    return GeographyAssignment.from_frame(pd.read_parquet(run / "columns.parquet"))
