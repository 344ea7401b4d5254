"""What a run prints: the plan before it starts, progress while it runs, and a table at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from distcalib.config import ClusterConfig
from distcalib.runs.capacity import unmet
from distcalib.runs.events import read_events
from distcalib.runs.plan import Plan

# Without a terminal a stage says where it is this often, in seconds.
_EVERY = 15.0


def make_console() -> Console:
    """Return a console; where the output is no terminal its lines are 110 wide."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def print_plan(plan: Plan, console: Console, workers: int) -> None:
    """Print what a run will do: sizes, tasks, memory, disk, time, and what to know before."""
    facts = plan.facts
    table = Table(
        title=f"Plan {plan.digest()[:12]}: {plan.run.name}", show_header=False, title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "columns",
        f"{facts['households']:,} households ({facts['persons']:,} persons) x {plan.run.n_clones} clones = "
        f"{facts['columns']:,}, in {facts['districts']} districts of {facts['states']} states",
    )
    table.add_row(
        "targets",
        f"{facts['targets_fit']:,} to fit, {facts['targets_check']:,} to check, "
        f"{facts['targets_excluded']:,} excluded; {facts['measures']} measures",
    )
    tasks = facts["tasks"]
    words = {
        "simulate": "slice{} to simulate",
        "fit": "fit{}",
        "areas": "file{}",
        "verify": "state{} to verify",
    }
    said = [f"{n:,} " + words[stage].format("" if n == 1 else "s") for stage, n in tasks.items()]
    table.add_row("work", ", ".join(said))
    table.add_row(
        "memory", f"up to {max(facts['task_bytes'].values()) / 2**30:.1f} GiB a worker, {workers} workers"
    )
    table.add_row("disk", f"up to {facts['bytes'] / 1e6:,.0f} MB")
    minutes = (facts["cpu_seconds"] / workers + 90) / 60
    span = f"{minutes:.0f} min" if minutes <= 90 else f"{minutes / 60:.1f} hours"
    table.add_row("time", f"about {span}, if nothing is done yet")
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
    """Subscriber of events: a live bar a stage on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._progress: Progress | None = None
        self._bar: Any = None
        self._stage, self._done, self._total, self._reused = "", 0, 0, 0
        self._began = self._said = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind = event["event"]
        if kind == "stage":
            self._start(event)
        elif kind == "task":
            self._advance()
        elif kind == "split":
            self._split(event)
        elif kind == "stage_done":
            self._finish(event)
        elif kind == "stage_failed" and self._progress is not None:
            self._progress.stop()
            self._progress = None
        elif kind == "warning":
            self.console.print(f"warning: {event['text']}", markup=False)
        elif kind == "workers":
            own, shared = (event[name] / 2**30 for name in ("own_bytes", "shared_bytes"))
            self.console.print(
                f"workers: {event['count']} ready, each with at most {own:.2f} GiB of its own "
                f"and {shared:.2f} GiB shared",
                highlight=False,
            )
        elif kind == "stopped":
            self.console.print(f"stopped after {event['until']}, as asked; run again to go on")
        elif kind == "nothing_to_do":
            self.console.print(
                f"nothing to do: all {event['files']:,} files of this plan are there and verify"
            )

    def _start(self, event: dict[str, Any]) -> None:
        self._stage, self._total = event["stage"], event["tasks"]
        self._done = self._reused = event["reused"]
        self._began = self._said = time.monotonic()
        kept = f" ({event['reused']} already done)" if event["reused"] else ""
        if self.live:
            self._progress = Progress(
                TextColumn("{task.description:16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._progress.start()
            self._bar = self._progress.add_task(self._stage + kept, total=self._total, completed=self._done)
        else:
            self.console.print(f"{self._stage}: {self._total} to do{kept}", highlight=False)

    def _advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress.update(self._bar, completed=self._done)
        elif time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            passed = self._said - self._began
            left = passed / max(self._done - self._reused, 1) * (self._total - self._done)
            self.console.print(
                f"{self._stage}: {self._done} of {self._total}, about {left:.0f} s left", highlight=False
            )

    def _split(self, event: dict[str, Any]) -> None:
        self._total += 1
        if self._progress is not None:
            self._progress.update(self._bar, total=self._total)
        (start, middle), (_, stop) = event["into"]
        words = f"columns {start} to {stop} of {event['state']} died of memory and are split at {middle}"
        self.console.print(f"{self._stage}: {words} ({event['why']})", highlight=False, markup=False)

    def _finish(self, event: dict[str, Any]) -> None:
        if self._progress is not None:
            self._progress.update(self._bar, completed=self._total)
            self._progress.stop()
            self._progress = None
        else:
            self.console.print(f"{self._stage}: done in {event['seconds']:.1f} s", highlight=False)


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
            console.print(f"{len(listed)} districts {bound}: {names}{more}", highlight=False)
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
