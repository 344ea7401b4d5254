"""Two runs beside each other, on small folders made by hand: tables, page, command and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from whole_page import Page

from distcalib.cli import _Explained
from distcalib.cli.compare import compare
from distcalib.errors import InputError
from distcalib.report.comparison import TABLES, compare_runs, write_comparison
from distcalib.report.comparison_page import page

AREAS = (
    ("US", "national", "US"),
    ("6", "state", "CA"),
    ("601", "district", "CA-01"),
    ("602", "district", "CA-02"),
)
SHARE = {"US": 1.0, "CA": 1.0, "CA-01": 0.4, "CA-02": 0.6}
TOTALS = {"person_count": 2e6, "snap": 4e8, "person_in_poverty": 2.2e5, "income_tax": 9e9}


def target_rows() -> pd.DataFrame:
    rows = [
        {
            "name": f"{'national' if level == 'national' else level + '_' + code}/{variable}",
            "variable": variable,
            "geo_level": level,
            "geographic_id": code,
            "domain_variable": "",
            "status": "check" if variable == "income_tax" else "fit",
            "target": TOTALS[variable] * SHARE[name],
            "estimate": TOTALS[variable] * SHARE[name] * 1.02,
            "rel_error": 0.02,
            "within_tolerance": True,
        }
        for code, level, name in AREAS
        for variable in TOTALS
    ]
    return pd.DataFrame(rows)


def total_rows() -> pd.DataFrame:
    rows = [
        (name, level, variable, TOTALS[variable] * SHARE[name], round(1000 * SHARE[name]), 300)
        for _, level, name in AREAS
        for variable in TOTALS
    ]
    return pd.DataFrame(rows, columns=["area", "geo_level", "variable", "total", "households", "nonzero"])


def weight_rows() -> pd.DataFrame:
    rows = [
        (
            level,
            "0" if level == "national" else code,
            2000.0,
            1000 * SHARE[name],
            800.0,
            1e6,
            700 * SHARE[name],
        )
        for code, level, name in AREAS
    ]
    names = ["geo_level", "area", "columns", "records", "donors", "weight", "effective_sample_size"]
    return pd.DataFrame(rows, columns=names)


def gate_rows(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows), columns=["severity", "kind", "area", "variable"])
    return table.assign(geo_level="district", figure=0.0, low=8.0, high=np.nan, cause="sampling", accepted="")


def write_run(folder: Path, **changes: object) -> Path:
    """Write the folder of a finished run; `changes` replace a table, a setting, or a part of the manifest."""
    tables = {
        "fit/diagnostics": target_rows(),
        "fit/areas": weight_rows(),
        "verify/areas": total_rows(),
        "verify/gates": gate_rows(),
    } | {name: table for name, table in changes.items() if isinstance(table, pd.DataFrame)}
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / f"{name}.csv", index=False)
    run = {"name": folder.name, "seed": changes.get("seed", 0), "fit": {"records": 1000}}
    plan = {"run": run, "digest": "d" * 64, "slices": []}
    plan |= {part: {} for part in ("code", "inputs", "versions", "engines")}
    (folder / "plan.json").write_text(json.dumps(plan))
    summary = {"records_kept": 1000, "fitted": {"within_5": 0.9}, "settings": {"seed": 0}, "held_out": None}
    (folder / "fit/summary.json").write_text(json.dumps(summary))
    manifest = {
        "plan": "d" * 64,
        "files": changes.get("files", {"areas/national/US.h5": {"sha256": "a", "bytes": 1}}),
        "warnings": changes.get("warnings", []),
        "verification": {"population_listed": changes.get("listed", [])},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def changed(table: pd.DataFrame, column: str, factor: float, **where: str) -> pd.DataFrame:
    table = table.copy()
    rows = np.logical_and.reduce([table[name] == value for name, value in where.items()])
    assert rows.sum() == 1
    table.loc[rows, column] *= factor
    return table


@pytest.fixture
def run_a(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "first")


@pytest.fixture
def run_b(tmp_path: Path) -> Path:
    moved = changed(target_rows(), "estimate", 1.5, geographic_id="602", variable="snap")
    moved = changed(moved, "rel_error", 26.5, geographic_id="602", variable="snap")
    poverty = changed(total_rows(), "total", 0.5, area="CA-01", variable="person_in_poverty")
    return write_run(
        tmp_path / "runs" / "second",
        **{
            "fit/diagnostics": changed(moved, "estimate", 3.0, geographic_id="6", variable="income_tax"),
            "verify/areas": changed(poverty, "total", 1.1, area="US", variable="snap"),
            "fit/areas": changed(weight_rows(), "effective_sample_size", 0.5, area="601"),
            "verify/gates": gate_rows(("warning", "zero", "CA-01", "ssi")),
        },
        seed=1,
        files={"areas/national/US.h5": {"sha256": "b", "bytes": 1}, "more.csv": {"sha256": "c", "bytes": 1}},
        warnings=["[12] targets are far off"],
        listed=[{"district": "CA-02", "relative": -0.07}],
    )


def invoke(*arguments: object):
    commands = _Explained(commands={"compare": compare})
    return CliRunner().invoke(commands, ["compare", *map(str, arguments)])


def test_equal_runs_have_nothing_to_say(run_a, tmp_path):
    found = compare_runs(run_a, write_run(tmp_path / "other" / "first"))
    assert found.settings.empty
    assert found.files.empty
    assert found.findings.empty
    assert found.notes == ()
    assert found.largest_change()["relative"] == 0
    for name in ("targets", "totals", "weights"):
        table = getattr(found, name)
        assert set(table["in"]) == {"both"}
        assert (table["difference"] == 0).all(), name


def test_what_differs_is_found(run_a, run_b):
    found = compare_runs(run_a, run_b)
    assert found.settings.to_numpy().tolist() == [["run.name", '"first"', '"second"'], ["run.seed", "0", "1"]]
    assert found.files[["path", "in"]].to_numpy().tolist() == [
        ["areas/national/US.h5", "both"],
        ["more.csv", "only B"],
    ]
    worst = found.largest_change()
    # The target of status check moved more, and is no fitted one.
    assert worst["name"] == "district_602/snap"
    assert worst["relative"] == pytest.approx(0.5)
    assert worst["area"] == "CA-02"
    group = found.groups.query("geo_level == 'district' and variable == 'snap'").iloc[0]
    assert (group["targets"], group["within_5_a"], group["within_5_b"]) == (2, 1.0, 0.5)
    poverty = found.totals.query("area == 'CA-01' and variable == 'person_in_poverty'").iloc[0]
    assert poverty["relative"] == pytest.approx(-0.5)
    assert poverty["share"] == pytest.approx(-0.2)
    size = found.weights.set_index("area")["relative"]
    assert size["CA-01"] == pytest.approx(-0.5)
    assert size["US"] == 0
    assert set(found.findings["in"]) == {"only B"}
    assert set(found.findings["kind"]) == {"warning", "gate, warning", "population"}


def test_runs_of_other_targets_and_areas_compare_what_they_share(run_a, tmp_path):
    few = write_run(
        tmp_path / "few",
        **{
            "fit/diagnostics": target_rows().query("variable != 'snap'"),
            "verify/areas": total_rows().query("area != 'CA-02'"),
        },
    )
    found = compare_runs(run_a, few)
    assert "4 targets are in A only, and are not compared" in found.notes
    assert "4 areas and variables of the totals are in A only, and are not compared" in found.notes
    only = found.targets[found.targets["in"] == "only A"]
    assert set(only["variable"]) == {"snap"}
    assert only["difference"].isna().all()
    assert page(found).count("are in A only") == 2


def test_a_figure_that_comes_from_zero_moved_most(run_a, tmp_path):
    none = changed(target_rows(), "estimate", 0.0, geographic_id="602", variable="snap")
    found = compare_runs(write_run(tmp_path / "none", **{"fit/diagnostics": none}), run_a)
    assert found.largest_change()["relative"] == np.inf
    assert "from zero" in page(found)


def test_a_run_without_files_has_no_totals_and_says_so(run_a, tmp_path):
    bare = write_run(tmp_path / "bare")
    (bare / "verify/areas.csv").unlink()
    (bare / "verify/gates.csv").unlink()
    found = compare_runs(run_a, bare)
    assert found.totals.empty
    assert len([note for note in found.notes if note.startswith("B has no verify/")]) == 2
    assert "nothing differs" in page(found).lower()
    empty = write_run(tmp_path / "empty", **{"verify/areas": total_rows().head(0)})
    assert set(compare_runs(run_a, empty).totals["in"]) == {"only A"}


def test_the_page_is_whole_and_needs_no_network_and_no_script(run_a, run_b):
    text = page(compare_runs(run_a, run_b))
    read = Page(text)
    assert read.addresses == []
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert "http" not in text
    assert "url(" not in text
    for words in ("district_602/snap", "+50.00%", "CA-01", "person_in_poverty", "[12] targets are far off"):
        assert words in text
    assert page(compare_runs(run_a, run_b)) == text


def test_names_with_markup_are_only_text(run_a, tmp_path):
    odd = target_rows().replace({"name": {"district_602/snap": "district_602/snap/[age<5,rent>1]<script>"}})
    odd = changed(odd, "target", 2.0, geographic_id="602", variable="snap")
    twice = changed(odd, "target", 2.0, geographic_id="602", variable="snap")
    both = [write_run(tmp_path / f"run{i}", **{"fit/diagnostics": t}) for i, t in enumerate((odd, twice))]
    assert "<script>" not in page(compare_runs(*both))
    result = invoke(*both, "--output", tmp_path / "out")
    assert "[age<5,rent>1]" in result.output.replace("\n", "")


def test_the_command_writes_tables_and_page(run_a, run_b, tmp_path):
    result = invoke(run_a, run_b, "--output", tmp_path / "new" / "out")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert names == sorted([*(f"{name}.csv" for name in TABLES), "comparison.html"])
    assert "new in B" in result.output
    assert "seed" in result.output
    table = pd.read_csv(tmp_path / "new" / "out" / "targets.csv")
    assert len(table) == 16
    again = invoke(run_a, run_b, "--output", tmp_path / "again")
    assert again.exit_code == 0
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / "out" / name).read_bytes()


@pytest.mark.parametrize(("bound", "code"), [("0.6", 0), ("0.5", 0), ("0.4", 1)])
def test_the_command_fails_where_a_fitted_estimate_changed_by_more(run_a, run_b, tmp_path, bound, code):
    result = invoke(run_a, run_b, "--output", tmp_path / "out", "--fail-above", bound)
    assert result.exit_code == code, result.output
    assert "district_602/snap changed most of all fitted targets, by +50.000%" in result.output
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_no_shared_target_is_no_success(run_a, tmp_path):
    other = target_rows().assign(name=lambda t: t["name"] + "/[age<5]")
    run = write_run(tmp_path / "other", **{"fit/diagnostics": other})
    result = invoke(run_a, run, "--output", tmp_path / "out", "--fail-above", "0.5")
    assert result.exit_code == 1
    assert "share no fitted target" in result.output


def refused(tmp_path: Path, *arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out" / "comparison.html").exists()
    return result.output.replace("\n", "")


def test_bad_input_is_refused_and_nothing_is_written(run_a, run_b, tmp_path):
    out = ("--output", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "holds no plan.json" in refused(tmp_path, run_a, tmp_path / "empty", *out)
    assert "holds no plan.json" in refused(tmp_path, run_a, tmp_path / "nowhere", *out)
    assert "same folder twice" in refused(tmp_path, run_a, run_a, *out)
    (tmp_path / "link").symlink_to(run_a)
    assert "same folder twice" in refused(tmp_path, run_a, tmp_path / "link", *out)
    assert "is in a run" in refused(tmp_path, run_a, run_b, "--output", run_a / "out")
    (run_b / "manifest.json").unlink()
    assert "a run that is finished" in refused(tmp_path, run_a, run_b, *out)
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_form_is_refused(run_a, run_b, tmp_path):
    old = total_rows().rename(columns={"total": "from_file"})[["area", "variable", "from_file"]]
    old.to_csv(run_b / "verify/areas.csv", index=False)
    out = ("--output", tmp_path / "out")
    assert "areas.csv: lacks a column; got 'geo_level'" in refused(tmp_path, run_a, run_b, *out)
    (run_b / "fit/diagnostics.csv").unlink()
    assert "diagnostics.csv: is not there" in refused(tmp_path, run_a, run_b, *out)


def test_an_output_that_exists_is_replaced_only_where_asked_and_only_a_comparison(run_a, run_b, tmp_path):
    assert invoke(run_a, run_b, "--output", tmp_path / "kept").exit_code == 0
    before = (tmp_path / "kept" / "settings.csv").read_bytes()
    assert "exists" in refused(tmp_path, run_b, run_a, "--output", tmp_path / "kept")
    assert (tmp_path / "kept" / "settings.csv").read_bytes() == before
    assert invoke(run_b, run_a, "--output", tmp_path / "kept", "--force").exit_code == 0
    assert (tmp_path / "kept" / "settings.csv").read_bytes() != before
    (tmp_path / "kept" / "mine.txt").write_text("keep me")
    assert "holds other files" in refused(tmp_path, run_b, run_a, "--output", tmp_path / "kept", "--force")
    assert (tmp_path / "kept" / "mine.txt").read_text() == "keep me"


def test_a_comparison_that_cannot_be_written_leaves_nothing(run_a, run_b, tmp_path, monkeypatch):
    def broken(found):
        raise OSError("disk full")

    monkeypatch.setattr("distcalib.report.comparison_page.page", broken)
    with pytest.raises(OSError, match="disk full"):
        write_comparison(compare_runs(run_a, run_b), tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(InputError, match="same folder"):
        compare_runs(run_a, run_a)


def test_the_command_has_help():
    assert isinstance(compare, click.Command)
    assert "--fail-above" in invoke("--help").output
