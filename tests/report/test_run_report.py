"""The report of a run, on made tables: what it shows, what it lacks, and that data are only text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from made_tables import write_made_frontier, write_made_run
from whole_page import Page

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.report.run_report import page, write_report, write_report_once
from distcalib.report.run_sections import worst
from distcalib.report.run_tables import RunTables
from distcalib.runs.events import INTERRUPTED
from distcalib.runs.home import Home
from distcalib.runs.manifest import damaged, read_manifest, write_manifest
from distcalib.storage import sha256_file

GEOIDS = [201, 3301, 3302, 5001, 5601, 601]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("made") / "run", GEOIDS, name="six districts")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def read(folder: Path) -> str:
    return page(RunTables.read(folder))


def held(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_page_is_whole_and_leads_nowhere(made):
    text = read(made)
    found = Page(text)
    assert set(found.addresses) == {
        f"#{name}"
        for name in [
            "asked",
            "fit",
            "map",
            "worst",
            "weights",
            "checks",
            "time",
            "from",
            "warnings",
            "limits",
        ]
    }
    assert not {"link", "img", "iframe", "object", "embed"} & set(found.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert re.findall(r"https?://[^\"' ]*", text) == []
    for anchor in found.addresses:
        assert f'id="{anchor[1:]}"' in text
    assert text == read(made)


def test_what_it_shows(made):
    text = read(made)
    fitted = pd.read_csv(made / "fit/diagnostics.csv").query("status == 'fit'")
    assert f"{fitted['within_tolerance'].mean():.1%}" in text
    assert f"of {len(fitted):,} fitted targets within their tolerance" in text
    worst = fitted[~fitted["within_tolerance"]].sort_values("abs_rel_error").iloc[-1]
    assert f"{worst['rel_error']:+.2%}" in text
    for words in (
        "person count, age 45 to &lt;50",
        "sampling error of the source",
        "1065 targets are of other years",
        "zero: ssi of AK-01 is 0, expected 8 or more",
        "US Census Bureau, American Community Survey",
        "d" * 64,
        "process 4000",
        "core-hours",
        "March CPS",
    ):
        assert words in text, words
    # Six districts are not the nation.
    assert "effective donors, all areas together" in text
    assert "the nation<" not in text
    assert "What this report lacks" not in text


def test_each_ground_of_a_cause_is_told(made):
    text = read(made)
    for words in (
        "no weights within their limits give the figure",
        "fewer than 10 effective donors carry it",
        "no weights within their limits meet all targets of its area at once",
    ):
        assert words in text, words


def test_every_district_has_a_tile_with_its_name(made):
    titles = Page(read(made)).titles
    for geoid in GEOIDS:
        assert [t for t in titles if t.startswith(f"{District(geoid).name}: ")]


def test_the_map_can_show_fit_population_weights_and_any_target(made):
    data = held(read(made))
    assert data["names"] == ["AK-01", "CA-01", "NH-01", "NH-02", "VT-01", "WY-01"]
    labels = [one["label"] for one in data["variables"]]
    assert labels[0] == "Fitted targets within tolerance"
    for label in (
        "Population error",
        "Effective sample size by donor",
        "person count, age 0 to <5",
        "snap",
        "person in poverty",
        "household count by hud annual income, each area its own (not fitted)",
    ):
        assert label in labels, label
    for one in data["variables"]:
        assert len(one["classes"]) == len(one["at"]) == 6
        assert {letter for letter, _ in one["legend"]} >= set(one["classes"])
        assert max(one["at"]) < len(one["texts"])
    # A state's figure is that of each of its districts.
    state = next(one for one in data["variables"] if "shows its state" in one["about"])
    assert state["at"][2] == state["at"][3]


def test_figures_of_a_tile_are_those_of_the_tables(made):
    data = held(read(made))
    people = pd.read_csv(made / "verify/population.csv").set_index("district")
    shown = next(one for one in data["variables"] if one["label"] == "Population error")
    for i, name in enumerate(data["names"]):
        relative = people.loc[name, "relative"]
        assert shown["texts"][shown["at"][i]].startswith(f"{relative:+.2%}: ")
        letter = "ABCDEFGHI"[sum(relative >= b for b in (-0.2, -0.1, -0.05, -0.01, 0.01, 0.05, 0.1, 0.2))]
        assert shown["classes"][i] == letter


def test_what_comes_from_data_is_only_text(run):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    plan = json.loads((run / "plan.json").read_text())
    plan["run"]["name"] = bad
    plan["warnings"].append(bad)
    plan["facts"]["far"] = [{"measure": bad, "targets": 1, "reason": bad}]
    (run / "plan.json").write_text(json.dumps(plan))
    totals = pd.read_csv(run / "verify/areas.csv")
    totals.replace({"variable": {"snap": bad}}).to_csv(run / "verify/areas.csv", index=False)
    gates = pd.read_csv(run / "verify/gates.csv")
    gates.assign(cause=bad).to_csv(run / "verify/gates.csv", index=False)
    checks = pd.read_csv(run / "verify/checks.csv")
    checks.assign(note=bad, variable=bad, constraints=bad).to_csv(run / "verify/checks.csv", index=False)
    events = (run / "events.ndjson").read_text()
    (run / "events.ndjson").write_text(events.replace("areas/districts/AK-01.h5", bad))
    text = read(run)
    assert Page(text).tags.count("script") == 2
    assert "<img" not in text
    assert "&lt;img" in text
    assert bad in held(text)["variables"][-1]["label"] or bad in str(held(text))


def test_a_run_that_failed_before_the_fit_says_so(tmp_path):
    folder = write_made_run(tmp_path / "run", GEOIDS, failed=("fit", "CA <7>: no memory"))
    text = read(folder)
    assert "failed in fit" in text
    assert "CA &lt;7&gt;: no memory" in text
    assert "The run has no fit yet." in text
    assert "diagnostics.csv): not done" in text
    assert len([t for t in Page(text).titles if "nothing is known of it yet" in t]) == 6
    assert held(text)["variables"] == []
    file = write_report(folder)
    assert file == folder / "report.html"


def test_an_interrupted_run_did_not_fail(tmp_path):
    folder = write_made_run(tmp_path / "run", GEOIDS, failed=("fit", INTERRUPTED))
    text = read(folder)
    assert "interrupted in fit" in text
    assert "The same command goes on" in text
    assert "failed in" not in text


def test_a_plan_alone_and_a_run_that_goes_on_have_a_report(run):
    (run / "manifest.json").unlink()
    assert "not finished: it is still running" in read(run)
    for path in run.iterdir():
        if path.name != "plan.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = read(run)
    assert "planned, not begun" in text
    assert "columns.parquet is not there" in text


def test_tables_of_an_earlier_fit_or_proof_are_not_shown(run):
    with open(run / "fit/diagnostics.csv", "a") as file:
        file.write("\n")
    assert "diagnostics.csv): left by an earlier fit, and not shown" in read(run)
    # A new attempt that has come to the fit, over the tables of the proof before it.
    (run / "manifest.json").unlink()
    with open(run / "events.ndjson", "a") as file:
        for event in ({"event": "start"}, {"event": "stage", "stage": "fit"}):
            file.write(json.dumps({**event, "time": 1.8e9}) + "\n")
    text = read(run)
    assert "verify/population.csv): not done" in text
    assert "Population error" not in text


@pytest.mark.parametrize(
    ("name", "column"),
    [("verify/population.csv", "relative"), ("verify/checks.csv", "note"), ("verify/areas.csv", "total")],
)
def test_a_table_without_a_column_is_named(run, name, column):
    pd.read_csv(run / name).drop(columns=column).to_csv(run / name, index=False)
    with pytest.raises(InputError, match=f"{name}.*lacks a column.*'{column}'"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_the_manifest_stays_true(run):
    before = read_manifest(run)
    write_report(run)
    assert damaged(run, before) == []
    facts = {k: v for k, v in before.items() if k not in ("files", "totals", "inputs")}
    write_manifest(run, facts)
    assert read_manifest(run) == before


def vouch(run: Path) -> None:
    """Let the receipt of the fit name the files as they are now."""
    for path in run.glob("receipts/fit/*.json"):
        receipt = json.loads(path.read_text())
        receipt["outputs"] = {name: sha256_file(run / name) for name in receipt["outputs"]}
        path.write_text(json.dumps(receipt))


@pytest.mark.parametrize("kept", ["geo_level != 'district'", "status == 'check'", "name == ''"])
def test_a_run_with_few_kinds_of_targets(run, kept):
    fitted = pd.read_csv(run / "fit/diagnostics.csv", dtype={"geographic_id": str}, keep_default_na=False)
    rows = fitted.eval(kept)
    fitted[rows].to_csv(run / "fit/diagnostics.csv", index=False)
    targets = pd.read_parquet(run / "targets.parquet")
    targets[rows.to_numpy()].to_parquet(run / "targets.parquet", index=False)
    groups = pd.read_csv(run / "fit/groups.csv")
    groups[groups["group_id"].isin(fitted[rows]["group_id"])].to_csv(run / "fit/groups.csv", index=False)
    checks = pd.read_csv(run / "verify/checks.csv")
    checks.query(kept).to_csv(run / "verify/checks.csv", index=False)
    vouch(run)
    text = read(run)
    Page(text)
    assert "What this report lacks" not in text
    first = held(text)["variables"][0]
    assert set(first["classes"]) == {"x"}


def test_targets_of_nobody_stand_apart_from_what_the_fit_missed(run):
    before = worst(RunTables.read(run))
    fitted = pd.read_csv(run / "fit/diagnostics.csv", dtype={"geographic_id": str}, keep_default_na=False)
    rows = fitted["name"] == "cd_5601/person_count/[age>=85]"
    assert rows.sum() == 1
    fitted.loc[rows, ["achievable", "within_tolerance"]] = False
    fitted.loc[rows, ["estimate", "donors"]] = 0
    fitted.loc[rows, ["rel_error", "abs_rel_error"]] = [-1.0, 1.0]
    # Without donors since the fit gave them no weight: a miss like any other.
    other = fitted.index[(fitted["status"] == "fit") & ~rows][0]
    fitted.loc[other, ["within_tolerance", "donors"]] = [False, 0]
    fitted.loc[other, ["rel_error", "abs_rel_error"]] = [-1.0, 1.0]
    fitted.to_csv(run / "fit/diagnostics.csv", index=False)
    vouch(run)
    found = worst(RunTables.read(run))
    assert found["nobody"] == 1
    assert found["empty"].rows == [("district", "person count, age >= 85", "WY-01", "1")]
    listed = [row[:2] for row in found["table"].rows]
    assert ("WY-01", "person count, age >= 85") not in listed
    assert found["table"].rows[0][3] == "-100.00%"
    assert (before["nobody"], found["missed"] - found["table"].total) == (0, 1)
    assert "Toward 1 of those that are missed nobody" in read(run)


def test_further_fits_are_listed(run):
    manifest = json.loads((run / "manifest.json").read_text())
    few = {"records_kept": 77, "effective_sample_size_by_donor": 44.4, "fitted": {"within_5": 0.875}}
    manifest["fits"] = {"few": few}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = read(run)
    assert "Further fits" in text
    assert "87.5%" in text


def test_a_frontier_is_shown_where_there_is_one(run):
    assert "fit frontier RUN" in read(run)
    write_made_frontier(run)
    text = read(run)
    assert "Records against loss and held-out error" in text
    assert "held-out error</text>" in text
    Page(text)


def test_the_command(run, tmp_path):
    out = tmp_path / "out.html"
    result = invoke(run, "--output", out)
    assert result.exit_code == 0
    assert str(out) in result.output
    assert invoke(run).exit_code == 0
    assert (run / "report.html").read_bytes() == out.read_bytes()
    assert invoke(run).exit_code == 0
    again = invoke(run, "--output", out)
    assert (again.exit_code, "--force" in again.output) == (2, True)
    assert invoke(run, "--output", out, "--force").exit_code == 0


def test_at_the_end_of_a_run_it_is_written_once_and_never_fails_the_run(run):
    (run / "fit/frontier.csv").write_text("records\n3\n")
    trouble = write_report_once(Home(run))
    assert trouble.startswith("the run is finished, its report could not be written")
    assert "frontier.csv" in trouble
    assert not (run / "report.html").exists()
    (run / "fit/frontier.csv").unlink()
    assert write_report_once(Home(run)) == ""
    written = (run / "report.html").stat().st_mtime_ns
    assert write_report_once(Home(run)) == ""
    assert (run / "report.html").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["manifest.json", "fit/report.html", "fit"])
def test_it_writes_over_nothing_of_the_run(run, name):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert invoke(run, "--output", run / name, "--force").exit_code == 2
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_folder_that_is_none_of_a_run(tmp_path):
    result = invoke(tmp_path)
    assert result.exit_code == 2
    assert "plan.json" in result.output
