"""YAML of settings files, without the two of its habits that silently change what somebody wrote."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from distcalib.errors import InputError


def parse_yaml(text: str, place: str) -> object:
    """Return what a YAML text says.

    Raises
    ------
    InputError
        When it is not YAML, when a key occurs twice in one section (YAML would drop the first), and for a
        number with a leading zero (YAML reads 0601 as octal, 385). Names the lines.
    """
    try:
        loader = _Loader(text)
        loader.place = place
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise InputError("is nested too deeply", place=place, expected="settings of a few levels") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"is not YAML ({getattr(error, 'problem', error)}{line})", place=place) from None


class _Loader(yaml.SafeLoader):
    place = ""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and isinstance(key, yaml.ScalarNode):
                raise InputError(
                    f"the key {key.value!r} occurs twice, in lines {lines[key.value]} and {line}",
                    place=self.place,
                    expected="each key once",
                )
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        number = super().construct_yaml_int(node)
        if re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise InputError(
                f"YAML reads {node.value} as the octal number {number}",
                place=f"{self.place}, line {node.start_mark.line + 1}",
                expected=f'"{node.value}" in quotes, or without the leading zero',
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
