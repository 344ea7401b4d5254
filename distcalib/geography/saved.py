"""``geography_assignment.npz``: the file in which PolicyEngine's own pipeline keeps an assignment."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib import inert
from distcalib.errors import InputError
from distcalib.geography.assignment import ARRAYS, FIELDS, GeographyAssignment, as_bytes, digits
from distcalib.geography.district import District
from distcalib.geography.sources import districts
from distcalib.storage import publish

_TEXT = {"block_geoid": 15, "county_fips": 5}
_COUNTS = ("n_records", "n_clones")


def save_assignment(assignment: GeographyAssignment, path: str | Path) -> None:
    """Write an assignment: complete, or not at all.

    Arrays: block_geoid (U15) and county_fips (U5), empty where unknown; cd_geoid (U4, no leading zero);
    state_fips (int64); n_records and n_clones (shape (1,)). Where there are crosswalk codes, derived and
    derived_puma ... carry them; readers of the plain format pass over these.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: digits(getattr(assignment, name), width).astype(f"U{width}") for name, width in _TEXT.items()
    }
    arrays["cd_geoid"] = assignment.cd_geoid.astype("U4")
    arrays["state_fips"] = assignment.state_fips.astype(np.int64)
    arrays |= {name: np.array([getattr(assignment, name)]) for name in _COUNTS}
    if assignment.derived is not None:
        arrays["derived"] = assignment.derived.index.to_numpy()
        arrays |= {f"derived_{n}": as_bytes(assignment.derived[n].array) for n in assignment.derived}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **cast(Any, arrays))

    publish(path, write)


def load_assignment(path: str | Path) -> GeographyAssignment:
    """Read an assignment that this package or PolicyEngine's pipeline saved.

    The latter holds its blocks as pickled objects; `distcalib.inert` reads texts of them and runs nothing.

    Raises
    ------
    InputError
        Names file and key: a missing array, one that is too short, a value that is not a code, a block that
        is not in its county, a county or district that is not in its state, an unknown district.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError("no such file", place=file, expected="geography_assignment.npz")
    try:
        with zipfile.ZipFile(file) as archive:
            held = {name.removesuffix(".npy"): _read(archive, name, file) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, ValueError, EOFError, OSError) as error:
        raise InputError(f"is not an .npz file ({error})", place=file) from None
    for name in (*ARRAYS, *_COUNTS):
        if name not in held:
            raise InputError("lacks an array", place=file, value=name, choices=held)
    records, clones = (_count(held[name], file, name) for name in _COUNTS)
    arrays = {name: _integers(held[name], file, name) for name in ARRAYS}
    for name, array in arrays.items():
        if array.shape != (records * clones,):
            raise InputError(
                "has the wrong shape",
                place=f"{file}: {name}",
                value=array.shape,
                expected=f"({records * clones},)",
            )
    block, county = arrays["block_geoid"], arrays["county_fips"]
    _agree((block == 0) | (block // 10**10 == county), block, "not in its county", f"{file}: block_geoid")
    state = arrays["state_fips"]
    _agree((county == 0) | (county // 1000 == state), county, "not in its state", f"{file}: county_fips")
    _agree(arrays["cd_geoid"] // 100 == state, arrays["cd_geoid"], "not in its state", f"{file}: cd_geoid")
    arrays["cd_geoid"] = _districts(arrays["cd_geoid"], f"{file}: cd_geoid")
    typed = {name: arrays[name].astype(kind) for name, kind in ARRAYS.items()}
    assignment = GeographyAssignment(**typed, n_records=records, n_clones=clones)
    if "derived" not in held:
        return assignment
    names = [name for name in FIELDS if f"derived_{name}" in held]
    places = _integers(held["derived"], file, "derived")
    if not np.array_equal(places, np.unique(assignment.finest())):
        raise InputError("are not the places in use", place=f"{file}: derived")
    for name in names:
        if held[f"derived_{name}"].shape != places.shape:
            raise InputError(
                "has the wrong shape",
                place=f"{file}: derived_{name}",
                value=held[f"derived_{name}"].shape,
                expected=str(places.shape),
            )
    fields = {name: pd.Categorical(held[f"derived_{name}"].astype(str)) for name in names}
    return assignment.with_derived(places, fields)


def _agree(good: NDArray[np.bool_], values: NDArray[np.int64], words: str, place: str) -> None:
    if not good.all():
        raise InputError(f"{(~good).sum()} are {words}", place=place, value=int(values[~good][0]))


def _count(array: NDArray[Any], file: Path, name: str) -> int:
    numbers = _integers(array, file, name).reshape(-1)
    if numbers.shape != (1,) or numbers[0] < 1:
        raise InputError(
            "is not a count",
            place=f"{file}: {name}",
            value=numbers[:3].tolist(),
            expected="one number above 0",
        )
    return int(numbers[0])


def _districts(cds: NDArray[np.int64], place: str) -> NDArray[np.int64]:
    """Return districts by their canonical GEOID, however at-large ones are numbered."""
    known = districts()["cd_geoid"].tolist()
    spelled, which = np.unique(cds, return_inverse=True)
    try:
        found = [District.parse(f"{code:04d}", known=known).geoid for code in spelled.tolist()]
    except InputError as error:
        raise InputError(str(error), place=place) from None
    return np.array(found, dtype=np.int64)[which]


def _integers(array: NDArray[Any], file: Path, name: str) -> NDArray[np.int64]:
    """Return codes as numbers, 0 for the empty."""
    if array.dtype.kind in "US":
        words = np.where(array.astype("U") == "", "0", array.astype("U"))
        # No code is longer than a block's 15 digits, and 19 would not fit the numbers.
        good = np.char.isdecimal(words) & (np.char.str_len(words) <= 15)
        if not good.all():
            raise InputError(
                "is not a code of digits",
                place=f"{file}: {name}",
                value=str(words[~good][0]),
                expected="at most 15 digits",
            )
        return words.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError("is not of numbers", place=f"{file}: {name}", value=str(array.dtype))
    return array.astype(np.int64)


def _of_numpy(module: str, name: str) -> bool:
    return module.split(".")[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype"}


def _read(archive: zipfile.ZipFile, name: str, file: Path) -> NDArray[Any]:
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        _, _, kind = header(stream)
        if kind.hasobject:
            place = f"{file}: {name}"
            words = inert.array(inert.load(stream, place, _of_numpy), place)
            if not all(isinstance(word, str) for word in words.reshape(-1).tolist()):
                raise InputError("holds objects that are not text", place=place)
            return words.astype("U")
    with archive.open(name) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
