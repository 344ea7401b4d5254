"""Where each setting of a run has its value from, as lines of a settings file that say so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcalib.config.settings import CHANGES, RunConfig, nested, read_run_settings


@dataclass(frozen=True)
class Setting:
    """One setting, resolved.

    Attributes
    ----------
    name
        Dotted: ``fit.records``.
    value, default
        JSON values.
    origin
        ``default``, the preset or file, or ``--set``.
    doc
        What it means.
    """

    name: str
    value: Any
    default: Any
    origin: str
    doc: str


def resolved(name_or_path: str | Path | None, changes: Mapping[str, object] | None = None) -> list[Setting]:
    """Return every setting of a run with where its value comes from; arguments as `RunConfig.load`."""
    config = RunConfig.load(name_or_path, changes)
    raw, place = read_run_settings(name_or_path)
    said = ((CHANGES, nested(changes or {}, CHANGES)), (place, raw))
    return list(_settings(config, said))


def _settings(config: Any, said: Any, path: str = "") -> Any:
    for field in dataclasses.fields(config):
        name, value = f"{path}{field.name}", getattr(config, field.name)
        here = [(place, raw.get(field.name)) for place, raw in said if field.name in (raw or {})]
        if dataclasses.is_dataclass(value):
            yield from _settings(value, here, f"{name}.")
            continue
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        origin = here[0][0] if here else "default"
        if field.name == "fits":
            value = {further: _beside(own, config.fit) for further, own in value.items()}
        yield Setting(name, _plain(value), _plain(default), origin, field.metadata["doc"])


def _beside(own: Any, other: Any) -> dict[str, Any]:
    """Return the settings of a further fit that are not those of ``fit``."""
    both = {f.name: (getattr(own, f.name), getattr(other, f.name)) for f in dataclasses.fields(own)}
    return {name: mine for name, (mine, its) in both.items() if mine != its}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def as_lines(settings: list[Setting], docs: bool = False) -> list[str]:
    """Return settings as lines of YAML; a comment says where each value comes from, and the default.

    With `docs` a comment above each says what it means.
    """
    lines: list[str] = []
    section = ""
    for one in settings:
        head, _, key = one.name.rpartition(".")
        if head and head != section:
            lines.append(f"{head}:")
        section = head
        indent = "  " if head else ""
        if docs:
            lines.append(f"{indent}# {one.doc}")
        text = f"{indent}{key}: {json.dumps(one.value)}"
        other = f"; default {json.dumps(one.default)}" if one.value != one.default else ""
        lines.append(f"{text:<44} # {one.origin}{other}")
    return lines
