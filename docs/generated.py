"""Parts of pages that are made from the code when the site is built, and so cannot fall behind it."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from inspect import cleandoc
from typing import Any

import click

from distcalib.cli import main
from distcalib.config.cluster import ClusterConfig
from distcalib.config.settings import RunConfig, presets, starting_text

_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def filled(page: str) -> str:
    """Return a page with ``<!-- generated: NAME -->`` replaced by what NAME makes."""
    return _MARK.sub(lambda found: "\n".join(PARTS[found[1]]()), page)


def commands() -> Iterator[str]:
    """Return every command: what it does, its options, its examples."""
    yield from _command(main, "distcalib", 2)


def _command(command: click.Command, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    yield f"{'#' * level} {name}\n"
    yield f"```\n{' '.join([name, *command.collect_usage_pieces(context)])}\n```\n"
    yield cleandoc(command.help or "").replace("\b", "").strip() + "\n"
    rows = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [row for row in rows if row is not None and not row[0].startswith("-h,")]
    if rows:
        yield "| option | |\n|---|---|"
        yield from (f"| `{_cell(names)}` | {_cell(told)} |" for names, told in rows)  # type: ignore[misc]
        yield ""
    if command.epilog:
        lines = [line.strip() for line in command.epilog.splitlines()]
        lines = [line for line in lines if line.startswith("distcalib ")]
        yield "\n".join(["```bash", *lines, "```\n"])
    if isinstance(command, click.Group):
        for key in sorted(command.commands):
            yield from _command(command.commands[key], f"{name} {key}", min(level + 1, 3))


def run_settings() -> Iterator[str]:
    """Return every setting of a run."""
    yield from _settings(RunConfig, "", "Top level")


def cluster_settings() -> Iterator[str]:
    """Return every setting of a cluster."""
    yield from _settings(ClusterConfig, "", "Top level of a cluster file")


def _settings(cls: type, path: str, title: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    inner = []
    yield f"### {title}\n\n| setting | type | default | meaning |\n|---|---|---|---|"
    for field in dataclasses.fields(cls):
        hint, rules, name = hints[field.name], field.metadata, f"{path}{field.name}"
        if "doc" not in rules:
            continue
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner.append((hint, f"{name}.", f"{name}: {rules['doc']}"))
            continue
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        text = json.dumps(default).removeprefix("[]").removeprefix("{}")
        limits = _limits(rules)
        shown = f"`{_cell(text)}`" if text else "none"
        yield f"| `{name}` | {_type(hint)} | {shown} | {_cell(rules['doc'])}{limits} |"
    yield ""
    for each in inner:
        yield from _settings(*each)


def _limits(rules: Any) -> str:
    words = {"least": "at least", "above": "more than", "most": "at most"}
    told = [f"{text} {rules[key]}" for key, text in words.items() if rules.get(key) is not None]
    told += ["or a share between 0 and 1"] if rules.get("share") else []
    told += ["one of " + ", ".join(f"`{c}`" for c in rules["choices"])] if rules.get("choices") else []
    return f" ({'; '.join(told)})" if told else ""


def _type(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_type(each) for each in typing.get_args(hint))
    names = {int: "whole number", float: "number", str: "text", bool: "true, false", types.NoneType: "null"}
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        kind = typing.get_args(hint)[1]
        return f"table of {'settings' if dataclasses.is_dataclass(kind) else _type(kind)} by name"
    return names[hint]


def preset_texts() -> Iterator[str]:
    """Return the text of every preset, and of the cluster file that lists all its settings."""
    for name in sorted(presets(), key=len):
        yield f"### {name}\n\n```yaml\n{presets()[name]}```\n"
    yield f"### cluster\n\n```yaml\n{starting_text('cluster')}```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "run_settings": run_settings,
    "cluster_settings": cluster_settings,
    "presets": preset_texts,
}
