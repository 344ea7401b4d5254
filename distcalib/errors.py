"""Errors that name the place, the value, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import reprlib
import sys
import warnings
from collections.abc import Iterable, Sequence


class DistcalibError(Exception):
    """An error that the program explains itself: printed without a traceback."""

    exit_code = 1


class InputError(DistcalibError):
    """Something that the user gave cannot be used. Exit code 2; nothing has been written.

    Parameters
    ----------
    message
        What is wrong, in one sentence.
    place
        File, and where there is one the field: ``run.yaml: fit.epochs``.
    value
        The offending value, if one can be shown.
    expected
        What would have been right.
    choices
        Valid choices; the nearest to `value` are named in the message.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        place: object = None,
        value: object = None,
        expected: str | None = None,
        choices: Iterable[object] = (),
    ) -> None:
        choices = tuple(choices)
        parts = [f"{place}: {message}" if place is not None else message]
        if value is not None:
            parts.append(f"got {_short(value)}")
        if expected:
            parts.append(f"expected {expected}")
        near = nearest(value, choices)
        if near:
            parts.append("did you mean " + " or ".join(repr(n) for n in near) + "?")
        super().__init__("; ".join(parts))
        self.message, self.place, self.value, self.expected = message, place, value, expected
        self.choices = choices

    def at(self, place: object) -> InputError:
        """Return the same error of another place: what a setting is called where the user wrote it."""
        return InputError(
            self.message, place=place, value=self.value, expected=self.expected, choices=self.choices
        )


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise what was found: the one error, or one that lists them all; without any, return."""
    if len(errors) > 1:
        lines = [f"{number}. {error}" for number, error in enumerate(errors, 1)]
        raise InputError("\n".join([f"{len(errors):,} things are wrong", *lines]))
    for error in errors:
        raise error


class RunError(DistcalibError):
    """A run could not be finished; what had verified stays and is used by the next attempt."""


class StorageError(RunError, OSError):
    """Storage failed again and again, for a reason that may pass: a run goes on from what is there."""


class DistcalibWarning(UserWarning):
    """Something that an analyst should know and that stops nothing."""


def warn(message: str, category: type[Warning] = DistcalibWarning, stacklevel: int = 2) -> None:
    """Warn the caller of the caller, also after policyengine-us was imported.

    Its import tells Python to ignore every warning of every package from then on; a blanket filter of one's
    own cannot be told from it. Filters of a category hold: ``ignore::distcalib.errors.DistcalibWarning``.
    """
    with warnings.catch_warnings():
        if "policyengine_us" in sys.modules:
            hush = ("ignore", None, Warning, None, 0)
            warnings.filters = [one for one in warnings.filters if one != hush]
        warnings.warn(message, category, stacklevel=stacklevel + 1)


def nearest(value: object, choices: Iterable[object], n: int = 3) -> list[str]:
    """Return up to `n` choices whose spelling is closest to `value`, best first.

    >>> nearest("epoch", ["epochs", "seed"])
    ['epochs']
    """
    names = [str(c) for c in choices]
    if value is None or not names:
        return []
    return difflib.get_close_matches(str(value), names, n=n, cutoff=0.5)


def _short(value: object, limit: int = 120) -> str:
    # A file of a few lines can stand for a list that has no end; nothing beyond the limit is written out.
    bounded = reprlib.Repr()
    bounded.maxlevel, bounded.maxdict, bounded.maxlist, bounded.maxtuple = 4, 20, 20, 20
    bounded.maxstring = bounded.maxother = bounded.maxlong = limit
    text = bounded.repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
