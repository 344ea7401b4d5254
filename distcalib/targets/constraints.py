"""Constraints of strata: their text, their meaning, and their canonical order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcalib.errors import InputError

OPERATIONS = ("==", "!=", ">=", "<=", ">", "<", "in")
GEOGRAPHIC = ("state_fips", "congressional_district_geoid")

_TERM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(==|!=|>=|<=|>|<|=| in )\s*([^=<>!\s].*?)\s*")


@dataclass(frozen=True, order=True)
class Constraint:
    """One condition on a variable: ``age >= 5``.

    Attributes
    ----------
    variable
        A variable of policyengine-us, evaluated for each person.
    operation
        One of `OPERATIONS`; ``in`` takes values separated by ``|``; ``=`` is read as ``==``.
    value
        Text, as the database holds it.

    Raises
    ------
    InputError
        For an operator that is unknown.
    """

    variable: str
    operation: str
    value: str

    def __post_init__(self) -> None:
        if self.operation == "=":
            object.__setattr__(self, "operation", "==")
        if self.operation not in OPERATIONS:
            raise InputError(
                "unknown operator",
                place=f"{self.variable} {self.operation} {self.value}",
                value=self.operation,
                expected=f"one of {' '.join(OPERATIONS)}",
                choices=OPERATIONS,
            )

    def __str__(self) -> str:
        gap = " " if self.operation == "in" else ""
        return f"{self.variable}{gap}{self.operation}{gap}{self.value}"

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Return where the condition holds, bool, the shape of `values`.

        Text compares as text, everything else as numbers; ``True`` and ``False`` are 1 and 0.

        Raises
        ------
        InputError
            When the value cannot be compared with the values of the variable: a text, NaN, or for ``==``,
            ``!=`` and ``in`` infinity.
        """
        array = np.asarray(values)
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
        words = self.value.split("|") if self.operation == "in" else [self.value]
        if array.dtype.kind in "UOT":
            array = array.astype(str)
            known: list[Any] = [w.strip() for w in words]
        else:
            known = [_number(w, self) for w in words]
        if self.operation == "in":
            return np.isin(array, known)
        right = known[0]
        match self.operation:
            case "==":
                return array == right
            case "!=":
                return array != right
            case ">":
                return array > right
            case ">=":
                return array >= right
            case "<":
                return array < right
            case "<=":
                return array <= right
        raise AssertionError(f"operator {self.operation} has no meaning")


def _number(word: str, constraint: Constraint) -> float:
    text = word.strip()
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        raise InputError(
            "compares a number with a text",
            place=str(constraint),
            value=word,
            expected="a number, True or False",
        ) from None
    # An infinite bound bounds nothing, but nothing equals it, and with NaN nobody or everybody passes.
    if np.isnan(number) or (np.isinf(number) and constraint.operation in ("==", "!=", "in")):
        raise InputError(
            "compares with no number", place=str(constraint), value=word, expected="a finite number"
        )
    return number


def parse_constraints(text: str | None, place: object = None) -> tuple[Constraint, ...]:
    """Read ``age>=5&age<10`` into sorted constraints; an empty text is no constraint.

    Raises
    ------
    InputError
        For a term that is not ``variable operator value``.
    """
    if text is None or not str(text).strip() or str(text) == "nan":
        return ()
    out = []
    for term in str(text).split("&"):
        match = _TERM.fullmatch(term)
        if match is None:
            raise InputError(
                "is not a constraint",
                place=place,
                value=term,
                expected=f"variable, one of {' '.join(OPERATIONS)}, value",
            )
        out.append(Constraint(match[1], match[2].strip(), match[3]))
    return tuple(sorted(out))


def constraint_text(constraints: tuple[Constraint, ...]) -> str:
    """Return the canonical text of constraints, the inverse of `parse_constraints`."""
    return "&".join(str(c) for c in sorted(constraints))
