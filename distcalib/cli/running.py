"""Commands that carry runs out: plan, run, verify."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distcalib.cli.options import (
    Settings,
    Stage,
    changes_of,
    cluster_of,
    cluster_options,
    examples,
    log_option,
    run_argument,
    set_option,
    together,
    told_options,
)
from distcalib.errors import DistcalibError, InputError

if TYPE_CHECKING:
    from distcalib import Run
    from distcalib.runs.plan import Prepared

# Verified, but something was warned of, and --strict was given; interrupted from the keyboard.
WARNED, INTERRUPTED = 3, 130

_run_options = together(
    click.argument("settings", metavar="[PRESET_OR_YAML]", required=False, type=Settings()),
    click.option(
        "--output",
        metavar="FOLDER",
        help="The run folder, a path or s3://bucket/prefix; default: runs/NAME of the settings.",
    ),
    click.option(
        "--dataset", metavar="FILE", help="Microdata, in place of the file's: --set microdata=FILE."
    ),
    click.option("--targets", metavar="DATABASE", help="Targets: --set targets.database=DATABASE."),
    click.option(
        "--target-config",
        metavar="FILE",
        help="Include and exclude rules: --set targets.rules=FILE, targets.idle_rules=warn.",
    ),
    set_option,
    *cluster_options,
    click.option("--accept-code", is_flag=True, help="Go on with a folder that other code began."),
    click.option(
        "--only",
        metavar="AREAS",
        help="Write and prove the files of these alone: MN,CA-12,NYC,US; a state with its districts.",
    ),
    click.option(
        "--force",
        metavar="STAGE",
        type=Stage(),
        help="Do simulate, assemble, fit, areas or verify again with all that follows; their settings "
        "may differ from those that the folder was begun with.",
    ),
)


@click.command(
    epilog=examples(
        "distcalib run demo --output runs/demo",
        "distcalib run my.yaml --cluster cluster.yaml",
        "distcalib run --dataset their.h5 --targets policy_data.db --target-config target_config.yaml",
        "distcalib run my.yaml --dry-run --set fit.records=5000",
        "distcalib run my.yaml --force fit --only MN,CA-12",
        "distcalib run --output runs/demo",
    )
)
@_run_options
@together(
    click.option(
        "--until", metavar="STAGE", type=Stage(),
        help="Stop after simulate, assemble, fit or areas; run again to go on.",
    ),
    click.option("--dry-run", is_flag=True, help="Print the plan and write nothing, as `plan` does."),
    *told_options,
)  # fmt: skip
def run(until: str | None, dry_run: bool, strict: bool, log_format: str, **options: Any) -> None:
    """Build, fit, write and verify; continue what an earlier attempt left.

    PRESET_OR_YAML is a preset of the package (demo) or a settings file. Without one the settings are those
    that the folder of --output was begun with; in a new folder, those that are not named have their defaults.
    Interrupted at any moment, the same command goes on.
    """
    _carry_out(partial(_open_run, **options), until, dry_run, strict, log_format)


@click.command(
    epilog=examples("distcalib plan demo", "distcalib plan my.yaml --output runs/mine --cluster cluster.yaml")
)
@_run_options
@log_option
def plan(log_format: str, **options: Any) -> None:
    """Print what `run` would do, after checking every input. Writes nothing."""
    _carry_out(partial(_open_run, **options), None, True, False, log_format)


@click.command(
    epilog=examples("distcalib verify runs/demo", "distcalib verify runs/demo --strict --workers 4")
)
@run_argument
@together(
    *cluster_options,
    click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE",
        help="Where an input is now, if it was moved: microdata=FILE.",
    ),
    *told_options,
)  # fmt: skip
def verify(run: Path, cluster: Path | None, workers: int | None, sets: tuple[str, ...], **told: Any) -> None:
    """Prove the files of a finished run again: recompute every target from them. Simulates nothing anew.

    Every file is held to the manifest first; one that is missing or differs is an error, exit code 1.
    """
    from distcalib import Run
    from distcalib.runs.stored import finished_config

    def opened() -> Run:
        config = finished_config(run, changes_of(sets))
        return Run(config, run, cluster_of(cluster, workers), force="verify")

    _carry_out(opened, None, False, **told)


def _open_run(
    *,
    settings: str | None,
    output: str | None,
    dataset: str | None,
    targets: str | None,
    target_config: str | None,
    sets: tuple[str, ...],
    cluster: Path | None,
    workers: int | None,
    accept_code: bool,
    only: str | None,
    force: str | None,
) -> Run:
    from distcalib import Run, RunConfig
    from distcalib.runs.area_stage import parse_only
    from distcalib.runs.home import open_home
    from distcalib.runs.stored import stored_config

    named = {"microdata": dataset, "targets.database": targets, "targets.rules": target_config}
    # Such a file is written for many databases: what it does not find here is said, not refused.
    own = any(text.startswith("targets.idle_rules=") for text in sets)
    named["targets.idle_rules"] = None if target_config is None or own else "warn"
    changes = changes_of((*sets, *(f"{key}={json.dumps(v)}" for key, v in named.items() if v is not None)))
    where = cluster_of(cluster, workers)
    begun = settings is None and dataset is None and output is not None and open_home(output).plan()
    if begun and output is not None:
        config = stored_config(output, changes)
    elif settings is None and not changes:
        raise click.UsageError("give PRESET_OR_YAML, --dataset FILE, or --output of a run that was begun")
    else:
        if dataset is not None and settings is None:
            changes.setdefault("name", Path(dataset).stem)
        config = RunConfig.load(settings, changes)
    if only is not None:
        config = config.changed(areas=replace(config.areas, only=parse_only(only)))
    if output is None and (Path(config.name).name != config.name or config.name in ("", "..")):
        raise InputError(
            "names no folder in runs/", place=f"{config.file}: name", value=config.name,
            expected="--output FOLDER, or a name without a path",
        )  # fmt: skip
    folder = Path("runs") / config.name if output is None else output
    return Run(config, folder, where, accept_code=accept_code, force=force)


def _carry_out(
    opened: Callable[[], Run], until: str | None, dry_run: bool, strict: bool, log_format: str
) -> None:
    """Plan a run, and carry it out unless it is dry; say what happens, to people or to machines."""
    from distcalib.report.console import Progressing, make_console, print_plan, print_summary, print_unmet
    from distcalib.report.run_report import write_report_once
    from distcalib.runs.capacity import unmet
    from distcalib.runs.events import Events
    from distcalib.runs.manifest import REPORT
    from distcalib.runs.verdict import remarks

    console = make_console()
    lines = _Lines() if log_format == "json" else None
    show = lines or Progressing(console)
    work: Run | None = None

    def planned(prepared: Prepared) -> None:
        assert work is not None
        plan = prepared.plan
        if lines:
            lines.say("plan", digest=plan.digest(), facts=plan.facts, warnings=plan.warnings)
            for text in unmet(plan, work.cluster):
                lines.say("warning", text=text)
        else:
            print_plan(plan, console, work.workers)
            print_unmet(plan, work.cluster, console)

    try:
        with lines.last_word() if lines else nullcontext():
            work = opened()
            work.subscribers = [show]
            if dry_run:
                with Events(None, [show]).beating():
                    prepared = work.prepare()
                planned(prepared)
                return
            summary = work.execute(until=until, planned=planned)
    except KeyboardInterrupt:
        if work is None or dry_run:
            raise
        goes_on = f"`distcalib run --output {work.folder}` goes on"
        click.echo(f"interrupted; what is finished stays in {work.folder}, and {goes_on}", err=True)
        sys.exit(INTERRUPTED)
    if "until" in summary:
        return
    # Where the run is in an object store, the tables that are shown are brought here first.
    tables = ("fit/", "fits/", "verify/", "targets.", "excluded.", "columns.")
    work.home.fetch(path for path in summary["files"] if path.startswith(tables))
    trouble = write_report_once(work.home)
    if lines:
        if trouble:
            lines.say("warning", text=trouble)
        lines.say("summary", **{key: value for key, value in summary.items() if key != "files"})
    else:
        print_summary(work.home.folder, summary, console)
        words = f"warning: {trouble}" if trouble else f"{work.home.shown}/{REPORT}: the report"
        console.print(words, highlight=False, markup=False)
    found = remarks(summary) if strict else []
    if found:
        click.echo(f"verified with {len(found)} warnings, and --strict was given:", err=True)
        for text in found:
            click.echo(f"warning: {text}", err=True)
        sys.exit(WARNED)


class _Lines:
    """Subscriber of events that prints each as one JSON object a line."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, event: dict[str, Any]) -> None:
        self.last = event["event"]
        click.echo(json.dumps(event))

    def say(self, event: str, **facts: Any) -> None:
        """Print what is no event of the run itself."""
        self({"event": event, "time": round(time.time(), 3), **facts})

    @contextmanager
    def last_word(self) -> Iterator[None]:
        """Let an error be the last event, also where no run could tell it: while settings are read."""
        try:
            yield
        except (DistcalibError, click.UsageError, KeyboardInterrupt) as error:
            if self.last != "failed":
                cause = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
                self.say("failed", stage="", cause=cause)
            raise
