"""How far a run is, read from its folder alone: no scheduler is asked, so any machine can tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.notebook import facts_html
from distcalib.runs.folder import STAGES
from distcalib.runs.home import EVENTS, open_home
from distcalib.storage import parse_json

#: Seconds beyond its slowest task after which a run that says nothing has probably lost its coordinator.
SILENT = 120.0


@dataclass
class StageStatus:
    """A stage of the last attempt.

    Attributes
    ----------
    name, total, reused, done
        Tasks in all, those whose receipts verified at the start, and those that are finished, these included.
    began, ended
        Unix seconds; None while it goes on.
    failed
        Whether it ended in an error.
    slowest, place
        Seconds of the longest task so far, and which it was.
    peak_bytes
        Largest resident memory of a process that finished a task.
    retries
        How often a task was begun again because its worker died.
    said
        What a task said last of itself while it runs, such as epoch and loss; empty when it has ended.
    """

    name: str
    total: int
    reused: int
    began: float
    done: int = 0
    ended: float | None = None
    failed: bool = False
    slowest: float = 0.0
    place: str = ""
    peak_bytes: int = 0
    retries: int = 0
    said: dict[str, Any] = field(default_factory=dict)

    def rate(self, now: float) -> float:
        """Return finished tasks a minute."""
        passed = (self.ended or now) - self.began
        return 60 * (self.done - self.reused) / passed if passed > 0 else 0.0

    def left(self, now: float) -> float | None:
        """Return about how many seconds are left; None before the first task is finished."""
        rate = self.rate(now)
        return 60 * (self.total - self.done) / rate if rate > 0 and self.ended is None else None

    def take(self, event: dict[str, Any]) -> None:
        """Take in an event of the stage."""
        kind = event["event"]
        if kind == "progress":
            if event.get("stage") == self.name and self.ended is None:  # words may come late
                self.said = dict(event["said"])
        elif kind == "task":
            self.done, self.said = self.done + 1, {}
            self.peak_bytes = max(self.peak_bytes, int(event.get("peak_bytes", 0)))
            if event.get("seconds", 0.0) > self.slowest:
                self.slowest, self.place = float(event["seconds"]), _place(event)
        elif kind == "split":
            self.total += 1
        elif kind == "retry":
            self.retries += 1
        elif kind in ("stage_done", "stage_failed"):
            self.ended, self.failed, self.said = float(event["time"]), kind == "stage_failed", {}
            if not self.failed:
                self.done = self.total


@dataclass
class RunStatus:
    """What the folder of a run says.

    Attributes
    ----------
    folder, name, plan
        The run folder, the run's name, and the digest of its plan.
    columns
        Of X.
    began, heard
        Unix seconds of the start of the last attempt and of the last event.
    attempts
        How often it was started.
    stages
        Of the last attempt, in their order.
    workers
        Workers of the last attempt.
    splits
        Slices that died of memory and were cut in two.
    warnings
        Said while it ran.
    taken
        Unix seconds when the coordinator that has the folder now took it; None: none has.
    ended
        ``done``, ``stopped`` (as asked), ``failed``, or empty.
    cause
        Why it failed.
    """

    folder: str
    name: str
    plan: str
    columns: int = 0
    began: float | None = None
    heard: float | None = None
    attempts: int = 0
    stages: list[StageStatus] = field(default_factory=list)
    workers: int = 0
    splits: int = 0
    warnings: list[str] = field(default_factory=list)
    taken: float | None = None
    ended: str = ""
    cause: str = ""

    @property
    def planning(self) -> bool:
        """Whether it was taken up again, and nothing is begun yet."""
        return self.taken is not None and (self.heard is None or self.taken > self.heard)

    def state(self, now: float) -> str:
        """Return one of planned, running, silent, stopped, failed, done."""
        if self.planning:
            return "running"
        if self.ended:
            return self.ended
        if self.heard is None:
            return "planned"
        if self.stages and self.stages[-1].failed:
            return "failed"
        slowest = max((stage.slowest for stage in self.stages), default=0.0)
        return "silent" if now - self.heard > SILENT + slowest else "running"

    def take(self, event: dict[str, Any]) -> None:
        """Take in the next event of the run."""
        kind, when = event["event"], float(event["time"])
        if kind == "start":
            self.began, self.stages, self.ended, self.cause = when, [], "", ""
            self.columns, self.warnings, self.splits = event["columns"], [], 0
            self.attempts += 1
        self.heard = when
        if kind == "stage":
            reused = int(event["reused"])
            self.stages.append(StageStatus(event["stage"], int(event["tasks"]), reused, when, reused))
        elif kind == "failed" and self.ended == "done":
            pass  # while what is finished was looked at: nothing was begun
        elif kind in ("done", "stopped", "failed"):
            self.ended, self.cause = kind, str(event.get("cause", ""))
        elif kind == "nothing_to_do":
            self.ended, self.cause = "done", ""  # by the attempt before, whose stages stand
        elif kind == "workers":
            self.workers = int(event["count"])
        elif kind == "warning":
            self.warnings.append(str(event["text"]))
        elif self.stages:
            self.splits += kind == "split"
            self.stages[-1].take(event)

    def to_json(self, now: float) -> dict[str, Any]:
        """Return it as JSON values, with state, and rate (tasks a minute) and seconds left of each stage."""
        stages = [
            {
                "stage": one.name,
                "done": one.done,
                "total": one.total,
                "reused": one.reused,
                "seconds": round((one.ended or now) - one.began, 1),
                "tasks_a_minute": round(one.rate(now), 2),
                "seconds_left": None if one.left(now) is None else round(one.left(now) or 0.0),
                "slowest_seconds": one.slowest,
                "slowest": one.place,
                "peak_bytes": one.peak_bytes,
                "retries": one.retries,
                "said": one.said,
                "failed": one.failed,
            }
            for one in self.stages
        ]
        return {
            "folder": self.folder,
            "name": self.name,
            "plan": self.plan,
            "state": self.state(now),
            "cause": self.cause,
            "attempts": self.attempts,
            "seconds_since_event": None if self.heard is None else round(now - self.heard, 1),
            "workers": self.workers,
            "splits": self.splits,
            "warnings": self.warnings,
            "stages": stages,
        }


class Watch:
    """Follows a run folder: each `read` takes in what its events have become since the last one.

    Parameters
    ----------
    folder
        A run folder: a path or ``s3://bucket/prefix``.

    Raises
    ------
    InputError
        When the folder holds no plan.
    """

    def __init__(self, folder: str | Path) -> None:
        self._home = open_home(folder)
        plan = self._home.plan()
        if plan is None:
            raise InputError(
                "holds no plan", place=self._home.shown,
                expected="a run folder, as `distcalib run` makes one; `distcalib publications` says what is "
                "at a place of publications",
            )  # fmt: skip
        self.status = RunStatus(self._home.shown, plan["run"]["name"], plan["digest"])
        self._offset = 0

    def read(self) -> RunStatus:
        """Return the status now; a line that is only half written is read next time."""
        taken = self._home.taken()  # before the events: what was taken and begun since is told by them
        text = self._home.read(EVENTS, self._offset)
        self.status.taken = taken
        if text is None:
            return self.status
        whole, _, _ = text.rpartition(b"\n")
        self._offset += len(whole) + (1 if whole else 0)
        for line in whole.splitlines():
            try:
                self.status.take(parse_json(line))
            except (ValueError, KeyError, TypeError):
                continue  # what a killed process left of a line; it carries no truth
        return self.status


def _place(event: dict[str, Any]) -> str:
    if "state_fips" in event:
        return STATE_CODES.get(int(event["state_fips"]), "")
    return str(event.get("place", ""))


def read_status(folder: str | Path) -> RunStatus:
    """Return how far the run of a folder is, from its plan and events alone.

    Raises
    ------
    InputError
        When the folder holds no run.
    """
    return Watch(folder).read()


def stages_ahead(status: RunStatus) -> list[str]:
    """Return the stages that the last attempt has not begun."""
    if status.ended == "done":
        return []
    begun = {stage.name for stage in status.stages}
    return [name for name in STAGES if name not in begun]


def run_html(name: str, folder: str | Path, cluster: str) -> str:
    """Return a run as a notebook shows it: where it is, and how far, a row a stage."""
    facts = {"folder": folder, "cluster": cluster}
    if open_home(folder).read("plan.json") is None:
        return facts_html(f"Run {name}", {**facts, "state": "not begun"})
    now = time.time()
    told = read_status(folder).to_json(now)
    facts |= {"state": told["state"], "plan": told["plan"][:12], "attempts": told["attempts"]}
    shown = ["stage", "done", "total", "reused", "seconds", "seconds_left", "slowest"]
    table = pd.DataFrame(told["stages"], columns=shown) if told["stages"] else None
    if table is not None:
        table["slowest"] = table["slowest"].str.slice(0, 60)  # a task of files names them all
    return facts_html(f"Run {name}", facts, table)
