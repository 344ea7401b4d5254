"""The bundled targets: what they hold, that they agree with each other, and that they rebuild."""

import gzip
import os
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distcalib.catalogue import catalogue, terms
from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.targets import sources
from distcalib.targets.constraints import constraint_text, parse_constraints
from distcalib.targets.status_table import status_table, write_status_table

DOCS = Path(__file__).parents[2] / "docs/data_targets.md"
RAW = os.environ.get("DISTCALIB_RAW")
COUNTS = {
    "person_count": "persons",
    "household_count": "households",
    "tax_unit_count": "tax units",
    "spm_unit_count": "spm units",
}
QUANTITY = ["variable", "reform_id", "constraints", "period"]


@pytest.fixture(scope="module")
def table():
    return sources.bundled_targets()


def test_it_has_the_columns_and_at_least_ten_thousand_rows(table):
    assert list(table.columns) == sources.COLUMNS
    assert len(table) >= 10_000
    assert set(table["status"]) == {"fit", "check", "excluded"}
    assert table[["period", "reform_id"]].dtypes.eq(np.int64).all()
    assert table[["value", "moe", "tolerance"]].dtypes.eq(np.float64).all()
    assert np.isfinite(table["value"]).all()
    said = ["concept", "population", "source", "table", "vintage", "unit"]
    assert (table[said] != "").to_numpy().all()


def test_every_row_says_what_it_counts_of_whom_when_and_in_which_unit(table):
    for column in ("concept", "population", "source", "table", "vintage", "unit"):
        assert (table[column].str.strip() != "").all(), column
    people = table["variable"] == "person_count"
    assert (
        table.loc[people & table["concept"].str.contains("residents"), "population"]
        .str.contains("group quarters included")
        .all()
    )
    homes = table["table"] == "S2201"
    assert homes.sum() == 3 * 488 - 52  # households, those in poverty; the median of districts
    assert table.loc[homes, "population"].str.contains("no group quarters").all()
    filers = table["constraints"].str.contains("tax_unit_is_filer")
    assert table.loc[filers, "population"].eq("returns filed").all()
    survey = table["source"].str.contains("American Community Survey") & table["table"].str.match(r"S\d")
    estimated = survey & ~table["note"].str.contains("sum") & (table["geo_level"] == "district")
    # Controlled totals have no sampling error; the median's margin is in dollars, in the note.
    controlled = table["concept"].isin(["residents", "households below the median household income"])
    assert table.loc[estimated & ~controlled, "moe"].notna().mean() > 0.99
    assert (table["status"] == "fit").eq(table["reason"] == "").all()


def test_no_reason_quotes_a_figure_of_the_microdata_but_the_measured_starting_total(table):
    unmeasured = table[~table["reason"].str.startswith("uncalibrated total")]
    about_microdata = unmeasured.loc[unmeasured["reason"].str.contains("microdata"), "reason"].unique()
    assert len(about_microdata) > 3
    assert [r for r in about_microdata if any(c.isdigit() for c in r)] == []


def test_no_quantity_stands_twice(table):
    assert not table.duplicated([*QUANTITY, "geo_level", "geographic_id"]).any()


def test_a_quantity_has_one_vintage_in_use_and_nothing_newer_hides_it(table):
    area = ["variable", "reform_id", "constraints", "geo_level", "geographic_id"]
    in_use = table[table["status"] != "excluded"]
    assert not in_use.duplicated(area).any()
    newest = table.groupby(area)["period"].transform("max")
    assert (in_use["period"] == newest[in_use.index]).all()


def test_every_area_exists_and_every_fitted_quantity_covers_all_of_its_level(table):
    expected = {
        "national": {"US"},
        "state": {str(s) for s in STATE_CODES},
        "district": set(districts()["cd_geoid"].astype(str)),
    }
    assert {k: len(v) for k, v in expected.items()} == {"national": 1, "state": 51, "district": 436}
    for level, ids in expected.items():
        rows = table[table["geo_level"] == level]
        assert set(rows["geographic_id"]) == ids
        fitted = rows[rows["status"] == "fit"]
        assert (fitted.groupby(QUANTITY)["geographic_id"].nunique() == len(ids)).all()


def test_variables_and_constraints_are_those_of_the_rules_engine(table):
    names = {term for variable in table["variable"] for term in terms(variable)} - set(COUNTS)
    used = {c.variable for text in table["constraints"].unique() for c in parse_constraints(text)}
    assert [n for n in names | used if n not in catalogue()] == []
    canonical = table["constraints"].map(lambda text: constraint_text(parse_constraints(text)))
    assert (canonical == table["constraints"]).all()
    assert not used & {"state_fips", "congressional_district_geoid"}


def test_units_fit_the_variables(table):
    expected = table["variable"].map(COUNTS).fillna("dollars")
    assert (table["unit"] == expected).all()


def test_the_tolerance_is_five_per_cent_or_the_published_margin(table):
    share = (table["moe"] / table["value"].abs()).where(table["value"] != 0).fillna(0)
    assert np.allclose(table["tolerance"], np.maximum(0.05, share), atol=1e-6)
    snap = table.query("constraints == 'snap>0' and geo_level == 'district'")
    assert (snap["tolerance"] > 0.1).mean() == pytest.approx(0.49, abs=0.02)


def test_what_is_not_fitted_says_why_and_what_is_fitted_has_no_reason(table):
    assert (table.loc[table["status"] != "fit", "reason"] != "").all()
    assert (table.loc[table["status"] == "fit", "reason"] == "").all()
    assert (table.loc[table["status"] == "fit", "value"] != 0).all()


def test_fitted_nation_states_and_districts_agree(table):
    # The credit is checked and not fitted, but its nation and states are of one vintage all the same.
    fitted = table[
        (table["status"] == "fit") | ((table["variable"] == "eitc") & (table["constraints"] == ""))
    ]
    fitted = fitted[fitted["period"].ne(2022) | fitted["variable"].ne("eitc")]
    total = fitted.pivot_table(index=QUANTITY, columns="geo_level", values="value", aggfunc="sum")
    both = total.dropna(subset=["national", "state"])
    # The IRS rounds the credit of a big state to 0.1 bn; all other tables are exact.
    slack = np.where(both.index.get_level_values("period") == 2024, 1e-6, 1e-9)
    credit = both.index.get_level_values("variable") == "eitc"
    off = (both["state"] / both["national"] - 1).abs()
    assert credit.sum() == 1
    assert (off[credit] < 0.01).all()
    assert (off[~credit] < slack[~credit]).all()

    cd = fitted[fitted["geo_level"] == "district"]
    cd = cd.assign(geographic_id=(cd["geographic_id"].astype(int) // 100).astype(str))
    from_districts = cd.groupby([*QUANTITY, "geographic_id"])["value"].sum()
    states = fitted[fitted["geo_level"] == "state"].set_index([*QUANTITY, "geographic_id"])["value"]
    assert len(from_districts) == 51 * 21  # 18 age bands, residents, households, SNAP households
    assert ((from_districts / states[from_districts.index] - 1).abs() < 1e-6).all()


def test_age_bands_add_up_to_the_residents_of_every_area(table):
    people = table[table["concept"].isin(["residents", "residents by age"])]
    assert len(people) == 19 * 488
    area = ["geo_level", "geographic_id"]
    bands = people[people["constraints"] != ""].groupby(area)["value"].sum()
    assert (bands == people[people["constraints"] == ""].set_index(area)["value"][bands.index]).all()
    population = districts().set_index("cd_geoid")["population"]
    assert (bands["district"].to_numpy() == population[bands["district"].index.astype(int)]).all()


def test_snap_districts_are_scaled_to_the_state_and_keep_what_was_published(table):
    rows = table.query("constraints == 'snap>0' and geo_level == 'district'")
    told = rows["note"].str.extract(r"publishes (\d+) \+- (\d+); scaled by ([\d.]+) ").astype(float)
    assert np.allclose(told[0] * told[2], rows["value"], rtol=1e-5)
    assert np.allclose(told[1] * told[2], rows["moe"], rtol=1e-5)
    assert told[2].between(0.95, 1.84).all()


def test_known_figures_are_in_the_table_with_their_unit(table):
    def value(variable, constraints, area, period):
        rows = table.query(
            "variable == @variable and constraints == @constraints"
            " and geographic_id == @area and period == @period"
        )
        assert len(rows) == 1
        return rows["value"].iloc[0]

    assert value("person_count", "", "US", 2024) == 340_110_990
    assert value("snap", "", "9", 2024) == 892_819_650
    assert value("assigned_aca_ptc", "", "2", 2024) == 20_422_650 * 12
    assert value("adjusted_gross_income", "tax_unit_is_filer==1", "US", 2023) == pytest.approx(
        15_286e9, rel=1e-4
    )


def test_statuses_of_the_programmes_that_the_microdata_miss(table):
    status = table[table["geo_level"] == "national"].set_index(["variable", "constraints"])["status"]
    top = "adjusted_gross_income>=1000000&tax_unit_is_filer==1"
    assert status["taxable_interest_income", "tax_unit_is_filer==1"] == "check"
    assert status["adjusted_gross_income", top] == "check"
    assert status["eitc", ""] == "check"
    assert status["tax_unit_count", "eitc>0"] == "check"
    assert status["assigned_aca_ptc", ""] == "fit"
    assert status["person_count", "medicaid_enrolled==True"] == "fit"
    assert status["household_count", "snap>0"] == "fit"
    assert status["interest_income", ""] == "excluded"
    assert (table.loc[table["reform_id"] > 0, "status"] == "excluded").all()
    # Clones keep the housing costs of their donor's state.
    housing = table[table["variable"].isin(["rent", "real_estate_taxes"]) & (table["geo_level"] == "state")]
    assert len(housing) == 102
    assert (housing["status"] == "check").all()


def test_pensions_are_fitted_as_the_sum_of_both_lines(table):
    parts = table[table["variable"].isin(["taxable_pension_income", "taxable_ira_distributions"])]
    assert list(parts["status"]) == ["check", "check"]
    assert parts["reason"].str.contains("only the sum").all()
    whole = table[table["variable"] == "taxable_pension_income+taxable_ira_distributions"]
    assert list(whole["status"]) == ["fit"]
    assert whole["value"].item() == parts["value"].sum()
    assert whole["vintage"].item() == parts["vintage"].unique().item()
    assert not table["variable"].isin(["pension_income", "taxable_retirement_distributions"]).any()


def test_households_are_fitted_and_poverty_and_median_income_are_checked(table):
    surveyed = table[table["table"] == "S2201"].groupby("concept")
    status = {concept: set(rows["status"]) for concept, rows in surveyed}
    assert status == {
        "households": {"fit"},
        "households below the official poverty line": {"check"},
        "households below the median household income": {"check"},
    }
    assert {c: len(rows) for c, rows in surveyed}["households"] == 488
    median = table[table["concept"].str.contains("median")].set_index("geographic_id")
    assert len(median) == 436
    dollars = median["constraints"].str.extract(r"^hud_annual_income<(\d+)$")[0].astype(int)
    assert dollars.between(40_000, 200_000).all()
    households = table[(table["concept"] == "households") & (table["geo_level"] == "district")]
    half = households.set_index("geographic_id")["value"] / 2
    pd.testing.assert_series_equal(median["value"], half.reindex(median.index), check_names=False)
    assert median["reason"].str.contains("retirement").all()
    assert median["note"].str.contains("90 % margin").all()


def test_aca_persons_are_the_members_who_pay_a_premium_and_take_up(table):
    persons = table[(table["concept"] == "ACA premium tax credit") & (table["unit"] == "persons")]
    assert set(persons["constraints"]) == {"aca_ptc>0&person_receives_aca==True"}
    assert len(persons) == 52


def test_mortgage_interest_is_that_of_returns_that_itemise(table):
    amount = table[(table["variable"] == "deductible_mortgage_interest") & (table["reform_id"] == 0)]
    assert list(amount["constraints"]) == ["tax_unit_is_filer==1&tax_unit_itemizes==True"]


def test_the_page_has_the_table_of_the_register(tmp_path):
    page = tmp_path / "data_targets.md"
    page.write_text(DOCS.read_text())
    write_status_table(page)
    assert page.read_text() == DOCS.read_text(), "run distcalib.targets.status_table.write_status_table"
    assert status_table(sources.bundled_targets().head(1)).count("\n") == 3
    page.write_text("no marks")
    with pytest.raises(InputError, match="marks of the status table"):
        write_status_table(page)


def quantities(*rows):
    columns = [
        "variable",
        "constraints",
        "concept",
        "geo_level",
        "reform_id",
        "period",
        "value",
        "status",
        "reason",
    ]
    return pd.DataFrame([[*row, "", ""] for row in rows], columns=columns)


def totals(*rows):
    frame = pd.DataFrame(rows, columns=["variable", "constraints", "starting", "concept"])
    return frame.assign(measured_with="a test")


@pytest.mark.parametrize(
    ("starting", "expected"),
    [(49.0, "check"), (50.0, "fit"), (200.0, "fit"), (201.0, "check"), (-100.0, "check")],
)
def test_half_to_twice_the_target_is_fitted_at_every_level(starting, expected):
    rows = quantities(
        ("ssi", "", "SSI", "national", 0, 2024, 100.0), ("ssi", "", "SSI", "state", 0, 2024, 1000.0)
    )
    out = sources.decide_status(rows, totals(("ssi", "", starting, "SSI")))
    assert list(out["status"]) == [expected] * 2
    assert out["reason"].eq("").all() == (expected == "fit")


@pytest.mark.parametrize(
    ("starting", "expected"), [(84.0, "check"), (86.0, "fit"), (114.0, "fit"), (116.0, "check")]
)
def test_main_programmes_have_to_come_out_within_fifteen_percent(starting, expected):
    for concept in ("SNAP households", "earned income credit", "Medicaid enrolment"):
        assert concept in sources.STARTING_RANGES
        rows = quantities(("x", "", concept, "national", 0, 2024, 100.0))
        assert list(sources.decide_status(rows, totals(("x", "", starting, concept)))["status"]) == [expected]


def test_every_narrower_range_is_of_a_concept_in_the_table(table):
    assert set(sources.STARTING_RANGES) <= set(table["concept"])


def test_a_quantity_without_a_starting_total_follows_its_concept_or_waits():
    rows = quantities(
        ("aca_ptc", "", "ACA", "national", 0, 2024, 10.0),
        ("person_count", "aca_ptc>0", "ACA", "national", 0, 2024, 20.0),
        ("wic", "", "WIC", "national", 0, 2024, 5.0),
    )
    out = sources.decide_status(rows, totals(("person_count", "aca_ptc>0", 149.0, "ACA")))
    assert list(out["status"]) == ["check", "check", "check"]
    assert "7.45" in out["reason"][0]
    assert "no starting total" in out["reason"][2]
    exact = totals(("person_count", "aca_ptc>0", 149.0, "ACA"), ("aca_ptc", "", 9.0, "ACA"))
    assert list(sources.decide_status(rows, exact)["status"]) == ["fit", "check", "check"]


def test_a_starting_total_of_nothing_is_an_error():
    rows = quantities(("ssi", "", "SSI", "national", 0, 2024, 100.0))
    with pytest.raises(InputError, match="no national target"):
        sources.decide_status(rows, totals(("sssi", "", 1.0, "SSI")))


def test_packaged_starting_totals_name_the_concepts_of_their_targets(table):
    nation = table[(table["geo_level"] == "national") & (table["reform_id"] == 0)]
    joined = sources.starting_totals().merge(nation, on=["variable", "constraints"], suffixes=("", "_target"))
    assert len(joined) >= len(sources.starting_totals())
    assert (joined["concept"] == joined["concept_target"]).all()


def test_every_row_comes_from_a_listed_source(table):
    listing = sources.sources()
    assert listing["rows"].sum() == len(table)
    assert (listing.loc[listing["used"] == "no", "reason"] != "").all()
    assert (listing.loc[listing["used"] == "yes", "rows"] > 0).all()


def test_a_missing_raw_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such raw file"):
        sources.build_targets(tmp_path)


def test_the_packed_table_has_no_time_and_reads_back_as_written(table):
    packed = resources.files("distcalib.targets").joinpath("bundled/targets_2024.csv.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # no name, no time
    assert len(packed) < 500_000
    assert sources._csv(table) == gzip.decompress(packed).decode()


@pytest.mark.skipif(RAW is None, reason="needs the raw public files: set DISTCALIB_RAW to their folder")
def test_the_raw_files_give_the_bundled_tables_byte_for_byte(tmp_path):
    sources.write_bundled(RAW, tmp_path)
    folder = resources.files("distcalib.targets").joinpath("bundled")
    for name in ("targets_2024.csv.gz", "sources.csv"):
        assert (tmp_path / name).read_bytes() == folder.joinpath(name).read_bytes()
