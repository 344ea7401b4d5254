"""When tasks ran, and what they cost, from events and receipts."""

from __future__ import annotations

import re

import pytest

from distcalib.report.timeline import attempts_of, costs, timeline
from distcalib.runs.receipts import Receipt


def event(kind: str, when: float, **facts: object) -> dict:
    return {"event": kind, "time": when, **facts}


def task(key: str, when: float, seconds: float, stage: str = "simulate", **more: object) -> dict:
    return event("task", when, stage=stage, id=key, seconds=seconds, peak_bytes=7, place=f"<{key}>", **more)


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
    task("c", 90_060.0, 50.0, cpu_seconds=40.0, process=2),
    event("stage_done", 90_060.0, stage="simulate", seconds=60.0),
    event("done", 90_060.0),
    event("start", 100_000.0),
    event("nothing_to_do", 200_000.0),
]
# Events of earlier versions tell no CPU time and process; of the coordinator's own tasks there are none.
RECEIPTS = [
    Receipt("simulate", "a", {}, {}, 10.0, 5, 1, 9.0),
    Receipt("simulate", "b", {}, {}, 10.0, 7, 1, 9.5),
    Receipt("assemble", "x", {}, {}, 3.0),
    Receipt("areas", "of one area", {}, {}, 99.0),
]


def test_attempts():
    first, second = attempts_of(EVENTS[:-2], RECEIPTS)
    assert (first.seconds, first.workers, len(first.tasks)) == (45.0, 2, 2)
    assert first.stages == [("start workers", 0.0, 30.0, None), ("simulate", 30.0, 45.0, "out of memory")]
    assert (second.seconds, second.warnings) == (60.0, ["cold"])


def test_costs():
    table = costs(attempts_of(EVENTS[:-2], RECEIPTS), RECEIPTS).set_index("stage")
    assert table.loc["simulate", "tasks"] == 3
    assert table.loc["simulate", "wall_hours"] == pytest.approx(75 / 3600)
    assert table.loc["simulate", "core_hours"] == pytest.approx(58.5 / 3600)
    assert (table.loc["simulate", "longest"], table.loc["simulate", "place"]) == (50.0, "<c>")
    assert table.loc["all", "wall_hours"] == pytest.approx(105 / 3600)
    assert table.loc["all", "peak_bytes"] == 7
    assert (table.loc["assemble", "tasks"], table.loc["all", "tasks"]) == (1, 4)
    assert "areas" not in table.index
    assert costs([], []).empty


def test_the_picture_has_a_line_a_process_and_cuts_pauses_out():
    text = timeline(attempts_of(EVENTS[:-2], RECEIPTS))
    # a and b ran at the same time under one number: another machine's.
    lanes = re.findall(r'text-anchor="end">([^<]*)</text>', text)
    assert lanes == ["stages", "process 1", "process 2", "process 1 (2)"]
    assert "&lt;c&gt;" in text
    assert "<c>" not in text
    assert text.count("attempt ") == 2
    edges = [float(a) + float(b) for a, b in re.findall(r'<rect x="(.*?)".*?width="(.*?)"', text)]
    assert max(edges) <= 960
    assert timeline([]) == ""


def test_many_tasks_make_a_small_picture():
    many = [event("start", 0.0), event("stage", 0.0, stage="areas")]
    many += [task(f"t{i}", (i // 4 + 1) * 0.2, 0.2, "areas", process=i % 4) for i in range(40_000)]
    text = timeline(attempts_of(many))
    assert len(text) < 100_000
    assert re.search(r"areas: \d+ tasks", text)
