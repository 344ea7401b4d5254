"""A receipt verifies as long as every byte of its outputs is as it was; blocks need no reading for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from distcalib.matrix.blocks import write_block
from distcalib.runs import receipts
from distcalib.runs.receipts import Receipt, read_receipt, receipt_path, verified, write_receipt

PATH = "matrix.zarr/blocks/abc"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    matrix = sparse.csr_array(np.arange(12, dtype=np.float32).reshape(3, 4))
    digest = write_block(tmp_path / PATH, matrix)
    (tmp_path / "a.csv").write_text("1,2\n")
    outputs = {PATH: digest, "a.csv": receipts.sha256_file(tmp_path / "a.csv")}
    write_receipt(tmp_path, Receipt("simulate", "abc", outputs))
    return tmp_path


def stands(run: Path) -> bool:
    return verified(run, "simulate", "abc") is not None


def test_what_is_as_it_was_is_not_read_as_a_matrix(run, monkeypatch):
    monkeypatch.setattr(receipts, "read_block", lambda *_: pytest.fail("read"))
    assert stands(run)
    known = read_receipt(run, "simulate", "abc").objects
    # Of a file its sha256 is known already.
    assert all(path.startswith(f"{PATH}/") for path in known)
    assert f"{PATH}/data/c/0" in known


def files(run: Path) -> list[Path]:
    return sorted(p for p in (run / PATH).rglob("*") if p.is_file())


def test_any_file_of_a_block_that_changes_or_is_gone_is_seen(run):
    assert len(files(run)) == 7
    for file in [*files(run), run / "a.csv"]:
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert not stands(run), file
        file.unlink()
        assert not stands(run), file
        file.symlink_to(run / "nowhere")
        assert not stands(run), file
        file.unlink()
        file.write_bytes(whole)
        assert stands(run)
    (run / PATH / "data" / "c" / "1").write_bytes(b"more")
    assert not stands(run)


@pytest.mark.parametrize("left", [0, 1, 6])
def test_a_receipt_that_does_not_know_all_files_is_no_excuse(run, left):
    file = receipt_path(run, "simulate", "abc")
    said = json.loads(file.read_text())
    said["objects"] = dict(list(said["objects"].items())[:left])
    file.write_text(json.dumps(said))
    # One that knows none is of an earlier version: its block is read.
    assert stands(run) == (left == 0)
    (run / PATH / "data" / "c" / "0").write_bytes(b"no chunk")
    assert not stands(run)


def test_the_peak_is_that_of_the_process_and_not_of_the_one_that_started_it():
    ballast = np.ones(1 << 26)  # 512 MiB
    script = "from distcalib.runs.tasks import _peak_bytes; print(_peak_bytes())"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
    assert 5e7 < int(told.stdout) < ballast.nbytes
