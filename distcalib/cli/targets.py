"""Commands on the targets of a run, of settings or of a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distcalib.cli.files import force_option, need_new
from distcalib.cli.options import changes_of, examples, need_folder, set_option, together

_source = click.argument(
    "source", callback=lambda _, __, source: need_folder(source, "SOURCE", "s3a?|gs|gcs|az|abfss?|file")
)
_filters = together(
    set_option,
    click.option(
        "--status", multiple=True, type=click.Choice(["fit", "check", "excluded"]), help="May be repeated."
    ),
    click.option("--variable", multiple=True, help="snap, person_count ...; may be repeated."),
    click.option("--level", multiple=True, type=click.Choice(["national", "state", "district"])),
    click.option("--area", multiple=True, help="US, CA, CA-12 ...; may be repeated."),
    click.option("--words", default="", help="A part of the name or of the reason."),
    click.option("--output", type=click.Path(path_type=Path), help="CSV file of every column."),
    force_option,
)


@click.group()
def targets() -> None:
    """Say which targets are fitted, checked or excluded, and why.

    SOURCE is a run folder, a preset or settings file, or a target database: bundled, a SQLite file or a
    SQLAlchemy URL. Nothing is simulated.
    """


@targets.command(
    "list",
    epilog=examples(
        "distcalib targets list bundled --status excluded",
        "distcalib targets list runs/demo --area CA-12 --variable snap",
        "distcalib targets list policy_data.db --set targets.rules=target_config.yaml --output targets.csv",
    ),
)
@_source
@_filters
@click.option("--most", type=click.IntRange(1), default=40, show_default=True, help="Lines to print.")
def list_command(source: str, most: int, **asked: Any) -> None:
    """List targets: id, name, value, period, status, reason."""
    from distcalib.runs.target_list import SHOWN

    table = _chosen(source, **asked)
    _print(table[list(SHOWN)], most)


@targets.command(
    "count",
    epilog=examples(
        "distcalib targets count bundled", "distcalib targets count my.yaml --by status,geo_level,variable"
    ),
)
@_source
@_filters
@click.option("--by", default="status", show_default=True, help="Columns, by commas.")
def count(source: str, by: str, **asked: Any) -> None:
    """Count targets by status, geo_level, variable, domain_variable, reason, period or reform_id."""
    from distcalib.runs.target_list import count_targets

    _print(count_targets(_chosen(source, **asked), by.split(",")), 200)


@targets.command(
    "explain",
    epilog=examples(
        "distcalib targets explain bundled state_6/snap", "distcalib targets explain runs/demo 13"
    ),
)
@_source
@click.argument("target")
@set_option
def explain(source: str, target: str, sets: tuple[str, ...]) -> None:
    """Print all that is known of a target (of an id or a name): values, place, status and why.

    Of a run whose fit is done also its row of fit/diagnostics.csv: estimate, errors, donors, cause of a miss.
    """
    from distcalib.report.drill import judged
    from distcalib.runs.target_list import explain_target, list_targets

    found = explain_target(list_targets(source, changes_of(sets)), target)
    fitted = judged(source, [facts["name"] for facts in found]) if Path(source).is_dir() else {}
    for facts in found:
        for name, value in {**facts, **fitted.get(facts["name"], {})}.items():
            click.echo(f"{name:22} {value}")


def _chosen(source: str, *, sets: tuple[str, ...], output: Path | None, force: bool, **filters: Any) -> Any:
    from distcalib.runs.target_list import choose, list_targets
    from distcalib.storage import publish

    if output is not None:
        need_new([output], force)
    table = choose(list_targets(source, changes_of(sets)), **filters)
    if output is not None:
        publish(output, lambda path: table.to_csv(path, index=False, lineterminator="\n"))
        click.echo(f"{output}: {len(table):,} targets")
    return table


def _print(table: Any, most: int) -> None:
    if len(table):
        click.echo(table.head(most).to_string(index=False, float_format=lambda v: f"{v:,.10g}"))
    more = f"; the first {most} are shown, --output writes all" if len(table) > most else ""
    click.echo(f"{len(table):,} rows{more}")
