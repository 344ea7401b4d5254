"""Every target of a run or of a database: what is fitted, checked or excluded, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.config import RunConfig, presets
from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_FIPS
from distcalib.runs.folder import stored_plan
from distcalib.runs.plan import read_run_targets

STATUSES = ("fit", "check", "excluded")
#: What a list shows of each target, and what can be counted by.
SHOWN = ("target_id", "name", "value", "period", "status", "reason")
COUNTED = ("status", "geo_level", "variable", "domain_variable", "reason", "period", "reform_id")


def list_targets(source: str | Path, changes: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Return all targets, excluded ones too: the columns of ``targets.parquet``, rows of X first.

    Parameters
    ----------
    source
        A run folder (its tables are read), a preset or settings file, or a target database: ``bundled``, a
        SQLite file, a SQLAlchemy URL.
    changes
        Settings in place of the source's, as `RunConfig.load` takes them; a run folder has none.

    Raises
    ------
    InputError
        For a source that is none of these, and for whatever reading the targets refuses.
    """
    text, folder = str(source), Path(source)
    if "://" not in text and folder.is_dir():
        if stored_plan(folder) is None:
            raise InputError("holds no plan.json", place=folder, expected="the folder of a run")
        if changes:
            raise InputError("cannot change what a run has done", place="--set", value=next(iter(changes)))
        try:
            parts = [pd.read_parquet(folder / f"{name}.parquet") for name in ("targets", "excluded")]
        except (OSError, ValueError) as error:
            words = f"has no tables of targets that can be read ({error})"
            raise InputError(words, place=folder, expected="those that a run writes") from None
    else:
        if text in presets() or folder.suffix in (".yaml", ".yml"):
            config = RunConfig.load(text, changes)
        else:
            config = RunConfig.load(None, {"targets.database": text, **(changes or {})})
        found = read_run_targets(config)
        parts = [found.rows, found.excluded]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def choose(
    targets: pd.DataFrame,
    *,
    status: Sequence[str] = (),
    variable: Sequence[str] = (),
    level: Sequence[str] = (),
    area: Sequence[str] = (),
    words: str = "",
) -> pd.DataFrame:
    """Return the targets that meet every filter that is given; each is met by any of its values.

    `area` is US, a state (CA, 6) or a district in any spelling; `words` a part of the name or the reason,
    whatever its case.

    Raises
    ------
    InputError
        For a variable that no target has, with the nearest, and an area that does not exist.
    """
    kept = np.ones(len(targets), dtype=bool)
    for column, wanted in (("status", status), ("variable", variable), ("geo_level", level)):
        if not wanted:
            continue
        there = targets[column].astype(str).unique()
        for value in wanted:
            if column == "variable" and value not in there:
                raise InputError("no target has it", place="--variable", value=value, choices=there)
        kept &= targets[column].isin(wanted).to_numpy()
    if area:
        kept &= targets["geographic_id"].astype(str).isin([_area(one) for one in area]).to_numpy()
    if words:
        text = (targets["name"].astype(str) + "\n" + targets["reason"].fillna("").astype(str)).str.lower()
        kept &= text.str.contains(words.lower(), regex=False).to_numpy()
    return targets[kept].reset_index(drop=True)


def _area(text: str) -> str:
    words = text.strip().upper()
    if words == "US":
        return "US"
    if words in STATE_FIPS:
        return str(STATE_FIPS[words])
    if words.isdecimal() and int(words) < 100:
        return str(int(words))
    return str(District.parse(text, known=districts()["cd_geoid"].tolist()).geoid)


def count_targets(targets: pd.DataFrame, by: Sequence[str] = ("status",)) -> pd.DataFrame:
    """Return how many targets there are of each combination of `COUNTED` columns, most first."""
    for one in by:
        if one not in COUNTED:
            raise InputError("cannot be counted by", place="--by", value=one, choices=COUNTED,
                             expected=f"some of {', '.join(COUNTED)}")  # fmt: skip
    table = targets[list(by)].fillna("").astype(str)
    counts = table.groupby(list(by), sort=True).size().rename("targets").reset_index()
    return counts.sort_values("targets", ascending=False, kind="stable", ignore_index=True)


def explain_target(targets: pd.DataFrame, text: str) -> list[dict[str, Any]]:
    """Return all that is known of the targets of a name or a target_id; usually of one.

    Raises
    ------
    InputError
        When there is none, with the nearest names.
    """
    names = targets["name"].astype(str)
    hit = (targets["target_id"].astype(str) == text) if text.isdecimal() else names == text
    if not hit.any():
        raise InputError(
            "there is no such target", value=text, choices=names, expected="a target_id or a name"
        )
    return [{str(k): v for k, v in row.items() if not _nothing(v)} for row in targets[hit].to_dict("records")]


def _nothing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))
