"""Sanity gates on the totals of a run: each kind of finding, and no false alarm on tables like a run's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.errors import InputError, RunError
from distcalib.geography.sources import county_shares, districts
from distcalib.runs.gates import COLUMNS, accepted_warnings, gates, refuse, sentence

# Share of households with a value, amount of those, and how much the share differs between districts (sd of
# its log): the figures of the finished demo.
VARIABLES = {
    "household_count": (1.0, 1.0, 0.0),
    "person_count": (1.0, 2.5, 0.0),
    "snap": (0.16, 4_500.0, 0.4),
    "ssi": (0.05, 9_000.0, 0.5),
    "aca_ptc": (0.09, 6_500.0, 0.4),
    "eitc": (0.17, 2_700.0, 0.3),
    "income_tax": (0.75, 18_000.0, 0.1),
    "state_income_tax": (0.6, 4_000.0, 0.2),
    "social_security": (0.32, 31_000.0, 0.2),
    "rent": (0.3, 17_000.0, 0.3),
}
NO_TAX = ["AK", "FL", "NH", "NV", "SD", "TN", "TX", "WA", "WY"]
LOS_ANGELES = 6037


def totals(records: int = 2_300, seed: int = 0) -> pd.DataFrame:
    """Return a table like ``verify/areas.csv``: 436 districts, about so many records in each."""
    rng = np.random.default_rng(seed)
    place = districts()
    n = np.round(records * place["population"] / place["population"].mean()).astype(int)
    parts = []
    for variable, (share, amount, spread) in VARIABLES.items():
        own = share * np.exp(rng.normal(0, spread, len(place)) - spread**2 / 2)
        k = rng.binomial(n, np.clip(own, 0, 1))
        if variable == "state_income_tax":
            k = np.where(place["state"].isin(NO_TAX), 0, k)
        each = amount * np.exp(
            rng.normal(0, 0.15, len(place)) + rng.normal(0, 1, len(place)) / np.sqrt(k + 1)
        )
        weight = place["population"] / VARIABLES["person_count"][1] / n
        part = pd.DataFrame({"area": place["name"], "geo_level": "district", "variable": variable})
        parts.append(part.assign(total=k * each * weight, households=n, nonzero=k))
    table = pd.concat(parts, ignore_index=True)
    figures = ["total", "households", "nonzero"]
    for level, area in (("state", table["area"].str[:2]), ("national", pd.Series("US", table.index))):
        sums = table[table["geo_level"] == "district"].assign(area=area, geo_level=level)
        sums = sums.groupby(["area", "geo_level", "variable"], as_index=False)[figures].sum()
        table = pd.concat([table, sums], ignore_index=True)
    return table


def zeroed(table: pd.DataFrame, variable: str, names: list[str]) -> pd.DataFrame:
    """Return the table of a run whose rules left a variable at zero in some districts: sums add up."""
    table = table.copy()
    figures = ["total", "nonzero"]
    chosen = (table["variable"] == variable) & table["area"].isin(names)
    for area in sorted({name[:2] for name in names}):
        lost = table.loc[chosen & table["area"].str.startswith(f"{area}-"), figures].sum()
        for above in (area, "US"):
            row = (table["variable"] == variable) & (table["area"] == above)
            table.loc[row, figures] = table.loc[row, figures] - lost.to_numpy()
    table.loc[chosen | (table["nonzero"] == 0), figures] = 0
    return table


def set_(table: pd.DataFrame, area: str, variable: str, **values: float) -> pd.DataFrame:
    table = table.copy()
    row = (table["area"] == area) & (table["variable"] == variable)
    assert row.sum() == 1
    for column, value in values.items():
        table.loc[row, column] = value
    return table


def in_county(county: int) -> list[str]:
    """Districts with nearly all of their population in a county."""
    shares = county_shares().merge(districts(), on="cd_geoid")
    return shares.loc[(shares["county_fips"] == county) & (shares["share"] > 0.95), "name"].tolist()


def errors(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["severity"] == "error"]


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return totals(records=41)


@pytest.fixture(scope="module")
def nation() -> pd.DataFrame:
    return totals()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("records", [41, 200, 2_300])
def test_sound_totals_have_no_error_and_few_warnings(records, seed):
    found = gates(totals(records, seed))
    assert tuple(found.columns) == COLUMNS
    assert errors(found).empty
    assert len(found) < 20
    refuse(found)


@pytest.mark.parametrize("names", [["WY-01"], ["WY-01", "NH-01", "NH-02"]])
@pytest.mark.parametrize("records", [5, 50, 400])
def test_small_runs_of_few_areas_pass(records, names):
    table = totals(records)
    table = table[table["area"].isin([*names, *(name[:2] for name in names)])]
    assert errors(gates(table)).empty
    nation = table[table["geo_level"] == "state"].groupby("variable", as_index=False)
    nation = nation[["total", "households", "nonzero"]].sum().assign(area="US", geo_level="national")
    assert errors(gates(pd.concat([table, nation]))).empty
    assert errors(gates(nation)).empty


def test_an_empty_table_has_no_finding(nation):
    assert gates(nation.head(0)).empty


@pytest.mark.parametrize("size", ["demo", "nation"])
def test_a_silent_zero_of_a_county_is_found_and_named(size, request):
    districts_of_county = in_county(LOS_ANGELES)
    assert len(districts_of_county) >= 10
    table = zeroed(request.getfixturevalue(size), "aca_ptc", districts_of_county)
    found = errors(gates(table))
    assert set(found["area"]) == set(districts_of_county)
    assert set(found["variable"]) == {"aca_ptc"}
    assert set(found["kind"]) == {"zero"}
    assert (found["figure"] == 0).all()
    assert found["cause"].str.contains("LOS_ANGELES_COUNTY").all()
    assert found["cause"].str.contains("rating area").all()
    with pytest.raises(RunError, match=r"zero: aca_ptc of CA-\d\d is 0, expected .* LOS_ANGELES"):
        refuse(found)


def test_a_zero_of_one_district_is_found_where_its_records_are_many(nation, demo):
    found = errors(gates(zeroed(nation, "ssi", ["OH-07"])))
    assert found[["area", "variable", "kind"]].to_numpy().tolist() == [["OH-07", "ssi", "zero"]]
    assert found["low"].iloc[0] > 12
    assert "this district alone" in found["cause"].iloc[0]
    # Forty records of a variable that one in twenty has say nothing.
    small = gates(zeroed(demo, "ssi", ["OH-07"]))
    assert not ((small["area"] == "OH-07") & (small["variable"] == "ssi")).any()


def test_a_zero_that_chance_may_explain_is_a_warning(demo):
    found = gates(zeroed(demo, "snap", ["OH-07"]))
    one = found[(found["area"] == "OH-07") & (found["kind"] == "zero")].iloc[0]
    assert one["severity"] == "warning"
    assert "sampling" in one["cause"]


def test_a_zero_of_a_whole_state_is_one_finding(nation):
    names = districts().query("state == 'GA'")["name"].tolist()
    found = errors(gates(zeroed(nation, "eitc", names)))
    assert found[["area", "variable", "kind"]].to_numpy().tolist() == [["GA", "eitc", "zero"]]
    assert "parameter" in found["cause"].iloc[0]
    without = zeroed(nation, "eitc", names).query("geo_level == 'district'")
    assert errors(gates(without))["area"].tolist() == ["GA"]


def test_states_without_an_income_tax_are_known_and_others_are_not(nation):
    found = errors(gates(zeroed(nation, "state_income_tax", ["VT-01"])))
    assert set(found["area"]) == {"VT"}


def test_a_variable_of_one_states_rules_is_zero_elsewhere(nation):
    own = nation[nation["variable"] == "snap"].assign(variable="ca_premium_subsidy")
    elsewhere = ~own["area"].str.startswith("CA")
    own.loc[elsewhere, ["total", "nonzero"]] = 0
    whole = own.loc[own["area"] == "CA", ["total", "nonzero"]].to_numpy()
    own.loc[own["area"] == "US", ["total", "nonzero"]] = whole
    assert errors(gates(pd.concat([nation, own]))).empty


def test_a_variable_that_is_zero_everywhere_is_an_error(nation):
    found = errors(gates(zeroed(nation, "ssi", districts()["name"].tolist())))
    assert found[["area", "variable", "kind"]].to_numpy().tolist() == [["US", "ssi", "zero"]]


def test_an_area_without_a_record_is_named(nation):
    due = sorted(set(nation["area"]) - {"US"})
    found = errors(gates(nation[nation["area"] != "CA-12"], areas=due))
    assert found[["area", "geo_level", "kind"]].to_numpy().tolist() == [["CA-12", "district", "missing"]]
    assert "CA-12 is 0, expected 1 or more; likely: no record was kept" in sentence(found.iloc[0])
    accepted = gates(nation[nation["area"] != "CA-12"], ["*@CA-12: few records"], areas=due)
    assert errors(accepted).empty


def test_what_was_not_asked_for_is_not_missing(nation):
    only = nation[nation["area"].isin(["CA", "CA-12"])]
    assert errors(gates(only, areas=["CA", "CA-12"])).empty


def test_a_further_national_file_and_other_areas_need_not_add_up(nation):
    rows = nation[nation["area"] == "US"]
    few = rows.assign(area="US-50k", households=50_000, nonzero=(rows["nonzero"] / 20).astype(int))
    city = rows.assign(area="NYC", geo_level="other", households=9_000, nonzero=rows["nonzero"] // 100)
    assert errors(gates(pd.concat([nation, few.assign(total=few["total"] * 1.01), city]))).empty
    city.loc[city["variable"] == "snap", ["total", "nonzero"]] = 0
    found = errors(gates(pd.concat([nation, city])))
    assert found[["area", "variable", "kind"]].to_numpy().tolist() == [["NYC", "snap", "zero"]]


def test_no_number_and_a_negative_benefit_are_errors(nation):
    found = errors(gates(set_(nation, "TX-18", "snap", total=np.nan)))
    assert ["TX-18", "snap", "not finite"] in found[["area", "variable", "kind"]].to_numpy().tolist()
    found = errors(gates(set_(nation, "TX-18", "snap", total=-1.0)))
    assert ["TX-18", "snap", "negative"] in found[["area", "variable", "kind"]].to_numpy().tolist()
    # A tax after refundable credits may be below zero.
    found = gates(set_(nation, "TX-18", "income_tax", total=-1.0))
    assert "negative" not in set(found["kind"])


def each_file(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the files of such totals say of themselves."""
    one = table[table["variable"] == "household_count"].rename(columns={"total": "weight"})
    one = one.assign(persons=2 * one["households"])
    return one[["area", "geo_level", "households", "persons", "weight"]]


@pytest.mark.parametrize(
    ("area", "column", "named"),
    [("TX-18", "weight", ["TX", "US"]), ("TX", "households", ["TX", "US"]), ("US", "persons", ["US", "US"])],
)
def test_files_that_do_not_add_up_are_an_error(nation, area, column, named):
    due, files = sorted(set(nation["area"]) - {"US"}), each_file(nation)
    assert errors(gates(nation, areas=due, files=files)).empty
    wrong = files.astype({column: np.float64})
    wrong.loc[wrong["area"] == area, column] *= 1 + 1e-6
    found = errors(gates(nation, [f"{column}@{named[0]}"], areas=due, files=wrong))
    assert sorted(found["area"]) == named
    assert set(found["kind"]) == {"sums"}
    assert set(found["variable"]) == {column}
    assert ((found["figure"] < found["low"]) | (found["figure"] > found["high"])).all()
    rounded = files.astype({column: np.float64})
    rounded.loc[rounded["area"] == area, column] *= 1 + 1e-12
    assert errors(gates(nation, areas=due, files=rounded)).empty


def test_files_of_some_parts_need_not_add_up(nation):
    due, files = sorted(set(nation["area"]) - {"US"}), each_file(nation)
    few = files[~files["area"].isin(["TX-18", "WY"])]
    assert errors(gates(nation, areas=due, files=few)).empty
    alone = files[files["area"].isin(["CA", "CA-12"])]
    assert errors(gates(nation, areas=due, files=alone)).empty
    city = files[files["area"] == "US"]
    more = pd.concat(
        [files, city.assign(area="US-50k", weight=1.0), city.assign(area="NYC", geo_level="other")]
    )
    assert errors(gates(nation, areas=due, files=more)).empty


@pytest.mark.parametrize(("factor", "severity"), [(40, "warning"), (1 / 40, "warning"), (2_000, "error")])
def test_an_outlier_is_found_against_state_and_nation(nation, factor, severity):
    table = nation.copy()
    row = (table["area"] == "CA-12") & (table["variable"] == "snap")
    more = table.loc[row, "total"].iloc[0] * (factor - 1)
    for area in ("CA-12", "CA", "US"):
        table.loc[(table["area"] == area) & (table["variable"] == "snap"), "total"] += more
    found = gates(table)
    found = found[(found["kind"] == "outlier") & (found["area"] == "CA-12")]
    assert found["severity"].tolist() == [severity]
    assert found["variable"].tolist() == ["snap"]
    low, figure, high = found[["low", "figure", "high"]].iloc[0]
    assert (figure > high) if factor > 1 else (figure < low)


def test_known_findings_are_accepted_with_their_reason(nation):
    table = zeroed(nation, "ssi", ["OH-07"])
    for entry in ("ssi", "ssi@OH-07", "ssi@OH-07: few aged"):
        found = gates(table, [entry])
        assert errors(found).empty
        one = found[found["kind"] == "zero"].iloc[0]
        assert (one["severity"], one["accepted"]) == ("warning", entry)
    broken = gates(set_(nation, "TX-18", "snap", total=np.nan), ["snap"])
    assert "not finite" in set(errors(broken)["kind"])
    with pytest.raises(RunError) as refusal:
        refuse(broken)
    assert "verify.accept" not in str(refusal.value)
    found = gates(table, ["ssi@OH-08"])
    assert len(errors(found)) == 1
    assert found.loc[found["kind"] == "accept", "accepted"].tolist() == ["ssi@OH-08"]


def test_warnings_of_the_plan_are_accepted_by_words_of_them(nation):
    warnings = ["12 targets are of other years (2022)", "stored values replace the rules for 2 variables: a"]
    accept = [
        "plan@other years: published so",
        "plan@stored value",
        "plan",
        "plan@zeros: gone",
        "*@other years",
    ]
    assert accepted_warnings(warnings, accept) == warnings
    assert accepted_warnings(warnings, accept[:1]) == warnings[:1]
    assert accepted_warnings(warnings, accept[2:]) == []
    found = gates(nation, accept, warnings=warnings)
    assert found.loc[found["kind"] == "accept", "accepted"].tolist() == [
        "*@other years",
        "plan",
        "plan@zeros: gone",
    ]


def test_a_table_of_another_form_is_refused(nation):
    with pytest.raises(InputError, match="lacks a column; got 'nonzero'"):
        gates(nation.drop(columns="nonzero"))
    with pytest.raises(InputError, match="stands twice"):
        gates(pd.concat([nation, nation.head(1)]))


def test_findings_do_not_depend_on_the_order_of_rows(nation):
    table = zeroed(nation, "ssi", ["OH-07", "CA-12"])
    pd.testing.assert_frame_equal(gates(table), gates(table.sample(frac=1, random_state=1)))
