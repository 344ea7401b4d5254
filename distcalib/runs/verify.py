"""Prove that the files give what the matrix promised: open them as a user does, recompute every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.areas.area import Area, kept
from distcalib.areas.filters import Condition, inside
from distcalib.catalogue import COUNTS, OF_THE_WHOLE_FILE, catalogue
from distcalib.config import RunConfig
from distcalib.errors import InputError, RunError
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.measures import Measure, Rows, evaluate
from distcalib.microdata.hdf5_slice import Layout, column_of, layout_of, require_part
from distcalib.microdata.model import Microdata
from distcalib.microdata.plausible import require_plausible
from distcalib.runs.tasks import Inputs, finished, load_inputs
from distcalib.simulation.engine import open_slice
from distcalib.storage import publish, sha256_file

#: Households that are summed together. Sums of these are added in one order, so that no total depends on how
#: files are cut; slices are whole multiples of it.
TOGETHER = 200
#: Counts that every table of areas has.
COUNTED = ("household_count", "person_count")


@dataclass(frozen=True)
class Slice:
    """Neighbouring households of one state in a file.

    Attributes
    ----------
    file
        Path below the run folder.
    fit
        Name of the further fit that it is of; empty: of the first.
    state
        FIPS code. One state a simulation: else every state's rules would run.
    begin
        Position in the file of the state's first household; negative in a district's file, which begins
        with a later one.
    first, last
        Households of the state, counted from `begin`. A state is cut at multiples of `TOGETHER`.
    plain
        Open it once more with nothing spared, and hold the values to be equal bit for bit.
    """

    file: str
    fit: str
    state: int
    begin: int
    first: int
    last: int
    plain: bool = False


@dataclass(frozen=True)
class ProveTask:
    """Recompute measures from slices of files.

    Attributes
    ----------
    inputs, id
        Where the run is; digest of everything that the result depends on.
    slices
        What to open, one after the other.
    totals
        Variables that are summed besides the targets' measures.
    others
        Named areas that get totals of their own.
    """

    inputs: Inputs
    id: str
    slices: tuple[Slice, ...]
    totals: tuple[str, ...] = ()
    others: tuple[Area, ...] = ()
    stage: str = "verify"

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what it reads."""
        return "targets.parquet", *sorted({one.file for one in self.slices})

    @property
    def place(self) -> str:
        """Words for errors: the states and files."""
        return ", ".join(f"{STATE_CODES[s.state]} in {s.file}" for s in self.slices[:4])


@dataclass(frozen=True)
class Held:
    """A file that is checked by itself, and held against the files that it is made of.

    Attributes
    ----------
    area
        What it covers.
    sha256
        Of the file as it was written.
    households
        How many it must have.
    within
        Other files of the same households: each with the position here of the first that it has, and the
        positions there (first, behind the last); None for an area cut by a filter, where the placement says.
    same_ids
        Whether a unit has the same id in every file.
    beside
        sha256 of each file of `within`, as it was written.
    """

    area: Area
    sha256: str
    households: int
    within: tuple[tuple[Area, int, tuple[int, int] | None], ...] = ()
    same_ids: bool = True
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckTask:
    """Check the structure of some files, and that each is a part of those that hold the same households."""

    inputs: Inputs
    id: str
    files: tuple[Held, ...]
    stage: str = "verify"

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what it reads."""
        beside = [(area, there) for held in self.files for area, _, there in held.within]
        placed = {area.weights for area, there in beside if there is None}
        files = {held.area.file for held in self.files} | {area.file for area, _ in beside}
        return *sorted(files | placed), *(self.inputs.needs if placed else ())

    @property
    def place(self) -> str:
        """Words for errors: the files."""
        return ", ".join(held.area.file for held in self.files[:4])


def measures_of(rows: Rows, totals: Sequence[str]) -> list[Measure]:
    """Return the measures of a proof: those of the targets, then each total that is none of them."""
    more = [Measure(name) for name in dict.fromkeys((*COUNTED, *totals))]
    return [*rows.measures, *(m for m in more if m not in rows.measures)]


def check_totals(run: RunConfig) -> None:
    """Raise `InputError` where ``verify.totals`` names what cannot be summed household by household."""
    place = f"{run.file}: verify.totals"
    for name in run.verify.totals:
        if name in COUNTS:
            continue
        found = catalogue().get(name, place=place)
        if found.value_type not in ("float", "int", "bool"):
            raise InputError("is no amount", place=place, value=name, expected="a numeric variable")
        if name in OF_THE_WHOLE_FILE:
            raise InputError(
                "depends on everybody else in a file", place=place, value=name,
                expected="a variable of each household by itself",
            )  # fmt: skip


@finished
def prove(task: ProveTask) -> tuple[list[str], dict[str, Any]]:
    """Open slices of files with Microsimulation and write the sums of every measure.

    Written is a long table: fit, state_fips, cd_geoid, part (number of the `TOGETHER` households of the
    state), area (name of a named area, else empty), measure (number), total (float64), nonzero and
    households (records).
    """
    run = Path(task.inputs.run)
    rows = Rows.of(pd.read_parquet(run / "targets.parquet"))
    measures = measures_of(rows, task.totals)
    tables = [_sums(one, task, rows, measures) for one in task.slices]
    path = f"verify/parts/{task.id[:20]}.parquet"
    table = pd.concat(tables, ignore_index=True)
    publish(run / path, lambda p: table.to_parquet(p, index=False))
    return [path], {"households": int(sum(s.last - s.first for s in task.slices))}


def _sums(one: Slice, task: ProveTask, rows: Rows, measures: list[Measure]) -> pd.DataFrame:
    path = Path(task.inputs.run) / one.file
    which = sorted({*rows.within(one.state), *range(len(rows.measures), len(measures))})
    # What every area's table shows, whatever the state's own targets ask.
    which = sorted({*which, *(i for i, m in enumerate(measures) if not m.constraints and not m.reform_id)})
    asked = [measures[i] for i in which]
    at = one.begin + one.first, one.begin + one.last
    with open_slice(path, task.inputs.period, at, spared=True) as opened:
        data = opened.data
        table = evaluate(asked, data, opened.calculate)
        # The file's own words for where a household is, and for its weight.
        state, district = (
            opened.calculate(name).astype(np.int64) for name in ("state_fips", "congressional_district_geoid")
        )
        weights = opened.calculate("household_weight").astype(np.float64)
    if (state != one.state).any():
        raise RunError(
            f"{one.file}: households {at[0]} to {at[1]} should be of {STATE_CODES[one.state]}, "
            f"but {int((state != one.state).sum())} are of {np.unique(state[state != one.state]).tolist()}"
        )
    if one.plain:
        with open_slice(path, task.inputs.period, at) as opened:
            again = evaluate(asked, opened.data, opened.calculate)
        differ = np.flatnonzero((again != table).any(axis=0))
        if differ.size:
            raise RunError(
                f"{one.file}: {asked[differ[0]]} differs where the rules engine is spared what it repeats; "
                "this is a fault of distcalib.simulation.speed"
            )
    part = (one.first + np.arange(len(weights))) // TOGETHER
    starts = np.flatnonzero(np.r_[True, (np.diff(part) != 0) | (np.diff(district) != 0)])
    everywhere = np.ones(len(weights), dtype=bool)
    found = []
    masks = {"": everywhere} | {a.name: holds_in(a.where, data) for a in task.others}
    for name, here in masks.items():
        if not here.any():
            continue
        values = table if name == "" else table * here[:, None].astype(np.float32)
        total = np.add.reduceat(values.astype(np.float64) * weights[:, None], starts, axis=0)
        nonzero = np.add.reduceat(values != 0, starts, axis=0, dtype=np.int64)
        records = np.add.reduceat(here.astype(np.int64), starts)
        n, m = total.shape
        found.append(
            pd.DataFrame(
                {
                    "fit": one.fit,
                    "state_fips": one.state,
                    "cd_geoid": np.repeat(district[starts], m),
                    "part": np.repeat(part[starts], m),
                    "area": name,
                    "measure": np.tile(which, n),
                    "total": total.ravel(),
                    "nonzero": nonzero.ravel(),
                    "households": np.repeat(records, m),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def holds_in(conditions: Sequence[Condition], data: Microdata) -> np.ndarray:
    """Return which households meet all conditions by what their own file says, bool, (n households,)."""
    here = np.ones(data.count(), dtype=bool)
    for one in conditions:
        here &= one.of(data.column(_NAMES.get(one.field, one.field)))
    return here


_NAMES = {"cd_geoid": "congressional_district_geoid"}


@finished
def check_files(task: CheckTask) -> tuple[list[str], dict[str, Any]]:
    """Check files: the bytes written, ids, links, values, places, and equality with files of the same."""
    facts = {}
    for held in task.files:
        try:
            facts[held.area.file] = _check(held, task)
        except InputError as error:
            # What is wrong is a file of the run, nothing that its user gave.
            raise RunError(str(error)) from error
    return [], {"files": facts}


def _check(held: Held, task: CheckTask) -> dict[str, float]:
    run, period = Path(task.inputs.run), task.inputs.period
    path = run / held.area.file
    # The others first, or a file would be blamed for what happened to another one.
    for area, digest in [(a, d) for (a, *_), d in zip(held.within, held.beside, strict=True)]:
        _unchanged(run, area.file, digest)
    _unchanged(run, held.area.file, held.sha256)
    layout = layout_of(path, period)
    if layout.households != held.households:
        raise RunError(
            f"{held.area.file} has {layout.households} households, but {held.households} have weight there; "
            "it is of another plan or of other weights"
        )
    places = require_plausible(layout)
    _inside_area(held.area, layout, places)
    for area, at, there in held.within:
        whole = layout_of(run / area.file, period)
        positions = _positions(held.area, area, task) if there is None else np.arange(*there)
        require_part(whole, positions, layout, at, held.same_ids)
    return {
        "households": layout.households,
        "persons": int(layout.first["person"][-1]),
        "weight": float(places["household_weight"].astype(np.float64).sum()),
        "bytes": path.stat().st_size,
    }


def _unchanged(run: Path, file: str, digest: str) -> None:
    path = run / file
    if not path.is_file() or sha256_file(path) != digest:
        how = "changed since" if path.is_file() else "is gone since"
        raise RunError(f"{file} {how} it was written; run again, then it is written anew")


def _positions(part: Area, whole: Area, task: CheckTask) -> np.ndarray:
    """Return where the households of a named area stand in another file, ascending."""
    _, assignment, _ = load_inputs(task.inputs)
    held = kept(whole, assignment, np.load(Path(task.inputs.run) / whole.weights))
    return np.flatnonzero(inside(part.conditions, assignment, held))


def _inside_area(area: Area, layout: Layout, places: dict[str, np.ndarray]) -> None:
    """Raise unless every household meets what makes the area."""
    here = np.ones(layout.households, dtype=bool)
    for one in area.conditions:
        column = column_of(layout, _NAMES.get(one.field, one.field))
        if column is None:
            raise RunError(f"{area.file} lacks {one.field}, by which the area is cut")
        here &= one.of(column)
    if not here.all():
        words = " and ".join(map(str, area.conditions))
        first = int(np.flatnonzero(~here)[0])
        value = places["congressional_district_geoid"][first]
        raise RunError(
            f"{area.file}: {int((~here).sum())} households are not in the area ({words}); the first is at "
            f"position {first}, in district {value}"
        )
