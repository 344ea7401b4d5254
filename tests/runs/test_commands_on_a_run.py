"""Commands on a finished run, with real files, workers and rules: verify, strict, stack, JSON events."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from distcalib import cluster as cluster_module
from distcalib.cli import main
from distcalib.errors import RunError
from distcalib.microdata import Microdata
from distcalib.report.run_tables import RunTables
from distcalib.runs import run as run_module
from distcalib.runs.manifest import FRONTIER, damaged, read_manifest, write_manifest
from distcalib.runs.receipts import Receipt, write_receipt
from distcalib.runs.verdict import remarks

PLACE = ("prove", "open_client")


def invoke(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "copy"))


def write_manifest_anew(run: Path) -> None:
    facts = {k: v for k, v in (read_manifest(run) or {}).items() if k not in ("inputs", "totals", "files")}
    write_manifest(run, facts)


@pytest.mark.slow
def test_a_run_is_proven_again_and_nothing_else_is_done_again(copy, small_settings):
    before = read_manifest(copy)
    blocks = {p: p.stat().st_mtime_ns for p in copy.glob("receipts/*/*.json") if p.parent.name != "verify"}
    (copy / "events.ndjson").unlink()
    done = invoke("verify", copy, "--log-format", "json", "--workers", 2, "--strict")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    after = read_manifest(copy)
    assert after is not None
    # The plan of this run warns, so --strict makes it 3; without it is 0.
    assert remarks(after)
    assert done.exit_code == 3, done.output
    assert f"verified with {len(remarks(after))} warnings" in done.stderr
    assert [e["event"] for e in events][-2:] == ["done", "summary"]
    stages = {e["stage"]: e for e in events if e["event"] == "stage"}
    for stage in ("simulate", "assemble", "fit", "areas"):
        assert stages[stage]["reused"] == stages[stage]["tasks"] > 0
    assert stages["verify"]["reused"] == 0
    assert events[-1]["verification"] == before["verification"]
    assert {p: p.stat().st_mtime_ns for p in blocks} == blocks
    assert set(after["files"]) == set(before["files"])
    # What was written to the log is what was told.
    logged = [json.loads(line) for line in (copy / "events.ndjson").read_text().splitlines()]
    assert [e for e in events if e["event"] not in ("plan", "summary", "alive")] == [
        e for e in logged if e["event"] != "alive"
    ]


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_file_is_no_proof(copy, damage):
    file = copy / "areas" / "states" / "WY.h5"
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "changed":
        data[-1] ^= 1
        file.write_bytes(data)
    done = invoke("verify", copy)
    assert done.exit_code == 1, done.output
    assert "areas/states/WY.h5" in done.output
    assert (copy / "manifest.json").is_file()


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), RunError("the scheduler is gone"), "start"])
def test_a_proof_that_ends_early_leaves_what_was_proven_before(copy, tmp_path, monkeypatch, ends):
    """Unless a file may be wrong: then no manifest stands."""

    def fails(*_):
        raise ends if isinstance(ends, BaseException) else RunError("no worker")

    (copy / "report.html").write_text("old")
    (tmp_path / "serial.yaml").write_text("kind: serial\n")
    cluster = ["--cluster", tmp_path / "serial.yaml"] if ends != "start" else ["--workers", 1]
    monkeypatch.setattr(run_module if ends != "start" else cluster_module, PLACE[ends == "start"], fails)
    done = invoke("verify", copy, *cluster)
    assert done.exit_code == (130 if isinstance(ends, KeyboardInterrupt) else 1), done.output
    assert not list(copy.glob(".before*"))
    manifest = read_manifest(copy)
    if isinstance(ends, RunError):
        assert manifest is None
        assert not (copy / "report.html").exists()
    else:
        assert damaged(copy, manifest or {}) == []
        assert RunTables.read(copy).state == "done"
        assert (copy / "report.html").read_text() == "old"


def test_what_is_accepted_is_no_remark_under_strict(copy, tmp_path, monkeypatch):
    """Warnings of the plan by words of them; an entry that meets nothing is a remark itself."""
    kept = {p.stem: json.loads(p.read_text()) for p in copy.glob("receipts/verify/*.json")}
    told = [words.split(":")[0] for words in (read_manifest(copy) or {})["warnings"]]
    assert len(told) > 3

    def proven_before(task):  # what the same task gave, without the minutes
        write_receipt(copy, Receipt(**kept[task.id]))
        return kept[task.id]

    for name in ("prove", "check_files"):
        monkeypatch.setattr(run_module, name, proven_before)
    (tmp_path / "serial.yaml").write_text("kind: serial\n")

    def strict(*accept: str):
        known = f"verify.accept={json.dumps(accept)}"
        sets = ["--set", known, "--set", "verify.population=0.9", "--cluster", tmp_path / "serial.yaml"]
        return invoke("verify", copy, "--strict", *sets)

    some = strict(*(f"plan@{words}: known" for words in told[1:]), "plan@no such words")
    assert some.exit_code == 3, some.output
    assert "verified with 2 warnings" in some.stderr
    assert told[0] in some.stderr
    assert "meets no finding" in some.stderr
    done = strict(*(f"plan@{words}: known" for words in told))
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    after = read_manifest(copy) or {}
    assert after["verification"]["accepted"] == after["warnings"]
    assert damaged(copy, after) == []


def test_a_proof_by_other_code_is_told_what_to_do(copy):
    plan = json.loads((copy / "plan.json").read_text())
    plan["code"]["fit"] = plan["digest"] = "0" * 64
    (copy / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n")
    write_manifest_anew(copy)
    done = invoke("verify", copy)
    assert done.exit_code == 1, done.output
    told = " ".join(done.output.split())
    assert "the program that it was made with" in told
    assert f"`distcalib run --output {copy} --accept-code`" in told
    assert "give --accept-code" not in told
    # Of a program that had a setting less.
    del plan["run"]["design_weights"]
    (copy / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n")
    write_manifest_anew(copy)
    done = invoke("verify", copy)
    assert done.exit_code == 2, done.output
    told = " ".join(done.output.split())
    assert "design_weights: None there" in told
    assert "expected the program and environment that it was begun with" in told


def test_an_unfinished_run_cannot_be_verified(copy, tmp_path):
    (copy / "manifest.json").unlink()
    done = invoke("verify", copy)
    assert (done.exit_code, "is not finished" in done.output) == (2, True)
    assert invoke("verify", tmp_path / "none").exit_code == 2


def test_microdata_that_moved_are_named(copy, small_file, tmp_path):
    moved = shutil.copy(small_file, tmp_path / "moved.h5")
    plan = json.loads((copy / "plan.json").read_text())
    plan["run"]["microdata"] = str(tmp_path / "was_here.h5")
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    (copy / "plan.json").write_text(text)
    write_manifest_anew(copy)
    lost = invoke("verify", copy)
    assert (lost.exit_code, "was_here.h5" in lost.output) == (2, True)
    from distcalib.runs.stored import finished_config

    assert finished_config(copy, {"microdata": str(moved)}).microdata == str(moved)


def test_a_frontier_in_the_run_folder_is_replaced_and_the_run_stays_whole(copy):
    """Where the report tells to put it; also when a proof since wrote the manifest anew."""
    for records in (3, 4):
        (copy / FRONTIER).write_text(f"records\n{records}\n")
        assert damaged(copy, read_manifest(copy) or {}) == []
        write_manifest_anew(copy)


def test_a_dry_run_of_a_finished_run_prints_its_plan_and_writes_nothing(copy, small_settings):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    done = invoke("run", small_settings, "--output", copy, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "to fit" in done.output
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_a_folder_is_taken_up_with_the_settings_it_was_begun_with(copy, tmp_path):
    done = invoke("run", "--output", copy)
    assert done.exit_code == 0, done.output
    assert "nothing to do" in done.output
    other = invoke("run", "--output", copy, "--set", "seed=4", "--dry-run")
    assert (other.exit_code, "seed: 3 there, 4 now" in other.output) == (2, True)
    assert invoke("run", "--output", tmp_path / "new").exit_code == 2


def test_files_are_written_anew_from_the_weights_of_a_run(small_run, tmp_path):
    done = invoke("stack", "run", small_run, "--only", "WY,NH-02", "--area", "North=state == NH",
                  "--only", "WY,NH-02,North", "--output", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    # The same bytes as the run wrote.
    for file in ("areas/states/WY.h5", "areas/districts/WY-01.h5", "areas/districts/NH-02.h5"):
        assert (tmp_path / file).read_bytes() == (small_run / file).read_bytes(), file
    weights, columns = np.load(small_run / "fit/weights.npy"), pd.read_parquet(small_run / "columns.parquet")
    held = Microdata.read(tmp_path / "areas/others/North.h5")
    mine = np.flatnonzero((weights > 0) & (columns["state_fips"] == 33).to_numpy())
    np.testing.assert_array_equal(np.sort(held.ids["household"]), mine)
    assert not (tmp_path / "areas/states/NH.h5").exists()


def test_files_of_a_further_fit_have_its_weights(small_run, tmp_path):
    done = invoke("stack", "run", small_run, "--fit", "few", "--only", "WY-01", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    weights = np.load(small_run / "fits/few/weights.npy")
    held = Microdata.read(tmp_path / "areas/districts/WY-01.h5")
    np.testing.assert_array_equal(held.weights, weights[held.ids["household"]])
    none = invoke("stack", "run", small_run, "--fit", "fwe", "--output", tmp_path / "x")
    assert (none.exit_code, "did you mean 'few'" in none.output) == (2, True)


@pytest.mark.parametrize("kind", ["other rates", "none kept"])
def test_flags_other_than_the_matrixs_get_into_no_file_and_no_explanation(copy, tmp_path, kind):
    file = copy / "take_up.csv"
    if kind == "none kept":
        file.unlink()
    else:
        table = pd.read_csv(file)
        table.loc[table["variable"] == "takes_up_tanf_if_eligible", "rate"] = 0.23
        table.to_csv(file, index=False)
    done = invoke("stack", "run", copy, "--only", "WY-01", "--output", tmp_path / "x")
    assert (done.exit_code, "take_up.csv" in "".join(done.output.split())) == (2, True), done.output
    assert not (tmp_path / "x").exists()
    why = invoke("matrix", "why", copy, "state_56/snap", "0")
    assert (why.exit_code, "take_up.csv" in "".join(why.output.split())) == (2, True), why.output


def test_weights_of_a_fit_that_the_run_no_longer_has_are_not_written(small_run, tmp_path):
    (tmp_path / "fits/fwe").mkdir(parents=True)
    shutil.copy(small_run / "plan.json", tmp_path)
    shutil.copy(small_run / "fits/few/weights.npy", tmp_path / "fits/fwe")
    none = invoke("stack", "run", tmp_path, "--fit", "fwe", "--output", tmp_path / "x")
    assert (none.exit_code, "did you mean 'few'" in none.output) == (2, True)


def test_the_matrix_of_a_run_is_looked_into(small_run):
    assert "nonzeros" in invoke("matrix", "info", small_run).output
    row = invoke("matrix", "row", small_run, "state_56/snap")
    assert row.exit_code == 0, row.output
    column = int(np.flatnonzero(np.load(small_run / "fit/weights.npy"))[0])
    told = invoke("matrix", "column", small_run, column)
    assert f"column               {column}" in told.output
    assert "weight  " in told.output


@pytest.mark.slow
def test_a_cell_of_a_run_is_explained(small_run):
    column = int(np.flatnonzero(np.load(small_run / "fit/weights.npy"))[0])
    why = invoke("matrix", "why", small_run, "state_56/snap", column)
    assert why.exit_code == 0, why.output
    assert "household" in why.output
    assert "THE MATRIX HOLDS ANOTHER VALUE" not in why.output


def test_targets_of_a_run_are_told(small_run):
    done = invoke("targets", "count", small_run)
    assert done.exit_code == 0, done.output
    assert "fit" in done.output
