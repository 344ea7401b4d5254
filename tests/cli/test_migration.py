"""Files of PolicyEngine's own pipeline in place of a settings file."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import peer_files
import pytest
from click.testing import CliRunner
from peer_files import write_database, write_dataset, write_package

from distcalib import CalibrationMatrix, Microdata
from distcalib.cli import main
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets

RULES = """
include:
  # === DISTRICT ===
  - variable: person_count
    geo_level: district
    domain_variable: age
  - variable: snap
    geo_level: state
  - variable: refundable_ctc
    geo_level: district
exclude:
  - variable: snap
    geo_level: district
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Return a folder with policy_data.db, without a register as theirs is, and target_config.yaml."""
    home = tmp_path_factory.mktemp("theirs")
    table = bundled_targets()
    some = table[table["variable"].isin(["person_count", "snap"])]
    write_database_file(some, home / "policy_data.db")
    with sqlite3.connect(home / "policy_data.db") as db:
        for name in ("target_overview", "stratum_domain"):
            db.execute(f"DROP VIEW IF EXISTS {name}")
        db.execute("DROP TABLE target_register")
    db.close()
    (home / "target_config.yaml").write_text(RULES)
    return home


def command(theirs: Path, small_file: Path, *more: str) -> list[str]:
    words = ["run", "--dataset", str(small_file), "--targets", str(theirs / "policy_data.db")]
    return [*words, "--target-config", str(theirs / "target_config.yaml"), *more]


def test_three_files_are_enough_for_a_plan_and_a_dry_run_writes_nothing(
    theirs, small_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, command(theirs, small_file, "--dry-run", "--log-format", "json"))
    assert done.exit_code == 0, done.output
    plan = next(e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == "plan")
    facts = plan["facts"]
    # 436 districts in 18 bands of age, and SNAP of 51 states.
    assert (facts["targets_fit"], facts["targets_check"]) == (436 * 18 + 51, 0)
    assert (facts["households"], facts["columns"]) == (300, 900)
    warned = "\n".join(plan["warnings"])
    assert "2 of 4 rules of targets.rules match no target" in warned
    assert "variable: refundable_ctc, geo_level: district" in warned
    assert "no target_register" in warned
    assert list(tmp_path.iterdir()) == []


def test_a_settings_file_still_refuses_a_rule_that_matches_nothing(theirs, small_file, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"microdata: {small_file}\n"
        f"targets: {{database: {theirs / 'policy_data.db'}, rules: {theirs / 'target_config.yaml'}}}\n"
    )
    done = CliRunner().invoke(main, ["plan", str(mine)])
    assert done.exit_code == 2
    assert "include, rule 3" in done.output


def test_a_run_needs_to_be_told_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["run"])
    assert done.exit_code == 2
    assert "--dataset FILE" in done.output
    missing = CliRunner().invoke(main, ["run", "--dataset", "no_such.h5", "--dry-run"])
    assert missing.exit_code == 2
    assert "no_such.h5" in missing.output
    assert list(tmp_path.iterdir()) == []


DISTRICTS = "geography.districts=[WY-01, NH-01, NH-02]"


@pytest.fixture(scope="module")
def peers(small, tmp_path_factory) -> Path:
    """A folder of files with the structure that the peer's own code gives them, of 80 households."""
    home = tmp_path_factory.mktemp("peers")
    chosen = np.arange(0, small.count(), 3)[:80]
    ids = {entity: small.ids[entity][small.rows_of(entity, chosen)[0]] for entity in small.ids}
    write_dataset(small.take(chosen, ids), home / "source_imputed_stratified_extended_cps_2024.h5")
    write_database(home / "policy_data.db", ["WY", "NH"])
    (home / "target_config.yaml").write_text(peer_files.RULES)
    return home


def of_peers(home: Path, *more: str) -> list[str]:
    words = ["run", "--dataset", str(home / "source_imputed_stratified_extended_cps_2024.h5")]
    words += ["--targets", str(home / "policy_data.db"), "--target-config", str(home / "target_config.yaml")]
    return [*words, "--set", DISTRICTS, "--set", "n_clones=2", *more]


def test_the_plan_says_what_differs_in_their_files(peers):
    done = CliRunner().invoke(main, of_peers(peers, "--dry-run", "--log-format", "json"))
    assert done.exit_code == 0, done.output
    plan = next(e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == "plan")
    # Ages and SNAP households of three districts; of two states SNAP dollars and households, and Medicaid.
    assert plan["facts"]["targets_fit"] == 3 * (18 + 1) + 2 * 3
    warned = "\n".join(plan["warnings"])
    assert "40 of 80 households have weight 0" in warned
    assert "1 of 8 rules of targets.rules match no target" in warned
    assert "ignores 1 columns of the microdata: is_puf_clone_of_theirs" in warned


@pytest.mark.slow
def test_their_files_run_to_the_end_and_their_package_is_compared(peers, tmp_path):
    folder = tmp_path / "run"
    more = ["--set", "design_weights=equal", "--set", "fit={epochs: 20, refit_epochs: 200}", "--workers", "2"]
    done = CliRunner().invoke(main, of_peers(peers, *more, "--output", str(folder)))
    assert done.exit_code == 0, done.output
    assert "verified" in done.output
    matrix, weights = CalibrationMatrix.load(folder), np.load(folder / "fit" / "weights.npy")
    # Records of tax files, which weigh nothing in theirs, take part.
    assert (weights[matrix.columns["record"] % 2 == 1] > 0).any()
    assert pd.read_csv(folder / "verify" / "targets.csv")["ok"].all()
    # The county, district and take-up flags of their file do not count: the placement's do.
    placed = Microdata.read(folder / "areas" / "districts" / "WY-01.h5")
    assert set(placed.column("county_fips").astype(int) // 1000) == {56}

    package = tmp_path / "calibration_package.pkl"
    theirs = write_package(matrix, peers, package)
    words = [
        "compare",
        str(folder),
        str(package),
        "--weights",
        str(package.with_name("calibration_weights.npy")),
    ]
    done = CliRunner().invoke(main, [*words, "--output", str(tmp_path / "difference")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "difference" / "targets.csv").set_index("name")
    assert (table["in"] == "both").all()
    expected = pd.Series(matrix.estimate(theirs), index=matrix.targets["name"])
    np.testing.assert_allclose(table["estimate_package"], expected[table.index], rtol=1e-6)
