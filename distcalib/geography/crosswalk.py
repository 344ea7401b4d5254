"""What follows from a block: place, PUMA, ZCTA, legislative and voting districts, metropolitan area."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.geography.assignment import FIELDS, GeographyAssignment
from distcalib.geography.blocks import BLOCK, block_ids, opener, read_columns

# Columns of county files: the five-digit county, or the two parts of it, as the NBER publishes them.
_COUNTY = ("county_fips", "fipsstatecode", "fipscountycode")
_CBSA = ("cbsa_code", "cbsacode")


def derive(
    assignment: GeographyAssignment, crosswalk: str | Path | None = None, cbsa: str | Path | None = None
) -> tuple[GeographyAssignment, list[str]]:
    """Add to an assignment what a crosswalk says of its blocks and counties.

    Parameters
    ----------
    assignment
        With blocks, where there is a crosswalk.
    crosswalk
        CSV file (``.gz`` or plain) with block_geoid and any of place_fips, puma, zcta, sldu, sldl, vtd and
        cbsa_code; an empty cell means that the block is in none. Columns that are absent are left out.
    cbsa
        CSV file of counties with county_fips (or fipsstatecode and fipscountycode) and cbsa_code (or
        cbsacode); a county that is not in it is in no metropolitan or micropolitan area.

    Returns
    -------
    assignment : GeographyAssignment
        With `derived`, if there is any file.
    notes : list of str
        Blocks that the crosswalk lacks, with their number, and fields that the rules engine would take for
        something else.

    Raises
    ------
    InputError
        When a file has no usable column, a block or county twice, a value that is not a code, or none of the
        blocks or counties in use; when there is a crosswalk and no blocks.
    """
    places, notes = np.unique(assignment.finest()), []
    fields: dict[str, NDArray[Any] | pd.Categorical] = {}
    if crosswalk is not None:
        if not assignment.block_geoid.any():
            raise InputError("needs blocks: a crosswalk says nothing of counties", place=crosswalk)
        found, fields = _of_blocks(crosswalk, places)
        lacking = int((~found & (places % 10**10 > 0)).sum())
        if lacking == len(places):
            raise InputError("has none of the blocks in use", place=crosswalk, value=f"{places[0]:015d}")
        if lacking:
            notes.append(
                f"{crosswalk} lacks {lacking} of the {len(places)} blocks in use: their codes are empty"
            )
    if cbsa is not None:
        if "cbsa_code" in fields:
            raise InputError("cbsa_code is in the crosswalk too", place=cbsa, expected="one of them")
        fields["cbsa_code"] = _of_counties(cbsa, places // 10**10)
    if assignment.block_geoid.any() and "place_fips" not in fields:
        notes.append(
            "blocks without place_fips: policyengine-us takes their households to live outside every place, "
            "which decides local sales tax"
        )
    return (assignment.with_derived(places, fields) if fields else assignment), notes


def _of_blocks(path: str | Path, places: NDArray[np.int64]) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """Read the rows of the places in use alone, so that memory goes by these and not by the file."""
    import pyarrow as pa

    coded = pa.dictionary(pa.int32(), pa.string())
    wanted = dict.fromkeys(BLOCK, pa.int64()) | dict.fromkeys(FIELDS, coded)
    rows, tables = [], []
    for batch in read_columns(str(path), opener(path), wanted, FIELDS):
        if not set(BLOCK) & set(batch.schema.names):
            raise InputError("lacks a column", place=path, expected=f"one of {', '.join(BLOCK)}")
        ids = block_ids(batch, str(path))
        at = np.searchsorted(places, ids).clip(max=len(places) - 1)
        here = places[at] == ids
        rows.append(at[here])
        names = [name for name in FIELDS if name in batch.schema.names]
        tables.append(pa.Table.from_batches([batch.select(names).filter(pa.array(here))]))
    at = np.concatenate(rows)
    found = np.bincount(at, minlength=len(places))
    if (found > 1).any():
        raise InputError("has a block twice", place=path, value=f"{places[found > 1][0]:015d}")
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    fields = {}
    for name in table.schema.names:
        column = table.column(name).combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        words = np.array(["", *column.dictionary.to_pylist()], dtype=object)
        code = np.zeros(len(places), dtype=np.int64)
        code[at] = column.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        fields[name] = _codes(words, code, f"{path}: {name}")
    return found > 0, fields


def _of_counties(path: str | Path, counties: NDArray[np.int64]) -> pd.Categorical:
    import pyarrow as pa

    wanted = dict.fromkeys(_COUNTY, pa.int64()) | dict.fromkeys(_CBSA, pa.string())
    batches = list(read_columns(str(path), opener(path), wanted, _CBSA))
    table = pa.Table.from_batches(batches).to_pandas()
    names = set(table)
    if "county_fips" in names:
        table["county"] = table["county_fips"]
    elif {"fipsstatecode", "fipscountycode"} <= names:
        table["county"] = table["fipsstatecode"] * 1000 + table["fipscountycode"]
    else:
        raise InputError(
            "lacks a column", place=path, expected="county_fips, or fipsstatecode and fipscountycode"
        )
    table["cbsa"] = table[next(n for n in _CBSA if n in names)].fillna("").astype(object)
    table = table[["county", "cbsa"]].dropna()
    if table["county"].duplicated().any():
        twice = table["county"][table["county"].duplicated()].iloc[0]
        raise InputError("has a county twice", place=path, value=f"{int(twice):05d}")
    by_county = table.set_index("county")["cbsa"].reindex(counties)
    if by_county.isna().all():
        raise InputError("has none of the counties in use", place=path, value=f"{counties[0]:05d}")
    code, words = pd.factorize(by_county.fillna("").to_numpy(dtype=object))
    return _codes(np.asarray(words, dtype=object), code, f"{path}: cbsa_code")


def _codes(words: NDArray[Any], code: NDArray[Any], place: str) -> pd.Categorical:
    """Return codes as a categorical with sorted categories, after a look at what is in use."""
    used, code = np.unique(code, return_inverse=True)
    words = words[used].astype(str)
    for word in words.tolist():
        if not (word == "" or (word.isascii() and word.replace("-", "").isalnum())):
            raise InputError("is not a code", place=place, value=word, expected="digits or letters")
    names, again = np.unique(words, return_inverse=True)
    return pd.Categorical.from_codes(again[code], categories=names.astype(object))
