"""`MatrixTracer`: from rows to targets and from columns to households in districts, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.documents.everywhere import household_ids
from distcalib.errors import InputError
from distcalib.targets.groups import create_target_groups

_WIDE, _THIN = "=" * 80, "-" * 80
# Districts that are printed at either end of a long list.
_ENDS = 5
# Columns of targets that are looked at.
_TOLD = ["variable", "geographic_id", "value", "stratum_id", "stratum_group_id"]


class MatrixTracer:
    """Look up what the rows, columns and cells of a `SparseMatrixBuilder`'s matrix are.

    Parameters
    ----------
    targets_df, X_sparse, household_id_mapping
        What `SparseMatrixBuilder.build_matrix` returned.
    cds_to_calibrate
        Districts of the column blocks, in their order.
    sim
        The simulation that the matrix was built with.

    Raises
    ------
    InputError
        When these do not belong together.
    """

    def __init__(
        self,
        targets_df: pd.DataFrame,
        X_sparse: sparse.csr_matrix,
        household_id_mapping: Mapping[str, np.ndarray],
        cds_to_calibrate: Iterable[object],
        sim: Any,
    ) -> None:
        mapping, cds = household_id_mapping, cds_to_calibrate
        for argument, given, right, expected in (
            ("targets_df", targets_df, isinstance(targets_df, pd.DataFrame), "a DataFrame"),
            ("X_sparse", X_sparse, sparse.issparse(X_sparse), "a sparse matrix"),
            ("household_id_mapping", mapping, isinstance(mapping, Mapping), "a dict"),
            ("cds_to_calibrate", cds, isinstance(cds, Iterable) and not isinstance(cds, str), "a list"),
            ("sim", sim, hasattr(sim, "calculate"), "a simulation"),
        ):
            if not right:
                raise InputError("is of another kind", place=argument, value=given, expected=expected)
        for column in _TOLD:
            if column not in targets_df:
                raise InputError(
                    "lacks a column", place="targets_df", value=column, choices=targets_df.columns
                )
        self.targets_df = targets_df.reset_index(drop=True)
        self.X_sparse = X_sparse.tocsr()
        self.cds = [str(cd) for cd in cds]
        self.household_ids = household_ids(sim)
        if list(mapping) != self.cds:
            raise InputError(
                "not the districts of the matrix, in its order", place="MatrixTracer", value=self.cds
            )
        for cd, ids in mapping.items():
            if not np.array_equal(ids, self.household_ids):
                raise InputError("not the households of the simulation", place="MatrixTracer", value=cd)
        meant = (len(targets_df), len(self.cds) * self.n_households)
        if X_sparse.shape != meant:
            raise InputError("X_sparse has another shape", value=X_sparse.shape, expected=str(meant))
        self._rows = _describe(self.targets_df)
        self._groups: tuple[np.ndarray, list[str]] = create_target_groups(self.targets_df, verbose=False)

    @property
    def n_households(self) -> int:
        """Number of households in each block of columns."""
        return len(self.household_ids)

    def get_row_info(self, row_idx: int) -> dict[str, Any]:
        """Return what the row `row_idx` (from 0) is.

        Returns
        -------
        dict
            row_index, variable, variable_desc, geographic_id, target_value, stratum_id, stratum_group_id.

        Raises
        ------
        InputError
            Here as in every method for a number that is none, or that no row, column, group or household has.
        """
        return self._rows.iloc[_within(row_idx, len(self._rows), "row_idx")].to_dict()

    def get_column_info(self, col_idx: int) -> dict[str, Any]:
        """Return what the column `col_idx` is: column_index, cd_geoid, household_id, household_index."""
        column = _within(col_idx, self.X_sparse.shape[1], "col_idx")
        district, household = divmod(column, self.n_households)
        return {
            "column_index": column,
            "cd_geoid": self.cds[district],
            "household_id": int(self.household_ids[household]),
            "household_index": household,
        }

    def lookup_matrix_cell(self, row_idx: int, col_idx: int) -> dict[str, Any]:
        """Return the cell at `row_idx`, `col_idx`.

        A dict of value (float, in the target's unit), row (as `get_row_info`), column (as `get_column_info`).
        """
        row, column = self.get_row_info(row_idx), self.get_column_info(col_idx)
        value = float(self.X_sparse[row["row_index"], column["column_index"]])
        return {"value": value, "row": row, "column": column}

    def get_household_column_positions(self, household_id: int) -> dict[str, int]:
        """Return the columns of the household `household_id`: district -> column."""
        place, ids = "household_id", self.household_ids
        number = _whole(household_id, place, "an id such as " + ", ".join(map(str, ids[:3])), ids)
        found = np.flatnonzero(ids == number)
        if not found.size:
            raise InputError("no household has this id", place=place, value=number, choices=ids)
        return {cd: i * self.n_households + int(found[0]) for i, cd in enumerate(self.cds)}

    def get_group_rows(self, group_id: int) -> pd.DataFrame:
        """Return the rows of the group `group_id` (see `create_target_groups`), as in `get_row_info`."""
        labels = self._groups[1]
        group = _within(group_id, len(labels), "group_id", labels)
        return self._rows[self._groups[0] == group].reset_index(drop=True)

    def trace_household_targets(self, household_id: int) -> pd.DataFrame:
        """Return every nonzero cell of the household `household_id`, by column and row.

        Returns
        -------
        DataFrame
            cd_geoid, column_index, value (the cell), and what `get_row_info` gives for its row.
        """
        positions = self.get_household_column_positions(household_id)
        at = np.array(list(positions.values()))
        cells = sparse.coo_array(sparse.csc_array(self.X_sparse[:, at]))
        order = np.lexsort((cells.row, cells.col))
        block, row = cells.col[order], cells.row[order]
        placed = pd.DataFrame(
            {"cd_geoid": np.array(self.cds)[block], "column_index": at[block], "value": cells.data[order]}
        )
        return pd.concat([placed, self._rows.iloc[row].reset_index(drop=True)], axis=1)

    def print_matrix_structure(self) -> None:
        """Print the dimensions, the blocks of columns, and the groups of rows."""
        n_rows, n_columns = self.X_sparse.shape
        n, d = self.n_households, len(self.cds)
        lines = ["", *_title("MATRIX STRUCTURE BREAKDOWN"), ""]
        lines += [f"Matrix dimensions: {n_rows} rows x {n_columns} columns", f"  Rows = {n_rows} targets"]
        lines += [f"  Columns = {n} households x {d} CDs", f"           = {n:,} x {d} = {n_columns:,}", ""]
        lines += [*_title("COLUMN STRUCTURE (Households stacked by CD)", _THIN), ""]
        blocks = self._blocks()
        if d > 2 * _ENDS:
            lines += [f"Showing first and last {_ENDS} CDs of {d} total:", "", f"First {_ENDS} CDs:"]
            lines += [blocks.head(_ENDS).to_string(index=False), "", f"Last {_ENDS} CDs:"]
            blocks = blocks.tail(_ENDS)
        lines += [blocks.to_string(index=False), "", *_title("ROW STRUCTURE (Targets)", _THIN), ""]
        lines += [f"Total targets: {n_rows}", "", "Targets by stratum group:"]
        by_group = self.targets_df.groupby("stratum_group_id", dropna=False)["variable"]
        lines += [by_group.agg(n_targets="count", n_unique_vars="nunique").to_string(), ""]
        print("\n".join([*lines, *_title("TARGET GROUPS (for loss calculation)", _THIN)]))
        ids, labels = create_target_groups(self.targets_df)
        for group, label in enumerate(labels):
            print(f"  {label} - rows {_listed(np.flatnonzero(ids == group))}")
        print("\n" + _WIDE)

    def print_row_catalog(self, max_rows: int = 50) -> None:
        """Print what the first `max_rows` rows are."""
        self._print("ROW CATALOG", self._rows, max_rows)

    def print_column_catalog(self, max_rows: int = 50) -> None:
        """Print what the first `max_rows` columns are."""
        at = np.arange(min(_within(max_rows, None, "max_rows"), self.X_sparse.shape[1]))
        table = pd.DataFrame(
            {
                "column_index": at,
                "cd_geoid": np.array(self.cds)[at // self.n_households],
                "household_id": self.household_ids[at % self.n_households],
                "household_index": at % self.n_households,
            }
        )
        self._print("COLUMN CATALOG", table, max_rows, self.X_sparse.shape[1])

    def _blocks(self) -> pd.DataFrame:
        starts = np.arange(len(self.cds)) * self.n_households
        return pd.DataFrame(
            {
                "cd_geoid": self.cds,
                "start_col": starts,
                "end_col": starts + self.n_households - 1,
                "n_households": self.n_households,
            }
        )

    def _print(self, title: str, table: pd.DataFrame, most: int, size: int | None = None) -> None:
        size = len(table) if size is None else size
        shown = table.head(_within(most, None, "max_rows"))
        print("\n".join(["", *_title(title), "", shown.to_string(index=False)]))
        if size > len(shown):
            print(f"\n... and {size - len(shown):,} more of {size:,}")


def _describe(targets: pd.DataFrame) -> pd.DataFrame:
    """One row a target, with the keys of `get_row_info` in their order."""
    descriptions = {name: _description(name) for name in targets["variable"].unique()}
    table = targets.assign(
        row_index=np.arange(len(targets)), variable_desc=targets["variable"].map(descriptions)
    )
    keys = ["row_index", "variable", "variable_desc", *_TOLD[1:]]
    return table[keys].rename(columns={"value": "target_value"}).astype(object)


def _description(variable: str) -> str:
    """The rules engine's label of a variable or of each term of a sum; words for a count."""
    if variable in COUNTS:
        return f"Number of {COUNTS[variable].replace('_', ' ')}s"
    return " + ".join(catalogue().get(term).label or term for term in terms(variable))


def _whole(value: object, argument: str, expected: str, choices: Iterable[object] = ()) -> int:
    """Return a whole number that a user gave, as a number of any type or as text."""
    try:
        number = int(value)  # type: ignore[call-overload]
        if isinstance(value, str) or number == value:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError("is not a whole number", place=argument, value=value, expected=expected, choices=choices)


def _within(value: object, size: int | None, argument: str, choices: Iterable[object] = ()) -> int:
    """Return a number from 0 to below size; None: without end."""
    expected = "0 or more" if size is None else f"0 to {size - 1}"
    number = _whole(value, argument, expected, choices)
    if number < 0 or (size is not None and number >= size):
        raise InputError("is out of range", place=argument, value=number, expected=expected)
    return number


def _title(words: str, line: str = _WIDE) -> list[str]:
    return [line, words, line]


def _listed(rows: np.ndarray) -> str:
    """Row numbers as ``[1, 2, 3, ..., 50, 51]``."""
    words = [str(row) for row in rows.tolist()]
    return f"[{', '.join(words if len(words) <= 6 else [*words[:3], '...', *words[-2:]])}]"
