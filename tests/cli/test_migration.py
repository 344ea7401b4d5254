"""Files of PolicyEngine's own pipeline in place of a settings file."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

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
