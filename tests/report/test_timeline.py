"""When tasks ran, and what they cost, from events and receipts."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from distcalib.report.timeline import attempts_of, costs, timeline


def event(kind: str, when: float, **facts: object) -> dict:
    return {"event": kind, "time": when, **facts}


def task(key: str, when: float, seconds: float, stage: str = "simulate") -> dict:
    return event("task", when, stage=stage, id=key, seconds=seconds, peak_bytes=1, place=f"<{key}>")


EVENTS = [
    event("start", 0.0),
    event("stage", 0.0, stage="start workers"),
    event("stage_done", 30.0, stage="start workers", seconds=30.0),
    event("workers", 30.0, count=2),
    event("stage", 30.0, stage="simulate"),
    task("a", 40.0, 10.0),
    task("b", 41.0, 10.0),
    event("stage_failed", 45.0, stage="simulate", seconds=15.0, cause="out of memory"),
    # A day later.
    event("start", 90_000.0),
    event("stage", 90_000.0, stage="simulate"),
    event("warning", 90_005.0, text="cold"),
    task("c", 90_060.0, 50.0),
    event("stage_done", 90_060.0, stage="simulate", seconds=60.0),
    event("done", 90_060.0),
    event("start", 100_000.0),
    event("nothing_to_do", 200_000.0),
]
RECEIPTS = pd.DataFrame(
    [("simulate", "a", 10.0, 9.0, 5, 1), ("simulate", "b", 10.0, 9.5, 7, 1),
     ("simulate", "c", 50.0, 40.0, 6, 2)],
    columns=["stage", "id", "seconds", "cpu_seconds", "peak_bytes", "process"],
)  # fmt: skip


def test_attempts():
    first, second = attempts_of(EVENTS[:-2])
    assert (first.seconds, first.workers, len(first.tasks)) == (45.0, 2, 2)
    assert first.stages == [("start workers", 0.0, 30.0, None), ("simulate", 30.0, 45.0, "out of memory")]
    assert (second.seconds, second.warnings) == (60.0, ["cold"])


def test_costs():
    table = costs(attempts_of(EVENTS[:-2]), RECEIPTS).set_index("stage")
    assert table.loc["simulate", "tasks"] == 3
    assert table.loc["simulate", "wall_hours"] == pytest.approx(75 / 3600)
    assert table.loc["simulate", "core_hours"] == pytest.approx(58.5 / 3600)
    assert (table.loc["simulate", "longest"], table.loc["simulate", "place"]) == (50.0, "<c>")
    assert table.loc["all", "wall_hours"] == pytest.approx(105 / 3600)
    assert table.loc["all", "peak_bytes"] == 7
    assert costs([], RECEIPTS.head(0)).empty


def test_the_picture_has_a_line_a_process_and_cuts_pauses_out():
    text = timeline(attempts_of(EVENTS[:-2]), RECEIPTS)
    # a and b ran at the same time under one number: another machine's.
    lanes = re.findall(r'text-anchor="end">([^<]*)</text>', text)
    assert lanes == ["stages", "process 1", "process 2", "process 1 (2)"]
    assert "&lt;c&gt;" in text
    assert "<c>" not in text
    assert text.count("attempt ") == 2
    edges = [float(a) + float(b) for a, b in re.findall(r'<rect x="(.*?)".*?width="(.*?)"', text)]
    assert max(edges) <= 960
    assert timeline([], RECEIPTS) == ""


def test_many_tasks_make_a_small_picture():
    many = [event("start", 0.0), event("stage", 0.0, stage="areas")]
    many += [task(f"t{i}", (i // 4 + 1) * 0.2, 0.2, "areas") for i in range(40_000)]
    receipts = pd.DataFrame(
        {"id": [f"t{i}" for i in range(40_000)], "process": [i % 4 for i in range(40_000)]}
    )
    text = timeline(attempts_of(many), receipts)
    assert len(text) < 100_000
    assert re.search(r"areas: \d+ tasks", text)
