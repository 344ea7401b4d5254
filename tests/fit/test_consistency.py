"""What stands against targets before any fit, on a world small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.fit.consistency import area_excess, consistency, family_gaps, support
from distcalib.fit.feasible import attainable, conflicts, least_excess, limits_before, within_cap

GEOIDS = np.repeat([101, 102], 20)
W = np.full(40, 10.0)


def world() -> tuple[sp.csr_array, pd.DataFrame]:
    """Two districts of one state, 20 donors each; persons, and the quarter of them that has pensions."""
    rows, cells = [], []
    for variable, held in (("person_count", np.ones(40)), ("pension", (np.arange(40) % 20 < 5) * 1.0)):
        for level, area, inside in (
            ("state", "1", GEOIDS > 0),
            ("district", "101", GEOIDS == 101),
            ("district", "102", GEOIDS == 102),
        ):
            cells.append(inside * held)
            rows.append({"variable": variable, "geo_level": level, "geographic_id": area})
    table = pd.DataFrame(rows).assign(reform_id=0, constraints="", moe=np.nan, tolerance=0.05, status="fit")
    table["name"] = table["geo_level"] + table["geographic_id"] + "/" + table["variable"]
    matrix = sp.csr_array(np.array(cells))
    table["value"] = matrix @ W
    return matrix, table


def found(matrix: sp.csr_array, table: pd.DataFrame, few: float = 3) -> pd.DataFrame:
    out = consistency(
        matrix,
        table,
        initial_weights=W,
        donors=np.arange(40),
        areas=GEOIDS,
        limits=limits_before(W, 0.5, 2.0),
        few=few,
    )
    return out.set_index("name")


def change(table: pd.DataFrame, **values: float) -> pd.DataFrame:
    return table.assign(value=[values.get(n, v) for n, v in zip(table["name"], table["value"], strict=True)])


def test_a_consistent_world_has_no_problem():
    out = found(*world())
    assert (out["problem"] == "").all()
    row = out.loc["district101/person_count"]
    assert row[["donors", "start", "least", "most"]].tolist() == [20, 200, 100, 400]
    assert out["area_excess"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_each_problem_is_named():
    matrix, table = world()
    empty = matrix.toarray()
    empty[4] = 0
    assert found(sp.csr_array(empty), table)["problem"]["district101/pension"] == "impossible"
    beyond = change(table, **{"district101/person_count": 500.0, "state1/person_count": 700.0})
    assert found(matrix, beyond)["problem"]["district101/person_count"] == "short"
    apart = change(table, **{"state1/pension": 140.0})
    assert found(matrix, apart)["problem"]["state1/pension"] == "contradiction"
    assert (found(matrix, table, few=6)["problem"][["district101/pension"]] == "few donors").all()
    # 400 are within reach, unless the five with pensions stay at 50: 15 x 20 + 52.5 = 352.5 < 0.95 x 380.
    held = change(table, **{"district101/person_count": 380.0, "state1/person_count": 580.0})
    out = found(matrix, held)
    assert out["problem"]["district101/person_count"] == "together"
    lacking = (0.95 * 380 - 352.5) / 380
    assert out["area_excess"]["district101/person_count"] == pytest.approx(lacking, rel=1e-6)
    # The state lacks nothing beyond what its district lacks.
    assert out["problem"]["district102/person_count"] == ""


def test_two_figures_of_one_area_contradict_each_other_in_any_order():
    _, table = world()
    twice = pd.concat([table, table[table["name"] == "state1/person_count"].assign(value=600.0)])
    for order in (np.arange(len(twice)), np.arange(len(twice))[::-1]):
        gap, pull, _ = family_gaps(twice.iloc[order].reset_index(drop=True), GEOIDS)
        found = pd.DataFrame({"gap": gap, "pull": pull}).set_axis(order).sort_index()
        # 400 against 600; 600 against 400, which is also the sum of the districts.
        assert found.loc[0].tolist() == [0.5, 1]
        assert found.loc[6].tolist() == pytest.approx([-1 / 3, -1])
        assert found.loc[[1, 2], "gap"].to_numpy() == pytest.approx(-1 / 3)
        assert found.loc[[1, 2], "pull"].tolist() == [1, 1]
        assert found.loc[[3, 4, 5], "gap"].tolist() == [0, 0, 0]


def test_districts_are_compared_with_the_nation_where_no_state_stands_between():
    _, table = world()
    nation = table[table["geo_level"] == "state"].assign(
        geo_level="national", geographic_id="US", value=500.0
    )
    rows = pd.concat([nation, table[table["geo_level"] == "district"]], ignore_index=True)
    gap, pull, _ = family_gaps(rows[rows["variable"] == "person_count"].reset_index(drop=True), GEOIDS)
    assert gap.tolist() == pytest.approx([-0.2, -0.2, -0.2])
    assert pull.tolist() == [-1, 1, 1]
    # A district that the run has and no target stands for: nothing is compared.
    gap, _, _ = family_gaps(rows, np.r_[GEOIDS, 201])
    assert np.isnan(gap).all()


def test_a_budget_of_records_widens_what_the_weights_may_be():
    low, high = limits_before(W, 0.5, 2.0, records=10)
    # Ten columns carry what forty did: up to four times two times their design weight, or nothing.
    assert (low == 0).all()
    assert (high == 80).all()
    low, high = limits_before(np.r_[W, 0.0], 0.5, np.inf)
    assert (low == np.r_[W, 0.0] / 2).all()
    assert np.isinf(high[:-1]).all()
    assert high[-1] == 0
    matrix, table = world()
    out = consistency(
        matrix, table, initial_weights=W, donors=np.arange(40), areas=GEOIDS, few=3,
        limits=limits_before(W, 0.5, 2.0, selects=True),
    )  # fmt: skip
    assert np.isinf(out["most"]).all()
    assert (out["problem"] == "").all()


def test_checks_and_targets_that_are_not_asked_about_have_no_figure():
    matrix, table = world()
    table.loc[table["name"] == "district101/pension", "status"] = "check"
    limits = (0.5 * W, 2 * W)
    only = (table["geographic_id"] == "102").to_numpy()
    out = area_excess(matrix, table, limits, GEOIDS, only)
    assert np.isfinite(out[only]).all()
    assert np.isnan(out[~only]).all()
    assert found(matrix, table)["problem"]["district101/pension"] == ""


def test_a_matrix_without_rows_has_figures_of_none():
    none = sp.csr_array((0, 3), dtype=np.float32)
    assert [len(part) for part in support(none, np.ones(3), np.arange(3))] == [0, 0]
    assert [len(part) for part in attainable(none, (np.zeros(3), np.ones(3)))] == [0, 0]


def test_a_system_that_is_too_large_is_not_judged(monkeypatch):
    monkeypatch.setattr("distcalib.fit.consistency.LARGEST", 10)
    matrix, table = world()
    assert np.isnan(area_excess(matrix, table, (0.5 * W, 2 * W), GEOIDS)).all()
    table.loc[table["name"] == "district101/pension", "status"] = "check"
    out = found(matrix, change(table, **{"district102/pension": 9.0}), few=0)
    # What a row shows by itself goes before; of a target that is not fitted nothing is asked.
    said = out["problem"].to_dict()
    assert [said.pop("district102/pension"), said.pop("district101/pension")] == ["short", ""]
    assert set(said.values()) == {"not judged"}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_targets_that_some_weights_give_have_no_excess_and_others_the_distance(seed, shifted):
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(rng.integers(0, 4, (5, 12)).astype(float) + np.eye(5, 12))
    low, high = np.full(12, 1.0), np.full(12, 3.0)
    value = matrix @ rng.uniform(low, high)
    if shifted:  # all that the first row can give, and a tenth of it more
        value[0] = 1.1 * (matrix @ high)[0]
        value[1:] = (matrix @ high)[1:]
    excess = least_excess(matrix, value, np.full(5, 0.01), (low, high))
    # Only the first is out of reach: 1/1.1 of it is to be had, 1 % is allowed.
    assert excess == pytest.approx(1 - 1 / 1.1 - 0.01 if shifted else 0.0, abs=1e-7)


def test_targets_that_exclude_each_other_are_one_set_and_the_others_of_none():
    # Whole and two parts; whole and one part that is more than it; three that go together; one of zero.
    parts = sp.csr_array(np.kron(np.eye(2), np.repeat(np.eye(2), 5, axis=1)))
    whole = sp.csr_array(np.kron(np.eye(2), np.ones((1, 10))))
    cells = sp.csr_array(sp.vstack([parts, whole]))
    apart = sp.csr_array(sp.block_diag([cells, np.kron(np.eye(3), np.ones((1, 4))), np.ones((1, 2))]))
    value = np.array([5.0, 5, 5, 20, 14, 15, 4, 4, 4, 0])
    limits = np.full(34, 0.1), np.full(34, 10.0)
    sets = conflicts(apart, value, np.full(10, 0.01), limits)
    assert sets is not None
    assert (sets[6:] == -1).all()
    # Zones 0 and 1 with whole 4; 3, which alone is more than its whole 5, with it.
    assert sets[0] == sets[1] == sets[4] >= 0
    assert sets[3] == sets[5] >= 0
    assert sets[2] in (-1, sets[5])
    assert sets[0] != sets[5]
    value[4:6] = 10, 25
    fine = conflicts(apart, value, np.full(10, 0.01), limits)
    assert fine is not None
    assert (fine == -1).all()


def test_of_too_many_cells_no_conflict_is_said(monkeypatch):
    monkeypatch.setattr("distcalib.fit.feasible.LARGEST", 10)
    assert conflicts(world()[0], np.ones(4), np.full(4, 0.01), (0.5 * W, 2 * W)) is None


def test_a_weight_ratio_and_a_share_cap_narrow_what_the_weights_may_be():
    low, high = limits_before(W, 0.5, 20.0, records=10, weight_ratio=3.0)
    assert (low == 0).all()
    assert (high == 3 * W).all()
    assert (limits_before(W, 0.5, 2.0, selects=True, weight_ratio=3.0)[1] == 3 * W).all()
    # Columns of no weight count neither for the budget nor for the scale.
    low, high = limits_before(np.r_[W, np.zeros(30)], 0.5, 2.0, records=20)
    assert (high[:40] == 4 * W).all()
    assert not high[40:].any()
    matrix, table = world()
    wide = limits_before(W, 0.5, 50.0)
    assert within_cap(matrix, table, wide, None) is wide
    _, high = within_cap(matrix, table, wide, 0.01)
    some = ((table["status"] == "fit") & (table["value"] != 0)).to_numpy()
    share = np.abs(matrix.toarray()[some]) / np.abs(table["value"].to_numpy()[some, None])
    np.testing.assert_allclose(high, np.minimum(wide[1], 0.01 / share.max(axis=0)), rtol=1e-12)
    assert (high < wide[1]).any()
