"""Contradictions among targets: each kind is found where it is planted, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from own_database import change

from distcalib.cli import main
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.targets.choose import load_targets
from distcalib.targets.contradiction_checks import finding_kinds
from distcalib.targets.contradictions import find_contradictions, summary
from distcalib.targets.database import read_targets, write_database_file
from distcalib.targets.reforms import REFORMS
from distcalib.targets.sources import bundled_targets

FILER = "tax_unit_is_filer==1"
PLACES = {
    "national": ["US"],
    "state": [str(s) for s in STATE_CODES],
    "district": [str(d) for d in districts()["cd_geoid"]],
}


def bundled(variable, constraints="", level=None):
    table = bundled_targets()
    keep = (table["variable"] == variable) & (table["constraints"] == constraints)
    keep &= (table["status"] != "excluded") & (table["geo_level"] == (level or table["geo_level"]))
    assert keep.any()
    return table[keep].assign(status="fit", reason="")


def rows(variable, value, constraints="", level="national", area=None, **more):
    """Rows of one quantity: one value, or one for each area of the level in turn."""
    areas = PLACES[level] if area is None else [area]
    base = dict.fromkeys(
        ("reason", "unit", "concept", "population", "source", "table", "vintage", "note"), ""
    )
    base |= {"variable": variable, "constraints": constraints, "geo_level": level, "reform_id": 0}
    base |= {"period": 2024, "moe": np.nan, "tolerance": 0.05, "status": "fit"}
    values = value if isinstance(value, list) else [value] * len(areas)
    return pd.DataFrame(
        [{**base, "geographic_id": a, "value": v} | more for a, v in zip(areas, values, strict=True)]
    )


@pytest.fixture(scope="module")
def clean():
    """Official figures that agree with each other and that the microdata can mean."""
    return pd.concat(
        [
            bundled("household_count"),
            bundled("eitc"),
            bundled("tax_unit_count", "eitc>0"),
            bundled("real_estate_taxes"),
            bundled("tax_unit_count", f"adjusted_gross_income<75000&adjusted_gross_income>=50000&{FILER}"),
            bundled("tax_unit_count", f"adjusted_gross_income>=1000000&{FILER}"),
        ],
        ignore_index=True,
    )


@pytest.fixture
def database(tmp_path):
    """A user's database, without our register; statements change it afterwards."""

    def write(table, *statements, register=False):
        path = tmp_path / "policy_data.db"
        write_database_file(table, path)
        change(path, *([] if register else ["DROP TABLE target_register"]), *statements)
        return path

    return write


@pytest.fixture
def find(database, clean):
    """Findings of the clean table with other rows (or of `alone`), as a user's database."""

    def run(*more, statements=(), register=False, alone=None):
        table = pd.concat([*([clean] if alone is None else []), *more], ignore_index=True)
        return find_contradictions(read_targets(database(table, *statements, register=register)))

    return run


def kinds(findings):
    return set(findings["kind"])


def test_a_database_without_contradictions_has_no_finding(find):
    assert find().empty


def test_districts_below_their_state_are_found_for_that_state_alone(find, clean):
    fewer = clean.copy()
    there = (fewer["geo_level"] == "district") & (fewer["geographic_id"].astype(str).str.match(r"6\d\d$"))
    there &= fewer["variable"] == "household_count"
    fewer.loc[there, "value"] *= 0.54
    assert there.sum() == 52
    found = find(fewer, alone=True)
    assert list(found["kind"]) == ["levels disagree"]
    assert (found["severity"].iloc[0], found["geographic_id"].iloc[0]) == ("error", "6")
    assert found["ratio"].iloc[0] == pytest.approx(0.54, abs=0.001)
    assert len(found["target_ids"].iloc[0].split()) == 53


def test_states_and_districts_are_compared_with_the_nation(find):
    found = find(
        rows("tanf", 2e9, level="state"), rows("tanf", 5e10), rows("wages_x", 1e9, level="district")
        .assign(variable="child_support_expense"), rows("child_support_expense", 1e12),
    )  # fmt: skip
    found = found[found["kind"] == "levels disagree"]
    assert list(found.sort_values("variable")["compared_with"].str.extract(r"sum of (\w+)")[0]) == [
        "districts",
        "states",
    ]


def test_sums_within_the_combined_margins_agree(find, clean, database):
    less = clean.copy()
    of_state = (less["geo_level"] == "state") & (less["variable"] == "household_count")
    at = less[of_state & (less["geographic_id"] == "56")].index[0]
    # Wyoming has one district; both have margins, which count as the root of their squares.
    less.loc[at, "value"] += 1.3 * less.loc[at, "moe"]
    less.loc[at, "moe"] = max(less.loc[at, "moe"], 0.02 * less.loc[at, "value"])
    within = find_contradictions(read_targets(database(less, register=True)))
    assert "levels disagree" not in kinds(within)
    less["moe"] = np.nan
    less.loc[at, "value"] *= 1.02
    beyond = find(less, alone=True)
    assert set(beyond.loc[beyond["kind"] == "levels disagree", "geographic_id"]) == {"56"}


def test_missing_unknown_and_otherwise_spelled_areas(find, clean):
    some = clean[~clean["geographic_id"].isin(["604", "201", "1101"])]
    strange = rows("household_count", 1000.0, level="district", area="699")
    spelled = clean[clean["geographic_id"].isin(["201", "1101"])].replace(
        {"geographic_id": {"201": "200", "1101": "1198"}}
    )
    found = find(some, strange, spelled, alone=True).set_index("kind")
    assert "604" in found.loc["incomplete", "compared_with"].split()
    assert found.loc["incomplete", "value"] == 435
    assert found.loc["unknown area", "geographic_id"] == "699"
    other = found.loc[["area spelled otherwise"]]
    assert set(other["geographic_id"]) == {"201", "1101"}
    assert set(other["compared_with"]) == {"spelled 200", "spelled 1198"}


def test_a_stricter_set_above_the_wider_one(find, clean):
    wide = clean[(clean["variable"] == "household_count") & (clean["geographic_id"] == "56")]
    strict = wide.assign(constraints="snap>0&household_size>=2", value=wide["value"] * 1.1)
    both = wide.assign(constraints="snap>0", value=wide["value"] * 0.9)
    found = find(strict, both)
    found = found[found["kind"] == "subset above its set"]
    assert set(found["compared_with"]) == {"[]", "[snap>0]"}
    assert set(found["severity"]) == {"error"}
    assert set(found["geographic_id"]) == {"56"}


def test_bands_that_miss_or_exceed_their_total(find):
    def bands(area, share):
        total = rows("child_support_expense", 100.0, level="state", area=area)
        parts = [("age>-1&age<=17", 0.3), ("age>=18&age<65", 0.5), ("age>=65&age<1000", 0.2)]
        # A band of bands is no second half of the sum.
        parts.append(("age>=18&age<1000", 0.7))
        return [total, *(rows("child_support_expense", 100 * share * s, c, "state", area) for c, s in parts)]

    found = find(*bands("1", 1.0), *bands("2", 0.9), *bands("4", 1.1))
    found = found[found["kind"] == "bands disagree"]
    assert dict(zip(found["geographic_id"], found["ratio"].round(2), strict=True)) == {"2": 0.9, "4": 1.1}
    assert set(found["compared_with"].str.contains("3 bands of age")) == {True}
    open_bands = [rows("tanf", 100.0), rows("tanf", 20.0, "age<18"), rows("tanf", 20.0, "age>=40")]
    assert "bands disagree" not in kinds(find(*open_bands))


def test_two_vintages_and_two_concepts(find, clean):
    older = clean[clean["variable"] == "eitc"].assign(period=2022)
    found = find(older, rows("taxable_interest_income", 3e11, FILER), rows("taxable_interest_income", 19e11))
    two = found[found["kind"] == "two periods"]
    assert len(two) == 52
    assert set(two["compared_with"]) == {"period 2022"}
    assert set(found.loc[found["kind"] == "two concepts", "variable"]) == {"taxable_interest_income"}


def test_a_monthly_amount_is_found_by_the_register_levels_periods_and_recipients(find):
    aca = bundled("assigned_aca_ptc", level="state").assign(variable="aca_ptc")
    by_register = find(aca.assign(value=aca["value"] / 12))
    assert len(by_register.query("kind == 'looks monthly' and severity == 'error'")) == 51
    persons = bundled("person_count", "aca_ptc>0&person_receives_aca==True", level="state")
    both = find(aca.assign(value=aca["value"] / 12), persons.assign(constraints="aca_ptc>0"))
    assert (
        both["compared_with"].str.contains("dollars for each of person_count; against: bundled").sum() == 51
    )
    by_level = find(rows("tanf", 1e9 / 51, level="state"), rows("tanf", 12e9))
    assert set(by_level.query("kind == 'looks monthly'")["geographic_id"]) == {"US"}
    by_past = find(rows("tanf", 1e9), rows("tanf", 12e9, period=2022))
    assert "period 2022" in set(by_past.query("kind == 'looks monthly'")["compared_with"])
    dollars = [1200.0 * 50] * 50 + [100.0 * 50]
    by_area = find(
        rows("tanf", dollars, level="state"), rows("household_count", 50.0, "tanf>0", level="state")
    )
    monthly = by_area[by_area["kind"] == "looks monthly"]
    assert list(monthly["geographic_id"]) == [PLACES["state"][-1]]
    assert monthly["ratio"].iloc[0] == pytest.approx(1 / 12)


def test_tax_expenditures_are_a_note_as_reforms_and_an_error_as_amounts(find):
    names = ["salt_deduction", "medical_expense_deduction", "charitable_deduction"]
    values = [21.247e9, 11.4e9, 65.301e9]
    reforms = [rows(n, v, reform_id=i + 1) for i, (n, v) in enumerate(zip(names, values, strict=True))]
    found = find(*reforms)
    assert set(found["variable"]) == set(names)
    assert set(found["kind"] + found["severity"]) == {"reformnote"}
    as_amount = find(*(r.assign(reform_id=0) for r in reforms))
    assert set(as_amount["variable"]) == set(names)
    assert set(as_amount["kind"] + as_amount["severity"]) == {"tax expenditure as amounterror"}


def test_what_is_said_of_sums_and_reforms_is_what_a_run_does(tmp_path):
    path = tmp_path / "own.db"
    asked = [
        rows("taxable_interest_income+dividend_income", 309.7e9, FILER),
        *(rows(reform.variables[0], 1e10, reform_id=number) for number, reform in REFORMS.items()),
    ]
    write_database_file(pd.concat(asked, ignore_index=True), path)
    taken = load_targets(path, 2024, districts()["cd_geoid"].tolist()).rows
    assert set(taken["reform_id"]) == {0, *REFORMS}
    assert "taxable_interest_income+dividend_income" in set(taken["variable"])
    why = finding_kinds()["why"]
    assert "A run adds them up" in why["sum of variables"]
    assert f"A run simulates reforms {min(REFORMS)} to {max(REFORMS)}" in why["reform"]


def test_a_total_below_its_part_or_the_sum_of_its_parts(find):
    found = find(
        rows("taxable_interest_income+dividend_income", 309.7e9, FILER),
        rows("qualified_dividend_income", 354.3e9, FILER),
        rows("social_security", 1454e9),
        rows("social_security_retirement", 1060e9),
        rows("social_security_disability", 448e9),
    )
    below = found[found["kind"] == "whole below its part"]
    assert list(below["variable"]) == ["social_security", "taxable_interest_income+dividend_income"]
    assert list(below["against"]) == [1508e9, 354.3e9]
    assert "sum of variables" in kinds(found)


def test_a_national_figure_far_from_the_official_one_names_its_source(find, clean):
    taxes = clean["variable"] == "real_estate_taxes"
    other = clean[taxes & (clean["geo_level"] == "state")]
    other = other.assign(value=other["value"] * 159 / 370)
    found = find(clean[~taxes], other, rows("taxable_pension_income", 1522.5e9, FILER), alone=True)
    concept = found[found["kind"] == "another concept"]
    assert list(concept["variable"]) == ["real_estate_taxes"]
    assert concept["severity"].iloc[0] == "error"
    assert concept["value"].iloc[0] == pytest.approx(159e9, rel=0.01)
    assert "sum of the states; bundled: US Census Bureau" in concept["compared_with"].iloc[0]
    assert list(found.loc[found["kind"] == "far from the register", "variable"]) == ["taxable_pension_income"]


def test_group_quarters_are_told_where_households_stand_beside(find):
    found = find(bundled("person_count"), bundled("person_count", "age<10&age>=5").replace(
        {"constraints": {"age<10&age>=5": "age>4&age<10"}}))  # fmt: skip
    people = found[found["kind"] == "population"]
    assert people.groupby("constraints").size().to_dict() == {"": 488, "age<10&age>=5": 488}
    assert people["compared_with"].str.contains("group quarters included").all()
    assert people["severity"].eq("note").all()


def test_margins_come_from_the_register_where_the_database_has_none(find):
    found = find(bundled("household_count", "snap>0"))
    wide = found[found["kind"] == "wide margin"]
    assert len(wide) == 215
    assert set(wide["compared_with"]) == {"value: margin of error; 49 % of the rows"}
    assert "average month" in kinds(found)


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("no value", "UPDATE targets SET value = NULL WHERE target_id = 1"),
        ("negative", "UPDATE targets SET value = -5 WHERE target_id = 1"),
        ("zero", "UPDATE targets SET value = 0 WHERE target_id = 1"),
        ("unknown variable", "UPDATE targets SET variable = 'eitcc' WHERE variable = 'eitc'"),
        ("unreadable", "UPDATE stratum_constraints SET operation = '~' WHERE value = '75000'"),
        ("unreadable", "UPDATE stratum_constraints SET constraint_variable = 'eitcc' "
         "WHERE constraint_variable = 'eitc'"),
        ("unreadable", "UPDATE stratum_constraints SET operation = '>=' "
         "WHERE constraint_variable = 'state_fips'"),
        ("unreadable", "UPDATE stratum_constraints SET value = '40000' WHERE value = '75000'"),
        ("stands twice", "UPDATE stratum_constraints SET value = '5' WHERE value = '6' AND "
         "constraint_variable = 'state_fips'"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong_by_themselves(find, kind, statement):
    assert kind in kinds(find(statements=[statement]))


def test_what_is_checked_and_not_fitted_is_a_warning(find, clean):
    strange = clean[clean["variable"] == "real_estate_taxes"].assign(status="check", reason="a test")
    strange = strange.assign(value=strange["value"] * 0.3)
    others = clean[clean["variable"] != "real_estate_taxes"]
    found = find(others, strange, alone=True, register=True)
    assert set(found.loc[found["kind"] == "another concept", "severity"]) == {"warning"}
    excluded = find(others, strange.assign(status="excluded"), alone=True, register=True)
    assert excluded.empty


def test_the_listing_has_one_line_a_quantity_with_the_worst_area(find, clean):
    fewer = clean.copy()
    one = (fewer["geo_level"] == "district") & (fewer["variable"] == "household_count")
    fewer.loc[one, "value"] *= 0.9
    fewer.loc[one & fewer["geographic_id"].eq("5601"), "value"] *= 0.5
    table = summary(find(fewer, alone=True))
    levels = table[table["kind"] == "levels disagree"]
    assert list(levels["areas"]) == [51]
    assert list(levels["geographic_id"]) == ["56"]


def test_the_bundled_register_has_no_error(clean):
    found = find_contradictions(read_targets("bundled"))
    assert not (found["severity"] == "error").any()
    assert set(found["kind"]) <= set(finding_kinds().index)
    assert {"population", "wide margin", "average month"} <= kinds(found)


def test_the_command_exits_with_1_for_errors_and_writes_every_area(database, clean, tmp_path):
    run = CliRunner()
    path = database(clean)
    good = run.invoke(main, ["data", "contradictions", "--database", str(path)])
    assert (good.exit_code, good.output) == (0, "no contradictions\n")
    path.unlink()
    snap = bundled("household_count", "snap>0")
    snap.loc[snap["geo_level"] == "district", "value"] *= 0.7
    path = database(pd.concat([clean, snap], ignore_index=True))
    out = tmp_path / "findings.csv"
    bad = run.invoke(main, ["data", "contradictions", "--database", str(path), "--output", str(out)])
    assert bad.exit_code == 1
    assert "error: levels disagree" in bad.output
    written = pd.read_csv(out)
    assert (written["kind"] == "levels disagree").sum() == 51
    assert written["why"].notna().all()
    missing = run.invoke(main, ["data", "contradictions", "--database", str(tmp_path / "none.db")])
    assert missing.exit_code == 2
