"""``distcalib config``: what settings are, where each comes from, and what is wrong with them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from distcalib import RunConfig
from distcalib.cli import main
from distcalib.config import presets


def said(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["config", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "name: mine\nmicrodata: data/mine.h5\nfit: {records: 40, ridge: 0.5}\nfits: {few: {records: 9}}\n"
    )
    return path


def test_each_value_says_where_it_comes_from(mine):
    found = json.loads(said("show", mine, "--set", "fit.ridge=0.25", "--json"))
    by_name = {one["name"]: one for one in found}
    assert (by_name["fit.records"]["value"], by_name["fit.records"]["origin"]) == (40, str(mine))
    assert (by_name["fit.ridge"]["value"], by_name["fit.ridge"]["origin"]) == (0.25, "--set")
    assert (by_name["seed"]["value"], by_name["seed"]["origin"]) == (0, "default")
    assert by_name["microdata"]["value"] == str(mine.parent / "data/mine.h5")
    # A further fit has what it does not say from `fit`, also what the command line says of that.
    assert by_name["fits"]["value"] == {"few": {"records": 9}}
    assert RunConfig.load(mine, {"fit.ridge": 0.25}).fits["few"].ridge == 0.25
    assert all(one["doc"] for one in found)


@pytest.mark.parametrize("name", sorted(presets()))
def test_what_is_printed_is_a_file_of_the_same_settings(name, tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(said("show", name, "--docs"))
    assert RunConfig.load(path) == RunConfig.load(name)


def test_only_what_differs_is_printed_when_asked(mine):
    lines = said("show", mine, "--changed").splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "name", "microdata", "fit", "records", "ridge", "fits",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "fit.record=3"], "did you mean 'records'"),
        (["--set", "fit.records=0"], "at least 1"),
        (["--set", "fit"], "KEY=VALUE"),
        (["--set", "seed=1", "--set", "seed=2"], "each key once"),
        (["--set", "seed=1", "--set", "seed.x=2"], "each setting once"),
        (["--set", "seed=0601"], "octal"),
    ],
)
def test_a_wrong_change_is_refused_and_named(mine, words, told):
    output = said("check", mine, *words, code=2)
    assert told in output
    assert "--set" in output


def test_a_file_is_checked_with_a_cluster_file(mine, tmp_path):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: lokal\n")
    assert "3 of" not in said("check", mine)
    assert "did you mean 'local'" in said("check", mine, "--cluster", cluster, code=2)
    mine.write_text("n_clone: 3\n")
    assert "did you mean 'n_clones'" in said("check", mine, code=2)


@pytest.mark.parametrize("preset", ["demo", "tiny", "cluster"])
def test_a_file_to_start_from_is_valid_and_replaces_nothing(preset, tmp_path):
    path = tmp_path / "new.yaml"
    assert "written from the preset" in said("new", path, "--preset", preset)
    before = path.read_text()
    if preset == "cluster":
        assert "valid" in said("check", "demo", "--cluster", path)
    else:
        assert RunConfig.load(path) == RunConfig.load(preset)
    assert "exists" in said("new", path, code=2)
    assert path.read_text() == before
    assert "did you mean 'demo'" in said("new", tmp_path / "x.yaml", "--preset", "demp", code=2)
    assert not (tmp_path / "x.yaml").exists()


def test_presets_are_listed_with_what_they_are():
    assert [line.split()[0] for line in said("presets").splitlines()] == sorted(presets())


def test_paths_of_the_command_line_are_relative_to_the_current_folder(mine):
    found = RunConfig.load(mine, {"targets.database": "policy.db", "microdata": "here.h5"})
    assert (found.targets.database, found.microdata) == ("policy.db", "here.h5")
    assert RunConfig.load(None, {"microdata": "bundled"}) == RunConfig()
