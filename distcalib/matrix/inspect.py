"""Looking into a matrix: how full it is, and why one cell is what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.cells import donors
from distcalib.matrix.measures import Measure, Rows, evaluate
from distcalib.microdata.model import Microdata
from distcalib.notebook import facts_html
from distcalib.simulation.engine import RulesSimulation, simulate
from distcalib.simulation.place import place
from distcalib.simulation.takeup import drawn_variables

if TYPE_CHECKING:
    from distcalib.matrix.calibration import CalibrationMatrix

LEVELS = ("national", "state", "district")


@dataclass(frozen=True)
class CellReasons:
    """Why a cell is what it is.

    Attributes
    ----------
    row, column, target
        The cell, and the name of its target.
    household_id, clone, state_fips, cd_geoid, county_fips
        The donor and where this column places it.
    inside
        Whether that place is in the target's area. If not, the cell is 0 whatever the amount.
    take_up
        Flags of the household's units: variable, entity, unit (donor id), flag, origin (``drawn`` for this
        column, or ``stored`` in the microdata). A take-up input that is neither has the rules' default.
    members
        One row a person and constraint: person (donor id), constraint, value, passes.
    units
        One row a unit of the measure's entity: its donor id, counted (some member passes every constraint),
        amount (1 for a count; else the variable, in its own unit).
    amount
        What the household adds to a target of this measure in its area: the counted amounts, summed.
    value
        The cell of the matrix.
    """

    row: int
    column: int
    target: str
    household_id: int
    clone: int
    state_fips: int
    cd_geoid: int
    county_fips: int
    inside: bool
    take_up: pd.DataFrame
    members: pd.DataFrame
    units: pd.DataFrame
    amount: float
    value: float

    @property
    def agrees(self) -> bool:
        """Whether simulating the household again gives the cell."""
        return self.value == (self.amount if self.inside else 0.0)

    def __str__(self) -> str:
        county = f"county {self.county_fips:05d}" if self.county_fips else "no county"
        place_words = f"{District(self.cd_geoid)} ({self.cd_geoid}), {county}"
        outcome = f"  amount {self.amount:,.2f}; " + (
            "the place is in the target's area" if self.inside else "0 because the place is outside its area"
        )
        if not self.agrees:
            outcome += "; THE MATRIX HOLDS ANOTHER VALUE: it was made by other code or data"
        parts = [
            f"cell ({self.row}, {self.column}) = {self.value:,.2f} of {self.target}",
            f"  household {self.household_id}, clone {self.clone}, placed in {place_words}",
            outcome,
        ]
        for title, table in (("take-up", self.take_up), ("members", self.members), ("units", self.units)):
            words = "none" if table.empty else "\n    " + table.to_string(index=False).replace("\n", "\n    ")
            parts.append(f"  {title}: {words}")
        return "\n".join(parts)


def explain_cell(matrix: CalibrationMatrix, row: int, column: int) -> CellReasons:
    """Simulate the household of a cell again and follow every step; see `CalibrationMatrix.why`."""
    n_rows, n_columns = matrix.X.shape
    for what, number, size in (("row", row, n_rows), ("column", column, n_columns)):
        if not 0 <= number < size:
            raise InputError(f"no such {what}", place="why", value=number, expected=f"0 to {size - 1}")
    if matrix.origin is None:
        raise InputError(
            "the matrix does not say what it was simulated from",
            place="why",
            expected="a matrix that was loaded from a run, or CalibrationMatrix(..., origin=Origin(...))",
        )
    origin = matrix.origin
    source = donors(origin.microdata, origin.period, origin.microdata_digest)
    assignment = GeographyAssignment.from_frame(matrix.columns)
    take_up = origin.how_taken_up()
    data = place(source, assignment, [column], seed=origin.seed, take_up=take_up)
    rows = Rows.of(matrix.targets.iloc[[row]])
    measure = rows.measures[0]
    with simulate(data, f"column {column}") as simulation:
        amount = float(evaluate([measure], data, simulation.calculate)[0, 0])
        members = _members(measure, simulation, source)
        units = _units(measure, simulation, source, members)
    at = matrix.columns.iloc[column]
    target = matrix.targets.iloc[row]
    area, state, district = str(target["geographic_id"]), int(at["state_fips"]), int(at["cd_geoid"])
    return CellReasons(
        row=row,
        column=column,
        target=str(target.get("name", f"{area}/{measure}")),
        household_id=int(at["household_id"]),
        clone=int(at["clone"]),
        state_fips=state,
        cd_geoid=district,
        county_fips=int(at["county_fips"]),
        # As whole numbers: beside a weight a row of the columns is of floats.
        inside=area in ("US", str(state), str(district)),
        take_up=_flags(data, source, take_up),
        members=members,
        units=units,
        amount=amount,
        value=float(matrix.X[row, column]),
    )


def _donor_ids(data: Microdata, source: Microdata, entity: str) -> np.ndarray:
    """Ids in the microdata of the units of placed households."""
    return source.ids[entity][data.ids[entity] % source.count(entity)]


def _members(measure: Measure, simulation: RulesSimulation, source: Microdata) -> pd.DataFrame:
    data, parts = simulation.data, []
    for constraint in measure.constraints:
        values = simulation.calculate(constraint.variable)
        entity = catalogue().variables[constraint.variable].entity
        if entity != "person":
            values = values[data.links[entity]]
        parts.append(
            pd.DataFrame(
                {
                    "person": _donor_ids(data, source, "person"),
                    "constraint": str(constraint),
                    "value": values.astype(object),
                    "passes": constraint.holds(values),
                }
            )
        )
    columns = ["person", "constraint", "value", "passes"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _units(
    measure: Measure, simulation: RulesSimulation, source: Microdata, members: pd.DataFrame
) -> pd.DataFrame:
    data, entity = simulation.data, measure.entity
    persons = np.ones(data.count("person"), dtype=bool)
    for _, one in members.groupby("constraint", sort=False):
        persons &= one["passes"].to_numpy(bool)
    links = np.arange(len(persons)) if entity == "person" else data.links[entity]
    amounts = np.ones(data.count(entity))
    if not measure.counts:
        asked = measure.asks
        amounts = measure.amount({(v, r): simulation.calculate(v, *([r] if r else [])) for v, r in asked})
    return pd.DataFrame(
        {
            entity: _donor_ids(data, source, entity),
            "counted": np.bincount(links[persons], minlength=data.count(entity)) > 0,
            "amount": amounts,
        }
    )


def _flags(data: Microdata, source: Microdata, take_up: bool | pd.DataFrame) -> pd.DataFrame:
    """Take-up flags that the placed household was given."""
    held = data.variables()
    drawn = take_up is not False
    known = set(drawn_variables(take_up if isinstance(take_up, pd.DataFrame) else None))
    parts = [
        pd.DataFrame(
            {
                "variable": name,
                "entity": held[name],
                "unit": _donor_ids(data, source, held[name]),
                "flag": data.column(name),
                "origin": "drawn" if drawn and name in known else "stored",
            }
        )
        for name in sorted(held)
        if name in known or name.startswith("takes_up_")
    ]
    columns = ["variable", "entity", "unit", "flag", "origin"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def sparsity(matrix: CalibrationMatrix, by: str) -> pd.DataFrame:
    """Return how full a matrix is; see `CalibrationMatrix.sparsity`."""
    n_rows, n_columns = matrix.X.shape
    if by == "level":
        table = pd.DataFrame(
            {
                "level": pd.Categorical(matrix.targets["geo_level"], LEVELS, ordered=True),
                "nonzeros": np.diff(matrix.X.indptr),
            }
        )
        grouped = table.groupby("level", observed=True)["nonzeros"]
        out = grouped.agg(rows="size", nonzeros="sum", least="min", median="median", most="max")
        out.insert(1, "columns", n_columns)
        out.insert(3, "density", out["nonzeros"] / np.maximum(out["rows"] * n_columns, 1))
        return out
    if by == "clone":
        clone = matrix.columns["clone"].to_numpy()
        in_clone = np.bincount(clone[matrix.X.indices], minlength=int(clone.max(initial=-1)) + 1)
        out = matrix.columns.groupby("clone").agg(
            columns=("column", "size"), states=("state_fips", "nunique")
        )
        out.insert(0, "rows", n_rows)
        out.insert(2, "nonzeros", in_clone[out.index])
        out.insert(3, "density", out["nonzeros"] / np.maximum(n_rows * out["columns"], 1))
        return out
    raise InputError("cannot be counted by this", place="sparsity", value=by, choices=("level", "clone"))


def find_row(matrix: CalibrationMatrix, text: str) -> int:
    """Return the row of a target: of its number, or of its name where that is one target's.

    Raises
    ------
    InputError
        For a number that is none of the matrix, an unknown name (with the nearest), and one of several rows.
    """
    if text.isdecimal():
        return _in_range(int(text), len(matrix.targets), "row")
    names = matrix.targets["name"].astype(str) if "name" in matrix.targets else pd.Series(dtype=str)
    rows = np.flatnonzero((names == text).to_numpy())
    if len(rows) != 1:
        several = f"{len(rows)} targets have this name: rows {', '.join(map(str, rows[:8].tolist()))}"
        raise InputError(
            several if len(rows) else "no target has this name", place="row", value=text,
            expected="the number of a row, or the name of one target", choices=() if len(rows) else names,
        )  # fmt: skip
    return int(rows[0])


def _in_range(number: int, size: int, what: str) -> int:
    if not 0 <= number < size:
        raise InputError(f"no such {what}", place=what, value=number, expected=f"0 to {size - 1}")
    return number


def row_facts(matrix: CalibrationMatrix, row: int) -> dict[str, object]:
    """Return what a row is: its target, and how many columns, donors and districts contribute how much."""
    n_columns = matrix.X.shape[1]
    start, stop = matrix.X.indptr[_in_range(row, len(matrix.targets), "row")], matrix.X.indptr[row + 1]
    values = matrix.X.data[start:stop].astype(np.float64)
    at = matrix.columns.iloc[matrix.X.indices[start:stop]]
    facts: dict[str, object] = {"row": row, **matrix.targets.iloc[row].to_dict()}
    facts |= {
        "nonzeros": f"{len(values):,} of {n_columns:,} columns",
        "donors": at["household_id"].nunique(),
        "districts": at["cd_geoid"].nunique(),
        "row_sum": float(values.sum()),
    }
    if len(values):
        facts |= {"least": float(values.min()), "most": float(values.max())}
    return facts


def column_cells(matrix: CalibrationMatrix, column: int) -> pd.DataFrame:
    """Return the nonzero cells of a column: row, name, target, value."""
    _in_range(column, matrix.X.shape[1], "column")
    cells = np.flatnonzero(matrix.X.indices == column)
    rows = np.searchsorted(matrix.X.indptr, cells, side="right") - 1
    named = matrix.targets["name"] if "name" in matrix.targets else matrix.targets["variable"]
    return pd.DataFrame(
        {
            "row": rows,
            "name": named.iloc[rows].astype(str).to_numpy(),
            "target": matrix.targets["value"].iloc[rows].to_numpy(),
            "value": matrix.X.data[cells],
        }
    )


def html(matrix: CalibrationMatrix) -> str:
    """Return a matrix as a notebook shows it; every text is escaped."""
    n_rows, n_columns = matrix.X.shape
    possible = matrix.achievable
    places = matrix.columns
    states = [STATE_CODES[s] for s in sorted(places["state_fips"].unique().tolist())]
    facts = {
        "targets": f"{n_rows:,} ({int(possible.sum()):,} achievable)",
        "columns": f"{n_columns:,}: {places['record'].nunique():,} households x "
        f"{places['clone'].nunique()} clones",
        "places": f"{places['cd_geoid'].nunique()} districts of "
        + (", ".join(states) if len(states) <= 12 else f"{len(states)} states"),
        "nonzeros": f"{matrix.X.nnz:,} ({matrix.X.nnz / max(n_rows * n_columns, 1):.4%})",
    }
    names = matrix.targets["name"] if "name" in matrix.targets else matrix.targets["variable"]
    shown = pd.DataFrame(
        {
            "row": np.arange(min(5, n_rows)),
            "target": names.astype(str).iloc[:5].to_numpy(),
            "value": matrix.targets["value"].iloc[:5].round(2).map("{:,.15g}".format).to_numpy(),
            "nonzeros": np.diff(matrix.X.indptr)[:5],
        }
    )
    return facts_html("CalibrationMatrix", facts, shown)
