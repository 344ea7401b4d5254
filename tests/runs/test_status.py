"""How far a run is, from its folder alone."""

from __future__ import annotations

import io
import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from distcalib.cli import main
from distcalib.errors import InputError, RunError
from distcalib.report.status import line_of, shown, watch_status
from distcalib.runs.events import Events
from distcalib.runs.folder import locked, locked_since
from distcalib.runs.status import SILENT, Watch, stages_ahead

PLAN = {"slices": []} | {part: {} for part in ("code", "inputs", "versions", "engines")}


def folder_of(home: Path, *events: dict) -> Path:
    home.mkdir(exist_ok=True)
    plan = {**PLAN, "digest": "ab" * 32, "run": {"name": "trial"}}
    (home / "plan.json").write_text(json.dumps(plan))
    tell(home, *events)
    return home


def tell(home: Path, *events: dict) -> None:
    with open(home / "events.ndjson", "a") as file:
        for event in events:
            file.write(json.dumps(event) + "\n")


def task(when: float, seconds: float, place: str = "", peak: int = 2**30) -> dict:
    return {"event": "task", "time": when, "seconds": seconds, "peak_bytes": peak, "place": place}


START = {"event": "start", "time": 1000.0, "columns": 600}
SIMULATE = {"event": "stage", "time": 1010.0, "stage": "simulate", "tasks": 12, "reused": 2}


def test_rates_and_the_time_left_are_those_of_this_attempt(tmp_path):
    home = folder_of(
        tmp_path / "run",
        START,
        SIMULATE,
        task(1030, 20.0, "CA, columns 0 to 50"),
        task(1070, 55.0, "NY", 2**31),
    )
    status = Watch(home).read()
    (stage,) = status.stages
    assert (stage.done, stage.total, stage.reused) == (4, 12, 2)
    assert stage.rate(1070.0) == pytest.approx(2.0)
    assert stage.left(1070.0) == pytest.approx(240.0)
    assert (stage.slowest, stage.place, stage.peak_bytes) == (55.0, "NY", 2**31)
    assert status.state(1100.0) == "running"
    assert status.state(1070.0 + 55.0 + SILENT + 1) == "silent"
    assert stages_ahead(status) == ["assemble", "fit", "areas", "verify"]
    assert status.to_json(1070.0)["stages"][0]["seconds_left"] == 240


def test_what_is_new_is_taken_in_and_half_a_line_waits(tmp_path):
    home = folder_of(tmp_path / "run")
    watch = Watch(home)
    assert watch.read().state(0.0) == "planned"
    tell(home, START, SIMULATE)
    text = json.dumps(task(1020, 5.0)) + "\n"
    with open(home / "events.ndjson", "a") as file:
        file.write(text[:20])
    assert watch.read().stages[0].done == 2
    with open(home / "events.ndjson", "a") as file:
        file.write(text[20:])
    assert watch.read().stages[0].done == 3
    # What a killed process left of a line spoils that line alone.
    with open(home / "events.ndjson", "a") as file:
        file.write('{"event": "ta\n')
    tell(home, task(1030, 5.0))
    assert watch.read().stages[0].done == 4


def test_a_second_attempt_begins_anew_and_a_split_adds_a_task(tmp_path):
    failed = {"event": "stage_failed", "time": 1050.0, "stage": "simulate", "seconds": 40.0}
    home = folder_of(tmp_path / "run", START, SIMULATE, task(1020, 5.0), failed)
    watch = Watch(home)
    assert watch.read().state(1051.0) == "failed"
    again = [{**START, "time": 2000.0}, {**SIMULATE, "time": 2001.0, "reused": 3}]
    split = {"event": "split", "time": 2005.0, "state": "CA", "into": [[0, 5], [5, 9]], "why": "memory"}
    tell(home, *again, split)
    status = watch.read()
    assert (status.attempts, status.splits, len(status.stages)) == (2, 1, 1)
    assert (status.stages[0].done, status.stages[0].total) == (3, 13)
    done = {"event": "stage_done", "time": 2100.0, "stage": "simulate", "seconds": 99.0}
    tell(home, done, {"event": "done", "time": 2101.0, "seconds": 101.0})
    status = watch.read()
    assert status.state(9e9) == "done"
    assert status.stages[0].done == status.stages[0].total
    assert stages_ahead(status) == []
    # The same command again finds nothing to do: what is told is how it was done.
    tell(home, {"event": "nothing_to_do", "time": 3000.0, "files": 9})
    status = watch.read()
    assert (status.state(9e9), status.attempts, len(status.stages)) == ("done", 2, 1)


def test_without_a_terminal_only_news_are_printed_until_the_run_ends(tmp_path):
    home = folder_of(tmp_path / "run", START, SIMULATE)
    steps = iter(
        [
            lambda: None,
            lambda: tell(home, task(1020, 5.0)),
            lambda: tell(home, {"event": "stopped", "time": 1021.0, "until": "simulate", "seconds": 21}),
        ]
    )
    out = io.StringIO()
    watch_status(Watch(home), Console(file=out, width=110), 5.0, wait=lambda seconds: next(steps)())
    lines = out.getvalue().splitlines()
    assert lines[-1] == "trial: stopped as asked; the same `run` command goes on"
    assert len(lines) == len(set(lines))


def test_a_run_that_gives_signs_of_life_is_not_silent_and_tells_what_was_begun_again(tmp_path):
    retry = {"event": "retry", "time": 1020.0, "stage": "simulate", "id": "ab", "place": "NY", "deaths": 1}
    home = folder_of(tmp_path / "run", START, SIMULATE, retry, {"event": "alive", "time": 2000.0})
    status = Watch(home).read()
    assert status.state(2000.0 + SILENT - 1) == "running"
    assert status.stages[0].retries == 1
    assert status.to_json(2001.0)["stages"][0]["retries"] == 1


def test_what_a_task_says_of_itself_is_told_until_it_ends(tmp_path):
    stage = {"event": "stage", "time": 1040.0, "stage": "fit", "tasks": 1, "reused": 0}
    said = {"doing": "gates", "fit": "", "epoch": 150, "of": 1000, "loss": 0.01234, "within_5": 0.94}
    word = {"event": "progress", "time": 1050.0, "stage": "fit", "id": "ab", "said": said}
    late = {**word, "stage": "simulate"}
    home = folder_of(tmp_path / "run", START, SIMULATE, task(1020, 5.0), stage, word, late)
    status = Watch(home).read()
    assert status.stages[-1].said == said
    assert line_of(status.stages[-1], 1060.0) == (
        "fit: 0 of 1, gates epoch 150 of 1,000, loss 0.0123, 94% within 5 %, 20 s so far"
    )
    assert status.to_json(1060.0)["stages"][-1]["said"] == said
    tell(home, {**task(1060, 5.0), "stage": "fit"})
    tell(home, word)
    tell(home, {"event": "stage_done", "time": 1061.0, "stage": "fit", "seconds": 21.0})
    tell(home, word)
    assert Watch(home).read().stages[-1].said == {}


def test_a_watch_without_a_terminal_says_the_same_again_after_a_while(tmp_path, monkeypatch):
    now = [1020.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    home = folder_of(tmp_path / "run", START, SIMULATE, task(1020, 5.0))

    def wait(seconds: float) -> None:
        now[0] += 10
        tell(home, {"event": "alive", "time": now[0]} if now[0] < 1100 else {"event": "done", "time": now[0]})

    out = io.StringIO()
    watch_status(Watch(home), Console(file=out, width=110), 10.0, wait=wait)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # at 1020, 1050 and 1080, and the end at 1100
    assert all(line.startswith("simulate: 3 of 12, about") for line in lines[:-1])


def test_events_give_signs_of_life_while_a_block_runs(tmp_path):
    heard: list[str] = []
    enough = threading.Event()

    def listen(event: dict) -> None:
        heard.append(event["event"])
        if len(heard) >= 3:
            enough.set()

    events = Events(tmp_path / "events.ndjson", [listen])
    with events.beating(every=0.01):
        assert enough.wait(10)
    after = len(heard)
    assert set(heard) == {"alive"}
    assert not [t for t in threading.enumerate() if t.name == "events"]
    assert len((tmp_path / "events.ndjson").read_text().splitlines()) == after


def test_a_run_that_was_taken_up_again_is_not_what_it_was_before(tmp_path):
    """While it plans a watch goes on; where that is refused, what was known stands."""
    failed = {"event": "failed", "time": 1100.0, "stage": "", "cause": "no space"}
    home = folder_of(tmp_path / "run", START, SIMULATE, failed)
    watch, held = Watch(home), ExitStack()
    assert watch.read().state(9e9) == "failed"
    held.enter_context(locked(home))
    with pytest.raises(RunError, match="is carrying this run out"), locked(home):
        pass
    out = io.StringIO()
    status = watch_status(watch, Console(file=out, width=110), 5.0, wait=lambda seconds: held.close())
    assert "taken up again and planning" in out.getvalue().splitlines()[0]
    assert (status.state(9e9), status.cause, status.heard) == ("failed", "no space", 1100.0)
    # What is said since it was taken up is what it is, also before it is let go.
    with locked(home):
        assert watch.read().state(9e9) == "running"
        tell(home, {**START, "time": time.time() + 1}, {"event": "done", "time": time.time() + 2})
        assert watch.read().state(9e9) == "done"


def test_who_looks_whether_a_run_is_held_never_keeps_one_from_taking_it(tmp_path):
    home, over = folder_of(tmp_path / "run", START), threading.Event()
    with locked(home):
        pass  # so that there is a file to look at

    def look() -> None:
        while not over.is_set():
            locked_since(home)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(100):
            with locked(home):
                assert locked_since(home) is not None
    finally:
        over.set()
        for looker in lookers:
            looker.join()
    assert locked_since(home) is None


@pytest.mark.parametrize("cause", ["no space", "interrupted"])
def test_a_watch_of_a_run_that_fails_exits_1(tmp_path, cause):
    home = folder_of(tmp_path / "run", START, SIMULATE)
    done = {"event": "done", "time": 1100.0, "seconds": 100.0}
    failed = {"event": "failed", "time": 1100.0, "stage": "", "cause": cause}
    for event, code in ((done, 0), (START, 0), (failed, 1)):
        tell(home, event)
        if event is not START:
            assert CliRunner().invoke(main, ["status", str(home), "--watch"]).exit_code == code


def test_the_command_says_it_in_words_and_in_json(tmp_path):
    home = folder_of(
        tmp_path / "run", START, SIMULATE, {"event": "warning", "time": 1011.0, "text": "beware"}
    )
    said = CliRunner().invoke(main, ["status", str(home)])
    assert said.exit_code == 0, said.output
    assert "simulate" in said.output
    assert "2 (2 kept)" in said.output
    assert "warning: beware" in said.output
    plain = CliRunner().invoke(main, ["status", str(home), "--json"])
    assert json.loads(plain.output)["stages"][0]["total"] == 12
    assert CliRunner().invoke(main, ["status", str(home), "--json", "--watch"]).exit_code == 2
    assert sorted(p.name for p in home.iterdir()) == ["events.ndjson", "plan.json"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_what_is_no_run_folder_is_refused(tmp_path, make):
    make(tmp_path / "other")
    result = CliRunner().invoke(main, ["status", str(tmp_path / "other")])
    assert result.exit_code == 2
    assert "run folder" in result.output


def test_a_plan_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json"):
        Watch(tmp_path)


def test_the_table_of_a_planned_run_is_drawn(tmp_path):
    out = io.StringIO()
    Console(file=out, width=110).print(shown(Watch(folder_of(tmp_path / "run")).read(), 0.0))
    assert "planned, not begun" in " ".join(out.getvalue().split())
    assert "ahead: simulate, assemble, fit, areas, verify" in out.getvalue()


def test_what_was_done_stays_done_when_a_look_at_it_is_interrupted(tmp_path):
    done = {"event": "done", "time": 1100.0, "seconds": 100.0}
    failed = {"event": "failed", "time": 1200.0, "stage": "", "cause": "interrupted"}
    home = folder_of(tmp_path / "run", START, done, failed)
    status = Watch(home).read()
    assert (status.state(1300.0), status.cause) == ("done", "")
    home = folder_of(tmp_path / "other", START, {**failed, "cause": "no space"})
    tell(home, {"event": "nothing_to_do", "time": 1300.0, "files": 3})
    status = Watch(home).read()
    assert (status.state(1300.0), status.cause) == ("done", "")
