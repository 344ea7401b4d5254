"""Read mappings into frozen dataclasses: unknown keys, wrong types and values out of range are errors."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from distcalib.errors import InputError

T = TypeVar("T")

_NAME = re.compile(r"(?!.*\.tmp)[A-Za-z0-9][A-Za-z0-9._-]*")
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
}
_SHARED = "a whole number, a share between 0 and 1 such as 0.5, or null"


def setting(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    share: bool = False,
) -> Any:
    """Declare a field of a settings dataclass: its default, what it means, and its allowed values.

    With `share` the field is a whole number, to which the limits apply, or a share between 0 and 1.
    """
    metadata = {
        "doc": doc, "least": least, "most": most, "above": above, "choices": choices, "share": share,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def table(doc: str, *, least: float | None = None) -> Any:
    """Declare a field that maps names to numbers, or to texts and null; empty by default."""
    metadata = {"doc": doc, "least": least, "most": None, "above": None, "choices": None}
    return dataclasses.field(default_factory=dict, metadata=metadata)


def sections(cls: type[T], doc: str) -> Any:
    """Declare a field that maps names to settings dataclasses; empty by default."""
    return dataclasses.field(default_factory=dict, metadata={"doc": doc, "of": cls})


def section(cls: type[T], doc: str) -> Any:
    """Declare a field that is itself a settings dataclass."""
    return dataclasses.field(default_factory=cls, metadata={"doc": doc})


def read_settings(cls: type[T], raw: object, place: str, path: str = "") -> T:
    """Build `cls` from a mapping.

    Parameters
    ----------
    cls
        A frozen dataclass whose fields were declared with `setting` and `section`.
    raw
        Mapping of key -> value, as YAML gives it; None means all defaults.
    place
        File name for errors.
    path
        Dotted path of this section.

    Raises
    ------
    InputError
        Names file, field, value, what was expected and the nearest valid key or choice.
    """
    if raw is None:
        raw = {}
    where = f"{place}: {path}" if path else place
    if not isinstance(raw, Mapping):
        raise InputError("is not a section of settings", place=where, value=raw, expected="key: value lines")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in fields:
            raise InputError(
                "unknown setting",
                place=where,
                value=str(key),
                choices=fields,
                expected=f"one of {', '.join(fields)}",
            )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in raw:
            continue
        here = f"{path}.{name}" if path else name
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            values[name] = read_settings(hint, raw[name], place, here)
        elif "of" in field.metadata:
            values[name] = _named(field.metadata["of"], raw[name], place, here)
        elif typing.get_origin(hint) is dict:
            kind = typing.get_args(hint)[1]
            read = _numbers if kind is float else _texts
            values[name] = read(raw[name], field.metadata, f"{place}: {here}")
        else:
            values[name] = _checked(raw[name], hint, field.metadata, f"{place}: {here}")
    return cls(**values)


def _named(cls: type[T], raw: object, place: str, path: str) -> dict[str, T]:
    """Read name -> settings; a name becomes a folder and a file."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InputError(
            "is not a table of sections", place=f"{place}: {path}", value=raw, expected="NAME: settings"
        )
    _file_names(raw, f"{place}: {path}")
    return {name: read_settings(cls, own, place, f"{path}.{name}") for name, own in raw.items()}


def _file_names(names: Iterable[object], where: str) -> None:
    for name in names:
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise InputError(
                "is not a name",
                place=where,
                value=name,
                expected="letters, digits, dots, hyphens and underscores, such as US-50k; no .tmp",
            )


def _texts(raw: object, rules: Mapping[str, Any], where: str) -> dict[str, str | None]:
    """Read name -> text or null; a name becomes a file."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InputError("is not a table of texts", place=where, value=raw, expected="NAME: text lines")
    _file_names(raw, where)
    return {name: _checked(value, str | None, rules, f"{where}.{name}") for name, value in raw.items()}


def _numbers(raw: object, rules: Mapping[str, Any], where: str) -> dict[str, float]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise InputError("is not a table of numbers", place=where, value=raw, expected="NAME: number lines")
    return {name: _checked(value, float, rules, f"{where}.{name}") for name, value in raw.items()}


def _checked(value: Any, hint: Any, rules: Mapping[str, Any], where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        fits, converted = _as(value, option)
        if fits:
            value = converted
            break
    else:
        words = _SHARED if rules.get("share") else " or ".join(_words(o) for o in options)
        lists = [o for o in options if typing.get_origin(o) is tuple]
        if lists and not isinstance(value, list | tuple):
            raise InputError(
                "is one value where a list is wanted", place=where, value=value, expected=f"[{value}]"
            )
        raise InputError("has the wrong type", place=where, value=value, expected=words)
    if value is None:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("is not a finite number", place=where, value=value, expected="a finite number")
    if rules.get("share") and isinstance(value, float):
        if not 0 < value < 1:
            raise InputError(
                "is neither a whole number nor a share", place=where, value=value, expected=_SHARED
            )
        return value
    choices = rules.get("choices")
    if choices and value not in choices:
        raise InputError(
            "is not a valid choice",
            place=where,
            value=value,
            expected=f"one of {', '.join(choices)}",
            choices=choices,
        )
    least, most, above = rules.get("least"), rules.get("most"), rules.get("above")
    if least is not None and value < least:
        raise InputError("is too small", place=where, value=value, expected=f"at least {least}")
    if above is not None and value <= above:
        raise InputError("is too small", place=where, value=value, expected=f"more than {above}")
    if most is not None and value > most:
        raise InputError("is too large", place=where, value=value, expected=f"at most {most}")
    return value


def _words(option: Any) -> str:
    if typing.get_origin(option) is tuple:
        inner = typing.get_args(option)[0]
        return "a list, each " + " or ".join(_words(o) for o in typing.get_args(inner) or (inner,))
    return _WORDS.get(option, str(option))


def _as(value: Any, option: Any) -> tuple[bool, Any]:
    if isinstance(option, types.UnionType):
        tried = (_as(value, each) for each in typing.get_args(option))
        return next((t for t in tried if t[0]), (False, None))
    origin = typing.get_origin(option)
    if origin is tuple:
        inner = typing.get_args(option)[0]
        if not isinstance(value, list | tuple):
            return False, None
        parts = [_as(v, inner) for v in value]
        return all(p[0] for p in parts), tuple(p[1] for p in parts)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping), value
    if option is types.NoneType:
        return value is None, None
    if option is float and isinstance(value, int | float) and not isinstance(value, bool):
        return True, float(value)
    if option is float and isinstance(value, str):
        # YAML 1.1 reads 1e-8 as text, though everybody means a number.
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if option is int and isinstance(value, bool):
        return False, None
    return isinstance(value, option), value
