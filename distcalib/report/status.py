"""How far a run is, on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distcalib.runs.events import INTERRUPTED
from distcalib.runs.status import RunStatus, StageStatus, Watch, stages_ahead

# Seconds after which `--watch` says the same again, where there is no terminal.
_EVERY = 25.0
_WORDS = {
    "planned": "planned, not begun",
    "running": "running",
    "planning": "taken up again and planning; what is known is of the attempt before",
    "silent": "silent for longer than its slowest task took; the same `run` command goes on",
    "stopped": "stopped as asked; the same `run` command goes on",
    "failed": "failed; the same `run` command goes on from what is finished",
    INTERRUPTED: "interrupted; the same `run` command goes on from what is finished",
    "done": "done",
}


def shown(status: RunStatus, now: float) -> RenderableType:
    """Return what is printed of a status: a line on the run, and a row a stage."""
    heard = "" if status.heard is None else f", last heard of {span(now - status.heard)} ago"
    workers = f", {status.workers} workers" if status.workers else ""
    head = f"{status.folder} ({status.name}, plan {status.plan[:12]}): {_state(status, now)}"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("stage", "done", "of", "a minute", "time", "left", "slowest", "memory", "again"):
        left_aligned = name in ("stage", "slowest")
        table.add_column(name, justify="left" if left_aligned else "right", no_wrap=name != "slowest")
    for one in status.stages:
        left = one.left(now)
        kept = f" ({one.reused:,} kept)" if one.reused else ""
        table.add_row(
            one.name + (" failed" if one.failed else ""),
            f"{one.done:,}{kept}",
            f"{one.total:,}",
            f"{one.rate(now):,.1f}" if one.done > one.reused else "",
            span((one.ended or now) - one.began),
            "" if left is None else span(left),
            f"{one.slowest:.0f} s {one.place}" if one.slowest else "",
            f"{one.peak_bytes / 2**30:.1f} GiB" if one.peak_bytes else "",
            f"{one.retries:,}" if one.retries else "",
        )
    lines: list[RenderableType] = [Text(head), Text(f"attempt {status.attempts}{workers}{heard}"), table]
    ahead = stages_ahead(status)
    if ahead:
        lines.append(Text("ahead: " + ", ".join(ahead)))
    if status.cause:
        lines.append(Text(f"cause: {status.cause}"))
    if status.splits:
        lines.append(Text(f"{status.splits} slices died of memory and were cut in two"))
    lines += [Text(f"{one.name}: {_doing(one.said)}") for one in status.stages if one.said]
    lines += [Text(f"warning: {text}") for text in status.warnings]
    return Group(*lines)


def watch_status(
    watch: Watch, console: Console, every: float, wait: Callable[[float], None] = time.sleep
) -> RunStatus:
    """Show a run until it is done, stopped or failed.

    Without a terminal a line whenever something is new, and one at least every 30 seconds.
    """
    said, when = "", 0.0
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                status, now = watch.read(), time.time()
                live.update(shown(status, now), refresh=True)
                if status.state(now) in ("done", "stopped", "failed"):
                    return status
                wait(every)
    while True:
        status, now = watch.read(), time.time()
        line = _line(status, now)
        news = line.split(",")[0]  # times and rates change with every look
        if news != said or now - when > _EVERY:
            console.print(line, highlight=False, markup=False)
            said, when = news, now
        if status.state(now) in ("done", "stopped", "failed"):
            return status
        wait(every)


def _line(status: RunStatus, now: float) -> str:
    if status.state(now) != "running" or status.planning or not status.stages:
        return f"{status.name}: {_state(status, now)}"
    return line_of(status.stages[-1], now)


def _state(status: RunStatus, now: float) -> str:
    state = status.state(now)
    if state == "running" and status.planning:
        state = "planning"
    return _WORDS[INTERRUPTED if state == "failed" and status.cause == INTERRUPTED else state]


def line_of(stage: StageStatus, now: float) -> str:
    """Return where a stage is, as a line."""
    return ", ".join([f"{stage.name}: {stage.done:,} of {stage.total:,}", *told_of(stage, now)])


def told_of(stage: StageStatus, now: float) -> list[str]:
    """Return what is told of a stage beside how much is done: time, rate, slowest task, memory, retries."""
    left = stage.left(now)
    if left is None:
        told = [f"{span((stage.ended or now) - stage.began)} so far"]
    else:
        told = [f"about {span(left)} left", f"{stage.rate(now):,.1f} a minute"]
    if stage.said:
        told.insert(0, _doing(stage.said))
    if stage.slowest:
        told.append(f"slowest {stage.place or 'task'} {stage.slowest:.0f} s")
    if stage.peak_bytes:
        told.append(f"workers up to {stage.peak_bytes / 2**30:.1f} GiB")
    if stage.retries:
        told.append(f"{stage.retries} begun again")
    return told


def _doing(said: dict[str, Any]) -> str:
    """Return what a task says of itself, in words: `gates epoch 150 of 200, loss 0.0123, 94 % within 5 %`."""
    words = " ".join(str(said[name]) for name in ("fit", "doing") if said.get(name))
    if said.get("epoch") is None:
        return words
    words += f" {'step' if said['doing'] == 'refit' else 'epoch'} {said['epoch']:,}"
    words += f" of {said['of']:,}" if said.get("of") else ""
    if said.get("loss") is not None:
        words += f", loss {said['loss']:.3g}"
    if said.get("within_5") is not None:
        words += f", {said['within_5']:.0%} within 5 %"
    return words


def span(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
