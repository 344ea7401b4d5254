"""Reading pickles of others without unpickling them: what they ask to be made is only named.

A pickle is a programme; `pickle.load` runs it. `load` walks through it with a stand-in for every class and
function that it names, so nothing of it is imported or called, and `array` and `plain` make arrays and
numbers of what is left.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError

_KINDS = re.compile(r"[biufSUO]\d*")


class Made:
    """Stands for something that a pickle asks to be made.

    Attributes
    ----------
    name
        Of the class or function, without its module.
    args, state
        What it was to be called with, and to be given afterwards.
    """

    name = ""
    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Made:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item of something like a dict; it is dropped."""

    def append(self, item: Any) -> None:
        """Take an item of something like a list; it is dropped."""

    def extend(self, items: Any) -> None:
        """Take items of something like a list; they are dropped."""


class _Walk(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], expected: Callable[[str, str], bool], place: object) -> None:
        super().__init__(stream)
        self.expected, self.place = expected, place

    def find_class(self, module: str, name: str) -> Any:
        if not self.expected(module, name):
            raise InputError(
                "holds objects that are not text, numbers or arrays", place=self.place,
                value=f"{module}.{name}",
            )  # fmt: skip
        return type(name, (Made,), {"name": name})


def load(stream: IO[bytes], place: object, expected: Callable[[str, str], bool] = lambda m, n: True) -> Any:
    """Return what a pickle holds, with `Made` in the places of objects; nothing of it is imported or called.

    Parameters
    ----------
    stream
        Of a pickle.
    place
        Of errors.
    expected
        Told module and name of everything that the pickle names; False refuses it.

    Raises
    ------
    InputError
        When it is no whole pickle, or names what is not expected.
    """
    try:
        return _Walk(stream, expected, place).load()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"cannot be read ({type(error).__name__}: {error})", place=place, expected="a pickle"
        ) from None


def array(made: Any, place: object) -> NDArray[Any]:
    """Return the array that was pickled; of objects where they are texts, numbers, true or false, or None.

    Raises
    ------
    InputError
        For anything else, and for bytes that do not fill the shape.
    """
    name = made.name if isinstance(made, Made) else ""
    try:
        if name == "_frombuffer":
            raw, dtype, shape, order = made.args
        elif name in ("_reconstruct", "ndarray"):
            _, shape, dtype, fortran, raw = made.state
            order = "F" if fortran else "C"
        else:
            raise ValueError("is not an array")
        kind = _dtype(dtype)
        if isinstance(raw, list):
            flat = np.empty(len(raw), dtype=object)
            flat[:] = [plain(one, place) for one in raw]
        elif kind.hasobject:
            raise ValueError("objects in a buffer")
        else:
            flat = np.frombuffer(raw_bytes(raw), dtype=kind)
        return flat.reshape([int(n) for n in shape], order=order)
    except (TypeError, ValueError) as error:
        raise InputError(f"is not an array that can be read ({error})", place=place) from None


def plain(value: Any, place: object) -> Any:
    """Return a text, number, bool or None, of numpy's or Python's.

    Raises
    ------
    InputError
        For anything else.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Made) and value.name == "scalar" and len(value.args) == 2:
        with suppress(ValueError, TypeError, IndexError):
            kind, raw = _dtype(value.args[0]), value.args[1]
            if isinstance(raw, bytes) and not kind.hasobject:
                return np.frombuffer(raw, dtype=kind)[0].item()
    raise InputError("holds what is no text and no number", place=place, value=type(value).__name__)


def raw_bytes(value: Any) -> Any:
    """Return bytes that were pickled, whichever way the protocol has of writing a bytearray."""
    if isinstance(value, Made) and value.name == "bytearray" and len(value.args) == 1:
        return value.args[0]
    return value


def _dtype(made: Any) -> np.dtype[Any]:
    code = made.args[0] if isinstance(made, Made) and made.name == "dtype" and made.args else ""
    if not (isinstance(code, str) and _KINDS.fullmatch(code)):
        raise ValueError(f"elements of the kind {code!r}")
    order = made.state[1] if isinstance(made.state, tuple) and len(made.state) > 1 else "|"
    return np.dtype(f"{order}{code}") if order in ("<", ">") else np.dtype(code)
