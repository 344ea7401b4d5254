"""The command that writes the report of a run."""

from __future__ import annotations

from pathlib import Path

import click

from distcalib.cli.files import force_option, need_new
from distcalib.cli.options import RUN_FOLDER


@click.command(
    epilog="\b\nExamples:\n"
    "  distcalib report runs/demo\n"
    "  distcalib report runs/demo --output demo.html --geojson districts.geojson"
)
@click.argument("folder", metavar="RUN", type=RUN_FOLDER)
@click.option("--output", type=click.Path(path_type=Path), help="HTML file; default: report.html in RUN.")
@click.option(
    "--geojson",
    type=click.Path(path_type=Path),
    help="Outlines of districts for the map (longitude and latitude); default: one tile a district.",
)
@force_option
def report(folder: Path, output: Path | None, geojson: Path | None, force: bool) -> None:
    """Write the report of a run, finished or not: one HTML file that needs no network.

    It shows what was asked, the fit, a map of the districts, the worst targets with their reasons, weights,
    other official figures, time and cost, provenance and warnings, from the tables in RUN alone. `run` writes
    report.html when it is done; this command writes it anew.
    """
    from distcalib.report.run_report import write_report

    if output is not None:
        need_new([output], force)
    file = write_report(folder, output, geojson)
    click.echo(f"{file}: the report, {file.stat().st_size / 1e6:,.1f} MB")
