"""The command that compares two runs, or a run with a calibration package."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distcalib.cli.options import RUN_FOLDER, examples


@click.command(
    epilog=examples(
        "distcalib compare runs/a runs/b --output difference",
        "distcalib compare runs/a runs/b --output difference --fail-above 0.01",
        "distcalib compare runs/a calibration_package.pkl --weights w.npy --output difference",
    )
)
@click.argument("run_a", type=RUN_FOLDER)
@click.argument("run_b", metavar="RUN_B_OR_PACKAGE", type=RUN_FOLDER)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for tables and page.")
@click.option("--force", is_flag=True, help="Replace a comparison that is there.")
@click.option(
    "--fail-above",
    type=click.FloatRange(0.0),
    help="Exit 1 when the estimate of a fitted target changed by more; 0.01 is one percent.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Of a package: calibration_weights.npy; default: its initial.",
)
def compare(
    run_a: Path, run_b: Path, output: Path, force: bool, fail_above: float | None, weights: Path | None
) -> None:
    """Compare two finished runs: settings, targets, totals by area, weights, findings and files.

    Prints the biggest movers, and writes a CSV of each table and comparison.html. With a
    calibration_package.pkl in place of the second run, its targets are set beside the run's in targets.csv;
    the package is read, and never unpickled.
    """
    package = run_b.suffix == ".pkl"
    if weights is not None and not package:
        raise click.UsageError("--weights belongs to a calibration_package.pkl in place of the second run")
    if package and fail_above is not None:
        raise click.UsageError("--fail-above compares two runs")
    if package:
        _with_package(run_a, run_b, weights, output, force)
    else:
        _two_runs(run_a, run_b, output, force, fail_above)


def _with_package(run: Path, file: Path, weights: Path | None, output: Path, force: bool) -> None:
    from distcalib.cli.files import read_numbers
    from distcalib.report.comparison import need_output
    from distcalib.report.package import compare_with_package, in_words, read_package
    from distcalib.storage import publish

    need_output(output, force, (run,))
    package = read_package(file)
    table = compare_with_package(run, package, None if weights is None else read_numbers(weights))
    for old in output.glob("*"):  # of another comparison; what is anything else was refused
        old.unlink()
    publish(output / "targets.csv", lambda path: table.to_csv(path, index=False, lineterminator="\n"))
    for line in in_words(package, table):
        click.echo(line)
    click.echo(f"{output / 'targets.csv'}: {len(table):,} targets")


def _two_runs(run_a: Path, run_b: Path, output: Path, force: bool, fail_above: float | None) -> None:
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
