"""SIGKILL at any moment: the next start finishes with the same matrix and the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distcalib.runs.events import read_events
from distcalib.runs.manifest import damaged, read_manifest

pytestmark = pytest.mark.slow


def start(settings: Path, folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "distcalib.cli", "run", str(settings), "--output", str(folder), *more]
    # Tests in the background ignore Ctrl-C, and what they start would too.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with open(folder.with_suffix(".log"), "a") as log:
            return subprocess.Popen(
                [*command, "--workers", "2"], stdout=log, stderr=log, start_new_session=True
            )
    finally:
        signal.signal(signal.SIGINT, ours)


def seen(folder: Path, event: str, stage: str) -> bool:
    return any(one["event"] == event and one.get("stage") == stage for one in read_events(folder))


def receipts_of(folder: Path) -> dict[Path, int]:
    """Finished receipts and when they were written; a half-written one has a name that begins with a dot."""
    return {p: p.stat().st_mtime_ns for p in folder.glob("receipts/*/*.json") if not p.name.startswith(".")}


def wait_for(condition, process: subprocess.Popen, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before the moment came"
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.01)


def test_a_run_killed_in_every_stage_ends_where_an_undisturbed_one_does(small_run, small_settings, tmp_path):
    folder = tmp_path / "killed"
    moments = [
        ("task", "simulate"),
        ("stage", "fit"),
        ("task", "areas"),
        ("task", "verify"),
    ]
    finished: dict[Path, int] = {}
    for event, stage in moments:
        process = start(small_settings, folder)
        children: list[psutil.Process] = []
        wait_for(lambda e=event, s=stage: seen(folder, e, s), process, 300)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert read_manifest(folder) is None
        # Workers notice that their coordinator is gone and leave; nobody has to clean up after a crash.
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == [], [p.cmdline() for p in alive]
        done = receipts_of(folder)
        assert finished.items() <= done.items(), "a finished task was done again"
        finished = done
    last = start(small_settings, folder)
    assert last.wait(timeout=400) == 0, folder.with_suffix(".log").read_text()
    killed, whole = read_manifest(folder), read_manifest(small_run)
    assert killed is not None
    assert whole is not None
    assert (killed["matrix"], killed["weights"]) == (whole["matrix"], whole["weights"])
    assert damaged(folder, killed) == []
    after = receipts_of(folder)
    assert finished.items() <= after.items(), "a finished task was done again"
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name]


def test_a_run_interrupted_from_the_keyboard_exits_130_and_goes_on(small_settings, tmp_path):
    folder = tmp_path / "interrupted"
    process = start(small_settings, folder)
    wait_for(lambda: seen(folder, "task", "simulate"), process, 300)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=120) == 130, folder.with_suffix(".log").read_text()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == [], [p.cmdline() for p in alive]
    log = folder.with_suffix(".log").read_text()
    assert f"interrupted; what is finished stays in {folder}" in log
    assert "Traceback" not in log
    done = receipts_of(folder)
    assert done
    again = start(small_settings, folder, "--until", "simulate")
    assert again.wait(timeout=400) == 0, folder.with_suffix(".log").read_text()
    assert done.items() <= receipts_of(folder).items(), "a finished task was done again"


def test_a_killed_worker_is_replaced_and_its_task_done(small_run, small_settings, tmp_path):
    folder = tmp_path / "worker"
    process = start(small_settings, folder)
    wait_for(lambda: seen(folder, "stage", "simulate"), process, 300)
    workers = []

    def is_worker(one: psutil.Process) -> bool:
        try:
            return one.memory_info().rss > 6e8 and one.ppid() != process.pid
        except psutil.NoSuchProcess:  # it ended since it was listed
            return False

    def some_worker() -> bool:
        workers[:] = filter(is_worker, psutil.Process(process.pid).children(recursive=True))
        return bool(workers)

    wait_for(some_worker, process, 120)
    workers[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=400) == 0, folder.with_suffix(".log").read_text()
    one, other = read_manifest(folder), read_manifest(small_run)
    assert one is not None
    assert other is not None
    assert (one["matrix"], one["weights"]) == (other["matrix"], other["weights"])
