"""Commands whose work takes minutes give signs of life while it goes on."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from distcalib.cli import main


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("replicates RUN --output new", "runs.replicates.write_replicates"),
        ("publish RUN TO", "publication.publishing.publish"),
        ("promote TO demo", "publication.publishing.promote"),
        ("rollback TO", "publication.publishing.rollback"),
        ("doctor", "runs.doctor.examine"),
        ("matrix why RUN 3 4", ""),
    ],
)
def test_a_command_gives_signs_of_life_while_it_works(command, work, monkeypatch):
    seen: list[str] = []

    def looked_at(*_: object, **__: object) -> None:
        seen.extend(thread.name for thread in threading.enumerate())
        raise KeyboardInterrupt

    if work:
        monkeypatch.setattr(f"distcalib.{work}", looked_at)
    else:
        monkeypatch.setattr("distcalib.runs.reading.read_matrix", lambda run: SimpleNamespace(why=looked_at))
        monkeypatch.setattr("distcalib.matrix.inspect.find_row", lambda held, row: row)
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 130, done.output
    assert "events" in seen
    assert "events" not in [thread.name for thread in threading.enumerate()]
