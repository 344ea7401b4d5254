"""Take-up flags and placement: pure functions of donor, clone and place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.catalogue import ENTITIES, catalogue
from distcalib.errors import InputError
from distcalib.geography import STATE_CODES, assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.simulation.place import _without, place
from distcalib.simulation.takeup import drawn_variables, rates, rates_digest, read_rates


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


def test_a_rate_of_others_without_reports_is_refused(small, assignment):
    table = rates()
    only = table[(table["variable"] != "takes_up_snap_if_eligible") | (table["of"] == "others")]
    silent = _without(small, ("spm_unit_snap",))
    with pytest.raises(InputError, match=r"only the rate of others.*column spm_unit_snap"):
        place(silent, assignment, np.arange(10), seed=9, take_up=only)
