"""The commands of README and of the pages on them: carried out on a small run, or held by a named test."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from command_lines import command_lines

from distcalib.cli import main
from distcalib.publication.finished import finished_run
from distcalib.runs.manifest import read_manifest, write_manifest
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{name}.md" for name in (
    "cli", "clusters", "comparing", "dashboard", "data_check", "data_microdata", "data_targets", "migration",
    "publishing", "report",
))]  # fmt: skip
# Parts of lines that need another machine, a store, a browser, a network or minutes, and the test that does
# the same; the first part that is in a line counts.
ELSEWHERE = {
    " s3://bucket/prefix": "test_a_url_finds_the_server_and_credentials_in_the_environment",
    " s3://calibrated/us": "test_a_url_finds_the_server_and_credentials_in_the_environment",
    "s3://bucket/runs": "test_a_run_in_a_store_ends_where_one_in_a_folder_does",
    "doctor": "test_a_local_cluster_and_a_plan_of_the_package_pass",
    "--cluster": "test_a_run_by_tls_equals_one_in_this_process_and_keeps_no_secret",
    "dashboard": "test_two_runs_stand_beside_each_other",
    "run tiny": "test_the_tutorial_is_carried_out_and_prints_what_it_says",
    "--until simulate": "test_a_run_interrupted_from_the_keyboard_exits_130_and_goes_on",
    "--until assemble": "test_a_slice_short_of_memory_is_done_in_halves_in_a_store_too",
    "--force fit": "test_a_forced_fit_takes_new_settings_in_an_old_folder_and_simulates_nothing",
    "verify": "test_a_run_is_proven_again_and_nothing_else_is_done_again",
    "run --dataset": "test_their_files_run_to_the_end_and_their_package_is_compared",
    "calibration_package.pkl": "test_their_files_run_to_the_end_and_their_package_is_compared",
    "--geography": "test_files_hold_the_columns_that_have_weight_in_the_area",
    "take-up": "test_another_datasets_rates_are_a_table_that_a_run_takes",
    "data check": "test_the_command_writes_both_files_and_compares_with_an_earlier_check",
    "cps_2024.h5": "test_rebuilding_gives_the_bundled_bytes",
    "cps_all.h5": "test_totals_are_within_one_percent_of_the_full_file",
    "before.h5": "test_without_raking_the_table_says_that_nothing_moved",
    "--download": "test_a_download_that_fails_is_said_and_nothing_is_written",
}  # fmt: skip
# What the small run has, in place of what the pages say.
INSTEAD = {
    "run ...": "run my.yaml --output runs/mine",
    "MN,CA-12": "WY,NH-01",
    "fit.records=5000 --set seed=2": "fit.records=100 --set seed=2 --dry-run --output runs/new",
    "config new my.yaml": "config new begun.yaml",
    "cps --without rent": "cps --households 4000 --without rent",
    "data targets --database policy_data.db": "data targets --database new.db",
    "NC-01,NC-02": "NH-01,NH-02",
    "NC-01": "NH-01",
    "runs/demo /data/public --stage-only": "runs/next /data/public --stage-only",
    "/data/public": "public",
    "[--database FILE_OR_URL] [--output findings.csv]": "--database policy_data.db --output findings.csv",
    "[--output FILE] [--geojson FILE] [--force]": "--output page.html --geojson outlines.json --force",
    "RUN_A RUN_B --output FOLDER": "runs/a runs/b --output compared",
    "FOLDER": "runs/demo",
    "RUN": "runs/demo",
}


def lines_of(page: str) -> list[str]:
    """Return the command lines of a page that are calls, in order, once each, without comments."""
    lines = command_lines((ROOT / page).read_text(encoding="utf-8"))
    plain = [" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines]
    return [line for line in dict.fromkeys(plain) if not is_name(line)]


def is_name(line: str) -> bool:
    """Say whether a line is the name of a command or group and no call."""
    command: click.Command = main
    for word in line.split()[1:]:
        if not isinstance(command, click.Group) or word not in command.commands:
            return False
        command = command.commands[word]
    return True


def held_by(line: str) -> str | None:
    """Return the test that holds a line which is not carried out here."""
    return next((test for part, test in ELSEWHERE.items() if part in line), None)


def test_what_is_not_carried_out_is_held_by_a_test_that_is_there():
    lines = [line for page in PAGES for line in lines_of(page)]
    tests = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
    assert set(map(held_by, lines)) - {None} == set(ELSEWHERE.values())
    for part, test in ELSEWHERE.items():
        assert any(part in line for line in lines), part
        assert any(f"\ndef {test}(" in code for code in tests), test
    for theirs in INSTEAD:
        assert any(theirs in line for line in lines), theirs


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "policy_data.db"
    write_database_file(bundled_targets(), path)
    return path


@pytest.fixture
def workplace(small_run, small_settings, small_file, database, tmp_path, monkeypatch) -> Path:
    """A folder with all that the lines name: runs, settings, microdata, database, weights, outlines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    for name in ("demo", "mine", "small", "a", "b", "next"):
        shutil.copytree(small_run, f"runs/{name}")
    # A run carried out again: the same files, another time, so another version.
    again = read_manifest(Path("runs/next")) or {}
    facts = {key: again[key] for key in again if key not in ("inputs", "totals", "files")}
    write_manifest(Path("runs/next"), {**facts, "seconds": 1})
    shutil.copyfile(small_settings, "my.yaml")
    shutil.copyfile(small_file, "their.h5")
    shutil.copyfile(database, "policy_data.db")
    Path("target_config.yaml").write_text("include: [{variable: snap, geo_level: state}]")
    np.save("w.npy", np.ones(600))
    outline = {
        "type": "Polygon",
        "coordinates": [[[-111, 41], [-104, 41], [-104, 45], [-111, 45], [-111, 41]]],
    }
    feature = {"type": "Feature", "properties": {"district": "WY-01"}, "geometry": outline}
    Path("outlines.json").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not held_by(line) for line in lines_of(page))]
)
def test_the_commands_of_a_page_are_carried_out(workplace, page):
    instead = {**INSTEAD, "demo-cfa36fa7-1b2c3d4e-5f607182": finished_run("runs/next").version}
    for said in lines_of(page):
        if held_by(said):
            continue
        line = said
        for theirs, ours in instead.items():
            line = line.replace(theirs, ours)
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        print(f"$ {line}\n{done.output}")
        assert done.exit_code == 0, f"{page}: {said}\n{line}\n{done.output}\n{done.exception!r}"
