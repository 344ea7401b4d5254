"""What the process ends with: 0 done, 1 failed, 2 bad input, 3 warned of under --strict, 130 interrupted.

Runs are stopped before they begin, or said to have ended; `tests/runs/test_commands_on_a_run.py` and
`tests/runs/test_kill.py` see the same codes of real ones.
"""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from distcalib import Run
from distcalib.cli import main
from distcalib.errors import RunError

PROOF = {
    "targets": 9,
    "proven": 9,
    "largest_difference": 0.0,
    "population_listed": [],
    "gates": [],
    "fits": {},
}


@pytest.fixture
def run_that(monkeypatch, tmp_path):
    """Return what invokes a run whose execution returns a summary or raises."""

    def invoke(ends: object, *words: str, trouble: str = ""):
        def execute(self, until, planned):
            planned(self.prepare())
            if isinstance(ends, BaseException):
                raise ends
            return ends

        facts = {"task_bytes": {}}
        plan = SimpleNamespace(digest=lambda: "ab", facts=facts, warnings=(), engines={})
        monkeypatch.setattr(Run, "prepare", lambda self: SimpleNamespace(plan=plan))
        monkeypatch.setattr(Run, "execute", execute)
        # There is no folder to make a report of.
        monkeypatch.setattr("distcalib.report.run_report.write_report_once", lambda home: trouble)
        command = ["run", "demo", "--output", str(tmp_path / "run"), "--log-format", "json", *words]
        return CliRunner().invoke(main, command)

    return invoke


def summary(**changes: object) -> dict:
    return {"name": "x", "warnings": [], "files": {"a": {}}, "verification": {**PROOF, **changes}}


def test_done_is_0_with_warnings_too(run_that):
    done = run_that({**summary(), "warnings": ["few donors"]})
    assert done.exit_code == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["plan", "summary"]
    assert "files" not in events[-1]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({**summary(), "warnings": ["few donors"]}, "warning: few donors"),
        (summary(gates=["snap of CA-01 is zero"]), "warning: snap of CA-01 is zero"),
        (summary(proven=7), "2 of 9 targets are not proven"),
        (summary(population_listed=[{"district": "CA-02", "relative": -0.07}]), "CA-02 is -7.0%"),
        (summary(fits={"few": {"targets": 9, "proven": 8}}), "1 of 9 targets of the fit few"),
    ],
)
def test_verified_with_a_warning_is_3_under_strict(run_that, ends, told):
    done = run_that(ends, "--strict")
    assert done.exit_code == 3
    assert told in done.stderr


def test_verified_without_a_warning_is_0_under_strict(run_that):
    assert run_that(summary(), "--strict").exit_code == 0


def test_stopped_as_asked_is_0(run_that):
    assert run_that({"name": "x", "plan": "ab", "until": "fit"}, "--until", "fit", "--strict").exit_code == 0


def test_failed_is_1_and_says_why(run_that):
    done = run_that(RunError("a worker is of another version"))
    assert (done.exit_code, done.stderr) == (1, "error: a worker is of another version\n")


def test_interrupted_is_130_and_says_how_to_go_on(run_that, tmp_path):
    done = run_that(KeyboardInterrupt())
    assert done.exit_code == 130
    assert f"`distcalib run --output {tmp_path / 'run'}` goes on" in done.stderr


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["run", "no_such.yaml"], "no such preset or file"),
        (["run", "demo", "--set", "microdata=nowhere.h5", "--output", "new"], "nowhere.h5"),
        (["plan", "demo", "--set", "microdata=nowhere.h5"], "nowhere.h5"),
        (["verify", "nowhere"], "nowhere"),
        (["run"], "give PRESET_OR_YAML"),
    ],
)
def test_a_refusal_is_the_last_event_too(words, cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*words, "--log-format", "json"])
    assert done.exit_code == 2, done.output
    (last,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["event"] == "failed"
    assert cause in last["cause"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["run", "demo", "--dry-run"], ["plan", "demo"]])
def test_an_interruption_while_it_plans_is_the_last_event_too(command, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Run, "prepare", interrupted)
    done = CliRunner().invoke(main, [*command, "--log-format", "json"])
    assert done.exit_code == 130
    assert json.loads(done.stdout)["cause"] == "interrupted"


def test_what_people_are_told_beside_the_events_is_in_the_events(run_that, monkeypatch):
    monkeypatch.setattr("distcalib.runs.capacity.unmet", lambda plan, cluster: ["no worker has a GPU"])
    done = run_that(summary(), trouble="no report: no space")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["plan", "warning", "warning", "summary"]
    assert [e["text"] for e in events[1:3]] == ["no worker has a GPU", "no report: no space"]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("config check demo", signal.SIGTERM),
        ("config check demo", signal.SIGHUP),
        ("fit tune x --output y", signal.SIGTERM),
        ("publish x y", signal.SIGTERM),
    ],
)
def test_a_signal_ends_any_command_as_ctrl_c_does(command, number, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    def nothing(*_: object) -> None:
        """Is what a signal does that the program does not hear."""

    for place in (
        "config.origins.resolved", "runs.judge.judge_tuning", "publication.publishing.publish",
    ):  # fmt: skip
        monkeypatch.setattr(f"distcalib.{place}", killed)
    before = signal.signal(number, nothing)
    try:
        done = CliRunner().invoke(main, command.split())
        assert signal.getsignal(number) == nothing
    finally:
        signal.signal(number, before)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_a_terminal_that_is_lost_ends_nothing_under_nohup(monkeypatch):
    monkeypatch.setattr("distcalib.config.origins.resolved", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = CliRunner().invoke(main, ["config", "check", "demo"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.exit_code != 130


def test_interrupted_elsewhere_is_130_too(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distcalib.config.origins.resolved", interrupted)
    done = CliRunner().invoke(main, ["config", "check", "demo"])
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "no_such.yaml"],
        ["run", "demo", "--no-such-option"],
        ["run", "demo", "--log-format", "yaml"],
        ["verify", "nowhere"],
        ["matrix", "info", "nowhere"],
        ["rum"],
    ],
)
def test_bad_input_is_2(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert done.stderr
    assert list(tmp_path.iterdir()) == []
