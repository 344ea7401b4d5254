"""The targets of a run against its files, with margins of error and notes on definition: for information."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.storage import publish
from distcalib.targets.sources import bundled_targets

COLUMNS = (
    "name", "area", "geo_level", "status", "variable", "constraints", "period", "value", "moe", "from_files",
    "difference", "relative", "z", "within_moe", "concept", "source", "table", "vintage", "note",
)  # fmt: skip
#: A margin of error of 90 percent is so many standard errors (Census Bureau, ACS handbook).
STANDARD_ERRORS = 1.645

_KEY = ["variable", "reform_id", "geo_level", "geographic_id", "constraints", "period"]
_SAID = ["concept", "source", "table", "vintage", "note"]


def checks(targets: pd.DataFrame, verified: pd.DataFrame) -> pd.DataFrame:
    """Hold what the files give against official figures, those of status check first.

    Parameters
    ----------
    targets
        ``targets.parquet`` of a run: one row a row of X.
    verified
        ``verify/targets.csv``: row, name and from_files (NaN where no file was to prove it).

    Returns
    -------
    DataFrame
        One row a target, the columns `COLUMNS`: value and moe (90 percent margin, in the value's unit; NaN
        where none is published), from_files, difference (files less value), relative (to the value), z
        (difference in standard errors of the source: moe / 1.645), within_moe (``yes``, ``no``, or empty
        without a margin). concept, source, table and vintage are those of the bundled register, empty for a
        target that it does not hold; note says why the target is not fitted, and how definitions differ.

    Raises
    ------
    InputError
        When the two tables are not of the same targets.
    """
    rows = verified["row"].to_numpy()
    same = rows.size == 0 or (rows.min() >= 0 and rows.max() < len(targets))
    if same:
        out = targets.iloc[rows].reset_index(drop=True)
        same = bool((out["name"].to_numpy() == verified["name"].to_numpy()).all())
    if not same:
        raise InputError("is of other targets than targets.parquet", place="verify/targets.csv")
    out["from_files"] = verified["from_files"].to_numpy(np.float64)
    known = bundled_targets()[[*_KEY, *_SAID]]
    out = out.merge(known, on=_KEY, how="left", validate="many_to_one")
    out[_SAID] = out[_SAID].fillna("")
    # A target of a database may have the same key and another meaning: without its register nothing is said.
    parts = pd.Series(out["reason"].fillna("").astype(str)), out["note"]
    out["note"] = [". ".join(words for words in pair if words) for pair in zip(*parts, strict=True)]
    out["area"] = [
        _area(level, code) for level, code in zip(out["geo_level"], out["geographic_id"], strict=True)
    ]
    out["difference"] = out["from_files"] - out["value"]
    out["relative"] = out["difference"] / out["value"].abs().where(out["value"] != 0)
    error = out["moe"].where(out["moe"] > 0) / STANDARD_ERRORS
    out["z"] = out["difference"] / error
    within = np.where(out["z"].abs() <= STANDARD_ERRORS, "yes", "no")
    out["within_moe"] = np.where(out["z"].isna(), "", within)
    out = out.sort_values("status", key=lambda s: s.map({"check": 0, "fit": 1}), kind="stable")
    return out[list(COLUMNS)].reset_index(drop=True)


def write_checks(run: Path) -> pd.DataFrame:
    """Write ``verify/checks.csv`` of a run whose files are verified, and return it; see `checks`."""
    verified = pd.read_csv(run / "verify" / "targets.csv", dtype={"geographic_id": str})
    table = checks(pd.read_parquet(run / "targets.parquet"), verified)
    publish(run / "verify" / "checks.csv", lambda p: table.to_csv(p, index=False, lineterminator="\n"))
    return table


def _area(level: str, code: str) -> str:
    if level == "national":
        return "US"
    return STATE_CODES[int(code)] if level == "state" else District(int(code)).name
