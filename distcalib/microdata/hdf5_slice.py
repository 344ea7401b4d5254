"""Neighbouring households of a PolicyEngine HDF5 file without the rest of it, and one file within another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import InputError
from distcalib.microdata.hdf5 import _assemble
from distcalib.microdata.model import ID_COLUMNS, Microdata
from distcalib.microdata.validate import positions_of
from distcalib.storage import passing


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the units of each household stand in a file that holds them in the order of their households.

    Attributes
    ----------
    path
        The file.
    period
        Its year.
    first
        Entity -> int64, shape (n households + 1,): the position of the first unit of each household, and
        behind the last one the number of units.
    """

    path: Path
    period: int
    first: dict[str, np.ndarray]

    @property
    def households(self) -> int:
        """Number of households in the file."""
        return len(self.first["household"]) - 1

    def units(self, entity: str, first: int, last: int) -> slice:
        """Return the units of the households from `first` to before `last`."""
        at = self.first[entity]
        return slice(int(at[first]), int(at[last]))

    @classmethod
    def of(cls, path: str | Path, period: int) -> Layout:
        """Read ids and links of a file, entity by entity, and check them.

        Raises
        ------
        InputError
            When the file cannot be read; when an id occurs twice, is no whole number or does not fit int32;
            when a link names no unit, a unit has no person or persons in two households; when units do not
            stand in the order of their households. Names file, variable and id.
        """
        with _opened(path) as h5:
            persons = _ids(h5, "person", period, path)
            again = np.sort(persons)
            again = again[1:][again[1:] == again[:-1]]
            if again.size:
                raise InputError(
                    "occurs more than once", place=f"{path}: person_id", value=int(again[0]),
                    expected="unique ids",
                )  # fmt: skip
            households = _ids(h5, "household", period, path)
            homes = _links(h5, "household", households, persons, period, path)
            first = {"household": np.arange(len(households) + 1)}
            for entity in ENTITIES:
                if entity == "household":
                    continue
                of_unit = homes
                if entity != "person":
                    ids = _ids(h5, entity, period, path)
                    unit = _links(h5, entity, ids, persons, period, path)
                    of_unit = np.full(len(ids), -1, dtype=np.int64)
                    of_unit[unit] = homes
                    apart = of_unit[unit] != homes
                    if apart.any():
                        raise InputError(
                            "has persons in two households", place=f"{path}: {entity}_id",
                            value=int(ids[unit[apart][0]]), expected=f"every {entity} inside one household",
                        )  # fmt: skip
                back = np.flatnonzero(np.diff(of_unit) < 0)
                if back.size:
                    ids = _ids(h5, entity, period, path)
                    raise InputError(
                        f"a {entity} stands out of order", place=f"{path}: {entity}_id",
                        value=int(ids[back[0] + 1]), expected="units in the order of their households",
                    )  # fmt: skip
                first[entity] = np.searchsorted(of_unit, np.arange(len(households) + 1))
        return cls(Path(path), period, first)


def layout_of(path: str | Path, period: int) -> Layout:
    """Return the layout of a file; that of the last few files is kept while they are not written anew."""
    try:
        status = os.stat(path)
    except OSError:
        raise InputError("no such file", place=path, expected="a PolicyEngine HDF5 file") from None
    return _kept(Path(path), period, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=2)
def _kept(path: Path, period: int, mark: tuple[int, int, int]) -> Layout:
    del mark  # part of the key
    return Layout.of(path, period)


def read_slice(path: str | Path, period: int, first: int, last: int) -> Microdata:
    """Read the households at the positions from `first` to before `last`, with their own ids.

    Of each column only the chunks that hold them are read; of ids and links all, once for a file.

    Raises
    ------
    InputError
        As `distcalib.microdata.hdf5.read_hdf5` and `Layout.of`, and for positions that the file lacks.
    """
    layout = layout_of(path, period)
    if not 0 <= first < last <= layout.households:
        raise InputError(
            "has no such households", place=path, value=f"{first} to {last}",
            expected=f"positions within its {layout.households} households",
        )  # fmt: skip
    raw = {}
    with _opened(path) as h5:
        for name, entity, dataset in _columns(h5):
            _full_length(name, entity, dataset, layout)
            raw[name] = np.asarray(dataset[layout.units(entity, first, last)])
    return _assemble(raw, period, Path(path))


def columns_of(layout: Layout) -> Iterator[tuple[str, str, np.ndarray]]:
    """Give path (``variable/period``), entity and array of each column of a file, one in memory at a time."""
    with _opened(layout.path) as h5:
        for name, entity, dataset in _columns(h5):
            _full_length(name, entity, dataset, layout)
            yield name, entity, np.asarray(dataset)


def column_of(layout: Layout, variable: str) -> np.ndarray | None:
    """Return a column of a file's own period; None where it has no such one."""
    with _opened(layout.path) as h5:
        path = f"{variable}/{layout.period}"
        return np.asarray(h5[path]) if path in h5 else None


def require_part(
    whole: Layout, positions: np.ndarray, part: Layout, at: int = 0, same_ids: bool = True
) -> None:
    """Raise `InputError` unless households of a file are exactly those of another one.

    One column of the part is in memory at a time, and the piece of the whole that spans it. Text may be of
    another width, and a column of empty texts may be absent.

    Parameters
    ----------
    whole, part
        Layouts of the two files.
    positions
        Of the households in `whole`, int64, ascending, shape (k,).
    at
        Position in `part` of the first of them; the others follow it.
    same_ids
        Whether ids are equal; else links are compared by position.

    Raises
    ------
    InputError
        Names the file, the variable, the unit and both values.
    """
    last = at + len(positions)
    if last > part.households or (len(positions) and positions[-1] >= whole.households):
        raise InputError(
            f"has {part.households} households and {whole.path} {whole.households}", place=part.path,
            expected=f"{len(positions)} that both have",
        )  # fmt: skip
    taken = {}
    for entity in ENTITIES:
        sizes, own = np.diff(whole.first[entity])[positions], np.diff(part.first[entity])[at:last]
        differ = np.flatnonzero(sizes != own)
        if differ.size:
            raise InputError(
                f"the household at position {at + differ[0]} has another number of units",
                place=f"{part.path}: {entity}_id", value=int(own[differ[0]]),
                expected=f"{int(sizes[differ[0]])} as in {whole.path}",
            )  # fmt: skip
        begin = whole.first[entity][positions]
        taken[entity] = np.repeat(begin - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    with _opened(whole.path) as big, _opened(part.path) as small:
        theirs = {name: (entity, dataset) for name, entity, dataset in _columns(big)}
        ours = {name: (entity, dataset) for name, entity, dataset in _columns(small)}

        def pair(name: str, entity: str) -> tuple[np.ndarray, np.ndarray]:
            rows, own = taken[entity], part.units(entity, at, last)
            span = slice(int(rows[0]), int(rows[-1]) + 1)
            expected = _values(theirs, name, span, span.stop - span.start, whole)
            neighbours = len(expected) == len(rows)
            return (
                expected if neighbours else expected[rows - rows[0]],
                _values(ours, name, own, own.stop - own.start, part),
            )

        for name in sorted({*theirs, *ours}):
            entity = (ours.get(name) or theirs[name])[0]
            expected, found = pair(name, entity)
            variable = name.split("/")[0]
            if not same_ids and variable in ID_COLUMNS:
                if not variable.startswith("person_") or variable == "person_id":
                    continue
                unit = variable.removeprefix("person_").removesuffix("_id")
                ids = pair(name.replace(variable, f"{unit}_id"), unit)
                expected = positions_of(expected, ids[0], unit, whole.path)
                found = positions_of(found, ids[1], unit, part.path)
            kinds = found.dtype.kind, expected.dtype.kind
            same_form = kinds[0] == kinds[1] and (kinds[0] == "S" or found.dtype == expected.dtype)
            differ = np.flatnonzero(found != expected) if same_form else np.arange(1)
            if differ.size:
                one = int(differ[0])
                form = "" if same_form else f" ({found.dtype} instead of {expected.dtype})"
                unit_id = pair(f"{entity}_id/{part.period}", entity)[1][one]
                raise InputError(
                    f"{len(differ)} of {len(found)} values differ from another file of them{form}",
                    place=f"{part.path}: {name}", value=f"{_word(found[one])} for {entity} {int(unit_id)}",
                    expected=f"{_word(expected[one])} as in {whole.path}",
                )  # fmt: skip


def _values(columns: dict[str, tuple[str, Any]], name: str, at: slice, n: int, layout: Layout) -> np.ndarray:
    """Return a piece of a column; empty texts where a file has no such column of text."""
    if name in columns:
        entity, dataset = columns[name]
        _full_length(name, entity, dataset, layout)
        return np.asarray(dataset[at])
    variable = catalogue().variables.get(name.split("/")[0])
    if variable is None or variable.value_type != "str":
        raise InputError("lacks a column", place=layout.path, value=name, expected="the same columns")
    return np.zeros(n, dtype="S1")


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _opened(path: str | Path) -> h5py.File:
    if not Path(path).is_file():
        raise InputError("no such file", place=path, expected="a PolicyEngine HDF5 file")
    try:
        return _File(path)
    except OSError as error:
        if passing(error):
            raise
        raise InputError(
            f"cannot be read as HDF5, it may be truncated ({error})", place=path,
            expected="a complete PolicyEngine HDF5 file",
        ) from error  # fmt: skip


class _File(h5py.File):
    """A file open for reading; what cannot be read in it is an `InputError` that names it."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "r")
        self._path = path

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, (OSError, KeyError, RuntimeError)):
            raise InputError(
                f"cannot be read, it may be damaged ({error})", place=self._path,
                expected="a complete PolicyEngine HDF5 file",
            ) from error  # fmt: skip


def _columns(h5: h5py.File) -> Iterator[tuple[str, str, Any]]:
    """Give path, entity and dataset of each column that policyengine-us would read, by name."""
    known = catalogue().variables
    for name in sorted(h5):
        entity = _entity_of_id(name) or (known[name].entity if name in known else None)
        if entity is not None and isinstance(h5[name], h5py.Group):
            for when in sorted(h5[name]):
                yield f"{name}/{when}", entity, h5[name][when]


def _entity_of_id(name: str) -> str | None:
    if name not in ID_COLUMNS:
        return None
    return "person" if name.startswith("person_") else name.removesuffix("_id")


def _full_length(name: str, entity: str, dataset: Any, layout: Layout) -> None:
    if dataset.shape != (layout.first[entity][-1],):
        raise InputError(
            f"has shape {dataset.shape}", place=f"{layout.path}: {name}",
            expected=f"one value for each of {layout.first[entity][-1]} {entity}s",
        )  # fmt: skip


def _read(h5: h5py.File, name: str, period: int, path: str | Path) -> np.ndarray:
    if name not in h5 or str(period) not in h5[name]:
        raise InputError("lacks an id or link", place=path, value=f"{name}/{period}", expected="both")
    array = np.asarray(h5[name][str(period)])
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise InputError(
            "is no column of ids", place=f"{path}: {name}", value=f"{array.dtype} of shape {array.shape}",
            expected="whole numbers, one a unit",
        )  # fmt: skip
    if array.dtype.itemsize > 4 and (array.min() < -(2**31) or array.max() >= 2**31):
        raise InputError(
            "does not fit a 32-bit number", place=f"{path}: {name}", value=int(array.max()),
            expected=f"ids below {2**31}",
        )  # fmt: skip
    return array


def _ids(h5: h5py.File, entity: str, period: int, path: str | Path) -> np.ndarray:
    return _read(h5, f"{entity}_id", period, path)


def _links(
    h5: h5py.File, entity: str, ids: np.ndarray, persons: np.ndarray, period: int, path: str | Path
) -> np.ndarray:
    """Return the position of each person's unit, int64, shape (n persons,)."""
    assert entity in GROUP_ENTITIES
    named = _read(h5, f"person_{entity}_id", period, path)
    if len(named) != len(persons):
        raise InputError(
            f"has {len(named)} links for {len(persons)} persons", place=f"{path}: person_{entity}_id",
            expected="one link a person",
        )  # fmt: skip
    unit = positions_of(named, ids, entity, path)
    empty = np.flatnonzero(np.bincount(unit, minlength=len(ids)) == 0)
    if empty.size:
        raise InputError(
            f"{len(empty)} {entity}s without a person", place=f"{path}: {entity}_id",
            value=int(ids[empty[0]]), expected="at least one person in each",
        )  # fmt: skip
    return unit
