"""What values may be: forms and ranges with their reasons; of published files also places that agree."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.microdata.hdf5_slice import Layout, column_of, columns_of
from distcalib.microdata.model import ID_COLUMNS, Microdata

#: Variable -> least and largest value, and why.
RANGES: dict[str, tuple[float, float, str]] = {
    "age": (0, 130, "nobody has lived to 123"),
    "household_weight": (0, 1e9, "no negative households; there are 0.13 billion"),
    "state_fips": (1, 56, "the codes of states and DC"),
    "congressional_district_geoid": (101, 5698, "state FIPS x 100 + district, 98 at most"),
    "weekly_hours_worked": (0, 168, "hours of a week"),
    "weekly_hours_worked_before_lsr": (0, 168, "hours of a week"),
    "own_children_in_household": (0, 30, "children in one household"),
    "rent": (0, 1e8, "nobody is paid for renting"),
    "pre_subsidy_rent": (0, 1e8, "nobody is paid for renting"),
    "real_estate_taxes": (0, 1e8, "no refund exceeds the tax"),
}
#: No household has more of anything; beyond lie slips of a unit (cents, thousands).
LARGEST = 1e12
_PLACES = ("state_fips", "congressional_district_geoid", "county_fips")


def require_plausible(layout: Layout) -> dict[str, np.ndarray]:
    """Check every column of a file, one in memory at a time.

    Parameters
    ----------
    layout
        Of the file.

    Returns
    -------
    dict
        The columns of the file's own period that say where households are and what they weigh:
        household_weight, state_fips, congressional_district_geoid and, where there, county_fips.

    Raises
    ------
    InputError
        Names file, variable, the id of the first unit concerned and its value.
    """
    kept: dict[str, np.ndarray] = {}
    for path, entity, array in columns_of(layout):
        name, when = path.split("/")
        if name in ID_COLUMNS:
            continue
        wrong, expected = _judged(name, array, f"{layout.path}: {path}")
        _none(wrong, array, expected, path, entity, layout)
        if when == str(layout.period) and name in (*_PLACES, "household_weight"):
            kept[name] = array
    _places_agree(kept, layout)
    return kept


def require_plausible_source(data: Microdata, place: object, but: Collection[str] = ()) -> None:
    """Hold microdata to what their files will be held to, before anything is made of them.

    Parameters
    ----------
    data, place
        Microdata, and what to call their file.
    but
        Variables that no file takes over from them.

    Raises
    ------
    InputError
        As `require_plausible`.
    """
    for entity, table in data.values.items():
        for path, array in table.items():
            if (name := path.split("/")[0]) not in but:
                wrong, expected = _judged(name, array, f"{place}: {path}")
                _refuse(wrong, array, expected, f"{place}: {path}", entity, data.ids[entity])


def _judged(name: str, array: np.ndarray, place: str) -> tuple[np.ndarray, str]:
    """Return which values cannot be, bool, and what would have been right; refuse another form."""
    variable = catalogue().variables[name]
    kind, allowed = array.dtype.kind, variable.value_type
    form = {"bool": "b", "str": "S", "Enum": "Siu"}.get(allowed, "fiu")
    if kind not in form or (kind == "f" and array.dtype.itemsize != 4):
        said = {"b": "true and false", "S": "fixed byte strings"}.get(form, f"values of type {allowed}")
        raise InputError("has values of another form", place=place, value=str(array.dtype), expected=said)
    if kind in "fiu":
        least, most, why = RANGES.get(name, (-LARGEST, LARGEST, "an amount of one household"))
        return ~((array >= least) & (array <= most)), f"{least:g} to {most:g}: {why}"
    if allowed == "Enum":
        words, code = np.unique(array, return_inverse=True)
        members = {word.encode() for word in variable.possible_values}
        strange = np.array([word not in members for word in words.tolist()])
        return strange[code], f"one of {', '.join(variable.possible_values[:8])}"
    return np.zeros(len(array), dtype=bool), ""


def _places_agree(kept: dict[str, np.ndarray], layout: Layout) -> None:
    missing = [name for name in ("household_weight", *_PLACES[:2]) if name not in kept]
    if missing:
        raise InputError("lacks a column", place=layout.path, value=missing[0], expected="places and weights")
    state, district = (kept[name].astype(np.int64) for name in _PLACES[:2])
    path = f"{_PLACES[1]}/{layout.period}"
    _none(
        district // 100 != state, district, "a district of the household's state", path, "household", layout
    )
    if "county_fips" in kept:
        county = kept["county_fips"]
        words, code = np.unique(county, return_inverse=True)
        # Empty where the county is left unset.
        home = np.array([int(w[:2]) if w[:2].isdigit() else -(w != b"") for w in words.tolist()])[code]
        strange = (home != 0) & (home != state)
        path = f"county_fips/{layout.period}"
        _none(strange, county, "a county of the household's state", path, "household", layout)


def _none(
    wrong: np.ndarray, array: np.ndarray, expected: str, path: str, entity: str, layout: Layout
) -> None:
    if wrong.any():
        ids = column_of(layout, f"{entity}_id")
        assert ids is not None  # a layout has all ids
        _refuse(wrong, array, expected, f"{layout.path}: {path}", entity, ids)


def _refuse(
    wrong: np.ndarray, array: np.ndarray, expected: str, place: str, entity: str, ids: np.ndarray
) -> None:
    if not wrong.any():
        return
    at = int(np.flatnonzero(wrong)[0])
    value = array[at].decode(errors="replace") if array.dtype.kind == "S" else array[at]
    raise InputError(
        f"{int(wrong.sum())} values cannot be", place=place, value=f"{value} for {entity} {int(ids[at])}",
        expected=expected,
    )  # fmt: skip
