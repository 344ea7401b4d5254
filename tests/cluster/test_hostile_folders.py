"""Run folders that somebody else made: nothing of them leads out of the folder, and nothing is unpickled."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest

import distcalib
from distcalib.runs.folder import keep_only
from distcalib.runs.receipts import Receipt, receipt_path, verified, write_receipt
from distcalib.storage import sha256_file

# The only places that know pickles: one writes and reads a folder of its own, one refuses all but text.
KNOW_PICKLE = {"runs/spread.py", "geography/saved.py"}


@pytest.mark.parametrize("path", ["../outside.txt", "{folder}/outside.txt", "areas/../../outside.txt"])
def test_a_receipt_of_what_lies_outside_is_none(tmp_path, path):
    run, outside = tmp_path / "run", tmp_path / "outside.txt"
    outside.write_text("mine")
    path = path.format(folder=tmp_path)
    (run / "areas").mkdir(parents=True)
    write_receipt(run, Receipt("areas", "abc", {path: sha256_file(outside)}))
    assert verified(run, "areas", "abc") is None
    (run / "inside.txt").write_text("mine")
    write_receipt(run, Receipt("areas", "abc", {"inside.txt": sha256_file(outside)}))
    assert verified(run, "areas", "abc") is not None


@pytest.mark.parametrize("outputs", [["a"], "a", None, 3])
def test_a_receipt_whose_outputs_are_no_table_is_none(tmp_path, outputs):
    file = receipt_path(tmp_path, "areas", "abc")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(Receipt("areas", "abc", {})) | {"outputs": outputs}))
    assert verified(tmp_path, "areas", "abc") is None


def test_nothing_is_removed_through_a_link(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (outside, run / "areas" / "states", run / "receipts"):
        folder.mkdir(parents=True)
    for file in (outside / "CA.h5", outside / "x.json", run / "areas" / "states" / "old.h5"):
        file.touch()
    (run / "areas" / "districts").symlink_to(outside)
    (run / "receipts" / "areas").symlink_to(outside)
    keep_only(run, set())
    assert {p.name for p in outside.iterdir()} == {"CA.h5", "x.json"}
    assert not (run / "areas" / "states" / "old.h5").exists()


def test_only_the_known_places_know_pickles():
    root = Path(distcalib.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        allowed = {
            ast.unparse(k.value) for n in ast.walk(tree) if isinstance(n, ast.Call)
            for k in n.keywords if k.arg == "allow_pickle"
        }  # fmt: skip
        unsafe = {"torch.load", "joblib.load", "pd.read_pickle", "pandas.read_pickle"} & calls
        if names & {"pickle", "cloudpickle", "dill", "marshal", "shelve"} or unsafe or allowed - {"False"}:
            found.add(file.relative_to(root).as_posix())
    assert found == KNOW_PICKLE


def test_the_cluster_is_in_no_plan():
    from distcalib.runs.plan import Plan

    assert not [name for name in Plan.__dataclass_fields__ if "cluster" in name]
