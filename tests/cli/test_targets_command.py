"""``distcalib targets``: what is fitted, checked or excluded, and why, without any simulation."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from made_tables import write_made_run

from distcalib.cli import main
from distcalib.runs.target_list import choose, list_targets


def said(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["targets", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def bundled_targets() -> pd.DataFrame:
    return list_targets("bundled")


@pytest.fixture(scope="module")
def folder(bundled_targets, tmp_path_factory):
    """A folder that was planned, as far as its targets go."""
    home = tmp_path_factory.mktemp("run")
    plan = {"slices": []} | {part: {} for part in ("code", "inputs", "versions", "engines")}
    (home / "plan.json").write_text(json.dumps({**plan, "digest": "ab", "run": {"name": "x"}}))
    used = bundled_targets["status"] != "excluded"
    bundled_targets[used].to_parquet(home / "targets.parquet")
    bundled_targets[~used].to_parquet(home / "excluded.parquet")
    return home


def test_a_folder_and_a_database_are_counted_alike(folder, bundled_targets):
    expected = bundled_targets.groupby(["status", "geo_level"]).size()
    for source in (folder, "bundled"):
        lines = [
            line.split() for line in said("count", source, "--by", "status,geo_level").splitlines()[1:-1]
        ]
        assert {(a, b): int(n) for a, b, n in lines} == expected.to_dict()


def test_filters_are_met_together_and_areas_have_any_spelling(bundled_targets):
    some = choose(bundled_targets, variable=["snap"], area=["CA", "us", "0612"], status=["fit", "check"])
    assert set(some["geographic_id"]) <= {"US", "6", "612"}
    assert set(some["variable"]) == {"snap"}
    assert len(some) == 2
    reasons = choose(bundled_targets, words="tax expenditure")["reason"]
    assert len(reasons)
    assert reasons.str.contains("tax expenditure").all()


def test_a_list_is_written_whole_and_replaces_nothing(folder, tmp_path):
    out = tmp_path / "excluded.csv"
    assert "the first 2 are shown" in said(
        "list", folder, "--status", "excluded", "--most", 2, "--output", out
    )
    table = pd.read_csv(out)
    assert set(table["status"]) == {"excluded"}
    assert table["reason"].notna().all()
    assert "exists" in said("list", folder, "--output", out, code=2)


def test_one_target_is_explained(folder):
    text = said("explain", folder, "state_6/snap")
    assert "geographic_id          6" in text
    assert "status                 fit" in text
    assert "did you mean 'state_6/snap'" in said("explain", folder, "state_6/snapp", code=2)


def test_a_target_of_a_run_is_explained_with_what_the_fit_made_of_it(tmp_path):
    run = write_made_run(tmp_path / "run", [3301, 3302, 5601])
    fitted = pd.read_csv(run / "fit/diagnostics.csv", keep_default_na=False)
    missed = fitted[fitted["cause"] == "support"].iloc[0]
    text = said("explain", run, missed["name"])
    told = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert float(told["estimate"]) == missed["estimate"]
    assert float(told["rel_error"]) == missed["rel_error"]
    assert (told["donors"], told["within_tolerance"]) == (str(missed["donors"]), "False")
    assert "meet all targets of its area at once" in told["cause"]
    met = fitted[(fitted["status"] == "fit") & (fitted["cause"] == "")].iloc[0]
    text = said("explain", run, met["name"])
    assert "estimate" in text
    assert "cause" not in text
    planned = write_made_run(tmp_path / "planned", [3301, 3302, 5601], failed=("fit", "no memory"))
    assert "estimate" not in said("explain", planned, missed["name"])


def test_settings_decide_what_is_used(tmp_path):
    rules = tmp_path / "target_config.yaml"
    rules.write_text("include: [{variable: snap, geo_level: state}]\n")
    text = said("count", "bundled", "--set", f"targets.rules={rules}", "--status", "fit")
    assert "51" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "bundled", "--variable", "snapp"], "did you mean 'snap'"),
        (["list", "bundled", "--area", "CA-99"], "no such district"),
        (["count", "bundled", "--by", "stat"], "'status'"),
        (["list", "no_such.db"], "no such target database"),
        (["list", "."], "plan.json"),
    ],
)
def test_what_is_wrong_is_named(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in said(*words, code=2)


def test_a_folder_cannot_be_asked_for_other_settings(folder):
    assert "what a run has done" in said("list", folder, "--set", "seed=1", code=2)
