"""The shipped check and the starting totals agree with the register: none of the three is of another day."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.report.data_check import Check, read_check
from distcalib.report.data_tables import register_rows
from distcalib.targets.sources import bundled_targets, starting_totals

KEY = ["quantity", "variable", "constraints", "area", "vintage"]
# Numbers of a check have ten digits.
DIGITS = 1e-9


def assert_of_the_register(shipped: pd.DataFrame, register: pd.DataFrame) -> None:
    """Hold the section register against the rows that a check of today would ask for."""
    mine = shipped[shipped["section"] == "register"].set_index(KEY).sort_index()
    wanted = register_rows(register).set_index(KEY).sort_index()
    assert mine.index.symmetric_difference(wanted.index).tolist() == []
    assert mine.index.is_unique
    # Why a figure could not be computed is said where the register gives no reason.
    said = mine["reason"].where(~mine["reason"].str.startswith("not computed: "), wanted["reason"])
    pd.testing.assert_series_equal(mine["status"], wanted["status"])
    pd.testing.assert_series_equal(said, wanted["reason"].fillna(""))
    np.testing.assert_allclose(mine["official"], wanted["official"], rtol=DIGITS)


def assert_start(shipped: pd.DataFrame, packaged: pd.DataFrame) -> None:
    """Hold starting totals against the national values of the shipped check."""
    check = Check(shipped, {"bundled": True, "take_up": "drawn"})
    words = ["variable", "constraints", "geo_level", "concept", "measured_with"]
    found, kept = (
        t.set_index(["variable", "constraints"], drop=False).sort_index()
        for t in (check.starting_totals(), packaged)
    )
    pd.testing.assert_frame_equal(kept[words], found[words])
    # One for the rounding to whole numbers, of the value itself and of its ten digits.
    np.testing.assert_allclose(kept["starting"], found["starting"], rtol=DIGITS, atol=1.0)


def test_the_shipped_check_has_the_status_reason_and_figure_of_every_row_of_the_register():
    assert_of_the_register(read_check(None), bundled_targets())


def test_the_starting_totals_are_the_national_values_of_the_shipped_check():
    assert_start(read_check(None), starting_totals())


def current() -> pd.DataFrame:
    """A check that agrees with today's register."""
    return register_rows(bundled_targets()).assign(value=1234.4)


@pytest.mark.parametrize(("column", "new"), [("status", "gone"), ("reason", "other words"), ("value", 1e15)])
def test_a_register_of_another_day_is_seen(column, new):
    assert_of_the_register(current(), bundled_targets())
    register = bundled_targets().copy()
    snap = (register["variable"] == "snap") & (register["geo_level"] == "national")
    assert snap.any()
    register.loc[snap, column] = new
    with pytest.raises(AssertionError):
        assert_of_the_register(current(), register)


@pytest.mark.parametrize(("column", "new"), [("value", 1236.4), ("quantity", "another")])
def test_starting_totals_of_another_day_are_seen(column, new):
    check = current()
    start = Check(check, {"bundled": True, "take_up": "drawn"}).starting_totals()
    assert_start(check, start)
    snap = (check["variable"] == "snap") & (check["area"] == "US")
    check.loc[snap, column] = new
    with pytest.raises(AssertionError):
        assert_start(check, start)
