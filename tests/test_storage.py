"""Storage that fails now and then: what is written again, how often, and what is left of it."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from scipy import sparse

from distcalib import storage
from distcalib.errors import StorageError
from distcalib.matrix.blocks import read_block, write_block
from distcalib.microdata.hdf5 import write_parts
from distcalib.runs.events import Events
from distcalib.storage import TRIES, publish, write_text


@pytest.fixture
def waits(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    return waited


def fails(monkeypatch, name: str, times: int, code: int = errno.EIO) -> list[int]:
    """Let a function of the operating system fail its first calls."""
    real, calls = getattr(os, name), []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) <= times:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, function)
    return calls


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("times", [1, TRIES - 1])
def test_a_write_that_fails_is_done_anew(tmp_path, monkeypatch, waits, name, times):
    fails(monkeypatch, name, times)
    written = []
    publish(tmp_path / "a.txt", lambda path: written.append(path.write_text("whole")))
    # After a failed flush the pages may count as written: nothing of the first try is kept.
    assert len(written) == times + 1
    assert waits == [0.2, 0.8, 3.2][:times]
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_one_that_goes_on_failing_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, waits, name):
    write_text(tmp_path / "a.txt", "old")
    calls = fails(monkeypatch, name, 99)
    with pytest.raises(StorageError, match=r"a\.txt: could not be written \(Input/output.*4 times in a row"):
        write_text(tmp_path / "a.txt", "new")
    assert len(calls) == TRIES
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_does_not_pass_is_not_tried_again(tmp_path, monkeypatch, waits, code):
    calls = fails(monkeypatch, "fsync", 99, code)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        write_text(tmp_path / "a.txt", "new")
    assert not isinstance(caught.value, StorageError)
    assert (len(calls), waits, list(tmp_path.iterdir())) == (1, [], [])


def test_a_block_is_written_anew_and_nothing_is_left_of_one_that_cannot_be(tmp_path, monkeypatch, waits):
    matrix = sparse.csr_array(np.eye(4, dtype=np.float32))
    fails(monkeypatch, "rename", 2)
    write_block(tmp_path / "block", matrix)
    assert (read_block(tmp_path / "block") != matrix).nnz == 0
    assert len(waits) == 2
    fails(monkeypatch, "rename", 99)
    with pytest.raises(StorageError, match="other: could not be written"):
        write_block(tmp_path / "other", matrix)
    assert [p.name for p in tmp_path.iterdir()] == ["block"]


def test_what_is_made_of_an_iterator_is_written_once(tmp_path, monkeypatch, waits, small):
    sizes = {entity: small.count(entity) for entity in small.ids}
    fails(monkeypatch, "fsync", 1)
    with pytest.raises(StorageError, match=r"a\.h5: could not be written \(Input/output error\)"):
        write_parts(tmp_path / "a.h5", sizes, iter([small]))
    assert (waits, list(tmp_path.iterdir())) == ([], [])
    fails(monkeypatch, "fsync", 1)
    write_parts(tmp_path / "a.h5", sizes, [small])
    assert len(waits) == 1


def test_an_event_is_not_lost_behind_half_a_line(tmp_path):
    file = tmp_path / "events.ndjson"
    events = Events(file)
    events.emit("one")
    with open(file, "a") as half:
        half.write('{"event": "tw')
    events.emit("three")
    lines = file.read_text().splitlines()
    assert [line[:14] for line in lines] == ['{"event": "one', '{"event": "tw', '{"event": "thr']
