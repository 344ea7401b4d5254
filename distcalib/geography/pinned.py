"""Households that stay in one state: read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.geography.blocks import opener, read_columns
from distcalib.geography.states import STATE_CODES, STATE_FIPS


def read_pinned(path: str | Path, household_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read which households stay in one state.

    Parameters
    ----------
    path
        CSV file (``.gz`` or plain) with household_id and state: a code such as NC, or FIPS.
    household_id
        Ids of the microdata, shape (n_records,).

    Returns
    -------
    ndarray of int64, shape (n_records,)
        FIPS code of the state, 0 for a household that the file does not name.

    Raises
    ------
    InputError
        For a file that cannot be read, an unknown state, and a household that is unknown or named twice.
    """
    import pyarrow as pa

    place = str(path)
    wanted = {"household_id": pa.int64(), "state": pa.string()}
    batches = [b.to_pandas() for b in read_columns(place, opener(path), wanted, ("household_id",))]
    table = pd.concat(batches, ignore_index=True)
    if "state" not in table:
        raise InputError("lacks a column", place=place, value="state", choices=table.columns)
    line = table.index + 2

    def refuse(bad: pd.Series, words: str, column: str, expected: str, choices: object = ()) -> None:
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise InputError(
                words,
                place=f"{place}: line {line[at]}: {column}",
                value=str(table[column][at]),
                expected=expected,
                choices=list(choices),  # type: ignore[call-overload]
            )

    # An empty cell makes the whole column of ids float64.
    ids = pd.to_numeric(table["household_id"]).astype("Int64")
    known = ids.isin(household_id).fillna(False).astype(bool)
    refuse(~known, "is no household of the microdata", "household_id", "an id of the microdata")
    refuse(ids.duplicated(), "is named twice", "household_id", "one state a household")
    words = table["state"].fillna("").str.strip().str.upper()
    numbers = {text: fips for fips in STATE_CODES for text in (str(fips), f"{fips:02d}")}
    fips = words.map(STATE_FIPS | numbers)
    refuse(fips.isna(), "is no state", "state", "a state's code or FIPS", STATE_CODES.values())
    pinned = pd.Series(fips.to_numpy(np.int64), ids.to_numpy(np.int64))
    return pinned.reindex(household_id, fill_value=0).to_numpy(np.int64)
