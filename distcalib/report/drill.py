"""From a target to the records that carry it, and what carries a district: read when somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.matrix.blocks import read_rows
from distcalib.report.pages import area_name
from distcalib.report.run_sections import CAUSES
from distcalib.report.run_tables import RunTables
from distcalib.report.tiles import district_name
from distcalib.report.wording import quantity

# Of columns.parquet, in this order; a clone of a donor is in one place.
_PLACE = ("household_id", "clone", "cd_geoid")


def target_list(tables: RunTables) -> pd.DataFrame:
    """Return a row a target, by its number of row in X.

    Returns
    -------
    DataFrame
        area (name), what (in words), geo_level, variable, status, name, target, and where the fit is done
        estimate, rel_error, abs_rel_error, within_tolerance, tolerance, donors, effective_donors, group_id,
        cause.

    Raises
    ------
    InputError
        When the run has no targets yet.
    """
    targets = tables.targets
    if targets is None:
        raise InputError("is not there", place=tables.folder / "targets.parquet", expected="a run's targets")
    out = targets.reset_index(drop=True).rename(columns={} if tables.fitted else {"value": "target"})
    out["area"] = out["geographic_id"].map(area_name)
    out["what"] = quantity(out)
    return out


def judged(folder: str | Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return of each named target what ``fit/diagnostics.csv`` says, the cause of a miss with its meaning.

    Empty where the run has no fit yet; a target that is no row of X is left out, and so is an empty field.
    """
    tables = RunTables.read(folder)
    if tables.targets is None or not tables.fitted:
        return {}
    table = tables.targets[tables.targets["name"].isin(names)].drop(columns="target")
    table["cause"] = [f"{cause}: {CAUSES[cause]}" if cause in CAUSES else cause for cause in table["cause"]]
    rows = table.astype(object).where(table.notna() & (table != "")).to_dict("records")
    return {row["name"]: {k: v for k, v in row.items() if v is not None and v == v} for row in rows}


def records_of_target(tables: RunTables, row: int) -> pd.DataFrame:
    """Return the records with weight that carry a target, the largest contribution first.

    Of X only this row is read.

    Parameters
    ----------
    tables
        Of a run whose fit is done.
    row
        Number of the row in X.

    Returns
    -------
    DataFrame
        column, household_id (donor), clone, district (name), value (cell of X), weight, contribution (value
        times weight) and share (of the sum of absolute contributions).

    Raises
    ------
    InputError
        When the run has no matrix or no weights, or the matrix no such row.
    """
    matrix = tables.folder / "matrix.zarr" / "X"
    if not matrix.is_dir():
        raise InputError("is not there", place=matrix, expected="a run whose matrix is assembled and kept")
    weights = _weights(tables)
    found = read_rows(matrix, [row])
    if found.shape[1] != len(weights):
        raise InputError("has other columns than the weights", place=matrix, value=found.shape[1],
                         expected=f"{len(weights)} columns")  # fmt: skip
    kept = weights[found.indices] > 0
    at = found.indices[kept]
    value = found.data[kept].astype(np.float64)
    out = _placed(tables, at).assign(value=value, weight=weights[at], contribution=value * weights[at])
    whole = out["contribution"].abs().sum()
    out["share"] = out["contribution"].abs() / whole if whole > 0 else 0.0
    return out.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)


def records_of_district(tables: RunTables, geoid: int) -> pd.DataFrame:
    """Return the records with weight of a district, the heaviest first.

    Returns
    -------
    DataFrame
        column, household_id (donor), clone, district, weight, and share (of the district's weight).
    """
    weights = _weights(tables)
    _, _, district = _columns(*_stamp(tables))
    at = np.flatnonzero((district == geoid) & (weights > 0))
    out = _placed(tables, at).assign(weight=weights[at])
    out["share"] = out["weight"] / out["weight"].sum() if len(out) else 0.0
    return out.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)


def by_donor(records: pd.DataFrame) -> pd.DataFrame:
    """Sum records up by donor, the largest share first.

    Returns
    -------
    DataFrame
        household_id, records, weight, contribution (where the records have one), share, and districts (how
        many its records are in).
    """
    sums = {"records": ("column", "size"), "weight": ("weight", "sum"), "share": ("share", "sum"),
            "districts": ("district", "nunique")}  # fmt: skip
    if "contribution" in records:
        sums["contribution"] = ("contribution", "sum")
    donors = records.groupby("household_id", sort=True).agg(**sums).reset_index()
    return donors.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)


def _weights(tables: RunTables) -> NDArray[np.float64]:
    if tables.weights is None:
        raise InputError("is not there, or of an earlier fit", place=tables.folder / "fit/weights.npy",
                         expected="a run whose fit is done")  # fmt: skip
    return tables.weights[0]


def _placed(tables: RunTables, at: NDArray[np.int64]) -> pd.DataFrame:
    household, clone, district = (values[at] for values in _columns(*_stamp(tables)))
    names = {int(geoid): district_name(int(geoid)) for geoid in np.unique(district)}
    return pd.DataFrame(
        {"column": at, "household_id": household, "clone": clone, "district": pd.Series(district).map(names)}
    )


def _stamp(tables: RunTables) -> tuple[Path, int]:
    path = tables.folder / "columns.parquet"
    return path, path.stat().st_mtime_ns


@lru_cache(maxsize=2)
def _columns(path: Path, written: int) -> tuple[NDArray, NDArray, NDArray]:
    """Read donor, clone and district of every column once a process: 14 bytes a column."""
    table = pd.read_parquet(path, columns=list(_PLACE))
    household, clone, district = (table[name].to_numpy() for name in _PLACE)
    return household, clone.astype(np.int16), district.astype(np.int32)
