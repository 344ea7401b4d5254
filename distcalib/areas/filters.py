"""The filter language of areas: ``county_fips in 36005 36047 and place_fips != 51000``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.geography.assignment import FIELDS, GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.sources import county_fips_of_rules_engine
from distcalib.geography.states import STATE_CODES, STATE_FIPS

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
LISTS = ("in", "not in")

# What a filter may name, and the array of the placement that it means; the codes of a crosswalk besides.
NAMES = {
    "state_fips": "state_fips", "state": "state_fips", "cd_geoid": "cd_geoid", "district": "cd_geoid",
    "county_fips": "county_fips",
}  # fmt: skip

_CONDITION = re.compile(r"(\w+)\s*(==|!=|<=|>=|<|>|\bnot\s+in\b|\bin\b)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """One condition on the place of a column.

    Attributes
    ----------
    field
        ``state_fips``, ``cd_geoid``, ``county_fips``, or a crosswalk's code, which is text.
    operator
        One of ``== != < <= > >= in`` and ``not in``. Text is compared letter by letter.
    values
        One value, or for the lists at least one.
    """

    field: str
    operator: str
    values: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.field} {self.operator} {' '.join(map(str, self.values))}"

    def holds(self, assignment: GeographyAssignment, columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each of some columns whether it lies there."""
        if self.field not in FIELDS:
            return self.of(getattr(assignment, self.field)[columns])
        coded = assignment.fields(columns)[self.field]
        # Asked once a code; a column without one has -1, which is the last: nowhere.
        words = np.array([str(word) for word in coded.categories] + [""])
        return self.of(words)[np.asarray(coded.codes)]

    def of(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each value of the field, as a placement or a file has it, whether it is one of those."""
        if values.dtype.kind == "S":
            values = values.astype(str)
            if isinstance(self.values[0], int):
                values = np.where(values == "", "0", values).astype(np.int64)
        if self.operator in LISTS:
            return np.isin(values, np.array(self.values), invert=self.operator == "not in")
        return np.asarray(COMPARE[self.operator](values, self.values[0]), dtype=bool)


def read_filter(text: str, assignment: GeographyAssignment, place: object) -> tuple[Condition, ...]:
    """Read conditions joined by ``and``, and hold them to the placement.

    Parameters
    ----------
    text
        ``FIELD OPERATOR VALUE`` or ``FIELD in VALUE VALUE ...`` (blanks or commas between values), joined by
        ``and``. Fields: state_fips, state (postal code), cd_geoid or district (any spelling), county_fips,
        and what a crosswalk gives the placement, such as place_fips.
    assignment
        The placement that the filter is for.
    place
        Of errors.

    Raises
    ------
    InputError
        For what is no condition, an unknown field, one that the placement lacks, and a value of ``==``,
        ``!=``, ``in`` or ``not in`` that does not exist; names the nearest.
    """
    conditions = []
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        found = _CONDITION.fullmatch(part.strip())
        if found is None:
            raise InputError(
                "is no condition", place=place, value=part,
                expected="FIELD OPERATOR VALUE, such as county_fips in 36005 36047",
            )  # fmt: skip
        field, sign = found[1], re.sub(r"\s+", " ", found[2])
        values = [v for v in re.split(r"[\s,]+", re.sub(r"[][()'\"]", " ", found[3])) if v]
        if not values or (len(values) > 1 and sign not in LISTS):
            raise InputError(
                f"has {len(values)} values for {field} {sign}", place=place, value=part,
                expected="at least one" if sign in LISTS else "one; several with in, or not in",
            )  # fmt: skip
        name = NAMES.get(field, field)
        _present(name, field, assignment, place)
        exact = sign in LISTS or sign in ("==", "!=")
        read = tuple(_value(field, v, exact, assignment, f"{place}: {field}") for v in values)
        conditions.append(Condition(name, sign, read))
    return tuple(conditions)


def _present(name: str, field: str, assignment: GeographyAssignment, place: object) -> None:
    derived = [] if assignment.derived is None else list(assignment.derived)
    if name not in (*NAMES, *FIELDS):
        known = (*NAMES, *derived)
        raise InputError(
            "is no field of an area", place=place, value=field, choices=known,
            expected=f"one of {', '.join(known)}",
        )  # fmt: skip
    if name in FIELDS and name not in derived:
        raise InputError(
            "is a field that this placement lacks", place=place, value=field,
            expected="geography.blocks and a geography.crosswalk that has it",
        )  # fmt: skip
    if name == "county_fips" and not assignment.county_fips.any():
        raise InputError("is a field that this placement lacks: counties are unset", place=place, value=field)


def _value(field: str, text: str, exact: bool, assignment: GeographyAssignment, place: str) -> int | str:
    if field == "state":
        code = text.upper()
        if code not in STATE_FIPS or not exact:
            raise InputError(
                "is no state" if exact else "has no order; use state_fips", place=place, value=text,
                choices=STATE_FIPS, expected="a postal code such as CA",
            )  # fmt: skip
        return _inside(STATE_FIPS[code], assignment.state_fips, text, place, STATE_CODES)
    if field in FIELDS:
        words = [str(word) for word in assignment.fields(np.arange(1))[field].categories if word]
        if exact and text not in words:
            raise InputError(
                "is the code of no placed household", place=place, value=text, choices=words,
                expected=f"one of {len(words)} codes",
            )  # fmt: skip
        return text
    if field in ("cd_geoid", "district"):
        known = np.unique(assignment.cd_geoid).tolist()
        try:
            return District.parse(text, known=known if exact else ()).geoid
        except InputError as error:
            raise error.at(place) from None
    if not text.isdecimal():
        raise InputError("is not a number", place=place, value=text, expected="a FIPS code")
    number = int(text)
    if exact and field == "state_fips":
        return _inside(number, assignment.state_fips, text, place, {f: f for f in STATE_CODES})
    if exact:
        counties = county_fips_of_rules_engine()["county_fips"].to_numpy()
        if number not in counties:
            raise InputError(
                "is no county", place=place, value=text, expected="a five-digit county FIPS code",
                choices=[f"{c:05d}" for c in counties.tolist()],
            )  # fmt: skip
    return number


def _inside(number: int, placed: NDArray[Any], text: str, place: str, names: dict[int, Any]) -> int:
    here = np.unique(placed).tolist()
    if number not in here:
        shown = [names.get(n, n) for n in here]
        raise InputError(
            "is a state where no household is placed", place=place, value=text, choices=shown,
            expected=f"one of {', '.join(map(str, shown))}",
        )  # fmt: skip
    return number


def inside(
    conditions: tuple[Condition, ...], assignment: GeographyAssignment, columns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return for each of some columns whether all conditions hold; without any, all do."""
    here = np.ones(len(columns), dtype=bool)
    for condition in conditions:
        here &= condition.holds(assignment, columns)
    return here
