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
@click.option("--max-upload", default="200MiB", show_default=True, help="The most that a file may have.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Calibrations at once.")
@click.option("--memory", default="4GiB", show_default=True, help="Of each worker.")
@click.option("--show/--no-browser", default=False, show_default=True, help="Open it in a browser.")
def dashboard(
    runs: tuple[Path, ...], parents: tuple[Path, ...], port: int, address: str, allow_others: bool,
    max_upload: str, workers: int, memory: str, show: bool,
) -> None:  # fmt: skip
    """Calibrate your own tables in a browser, and look at runs.

    Load a survey and targets, or the example; check them; calibrate with live curves; see the targets, the
    records behind them and the weights; compare; download. A session opens the run folders that are named
    here and files that it uploads, and no others. Ctrl-C ends the server and its workers.
    """
    from distcalib.config import memory_bytes
    from distcalib.dashboard.server import check_address, find_runs, serve

    check_address(address, allow_others)
    most = memory_bytes(max_upload, "--max-upload")
    memory_bytes(memory, "--memory")
    serve(
        find_runs(runs, parents), address=address, port=port, show=show, most_upload=most, workers=workers,
        memory=memory, told=click.echo,
    )  # fmt: skip
