"""A survey and its targets as rows of a matrix: what each record adds to each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.documents.microcalibrate import Calibration
from distcalib.errors import InputError, raise_all

#: A variable that every survey has: 1 for each record.
COUNT = "count"
#: Cells of X, 16 bytes each while they are joined.
MOST_PAIRS = 100_000_000
NEEDED = ("variable", "value")
#: Rows of a column that are shown when they are wrong.
SHOWN = 5
#: Columns of a targets table that are no conditions.
SAID = ("name", "group", "source", "note")
_WEIGHT_NAMES = ("weight", "household_weight", "design_weight", "wt", "wgt", "pweight", "perwt", "hhwt")


@dataclass(frozen=True)
class Problem:
    """A survey and targets that fit each other.

    Attributes
    ----------
    survey
        Columns of numbers and text, one row a record.
    targets
        One row a target: name, group, variable, the conditions, value.
    X
        CSR float64 (n_targets, n_records).
    weights
        Design weights, float64 (n_records,).
    weight
        The column that they are; None: 1 each.
    run_seed
        Seed of the run that it is of; None: of tables.
    """

    survey: pd.DataFrame
    targets: pd.DataFrame
    X: sp.csr_array
    weights: NDArray[np.float64]
    weight: str | None
    run_seed: int | None = None

    @property
    def names(self) -> list[str]:
        """Names of the targets, each once."""
        return self.targets["name"].tolist()

    def calibration(self, **settings: Any) -> Calibration:
        """Return the calibration of the documents, which checks everything else."""
        return Calibration(
            self.weights, self.targets["value"].to_numpy(), self.X.T, target_names=self.names, **settings
        )

    def save(self, folder: Path) -> None:
        """Write what a fit needs, for `load` in another process; nothing in it is an object."""
        folder.mkdir(parents=True, exist_ok=True)
        sp.save_npz(folder / "X.npz", self.X, compressed=False)
        np.save(folder / "weights.npy", self.weights, allow_pickle=False)
        self.targets.to_parquet(folder / "targets.parquet")

    @classmethod
    def load(cls, folder: Path) -> Problem:
        """Read what `save` wrote; without the survey."""
        return cls(
            pd.DataFrame(), pd.read_parquet(folder / "targets.parquet"), sp.load_npz(folder / "X.npz"),
            np.load(folder / "weights.npy", allow_pickle=False), None,
        )  # fmt: skip


def weight_columns(survey: pd.DataFrame) -> list[str]:
    """Return the columns that can be weights, the likeliest first."""
    numbers = numeric(survey)
    able = [
        c for c in numbers if survey[c].notna().all() and (survey[c] >= 0).all() and (survey[c] > 0).any()
    ]
    return sorted(able, key=lambda c: (c.lower() not in _WEIGHT_NAMES, "weight" not in c.lower()))


def numeric(survey: pd.DataFrame) -> list[str]:
    """Return the columns of numbers."""
    return [c for c in survey if pd.api.types.is_numeric_dtype(survey[c])]


def id_columns(survey: pd.DataFrame) -> list[str]:
    """Return the columns that are ids by their names."""
    return [c for c in survey if c.lower() in ("id", "hhid") or c.lower().endswith("_id")]


def guess_weight(survey: pd.DataFrame) -> str | None:
    """Return the column that is the weight by its name; None where none is."""
    first = next(iter(weight_columns(survey)), "")
    return first if first.lower() in _WEIGHT_NAMES or "weight" in first.lower() else None


def template(survey: pd.DataFrame, weight: str | None) -> pd.DataFrame:
    """Return a targets table to start from: each amount of the survey with the total that it has now."""
    w = np.ones(len(survey)) if weight is None else survey[weight].to_numpy(np.float64)
    ids = id_columns(survey)
    amounts = [c for c in numeric(survey) if c not in (weight, *ids) and not c.lower().endswith("fips")]
    totals = [float(np.nansum(survey[c].to_numpy(np.float64) * w)) for c in amounts]
    return pd.DataFrame(
        {"variable": [COUNT, *amounts], "value": [float(w.sum()), *totals], "group": [COUNT, *amounts]}
    )


def build(
    survey: pd.DataFrame, targets: pd.DataFrame, weight: str | None, survey_name: str, targets_name: str
) -> Problem:
    """Join a survey and targets.

    Parameters
    ----------
    survey, targets
        As `distcalib.dashboard.tables.read_table` gives them. A target is the weighted total of `variable`
        (a numeric column of the survey, or ``count``) over the records that have the value of every other
        column of the table that is a column of the survey too; an empty cell is no condition.
    weight
        Column of the design weights; None: 1 each.
    survey_name, targets_name
        For errors.

    Raises
    ------
    InputError
        Names the file, the column, the row, the value and the nearest choice.
    """
    table, conditions = _checked(survey, targets, weight, survey_name, targets_name)
    row, record = _matches(survey, table, conditions, targets_name)
    variables = table["variable"].unique()
    amounts = np.column_stack(
        [survey[v] if v in numeric(survey) else np.ones(len(survey)) for v in variables]
    ).astype(np.float64)
    of = pd.Index(variables).get_indexer(table["variable"])
    cells = amounts[record, of[row]]
    bad = np.flatnonzero(~np.isfinite(cells))
    if len(bad):
        column = table["variable"].iloc[row[bad[0]]]
        raise InputError(
            f"{survey[column].isna().sum():,} values are missing",
            place=f"{survey_name}: {column}, row {record[bad[0]] + 2}",
            expected="a number for every record that counts for a target",
        )
    X = sp.csr_array((cells, (row, record)), shape=(len(table), len(survey)))
    X.eliminate_zeros()
    weights = np.ones(len(survey)) if weight is None else survey[weight].to_numpy(np.float64)
    table["name"] = _names(table, list(conditions), targets_name)
    if "group" not in table:
        table["group"] = table["variable"]
    table["group"] = table["group"].astype("str").where(table["group"].notna(), table["variable"])
    kept = ["name", "group", "variable", *conditions, "value"]
    return Problem(survey, table[kept].reset_index(drop=True), X, weights, weight)


def _checked(
    survey: pd.DataFrame, targets: pd.DataFrame, weight: str | None, survey_name: str, targets_name: str
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Return targets with values as numbers, and the conditions by column, of the kind of the survey's.

    All that is wrong is said at once, of each column the first `SHOWN` rows.
    """
    able = weight_columns(survey)
    wrong: list[InputError] = []
    if weight is not None and weight not in able:
        wrong.append(
            InputError(
                "cannot be the weight", place=survey_name, value=weight, choices=able,
                expected="a column of numbers of 0 or more, none missing",
            )
        )  # fmt: skip
    for column in NEEDED:
        if column not in targets:
            wrong.append(
                InputError(
                    f"lacks the column {column!r}", place=targets_name, choices=targets.columns,
                    value=column if len(targets.columns) < 1 else None,
                    expected=f"columns variable and value; it has {', '.join(map(str, targets.columns[:8]))}",
                )
            )  # fmt: skip
    for column in targets:
        if column not in (*NEEDED, *SAID) and column not in survey:
            wrong.append(
                InputError(
                    f"the column is neither one of {', '.join((*NEEDED, *SAID))} nor a column of "
                    f"{survey_name}",
                    place=f"{targets_name}: header", value=column,
                    choices=[*survey.columns, *NEEDED, *SAID],
                )
            )  # fmt: skip
    raise_all(wrong)
    value = pd.to_numeric(targets["value"], errors="coerce").astype(np.float64)
    wrong += _rows(targets["value"], np.isfinite(value), targets_name, "is no number",
                   expected="a total, such as 331000000")  # fmt: skip
    numbers = numeric(survey)
    variable = targets["variable"]
    able_here = {"choices": [*numbers, COUNT],
                 "expected": "a column of numbers, or count for the number of records"}  # fmt: skip
    known = variable.isin([*numbers, COUNT])
    text = variable.isin(survey.columns)
    wrong += _rows(variable, known | text, targets_name, f"is no column of {survey_name}", **able_here)
    wrong += _rows(variable, known | ~text, targets_name, "is a column of text", **able_here)
    conditions = {}
    for column in targets:
        if column in survey and column not in (*NEEDED, *SAID):
            wanted, held = targets[column], survey[column].dropna()
            if pd.api.types.is_numeric_dtype(held):
                asked = pd.to_numeric(wanted.replace({"True": 1, "False": 0}), errors="coerce")
                known = asked.isin(held.astype(np.float64))
            else:
                asked = wanted.astype("str").where(wanted.notna())
                known = asked.isin(held)
            shown = held.unique()
            wrong += _rows(
                wanted, known | wanted.isna(), targets_name, "no record of the survey has this value",
                choices=shown[:5000],
                expected=f"one of {', '.join(map(str, sorted(shown)[:8]))}{' ...' if len(shown) > 8 else ''}",
            )  # fmt: skip
            conditions[column] = asked
    raise_all(wrong)
    return targets.assign(value=value), conditions


def _rows(values: pd.Series, good: pd.Series, name: str, words: str, **more: Any) -> list[InputError]:
    """Return an error for each of the first rows that are not good."""
    bad = np.flatnonzero(~good)
    errors = []
    for number, row in enumerate(bad[:SHOWN].tolist(), 1):
        rest = f" ({len(bad) - SHOWN:,} more rows like it)" if number == SHOWN < len(bad) else ""
        value = values.iloc[row]
        errors.append(
            InputError(words + rest, place=f"{name}: {values.name}, row {row + 2}",
                       value="an empty cell" if pd.isna(value) else value, **more)
        )  # fmt: skip
    return errors


def _matches(
    survey: pd.DataFrame, table: pd.DataFrame, conditions: Mapping[str, pd.Series], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs (row of the table, record) where the record meets every condition of the row."""
    codes = {}
    for column, wanted in conditions.items():
        both = pd.concat([survey[column].astype(wanted.dtype), wanted], ignore_index=True)
        codes[column] = pd.factorize(both)[0]
    n = len(survey)
    given = table[list(conditions)].notna().to_numpy()
    rows, records, most = [], [], MOST_PAIRS
    # One pass for each set of conditions that occurs, however many targets have it.
    for pattern in np.unique(given, axis=0):
        used = [column for column, asked in zip(conditions, pattern, strict=True) if asked]
        those = np.flatnonzero((given == pattern).all(axis=1))
        most -= _pairs(codes, used, those, n)
        if most < 0:
            raise InputError(
                "too many records count for too many targets", place=name, value=f"over {MOST_PAIRS:,} pairs",
                expected="fewer targets over all records, or a notebook",
            )  # fmt: skip
        if not used:
            rows.append(np.repeat(those, n))
            records.append(np.tile(np.arange(n), len(those)))
            continue
        keys = pd.DataFrame({c: codes[c] for c in used}).groupby(used).ngroup().to_numpy()
        left = pd.DataFrame({"key": keys[n:][those], "row": those})
        right = pd.DataFrame({"key": keys[:n], "record": np.arange(n)})
        right = right[pd.DataFrame({c: codes[c][:n] for c in used}).ge(0).all(axis=1)]
        pairs = left.merge(right, on="key")
        rows.append(pairs["row"].to_numpy())
        records.append(pairs["record"].to_numpy())
    return np.concatenate(rows).astype(np.int64), np.concatenate(records).astype(np.int64)


def _pairs(codes: dict[str, Any], used: list[str], those: NDArray[np.int64], n: int) -> int:
    """Return how many records count for these rows together."""
    if not used:
        return n * len(those)
    keys = pd.DataFrame({c: codes[c] for c in used}).groupby(used).ngroup()
    held = keys[:n].value_counts()
    return int(held.reindex(keys[n:].iloc[those]).fillna(0).sum())


def _names(table: pd.DataFrame, conditions: Sequence[str], place: str) -> pd.Series:
    names = table["variable"].astype("str")
    for column in conditions:
        said = (
            " "
            + column
            + "="
            + table[column].map(lambda v: str(int(v)) if isinstance(v, float) and v.is_integer() else str(v))
        )
        names = names + said.where(table[column].notna(), "")
    if "name" in table:
        names = table["name"].astype("str").where(table["name"].notna(), names)
    again = names.duplicated()
    if again.any():
        number = int(np.flatnonzero(again)[0])
        raise InputError(
            "is the same target as a row before it", place=f"{place}: row {number + 2}",
            value=names.iloc[number], expected="each once",
        )  # fmt: skip
    return names
