"""What is printed: progress as lines where there is no terminal, bars where there is one."""

from __future__ import annotations

import io
import threading
import time
from itertools import pairwise

import pytest
from rich.console import Console

from distcalib import Plan, RunConfig
from distcalib.report.console import Progressing, in_progress, print_causes, print_plan
from distcalib.runs.events import BEAT
from distcalib.runs.spread import stage


def say(console: Console) -> str:
    show = Progressing(console)
    show({"event": "workers", "count": 2, "own_bytes": 2**28, "shared_bytes": 2**30})
    show({"event": "stage", "stage": "simulate", "tasks": 3, "reused": 1})
    for _ in range(2):
        show({"event": "task", "stage": "simulate"})
    show({"event": "stage_done", "stage": "simulate", "seconds": 4.0})
    show({"event": "warning", "text": "[odd] text"})
    show({"event": "nothing_to_do", "files": 1577})
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_without_a_terminal():
    text = say(Console(file=io.StringIO(), width=100))
    assert text.splitlines() == [
        "workers: 2 ready, each with at most 0.25 GiB of its own and 1.00 GiB shared",
        "simulate: 3 to do (1 already done)",
        "simulate: done in 4.0 s",
        "warning: [odd] text",
        "nothing to do: all 1,577 files of this plan are there and verify",
    ]


def test_a_bar_on_a_terminal():
    text = say(Console(file=io.StringIO(), width=100, force_terminal=True))
    assert "3/3" in text
    assert "simulate" in text


def causes(tmp_path, *rows: str) -> str:
    (tmp_path / "fit").mkdir()
    lines = ["group,targets,missed,causes", *rows]
    (tmp_path / "fit" / "groups.csv").write_text("\n".join(lines) + "\n")
    console = Console(file=io.StringIO(), width=80)
    print_causes(tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= 80
    return text


def test_groups_with_misses_are_listed_with_their_causes(tmp_path):
    long = "state adjusted_gross_income by adjusted_gross_income"
    why = '"support 49%, sampling error of the source 30%, compromise 21%"'
    text = causes(tmp_path, f"{long},408,95,{why}", "national snap,1,0,")
    assert "1 of 2 groups" in text
    assert "95 of 408" in text
    assert "fit/groups.csv" in text
    assert "national snap" not in text


def test_nothing_is_listed_where_every_group_is_met(tmp_path):
    assert "95 % or more" in causes(tmp_path, "national snap,1,0,")


def test_a_long_run_is_said_in_hours():
    def printed(cpu_seconds: float) -> str:
        facts = dict.fromkeys(
            ("households", "persons", "columns", "districts", "states", "measures", "bytes"), 1
        )
        facts |= {f"targets_{status}": 1 for status in ("fit", "check", "excluded")}
        facts |= {
            "tasks": {"fit": 1},
            "task_bytes": {"fit": 1},
            "coordinator_bytes": 1,
            "far": [],
            "cpu_seconds": cpu_seconds,
        }
        plan = Plan(RunConfig(), {}, {}, {}, "torch", (), facts)
        console = Console(file=io.StringIO(), width=80)
        print_plan(plan, console, workers=2)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "about 62 min" in printed(2 * (62 * 60 - 90))
    assert "about 22.6 hours" in printed(2 * (1353 * 60 - 90))


def test_the_time_left_counts_what_this_start_has_done(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    show = Progressing(Console(width=110, force_terminal=False))
    show({"event": "stage", "stage": "simulate", "tasks": 10, "reused": 5})
    now[0] = 20.0
    show({"event": "task", "stage": "simulate"})
    # One task in 20 seconds, four to go; the five of an earlier start took no time of this one.
    assert "6 of 10, about 80 s left" in capsys.readouterr().out


def test_a_stage_tells_rate_slowest_task_memory_and_retries(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    show = Progressing(Console(width=200, force_terminal=False))
    show({"event": "stage", "stage": "simulate", "tasks": 9, "reused": 0})
    show({"event": "retry", "stage": "simulate", "id": "ab", "place": "NY", "deaths": 1})
    now[0] = 30.0
    show({"event": "task", "stage": "simulate", "seconds": 12.4, "peak_bytes": 2**31, "place": "CA"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "simulate: the worker of NY died; the task is begun again"
    told = "about 4 min left, 2.0 a minute, slowest CA 12 s, workers up to 2.0 GiB, 1 begun again"
    assert lines[2] == f"simulate: 1 of 9, {told}"


def test_no_thirty_seconds_are_silent_whatever_goes_on(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    show = Progressing(Console(width=110, force_terminal=False))

    def alive(seconds: float) -> list[str]:
        """Signs of life for some seconds, as `Events.beating` gives them; what is said of it."""
        said = []
        for _ in range(round(seconds / BEAT)):
            now[0] += BEAT
            show({"event": "alive"})
            said.append(capsys.readouterr().out.strip())
        assert all(a or b for a, b in pairwise(said))
        return [text for text in said if text]

    assert alive(60)[-1] == "reading the inputs and planning: 60 s so far"
    for name in ("start workers", "assemble", "fit"):
        show({"event": "stage", "stage": name, "tasks": 1, "reused": 0})
        capsys.readouterr()
        assert alive(300)[-1] == f"{name}: 0 of 1, 5 min so far"
        show({"event": "stage_done", "stage": name, "seconds": 300.0})
    capsys.readouterr()
    assert alive(45)[-1] == "after fit: 45 s so far"
    show({"event": "done", "seconds": 2.0})
    now[0] += BEAT
    show({"event": "alive"})
    assert capsys.readouterr().out == ""


def test_planning_and_what_lies_between_stages_is_told_on_a_terminal_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = io.StringIO()
    show = Progressing(Console(file=out, width=110, force_terminal=True))

    def alive(seconds: float) -> list[str]:
        before = len(out.getvalue())
        for _ in range(round(seconds / BEAT)):
            now[0] += BEAT
            show({"event": "alive"})
        return out.getvalue()[before:].splitlines()

    assert alive(30)[-1] == "reading the inputs and planning: 30 s so far"
    show({"event": "stage", "stage": "assemble", "tasks": 1, "reused": 0})
    assert not any("so far" in line and "assemble: 0 of 1" in line for line in alive(60)), "the bar tells it"
    show({"event": "stage_done", "stage": "assemble", "seconds": 60.0})
    assert alive(45)[-1] == "after assemble: 45 s so far"
    show({"event": "done", "seconds": 2.0})
    assert alive(60) == []


def test_what_goes_on_outside_of_runs_is_told_too(monkeypatch, capsys):
    monkeypatch.setattr("distcalib.runs.events.BEAT", 0.01)
    monkeypatch.setattr("distcalib.report.console._EVERY", 0.0)
    heard: list[str] = []

    def until(words: str) -> None:
        end = time.monotonic() + 20
        while not any(line.startswith(words) for line in heard):
            assert time.monotonic() < end, heard
            time.sleep(0.01)
            said = capsys.readouterr()
            assert said.out == ""
            heard.extend(said.err.splitlines())

    with in_progress("reading", "replicates") as progress:
        until("reading: 0 s so far")
        progress(0, 3)
        until("replicates: 0 of 3, 0 s so far")
        for done in (1, 2):
            progress(done, 3)
        until("replicates: 2 of 3")
        progress(3, 3)
    until("replicates: done in")
    assert not [t for t in threading.enumerate() if t.name == "events"]
    with pytest.raises(OSError, match="no such"), in_progress("reading"):
        raise OSError("no such file")
    assert capsys.readouterr().err == ""


def test_a_stage_of_fits_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr("distcalib.runs.events.BEAT", 0.01)
    seen: list[str] = []
    with stage(lambda event: seen.append(event["event"]), "frontier", 2) as done:
        end = time.monotonic() + 20
        while seen.count("alive") < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        done()
    assert [name for name in seen if name != "alive"] == ["stage", "task", "stage_done"]


def test_a_bar_tells_what_lines_tell():
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    show = Progressing(console)
    show({"event": "stage", "stage": "simulate", "tasks": 3, "reused": 0})
    show({"event": "task", "stage": "simulate", "seconds": 7.0, "peak_bytes": 2**30, "place": "WY"})
    show({"event": "alive"})
    show({"event": "stage_failed", "stage": "simulate", "seconds": 9.0})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "slowest WY 7 s, workers up to 1.0 GiB" in text
