"""The command line: each command is a few lines over the public interface."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import distcalib
from distcalib.cli.compare import compare
from distcalib.cli.data import data
from distcalib.cli.doctor import doctor
from distcalib.cli.fit import fit_of_run
from distcalib.cli.publication import promote, publications, publish, rollback
from distcalib.cli.status import status
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
        click.option(
            "--output", metavar="FOLDER", required=True, help="The run folder: a path, or s3://bucket/prefix."
        ),
        click.option(
            "--cluster", type=click.Path(path_type=Path), help="Cluster file; default: this machine."
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Worker processes; overrides the cluster file."
        ),
        click.option("--accept-code", is_flag=True, help="Go on with a folder that other code began."),
        click.option(
            "--only",
            metavar="AREAS",
            help="Write and prove the files of these alone: MN,CA-12,NYC,US; a state with its districts.",
        ),
        click.option(
            "--force",
            metavar="STAGE",
            help="Do simulate, assemble, fit, areas or verify again with all that follows; their settings "
            "may differ from those that the folder was begun with.",
        ),
    ):
        function = option(function)
    return function


@main.command()
@_run_options
@click.option(
    "--until", metavar="STAGE", help="Stop after simulate, assemble, fit or areas; run again to go on."
)
def run(output: str, until: str | None, **options: Any) -> None:
    """Build, fit, write and verify; continue what an earlier attempt left.

    PRESET_OR_YAML is a preset of the package (demo) or a settings file.
    """
    from distcalib.report.console import (
        Progressing,
        make_console,
        print_plan,
        print_summary,
        print_unmet,
    )

    console = make_console()
    work = _open_run(output, **options)
    work.subscribers = [Progressing(console)]
    prepared = work.prepare()
    print_plan(prepared.plan, console, work.workers)
    print_unmet(prepared.plan, work.cluster, console)
    summary = work.execute(prepared, until)
    if "until" not in summary:
        work.home.fetch(["fit/diagnostics.csv", "fit/groups.csv"])
        print_summary(work.home.folder, summary, console)


@main.command()
@_run_options
def plan(output: str, **options: Any) -> None:
    """Print what `run` would do, after checking every input. Writes nothing."""
    from distcalib.report.console import make_console, print_plan, print_unmet

    work, console = _open_run(output, **options), make_console()
    prepared = work.prepare()
    print_plan(prepared.plan, console, work.workers)
    print_unmet(prepared.plan, work.cluster, console)


def _open_run(
    output: str,
    *,
    settings: str,
    cluster: Path | None,
    workers: int | None,
    accept_code: bool,
    only: str | None,
    force: str | None,
) -> distcalib.Run:
    from distcalib import Run, RunConfig
    from distcalib.cluster import load_cluster
    from distcalib.runs.area_stage import parse_only

    where = load_cluster(cluster)
    if workers is not None:
        where = where.changed(workers=workers)
    where.check()
    config = RunConfig.load(settings)
    if only is not None:
        config = config.changed(areas=replace(config.areas, only=parse_only(only)))
    return Run(config, output, where, accept_code=accept_code, force=force)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--number", type=click.IntRange(2), default=40, show_default=True, help="How many replicates.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write in.")
@click.option("--no-refit", is_flag=True, help="Scale the run's weights; do not fit each replicate.")
@click.option(
    "--certain",
    type=click.Path(path_type=Path),
    help="CSV of household_id, certain; default: beside the data.",
)
def replicates(
    folder: Path, number: int, seed: int, output: Path, no_refit: bool, certain: Path | None
) -> None:
    """Write bootstrap replicate weights of a finished run: the variance of the sampling of donors."""
    from distcalib.runs.replicates import write_replicates

    with ExitStack() as shown:
        bar = click.progressbar(length=number, label="replicates")

        def progress(replicate: int) -> None:
            if replicate == 0:  # all input is checked: errors come without a bar
                shown.enter_context(bar)
            else:
                bar.update(1)

        facts = write_replicates(
            folder,
            output,
            number=number,
            seed=seed,
            calibrate=not no_refit,
            certain=certain,
            progress=progress,
        )
    click.echo(
        f"{output / 'replicates.parquet'}: {number} replicates of {facts['donors']:,} donors, "
        f"{facts['donors_certain']:,} of them certain and fixed, perturbation {facts['perturbation']:g}"
    )
    click.echo(facts["note"])


for _command in (status, doctor, compare, publish, promote, rollback, publications, fit_of_run, data):
    main.add_command(_command)
