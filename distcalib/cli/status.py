"""The command that says how far a run is."""

from __future__ import annotations

import json
import sys
import time

import click

from distcalib.cli.options import examples


@click.command(
    epilog=examples(
        "distcalib status runs/demo",
        "distcalib status runs/demo --watch",
        "distcalib status s3://bucket/prefix --watch",
        "distcalib status runs/demo --json",
    )
)
@click.argument("folder", metavar="RUN")
@click.option("--watch", is_flag=True, help="Stay, and show what changes until the run ends.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds between looks."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(folder: str, watch: bool, every: float, as_json: bool) -> None:
    """Say how far a run is: stages, rates, time left, slowest tasks, memory.

    It reads the run folder alone, so it works from another shell or machine, and changes nothing. With
    --watch the exit code is 1 where the run failed or was interrupted.
    """
    from distcalib.report.console import make_console
    from distcalib.report.status import shown, watch_status
    from distcalib.runs.status import Watch

    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    follow = Watch(folder)
    if watch:
        if watch_status(follow, make_console(), every).state(time.time()) == "failed":
            sys.exit(1)
    elif as_json:
        click.echo(json.dumps(follow.read().to_json(time.time()), indent=1))
    else:
        make_console().print(shown(follow.read(), time.time()), highlight=False)
