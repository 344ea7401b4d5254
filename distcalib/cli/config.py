"""Commands on settings files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from distcalib.cli.files import force_option, need_new
from distcalib.cli.options import Settings, changes_of, examples, set_option, together

_settings = click.argument("settings", metavar="PRESET_OR_YAML", type=Settings())


@click.group()
def config() -> None:
    """Look at settings: what they are, where each comes from, whether they are valid."""


@config.command(
    epilog=examples(
        "distcalib config show demo",
        "distcalib config show my.yaml --changed",
        "distcalib config show my.yaml --set fit.records=5000 --json",
    )
)
@_settings
@together(
    set_option,
    click.option("--changed", is_flag=True, help="Only what is not the default."),
    click.option("--docs", is_flag=True, help="Above each setting, what it means."),
    click.option("--json", "as_json", is_flag=True, help="A JSON list: name, value, default, origin, doc."),
)
def show(settings: str, sets: tuple[str, ...], changed: bool, docs: bool, as_json: bool) -> None:
    """Print every setting, resolved, with where its value comes from.

    What is printed is itself a settings file. Paths are shown from the current folder.
    """
    from distcalib.config.origins import as_lines, resolved

    found = [one for one in resolved(settings, changes_of(sets)) if not changed or one.value != one.default]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
        return
    for line in as_lines(found, docs):
        click.echo(line)


@config.command(
    epilog=examples("distcalib config check my.yaml", "distcalib config check my.yaml --cluster cluster.yaml")
)
@_settings
@together(
    set_option,
    click.option("--cluster", type=click.Path(path_type=Path), help="A cluster file to check, too."),
)
def check(settings: str, sets: tuple[str, ...], cluster: Path | None) -> None:
    """Check names, types and ranges of settings; exit 2 for the first that is wrong.

    `plan` checks more: microdata, targets and every other file that they name.
    """
    from distcalib.cli.options import cluster_of
    from distcalib.config.origins import resolved

    found = resolved(settings, changes_of(sets))
    own = sum(one.value != one.default for one in found)
    click.echo(f"{settings}: valid; {own} of {len(found)} settings differ from their defaults")
    if cluster is not None:
        cluster_of(cluster, None)
        click.echo(f"{cluster}: valid")


@config.command("presets", epilog=examples("distcalib config presets"))
def list_presets() -> None:
    """List the presets of the package."""
    from distcalib.config import presets

    for name, text in sorted(presets().items()):
        click.echo(f"{name:10} {text.splitlines()[0].removeprefix('# ')}")


@config.command(
    epilog=examples(
        "distcalib config new my.yaml",
        "distcalib config new my.yaml --preset national",
        "distcalib config new cluster.yaml --preset cluster",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--preset", default="demo", show_default=True, help="What to start from; cluster: a cluster file."
)
@force_option
def new(file: Path, preset: str, force: bool) -> None:
    """Write a settings file to start from: a preset with its comments."""
    from distcalib.config.settings import starting_text
    from distcalib.storage import write_text

    text = starting_text(preset)
    need_new([file], force)
    write_text(file, text)
    then = f"--cluster {file}" if preset == "cluster" else f"distcalib plan {file}"
    click.echo(f"{file}: written from the preset {preset}; next: {then}")
