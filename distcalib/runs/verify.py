"""Prove that the files give what the matrix promised: open them as a user does, and compare with X.w."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.areas.stack import Area
from distcalib.errors import RunError
from distcalib.matrix.measures import Measure, Rows, evaluate, scatter
from distcalib.microdata.model import Microdata
from distcalib.runs.tasks import Inputs, finished
from distcalib.simulation.engine import open_published
from distcalib.storage import publish


@dataclass(frozen=True)
class VerifyTask:
    """Open one state's file with Microsimulation and recompute the targets of the state and its districts.

    Attributes
    ----------
    inputs
        Where the run is.
    id
        Digest of everything that the result depends on.
    state
        The state's area.
    districts
        Its districts, whose files are held against the state's.
    households_at_once
        A larger file is opened in parts; no result depends on it.
    """

    inputs: Inputs
    id: str
    state: Area
    districts: tuple[Area, ...]
    households_at_once: int
    stage: str = "verify"


@dataclass(frozen=True)
class NationTask:
    """Hold the national file against the files of the states."""

    inputs: Inputs
    id: str
    nation: Area
    states: tuple[Area, ...]
    stage: str = "verify"


@finished
def verify_state(task: VerifyTask) -> tuple[list[str], dict[str, Any]]:
    """Recompute a state's rows from its file alone; check that each district file is its part of it."""
    run = Path(task.inputs.run)
    targets = pd.read_parquet(run / "targets.parquet")
    rows = Rows.of(targets)
    which = rows.within(task.state.code)
    measures = [rows.measures[m] for m in which]
    tables, districts, parts = [], [], []
    for opened in open_published(run / task.state.file, task.inputs.period, task.households_at_once):
        tables.append(evaluate(measures, opened.data, opened.calculate))
        # The file's own words for where a household is, and for its weight.
        districts.append(opened.calculate("congressional_district_geoid").astype(np.int64))
        parts.append(opened.calculate("household_weight").astype(np.float64))
        del opened  # else it would live on while the next part is opened
    table, district, weights = np.concatenate(tables), np.concatenate(districts), np.concatenate(parts)
    data = Microdata.read(run / task.state.file, task.inputs.period)
    persons = np.bincount(data.links["household"], minlength=data.count())
    cells = scatter(rows, which, table, np.arange(data.count()), task.state.code, district, data.count())
    recomputed = cells.astype(np.float64) @ weights
    touched = np.flatnonzero(np.isin(rows.key // 10_000, which) & _concerns(rows, task.state.code))
    row = np.sort(rows.row[touched])
    out = targets.iloc[row][["target_id", "name", "geo_level", "geographic_id", "status", "value"]].copy()
    out.insert(0, "row", row)
    out["from_files"] = recomputed[row]

    population = {}
    for area in task.districts:
        part = Microdata.read(run / area.file, task.inputs.period)
        inside = np.flatnonzero(district == area.code)
        _same_households(part, data, inside, area, task.state)
        population[area.name] = float((persons[inside] * weights[inside]).sum())
    strangers = np.setdiff1d(np.unique(district), [a.code for a in task.districts])
    if task.districts and strangers.size:
        raise RunError(f"{task.state.file}: households in {strangers.tolist()}, which has no file of its own")
    target, by_area = f"verify/{task.state.name}.csv", f"verify/areas/{task.state.name}.csv"
    publish(run / target, lambda p: out.to_csv(p, index=False))
    totals = _totals(measures, table, weights, district, task)
    publish(run / by_area, lambda p: totals.to_csv(p, index=False))
    return [target, by_area], {"population": population, "rows": len(out)}


@finished
def verify_nation(task: NationTask) -> tuple[list[str], dict[str, Any]]:
    """Check that the national file is the union of the states' files: same households, weights and values."""
    run = Path(task.inputs.run)
    nation = Microdata.read(run / task.nation.file, task.inputs.period)
    fips = nation.column("state_fips")
    report = []
    for area in task.states:
        inside = np.flatnonzero(fips == area.code)
        part = Microdata.read(run / area.file, task.inputs.period)
        _same_households(part, nation, inside, area, task.nation)
        report.append((area.name, len(inside), float(part.weights.sum())))
    strangers = np.setdiff1d(np.unique(fips), [a.code for a in task.states])
    if strangers.size:
        raise RunError(f"{task.nation.file}: households in states {strangers.tolist()}, which have no file")
    table = pd.DataFrame(report, columns=["state", "households", "weight"])
    publish(run / "verify/US.csv", lambda p: table.to_csv(p, index=False))
    return ["verify/US.csv"], {"households": nation.count(), "weight": float(nation.weights.sum())}


def compare(run: Path, matrix: Any, weights: np.ndarray, tolerance: float) -> pd.DataFrame:
    """Sum the states' figures and compare them with X.w.

    Parameters
    ----------
    run
        The run folder, with ``verify/XX.csv`` of every state.
    matrix
        X, csr_array of shape (n targets, n columns).
    weights
        Fitted weights, float64, shape (n columns,).
    tolerance
        Largest allowed |from files - X.w| / sum(|x| w).

    Returns
    -------
    DataFrame
        One row a target: row, target_id, name, status, value, promised (X.w), from_files, scale
        (sum(|x| w)), difference (relative to scale), ok.

    Raises
    ------
    RunError
        When a row of X was recomputed by no state.
    """
    files = sorted(p for p in (run / "verify").glob("??.csv") if p.stem != "US")
    tables = pd.concat([pd.read_csv(p, dtype={"geographic_id": str}) for p in files])
    sums = tables.groupby("row", sort=True)["from_files"].sum()
    if len(sums) != matrix.shape[0]:
        missing = np.setdiff1d(np.arange(matrix.shape[0]), sums.index.to_numpy())
        raise RunError(f"{len(missing)} targets were recomputed from no file, the first is row {missing[0]}")
    first = tables.drop_duplicates("row").set_index("row").sort_index()
    exact = matrix.astype(np.float64)
    out = first[["target_id", "name", "geo_level", "geographic_id", "status", "value"]].reset_index()
    out["promised"] = exact @ weights
    out["from_files"] = sums.to_numpy()
    out["scale"] = abs(exact) @ weights
    gap = (out["from_files"] - out["promised"]).abs()
    out["difference"] = gap / out["scale"].where(out["scale"] > 0, 1.0)
    out["ok"] = gap <= tolerance * out["scale"]
    return out


def _totals(
    measures: list[Measure], table: np.ndarray, weights: np.ndarray, district: np.ndarray, task: VerifyTask
) -> pd.DataFrame:
    """Weighted totals of every unconstrained measure for the state and each district, long form."""
    plain = [i for i, m in enumerate(measures) if not m.constraints and not m.reform_id]
    weighted = table[:, plain].astype(np.float64) * weights[:, None]
    names = {a.code: a.name for a in task.districts}
    codes = sorted(names)
    sums = [weighted[district == code].sum(axis=0) for code in codes]
    parts = pd.DataFrame(
        [weighted.sum(axis=0), *sums],
        index=[task.state.name, *(names[code] for code in codes)],
        columns=[measures[i].variable for i in plain],
    )
    return parts.rename_axis("area").reset_index().melt("area", var_name="variable", value_name="from_file")


def _concerns(rows: Rows, state_fips: int) -> np.ndarray:
    area = rows.key % 10_000
    return (area == 0) | (area == state_fips) | (area // 100 == state_fips)


def _same_households(part: Microdata, whole: Microdata, inside: np.ndarray, area: Area, of: Area) -> None:
    """Raise `RunError` unless `part` is exactly the given households of `whole`."""
    ids = {e: whole.ids[e][whole.rows_of(e, inside)[0]] for e in whole.ids}
    if whole.take(inside, ids).digest() != part.digest():
        raise RunError(f"{area.file} is not the part of {of.file} that it should be")
