"""``distcalib doctor``: is a cluster fit for a run?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distcalib.cli.options import examples


@click.command(
    epilog=examples(
        "distcalib doctor", "distcalib doctor national --cluster cluster.yaml --output runs/national"
    )
)
@click.argument("settings", metavar="[PRESET_OR_YAML]", required=False)
@click.option("--cluster", type=click.Path(path_type=Path), help="Cluster file; default: this machine.")
@click.option("--output", metavar="FOLDER", help="The run folder, a path or URL; nothing stays in it.")
def doctor(settings: str | None, cluster: Path | None, output: str | None) -> None:
    """Look at every worker before a run: versions, memory, threads, GPU, storage, clock, TLS.

    With a preset or a settings file, memory and the fit's engine are held to its plan. Exit code 1 when
    something fails; each line says the mend.
    """
    from distcalib.cluster import load_cluster
    from distcalib.config import RunConfig
    from distcalib.report.console import in_progress, make_console
    from distcalib.report.doctor import print_checks
    from distcalib.runs.doctor import FAILS, examine

    where, plan = load_cluster(cluster), None
    if settings is not None:
        from distcalib.microdata.remote import local_file
        from distcalib.runs.plan import make_plan

        config = RunConfig.load(settings)
        plan = make_plan(config.changed(microdata=str(local_file(config.microdata)))).plan
    with in_progress("asking every worker"):
        checks = examine(where, plan, output)
    print_checks(checks, make_console())
    if any(check.status == FAILS for check in checks):
        sys.exit(1)
