"""The command that writes replicate weights."""

from __future__ import annotations

from pathlib import Path

import click

from distcalib.cli.options import RUN_FOLDER, examples


@click.command(epilog=examples("distcalib replicates runs/demo --number 40 --output replicates"))
@click.argument("folder", metavar="RUN", type=RUN_FOLDER)
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
    from distcalib.report.console import in_progress
    from distcalib.runs.replicates import write_replicates

    with in_progress("reading the run", "replicates") as progress:
        facts = write_replicates(
            folder,
            output,
            number=number,
            seed=seed,
            calibrate=not no_refit,
            certain=certain,
            progress=lambda replicate: progress(replicate, number),
        )
    click.echo(
        f"{output / 'replicates.parquet'}: {number} replicates of {facts['donors']:,} donors, "
        f"{facts['donors_certain']:,} of them certain and fixed, perturbation {facts['perturbation']:g}"
    )
    click.echo(facts["note"])
