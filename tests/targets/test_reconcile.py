"""Districts scaled to their states: factors by hand, and everything that cannot be scaled is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.targets.reconcile import read_multipliers, reconcile
from distcalib.targets.uprating import factor

MONTANA, HAWAII = ("3001", "3002"), ("1501", "1502")


def rows(*entries, domain="snap", variable="household_count", constraints="snap>0", period=2023):
    """Targets from pairs of an area and a value."""
    table = pd.DataFrame(entries, columns=["geographic_id", "original_value"])
    table["geo_level"] = np.where(
        table["geographic_id"] == "US",
        "national",
        np.where(table["geographic_id"].str.len() > 2, "district", "state"),
    )
    return table.assign(
        value=table["original_value"].astype(float),
        original_value=table["original_value"].astype(float),
        variable=variable,
        reform_id=0,
        period=period,
        domain_variable=domain,
        constraints=constraints,
        target_id=np.arange(len(table)),
    )


def both(*tables):
    return pd.concat(tables, ignore_index=True).assign(target_id=lambda t: np.arange(len(t)))


def test_districts_sum_to_their_state_in_the_new_year():
    table = rows(("US", 1000), ("30", 90), ("15", 70), ("3001", 20), ("3002", 40), ("1501", 30), ("1502", 70))
    done, warnings = reconcile(table, ["snap"], 2024)
    growth = factor("household_count", 2023, 2024)
    assert warnings == []
    below = done[done["geo_level"] == "district"]
    assert below["hif"].tolist() == [1.5, 1.5, 0.7, 0.7]
    np.testing.assert_allclose(below["state_uprating_factor"], growth)
    np.testing.assert_allclose(below["value"], np.array([30, 60, 21, 49]) * growth)
    assert done.loc[done["superseded"], "geographic_id"].tolist() == ["US", "30", "15"]
    assert done.loc[done["geo_level"] != "district", ["hif", "state_uprating_factor"]].isna().all(axis=None)


def test_states_of_the_year_itself_stay():
    table = rows(("30", 90), ("3001", 20), ("3002", 40), period=2024)
    done, _ = reconcile(table, ["snap"], 2024)
    assert not done["superseded"].any()
    assert done["value"].tolist() == [90, 30, 60]
    older, _ = reconcile(table.assign(period=2022), ["snap"], 2024, uprate=False)
    assert older["value"].tolist() == [90, 30, 60]
    assert not older["superseded"].any()


def test_strata_of_one_domain_are_scaled_one_by_one():
    young = rows(("30", 10), ("3001", 2), ("3002", 2), domain="age", constraints="age<5")
    old = rows(("30", 80), ("3001", 30), ("3002", 10), domain="age", constraints="age>=5")
    done, _ = reconcile(both(young, old), ["age"], 2023)
    assert done["value"].tolist() == [10, 5, 5, 80, 60, 20]


# A busy machine is slow, not wrong.
@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1, 1e9), min_size=4, max_size=4), st.floats(1, 1e9), st.floats(1, 1e9))
def test_sums_hold_for_any_values(values, montana, hawaii):
    table = rows(("30", montana), ("15", hawaii), *zip((*MONTANA, *HAWAII), values, strict=True))
    done, warnings = reconcile(table, ["snap"], 2025)
    assert warnings == []
    growth = float(factor("household_count", 2023, 2025))
    sums = done["value"].groupby(done["geographic_id"].where(done["geo_level"] == "district").str[:2]).sum()
    np.testing.assert_allclose(sums[["30", "15"]], [montana * growth, hawaii * growth], rtol=1e-12)


def test_what_cannot_be_scaled_is_an_error():
    with pytest.raises(InputError, match="the districts of MT sum to zero"):
        reconcile(rows(("30", 90), ("3001", 0), ("3002", 0)), ["snap"], 2024)
    with pytest.raises(
        InputError, match=r"districts of MT sum to another sign than their state.*domain snap"
    ):
        reconcile(rows(("30", 90), ("3001", -20), ("3002", 5)), ["snap"], 2024)
    loss, _ = reconcile(rows(("30", -90), ("3001", -20), ("3002", -10)), ["snap"], 2023)
    assert loss["hif"].dropna().tolist() == [3, 3]
    with pytest.raises(InputError, match=r"no target has this domain.*did you mean 'snap'"):
        reconcile(rows(("30", 90)), ["snapp"], 2024)
    with pytest.raises(InputError, match=r"two targets of one state are the same.*of MT"):
        reconcile(rows(("30", 90), ("30", 80), ("3001", 4), ("3002", 4)), ["snap"], 2024)
    with pytest.raises(InputError, match="has no year 1990"):
        reconcile(rows(("30", 90), ("3001", 4), ("3002", 4), period=1990), ["snap"], 2024)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("3001", 1), ("3002", 1)], "2 district targets have no target of their state .*MT"),
        ([("30", 9), ("3001", 1)], "1 state targets are shared out among other districts.*MT"),
        ([("30", 0), ("3001", 1), ("3002", 2)], "the target is zero in MT"),
    ],
)
def test_gaps_are_named(entries, words):
    done, warnings = reconcile(rows(*entries), ["snap"], 2024)
    assert len(warnings) == 1
    assert pd.Series(warnings).str.contains(words, regex=True).all()
    if ("30", 9) not in entries and ("30", 0) not in entries:
        assert done["hif"].isna().all()
        assert done["value"].tolist() == [1, 1]


def test_only_districts_of_its_own_stand_for_a_state():
    """Another state's districts, or another variable's, do not; the nation goes with its domain, by name."""
    amounts = rows(("US", 900), ("30", 90), ("15", 70), variable="snap")
    done, warnings = reconcile(
        both(amounts, rows(("30", 9), ("15", 7), ("3001", 2), ("3002", 4))), ["snap"], 2024
    )
    gone = done[done["superseded"]]
    assert gone[["variable", "geographic_id"]].to_numpy().tolist() == [
        ["snap", "US"],
        ["household_count", "30"],
    ]
    assert len(warnings) == 1
    assert "1 national targets of other years are left out" in warnings[0]
    assert "(snap)" in warnings[0]
    alone, warnings = reconcile(rows(("US", 900), ("30", 9)), ["snap"], 2024)
    assert not alone["superseded"].any()
    assert warnings == []


def test_a_state_and_districts_of_zero_stay_zero():
    done, warnings = reconcile(rows(("30", 0), ("3001", 0), ("3002", 0), period=2024), ["snap"], 2024)
    assert done["value"].tolist() == [0, 0, 0]
    assert done["hif"].isna().all()
    assert len(warnings) == 1


def aca(period=2022):
    amounts = rows(("30", 600), ("3001", 200), ("3002", 100), domain="aca_ptc", variable="aca_ptc")
    units = rows(("30", 30), ("3001", 10), ("3002", 10), domain="aca_ptc", variable="tax_unit_count")
    return both(amounts, units).assign(constraints="aca_ptc>0", period=period)


def test_marketplace_credits_grow_by_state():
    done, warnings = reconcile(aca(), ["aca_ptc"], 2024)
    assert warnings == []
    known = read_multipliers(None, 2024).table.loc[30]
    assert (known > 1).all()
    np.testing.assert_allclose(done.loc[[1, 2], "value"], np.array([400, 200]) * known["aca_ptc"])
    np.testing.assert_allclose(done.loc[[4, 5], "value"], np.array([15, 15]) * known["tax_unit_count"])
    assert done.loc[done["geo_level"] == "state", "superseded"].all()


def test_the_bundled_multipliers_are_the_published_ratios():
    table = read_multipliers(None, 2024)
    assert set(table.table.index) == set(STATE_CODES)
    assert (table.from_period, table.to_period) == (2022, 2024)
    # Alabama: 202,847 to 396,750 persons, 710 to 656 dollars.
    np.testing.assert_allclose(table.table.loc[1, "tax_unit_count"], 396750 / 202847)
    np.testing.assert_allclose(table.table.loc[1, "aca_ptc"], 396750 / 202847 * 656 / 710)
    assert read_multipliers(None, 2030).to_period == 2025
    assert read_multipliers(None, 2022).to_period == 2024


def test_multipliers_are_not_stretched_in_silence():
    done, warnings = reconcile(aca(2023), ["aca_ptc"], 2024)
    assert "carried by the general indices" in warnings[0]
    np.testing.assert_allclose(done.loc[1, "state_uprating_factor"], factor("aca_ptc", 2023, 2024))
    _, warnings = reconcile(aca(), ["aca_ptc"], 2026)
    assert "carry from 2022 to 2025, not to 2026" in warnings[0]
    done, warnings = reconcile(aca(2024), ["aca_ptc"], 2024)
    assert warnings == []
    assert (done["state_uprating_factor"].dropna() == 1).all()


HEAD = "state,vol_mult,val_mult\n"


def test_a_users_multipliers_are_read(tmp_path):
    path = tmp_path / "aca_ptc_multipliers_2022_2024.csv"
    path.write_text(HEAD + "Montana,2,3\nHI,1,1\n")
    done, _ = reconcile(aca(), ["aca_ptc"], 2024, multipliers=path)
    np.testing.assert_allclose(done.loc[[1, 4], "state_uprating_factor"], [6, 2])
    path.write_text(HEAD + "HI,1,1\n")
    with pytest.raises(InputError, match=r"lacks 1 states that have targets.*'MT'"):
        reconcile(aca(), ["aca_ptc"], 2024, multipliers=path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("growth_2022_2024.csv", HEAD + "Montanna,2,3\n", "unknown state.*'Montana'"),
        ("growth_2022_2024.csv", HEAD + "MT,2,3\nMontana,2,3\n", "gives a state twice"),
        ("growth_2022_2024.csv", HEAD + "MT,2,0\n", "not above zero"),
        ("growth_2022_2024.csv", HEAD + "MT,2,\n", "not above zero"),
        ("growth_2022_2024.csv", "state,vol,val_mult\nMT,2,3\n", "lacks a column.*vol_mult"),
        ("growth.csv", HEAD + "MT,2,3\n", "does not say which years"),
        ("growth_2022_2024.csv", "", "cannot be read as a table"),
        ("growth_2022_2024.csv", HEAD + "MT,2,3\nDoña Ana,2,3\n", "cannot be read as a table.*UTF-8"),
        (
            "growth_2022_2024.csv",
            HEAD + "MT,2,3,4,5,6\nHI,1\nHI,1,2,3,4,5,6,7\n",
            "cannot be read as a table",
        ),
    ],
)
def test_bad_multipliers_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=words):
        read_multipliers(tmp_path / name, 2024)
    with pytest.raises(InputError, match="no such file"):
        read_multipliers(tmp_path / "absent_2022_2024.csv", 2024)


@pytest.mark.skipif("DISTCALIB_RAW" not in os.environ, reason="needs the raw public files: set DISTCALIB_RAW")
@pytest.mark.parametrize("period", [2024, 2025])
def test_the_bundled_multipliers_are_those_of_the_raw_files(period):
    path = Path(os.environ["DISTCALIB_RAW"]) / f"aca_ptc_multipliers_2022_{period}.csv"
    raw, bundled = read_multipliers(path, period), read_multipliers(None, period)
    assert (raw.from_period, raw.to_period) == (bundled.from_period, bundled.to_period)
    pd.testing.assert_frame_equal(raw.table.sort_index(), bundled.table.sort_index())


def test_every_district_of_the_table_of_districts_counts():
    assert districts()["state_fips"].value_counts()[30] == len(MONTANA)
