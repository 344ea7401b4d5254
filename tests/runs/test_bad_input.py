"""Bad input at the command line: exit code 2, an error that names the place, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from distcalib import RunConfig
from distcalib.cli import main
from distcalib.runs import make_plan
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets


def run(settings: str, folder: Path, *more: str):
    return CliRunner().invoke(main, ["run", settings, "--output", str(folder), *more])


def refused(result, folder: Path, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.output, f"{word!r} is not in: {result.output}"
    assert "Traceback" not in result.output
    assert not folder.exists()


def with_microdata(settings: Path, small_file: Path, damage) -> str:
    copy = settings.with_name("bad.h5")
    shutil.copy(small_file, copy)
    damage(copy)
    settings.write_text(settings.read_text().replace(str(small_file), str(copy)))
    return str(settings)


def replace_values(name: str, function):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as h5:
            values = function(np.asarray(h5[name]).copy())
            del h5[name]
            h5[name] = values

    return damage


def first(value):
    def function(array):
        array = array.astype(np.result_type(array, np.min_scalar_type(value)))
        array[0] = value
        return array

    return function


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def drop(name: str):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as h5:
            del h5[name]

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, ["bad.h5", "no such microdata file"]),
        (truncate, ["bad.h5", "truncated"]),
        (drop("person_tax_unit_id"), ["bad.h5", "person_tax_unit_id"]),
        (replace_values("age/2024", first(np.nan)), ["bad.h5: age/2024", "NaN"]),
        (replace_values("household_weight/2024", first(-1.0)), ["household_weight", "negative"]),
        (replace_values("household_id/2024", lambda a: a * 0), ["household_id", "more than once"]),
        (replace_values("person_household_id/2024", first(99)), ["persons without a household", "99"]),
    ],
)
def test_microdata(settings, small_file, tmp_path, damage, words):
    refused(run(with_microdata(settings, small_file, damage), tmp_path / "out"), tmp_path / "out", *words)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE targets SET variable = 'snapp' WHERE variable = 'snap'", ["unknown variable", "'snap'"]),
        (
            "UPDATE stratum_constraints SET operation = '<>' WHERE operation = '>'",
            ["unknown operator", "'<>'"],
        ),
        ("UPDATE targets SET value = NULL WHERE variable = 'snap'", ["have no value"]),
        ("UPDATE stratum_constraints SET value = '5607' WHERE value = '5601'", ["5607", "district"]),
    ],
)
def test_targets(settings, tmp_path, statement, words):
    table = bundled_targets()
    path = tmp_path / "policy_data.db"
    write_database_file(table[table["geographic_id"].isin(["56", "5601", "33", "3301", "3302"])], path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        # A user's database has no guard against what follows.
        for name in db.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(text(f"DROP TRIGGER {name}"))
        db.execute(text(statement))
    engine.dispose()
    settings.write_text(settings.read_text() + f"targets: {{database: {path}}}\n")
    refused(run(str(settings), tmp_path / "out"), tmp_path / "out", "policy_data.db", *words)


@pytest.mark.parametrize("district", ["WY-07", "ZZ-01", "9901"])
def test_districts(settings, tmp_path, district):
    settings.write_text(settings.read_text().replace("WY-01", district))
    refused(run(str(settings), tmp_path / "out"), tmp_path / "out", "geography.districts", district)


def test_an_unknown_county(settings, tmp_path, monkeypatch):
    from distcalib.geography import sources

    table = sources.county_shares()
    table.loc[table["cd_geoid"] == 5601, "county_fips"] += 900
    monkeypatch.setattr(sources, "county_shares", lambda: table)
    refused(run(str(settings), tmp_path / "out"), tmp_path / "out", "unknown county", "5690", "of WY")


def test_settings(settings, tmp_path):
    settings.write_text(settings.read_text().replace("n_clones", "n_clone"))
    refused(run(str(settings), tmp_path / "out"), tmp_path / "out", "run.yaml", "'n_clone'", "'n_clones'")


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a/b", "''"])
def test_a_name_that_leads_out_of_the_folder_of_runs(settings, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    settings.write_text(settings.read_text().replace("name: small", f"name: {name}"))
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["run", str(settings), "--dry-run"])
    refused(result, tmp_path / "runs", "run.yaml: name", "names no folder in runs/")
    assert sorted(tmp_path.iterdir()) == before


def test_cluster(settings, tmp_path):
    (tmp_path / "cluster.yaml").write_text("kind: serail\n")
    result = run(str(settings), tmp_path / "out", "--cluster", str(tmp_path / "cluster.yaml"))
    refused(result, tmp_path / "out", "cluster.yaml: kind", "'serail'", "'serial'")


def test_a_preset_that_does_not_exist(tmp_path):
    refused(run("demmo", tmp_path / "out"), tmp_path / "out", "'demmo'", "'demo'")


def test_plan_prints_and_writes_nothing(settings, tmp_path):
    result = CliRunner().invoke(main, ["plan", str(settings), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for word in ("300", "3 districts of 2 states", "simulate", "GiB a worker", "MB", "min"):
        assert word in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_plan(settings, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    plan = make_plan(RunConfig.load(settings)).plan
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    settings.write_text(settings.read_text().replace("seed: 3", "seed: 4"))
    result = run(str(settings), folder)
    assert result.exit_code == 2, result.output
    for word in ("belongs to another plan", "seed: 3 there, 4 now", str(folder)):
        assert word in result.output
    assert [p.name for p in folder.iterdir()] == ["plan.json"]


def test_no_disk_space(settings, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    refused(run(str(settings), tmp_path / "out"), tmp_path / "out", "not enough disk space", "0 MB free")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("s3://user:word@bucket/run", "holds credentials"),
        ("s3:/bucket/run", "expected a local folder, file:///folder or s3://bucket/prefix"),
        ("gs://b/r", "cannot compare and replace"),
        ("file://run", "expected file:///folder"),
    ],
)
def test_a_url_where_no_run_can_be_kept(tmp_path, monkeypatch, output, words):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", "demo", "--output", output])
    assert result.exit_code == 2
    assert "--output: " in result.output
    assert words in result.output
    assert list(tmp_path.iterdir()) == []
