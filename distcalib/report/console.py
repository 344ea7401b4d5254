"""What a run prints: the plan before it starts, progress while it runs, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from distcalib.config import ClusterConfig
from distcalib.report.status import line_of, span, told_of
from distcalib.runs.capacity import unmet
from distcalib.runs.events import Events, read_events
from distcalib.runs.plan import Plan
from distcalib.runs.spread import stage
from distcalib.runs.status import RunStatus, StageStatus

# What has no bar says where it is this often, in seconds; signs of life come as often.
_EVERY = 14.0


def make_console(stderr: bool = False) -> Console:
    """Return a console of standard output or error; where it is no terminal its lines are 110 wide."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(width=110, stderr=stderr)


@contextmanager
def in_progress(doing: str, name: str = "") -> Iterator[Callable[[int, int], None]]:
    """Say on standard error that something goes on while the block runs, at least every 30 seconds.

    Parameters
    ----------
    doing
        In words, what is done as long as no step is told.
    name
        Of the steps, for what is given: it is to be called with how many are done and how many there are,
        before the first step or after it, and then after each.
    """
    show = Progressing(make_console(stderr=True), doing)
    with ExitStack() as waiting, ExitStack() as shown:
        waiting.enter_context(Events(None, [show]).beating())
        steps: list[Callable[[], None]] = []

        def progress(done: int, total: int) -> None:
            if not steps:
                waiting.close()
                steps.append(shown.enter_context(stage(show, name, total)))
            if done:
                steps[0]()

        yield progress


def print_plan(plan: Plan, console: Console, workers: int) -> None:
    """Print what a run will do: sizes, tasks, memory, disk, time, and what to know before."""
    facts = plan.facts
    table = Table(
        title=f"Plan {plan.digest()[:12]}: {plan.run.name}", show_header=False, title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column()
    for name, words in plan.told().items():
        table.add_row(name, f"{words}, {workers} workers" if name == "memory" else words)
    minutes = (facts["cpu_seconds"] / workers + 90) / 60
    long = f"{minutes:.0f} min" if minutes <= 90 else f"{minutes / 60:.1f} hours"
    table.add_row("time", f"about {long}, if nothing is done yet")
    console.print(table)
    for text in plan.warnings:
        console.print(f"warning: {text}", markup=False)
    if facts["far"]:
        far = Table(title="Reported but not fitted", title_justify="left")
        far.add_column("measure", overflow="fold")
        far.add_column("targets", justify="right")
        far.add_column("why")
        for row in facts["far"]:
            far.add_row(row["measure"], str(row["targets"]), _short(row["reason"], 90))
        console.print(far)


def print_unmet(plan: Plan, cluster: ClusterConfig, console: Console) -> None:
    """Print what no worker of a cluster can satisfy, and what will happen."""
    for text in unmet(plan, cluster):
        console.print(f"note: {text}", markup=False, highlight=False)


class Progressing:
    """Subscriber of events: a live bar a stage on a terminal, plain lines elsewhere.

    Where no bar is shown a line is printed at least every 30 seconds, whether or not a task was finished.
    """

    def __init__(self, console: Console, doing: str = "reading the inputs and planning") -> None:
        self.console, self.doing = console, doing
        self.live = console.is_terminal
        self.status = RunStatus("", "", "")
        self._progress: Progress | None = None
        self._bar: Any = None
        self._began = self._said = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind, now = event["event"], time.monotonic()
        self.status.take({**event, "time": now})
        if kind == "stage":
            self._start(event["reused"])
        elif kind == "task":
            self._advance()
        elif kind in ("alive", "progress"):
            self._advance(alive=kind == "alive")
        elif kind == "split":
            (start, middle), (_, stop) = event["into"]
            words = f"columns {start} to {stop} of {event['state']} died of memory and are split at {middle}"
            self._say(f"{self._stage.name}: {words} ({event['why']})")
            self._advance()
        elif kind == "retry":
            where = event["place"] or event["id"][:12]
            self._say(f"{self._stage.name}: the worker of {where} died; the task is begun again")
            self._advance()
        elif kind == "stage_done":
            self._finish(event["seconds"])
        elif kind == "stage_failed":
            self._stop()
        elif kind == "warning":
            self._say(f"warning: {event['text']}")
        elif kind == "workers":
            own, shared = (event[name] / 2**30 for name in ("own_bytes", "shared_bytes"))
            self._say(
                f"workers: {event['count']} ready, each with at most {own:.2f} GiB of its own "
                f"and {shared:.2f} GiB shared"
            )
        elif kind == "stopped":
            self._say(f"stopped after {event['until']}, as asked; run again to go on")
        elif kind == "nothing_to_do":
            self._say(f"nothing to do: all {event['files']:,} files of this plan are there and verify")

    @property
    def _stage(self) -> StageStatus:
        return self.status.stages[-1]

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self.console.print(text, highlight=False, markup=False)

    def _start(self, reused: int) -> None:
        stage = self._stage
        kept = f" ({reused} already done)" if reused else ""
        if not self.live:
            self._say(f"{stage.name}: {stage.total} to do{kept}")
            return
        self._progress = Progress(
            TextColumn("{task.description:16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=self.console,
        )
        self._progress.start()
        self._bar = self._progress.add_task(
            stage.name + kept, total=stage.total, completed=stage.done, told=""
        )

    def _advance(self, alive: bool = False) -> None:
        now = time.monotonic()
        if self._progress is not None:
            stage = self._stage
            told = ", ".join(told_of(stage, now))
            self._progress.update(self._bar, completed=stage.done, total=stage.total, told=told)
        elif now - self._said < _EVERY:
            return
        elif not self.status.stages:
            self._say(f"{self.doing}: {span(now - self._began)} so far")
        elif self._stage.ended is None:
            self._say(line_of(self._stage, now))
        elif alive and not self.status.ended:
            self._say(f"after {self._stage.name}: {span(now - self._stage.ended)} so far")

    def _finish(self, seconds: float) -> None:
        if self._progress is not None:
            self._progress.update(self._bar, completed=self._stage.total)
        else:
            self._say(f"{self._stage.name}: done in {seconds:.1f} s")
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._said = None, time.monotonic()


def accuracy(run: Path) -> pd.DataFrame:
    """Return the accuracy of a finished run by group of targets.

    Returns
    -------
    DataFrame
        geo_level, variable, domain, status, targets, within_1, within_5, within_10 and within_tolerance
        (shares), median (absolute relative error).
    """
    path = run / "fit" / "diagnostics.csv"
    return accuracy_of(pd.read_csv(path, keep_default_na=False, na_values=[""]))


def accuracy_of(diagnostics: pd.DataFrame) -> pd.DataFrame:
    """Do what `accuracy` does, given ``fit/diagnostics.csv``."""
    table = diagnostics.assign(domain=diagnostics["domain_variable"].fillna(""))
    for name, bound in (("within_1", 0.01), ("within_5", 0.05), ("within_10", 0.10)):
        table[name] = table["abs_rel_error"] <= bound
    groups = table.groupby(["status", "group_id", "geo_level", "variable", "domain"], sort=True)
    out = groups.agg(
        targets=("target", "size"),
        within_1=("within_1", "mean"),
        within_5=("within_5", "mean"),
        within_10=("within_10", "mean"),
        within_tolerance=("within_tolerance", "mean"),
        median=("abs_rel_error", "median"),
    ).reset_index()
    return out.sort_values(["status", "group_id"], ascending=[False, True]).reset_index(drop=True)


def print_summary(run: Path, summary: dict[str, Any], console: Console) -> None:
    """Print the accuracy by group, the records kept, the files and the time by stage of a finished run."""
    title = "Targets: X.w against official figures (share of targets within)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("targets of", overflow="fold")
    # Names of one short word each: on 80 columns the first column keeps half.
    for name in ("status", "targets", "1 %", "5 %", "10 %", "toler.", "median"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    for row in accuracy(run).itertuples(index=False):
        domain = f" by {row.domain}" if row.domain else ""
        table.add_row(
            f"{row.geo_level} {row.variable}{domain}",
            row.status,
            f"{row.targets:,}",
            *(f"{share:.0%}" for share in (row.within_1, row.within_5, row.within_10, row.within_tolerance)),
            f"{row.median:.1%}",
        )
    console.print(table)
    print_causes(run, console)
    fit, proof = summary["fit"], summary["verification"]
    console.print(f"records kept: {fit['records_kept']:,} of {fit['columns']:,} columns", highlight=False)
    console.print(
        f"effective sample size: {fit['effective_sample_size_by_donor']:,.0f} donors "
        "(clones of one donor are dependent)",
        highlight=False,
    )
    if fit.get("problems"):
        words = ", ".join(f"{name} {count:,}" for name, count in fit["problems"].items())
        console.print(f"known before the fit (fit/consistency.csv): {words}", highlight=False)
    files = summary["files"]
    areas = [f for f in files if f.startswith("areas/") and f.endswith(".h5")]
    size = sum(f["bytes"] for f in files.values())
    console.print(
        f"files: {len(areas)} datasets, {len(files):,} files in all, {size / 1e6:,.0f} MB", highlight=False
    )
    if proof["targets"]:
        console.print(
            f"verified: {proof['targets']:,} targets recomputed from the files with Microsimulation, largest "
            f"difference {proof['largest_difference']:.1e} of the gross sum",
            highlight=False,
        )
        listed = proof["population_listed"]
        bound = "further from the official population than allowed"
        if listed:
            names = ", ".join(f"{d['district']} {d['relative']:+.0%}" for d in listed[:12])
            more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
            districts = "1 district is" if len(listed) == 1 else f"{len(listed)} districts are"
            console.print(f"{districts} {bound}: {names}{more}", highlight=False)
        else:
            console.print(f"no district is {bound}", highlight=False)
    console.print(f"X {summary['matrix'][:16]}  weights {summary['weights'][:16]}", highlight=False)
    stages = stage_seconds(run)
    console.print("time: " + ", ".join(f"{k} {v:.0f} s" for k, v in stages.items()), highlight=False)


def print_causes(run: Path, console: Console) -> None:
    """Print the groups of fitted targets with less than 95 percent within tolerance, with their causes."""
    groups = pd.read_csv(run / "fit" / "groups.csv", keep_default_na=False)
    listed = groups[groups["causes"] != ""]
    if listed.empty:
        console.print("in each group of fitted targets 95 % or more are within tolerance (fit/groups.csv)")
        return
    title = f"{len(listed)} of {len(groups)} groups have less than 95 % within tolerance; see fit/groups.csv"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("targets of", overflow="fold", ratio=1)
    table.add_column("missed", justify="right", no_wrap=True)
    table.add_column("causes", overflow="fold", ratio=1)
    for row in listed.itertuples(index=False):
        table.add_row(row.group, f"{row.missed:,} of {row.targets:,}", row.causes)
    console.print(table)


def stage_seconds(run: Path) -> dict[str, float]:
    """Return the wall seconds of each stage, summed over all attempts in ``events.ndjson``."""
    out: dict[str, float] = {}
    for event in read_events(run):
        if event["event"] == "stage_done":
            out[event["stage"]] = out.get(event["stage"], 0.0) + event["seconds"]
    return out


def _short(text: object, width: int) -> str:
    words = str(text)
    return words if len(words) <= width else words[: width - 3] + "..."
