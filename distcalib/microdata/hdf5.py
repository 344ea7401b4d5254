"""PolicyEngine HDF5 files: one dataset ``{variable}/{period}`` for each variable and period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import InputError
from distcalib.microdata.hdf5_stream import HDF5Stream, count_columns
from distcalib.microdata.model import ID_COLUMNS, Microdata, normalise
from distcalib.microdata.validate import positions_of, validate
from distcalib.storage import TRIES, publish

#: Bytes of texts of variable length that are read at once where nobody knows how long they are.
_TEXTS = 1 << 28


def read_hdf5(path: str | Path, period: int | None = None) -> Microdata:
    """Read a PolicyEngine dataset and check that it is sound.

    Parameters
    ----------
    path
        HDF5 file with ``{variable}/{period}`` datasets, or with one dataset ``{variable}`` each, which are
        then of `period`.
    period
        Year to take as the microdata's own; by default the latest year of ``household_weight``.

    Raises
    ------
    InputError
        When the file is missing, truncated, not HDF5 or a pandas HDFStore, when ids or links are missing,
        repeated or dangling, and when a column has the wrong length, NaN, or (weights) negative values.
    """
    file = Path(path)
    if not file.is_file():
        if file.is_dir():
            held = ", ".join(sorted(p.name for p in file.glob("*.h5"))[:8])
            raise InputError("is a folder", place=file, expected=f"a file in it ({held or 'it has no .h5'})")
        siblings = [p.name for p in file.parent.glob("*.h5")] if file.parent.is_dir() else []
        raise InputError(
            "no such microdata file",
            place=file,
            value=file.name,
            choices=siblings,
            expected="a PolicyEngine HDF5 file",
        )
    raw: dict[str, np.ndarray] = {}
    try:
        with h5py.File(file, "r") as h5:
            _refuse_other_files(h5, file)
            if stores := [n for n in sorted(h5) if "pandas_type" in _table_attributes(h5[n])]:
                raise InputError(
                    f"is a pandas HDFStore with the tables {', '.join(stores[:8])} (PolicyEngine's "
                    "single-year or multi-year dataset), which may hold pickled objects and is not read",
                    place=file,
                    expected="one HDF5 dataset {variable}/{year} a column: open it with pandas.HDFStore and "
                    "write every column of every table so with h5py",
                )
            for name in sorted(h5):
                group = h5[name]
                if isinstance(group, h5py.Dataset):
                    if period is None:
                        raise InputError(
                            "holds arrays without a period",
                            place=file,
                            value=name,
                            expected="a period, or datasets named {variable}/{period}",
                        )
                    raw[f"{name}/{period}"] = np.asarray(group)
                    continue
                for when in sorted(group):
                    raw[f"{name}/{when}"] = np.asarray(group[when])
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"cannot be read as HDF5, it may be truncated ({error})",
            place=file,
            expected="a complete PolicyEngine HDF5 file",
        ) from error
    return _assemble(raw, period, file)


def check_claims(path: str | Path, most: int) -> None:
    """Refuse a file whose datasets claim more than so many bytes together, before one is read.

    A dataset may claim any shape at no size on disk: what was never written is read as zeros, and what is
    compressed may be a thousand times as long. Texts of variable length become as wide as the longest.

    Raises
    ------
    InputError
        Names the dataset that is too much.
    """
    file, left = Path(path), most
    try:
        with h5py.File(file, "r") as h5:
            _refuse_other_files(h5, file)
            for name, group in h5.items():
                entries = {name: group} if isinstance(group, h5py.Dataset) else {
                    f"{name}/{when}": entry for when, entry in group.items()}  # fmt: skip
                for place, entry in entries.items():
                    claimed = _claimed(entry, left, file, place) if isinstance(entry, h5py.Dataset) else 0
                    left -= claimed
                    if left < 0:
                        raise InputError(
                            "holds too much to be read here", place=f"{file}: {place}",
                            value=f"{claimed:,} bytes, {entry.shape} of {entry.dtype}",
                            expected=f"at most {most:,} bytes of all datasets",
                        )  # fmt: skip
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"cannot be read as HDF5, it may be truncated ({error})", place=file,
            expected="a complete PolicyEngine HDF5 file",
        ) from error  # fmt: skip


def _claimed(entry: h5py.Dataset, most: int, file: Path, place: str) -> int:
    """Return the bytes that a dataset becomes; numbers become int64 or float64 in tables."""
    size = entry.size or 0
    claimed = size * max(entry.dtype.itemsize, 8)
    if entry.dtype.kind != "O" or claimed > most:
        return claimed
    if entry.ndim != 1 or h5py.check_string_dtype(entry.dtype) is None:
        raise InputError(
            "is no column of numbers or texts", place=f"{file}: {place}",
            value=f"{entry.shape} of {entry.dtype}", expected="one number or text a unit",
        )  # fmt: skip
    # No text is longer than the file, but many entries can be the one long text: few are read at once.
    step = max(1, _TEXTS // entry.file.id.get_filesize())
    longest = 0
    for start in range(0, size, step):
        longest = max(longest, *(len(text) for text in entry[start : start + step]))
        if size * longest > most:
            break
    return max(claimed, size * longest)


def _refuse_other_files(h5: h5py.File, file: Path) -> None:
    """Refuse links and storage outside of the file: opening it would read what its owner may not see."""
    for name in h5:
        groups = {name: h5}
        if h5.get(name, getlink=True, getclass=True) is h5py.HardLink and isinstance(h5[name], h5py.Group):
            groups |= {f"{name}/{when}": h5 for when in h5[name]}
        for path, group in groups.items():
            linked = group.get(path, getlink=True, getclass=True) is not h5py.HardLink
            entry = None if linked else group[path]
            if linked or (isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual)):
                raise InputError(
                    "refers to another file or place", place=file, value=path,
                    expected="datasets that hold their own values",
                )  # fmt: skip


def _table_attributes(entry: Any) -> Any:
    """Return the attributes of an entry, or of the first one in it that carries a pandas table."""
    if isinstance(entry, h5py.Group) and "pandas_type" not in entry.attrs:
        inner = [c for c in entry.values() if isinstance(c, h5py.Group) and "pandas_type" in c.attrs]
        return inner[0].attrs if inner else entry.attrs
    return entry.attrs


def _assemble(raw: dict[str, np.ndarray], period: int | None, file: Path) -> Microdata:
    years = [
        int(p.split("/")[1]) for p in raw if p.startswith("household_weight/") and p.split("/")[1].isdigit()
    ]
    if not years:
        raise InputError(
            "has no household weights",
            place=file,
            value="household_weight",
            expected="household_weight/{year}",
            choices={p.split("/")[0] for p in raw},
        )
    year = max(years) if period is None else period
    if year not in years:
        raise InputError(
            "has no household weights of this year",
            place=file,
            value=year,
            choices=years,
            expected=f"one of {sorted(years)}",
        )

    def needed(name: str) -> np.ndarray:
        found = raw.get(f"{name}/{year}")
        if found is None:
            found = next((a for p, a in sorted(raw.items()) if p.split("/")[0] == name), None)
        if found is None:
            raise InputError(
                "lacks an entity id or link",
                place=file,
                value=name,
                expected="ids of every entity and person_{entity}_id links",
                choices={p.split("/")[0] for p in raw},
            )
        return np.asarray(found)

    ids = {e: _integers(needed(f"{e}_id"), f"{e}_id", file) for e in ENTITIES}
    links = {
        e: positions_of(_integers(needed(f"person_{e}_id"), f"person_{e}_id", file), ids[e], e, file)
        for e in GROUP_ENTITIES
    }
    values: dict[str, dict[str, np.ndarray]] = {e: {} for e in ENTITIES}
    known = catalogue()
    for stored, array in raw.items():
        # What never changes is stored without a year by PolicyEngine's own writers.
        path = stored.replace("/ETERNITY", f"/{year}")
        if path != stored and path in raw:
            continue  # the year's own
        name = path.split("/")[0]
        if name in ID_COLUMNS:
            continue
        if name not in known:
            # Columns that policyengine-us does not know are ignored by it; the plan names them.
            continue
        variable = known.variables[name]
        try:
            column = normalise(array)
        except TypeError as error:
            raise InputError(str(error), place=f"{file}: {path}", value=str(array.dtype)) from None
        if variable.value_type == "bool" and column.dtype != bool:
            column = _flags(column, f"{file}: {path}")
        if name == "county_fips" and column.dtype.kind in "iu":
            period_name = stored.split("/")[1]
            states = (raw.get(f"state_fips/{one}") for one in (period_name, year, "ETERNITY"))
            state = next((one for one in states if one is not None), None)
            column = _counties(column, state, f"{file}: {stored}")
        values[variable.entity][path] = column
    data = Microdata(period=year, ids=ids, links=links, values=values)
    validate(data, file)
    return data


def _flags(column: np.ndarray, place: str) -> np.ndarray:
    """Return a flag stored as numbers as booleans; anything but 0 and 1 is an error."""
    strange = column[(column != 0) & (column != 1)] if column.dtype.kind in "iuf" else column
    if strange.size:
        raise InputError(
            "is no flag", place=place, value=str(strange[0]), expected="true and false, or 1 and 0"
        )
    return column.astype(bool)


def _counties(column: np.ndarray, state: np.ndarray | None, place: str) -> np.ndarray:
    """Return counties stored as numbers, as PolicyEngine's CPS has them, as FIPS codes: bytes of five digits.

    Numbers below 1000 are within their state; 0 is a county that is not known.
    """
    codes = column.astype(np.int64)
    strange = codes[(codes < 0) | (codes > 99_999)]
    if strange.size:
        expected = "FIPS codes: a state's two digits and three of the county, or these three"
        raise InputError("is no county", place=place, value=int(strange[0]), expected=expected)
    if state is not None and state.shape == codes.shape:
        codes = np.where((codes > 0) & (codes < 1000), np.asarray(state, np.int64) * 1000 + codes, codes)
    return np.char.zfill(codes.astype("S5"), 5)


def unknown_columns(path: str | Path) -> list[str]:
    """Return the names in a file that policyengine-us would ignore, sorted."""
    with h5py.File(path, "r") as h5:
        return sorted(n for n in h5 if n not in catalogue() and n not in ID_COLUMNS)


def _integers(array: np.ndarray, name: str, file: Path) -> np.ndarray:
    if array.ndim != 1:
        raise InputError(
            "is not a column of ids",
            place=f"{file}: {name}",
            value=f"shape {array.shape}",
            expected="one id a unit",
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.floor(array)).any():
            raise InputError(
                "has ids that are not whole numbers", place=f"{file}: {name}", expected="integers"
            )
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(
            "has ids that are not numbers",
            place=f"{file}: {name}",
            value=str(array.dtype),
            expected="integers",
        )
    return array.astype(np.int64)


def write_hdf5(data: Microdata, path: str | Path) -> None:
    """Write a dataset that PolicyEngine opens; equal content gives equal bytes.

    The file appears under its name only when it is complete: it is written under a temporary name,
    flushed to disk, reopened and counted, then renamed.
    """
    file = Path(path)
    arrays: dict[str, np.ndarray] = {}
    for entity in ENTITIES:
        arrays[f"{entity}_id/{data.period}"] = normalise(data.ids[entity])
    for entity in GROUP_ENTITIES:
        arrays[f"person_{entity}_id/{data.period}"] = normalise(data.ids[entity][data.links[entity]])
    for table in data.values.values():
        arrays |= table

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver="latest") as h5:
            for name in sorted(arrays):
                array = arrays[name]
                options: dict[str, Any] = {}
                if array.size > 64:
                    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                h5.create_dataset(name, data=array, **options)

    publish(file, write, lambda temporary: _require_columns(temporary, len(arrays), file))


def write_parts(
    path: str | Path,
    sizes: Mapping[str, int],
    parts: Iterable[Microdata],
    largest: Mapping[str, int] | None = None,
) -> None:
    """Write parts one after the other as one dataset, whose columns are those of `write_hdf5`.

    Chunks are of one size whatever the file, and short columns are cheap: this is the writer of many files,
    and of large ones.

    Parameters
    ----------
    path
        The file; it appears as in `write_hdf5`.
    sizes
        Entity -> units of all parts together.
    parts
        With the same columns, of the same types; one is in memory at a time.
    largest
        Entity -> an upper bound of its ids in all parts; may be left out for a single part.
    """
    file, made = Path(path), 0

    def write(temporary: Path) -> None:
        nonlocal made
        with HDF5Stream(temporary, sizes, largest) as stream:
            for part in parts:
                stream.append(part)
        made = len(stream.columns)

    # What was taken from an iterator is gone: then whoever gave it has to begin anew.
    tries = 1 if isinstance(parts, Iterator) else TRIES
    publish(file, write, lambda temporary: _require_columns(temporary, made, file), tries=tries)


def _require_columns(temporary: Path, made: int, file: Path) -> None:
    read = count_columns(temporary)
    if read != made:
        raise OSError(f"{file}: {read} of {made} datasets can be read back")
