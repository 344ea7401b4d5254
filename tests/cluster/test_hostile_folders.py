"""Run folders that somebody else made: nothing of them leads out of the folder, and nothing is unpickled."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

import distcalib
from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.runs.events import Events
from distcalib.runs.folder import keep_only
from distcalib.runs.home import EVENTS, open_home
from distcalib.runs.receipts import Receipt, read_receipt, receipt_path, verified, write_receipt
from distcalib.storage import sha256_file

# The only places that know pickles: they refuse all but texts and numbers.
KNOW_PICKLE = {"geography/saved.py", "inert.py"}


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


@pytest.mark.parametrize("path", ["", ".", "areas/\0.h5", "areas/\ud800.h5"])
def test_a_receipt_of_what_has_no_name_is_none(tmp_path, path):
    file = receipt_path(tmp_path, "areas", "abc")
    file.parent.mkdir(parents=True)
    known = asdict(Receipt("areas", "abc", {}))
    for odd in ({"outputs": {path: "0" * 64}}, {"outputs": {"areas": "0"}, "objects": {path: (0, "0", "")}}):
        file.write_text(json.dumps(known | odd))
        assert read_receipt(tmp_path, "areas", "abc") is None
        assert verified(tmp_path, "areas", "abc") is None


@pytest.mark.parametrize("outputs", [["a"], "a", None, 3])
def test_a_receipt_whose_outputs_are_no_table_is_none(tmp_path, outputs):
    file = receipt_path(tmp_path, "areas", "abc")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(Receipt("areas", "abc", {})) | {"outputs": outputs}))
    assert verified(tmp_path, "areas", "abc") is None


def test_nothing_is_removed_through_a_link(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (outside, run / "areas" / "states", run / "receipts", run / "fits"):
        folder.mkdir(parents=True)
    for file in (outside / "CA.h5", outside / "x.json", run / "areas" / "states" / "old.h5"):
        file.touch()
    (run / "areas" / "districts").symlink_to(outside)
    (run / "receipts" / "areas").symlink_to(outside)
    (run / "fits" / "few").symlink_to(outside)
    keep_only(run, set())
    assert {p.name for p in outside.iterdir()} == {"CA.h5", "x.json"}
    assert not (run / "areas" / "states" / "old.h5").exists()


@pytest.mark.parametrize(
    "name",
    [
        "verify",
        "receipts",
        "areas",
        "areas/districts",
        "matrix.zarr",
        "fit",
        "fits/a",
        ".lock",
        "events.ndjson",
    ],
)
def test_a_folder_with_a_link_that_leads_out_is_not_worked_in(tmp_path, name):
    home, link, outside = open_home(tmp_path / "run"), tmp_path / "run" / name, tmp_path / "outside"
    link.parent.mkdir(parents=True)
    (outside / "verify").mkdir(parents=True)
    (outside / "verify" / "a.csv").write_text("mine")
    target = outside / "verify" / "a.csv" if name in (".lock", "events.ndjson") else outside
    link.symlink_to(target)

    def work() -> None:
        with home.held():
            home.forget("verify")
            home.clear("verify", set())
            Events(home.folder / EVENTS).emit("start")

    with pytest.raises(InputError, match=rf"{re.escape(str(link))}.* leads out of the run folder"):
        work()
    assert (outside / "verify" / "a.csv").read_text() == "mine"
    link.unlink()
    (tmp_path / "run" / "elsewhere").mkdir()
    if name not in (".lock", "events.ndjson"):
        link.symlink_to(tmp_path / "run" / "elsewhere")
    with home.held():
        pass


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


# What `distcalib` asks of a plan before it makes one of its own.
PLAN = {"slices": [], "digest": "0" * 64, "run": {"name": "x"}}
PLAN |= {table: {} for table in ("code", "inputs", "versions", "engines")}
SLICE = {"id": "a", "state_fips": 56, "start": 0, "stop": 9}


def plan(**changes) -> str:
    return json.dumps({key: value for key, value in (PLAN | changes).items() if value != "left out"})


# Each plan.json of a run folder, as text or bytes.
BAD_PLANS: dict[str, str | bytes] = {
    "empty": "",
    "half of it": plan()[:40],
    "no text": b"\xff\xfe\x00",
    "no table": "[1, 2]",
    "null": "null",
    "a number": "7",
    "a text": '"plan"',
    "a hundred thousand levels": "[" * 100_000,
    "a number of a million digits": "1" * 1_000_000,
    "no digest": plan(digest="left out"),
    "no slices": plan(slices="left out"),
    "a digest that is no text": plan(digest=7),
    "a run that is no table": plan(run=[]),
    "a run without a name": plan(run={}),
    "inputs that are no table": plan(inputs=3),
    "versions that are no table": plan(versions="2.68"),
    "code that is no table": plan(code=[1]),
    "engines that are no table": plan(engines=None),
    "slices that are no list": plan(slices={"a": 1}),
    "a slice that is no table": plan(slices=[3]),
    "a slice without an end": plan(slices=[{"id": "a", "state_fips": 56, "start": 0}]),
    "a slice in words": plan(slices=[SLICE | {"stop": "nine"}]),
    "a slice of halves": plan(slices=[SLICE | {"stop": 4.5}]),
    "a slice that ends before it begins": plan(slices=[SLICE | {"stop": -1}]),
    "a slice of no state": plan(slices=[SLICE | {"state_fips": 99}]),
}


def contents(folder: Path) -> dict[str, bytes | None]:
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*")}
    return {name: p.read_bytes() if p.is_file() else None for name, p in found.items()}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_folder_whose_plan_is_none_is_refused_and_left_as_it_is(tmp_path, name):
    run, text = tmp_path / "run", BAD_PLANS[name]
    run.mkdir()
    (run / "plan.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = contents(tmp_path)
    for arguments in (["run", "tiny", "--output", str(run)], ["status", str(run)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, (arguments, result.output, result.exception)
        assert result.output.startswith(f"error: {run}/plan.json: is not the plan of a run"), result.output
        assert len(result.output) < 500
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["a file", "below a file", "not empty", "a link to a file", "a dead link"])
def test_a_place_that_is_no_run_folder_is_refused_and_left_as_it_is(tmp_path, name, settings):
    run, other = tmp_path / "run", tmp_path / "other"
    other.write_text("mine")
    if name == "a file":
        run.write_text("mine")
    elif name == "below a file":
        run = other / "run"
    elif name == "not empty":
        run.mkdir()
        (run / "mine.txt").touch()
    elif name == "a link to a file":
        run.symlink_to(other)
    else:
        run.symlink_to(tmp_path / "nowhere" / "at all")
    before = contents(tmp_path)
    result = CliRunner().invoke(main, ["run", str(settings), "--output", str(run)])
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"error: {run}" in result.output
    assert contents(tmp_path) == before
