"""Runs that end before their time, by a signal or in an error, and slices short of memory in a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
import trivial
from click.testing import CliRunner

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cli import main
from distcalib.errors import RunError
from distcalib.report.run_report import state_words
from distcalib.report.run_tables import RunTables
from distcalib.runs import run as run_module
from distcalib.runs.events import Events, read_events
from distcalib.runs.home import open_home
from distcalib.runs.lease import LEASE
from distcalib.runs.plan import make_plan
from distcalib.runs.remote import object_store
from distcalib.runs.status import read_status
from distcalib.runs.tasks import finished

SERIAL = ClusterConfig(kind="serial")


@pytest.fixture
def config(settings: Path) -> RunConfig:
    """Fifteen slices of twenty columns."""
    return RunConfig.load(settings, {"simulation.slice_households": 20})


@pytest.fixture
def url(s3_environment) -> str:
    object_store("s3://runs/x").fs.makedirs("runs", exist_ok=True)
    return f"s3://runs/{uuid4().hex}"


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(run_module, "simulate_slice", trivial.simulate)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_leaves_a_run_in_a_store_that_goes_on_at_once(
    config, settings, url, tmp_path, quick, number
):
    (tmp_path / "serial.yaml").write_text("kind: serial\n")
    # Python drops a Ctrl-C that falls into a finaliser; whoever presses it does so again.
    for place in (url, f"{url}-again", f"{url}-and-again"):
        code, words = _signalled(settings, place, tmp_path, number)
        if code != 0:
            url = place
            break
    store = object_store(url)
    assert code == 130, words
    assert (
        f"interrupted; what is finished stays in {url}, and `distcalib run --output {url}` goes on" in words
    )
    assert "Traceback" not in words
    assert json.loads(store.read(LEASE))["released"]
    assert json.loads(CliRunner().invoke(main, ["status", url, "--json"]).output)["state"] == "failed"

    finished_before = store.sizes("receipts")
    assert 2 <= len(finished_before) < 15
    seen: list[dict] = []
    Run(config, url, SERIAL, [seen.append]).execute(until="simulate")
    assert finished_before.items() <= store.sizes("receipts").items(), "a finished task was done again"
    (stage,) = [e for e in seen if e["event"] == "stage" and e["stage"] == "simulate"]
    assert stage["reused"] == len(finished_before)
    assert sum(e["event"] == "task" for e in seen) == stage["tasks"] - stage["reused"] > 0


def _signalled(settings, url, tmp_path, number) -> tuple[int, str]:
    """Begin a run, send it a signal when two tasks are done; return its exit code and words."""
    store = object_store(url)
    command = [sys.executable, trivial.__file__, "run", str(settings), "--output", url, "--until", "simulate"]
    command += ["--set", "simulation.slice_households=20", "--cluster", str(tmp_path / "serial.yaml")]
    # Tests in the background ignore Ctrl-C, and what they start would too.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    signal.signal(signal.SIGINT, ours)
    until = time.monotonic() + 120
    while len(store.sizes("receipts/simulate")) < 2:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(process.pid, number)
    return process.wait(timeout=60), (tmp_path / "log").read_text()


def test_a_slice_short_of_memory_is_done_in_halves_in_a_store_too(
    settings, url, tmp_path, quick, monkeypatch
):
    config = RunConfig.load(settings)
    whole = Run(config, tmp_path / "folder", SERIAL)
    whole.execute(until="assemble")

    begun: list[tuple[int, int, int]] = []

    @finished
    def scarce(task):
        begun.append((task.state_fips, task.start, task.stop))
        if task.stop - task.start > 70:
            raise MemoryError("unable to allocate 9 GiB")
        return trivial.block_of(task)

    monkeypatch.setattr(run_module, "simulate_slice", scarce)
    seen: list[dict] = []
    Run(config, url, SERIAL, [seen.append]).execute(until="assemble")
    store, halved = object_store(url), {e["id"] for e in seen if e["event"] == "split"}
    assert len(halved) == len(make_plan(config).plan.slices)
    assert len(begun) == len(set(begun))
    names = {Path(path).stem for path in store.sizes("receipts/simulate")}
    assert not names & halved
    assert {Path(path).stem for path in store.sizes("receipts/split")} == halved
    # Whoever goes on, of another machine, has the halves for the whole, and begins neither again.
    begun.clear()
    store.delete(next(f"receipts/assemble/{path}" for path in store.sizes("receipts/assemble")))
    Run(config, url, SERIAL).execute(until="assemble")
    assert begun == []
    lost = next(iter(sorted(names)))
    store.delete(f"receipts/simulate/{lost}.json")
    Run(config, url, SERIAL).execute(until="assemble")
    assert len(begun) == 1
    assert begun[0][2] - begun[0][1] <= 70
    home = open_home(url)
    home.look()
    assert matrix_of(home.folder) == matrix_of(tmp_path / "folder")


def matrix_of(folder: Path) -> dict[str, str]:
    (receipt,) = folder.glob("receipts/assemble/*.json")
    return json.loads(receipt.read_text())["outputs"]


@pytest.mark.parametrize("stage", ["", "simulate", "start workers"])
def test_the_last_event_of_a_run_that_failed_says_so_wherever_it_failed(
    config, tmp_path, quick, monkeypatch, stage
):
    folder = tmp_path / "run"

    def fails(*_):
        raise RunError(f"{folder}/x cannot be read")

    place = {"": "standing_tasks", "simulate": "simulate_slice"}
    if stage in place:
        monkeypatch.setattr(run_module, place[stage], fails)
    else:
        # What the start says may name a certificate, which no event does.
        monkeypatch.setattr("distcalib.cluster.open_client", fails)
    cluster = SERIAL if stage in place else ClusterConfig(workers=1)
    with pytest.raises(RunError, match="cannot be read"):
        Run(config, folder, cluster).execute()
    events = read_events(folder)
    assert [e["event"] for e in events if "fail" in e["event"]] == ["stage_failed", "failed"][not stage :]
    last = events[-1]
    assert (last["event"], last["stage"]) == ("failed", stage)
    assert ("cannot be read" in last["cause"]) == (stage in place)
    status = read_status(folder)
    assert (status.state(0.0), status.cause) == ("failed", last["cause"])
    assert RunTables.read(folder).failure == (stage, last["cause"])
    told = CliRunner().invoke(main, ["status", str(folder)])
    assert (f"cause: {last['cause']}" in told.output.replace("\n", "")) == (stage in place)
    # The next attempt begins anew.
    monkeypatch.undo()
    monkeypatch.setattr(run_module, "simulate_slice", trivial.simulate)
    Run(config, folder, SERIAL).execute(until="simulate")
    assert (read_status(folder).state(0.0), read_status(folder).cause) == ("stopped", "")


def test_a_run_that_fails_while_its_plan_is_written_is_not_what_it_was_before(
    config, tmp_path, quick, monkeypatch
):
    folder = tmp_path / "run"
    Run(config, folder, SERIAL).execute(until="simulate")
    Events(folder / "events.ndjson").emit("done", seconds=1.0)  # as if all of it had been
    assert read_status(folder).state(0.0) == "done"

    def fails(*_):
        raise RunError("no space")

    monkeypatch.setattr(run_module, "write_plan", fails)
    with pytest.raises(RunError, match="no space"):
        Run(config, folder, SERIAL).execute(until="assemble")
    assert (read_status(folder).state(0.0), read_status(folder).cause) == ("failed", "no space")


def test_a_run_that_was_interrupted_is_nowhere_said_to_have_failed(config, tmp_path, quick, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "simulate_slice", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        Run(config, folder, SERIAL).execute()
    assert state_words(RunTables.read(folder))[0] == "interrupted in simulate"
    told = CliRunner().invoke(main, ["status", str(folder)]).output
    seen: list[str] = []
    work = Run(config, folder, SERIAL)
    monkeypatch.setattr(work, "prepare", lambda: seen.append(read_status(folder).state(time.time())))
    with pytest.raises(AttributeError):
        work.execute()
    # Who follows the folder is told that it goes on before anything is planned; nothing came of it here.
    assert seen == ["running"]
    assert read_status(folder).cause == "interrupted"
    assert "interrupted; the same `run` command goes on" in " ".join(told.split())
