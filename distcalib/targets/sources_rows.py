"""What the readers of raw public files share: areas, sums over areas, checks of a file.

A reader turns one file into rows of the target table (see `distcalib.targets.sources`). It gives variable,
period, value, unit, geo_level, geographic_id, constraints, concept, the key of its entry in
``bundled/sources.csv`` (from which source, table, vintage and population come), and where there is one moe
and note. It sets status and reason only where the quantity itself decides.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES

ACS_FILE = "calibration/raw_inputs/acs_{table}_{level}_2024.json"


def read_acs(path: Path) -> pd.DataFrame:
    """Read a table of the Census Bureau's API (header, then rows of text); Puerto Rico is left out."""
    header, *rows = json.loads(read_text(path))
    acs = pd.DataFrame(rows, columns=header)
    acs["geographic_id"] = acs["GEO_ID"].map(area)
    keep = acs["geographic_id"].ne("")
    return acs[keep].reset_index(drop=True)


def area(geo_id: str) -> str:
    """Read a Census GEO_ID: ``US``, ``6``, ``601``; empty for what is not a state or in one (Puerto Rico)."""
    digits = geo_id.split("US")[1]
    if not digits:
        return "US"
    fips = int(digits[:2])
    if fips not in STATE_CODES:
        return ""
    if len(digits) == 2:
        return str(fips)
    number = int(digits[2:])
    return str(fips * 100 + (1 if number in (0, 98) else number))


def with_sums(acs: pd.DataFrame, cell: str) -> pd.DataFrame:
    """District rows of an ACS cell, and their sums; margins of sums are roots of summed squares (Census)."""
    cd = pd.DataFrame(
        {
            "geographic_id": acs["geographic_id"],
            "value": acs[cell + "E"].astype(float),
            "moe": acs[cell + "M"].astype(float),
        }
    )
    if (cd[["value", "moe"]] < 0).to_numpy().any():
        raise InputError("a value that the Census Bureau does not publish", place=cell)
    squared = cd.assign(moe=cd["moe"] ** 2)
    state = (cd["geographic_id"].astype(int) // 100).astype(str)
    states = squared.groupby(state)[["value", "moe"]].sum().rename_axis("geographic_id").reset_index()
    nation = pd.DataFrame({"geographic_id": ["US"], "value": cd["value"].sum(), "moe": squared["moe"].sum()})
    above = pd.concat(
        [states.assign(geo_level="state"), nation.assign(geo_level="national")], ignore_index=True
    )
    above = above.assign(moe=np.sqrt(above["moe"]).round(2), note="sum of the districts")
    return pd.concat([cd.assign(geo_level="district", note=""), above], ignore_index=True)


def state_and_nation(ids: pd.Series, value: pd.Series) -> pd.DataFrame:
    """Rows of the states (`ids`: FIPS as text) and of the nation as their sum."""
    states = pd.DataFrame(
        {"geo_level": "state", "geographic_id": ids.to_numpy(), "value": value.to_numpy(float)}
    )
    nation = pd.DataFrame({"geo_level": ["national"], "geographic_id": "US", "value": states["value"].sum()})
    return pd.concat([states.assign(note=""), nation.assign(note="sum of the states")], ignore_index=True)


def claims_and_amounts(returns: pd.Series, amount: pd.Series, ids: pd.Series, variable: str) -> pd.DataFrame:
    """Rows of a credit: the number of tax units that have it, and its amount."""
    level = np.where(ids == "US", "national", "state")
    where = pd.DataFrame({"geo_level": level, "geographic_id": ids.to_numpy()})
    count = where.assign(
        variable="tax_unit_count",
        unit="tax units",
        value=returns.to_numpy(float),
        constraints=f"{variable}>0",
    )
    dollars = where.assign(variable=variable, unit="dollars", value=amount.to_numpy(float), constraints="")
    return pd.concat([count, dollars], ignore_index=True)


def check_states(ids: pd.Series, path: Path) -> None:
    """Raise `InputError` unless `ids` (FIPS as text) are the 50 states and DC."""
    expected = {str(fips) for fips in STATE_CODES}
    if set(ids) != expected:
        odd = sorted(set(ids) ^ expected)
        raise InputError("does not cover the 50 states and DC", place=path, value=odd)


def read_csv(path: Path, columns: list[str], comment: str | None = None) -> pd.DataFrame:
    """Read `columns` of a CSV file; a missing file or column is an `InputError`."""
    read_text(path)
    table = pd.read_csv(path, comment=comment, low_memory=False)
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError("lacks a column", place=path, value=missing[0], choices=table.columns)
    return table[columns].copy()


def digits(values: pd.Series, places: int) -> pd.Series:
    """Text of numbers with a fixed number of places; NaN and infinities give empty text."""
    finite = np.isfinite(values)
    text = np.char.mod(f"%.{places}f", np.where(finite, values, 0).astype(float))
    return pd.Series(np.where(finite, text, ""), index=values.index)


def read_text(path: Path) -> str:
    """Return the text of a raw file; a missing one is an `InputError`."""
    if not path.is_file():
        raise InputError("no such raw file", place=path, expected="the storage folder of the public wheel")
    return path.read_text(encoding="utf-8")
