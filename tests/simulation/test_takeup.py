"""Take-up flags and placement: pure functions of donor, clone and place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.catalogue import ENTITIES, Variable, catalogue
from distcalib.errors import InputError
from distcalib.geography import STATE_CODES, assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.simulation.place import _without, place
from distcalib.simulation.takeup import (
    _DEFAULT_IS_FALSE,
    _INCOME,
    draw_take_up,
    drawn_variables,
    rates,
    rates_digest,
    read_rates,
    take_up_inputs,
    unit_income,
)


@pytest.fixture(scope="module")
def assignment(small):
    return assign_geography(small.ids["household"], 4, districts(), county_shares(), 1)


def test_every_rate_is_a_share_with_a_source_and_every_state_has_one():
    table = rates()
    assert table["rate"].between(0, 1).all()
    assert (table["source"].str.len() > 10).all()
    by_state = table[table["by"] == "state"]
    assert set(by_state["key"]) == set(STATE_CODES.values())
    for variable in drawn_variables():
        assert catalogue().variables[variable].is_input
        assert catalogue().variables[variable].value_type == "bool"


def left_to_the_rules() -> pd.DataFrame:
    return rates().query("by == 'rules'")


def test_every_take_up_input_of_the_rules_has_a_row():
    inputs = set(take_up_inputs())
    assert inputs == set(rates()["variable"])
    # The issue's own list, which the rule must find.
    for program in ("snap", "tanf", "ssi", "medicaid", "chip", "wic", "medicare", "aca", "head_start"):
        assert f"takes_up_{program}_if_eligible" in inputs
    assert {"takes_up_eitc", "takes_up_dc_ptc", "would_file_taxes_voluntarily"} <= inputs
    assert set(drawn_variables()) == inputs - set(left_to_the_rules()["variable"])


def test_what_is_left_to_the_rules_has_the_default_that_its_row_says():
    from policyengine_us.system import system

    for row in left_to_the_rules().itertuples():
        assert system.variables[row.variable].default_value == bool(row.rate), row.variable
        assert "the rules' default" in row.source
    for name in take_up_inputs():
        assert system.variables[name].default_value == (name not in _DEFAULT_IS_FALSE), name
    named = {n for n in system.variables if n.startswith(("takes_up_", "would_file_"))}
    assert named == set(take_up_inputs())


@pytest.mark.parametrize("name", ["takes_up_liheap_if_eligible", "would_claim_liheap", "liheap_choice"])
def test_a_new_take_up_input_without_a_rate_is_an_error_that_names_it(monkeypatch, tmp_path, name):
    rates().to_csv(tmp_path / "rates.csv", index=False)
    label = "Whether a household takes up LIHEAP" if name == "liheap_choice" else ""
    known = catalogue()
    more = known.variables | {name: Variable(name, "spm_unit", "bool", True, "year", label)}
    monkeypatch.setattr("distcalib.simulation.takeup.catalogue", lambda: replace(known, variables=more))
    rates.cache_clear()
    with pytest.raises(InputError, match=rf"take_up\.csv: 1 take-up inputs .* have no rate; got '{name}'"):
        rates()
    monkeypatch.undo()
    assert name not in set(rates()["variable"])


def test_a_table_of_ones_own_covers_every_take_up_input(tmp_path):
    path = tmp_path / "rates.csv"
    lost = rates()["variable"].isin(["takes_up_eitc", "takes_up_snap_if_eligible"])
    rates()[~lost].to_csv(path, index=False)
    with pytest.raises(
        InputError, match=r"rates\.csv: 2 take-up inputs .*rows for takes_up_eitc, takes_up_snap"
    ):
        read_rates(path)


def test_a_flag_is_left_to_the_rules_only_at_their_default(tmp_path):
    path = tmp_path / "rates.csv"
    eitc = rates()["variable"] == "takes_up_eitc"
    rates().assign(rate=rates()["rate"].mask(eitc, 0.808)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"line \d+: takes_up_eitc: is left to the rules, but.*got 0\.808"):
        read_rates(path)
    own = rates().assign(rate=rates()["rate"].mask(eitc, 0.808), by=rates()["by"].mask(eitc, ""))
    own.to_csv(path, index=False)
    assert "takes_up_eitc" in drawn_variables(read_rates(path))


@pytest.mark.parametrize(
    ("variable", "default"), [("takes_up_wic_if_eligible", 1.0), ("would_file_taxes_voluntarily", 0.0)]
)
def test_a_flag_that_the_bundled_table_draws_may_be_left_to_the_rules(tmp_path, variable, default):
    path = tmp_path / "rates.csv"
    others = rates()[rates()["variable"] != variable]
    own = {
        "variable": variable,
        "by": "rules",
        "key": "",
        "reported": "",
        "of": "",
        "source": "an older table",
    }
    for rate in (default, 1 - default):
        pd.concat([others, pd.DataFrame([own | {"rate": rate}])]).to_csv(path, index=False)
        if rate == default:
            assert variable not in drawn_variables(read_rates(path))
        else:
            with pytest.raises(InputError, match=rf"{variable}: is left to the rules, but at a rate"):
                read_rates(path)


def test_flags_left_to_the_rules_are_as_the_microdata_store_them_or_not_in_the_file(small, assignment):
    left = set(left_to_the_rules()["variable"])
    columns = np.arange(50)
    assert not left & set(place(small, assignment, columns).variables())
    claims = np.arange(small.count("tax_unit")) % 3 == 0
    stored = place(small.with_columns({"takes_up_eitc": claims}), assignment, columns)
    kept = claims[stored.ids["tax_unit"] % small.count("tax_unit")]
    np.testing.assert_array_equal(stored.column("takes_up_eitc"), kept)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_batch_changes_a_flag(small, data):
    """Any units, in any order, in any company, as often as you like: the flags of the whole."""
    seed = data.draw(st.integers(0, 2**31))
    n_clones, states = 3, np.array(list(STATE_CODES))
    whole, picked = [{}, {}, {}], [{}, {}, {}]
    chosen = {}
    for entity in ENTITIES:
        n = small.count(entity)
        columns = np.arange(n * n_clones)
        row, clone = columns % n, columns // n
        parts = (row, clone, states[(row * 7 + clone) % len(states)])
        chosen[entity] = np.array(
            data.draw(st.lists(st.integers(0, n * n_clones - 1), max_size=30)), dtype=int
        )
        for at, part in enumerate(parts):
            whole[at][entity], picked[at][entity] = part, part[chosen[entity]]
    together, apart = draw_take_up(small, *whole, seed), draw_take_up(small, *picked, seed)
    assert set(apart) == set(drawn_variables())
    for variable, flags in apart.items():
        entity = catalogue().variables[variable].entity
        np.testing.assert_array_equal(flags, together[variable][chosen[entity]], err_msg=variable)


def test_splitting_and_reordering_never_changes_a_flag(small, assignment):
    whole = place(small, assignment, np.arange(assignment.n_columns), seed=9)
    order = np.random.default_rng(0).permutation(assignment.n_columns)
    for part in np.array_split(order, 5):
        piece = place(small, assignment, part, seed=9)
        for variable in drawn_variables():
            entity = catalogue().variables[variable].entity
            at = np.searchsorted(whole.ids[entity], piece.ids[entity])
            np.testing.assert_array_equal(whole.ids[entity][at], piece.ids[entity])
            np.testing.assert_array_equal(
                whole.column(variable)[at], piece.column(variable), err_msg=variable
            )


def test_flags_follow_the_rates(bundled):
    assignment = assign_geography(bundled.ids["household"], 2, districts(), county_shares(), 1)
    placed = place(bundled, assignment, np.arange(assignment.n_columns), seed=2)
    table = rates()
    for variable in drawn_variables():
        mine = table[table["variable"] == variable]
        if (mine["by"] == "").all() and (mine["reported"] == "").all():
            share = placed.column(variable).mean()
            n = len(placed.column(variable))
            rate = float(mine["rate"].iloc[0])
            assert abs(share - rate) < 4.5 * np.sqrt(rate * (1 - rate) / n), variable
    utah = placed.column("state_fips")[placed.household_of["person"]] == 49
    rate = table.query("variable == 'takes_up_medicaid_if_eligible' and key == 'UT'")["rate"].item()
    assert 0.2 < rate < 0.8
    assert abs(placed.column("takes_up_medicaid_if_eligible")[utah].mean() - rate) < 0.08


def test_clones_of_one_donor_draw_on_their_own(bundled):
    assignment = assign_geography(bundled.ids["household"], 2, districts(), county_shares(), 1)
    n = bundled.count()
    first = place(bundled, assignment, np.arange(n), seed=2).column("takes_up_housing_assistance_if_eligible")
    second = place(bundled, assignment, np.arange(n, 2 * n), seed=2).column(
        "takes_up_housing_assistance_if_eligible"
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


def test_reporters_take_up_and_a_rate_of_all_is_lowered_for_the_others(bundled):
    assignment = assign_geography(bundled.ids["household"], 1, districts(), county_shares(), 1)
    placed = place(bundled, assignment, np.arange(bundled.count()), seed=2)
    table = rates().query("reported != ''")
    assert set(table["of"]) == {"all", "others"}
    for variable, mine in table.groupby("variable"):
        assert (mine["by"] == "").all()
        reported = bundled.column(mine["reported"].iloc[0]) > 0
        flags = placed.column(variable)
        assert flags[reported].all(), variable
        of = mine.set_index("of")["rate"]
        weights = bundled.weights[bundled.household_of[catalogue().variables[variable].entity]]
        share = weights @ reported / weights.sum()
        rate = of["others"] if "others" in of else (of["all"] - share) / (1 - share)
        n = (~reported).sum()
        assert abs(flags[~reported].mean() - rate) < 4.5 * np.sqrt(rate * (1 - rate) / n), variable
    # Microdata that report nothing draw everybody at the rate.
    silent = _without(bundled, ("ssi_reported", "spm_unit_snap"))
    placed = place(silent, assignment, np.arange(bundled.count()), seed=2)
    assert abs(placed.column("takes_up_ssi_if_eligible").mean() - 0.5) < 0.02
    assert abs(placed.column("takes_up_snap_if_eligible").mean() - 0.82) < 0.02


def test_placed_households_live_where_they_were_placed(small, assignment):
    columns = np.array([3, 700, 1100])
    data = place(small, assignment, columns, weights=[1.5, 2.5, 3.5])
    np.testing.assert_array_equal(data.ids["household"], columns)
    np.testing.assert_array_equal(data.column("state_fips"), assignment.state_fips[columns])
    np.testing.assert_array_equal(data.column("congressional_district_geoid"), assignment.cd_geoid[columns])
    counties = [f"{c:05d}".encode() for c in assignment.county_fips[columns]]
    assert data.column("county_fips").tolist() == counties
    assert data.column("household_weight").tolist() == [1.5, 2.5, 3.5]
    assert "block_geoid" not in data.variables()


def test_a_stored_place_or_weight_never_survives(small, assignment):
    stale = small.with_columns(
        {
            "county": np.full(small.count(), "LOS_ANGELES_COUNTY_CA"),
            "zip_code": np.full(small.count(), "90001"),
            "person_weight": np.ones(small.count("person")),
            "in_la": np.ones(small.count(), bool),
        }
    )
    stale.values["household"]["household_weight/2023"] = small.column("household_weight")
    data = place(stale, assignment, np.arange(10))
    assert not {"county", "zip_code", "person_weight", "in_la"} & set(data.variables())
    assert data.digest() == place(small, assignment, np.arange(10)).digest()


def test_ids_are_the_same_in_every_selection_and_unique_over_clones(small, assignment):
    everything = place(small, assignment, np.arange(assignment.n_columns))
    for entity in ENTITIES:
        assert len(np.unique(everything.ids[entity])) == everything.count(entity)
    some = place(small, assignment, np.array([900, 5]))
    rows = np.searchsorted(everything.ids["person"], some.ids["person"])
    np.testing.assert_array_equal(everything.column("age")[rows], some.column("age"))


def test_flags_can_be_left_as_stored(small, assignment):
    data = place(small, assignment, np.arange(5), take_up=False)
    assert not set(drawn_variables()) & set(data.variables())


def test_a_rate_for_a_variable_that_does_not_exist_is_an_error(small, assignment, monkeypatch):
    table = rates().copy()
    table.loc[table["variable"] == "takes_up_dc_ptc", "variable"] = "takes_up_dc_ptcc"
    monkeypatch.setattr("distcalib.simulation.takeup.rates", lambda: table)
    with pytest.raises(InputError, match="did you mean 'takes_up_dc_ptc'"):
        place(small, assignment, np.arange(5))


def changed(tmp_path, **values):
    """Write the bundled table with other values in its first row of SNAP, and return its path."""
    table = rates().copy()
    row = table.index[table["variable"] == "takes_up_snap_if_eligible"][0]
    for name, value in values.items():
        table[name] = table[name].astype(object)
        table.loc[row, name] = value
    table.to_csv(tmp_path / "rates.csv", index=False)
    return tmp_path / "rates.csv"


def test_a_table_of_rates_reads_back_as_it_was_written(tmp_path):
    rates().to_csv(tmp_path / "rates.csv", index=False)
    table = read_rates(tmp_path / "rates.csv")
    pd.testing.assert_frame_equal(table, rates())
    assert rates_digest(table) == rates_digest(rates())
    assert rates_digest(read_rates(changed(tmp_path, rate=0.5))) != rates_digest(rates())
    assert rates_digest(read_rates(changed(tmp_path, source="elsewhere"))) == rates_digest(rates())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": 1.2}, r"rates.csv: line \d+: is not a valid rate; got '1.2'; expected a share"),
        ({"rate": "most"}, r"line \d+: is not a valid rate; got 'nan'"),
        ({"by": "county"}, r"is not a valid by; got 'county'"),
        ({"of": "some"}, r"is not a valid of; got 'some'"),
        ({"key": "TX"}, r"is not a valid key; got 'TX'"),
        (
            {"variable": "takes_up_snap"},
            r"no flag of the rules engine; got 'takes_up_snap'.*takes_up_snap_if",
        ),
        ({"variable": "takes_up_medicaid_if_eligible"}, r"several keys"),
    ],
)
def test_a_wrong_table_of_rates_is_refused_with_its_line(tmp_path, values, words):
    with pytest.raises(InputError, match=words):
        read_rates(changed(tmp_path, **values))


def test_a_table_that_lacks_a_state_or_a_column_is_refused(tmp_path):
    table = rates()
    path = tmp_path / "rates.csv"
    medicaid = table["variable"] == "takes_up_medicaid_if_eligible"
    table[~(medicaid & (table["key"] == "WY"))].to_csv(path, index=False)
    with pytest.raises(InputError, match="takes_up_medicaid_if_eligible: has no rate for a key; got 'WY'"):
        read_rates(path)
    pd.concat([table, table[medicaid & (table["key"] == "WY")]]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"has a key twice.*got 'WY'"):
        read_rates(path)
    table.drop(columns="of").to_csv(path, index=False)
    with pytest.raises(InputError, match="lacks a column; got 'of'"):
        read_rates(path)
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_rates(tmp_path / "none.csv")


def test_a_table_of_ones_own_takes_the_place_of_the_bundled_one(small, assignment):
    columns = np.arange(assignment.n_columns)
    aca = "takes_up_aca_if_eligible"
    snap = "takes_up_snap_if_eligible"
    table = rates().copy()
    table.loc[table["variable"] == aca, "rate"] = 1.0
    table.loc[(table["variable"] == snap) & (table["of"] == "others"), "rate"] = 0.0
    drawn = place(small, assignment, columns, seed=9)
    own = place(small, assignment, columns, seed=9, take_up=table)
    assert own.column(aca).all()
    assert not drawn.column(aca).all()
    # Only those who report receipt are left.
    receives = small.column("spm_unit_snap") > 0
    np.testing.assert_array_equal(own.column(snap), receives[own.ids["spm_unit"] % small.count("spm_unit")])
    np.testing.assert_array_equal(
        own.column("takes_up_medicaid_if_eligible"), drawn.column("takes_up_medicaid_if_eligible")
    )


FILES = "would_file_taxes_voluntarily"


def by_income(tmp_path, keys, values, variable=FILES):
    """Write the bundled table with one flag at rates by income, and return its path."""
    table = rates()
    bands = pd.DataFrame({"variable": variable, "by": "income", "key": keys, "rate": values})
    own = pd.concat([table[table["variable"] != variable], bands.assign(source="made for a test")])
    own.fillna({"reported": "", "of": ""}).to_csv(tmp_path / "rates.csv", index=False)
    return tmp_path / "rates.csv"


def test_rates_by_income_are_those_of_the_units_band(small, assignment, tmp_path):
    income = unit_income(small)
    assert (income < 1).any()
    assert ((income >= 1) & (income < 10_000)).any()
    assert (income >= 25_000).any()
    columns = np.arange(assignment.n_columns)
    for chosen, (low, high) in enumerate([(-np.inf, 1), (1, 10_000), (10_000, 25_000), (25_000, np.inf)]):
        # In any order of the rows.
        order = [2, 0, 3, 1]
        values = np.eye(4)[chosen][order]
        table = read_rates(by_income(tmp_path, np.array(["0", "1", "10000", "25000"])[order], values))
        placed = place(small, assignment, columns, seed=9, take_up=table)
        donor = placed.ids["tax_unit"] % small.count("tax_unit")
        inside = (income >= low) & (income < high)
        np.testing.assert_array_equal(placed.column(FILES), inside[donor])


def test_an_income_at_the_edge_is_in_the_upper_band_and_a_loss_in_the_lowest(small, assignment, tmp_path):
    known = [name for parts in _INCOME.values() for name in parts] + list(_INCOME)
    n = small.count("person")
    alone = np.zeros(n)
    first = np.unique(small.links["tax_unit"], return_index=True)[1]
    amounts = np.resize([-5.0, 0.0, 1.0, 9_999.99, 10_000.0, 24_999.0, 25_000.0], len(first))
    alone[first] = amounts
    data = _without(small, tuple(known)).with_columns({"rental_income": alone})
    np.testing.assert_array_equal(unit_income(data), amounts.astype(data.column("rental_income").dtype))
    for chosen, inside in enumerate(
        (
            amounts < 1,
            (amounts >= 1) & (amounts < 1e4),
            (amounts >= 1e4) & (amounts < 2.5e4),
            amounts >= 2.5e4,
        )
    ):
        table = read_rates(by_income(tmp_path, ["0", "1", "10000", "25000"], np.eye(4)[chosen]))
        placed = place(data, assignment, np.arange(small.count()), seed=9, take_up=table)
        at = placed.ids["tax_unit"] % small.count("tax_unit")
        np.testing.assert_array_equal(placed.column(FILES), inside[at])


def test_incomes_are_money_of_persons_and_their_parts_are_inputs():
    known = catalogue().variables
    for whole, parts in _INCOME.items():
        assert {known[n].entity for n in (whole, *parts)} == {"person"}
        assert all(known[n].is_input for n in parts)
        assert bool(parts) != known[whole].is_input, whole


def test_a_sum_stands_for_its_parts_and_parts_for_a_sum_that_is_not_stored(small):
    base = unit_income(small)
    more = np.full(small.count("person"), 7.0)
    people = np.bincount(small.links["tax_unit"], minlength=small.count("tax_unit"))
    parts = small.with_columns({"partnership_income": more, "s_corp_income": more})
    np.testing.assert_allclose(unit_income(parts), base + 14 * people)
    both = parts.with_columns({"partnership_s_corp_income": more})
    np.testing.assert_allclose(unit_income(both), base + 7 * people)


def test_income_is_counted_once_under_either_of_its_names(small):
    wages = np.full(small.count("person"), 100.0)
    income = unit_income(small)
    both = unit_income(small.with_columns({"employment_income": wages}))
    before = small.column("employment_income_before_lsr").astype(float)
    people = np.bincount(small.links["tax_unit"], minlength=small.count("tax_unit"))
    paid = np.bincount(small.links["tax_unit"], weights=before, minlength=small.count("tax_unit"))
    np.testing.assert_allclose(both, income - paid + 100 * people)


def test_a_rate_of_all_said_twice_is_refused(tmp_path):
    dc = rates()[rates()["variable"] == "takes_up_dc_ptc"]
    pd.concat([rates(), dc.assign(of="all")]).to_csv(tmp_path / "rates.csv", index=False)
    with pytest.raises(InputError, match=r"has rates of all twice.*got 'takes_up_dc_ptc'"):
        read_rates(tmp_path / "rates.csv")


@pytest.mark.parametrize(
    ("keys", "variable", "words"),
    [
        (
            ["0", "0"],
            FILES,
            r"would_file_taxes_voluntarily: has a key twice.*got '0'; expected one rate a band",
        ),
        (["1", "1.0"], FILES, r"has a key twice.*got '1\.0'"),
        (["0", "some"], FILES, r"is not a valid key of income; got 'some'; expected the least income"),
        (["0", ""], FILES, r"is not a valid key of income; got ''; expected the least income"),
        (["0", "inf"], FILES, r"is not a valid key of income; got 'inf'; expected the least income"),
        (
            ["0", "1"],
            "takes_up_wic_if_eligible",
            r"has rates by income, but is no flag of tax units; got 'takes",
        ),
    ],
)
def test_wrong_bands_of_income_are_refused(tmp_path, keys, variable, words):
    with pytest.raises(InputError, match=words):
        read_rates(by_income(tmp_path, keys, [0.1, 0.2], variable))


def test_a_rate_of_others_without_reports_is_refused(small, assignment):
    table = rates()
    only = table[(table["variable"] != "takes_up_snap_if_eligible") | (table["of"] == "others")]
    silent = _without(small, ("spm_unit_snap",))
    with pytest.raises(InputError, match=r"only the rate of others.*column spm_unit_snap"):
        place(silent, assignment, np.arange(10), seed=9, take_up=only)
