"""The command that compares two runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distcalib.cli.options import examples


@click.command(
    epilog=examples(
        "distcalib compare runs/a runs/b --output difference",
        "distcalib compare runs/a runs/b --output difference --fail-above 0.01",
    )
)
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for tables and page.")
@click.option("--force", is_flag=True, help="Replace a comparison that is there.")
@click.option(
    "--fail-above",
    type=click.FloatRange(0.0),
    help="Exit 1 when the estimate of a fitted target changed by more; 0.01 is one percent.",
)
def compare(run_a: Path, run_b: Path, output: Path, force: bool, fail_above: float | None) -> None:
    """Compare two finished runs: settings, targets, totals by area, weights, findings and files.

    Prints the biggest movers, and writes a CSV of each table and comparison.html.
    """
    from distcalib.report.comparison import compare_runs, need_output, write_comparison
    from distcalib.report.comparison_page import print_comparison
    from distcalib.report.console import make_console

    need_output(output, force, (run_a, run_b))
    found = compare_runs(run_a, run_b)
    write_comparison(found, output, force)
    print_comparison(found, output, make_console())
    if fail_above is None:
        return
    worst = found.largest_change()
    if worst is None:
        click.echo("the runs share no fitted target, so --fail-above has nothing to judge")
        sys.exit(1)
    words = f"{worst['name']} changed most of all fitted targets, by {worst['relative']:+.3%}"
    click.echo(f"{words} ({fail_above:.3%} is allowed)")
    sys.exit(int(abs(worst["relative"]) > fail_above))
