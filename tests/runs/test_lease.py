"""Two coordinators and one run folder: the second is refused, and told who holds it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from distcalib.cli import main
from distcalib.errors import InputError, RunError
from distcalib.runs.folder import locked

HOLD = """
import sys, time
from pathlib import Path
from distcalib.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


def test_a_second_coordinator_is_refused_with_process_and_machine_named(holder, settings):
    folder, process = holder
    before = sorted(p.name for p in folder.iterdir())
    result = CliRunner().invoke(main, ["run", str(settings), "--output", str(folder)])
    assert result.exit_code == 1, result.output
    owner = f"error: {folder}: process {process.pid} on {socket.gethostname()}, since 20"
    assert owner in result.output
    assert "is carrying this run out" in result.output
    assert sorted(p.name for p in folder.iterdir()) == before == [".lock"]


def test_a_coordinator_that_was_killed_holds_nothing(holder):
    folder, process = holder
    with pytest.raises(RunError, match=f"process {process.pid} on "):  # noqa: SIM117
        with locked(folder):
            pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with locked(folder):
        words = (folder / ".lock").read_text()
        assert words.startswith(f"process {os.getpid()} on {socket.gethostname()}, since 20")
        with pytest.raises(RunError, match=f"process {os.getpid()} on "):  # noqa: SIM117
            with locked(folder):
                pass
    with locked(folder):
        pass


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(InputError, match=r"cannot keep two coordinators apart.*-o flock"):  # noqa: SIM117
        with locked(tmp_path):
            pass
