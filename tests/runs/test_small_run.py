"""A real run: worker processes, rules engine, zarr, HDF5, verification; and the same again in other ways."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from distcalib import CalibrationMatrix, ClusterConfig, Run, RunConfig
from distcalib.cli import main
from distcalib.errors import RunError
from distcalib.fit.feasible import limits_before
from distcalib.matrix.blocks import read_block, write_block
from distcalib.microdata import Microdata
from distcalib.report.console import accuracy, stage_seconds
from distcalib.report.run_report import page, write_report
from distcalib.report.run_tables import RunTables
from distcalib.runs import run as run_module
from distcalib.runs.events import read_events
from distcalib.runs.foresight import known_problems
from distcalib.runs.manifest import damaged, read_manifest
from distcalib.runs.plan import ROOMS, make_plan, microdata_path


def facts(folder: Path) -> dict:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "copy"))


@pytest.fixture
def config(small_settings: Path) -> RunConfig:
    return RunConfig.load(small_settings)


def events_of(run: Run) -> list[dict]:
    seen: list[dict] = []
    run.subscribers = [seen.append]
    run.execute()
    return seen


def test_everything_that_a_run_promises_is_there(small_run):
    for name in (
        "plan.json",
        "events.ndjson",
        "targets.parquet",
        "excluded.parquet",
        "columns.parquet",
        "fit/weights.npy",
        "fit/log.csv",
        "fit/diagnostics.csv",
        "fit/summary.json",
        "areas/districts/WY-01.h5",
        "areas/districts/NH-01.h5",
        "areas/states/WY.h5",
        "areas/national/US.h5",
        "areas/mappings/WY-01.csv",
        "verify/targets.csv",
        "verify/areas.csv",
        "verify/files.csv",
        "verify/gates.csv",
        "verify/checks.csv",
        "verify/population.csv",
        "manifest.json",
    ):
        assert (small_run / name).is_file(), name
    manifest = facts(small_run)
    assert damaged(small_run, manifest) == []
    assert not (small_run / "fit/checkpoints").exists()
    assert not [p for p in small_run.rglob("*") if ".tmp" in p.name]
    stages = {"simulate", "assemble", "fit", "areas", "verify files", "verify", "judge", "start workers"}
    assert set(stage_seconds(small_run)) == stages


def test_the_report_tells_of_the_run(small_run, tmp_path):
    text = write_report(small_run, tmp_path / "report.html").read_text()
    assert "finished: every file is written and proven" in text
    assert "What this report lacks" not in text
    for name in ("WY-01", "NH-01", "NH-02"):
        assert f"<title>{name}: " in text
    for words in ("core-hours", "judge", "process ", "population error", "few", facts(small_run)["weights"]):
        assert words in text.replace("Population", "population"), words
    assert not (small_run / "report.html").exists()


def test_what_the_plan_foresees_is_what_the_simulated_matrix_says(small_run, config):
    prepared = make_plan(config)
    weights = prepared.columns["initial_weight"].to_numpy()
    limits = limits_before(weights, config.fit.lower_bound, config.fit.upper_bound)
    foreseen = known_problems(
        prepared.targets.rows,
        Microdata.read(microdata_path(config), config.period),
        prepared.assignment,
        weights,
        limits,
        config.fit.few_donors,
    ).set_index("name")
    said = pd.read_csv(small_run / "fit" / "consistency.csv", keep_default_na=False).set_index("name")
    assert len(foreseen) > 30
    numbers = ["target", "start", "donors", "effective_donors", "least", "most"]
    pd.testing.assert_frame_equal(
        foreseen[numbers].astype(float), said.loc[foreseen.index, numbers].astype(float), rtol=1e-12
    )
    # The table of the fit also knows contradictions, which go before few donors.
    own = said.loc[foreseen.index, "problem"].isin(["impossible", "short", "few donors"])
    assert own.any()
    assert (foreseen["problem"][own] == said.loc[foreseen.index, "problem"][own]).all()
    assert any("few_donors" in words for words in prepared.plan.warnings)


def test_weights_are_what_the_files_can_hold(small_run):
    weights = np.load(small_run / "fit" / "weights.npy")
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, weights.astype(np.float32))
    assert (weights >= 0).all()
    nation = Microdata.read(small_run / "areas" / "national" / "US.h5")
    np.testing.assert_array_equal(np.sort(nation.ids["household"]), np.flatnonzero(weights))
    np.testing.assert_array_equal(nation.weights, weights[nation.ids["household"]])


def test_the_files_give_what_the_matrix_promised(small_run):
    table = pd.read_csv(small_run / "verify" / "targets.csv")
    matrix = CalibrationMatrix.load(small_run)
    weights = np.load(small_run / "fit" / "weights.npy")
    assert len(table) == matrix.X.shape[0] > 100
    np.testing.assert_allclose(table["promised"], matrix.estimate(weights), rtol=1e-12)
    assert table["ok"].all()
    assert (table["from_files"] > 0).sum() > 80
    assert facts(small_run)["verification"]["largest_difference"] <= 1e-6


def test_an_output_opens_in_policyengine_with_the_verified_figure(small_run):
    from policyengine_us import Microsimulation

    file = small_run / "areas" / "districts" / "WY-01.h5"
    with np.errstate(all="ignore"):
        snap = Microsimulation(dataset=str(file)).calculate("snap", 2024).sum()
    table = pd.read_csv(small_run / "verify" / "targets.csv", dtype=str)
    row = table[(table["name"] == "state_56/snap")].iloc[0]
    totals = pd.read_csv(small_run / "verify" / "areas.csv").set_index(["area", "variable"])["total"]
    assert snap > 0
    assert float(snap) == pytest.approx(float(row["from_files"]), rel=1e-6)
    assert float(snap) == pytest.approx(totals["WY-01", "snap"], rel=1e-6)
    assert totals["WY", "snap"] == pytest.approx(totals["WY-01", "snap"], rel=1e-12)


def test_the_mapping_names_the_donor_of_every_household(small_run, small):
    mapping = pd.read_csv(small_run / "areas" / "mappings" / "NH-01.csv")
    data = Microdata.read(small_run / "areas" / "districts" / "NH-01.h5")
    np.testing.assert_array_equal(mapping["new_household_id"], data.ids["household"])
    place = {household: i for i, household in enumerate(small.ids["household"].tolist())}
    donor = [place[household] for household in mapping["original_household_id"]]
    persons = np.bincount(small.links["household"])[donor]
    np.testing.assert_array_equal(np.bincount(data.links["household"]), persons)
    columns = pd.read_parquet(small_run / "columns.parquet").set_index("column")
    np.testing.assert_array_equal(
        columns.loc[mapping["new_household_id"], "household_id"], mapping["original_household_id"]
    )


def test_one_worker_and_other_slices_give_the_same_digests(small_run, config, tmp_path):
    other = replace(config, simulation=replace(config.simulation, slice_households=40))
    again = Run(other, tmp_path / "one", ClusterConfig(workers=1)).execute()
    first = facts(small_run)
    blocks = {p.name for p in (small_run / "matrix.zarr" / "blocks").iterdir()}
    assert not blocks & {p.name for p in (tmp_path / "one" / "matrix.zarr" / "blocks").iterdir()}
    for name in ("plan", "matrix", "weights"):
        assert again[name] == first[name]
    for file, entry in first["files"].items():
        if file.startswith(("areas/", "fit/weights")):
            assert again["files"][file]["sha256"] == entry["sha256"], file


def test_the_same_command_again_does_no_work(copy, small_settings):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    result = CliRunner().invoke(main, ["run", str(small_settings), "--output", str(copy)])
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    assert "start workers" not in result.output.split("nothing to do")[0]
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"events.ndjson", ".lock"}
    report = copy / "report.html"
    assert f"{report}: the report" in result.output.replace("\n", "")
    written = report.stat().st_mtime_ns
    assert CliRunner().invoke(main, ["run", str(small_settings), "--output", str(copy)]).exit_code == 0
    assert report.stat().st_mtime_ns == written
    assert damaged(copy, facts(copy)) == []


def test_a_report_of_a_run_that_goes_on_does_not_stay_when_it_is_done(
    copy, small_settings, tmp_path, monkeypatch
):
    (copy / "manifest.json").unlink()
    made: list[str] = []
    judge = run_module.judge

    def looked_at(*given):
        made.append(write_report(copy).read_text())
        return judge(*given)

    monkeypatch.setattr(run_module, "judge", looked_at)
    (tmp_path / "serial.yaml").write_text("kind: serial\n")
    command = ["run", str(small_settings), "--output", str(copy), "--cluster", str(tmp_path / "serial.yaml")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "not finished: it is still running" in made[0]
    assert "finished: every file is written and proven" in (copy / "report.html").read_text()


def test_only_what_is_damaged_is_done_again(copy, config):
    lost = copy / "areas" / "districts" / "WY-01.h5"
    before = lost.read_bytes()
    weights = (copy / "fit" / "weights.npy").stat().st_mtime_ns
    lost.write_bytes(before[:-10])
    events = events_of(Run(config, copy, ClusterConfig(kind="serial")))
    assert lost.read_bytes() == before
    done = [e["stage"] for e in events if e["event"] == "task"]
    assert done == ["areas"]
    assert (copy / "fit" / "weights.npy").stat().st_mtime_ns == weights


def test_other_code_of_the_judgement_judges_again_and_does_nothing_else(copy, config):
    plan = json.loads((copy / "plan.json").read_text())
    old = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(old.replace(plan["digest"], "0" * 64))
    assert ROOMS["judge"][:4] == ("runs/checks", "runs/gates", "runs/verdict", "runs/zero_gate")
    plan["code"]["judge"] = plan["digest"] = "0" * 64
    (copy / "plan.json").write_text(json.dumps(plan))
    (copy / "verify/gates.csv").write_text("old")
    events = events_of(Run(config, copy, ClusterConfig(kind="serial"), accept_code=True))
    assert not [e for e in events if e["event"] == "task"]
    assert "judge" in [e["stage"] for e in events if e["event"] == "stage"]
    assert facts(copy)["files"] == json.loads(old)["files"]


def test_a_killed_assembly_goes_on_from_its_blocks(copy, config):
    matrix = facts(copy)["matrix"]
    shutil.rmtree(copy / "matrix.zarr" / "X")
    (copy / "manifest.json").unlink()
    (copy / "fit" / ".123.tmp.weights.npy").write_bytes(b"half")
    events = events_of(Run(config, copy, ClusterConfig(kind="serial")))
    assert [e for e in events if e["event"] == "task"] == []
    assert facts(copy)["matrix"] == matrix
    assert not (copy / "fit" / ".123.tmp.weights.npy").exists()


def test_a_block_that_lies_is_found_and_made_again(copy, config):
    first = facts(copy)["matrix"]
    block = next((copy / "matrix.zarr" / "blocks").iterdir())
    wrong = read_block(block)
    wrong.data[0] += 1
    write_block(block, wrong)
    events = events_of(Run(config, copy, ClusterConfig(kind="serial")))
    assert [e["stage"] for e in events if e["event"] == "task"] == ["simulate"]
    assert facts(copy)["matrix"] == first


def test_a_damaged_table_or_chunk_is_mended(copy, config):
    first = facts(copy)
    (copy / "targets.parquet").write_bytes(b"PAR1 no more")
    chunk = next((copy / "matrix.zarr" / "blocks").glob("*/data/c/0"))
    chunk.write_bytes(chunk.read_bytes()[:-5])
    events = events_of(Run(config, copy, ClusterConfig(kind="serial")))
    assert [e["stage"] for e in events if e["event"] == "task"] == ["simulate"]
    again = facts(copy)
    assert (again["matrix"], again["weights"]) == (first["matrix"], first["weights"])
    assert again["files"]["targets.parquet"] == first["files"]["targets.parquet"]


def test_files_that_break_the_promise_fail_the_run(copy, config, monkeypatch):
    """A state file whose weights moved: the run must fail and name a target, not publish a manifest."""
    from distcalib.runs import run as module

    path = copy / "areas" / "states" / "WY.h5"
    monkeypatch.setattr(module, "write_areas", _tampering(path, module.write_areas))
    for stage in ("areas", "verify"):
        shutil.rmtree(copy / "receipts" / stage)
    (copy / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"areas/states/WY\.h5 changed since it was written"):
        Run(config, copy, ClusterConfig(kind="serial")).execute()
    assert not (copy / "manifest.json").exists()
    text = page(RunTables.read(copy))
    assert "failed in verify files" in text
    assert "areas/states/WY.h5 changed since it was written" in text
    # The fit stands; nothing of the proof before is told of these files.
    assert "fitted targets within their tolerance" in text
    assert "verify/checks.csv): not done" in text


def _tampering(path: Path, write_areas):
    def tamper_afterwards(task):
        result = write_areas(task)
        if any(a.name == "WY" for a in task.areas):
            with h5py.File(path, "r+") as h5:
                h5["household_weight/2024"][0] *= 1.5
        return result

    return tamper_afterwards


def test_a_file_that_changes_after_its_proof_gets_no_manifest(copy, config, monkeypatch):
    from distcalib.runs import run as module

    mapping, judge = copy / "areas" / "mappings" / "WY-01.csv", module.judge
    whole = mapping.read_bytes()
    (copy / "manifest.json").unlink()

    def changed_afterwards(*given):
        found = judge(*given)
        mapping.write_bytes(b"N" + whole[1:])
        return found

    run = Run(config, copy, ClusterConfig(kind="serial"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "judge", changed_afterwards)
        with pytest.raises(RunError, match=r"1 files changed .* \(areas/mappings/WY-01\.csv\); run again"):
            run.execute()
    assert not (copy / "manifest.json").exists()
    # It failed in no stage, and says so all the same.
    said = [e["event"] for e in read_events(copy) if e["event"] != "alive"]
    assert said[-2:] == ["stage_done", "failed"]
    text = page(RunTables.read(copy))
    assert "1 files changed or are gone since they were written (areas/mappings/WY-01.csv)" in text
    run.execute()
    assert mapping.read_bytes() == whole
    assert facts(copy)["files"]["areas/mappings/WY-01.csv"]["bytes"] == len(whole)


def test_two_coordinators_in_one_folder_are_refused(copy, config):
    import fcntl

    (copy / "manifest.json").unlink()
    with open(copy / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            Run(config, copy, ClusterConfig(kind="serial")).execute()


def test_the_accuracy_table_agrees_with_the_fit(small_run):
    table = accuracy(small_run)
    fitted = table[table["status"] == "fit"]
    summary = json.loads((small_run / "fit" / "summary.json").read_text())
    assert fitted["targets"].sum() == summary["targets"]
    share = (fitted["within_5"] * fitted["targets"]).sum() / fitted["targets"].sum()
    assert share == pytest.approx(summary["fitted"]["within_5"], abs=0.02)


def test_the_receipts_tell_what_each_task_cost(small_run):
    receipts = [json.loads(p.read_text()) for p in (small_run / "receipts" / "simulate").iterdir()]
    assert sum(r["facts"]["columns"] for r in receipts) == 300
    assert all(0 < r["seconds"] < 120 and 5e8 < r["peak_bytes"] < 4.3e9 for r in receipts)
    assert {r["facts"]["state_fips"] for r in receipts} == {33, 56}


def test_a_further_fit_of_the_same_matrix_has_its_own_weights_and_tables(small_run):
    weights = np.load(small_run / "fits/few/weights.npy")
    summary = json.loads((small_run / "fits/few/summary.json").read_text())
    assert np.count_nonzero(weights) == summary["records_kept"] == 60
    assert np.count_nonzero(np.load(small_run / "fit/weights.npy")) > 60
    assert facts(small_run)["fits"]["few"] == summary
    assert not (small_run / "fits/few/consistency.csv").exists()  # it is of the matrix, and said once


@pytest.mark.parametrize("folder", ["fit", "fits/few"])
def test_the_log_says_the_way_of_every_fitted_target(small_run, folder: str):
    log = pd.read_csv(small_run / folder / "log.csv")
    assert list(log) == [
        "epoch", "loss", "target_name", "target", "estimate", "error", "abs_error", "rel_abs_error",
    ]  # fmt: skip
    diagnostics = pd.read_csv(small_run / folder / "diagnostics.csv")
    fitted = diagnostics[diagnostics["status"] == "fit"].reset_index(drop=True)
    last = log[log["epoch"] == log["epoch"].max()].reset_index(drop=True)
    assert last["target_name"].tolist() == fitted["name"].tolist()
    np.testing.assert_allclose(last["estimate"], fitted["estimate"], rtol=1e-9, atol=1e-6)
    assert len(pd.unique(log["epoch"])) > 2


def test_the_fit_says_how_far_it_is(small_run):
    words = [e for e in read_events(small_run) if e["event"] == "progress"]
    assert {e["stage"] for e in words} == {"fit"}
    epochs = [e["said"] for e in words if "epoch" in e["said"]]
    assert epochs
    for event in epochs:
        assert 0 <= event["epoch"] <= (event["of"] or event["epoch"]), event
        assert event["loss"] > 0, event
        assert event["active"] > 0, event


def test_what_carries_each_area_is_told(small_run):
    carried = pd.read_csv(small_run / "fit/areas.csv")
    columns, weights = pd.read_parquet(small_run / "columns.parquet"), np.load(small_run / "fit/weights.npy")
    one = carried[(carried["geo_level"] == "district") & (carried["area"] == 5601)].iloc[0]
    here = weights[(columns["cd_geoid"] == 5601).to_numpy()]
    assert one["columns"] == len(here)
    assert one["records"] == np.count_nonzero(here)
    assert one["effective_sample_size"] == pytest.approx(here.sum() ** 2 / (here**2).sum())
    nation = carried[carried["geo_level"] == "national"].iloc[0]
    assert nation["weight"] == pytest.approx(weights.sum())
    assert nation["donors"] == columns.loc[weights > 0, "household_id"].nunique()


def test_a_frontier_goes_when_the_run_is_fitted_again_and_not_before(copy, config):
    """Also where nobody forced it: other code, or a fit whose files were damaged."""
    frontier = copy / "fit/frontier.csv"
    frontier.write_text("records\n3\n")
    Run(config, copy, ClusterConfig(kind="serial")).execute(until="fit")
    assert frontier.is_file()
    (copy / "fit" / "groups.csv").unlink()
    Run(config, copy, ClusterConfig(kind="serial")).execute(until="fit")
    assert (copy / "fit" / "groups.csv").is_file()
    assert not frontier.exists()


def test_a_forced_fit_takes_new_settings_in_an_old_folder_and_simulates_nothing(copy, config):
    """The same weights as a run of its own would have; what stood on the old ones is replaced."""
    first = facts(copy)
    assert "fits/few/weights.npy" in first["files"]
    other = replace(config, fit=replace(config.fit, ridge=0.3), fits={})
    events = events_of(Run(other, copy, ClusterConfig(kind="serial"), force="fit"))
    assert {e["stage"] for e in events if e["event"] == "task"} == {"fit", "areas", "verify files", "verify"}
    again = facts(copy)
    assert again["matrix"] == first["matrix"]
    assert again["weights"] != first["weights"]
    assert (
        again["plan"]
        == make_plan(other).plan.digest()
        == json.loads((copy / "plan.json").read_text())["digest"]
    )
    assert len(list((copy / "receipts" / "fit").iterdir())) == 1
    assert not [path for path in again["files"] if path.startswith("fits/") or "few" in path]
    assert not (copy / "fits/few/weights.npy").exists()
    nothing = events_of(Run(other, copy, ClusterConfig(kind="serial")))
    assert [e["event"] for e in nothing][-1] == "nothing_to_do"
