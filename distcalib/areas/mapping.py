"""Which donor, clone and column stands behind each household of an area's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from distcalib.areas.area import Area
from distcalib.geography.assignment import GeographyAssignment
from distcalib.microdata.model import Microdata
from distcalib.storage import publish

# Rows that are in memory at once, and of a row group.
ROWS = 250_000


def mapping_of(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: NDArray[np.int64],
    household_id: NDArray[np.int64],
) -> pa.Table:
    """Return the mapping of some households of a file, one row each, whole numbers all.

    Parameters
    ----------
    source, assignment
        The donors, the placement.
    columns, household_id
        Column and id in the file of each household, int64, (k,).

    Returns
    -------
    Table
        new_household_id, original_household_id (the donor's), clone, column, congressional_district,
        state_fips, county_fips (0 where the county is unset).
    """
    return pa.table(
        {
            "new_household_id": household_id,
            "original_household_id": source.ids["household"][columns % assignment.n_records],
            "clone": (columns // assignment.n_records).astype(np.int32),
            "column": columns,
            "congressional_district": assignment.cd_geoid[columns],
            "state_fips": assignment.state_fips[columns],
            "county_fips": assignment.county_fips[columns],
        }
    )


def write_mapping(
    folder: Path,
    area: Area,
    source: Microdata,
    assignment: GeographyAssignment,
    columns: NDArray[np.int64],
    household_id: NDArray[np.int64],
) -> None:
    """Write the mapping of an area as CSV and as Parquet, in the order of its file; see `mapping_of`.

    Parameters
    ----------
    folder, area
        The run folder, and the area, which names the two files.
    source, assignment, columns, household_id
        As `mapping_of` takes them.
    """

    def rows(start: int) -> pa.Table:
        some = slice(start, start + ROWS)
        return mapping_of(source, assignment, columns[some], household_id[some])

    schema, starts = rows(0).schema, range(0, len(columns), ROWS)

    def as_csv(path: Path) -> None:
        plain: Any = pyarrow.csv.WriteOptions(include_header=False)
        with open(path, "wb") as file:
            file.write((",".join(schema.names) + "\n").encode())
            for start in starts:
                pyarrow.csv.write_csv(rows(start), file, plain)

    def as_parquet(path: Path) -> None:
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for start in starts:
                writer.write_table(rows(start))

    publish(folder / area.mapping, as_csv)
    publish(folder / area.mapping_parquet, as_parquet)
