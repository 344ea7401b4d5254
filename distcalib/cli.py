"""The command line: each command is a few lines over the public interface."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import distcalib
from distcalib.errors import DistcalibError


class _Explained(click.Group):
    """Print errors that explain themselves without a traceback, with their exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DistcalibError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Explained, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(distcalib.__version__, package_name="distcalib")
def main() -> None:
    """Calibrated microdata for every US congressional district."""


def _run_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.argument("settings", metavar="PRESET_OR_YAML"),
        click.option("--output", type=click.Path(path_type=Path), required=True, help="The run folder."),
        click.option(
            "--cluster", type=click.Path(path_type=Path), help="Cluster file; default: this machine."
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Worker processes; overrides the cluster file."
        ),
        click.option("--accept-code", is_flag=True, help="Go on with a folder that other code began."),
    ):
        function = option(function)
    return function


@main.command()
@_run_options
def run(settings: str, output: Path, cluster: Path | None, workers: int | None, accept_code: bool) -> None:
    """Build, fit, write and verify; continue what an earlier attempt left.

    PRESET_OR_YAML is a preset of the package (demo) or a settings file.
    """
    from distcalib.report.console import Progressing, make_console, print_plan, print_summary

    console = make_console()
    work = _open_run(settings, output, cluster, workers, accept_code)
    work.subscribers = [Progressing(console)]
    prepared = work.prepare()
    print_plan(prepared.plan, console, work.workers)
    summary = work.execute(prepared)
    print_summary(output, summary, console)


@main.command()
@_run_options
def plan(settings: str, output: Path, cluster: Path | None, workers: int | None, accept_code: bool) -> None:
    """Print what `run` would do, after checking every input. Writes nothing."""
    from distcalib.report.console import make_console, print_plan

    work = _open_run(settings, output, cluster, workers, accept_code)
    print_plan(work.prepare().plan, make_console(), work.workers)


def _open_run(
    settings: str, output: Path, cluster: Path | None, workers: int | None, accept_code: bool
) -> distcalib.Run:
    from dataclasses import replace

    from distcalib import ClusterConfig, Run, RunConfig

    where = ClusterConfig.load(cluster)
    if workers is not None:
        where = replace(where, workers=workers)
    return Run(RunConfig.load(settings), output, where, accept_code=accept_code)


@main.group()
def data() -> None:
    """Rebuild the bundled inputs from their sources."""


@data.command()
@click.option(
    "--households", type=click.IntRange(1), help="Households, at least 4,000; default: all 200,576."
)
@click.option("--year", type=int, default=2024, show_default=True, help="Year that money is aged to.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
def cps(households: int | None, year: int, seed: int, output: Path) -> None:
    """Build a PolicyEngine dataset from the public-use CPS that taxcalc ships."""
    from distcalib.microdata.cps import build_cps, write_cps

    build = build_cps(households=households, year=year, seed=seed)
    write_cps(build, output)
    count = build.microdata.count
    click.echo(f"{output}: {count():,} households, {count('person'):,} persons")


@data.command()
@click.option(
    "--database", type=click.Path(path_type=Path), help="Write the bundled targets as a SQLite file."
)
@click.option("--raw", type=click.Path(path_type=Path), help="Folder of raw public files to rebuild from.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the rebuilt table.")
def targets(database: Path | None, raw: Path | None, output: Path | None) -> None:
    """Write the bundled targets as a database, or rebuild their table from the public files."""
    if (raw is None) == (database is None) or (raw is None) != (output is None):
        raise click.UsageError("give --database FILE, or --raw FOLDER with --output FOLDER")
    if database is not None:
        if database.exists():
            raise click.UsageError(f"{database} exists; give a new file")
        from distcalib.targets.database import write_database_file
        from distcalib.targets.sources import bundled_targets

        write_database_file(bundled_targets(), database)
        click.echo(f"{database}: {len(bundled_targets()):,} targets")
    if raw is not None and output is not None:
        from distcalib.geography.sources import write_bundled as write_geography
        from distcalib.targets.sources import write_bundled

        write_bundled(raw, output)
        write_geography(raw, output)
        click.echo(f"{output}: rebuilt")


@data.command("starting-totals")
@click.option("--run", "folder", type=click.Path(path_type=Path), required=True, help="Folder of a run.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
def starting(folder: Path, output: Path) -> None:
    """Write what the microdata of a run give for national quantities before any calibration."""
    from distcalib.report.starting import starting_totals
    from distcalib.storage import publish

    table = starting_totals(folder)
    publish(output, lambda path: table.to_csv(path, index=False))
    click.echo(f"{output}: {len(table)} totals")


if __name__ == "__main__":
    main()
