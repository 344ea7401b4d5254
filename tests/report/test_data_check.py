"""The data check with rules made by hand: every unit has one dollar of everything."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from distcalib.catalogue import catalogue
from distcalib.cli import main
from distcalib.errors import InputError, RunError
from distcalib.matrix.measures import Measure
from distcalib.microdata import Microdata
from distcalib.report import data_tables as tables
from distcalib.report import totals
from distcalib.report.data_check import check_data, read_check
from distcalib.report.data_page import page
from distcalib.targets.constraints import parse_constraints
from distcalib.targets.sources import bundled_targets, starting_totals

HEADLINE = (
    "persons", "households", "under 18", "65 and over", "wages", "adjusted gross income", "income tax",
    "EITC dollars", "SNAP dollars", "SNAP households", "Medicaid persons", "ACA credit dollars",
    "ACA credit persons", "SSI", "Social Security", "pensions and IRA distributions",
)  # fmt: skip


class OneDollarRules:
    """Gives stored inputs, single filers, and one of everything else."""

    broken: tuple[str, ...] = ()

    def __init__(self, data: Microdata, place: str) -> None:
        self.data, self.place = data, place

    def calculate(self, variable: str) -> np.ndarray:
        if variable in self.broken:
            raise RunError(f"{self.place}: policyengine-us failed on {variable}")
        count = self.data.count(catalogue().get(variable).entity)
        if variable == "filing_status":
            return np.full(count, "SINGLE")
        return self.data.column(variable) if variable in self.data.variables() else np.ones(count)


@pytest.fixture
def rules(monkeypatch):
    @contextmanager
    def simulate(data, place="simulation"):
        assert len(np.unique(data.column("state_fips"))) == 1, "one state a simulation"
        yield OneDollarRules(data, place)

    monkeypatch.setattr(totals, "simulate", simulate)
    monkeypatch.setattr(OneDollarRules, "broken", ())
    return OneDollarRules


@pytest.fixture(scope="module")
def few(small: Microdata) -> Microdata:
    """The households of Alabama, California, New York and Texas among the small file's."""
    chosen = np.flatnonzero(np.isin(small.column("state_fips"), [1, 6, 36, 48]))
    return small.take(chosen, {e: small.ids[e][small.rows_of(e, chosen)[0]] for e in small.ids})


@pytest.fixture
def dataset(few: Microdata, tmp_path: Path) -> Path:
    few.write(tmp_path / "mine.h5")
    return tmp_path / "mine.h5"


def row(table: pd.DataFrame, **where: str) -> pd.Series:
    chosen = table
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1, where
    return chosen.iloc[0]


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["data", "check", *map(str, arguments)])
    return done.exit_code, done.output


def test_totals_are_weighted_sums_by_state(few, rules):
    counted = Measure("person_count", parse_constraints("age>=65"))
    measures = [counted, Measure("household_count")]
    found = totals.weighted_by_state(totals.simulate_at_home(few, measures), measures)
    assert found.columns.tolist() == ["person_count[age>=65]", "household_count"]
    fips = few.column("state_fips")
    assert found.index.tolist() == np.unique(fips).tolist()
    home = few.links["household"]
    old = (few.column("age") >= 65) & (fips[home] == 6)
    assert found.loc[6, "person_count[age>=65]"] == pytest.approx(few.weights[home][old].sum())
    assert found["household_count"].sum() == pytest.approx(few.weights.sum())
    assert (found.dtypes == np.float64).all()


def test_units_come_back_in_the_order_of_the_microdata(few, rules):
    found = totals.simulate_at_home(few, [Measure("person_count")], ["age"])
    np.testing.assert_array_equal(found.columns["age"], few.column("age"))
    size = np.bincount(few.links["household"], minlength=few.count())
    np.testing.assert_array_equal(found.table[:, 0], size)


def test_households_stay_in_their_state_and_weigh_on_no_other(few):
    whole = totals.at_home(few, seed=0)
    np.testing.assert_array_equal(whole.state_fips, few.column("state_fips"))
    np.testing.assert_array_equal(whole.cd_geoid // 100, whole.state_fips)
    np.testing.assert_array_equal(whole.county_fips // 1000, whole.state_fips)
    half = np.arange(0, few.count(), 2)
    part = few.take(half, {e: few.ids[e][few.rows_of(e, half)[0]] for e in few.ids})
    np.testing.assert_array_equal(totals.at_home(part, seed=0).county_fips, whole.county_fips[half])
    assert (totals.at_home(few, seed=1).cd_geoid != whole.cd_geoid).any()


@pytest.mark.parametrize("take_up", ["drawn", "stored"])
def test_everybody_claims_what_is_asked_for_and_nothing_else(few, rules, take_up):
    names = ["takes_up_snap_if_eligible", "takes_up_aca_if_eligible", "takes_up_wic_if_eligible"]
    none = {f: np.zeros(few.count(catalogue().get(f).entity), bool) for f in names}
    data = few.with_columns(none)
    found = totals.simulate_at_home(data, [], names, take_up=take_up, claiming=names[:1]).columns
    assert found[names[0]].all()
    for flag in names[1:]:
        assert not found[flag].all(), flag


def test_a_household_outside_the_states_is_refused(few):
    fips = few.column("state_fips").copy()
    fips[7] = 72
    with pytest.raises(InputError, match=r"1 households outside the 50 states.*72"):
        totals.simulate_at_home(few.with_columns({"state_fips": fips}), [Measure("person_count")])


def test_take_up_is_drawn_or_stored(few):
    with pytest.raises(InputError, match="did you mean 'drawn'"):
        totals.simulate_at_home(few, [], take_up="draw")  # type: ignore[arg-type]


def test_the_headline_has_what_analysts_ask_for_with_official_figures(dataset, rules):
    found = check_data(dataset)
    head = found.table[found.table["section"] == "headline"]
    for name in HEADLINE:
        assert head["quantity"].str.contains(name).any(), name
    assert head["official"].notna().all()
    assert (head["source"] != "").all()
    assert (head["vintage"] != "").all()
    html = page(found.table, found.facts)
    for quantity in head["quantity"]:
        assert f"<td>{quantity}" in html
    assert html.count('<div class="wide"><svg') == html.count("<svg") == 2
    assert "<script" not in html
    assert "http" not in html.replace('lang="en"', "")
    assert "How to read this" in html


def test_pensions_are_the_sum_of_both_kinds(dataset, rules, few):
    found = check_data(dataset).table
    pensions = found[found["variable"] == "taxable_pension_income+taxable_ira_distributions"].iloc[0]
    parts = (
        bundled_targets().query("geo_level == 'national' and period == 2023").set_index("variable")["value"]
    )
    assert pensions["official"] == parts["taxable_pension_income"] + parts["taxable_ira_distributions"]
    home = few.weights[few.links["household"]]
    ira = (home * few.column("taxable_ira_distributions").astype(float)).sum()
    assert pensions["value"] == pytest.approx(home.sum() + ira, rel=1e-6)


def test_a_figure_is_within_or_not_and_nothing_without_an_official_one():
    rows = pd.DataFrame(
        {"value": [114.9, 115.1, 5.0, 5.0], "official": [100, 100, 0, np.nan], "allowed": [0.15] * 4}
    )
    found = tables.judged(rows)
    assert found["within"].tolist() == ["yes", "no", "", ""]
    assert found["ratio"].isna().tolist() == [False, False, True, True]


def test_a_state_without_households_is_named_once_and_counts_as_zero(few, rules, tmp_path):
    fips = few.column("state_fips")
    chosen = np.flatnonzero(np.isin(fips, [6, 48]))
    few.take(chosen).write(tmp_path / "two.h5")
    table = check_data(tmp_path / "two.h5").table
    gone = table[(table["section"] == "unreachable") & (table["quantity"] == "everything")]
    assert len(gone) == 49
    assert row(table, section="register", variable="snap", area="36")["value"] == 0
    assert not ((table["section"] == "unreachable") & (table["variable"] == "snap")).any()


def test_what_no_household_has_is_unreachable_with_its_area(dataset, few, rules):
    table = check_data(dataset).table
    missing = table[(table["section"] == "unreachable") & (table["constraints"] == "age>=85")]
    old = np.unique(few.column("state_fips")[few.links["household"]][few.column("age") >= 85])
    here = np.unique(few.column("state_fips"))
    assert set(missing["area"]) == {str(s) for s in here} - {str(s) for s in old}
    thin = row(table, section="support", constraints="age>=85")
    assert thin["value"] == thin["official"] == len(here)


def test_fewer_eligible_than_enrolled_is_said(dataset, rules):
    table = check_data(dataset).table
    eligible = table[table["section"] == "take-up"]
    assert eligible["quantity"].str.contains("Medicaid").any()
    assert eligible["quantity"].str.contains("ACA").any()
    short = eligible["ratio"] < 1
    assert (eligible.loc[short, "reason"] != "").all()
    assert (eligible.loc[~short, "reason"] == "").all()


def test_a_file_without_tables_beside_it_is_checked_and_the_page_says_what_is_missing(dataset, rules):
    found = check_data(dataset)
    assert not (found.table["section"] == "raking").any()
    html = page(found.table, found.facts)
    assert "No table of raked margins" in html
    assert "no table of source statuses" in html
    assert "not known here" in html


def test_tables_beside_the_dataset_are_shown(dataset, few, rules):
    beside = dataset.with_name
    raking = pd.DataFrame(
        {
            "margin": ["persons", "persons by age", "adjustment"],
            "area": ["6", "US", "max"],
            "age_from": ["", "65", ""],
            "official": [100.0, 50.0, np.nan],
            "before": [90.0, 60.0, np.nan],
            "after": [100.5, 51.0, 3.5],
        }
    )
    raking.to_csv(beside("mine_raking.csv"), index=False)
    status = np.where(np.arange(few.count("tax_unit")) % 2, "JOINT", "SINGLE")
    pd.DataFrame({"tax_unit_id": few.ids["tax_unit"], "filing_status_source": status}).to_csv(
        beside("mine_units.csv.gz"), index=False
    )
    pd.DataFrame(
        [["e00400", "tax_exempt_interest_income", "to the head", "yes"], ["x", "age", "as it is", "no"]],
        columns=["source_column", "policyengine_input", "rule", "imputed"],
    ).to_csv(beside("mine_sources.csv"), index=False)
    found = check_data(dataset)
    table = found.table
    california = row(table, section="raking", quantity="persons", area="6")
    assert (california["before"], california["value"], california["within"]) == (90, 100.5, "yes")
    assert row(table, section="raking", constraints="age>=65")["within"] == "no"
    assert row(table, section="raking", quantity="adjustment", area="max")["value"] == 3.5
    crossed = row(table, section="filing status", quantity="JOINT in the source, SINGLE by the rules")
    weights = few.weights[few.household_of["tax_unit"]]
    assert crossed["value"] == pytest.approx(weights[status == "JOINT"].sum())
    assert crossed["ratio"] == 1
    assert table.loc[table["section"] == "imputed", "variable"].tolist() == ["tax_exempt_interest_income"]
    html = page(table, found.facts)
    assert "These inputs are imputed" in html
    assert "<code>tax_exempt_interest_income</code>" in html
    assert "<td>age&gt;=65</td>" in html


def test_the_range_of_weights_comes_from_the_households_where_the_margins_lack_it():
    households = pd.DataFrame({"weight": [1.0, 2.0, 6.0], "design_weight": [1.0, 1.0, 2.0]})
    found = tables.raking_rows(None, households).set_index("area")["value"]
    assert (found["min"], found["median"], found["max"]) == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine_raking.csv", "margin,area,official,before\n", "lacks a column; got 'after'"),
        (
            "mine_raking.csv",
            "margin,area,official,before,after\npersons,6,1,2,x\n",
            "is not a number; got 'x'",
        ),
        ("mine_units.csv.gz", "tax_unit_id\n", "lacks a column; got 'filing_status_source'"),
        ("mine_units.csv.gz", "tax_unit_id,filing_status_source\n1,SINGLE\n", "tax units of the dataset"),
    ],
)
def test_a_bad_table_beside_the_dataset_is_refused_before_anything_is_simulated(
    dataset, monkeypatch, name, text, message
):
    monkeypatch.setattr(totals, "simulate", None)
    rows = pd.DataFrame(
        [line.split(",") for line in text.splitlines()[1:]], columns=text.splitlines()[0].split(",")
    )
    rows.to_csv(dataset.with_name(name), index=False)
    with pytest.raises(InputError, match=message):
        check_data(dataset)


def test_a_quantity_that_the_rules_cannot_compute_is_a_finding_where_no_run_fits_it(
    dataset, rules, monkeypatch
):
    monkeypatch.setattr(rules, "broken", ("taxable_interest_income",))
    found = check_data(dataset)
    lost = found.table[found.table["variable"].str.contains("taxable_interest_income")]
    lost = lost[lost["section"].isin(["headline", "register"])]
    assert list(lost["status"]) == ["check"]
    assert lost["value"].isna().all()
    assert (lost["within"] == "").all()
    assert lost["reason"].str.contains("not computed: simulate: state AL").all()
    assert any("taxable_interest_income could not be computed" in n for n in found.facts["notes"])
    assert found.table.loc[found.table["variable"] == "snap", "value"].notna().any()
    html = page(found.table, found.facts)
    assert "a run that asks for it would fail" in html


def test_a_fitted_quantity_that_cannot_be_computed_stops_the_check(dataset, rules, monkeypatch, tmp_path):
    monkeypatch.setattr(rules, "broken", ("snap",))
    code, words = call("--dataset", dataset, "--output", tmp_path / "out")
    assert code == 1
    assert "state AL: policyengine-us failed on snap" in words
    assert not (tmp_path / "out").exists()


def test_before_is_simulated_too(dataset, few, rules, tmp_path):
    light = few.with_columns({"household_weight": few.column("household_weight") / 2})
    light.write(tmp_path / "light.h5")
    table = check_data(dataset, before=tmp_path / "light.h5").table
    mine = table[table["section"].isin(["headline", "register"])]
    np.testing.assert_allclose(mine["before"], mine["value"] / 2)
    again = check_data(dataset, earlier=table)
    pd.testing.assert_frame_equal(again.table, table)
    assert again.facts["before"] == "the earlier check, not recomputed"


def test_starting_totals_have_the_form_that_decides_the_status(dataset, rules):
    found = check_data(dataset).starting_totals()
    packaged = starting_totals()
    assert found.columns.tolist() == packaged.columns.tolist()
    quantities = set(zip(packaged["variable"], packaged["constraints"], strict=True))
    assert quantities <= set(zip(found["variable"], found["constraints"], strict=True))
    assert not found.duplicated(["variable", "constraints"]).any()
    assert found["measured_with"].unique().tolist() == ["mine.h5, take-up drawn"]


def check_row(**values: object) -> dict[str, object]:
    base = dict.fromkeys(tables.COLUMNS, "") | dict.fromkeys(tables.NUMBERS, np.nan)
    return base | {"section": "headline", "quantity": "SNAP", "area": "US", "value": 100.0} | values


def test_drift_lists_numbers_texts_and_rows_that_changed():
    old = pd.DataFrame(
        [check_row(), check_row(quantity="EITC", reason="old words"), check_row(quantity="gone")]
    )
    new = pd.DataFrame(
        [
            check_row(value=100.001),
            check_row(quantity="EITC", reason="new words"),
            check_row(quantity="fresh"),
        ]
    )
    found = tables.drift(new, old).set_index(["quantity", "column"])[["old", "new"]]
    assert found.loc[("SNAP", "value")].tolist() == ["100", "100.001"]
    assert found.loc[("EITC", "reason")].tolist() == ["old words", "new words"]
    assert found.loc[("gone", "row")].tolist() == ["present", "missing"]
    assert found.loc[("fresh", "row")].tolist() == ["missing", "present"]
    assert len(found) == 4


def test_a_millionth_is_no_drift_but_a_lost_value_is():
    old = pd.DataFrame([check_row(official=-5.0)])
    assert tables.drift(pd.DataFrame([check_row(value=100 * (1 + 0.9e-6), official=-5.0)]), old).empty
    assert len(tables.drift(pd.DataFrame([check_row(value=100 * (1 + 1.1e-6), official=-5.0)]), old)) == 1
    assert len(tables.drift(pd.DataFrame([check_row(value=np.nan, official=-5.0)]), old)) == 1
    assert len(tables.drift(pd.DataFrame([check_row(official=5.0)]), old)) == 1


def test_the_command_writes_both_files_and_compares_with_an_earlier_check(dataset, few, rules, tmp_path):
    first = tmp_path / "first"
    code, words = call("--dataset", dataset, "--output", first, "--starting-totals", tmp_path / "start.csv")
    assert code == 0, words
    assert "headline figures are within" in words
    assert sorted(p.name for p in first.iterdir()) == ["check.csv", "check.html"]
    assert len(pd.read_csv(tmp_path / "start.csv")) > 40

    code, words = call("--dataset", dataset, "--output", tmp_path / "same", "--against", first / "check.csv")
    assert code == 0, words
    assert "no difference" in words
    for name in ("check.csv", "check.html"):
        assert (tmp_path / "same" / name).read_bytes() == (first / name).read_bytes()

    weights = few.column("household_weight").copy()
    weights[0] *= 1.01
    few.with_columns({"household_weight": weights}).write(dataset)
    code, words = call("--dataset", dataset, "--output", tmp_path / "other", "--against", first / "check.csv")
    assert code == 1
    assert "drift: headline persons US: value was" in words
    assert "if they are meant, copy" in words
    assert (tmp_path / "other" / "check.csv").is_file()


def test_the_bundled_microdata_need_a_shipped_check(rules, tmp_path, monkeypatch):
    from distcalib.report import data_check

    monkeypatch.setattr(data_check, "shipped_path", lambda: tmp_path / "none.csv")
    code, words = call("--output", tmp_path / "out")
    assert code == 1
    assert "the package ships no check: copy" in words
    assert (tmp_path / "out" / "check.csv").is_file()


@pytest.mark.parametrize("option", ["--dataset", "--before", "--against"])
def test_a_file_of_another_kind_is_refused(option, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(totals, "simulate", None)
    (tmp_path / "wrong.h5").write_text("a,b\n1,2\n")
    arguments = ["--dataset", dataset, option, tmp_path / "wrong.h5"][0 if option != "--dataset" else 2 :]
    code, words = call(*arguments, "--output", tmp_path / "out")
    assert code == 2, words
    assert "wrong.h5" in words
    assert not (tmp_path / "out").exists()


def test_a_written_check_reads_back_as_it_was(dataset, rules, tmp_path):
    found = check_data(dataset)
    found.write(tmp_path)
    assert tables.drift(read_check(tmp_path / "check.csv"), found.table).empty
