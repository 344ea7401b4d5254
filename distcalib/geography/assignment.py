"""`GeographyAssignment`: where every column of the matrix lives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.digest import digest_arrays
from distcalib.errors import InputError

ARRAYS = {"state_fips": np.int32, "cd_geoid": np.int32, "county_fips": np.int32, "block_geoid": np.int64}

# Codes that a crosswalk adds to a block, under the names of the rules engine's inputs. All are text.
FIELDS = ("place_fips", "puma", "zcta", "sldu", "sldl", "vtd", "cbsa_code")


@dataclass(frozen=True)
class GeographyAssignment:
    """Where every column of the matrix lives; ``column = clone * n_records + record``.

    Attributes
    ----------
    block_geoid
        int64, 15-digit census block, 0 where no block is known (never invented).
    cd_geoid
        int32, state FIPS x 100 + district.
    county_fips
        int32, 5-digit county, 0 where the county is left unset.
    state_fips
        int32.
    n_records, n_clones
        Households of the microdata, and clones of each.
    derived
        What a crosswalk says of the places in use: one row for each distinct value of `finest`, which is the
        index, ascending; categorical text columns, some of `FIELDS`; ``""`` where a place has no such code.
        None without a crosswalk.
    """

    block_geoid: NDArray[np.int64]
    cd_geoid: NDArray[np.int32]
    county_fips: NDArray[np.int32]
    state_fips: NDArray[np.int32]
    n_records: int
    n_clones: int
    derived: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        n = self.n_records * self.n_clones
        for name in ARRAYS:
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name}: shape {getattr(self, name).shape}, expected ({n},)")

    @property
    def n_columns(self) -> int:
        """Number of columns, ``n_records * n_clones``."""
        return self.n_records * self.n_clones

    @property
    def record(self) -> NDArray[np.int64]:
        """Position in the microdata of each column's household."""
        return np.arange(self.n_columns) % self.n_records

    @property
    def clone(self) -> NDArray[np.int64]:
        """Clone number of each column."""
        return np.arange(self.n_columns) // self.n_records

    def finest(self, columns: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return the smallest known place of some `columns` (None: of all), int64.

        The census block, or county x 10^10 where only the county is known.
        """
        at = slice(None) if columns is None else np.asarray(columns)
        county = self.county_fips[at].astype(np.int64) * 10**10
        return np.where(self.block_geoid[at] > 0, self.block_geoid[at], county)

    def fields(self, columns: ArrayLike | None = None) -> dict[str, pd.Categorical]:
        """Return the crosswalk's codes of some columns (None: of all), by name; none without a crosswalk."""
        if self.derived is None:
            return {}
        at = self.derived.index.get_indexer(self.finest(columns))
        if (at < 0).any():
            raise ValueError("derived lacks a place in use")
        return {name: self.derived[name].array[at] for name in self.derived}

    def digest(self) -> str:
        """Return the content digest."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays["n"] = np.array([self.n_records, self.n_clones])
        if self.derived is not None:
            arrays["derived"] = self.derived.index.to_numpy(np.int64)
            arrays |= {f"derived/{name}": as_bytes(self.derived[name].array) for name in self.derived}
        return digest_arrays(arrays)

    def frame(self, household_id: ArrayLike) -> pd.DataFrame:
        """Return the table that a run stores as ``columns.parquet``, one row a column.

        `household_id` has the id of each household of the microdata, shape (n_records,).
        """
        ids = np.asarray(household_id, dtype=np.int64)
        return pd.DataFrame(
            {
                "column": np.arange(self.n_columns, dtype=np.int64),
                "clone": self.clone.astype(np.int32),
                "record": self.record.astype(np.int32),
                "household_id": ids[self.record],
                **{name: getattr(self, name) for name in ARRAYS},
                **self.fields(),
            }
        )

    @classmethod
    def from_frame(cls, table: pd.DataFrame) -> GeographyAssignment:
        """Return the assignment whose `frame` is `table`, its rows in any order.

        Other columns are passed over.

        Raises
        ------
        InputError
            When clone and record do not name every column once.
        """
        records, clones = (int(table[name].max()) + 1 for name in ("record", "clone"))
        column = table["clone"].to_numpy(np.int64) * records + table["record"].to_numpy(np.int64)
        if not np.array_equal(np.sort(column), np.arange(records * clones)):
            raise InputError(
                "do not name every column once",
                place="columns: clone and record",
                value=f"{len(table)} rows",
                expected=f"one row for each of {clones} clones of {records} records",
            )
        table = table.iloc[np.argsort(column)]
        bare = cls(
            **{name: table[name].to_numpy(kind) for name, kind in ARRAYS.items()},
            n_records=records,
            n_clones=clones,
        )
        names = [name for name in FIELDS if name in table]
        if not names:
            return bare
        places, first = np.unique(bare.finest(), return_index=True)
        return bare.with_derived(places, {name: table[name].iloc[first] for name in names})

    def with_derived(self, places: ArrayLike, fields: dict[str, Any]) -> GeographyAssignment:
        """Return a copy that carries these codes of the ascending `places`, each array as long as they."""
        coded = {name: pd.Categorical(values).remove_unused_categories() for name, values in fields.items()}
        derived = pd.DataFrame(coded, index=pd.Index(places, dtype=np.int64, name="place"))
        return GeographyAssignment(
            **{name: getattr(self, name) for name in ARRAYS},
            n_records=self.n_records,
            n_clones=self.n_clones,
            derived=derived,
        )

    def save(self, path: str | Path) -> None:
        """Write a ``geography_assignment.npz`` to `path`, complete or not at all.

        Arrays: block_geoid (U15) and county_fips (U5), empty where unknown; cd_geoid (U4); state_fips
        (int64); n_records and n_clones (shape (1,)); with a crosswalk its codes too.
        """
        from distcalib.geography.saved import save_assignment

        save_assignment(self, path)

    @classmethod
    def load(cls, path: str | Path) -> GeographyAssignment:
        """Read a ``geography_assignment.npz`` from `path`, also one that PolicyEngine's pipeline wrote.

        Raises
        ------
        InputError
            Names file and key: an array that is missing or too short, a code or district that does not exist,
            a block, county or district that does not lie where the others say.
        """
        from distcalib.geography.saved import load_assignment

        return load_assignment(path)


def as_bytes(values: pd.Categorical) -> NDArray[np.bytes_]:
    """Return codes as fixed-width bytes, at least one wide."""
    used = values.remove_unused_categories()
    words = np.array([str(word).encode() for word in used.categories] or [b""], dtype="S")
    return words[used.codes].astype(f"S{max(words.dtype.itemsize, 1)}")


def digits(numbers: ArrayLike, width: int) -> NDArray[np.bytes_]:
    """Return numbers as bytes of decimal digits with leading zeros; 0 (unknown) becomes empty.

    >>> digits([1001, 0], 5).tolist()
    [b'01001', b'']
    """
    rest = np.array(numbers, dtype=np.int64)
    known = rest > 0
    out = np.zeros((len(rest), width), dtype=np.uint8)
    for place in range(width - 1, -1, -1):
        out[known, place] = rest[known] % 10 + ord("0")
        rest //= 10
    return out.view(f"S{width}")[:, 0]
