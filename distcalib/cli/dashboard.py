"""The command that serves the dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from distcalib.cli.options import RUN_FOLDER, examples


@click.command(epilog=examples("distcalib dashboard", "distcalib dashboard runs/demo --port 8000"))
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=RUN_FOLDER)
@click.option("--runs", "parents", multiple=True, type=RUN_FOLDER, help="A folder whose children are runs.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5006, show_default=True, help="0: any free one."
)
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--allow-unencrypted-and-unauthenticated", "allow_others", is_flag=True,
    help="Listen on an address that others can reach; whoever does can use this machine.",
)  # fmt: skip
@click.option("--show/--no-browser", default=False, show_default=True, help="Open it in a browser.")
def dashboard(
    runs: tuple[Path, ...], parents: tuple[Path, ...], port: int, address: str, allow_others: bool, show: bool
) -> None:
    """Calibrate your own tables in a browser, and look at runs.

    A session can open the run folders that are named here and files that it uploads, and no others.
    """
    from distcalib.dashboard.server import check_address, find_runs, serve

    check_address(address, allow_others)
    found = find_runs(runs, parents)
    serve(found, address=address, port=port, show=show, told=click.echo)
