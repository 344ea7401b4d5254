"""The bundled official statistics: one tidy table, rebuilt from raw public files.

`build_targets` reads the files (``sources_census``, ``sources_programmes``, ``sources_returns``), puts
constraints into their canonical text, sets the tolerance, and decides which rows are fitted:

- *excluded*: the microdata or the rules do not hold the concept, or a better vintage of it stands beside it;
- *check*: simulated and reported, but no share in the loss. That is so for a programme whose starting total
  (the microdata before calibration) is outside half to twice the target (the main programmes: outside
  `STARTING_RANGES`), and for one not measured yet;
- *fit*: everything else.
"""

from __future__ import annotations

import gzip
import io
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.targets.constraints import constraint_text, parse_constraints
from distcalib.targets.sources_census import age_bands, households, housing, state_income_tax
from distcalib.targets.sources_programmes import aca_credit, medicaid, snap
from distcalib.targets.sources_returns import agi_by_state, eitc, returns_national

READERS = (
    age_bands,
    households,
    snap,
    medicaid,
    aca_credit,
    eitc,
    agi_by_state,
    returns_national,
    state_income_tax,
    housing,
)
COLUMNS = [
    "variable",
    "reform_id",
    "period",
    "value",
    "unit",
    "geo_level",
    "geographic_id",
    "constraints",
    "concept",
    "population",
    "source",
    "table",
    "vintage",
    "moe",
    "tolerance",
    "status",
    "reason",
    "note",
]
MIN_TOLERANCE = 0.05
STARTING_RANGE = (0.5, 2.0)
# The programmes that a tax and benefit model stands on have to come out nearer before they are fitted: a fit
# that has to double a programme bends everything else. CMS counts persons with an ACA credit by other rules.
STARTING_RANGES = {
    "SNAP benefits": (0.85, 1.15),
    "SNAP households": (0.85, 1.15),
    "Medicaid enrolment": (0.85, 1.15),
    "earned income credit": (0.85, 1.15),
    "Social Security benefits": (0.85, 1.15),
    "federal income tax after credits": (0.85, 1.15),
    "ACA premium tax credit": (0.75, 1.25),
    # Half of it is there; more of it comes only with more returns that itemise, which are fitted themselves.
    "home mortgage interest deducted by returns that itemise": (0.75, 1.25),
}
LEVELS = ("national", "state", "district")

_TABLE = "targets_2024.csv.gz"
_KEY = ["variable", "reform_id", "constraints", "geo_level", "geographic_id", "period"]
_TEXT = [c for c in COLUMNS if c not in ("reform_id", "period", "value", "moe", "tolerance")]


def bundled_targets() -> pd.DataFrame:
    """Return the packaged table of targets.

    Returns
    -------
    pandas.DataFrame
        The columns `COLUMNS`, sorted by level (nation, state, district), variable, reform, area (as text),
        constraints and period. reform_id and period are int64; value, moe and tolerance are float64 (moe is
        the 90 % margin of error in the value's unit, NaN where none is published; tolerance is relative); all
        others are text, empty where there is nothing to say. geographic_id is ``US``, a state FIPS (``6``) or
        a district GEOID (``601``).
    """
    return _read(gzip.decompress(_bundled(_TABLE).read_bytes()).decode("utf-8"))


def sources() -> pd.DataFrame:
    """Return the table of sources: one row a raw file, used or not, and why not."""
    return pd.read_csv(_bundled("sources.csv"), keep_default_na=False)


def starting_totals() -> pd.DataFrame:
    """Return the packaged starting totals of the microdata, which decide between fit and check."""
    return pd.read_csv(_bundled("starting_totals.csv"), keep_default_na=False, dtype={"starting": float})


def build_targets(raw_folder: str | Path, starting: pd.DataFrame | None = None) -> pd.DataFrame:
    """Build the table of targets from the raw public files.

    Parameters
    ----------
    raw_folder
        The folder ``policyengine_us_data/storage`` of the public wheel policyengine_us_data 1.115.4, which
        carries the agencies' files.
    starting
        National totals of the uncalibrated microdata (columns variable, constraints, starting, concept,
        measured_with); by default the packaged ones.

    Returns
    -------
    pandas.DataFrame
        As `bundled_targets`.

    Raises
    ------
    InputError
        For a missing or changed raw file, two rows of the same quantity, or a starting total that belongs to
        no target.
    """
    raw = Path(raw_folder)
    rows = pd.concat([reader(raw) for reader in READERS], ignore_index=True)
    known = sources().query("key != ''").set_index("key")
    for column in ("source", "table", "vintage", "population"):
        rows[column] = rows["key"].map(known[column])
    transcribed = pd.read_csv(
        _bundled("national_totals.csv"), keep_default_na=False, dtype={"value": float, "reform_id": int}
    ).assign(geo_level="national", geographic_id="US")
    rows = pd.concat([rows, transcribed], ignore_index=True)
    rows["reform_id"] = rows["reform_id"].fillna(0).astype(np.int64)
    rows[["status", "reason", "note"]] = rows[["status", "reason", "note"]].fillna("")
    if rows["source"].isna().any():
        raise InputError("a row without a source", value=rows["key"][rows["source"].isna()].iloc[0])
    distinct = rows["constraints"].unique()
    canonical = {text: constraint_text(parse_constraints(text)) for text in distinct}
    rows["constraints"] = rows["constraints"].map(canonical)
    rows["tolerance"] = tolerance(rows["value"], rows["moe"])
    rows = decide_status(rows, starting_totals() if starting is None else starting)
    twice = rows.duplicated(_KEY, keep=False)
    if twice.any():
        raise InputError("two rows of the same quantity", value=rows.loc[twice, _KEY].iloc[0].to_dict())
    return _read(_csv(rows[COLUMNS]))


def write_bundled(raw_folder: str | Path, out_folder: str | Path) -> pd.DataFrame:
    """Rebuild ``targets_2024.csv.gz`` and ``sources.csv`` byte for byte; return the table.

    Parameters
    ----------
    raw_folder
        As for `build_targets`.
    out_folder
        Where the two files are written.
    """
    table, out = build_targets(raw_folder), Path(out_folder)
    listing = sources()
    here = ["source", "table", "vintage"]
    counts = table.groupby(here).size().rename("rows").reset_index()
    merged = listing.drop(columns="rows").merge(counts, on=here, how="left")
    merged["rows"] = merged["rows"].fillna(0).astype(int)
    transcribed = merged["key"] == "national_totals"
    merged.loc[transcribed, "rows"] = len(table) - merged["rows"].sum()
    out.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    # No time and no name in the header: equal tables give equal bytes.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(_csv(table).encode("utf-8"))
    (out / _TABLE).write_bytes(packed.getvalue())
    merged.to_csv(out / "sources.csv", index=False, lineterminator="\n")
    return table


def tolerance(value: pd.Series, moe: pd.Series) -> pd.Series:
    """Return the relative tolerance of targets, ``max(0.05, moe / |value|)``, to six places.

    Parameters
    ----------
    value, moe
        float64, in the same unit; a missing margin counts as none.
    """
    share = moe / value.abs().where(value != 0)
    return share.fillna(0.0).clip(lower=MIN_TOLERANCE).round(6)


def decide_status(rows: pd.DataFrame, starting: pd.DataFrame) -> pd.DataFrame:
    """Set status and reason of the rows whose reader left them open.

    The starting total of exactly a row's quantity (variable and constraints) decides for it at every level;
    without one, those of the same concept decide: all within half to twice their national target (within the
    narrower `STARTING_RANGES` of the main programmes), or check.
    A concept without any starting total is checked until one is measured.

    Parameters
    ----------
    rows
        With variable, constraints, concept, geo_level, value, status, reason.
    starting
        With variable, constraints, starting, concept, measured_with; national.

    Returns
    -------
    pandas.DataFrame
        `rows` with every status one of fit, check, excluded.

    Raises
    ------
    InputError
        When a starting total belongs to no national target, or its target is zero.
    """
    rows = rows.copy()
    quantity = ["variable", "constraints"]
    nation = rows[(rows["geo_level"] == "national") & (rows["reform_id"] == 0)].sort_values("period")
    # Where two vintages stand in the table, the newest is the one in use.
    newest = nation.drop_duplicates(quantity, keep="last").set_index(quantity)["value"]
    measured = starting.join(newest.rename("target"), on=quantity)
    lost = measured["target"].isna() | (measured["target"] == 0)
    if lost.any():
        raise InputError(
            "starting total of a quantity that has no national target",
            value=measured.loc[lost, quantity].iloc[0].to_dict(),
        )
    ratio = measured["starting"] / measured["target"]
    ranges = [STARTING_RANGES.get(concept, STARTING_RANGE) for concept in measured["concept"]]
    low, high = np.array(ranges).reshape(-1, 2).T
    outside = ~ratio.between(pd.Series(low, ratio.index), pd.Series(high, ratio.index))
    about = (
        "uncalibrated total is "
        + pd.Series(np.char.mod("%.2f", ratio.to_numpy(float)), measured.index)
        + " x the national target ("
        + measured["measured_with"]
        + ")"
    )
    verdict = pd.Series(np.where(outside, about, ""), measured.index)
    exact = verdict.set_axis(pd.MultiIndex.from_frame(measured[quantity]))
    # One programme far off is enough: the first reason of the concept that is not empty.
    by_concept = verdict.groupby(measured["concept"]).max()

    is_open = rows["status"] == ""
    found = exact.reindex(pd.MultiIndex.from_frame(rows.loc[is_open, quantity])).set_axis(rows.index[is_open])
    found = found.fillna(rows.loc[is_open, "concept"].map(by_concept))
    found = found.fillna("no starting total has been measured")
    rows.loc[is_open, "reason"] = found
    rows.loc[is_open, "status"] = np.where(found == "", "fit", "check")
    return rows


def _csv(table: pd.DataFrame) -> str:
    order = pd.Series(range(len(LEVELS)), index=list(LEVELS))
    out = table.assign(_level=table["geo_level"].map(order)).sort_values(
        ["_level", "variable", "reform_id", "geographic_id", "constraints", "period"], kind="stable"
    )
    out = out.assign(
        value=_plain_number(out["value"]),
        moe=_plain_number(out["moe"]),
        tolerance=_plain_number(out["tolerance"]),
    )
    return str(out[COLUMNS].to_csv(index=False, lineterminator="\n"))


def _plain_number(values: pd.Series) -> pd.Series:
    """Text of numbers without exponent or trailing zeros, to six places; NaN is empty."""
    text = pd.Series(np.char.mod("%.6f", values.to_numpy(float)), index=values.index)
    text = text.str.replace(r"\.?0+$", "", regex=True)
    return text.where(values.notna(), "")


def _read(text: str) -> pd.DataFrame:
    table = pd.read_csv(
        io.StringIO(text), dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values={"moe": [""]}
    )
    numbers = {"reform_id": np.int64, "period": np.int64, "value": float, "moe": float, "tolerance": float}
    return table.astype(numbers)


def _bundled(name: str) -> Path:
    return Path(str(resources.files("distcalib.targets").joinpath("bundled", name)))
