"""Selecting targets: filters, periods, uprating, reconciliation, rules and reforms, from a database on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from own_database import change

from distcalib.catalogue import OF_THE_WHOLE_FILE, catalogue
from distcalib.config import RunConfig
from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.targets.choose import SELECTED, TargetsWarning, load_targets, select_targets
from distcalib.targets.database import write_database_file
from distcalib.targets.reforms import REFORMS
from distcalib.targets.rules import read_rules
from distcalib.targets.sources import bundled_targets
from distcalib.targets.uprating import factor

ALL = districts()["cd_geoid"].tolist()
STATES = sorted({k // 100 for k in ALL})
REGISTER = "DROP TABLE target_register"


def rows(places, variable, value, *, constraints="", period=2024, reform_id=0, status="fit"):
    level = {2: "national", 1: "state", 0: "district"}
    return pd.DataFrame(
        {
            "variable": variable,
            "reform_id": reform_id,
            "period": period,
            "value": np.asarray(value, dtype=float) * np.ones(len(places)),
            "geo_level": [level[2 * (p == "US") + (p != "US" and int(p) < 100)] for p in map(str, places)],
            "geographic_id": [str(p) for p in places],
            "constraints": constraints,
            "tolerance": 0.05,
            "status": status,
        }
    )


@pytest.fixture(scope="module")
def table():
    """What the two documents select: SNAP and the ACA credit by state and district, of several years."""
    snap, aca = {"constraints": "snap>0"}, {"constraints": "aca_ptc>0", "period": 2022}
    return pd.concat(
        [
            rows(["US"], "snap", 1e11),
            rows(STATES, "snap", np.arange(1, 52) * 1e9, **snap),
            rows(STATES, "household_count", np.arange(1, 52) * 1e5, **snap, period=2023),
            rows(ALL, "household_count", np.arange(1, 437) * 1e3, **snap, period=2023),
            rows(["US"], "person_count", 2e7, constraints="aca_ptc>0"),
            *(rows(STATES, v, np.arange(1, 52) * 1e4, **aca) for v in ("aca_ptc", "tax_unit_count")),
            *(rows(ALL, v, np.arange(1, 437) * 1e2, **aca) for v in ("aca_ptc", "tax_unit_count")),
            rows(["US"], "eitc", 6e10, status="check"),
            rows(["US"], "salt_deduction", 2e10, reform_id=1),
            rows(["US"], "rent", 5e11, status="excluded"),
        ],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def database(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("targets") / "policy_data.db"
    write_database_file(table, path)
    return path


@pytest.fixture
def own(table, tmp_path):
    """A small database that a test may change: two districts of Montana, their state, and the nation."""
    path = tmp_path / "own.db"
    write_database_file(table[table["geographic_id"].isin(["US", "30", "3001", "3002"])], path)
    return path


def test_the_first_documents_filter_gives_its_rows(database):
    """Keys of the filter joined by or: the whole SNAP group, and the national amount outside it."""
    wanted = {"stratum_group_ids": [4], "variables": ["snap"]}
    found = select_targets(f"sqlite:///{database}", 2024, any_of=True, target_filter=wanted, uprate=False)
    assert list(found.columns) == SELECTED
    assert found.groupby("stratum_group_id")["variable"].agg(["size", "nunique"]).to_dict("index") == {
        1: {"size": 1, "nunique": 1},
        4: {"size": 538, "nunique": 2},
    }
    assert found["geo_level"].tolist() == ["national"] + ["state"] * 102 + ["district"] * 436
    assert found.loc[80, ["variable", "geographic_id"]].tolist() == ["snap", "37"]
    assert found.loc[52 + 10, "geographic_id"] == "2"
    # Joined by and, a value that the other keys leave nothing of is no slip.
    wanted = {**wanted, "domain_variables": ["snap", "aca_ptc"]}
    both = select_targets(database, 2024, target_filter=wanted)
    assert both["name"].str.fullmatch(r"state_\d+/snap/\[snap>0\]").all()
    assert len(both) == 51


def test_the_second_documents_rows_and_columns(database):
    domains = ["aca_ptc", "snap"]
    found = select_targets(
        database, 2024, target_filter={"domain_variables": domains}, hierarchical_domains=domains
    )
    sizes = found.groupby(["geo_level", "variable"]).size().to_dict()
    assert sizes == {
        ("national", "person_count"): 1,
        ("state", "snap"): 51,
        ("district", "aca_ptc"): 436,
        ("district", "household_count"): 436,
        ("district", "tax_unit_count"): 436,
    }
    below = found[found["geo_level"] == "district"]
    np.testing.assert_allclose(
        below["value"], below["original_value"] * below["hif"] * below["state_uprating_factor"]
    )
    households = below[below["variable"] == "household_count"]
    assert households["uprating_factor"].tolist() == [float(factor("household_count", 2023, 2024))] * 436
    sums = households["value"].groupby(households["geographic_id"].astype(int) // 100).sum()
    growth = factor("household_count", 2023, 2024)
    np.testing.assert_allclose(sums.to_numpy(), np.arange(1, 52) * 1e5 * growth)
    assert (found["target_period"] == 2024).all()
    assert set(below["period"]) == {2022, 2023}
    # Without reconciliation every row stays, with the factor of the nation.
    plain = select_targets(database, 2024, target_filter={"domain_variables": domains})
    assert len(plain) == 1 + 51 * 4 + 436 * 3
    np.testing.assert_allclose(plain["value"], plain["original_value"] * plain["uprating_factor"])
    assert plain["hif"].isna().all()


def test_statuses_and_reforms_of_a_register(database):
    found = select_targets(database, 2024).set_index("variable")
    assert found.loc["eitc", "status"] == "check"
    assert "rent" not in found.index
    assert found.loc["salt_deduction", "name"] == "national/salt_deduction_expenditure"
    order = found.assign(
        level=found["geo_level"].map({"national": 0, "state": 1, "district": 2}), variable=found.index
    )
    key = order[["level", "variable", "reform_id", "geographic_id", "target_id"]].to_records(index=False)
    assert key.tolist() == sorted(key.tolist())


def test_the_bundled_table_is_selected_with_its_statuses():
    found = select_targets("bundled", 2024, target_filter={"geo_levels": ["national"]})
    assert set(found["status"]) == {"fit", "check"}
    assert (found["geographic_id"] == "US").all()
    assert (found["reform_id"] == 0).all()
    older = found[found["period"] < 2024]
    assert len(older)
    assert (older["uprating_factor"] > 1).all()
    published = bundled_targets().query("geo_level == 'national' and status != 'excluded'")
    same = found.merge(published, on=["variable", "constraints", "period"], suffixes=("", "_published"))
    same = same[same["moe"].notna()]
    assert len(same)
    np.testing.assert_allclose(same["moe"], same["moe_published"] * same["uprating_factor"])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"variable": ["snap"]}, ["target_filter", "'variable'", "'variables'"]),
        ({"variables": ["snapp"]}, ["variables", "'snapp'", "'snap'"]),
        ({"variables": "snap"}, ["is not a list"]),
        ({"domain_variables": ["aca"]}, ["domain_variables", "'aca'"]),
        ({"geo_levels": ["county"]}, ["geo_levels", "'county'"]),
        ({"stratum_group_ids": [3]}, ["stratum_group_ids", "got 3"]),
        ({"variables": ["salt_deduction"], "geo_levels": ["county"]}, ["geo_levels", "'county'"]),
        ({"variables": ["salt_deduction"], "geo_levels": ["state"]}, ["no active target passes the filter"]),
        ({"target_ids": []}, ["no active target passes the filter"]),
    ],
)
def test_a_filter_that_finds_nothing_is_named(own, wanted, words):
    with pytest.raises(InputError) as error:
        select_targets(own, 2024, target_filter=wanted)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_database_without_register_and_groups_is_selected_whole(own):
    change(
        own,
        "DROP VIEW target_overview",
        REGISTER,
        "ALTER TABLE strata DROP COLUMN stratum_group_id",
        "UPDATE targets SET active = 0 WHERE variable = 'eitc'",
    )
    found = select_targets(own, 2024)
    assert set(found["status"]) == {"fit"}
    assert found["stratum_group_id"].isna().all()
    assert "eitc" not in set(found["variable"])


def test_periods_are_chosen_among_what_the_filter_passes(own):
    change(
        own,
        "INSERT INTO targets (target_id, variable, period, stratum_id, reform_id, value, active) "
        "SELECT target_id + 1000, variable, 2023, stratum_id, reform_id, 1, 1 FROM targets "
        "WHERE variable = 'snap'",
        REGISTER,
    )
    snap = {"target_filter": {"variables": ["snap"]}, "uprate": False}
    assert (select_targets(own, 2024, **snap)["period"] == 2024).all()
    assert (select_targets(own, 2023, **snap)["value"] == 1).all()
    assert (select_targets(own, 2022, **snap)["period"] == 2023).all()
    ids = select_targets(own, 2023, **snap)["target_id"].tolist()
    old = select_targets(own, 2024, target_filter={"target_ids": ids})
    np.testing.assert_allclose(old["value"], float(factor("snap", 2023, 2024)))


def test_unknown_reforms_are_left_out_by_name(own):
    change(own, "UPDATE targets SET reform_id = 9 WHERE variable = 'salt_deduction'", REGISTER)
    with pytest.warns(TargetsWarning, match="reform 9 of salt_deduction is not known"):
        found = select_targets(own, 2024)
    assert (found["reform_id"] == 0).all()
    chosen = load_targets(own, 2024, ALL)
    assert any("reform 9" in w for w in chosen.warnings)
    assert chosen.excluded.set_index("variable").loc["salt_deduction", "reason"].startswith("reform 9 of")
    # The number of one reform with the variable of another is not known either.
    change(own, "UPDATE targets SET reform_id = 2 WHERE variable = 'salt_deduction'")
    with pytest.warns(TargetsWarning, match="reform 2 of salt_deduction is not known"):
        select_targets(own, 2024)


def test_a_negative_reform_is_not_known_either(own):
    change(own, "UPDATE targets SET reform_id = -1 WHERE variable = 'salt_deduction'")
    chosen = load_targets(own, 2024, ALL)
    assert (chosen.rows["reform_id"] == 0).all()
    reason = chosen.excluded.set_index("variable").loc["salt_deduction", "reason"]
    assert reason == "reform -1 of salt_deduction is not known"
    assert any("reform -1" in w for w in chosen.warnings)


def test_known_reforms_are_rows_of_a_run(own):
    assert all(v in catalogue() for reform in REFORMS.values() for v in reform.variables)
    found = load_targets(own, 2024, ALL).rows.set_index("reform_id")
    assert found.loc[1, "name"] == "national/salt_deduction_expenditure"
    assert found.loc[1, "status"] == "fit"


def test_targets_that_depend_on_the_whole_file_are_left_out_of_a_run_by_name(table, tmp_path):
    more = [
        rows(["US"], "medicaid", 9e11),
        rows(["US"], "ssi+medicaid_cost", 9e11),
        rows(["US"], "household_count", 1e7, constraints="household_income_decile==1"),
        rows(["US"], "person_count", 7e7, constraints="medicaid_enrolled==True"),
    ]
    path = tmp_path / "own.db"
    write_database_file(pd.concat([table, *more], ignore_index=True), path)
    found = load_targets(path, 2024, ALL)
    lost = found.excluded[found.excluded["reason"].str.contains("everybody")]
    assert sorted(lost["variable"]) == ["household_count", "medicaid", "ssi+medicaid_cost"]
    assert any("household_income_decile, medicaid, medicaid_cost" in w for w in found.warnings)
    assert "person_count" in set(found.rows["variable"])


def test_the_list_of_such_variables_is_of_the_rules_engine():
    assert not [v for v in OF_THE_WHOLE_FILE if v not in catalogue()]


def test_unasked_strata_need_not_be_readable(own):
    change(own, "UPDATE stratum_constraints SET operation = '~' WHERE constraint_variable = 'aca_ptc'")
    assert len(select_targets(own, 2024, target_filter={"variables": ["snap"]})) == 2
    with pytest.raises(InputError, match="unknown operator"):
        select_targets(own, 2024)


def test_a_run_uprates_and_reconciles_when_it_is_told_to(own):
    plain = load_targets(own, 2024, ALL)
    assert (plain.rows["value"] == plain.rows["original_value"]).all()
    assert any("used as published" in w for w in plain.warnings)
    carried = load_targets(own, 2024, ALL, uprate=True)
    assert any("carried to 2024" in w for w in carried.warnings)
    assert carried.rows_digest() == plain.rows_digest()
    assert carried.values_digest() != plain.values_digest()
    older = carried.rows["period"] < 2024
    assert (carried.rows.loc[older, "value"] > plain.rows.loc[older, "value"]).all()

    scaled = load_targets(own, 2024, ALL, uprate=True, hierarchical_domains=["snap"])
    assert scaled.rows_digest() != carried.rows_digest()
    gone = scaled.excluded[scaled.excluded["variable"] == "household_count"]
    assert gone["geo_level"].tolist() == ["state"]
    assert gone["reason"].str.contains("of another year than 2024").all()
    below = scaled.rows[scaled.rows["name"].str.match(r"cd_300\d/household_count")]
    state = gone["value"].item()
    np.testing.assert_allclose(below["value"].sum(), state)
    unscaled = load_targets(own, 2024, ALL, hierarchical_domains=["snap"]).rows
    here = unscaled["name"].str.contains("household_count")
    np.testing.assert_allclose(unscaled.loc[here, "value"].max(), gone["original_value"].item())


def test_multipliers_that_nothing_uses_are_refused(own, tmp_path):
    for settings in ({}, {"uprate": True}, {"hierarchical_domains": ["aca_ptc"]}):
        with pytest.raises(InputError, match="aca_multipliers: is not used"):
            load_targets(own, 2024, ALL, aca_multipliers=tmp_path / "growth_2022_2024.csv", **settings)


def test_rules_of_a_run(own, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        "include:\n- domain_variable: snap\nexclude:\n- {variable: household_count, geo_level: state}\n"
    )
    chosen = load_targets(own, 2024, ALL, rules=read_rules(path), uprate=True, hierarchical_domains=["snap"])
    assert set(chosen.rows["name"]) == {
        "cd_3001/household_count/[snap>0]",
        "cd_3002/household_count/[snap>0]",
        "state_30/snap/[snap>0]",
    }
    # The state's figure scales its districts though no rule includes it.
    assert chosen.rows["hif"].notna().sum() == 2
    reasons = chosen.excluded.set_index("variable")["reason"]
    assert reasons["eitc"] == "left out by the rules of targets.rules"
    path.write_text("include:\n- variable: rent\n")
    with pytest.raises(InputError, match=r"matches no target.*matches excluded targets"):
        load_targets(own, 2024, ALL, rules=read_rules(path))


def ruled(path, lines, source, **settings):
    path.write_text(lines)
    return load_targets(source, 2024, ALL, rules=read_rules(path), **settings)


def test_rules_put_the_tax_expenditures_of_the_register_to_use(tmp_path):
    plain = load_targets("bundled", 2024, ALL)
    text = "check:\n- name: '*_expenditure'\nfit:\n- {variable: salt_deduction, reform_id: 1}\n"
    chosen = ruled(tmp_path / "rules.yaml", text, "bundled")
    new = chosen.rows[chosen.rows["reform_id"] > 0]
    assert sorted(new["reform_id"]) == sorted(REFORMS)
    assert (new["status"] == "check").all(), "what fit and check match is checked"
    assert any(
        w.startswith("5 targets that the database excludes have a status by the rules")
        for w in chosen.warnings
    )
    same = [c for c in chosen.rows if c != "group_id"]
    others = chosen.rows[chosen.rows["reform_id"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(others[same], plain.rows[same])
    fitted = ruled(tmp_path / "rules.yaml", text.partition("fit:")[2].join(["fit:", ""]), "bundled")
    row = fitted.rows[fitted.rows["reform_id"] > 0]
    assert row[["variable", "status", "reason"]].to_numpy().tolist() == [
        ["salt_deduction", "fit", "by the rules of targets.rules"]
    ]
    # The older vintages that the rule matches too lose to the newer ones again, and are not counted.
    credit = ruled(tmp_path / "rules.yaml", "fit:\n- variable: eitc\n", "bundled")
    assert not [w for w in credit.warnings if "have a status by the rules" in w]


def test_rules_of_status_come_before_periods_and_before_include_and_exclude(own, tmp_path):
    change(
        own,
        "INSERT INTO targets (target_id, variable, period, stratum_id, reform_id, value, active) "
        "SELECT target_id + 1000, variable, 2023, stratum_id, reform_id, 1, 0 FROM targets "
        "WHERE variable IN ('snap', 'rent')",
    )
    rules = tmp_path / "rules.yaml"
    chosen = ruled(rules, "check:\n- variable: rent\nexclude:\n- variable: snap\n", own).rows
    assert chosen.set_index("variable").loc["rent", ["period", "status"]].tolist() == [2024, "check"]
    assert "snap" not in set(chosen["variable"])
    chosen = ruled(rules, "check:\n- {variable: rent, period: 2023}\n", own).rows
    assert chosen.set_index("variable").loc["rent", "value"] == 1
    assert "rent" not in set(
        ruled(rules, "check:\n- variable: rent\ninclude:\n- variable: snap\n", own).rows.variable
    )
    with pytest.raises(InputError, match=r"matches no target.*\(the figure of another period is used\)"):
        ruled(rules, "fit:\n- {variable: snap, period: 2023}\n", own)
    with pytest.raises(InputError, match=r"check, rule 1.*\(variable: rent\)"):
        ruled(rules, "check:\n- variable: rents\n", own)


def test_a_rule_cannot_use_a_target_whose_stratum_cannot_be_read(table, tmp_path):
    path = tmp_path / "own.db"
    lost = rows(["US"], "person_count", 1e6, constraints="wic>0", status="excluded")
    write_database_file(pd.concat([table.iloc[:1], lost], ignore_index=True), path)
    change(path, "UPDATE stratum_constraints SET operation = '~' WHERE constraint_variable = 'wic'")
    assert load_targets(path, 2024, ALL).rows["variable"].tolist() == ["snap"]
    with pytest.raises(InputError, match="unknown operator"):
        ruled(tmp_path / "rules.yaml", "fit:\n- variable: person_count\n", path)


def test_a_variable_whose_targets_are_all_excluded_is_named_with_the_reasons(own):
    with pytest.raises(InputError, match=r"all 1 targets of this variable are excluded.*'rent'"):
        load_targets(own, 2024, ALL, variables=["snap", "rent"])
    words = "got 'eitc'.*1 the run does not cover this area whole"
    with pytest.raises(InputError, match=words):
        load_targets(own, 2024, [3001, 3002], variables=["snap", "eitc"])
    assert set(load_targets(own, 2024, [3001, 3002], variables=["snap"]).rows["variable"]) == {"snap"}


def test_settings_name_files_beside_themselves(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "targets: {rules: my/rules.yaml, aca_multipliers: growth_2022_2024.csv, uprate: true,"
        " hierarchical_domains: [snap]}\n"
    )
    targets = RunConfig.load(tmp_path / "run.yaml").targets
    assert targets.rules == str(tmp_path / "my/rules.yaml")
    assert targets.aca_multipliers == str(tmp_path / "growth_2022_2024.csv")
    assert targets.hierarchical_domains == ("snap",)
    assert not RunConfig().targets.uprate
