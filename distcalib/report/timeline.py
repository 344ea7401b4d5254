"""What a run did when: its tasks by worker, attempt after attempt, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from distcalib.report.charts import ticks
from distcalib.runs.events import SIGNS_OF_LIFE
from distcalib.runs.receipts import Receipt

#: Stages that are drawn, and their colours (Okabe and Ito 2008, told apart by the colour-blind).
COLOURS = {
    "start workers": "#8c8c8c",
    "simulate": "#0072b2",
    "assemble": "#cc79a7",
    "fit": "#d55e00",
    "areas": "#56b4e9",
    "verify files": "#e69f00",
    "verify": "#009e73",
}
_OTHER = "#4d4d4d"
_WIDTH, _LEFT, _LANE, _TOP = 960, 128, 16, 26
# Seconds between attempts on the axis, as a share of all; lanes at most; widths below which bars are joined.
_PAUSE, MOST_LANES, _JOIN = 0.012, 64, 0.4


@dataclass(frozen=True)
class Done:
    """A task that ended; times are Unix seconds, process is its worker's."""

    stage: str
    id: str
    place: str
    began: float
    ended: float
    cpu_seconds: float
    process: int
    peak_bytes: int


@dataclass
class Attempt:
    """One start of a run.

    Attributes
    ----------
    began, ended
        Unix seconds of its first and last event.
    workers
        Worker processes; 0 before they were there.
    stages
        Of each stage its name, its begin and end, and why it failed (None: it did not).
    tasks
        Those that ended.
    warnings
        Said while it ran.
    """

    began: float
    ended: float
    workers: int = 0
    stages: list[tuple[str, float, float, str | None]] = field(default_factory=list)
    tasks: list[Done] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


def attempts_of(events: list[dict[str, Any]], receipts: Sequence[Receipt] = ()) -> list[Attempt]:
    """Return the attempts of a run from its events; a call that found nothing to do is none.

    Receipts tell CPU time and process of tasks whose events do not, as those of earlier versions.
    """
    kept = {r.id: {"cpu_seconds": r.cpu_seconds, "process": r.process} for r in receipts}
    out: list[Attempt] = []
    open_stage: tuple[str, float] | None = None
    for event in events:
        with suppress(KeyError, ValueError, TypeError):  # one that is none of ours carries no truth
            kind, when = event["event"], float(event["time"])
            if kind == "nothing_to_do" or kind in SIGNS_OF_LIFE:
                continue
            if kind == "start" or not out:
                out.append(Attempt(when, when))
                open_stage = None
            now = out[-1]
            now.ended = when
            if kind == "stage":
                open_stage = str(event["stage"]), when
            elif kind in ("stage_done", "stage_failed") and open_stage is not None:
                # Workers start within the stage that needs them first.
                begin = open_stage[1] if open_stage[0] == event["stage"] else when - float(event["seconds"])
                cause = str(event.get("cause", "")) if kind == "stage_failed" else None
                now.stages.append((str(event["stage"]), begin, when, cause))
            elif kind == "task":
                more = {"cpu_seconds": 0.0, "process": 0, **kept.get(event["id"], {}), **event}
                now.tasks.append(
                    Done(
                        str(event["stage"]),
                        str(event["id"]),
                        str(event["place"]),
                        when - float(event["seconds"]),
                        when,
                        float(more["cpu_seconds"]),
                        int(more["process"]),
                        int(event["peak_bytes"]),
                    )
                )
            elif kind == "workers":
                now.workers = int(event["count"])
            elif kind == "warning":
                now.warnings.append(str(event["text"]))
    return out


def costs(attempts: list[Attempt], receipts: Sequence[Receipt]) -> pd.DataFrame:
    """Return what each stage cost, and all of them.

    Parameters
    ----------
    attempts
        Of the run.
    receipts
        Of its tasks: those of which no event tells are counted too, such as the coordinator's own.

    Returns
    -------
    DataFrame
        stage, tasks (that ended, in all attempts), wall_hours (of all attempts), task_hours, core_hours (CPU
        time of the tasks), longest (seconds), place (of the longest) and peak_bytes; the last row, ``all``,
        sums up. No rows where nothing was begun.
    """
    rows = [
        (t.stage, t.place, t.ended - t.began, t.cpu_seconds, t.peak_bytes)
        for attempt in attempts
        for t in attempt.tasks
    ]
    told = {t.id for attempt in attempts for t in attempt.tasks}
    # Tasks that write several areas leave a receipt of each, without a process.
    rows += [
        (r.stage, "", r.seconds, r.cpu_seconds, r.peak_bytes)
        for r in receipts
        if r.id not in told and (r.process or r.stage == "assemble")
    ]
    tasks = pd.DataFrame(rows, columns=["stage", "place", "longest", "cpu", "peak_bytes"])
    wall: dict[str, float] = {}
    for attempt in attempts:
        for name, begin, end, _ in attempt.stages:
            wall[name] = wall.get(name, 0.0) + end - begin
    by = tasks.groupby("stage", sort=False)
    known = [name for name in COLOURS if name in wall or name in by.groups]
    table = pd.DataFrame({"stage": list(dict.fromkeys([*known, *wall, *tasks["stage"]]))})
    table["tasks"] = table["stage"].map(by.size()).fillna(0)
    table["wall_hours"] = table["stage"].map(wall) / 3600
    table["task_hours"] = table["stage"].map(by["longest"].sum()).fillna(0.0) / 3600
    table["core_hours"] = table["stage"].map(by["cpu"].sum()).fillna(0.0) / 3600
    table["longest"], table["peak_bytes"] = (
        table["stage"].map(by[c].max()) for c in ("longest", "peak_bytes")
    )
    slowest = tasks.loc[by["longest"].idxmax()].set_index("stage")["place"]
    table["place"] = slowest.astype(str).reindex(table["stage"], fill_value="").to_numpy()
    if table.empty:
        return table
    whole = {name: table[name].sum() for name in ("tasks", "task_hours", "core_hours")}
    whole |= {"stage": "all", "wall_hours": sum(a.seconds for a in attempts) / 3600, "place": ""}
    whole |= {"longest": table["longest"].max(), "peak_bytes": table["peak_bytes"].max()}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


@dataclass(frozen=True)
class Lanes:
    """Bars of a timeline.

    Attributes
    ----------
    bars
        Lane -> its bars: begin and end (seconds since the first attempt began, pauses cut out), stage, words.
    shown
        Lanes that are drawn, from above: the stages, then the first `MOST_LANES` processes.
    starts
        When each attempt began, on the same axis.
    length
        Of the axis, seconds; 0: nothing took time.
    """

    bars: dict[str, list[tuple[float, float, str, str]]]
    shown: list[str]
    starts: list[float]
    length: float


def lanes_of(attempts: list[Attempt]) -> Lanes:
    """Place the stages of attempts in one lane, and their tasks in one of each worker process.

    Bars of one stage that no picture can tell apart are joined, so their number is bounded.
    """
    whole = sum(attempt.seconds for attempt in attempts)
    pause = _PAUSE * whole
    lanes: dict[str, list[tuple[float, float, str, str]]] = {"stages": []}
    starts: list[float] = []
    offset = 0.0
    for attempt in attempts:
        starts.append(offset)
        shift = offset - attempt.began
        for name, begin, end, cause in attempt.stages:
            words = f"{name}{' failed' if cause is not None else ''}, {_span(end - begin)}"
            lanes["stages"].append((begin + shift, end + shift, name, words))
        ends: dict[str, float] = {}
        for task in sorted(attempt.tasks, key=lambda task: task.began):
            # A process number may be another machine's, too: what overlaps stands in a line of its own.
            name = f"process {task.process or 'unknown'}"
            lane, twin = name, 1
            while ends.get(lane, -np.inf) > task.began + 0.5:
                twin += 1
                lane = f"{name} ({twin})"
            ends[lane] = task.ended
            words = f"{task.stage} {task.place}".strip() + f", {_span(task.ended - task.began)}"
            lanes.setdefault(lane, []).append((task.began + shift, task.ended + shift, task.stage, words))
        offset += attempt.seconds + pause
    shown = ["stages", *sorted(set(lanes) - {"stages"}, key=lambda lane: (len(lane), lane))][: MOST_LANES + 1]
    length = whole + pause * (len(attempts) - 1) if whole > 0 else 0.0
    near = _JOIN * length / (_WIDTH - _LEFT - 12)
    return Lanes({lane: _joined(bars, near) for lane, bars in lanes.items()}, shown, starts, length)


def timeline(attempts: list[Attempt]) -> str:
    """Draw tasks as bars, a line a worker process; pauses between attempts are cut out."""
    found = lanes_of(attempts)
    if found.length <= 0:
        return ""
    lanes, shown, starts, length = found.bars, found.shown, found.starts, found.length
    scale = (_WIDTH - _LEFT - 12) / length
    height = _TOP + _LANE * len(shown) + 40
    out = [f'<svg class="timeline" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Tasks by worker">']
    base = _TOP + _LANE * len(shown) + 4
    unit, word = unit_of(length)
    for tick in ticks(np.array([0.0, length / unit]), False):
        x = _LEFT + tick * unit * scale
        out.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{base}"/>')
        out.append(
            f'<text class="axis" x="{x:.1f}" y="{base + 15}" text-anchor="middle">{tick:g} {word}</text>'
        )
    for number, start in enumerate(starts if len(starts) > 1 else []):
        x = _LEFT + start * scale
        out.append(f'<line class="one" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 16}" y2="{base}"/>')
        out.append(f'<text x="{x + 3:.1f}" y="{_TOP - 8}">attempt {number + 1}</text>')
    for row, lane in enumerate(shown):
        y = _TOP + _LANE * row
        out.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(lane)}</text>')
        for begin, end, name, words in lanes[lane]:
            out.append(
                f'<rect x="{_LEFT + begin * scale:.1f}" y="{y + 1}" height="{_LANE - 3}" '
                f'width="{max((end - begin) * scale, 0.3):.1f}" fill="{COLOURS.get(name, _OTHER)}">'
                f"<title>{escape(words)}</title></rect>"
            )
    if len(lanes) > len(shown):
        words = f"and {len(lanes) - len(shown)} more processes"
        out.append(f'<text x="{_LEFT}" y="{base + 32}">{words}</text>')
    return "".join([*out, "</svg>"])


def _joined(bars: list[tuple[float, float, str, str]], near: float) -> list[tuple[float, float, str, str]]:
    """Join neighbouring short bars of one stage whose gap is too small to be seen."""
    out: list[tuple[float, float, str, str]] = []
    count = 1
    for begin, end, name, words in sorted(bars):
        last = out[-1] if out else None
        if (
            last
            and last[2] == name
            and begin - last[1] < near
            and min(end - begin, last[1] - last[0]) < 8 * near
        ):
            count += 1
            out[-1] = last[0], max(end, last[1]), name, f"{name}: {count} tasks"
        else:
            count = 1
            out.append((begin, end, name, words))
    return out


def unit_of(length: float) -> tuple[float, str]:
    """Return the unit of an axis of so many seconds: its seconds, and its name."""
    return (3600.0, "h") if length > 2 * 3600 else (60.0, "min") if length > 120 else (1.0, "s")


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 0):.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
