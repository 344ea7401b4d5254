"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from distcalib.errors import InputError
from distcalib.storage.stores import without_credentials


def examples(*lines: str) -> str:
    """Return the end of a command's help: one example a line, as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Stage(click.ParamType):
    """A stage of a run; the run itself refuses others, with the nearest."""

    name = "stage"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the stages."""
        from distcalib.config.settings import STAGES

        return [CompletionItem(name) for name in STAGES if name.startswith(incomplete)]


class Settings(click.ParamType):
    """A preset or a settings file."""

    name = "preset or file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the presets, and files."""
        from distcalib.config import presets

        named = [CompletionItem(name) for name in sorted(presets()) if name.startswith(incomplete)]
        return [*named, CompletionItem(incomplete, type="file")]


def need_folder(value: str, place: str, schemes: str = "[A-Za-z][A-Za-z0-9+.-]*") -> str:
    """Return what names a folder of this machine; `InputError` for a URL of one of some schemes (a regex)."""
    if re.match(rf"(?:{schemes}):/", value):
        shown = without_credentials(value)
        raise InputError(
            "is a URL", place=place, value=shown,
            expected=f"a folder of this machine; `aws s3 sync {shown} FOLDER` makes one of a run in S3",
        )  # fmt: skip
    return value


class RunFolder(click.Path):
    """The folder of a run, of this machine's files."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse URLs, of which a path would lose a slash."""
        need_folder(str(value), param.human_readable_name if param else "RUN")
        return super().convert(value, param, ctx)


RUN_FOLDER = RunFolder(path_type=Path)
run_argument = click.argument("run", metavar="RUN", type=RUN_FOLDER)
set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting in place of the file's: fit.records=5000.",
)
cluster_options = (
    click.option("--cluster", type=click.Path(path_type=Path), help="Cluster file; default: this machine."),
    click.option("--workers", type=click.IntRange(1), help="Worker processes; overrides the cluster file."),
)
log_option = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="Text for people, or the events as one JSON object a line on standard output.",
)  # fmt: skip
told_options = (
    click.option("--strict", is_flag=True, help="Exit 3 where files are proven but something was warned of."),
    log_option,
)


def together(*options: Any) -> Any:
    """Return a decorator that gives a command several options, listed in their order."""

    def decorate(function: click.decorators.FC) -> click.decorators.FC:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def changes_of(sets: tuple[str, ...]) -> dict[str, object]:
    """Return what ``--set KEY=VALUE`` says, values as YAML."""
    from distcalib.config.yaml_text import parse_yaml

    changes: dict[str, object] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not (key and equals) or key in changes:
            raise InputError(
                "is not a setting", place="--set", value=text, expected="KEY=VALUE, each key once"
            )
        changes[key] = parse_yaml(value, f"--set {key}")
    return changes


def cluster_of(cluster: Path | None, workers: int | None) -> Any:
    """Return the settings of a cluster, checked."""
    from distcalib.cluster import load_cluster

    where = load_cluster(cluster)
    if workers is not None:
        where = where.changed(workers=workers)
    where.check()
    return where
