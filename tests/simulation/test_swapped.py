"""State-swapped calculations: the same households under every state's rules, as PolicyEngine has them."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from distcalib.documents import get_calculated_variables
from distcalib.errors import InputError
from distcalib.geography.assignment import digits
from distcalib.geography.sources import county_fips_of_rules_engine, districts
from distcalib.simulation import swapped
from distcalib.simulation.swapped import at_state, by_state, under_states
from distcalib.simulation.takeup import draw_take_up

VARIABLES = ["snap", "state_income_tax", "medicaid_enrolled", "aca_ptc"]
STATES = ["NC", 2, "06"]


@pytest.fixture(scope="module")
def few(small):
    """Sixty households with their own ids."""
    chosen = np.arange(0, 300, 5)
    return small.take(chosen, {e: small.ids[e][small.rows_of(e, chosen)[0]] for e in small.ids})


@pytest.fixture(scope="module")
def table(few):
    return under_states(few, VARIABLES, STATES, seed=5)


def opened(data, path):
    """Open microdata as a user does."""
    from policyengine_us import Microsimulation

    data.write(path)
    return Microsimulation(dataset=str(path))


def of_households(simulation, variable, period):
    with np.errstate(all="ignore"):
        return np.asarray(pd.Series.to_numpy(simulation.calculate(variable, period, map_to="household")))


def test_one_row_a_state_and_household_in_the_order_given(few, table):
    n = few.count()
    assert table["state"].tolist() == [code for code in ("NC", "AK", "CA") for _ in range(n)]
    assert table["state_fips"].unique().tolist() == [37, 2, 6]
    for _, mine in table.groupby("state"):
        np.testing.assert_array_equal(mine["household_id"], few.ids["household"])
        np.testing.assert_array_equal(mine["weight"], few.weights)
    assert (table["county_fips"] // 1000 == table["state_fips"]).all()
    # Alaska has no income tax, the others have; every state gives some of them SNAP.
    taxed = table.groupby("state")["state_income_tax"].sum()
    assert taxed["AK"] == 0
    assert (taxed[["NC", "CA"]] != 0).all()
    assert (table.groupby("state")["snap"].sum() > 0).all()


def test_a_state_is_what_policyengine_computes_for_the_households_there(few, table, tmp_path):
    mine = table[table["state"] == "CA"]
    rows = {e: np.arange(few.count(e)) for e in few.ids}
    flags = draw_take_up(
        few,
        rows,
        {e: np.zeros_like(r) for e, r in rows.items()},
        {e: np.full(len(r), 6) for e, r in rows.items()},
        5,
    )
    place = {"state_fips": np.full(few.count(), 6), "county_fips": digits(mine["county_fips"].to_numpy(), 5)}
    there = opened(few.with_columns(flags | place), tmp_path / "ca.h5")
    for variable in VARIABLES:
        # Sums of float32 in another order.
        np.testing.assert_allclose(
            mine[variable], of_households(there, variable, few.period), rtol=1e-6, err_msg=variable
        )
    assert len(set(mine["county_fips"])) > 5


def test_stored_flags_and_no_county_are_the_recipe_that_swaps_the_state_of_a_simulation(few, tmp_path):
    simulation = opened(few, tmp_path / "few.h5")
    simulation.set_input("state_fips", few.period, np.full(few.count(), 37, dtype=np.int32))
    for variable in get_calculated_variables(simulation):
        simulation.delete_arrays(variable)
    ours = under_states(few, VARIABLES, ["NC"], take_up=False, county_level=False)
    assert (ours["county_fips"] == 0).all()
    for variable in VARIABLES:
        np.testing.assert_allclose(
            ours[variable], of_households(simulation, variable, few.period), rtol=1e-6, err_msg=variable
        )


def test_who_else_is_there_the_order_of_states_and_the_map_change_nothing(few, table, monkeypatch):
    chosen = np.arange(0, 60, 4)
    some = few.take(chosen, {e: few.ids[e][few.rows_of(e, chosen)[0]] for e in few.ids})
    monkeypatch.setattr(swapped, "_HOUSEHOLDS_AT_ONCE", 8)

    def backwards(function, states):
        function = pickle.loads(pickle.dumps(function))  # as a pool of processes would
        return [function(state) for state in reversed(list(states))][::-1]

    again = under_states(some, reversed(VARIABLES), ["CA", "AK"], seed=5, map=backwards)
    expected = pd.concat([table[table["state"] == s].iloc[chosen] for s in ("CA", "AK")])
    pd.testing.assert_frame_equal(again[list(table.columns)], expected.reset_index(drop=True))


def test_a_household_lives_where_it_would_live_alone(few):
    known = set(county_fips_of_rules_engine()["county_fips"])
    for state in (11, 48, 9):
        whole = at_state(few, state, 3)
        assert set(whole.cd_geoid) <= set(districts().query("state_fips == @state")["cd_geoid"])
        assert set(whole.county_fips) <= known
        one = few.take([7], {e: few.ids[e][few.rows_of(e, [7])[0]] for e in few.ids})
        assert at_state(one, state, 3).county_fips[0] == whole.county_fips[7]


def test_the_summary_is_weighted_and_by_state():
    table = pd.DataFrame(
        {
            "state": ["WY", "WY", "AL", "AL"],
            "state_fips": [56, 56, 1, 1],
            "household_id": [4, 9, 4, 9],
            "county_fips": 0,
            "weight": [1.0, 3.0, 1.0, 3.0],
            "snap": [100.0, 0.0, 0.0, 40.0],
            "ssi": [0.0, 0.0, -2.0, 4.0],
        }
    )
    rows = by_state(table).values.tolist()
    assert rows == [
        ["WY", 56, "snap", 100.0, 25.0, 0.25],
        ["WY", 56, "ssi", 0.0, 0.0, 0.0],
        ["AL", 1, "snap", 120.0, 30.0, 0.75],
        ["AL", 1, "ssi", 10.0, 2.5, 0.75],
    ]


def test_the_plot_has_one_bar_a_state_the_largest_on_top():
    pytest.importorskip("bokeh")
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    from distcalib.report.plots import states as plot

    summary = pd.DataFrame(
        {
            "state": ["NC", "AK", "CA"],
            "state_fips": [37, 2, 6],
            "variable": "snap",
            "total": [2e9, 3e9, 1e9],
            "mean": 1.0,
            "share": 0.5,
        }
    )
    chart = plot(summary)
    assert chart.y_range.factors == ["CA", "NC", "AK"]  # from the bottom
    bars = chart.renderers[0].data_source.data
    assert dict(zip(bars["state"], bars["total"], strict=True)) == {"NC": 2e9, "AK": 3e9, "CA": 1e9}
    assert chart.xaxis.axis_label == "snap, weighted total (dollars a year)"
    assert "SNAP allotment" in file_html(chart, INLINE, "swapped")
    with pytest.raises(InputError, match="not in the summary; got 'ssi'"):
        plot(summary, "ssi")


@pytest.mark.parametrize(
    ("variables", "states", "words"),
    [
        (["snapp"], ["NC"], r"no variable of this name; got 'snapp'.*'snap'"),
        (["snap", "snap"], ["NC"], "named twice"),
        (["state_code"], ["NC"], "cannot be added up; got 'state_code'"),
        (["is_snap_eligible"], ["NC"], "monthly bool.*'is_snap_eligible'"),
        (["medicaid_cost"], ["NC"], "depends on everybody in the file"),
        ([], ["NC"], "names no variable"),
        (["snap"], ["ZZ"], "is no state; got 'ZZ'"),
        (["snap"], [3], "is no state; got 3"),
        (["snap"], ["NC", 37], "names a state twice; got 37"),
        (["snap"], [], "names no state"),
    ],
)
def test_what_cannot_be_computed_is_refused_first(few, variables, states, words):
    with pytest.raises(InputError, match=words):
        under_states(few, variables, states)
