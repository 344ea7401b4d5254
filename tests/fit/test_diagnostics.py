"""Diagnostics say what the weights do to each target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from distcalib.fit import effective_sample_size, summarise
from distcalib.fit.diagnostics import CAUSES, explain, group_causes

X = sp.csr_array(
    np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [-2.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
)
TARGETS = np.array([10.0, 5.0, 0.0, -8.0, -3.0])
WEIGHTS = np.array([4.0, 3.5, 0.0])


def test_one_row_a_target_with_signed_errors_relative_to_the_absolute_target() -> None:
    frame = summarise(X, WEIGHTS, TARGETS, tolerance=0.1)
    np.testing.assert_allclose(frame["estimate"], [11.0, 0.0, 0.5, -11.5, 7.5])
    np.testing.assert_allclose(frame["rel_error"], [0.1, -1.0, 0.5 / 7.5, -3.5 / 8, 3.5])
    np.testing.assert_allclose(frame["abs_rel_error"], np.abs(frame["rel_error"]))
    assert frame["within_tolerance"].tolist() == [True, False, True, False, False]


def test_achievable_looks_at_cells_not_at_row_sums() -> None:
    # Row 2 sums to 0 but can reach any amount; rows 1 (empty) and 4 (positive cells, negative target) cannot.
    assert summarise(X, WEIGHTS, TARGETS)["achievable"].tolist() == [True, False, True, True, False]


def test_tolerance_may_differ_by_target_and_labels_stand_in_front() -> None:
    tolerance = np.array([0.01, 1.0, 0.05, 0.5, 4.0])
    labels = pd.DataFrame({"target_id": np.arange(5), "name": list("abcde")}, index=range(10, 15))
    frame = summarise(X, WEIGHTS, TARGETS, tolerance=tolerance, labels=labels)
    assert frame.columns[:3].tolist() == ["target_id", "name", "target"]
    assert frame["within_tolerance"].tolist() == [False, True, False, True, True]
    assert summarise(X, WEIGHTS, TARGETS, labels=list("abcde"))["name"].tolist() == list("abcde")


def test_a_zero_target_has_a_finite_error_even_without_any_weight() -> None:
    frame = summarise(X, np.zeros(3), np.zeros(5))
    assert (frame["rel_error"] == 0).all()


def test_effective_sample_size_counts_donors_not_clones() -> None:
    assert effective_sample_size(np.ones(6)) == pytest.approx(6)
    assert effective_sample_size(np.ones(6), ids=["a", "a", "a", "b", "b", "b"]) == pytest.approx(2)
    assert effective_sample_size([3.0, 1.0]) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0.0


# A small world: nation, two states of two districts each, persons and pensions. 12 donors live in each
# district, each with one column; every cell is 1 person, so a target is a number of persons.
GEOIDS = np.repeat([101, 102, 201, 202], 12)
W = np.full(48, 10.0)


def world() -> tuple[sp.csr_array, pd.DataFrame]:
    rows, cells = [], []
    for variable, held in (
        ("person_count", np.ones(48)),
        ("pension", (np.arange(48) % 12 < 3).astype(float)),
    ):
        for level, area, inside in (
            ("national", "US", GEOIDS > 0),
            *(("state", str(s), s == GEOIDS // 100) for s in (1, 2)),
            *(("district", str(d), d == GEOIDS) for d in (101, 102, 201, 202)),
        ):
            cells.append(inside * held)
            rows.append({"variable": variable, "geo_level": level, "geographic_id": area})
    table = pd.DataFrame(rows).assign(reform_id=0, constraints="", moe=np.nan, tolerance=0.05, status="fit")
    table["domain_variable"] = table["variable"].where(table["variable"] == "pension")
    table["name"] = table["geo_level"] + table["geographic_id"] + "/" + table["variable"]
    table["group_id"] = table.groupby(["variable", "geo_level"], sort=False).ngroup()
    cells = sp.csr_array(np.array(cells))
    table["value"] = cells @ W
    return cells, table


def explained(cells, table, *, low=0.1, high=10.0, weights=W) -> pd.DataFrame:
    judged = summarise(
        cells,
        weights,
        table["value"],
        tolerance=table["tolerance"],
        labels=table[["name", "variable", "geo_level", "domain_variable", "group_id", "status"]],
    )
    limits = (low * W, high * W)
    ids = np.arange(len(W))
    causes = explain(judged, table, cells, weights, donors=ids, limits=limits, areas=GEOIDS)
    return pd.concat([judged, causes], axis=1).set_index("name")


def set_value(table: pd.DataFrame, name: str, **values) -> None:
    for column, value in values.items():
        table.loc[table["name"] == name, column] = value


def test_a_target_that_is_met_has_no_cause():
    out = explained(*world())
    assert (out["cause"] == "").all()
    assert out.loc["district101/person_count", "donors"] == 12
    assert out.loc["district101/person_count", "effective_donors"] == pytest.approx(12)
    assert (out["parts_gap"].abs() < 1e-12).all()


def test_a_target_beyond_the_limits_of_the_weights_lacks_support():
    cells, table = world()
    # The state's and the nation's follow, so that no sum contradicts it.
    for name in ("district101/person_count", "state1/person_count", "nationalUS/person_count"):
        set_value(table, name, value=float(table.loc[table["name"] == name, "value"].iloc[0]) + 1200)
    assert explained(cells, table)["cause"]["district101/person_count"] == "support"
    # Within reach by itself, but three of the twelve donors are held down by the target of pensions.
    together = explained(cells, table, high=12.0).loc["district101/person_count"]
    assert together["cause"] == "support"
    # 9 x 120 + 31.5 persons at most, 5 % below 1,320 wanted.
    assert together["area_excess"] == pytest.approx((0.95 * 1320 - 9 * 120 - 31.5) / 1320, rel=1e-6)
    apart = explained(cells, table, high=16.0).loc["district101/person_count"]
    assert (apart["cause"], apart["area_excess"]) == ("compromise", pytest.approx(0.0, abs=1e-9))


def test_a_miss_in_an_area_that_was_not_judged_is_not_called_a_compromise(monkeypatch):
    cells, table = world()
    table["value"] *= 1.2
    monkeypatch.setattr("distcalib.fit.consistency.LARGEST", 15)  # a district has that many, a state more
    out = explained(cells, table)
    assert out["cause"]["district101/person_count"] == "compromise"
    assert out["cause"]["district101/pension"] == "support"  # by its few donors
    assert out["cause"]["state1/person_count"] == out["cause"]["nationalUS/person_count"] == "not judged"
    assert group_causes(out.reset_index())["not judged"].sum() == (out["cause"] == "not judged").sum() > 0


def test_a_row_of_few_donors_lacks_support_and_one_of_many_is_a_compromise():
    cells, table = world()
    table["value"] *= 1.2
    out = explained(cells, table)
    assert out.loc["district101/pension", "effective_donors"] == pytest.approx(3)
    assert out["cause"]["district101/pension"] == "support"
    assert out["cause"]["district101/person_count"] == "compromise"
    assert out["cause"]["state1/pension"] == "support"
    assert out["cause"]["nationalUS/pension"] == "compromise"


def test_a_miss_within_two_standard_errors_is_the_sources_error_and_one_beyond_is_not():
    cells, table = world()
    table["value"] *= 1.2
    set_value(table, "district101/person_count", moe=20.5)  # the miss is 24
    set_value(table, "district102/person_count", moe=19.5)
    out = explained(cells, table)
    assert out.loc["district101/person_count", "margins"] == pytest.approx(24 / 20.5)
    assert out["cause"]["district101/person_count"] == "sampling error of the source"
    assert out["cause"]["district102/person_count"] == "compromise"


def contradictory() -> tuple[sp.csr_array, pd.DataFrame]:
    """State 1 says 20 % more than its districts, and is missed; so is district 201, which agrees with all."""
    cells, table = world()
    set_value(table, "state1/person_count", value=288.0)
    set_value(table, "district201/person_count", value=132.0)
    set_value(table, "district202/person_count", value=108.0)
    return cells, table


def test_parts_that_do_not_sum_to_the_whole_are_a_contradiction():
    out = explained(*contradictory())
    assert out.loc["state1/person_count", "parts_gap"] == pytest.approx(-1 / 6)
    assert out["cause"]["state1/person_count"] == "contradiction"
    # Its own family agrees, so nothing shows that another figure is at fault.
    assert out.loc["district201/person_count", "parts_gap"] == pytest.approx(0)
    assert out["cause"]["district201/person_count"] == "compromise"


def test_a_contradiction_needs_a_miss_on_the_side_to_which_the_other_figure_pulls():
    cells, table = contradictory()
    # The whole pulls its districts up: of two that are missed, only the one above its target is explained.
    table.loc[table["geographic_id"] == "101", "value"] *= 0.9
    table.loc[table["geographic_id"] == "102", "value"] *= 1.1
    out = explained(cells, table)
    assert out["cause"]["district101/person_count"] == "contradiction"
    assert out["cause"]["district102/person_count"] == "compromise"


def test_parts_that_disagree_within_their_margins_are_the_sources_error():
    cells, table = contradictory()
    for name in ("state1/person_count", "district101/person_count", "district102/person_count"):
        set_value(table, name, moe=28.0)  # the gap of 48 is within sqrt(3) 28 = 48.5
    table["tolerance"] = 0.02
    assert explained(cells, table)["cause"]["state1/person_count"] == "sampling error of the source"
    set_value(table, "state1/person_count", moe=20.0)  # sqrt(2 28^2 + 20^2) = 44
    assert explained(cells, table)["cause"]["state1/person_count"] == "contradiction"


def test_a_family_with_a_part_missing_or_only_checked_says_nothing():
    cells, table = contradictory()
    set_value(table, "nationalUS/person_count", value=528.0)  # what the states sum to
    assert explained(cells, table)["cause"]["state1/person_count"] == "contradiction"
    set_value(table, "district102/person_count", status="check")
    out = explained(cells, table)
    assert out["cause"]["state1/person_count"] == "compromise"
    assert out["cause"]["district102/person_count"] == ""


def test_groups_list_their_causes_only_below_95_percent():
    cells, table = world()
    table.loc[table["geo_level"] == "district", "value"] *= [1.2, 0.8, 1, 1, 1.2, 0.8, 1, 1]
    groups = group_causes(explained(cells, table).reset_index()).set_index("group")
    assert len(groups) == 6
    row = groups.loc["district pension by pension"]
    assert (row["targets"], row["missed"], row["support"], row["within_tolerance"]) == (4, 2, 2, 0.5)
    assert row["causes"] == "support 100%"
    assert row["worst"] == "district102/pension"
    assert row["worst_error"] == pytest.approx(1 / 0.8 - 1)
    assert groups.loc["district person_count", "causes"] != ""
    assert groups.loc["state person_count", "causes"] == ""
    assert (groups[list(CAUSES)].sum(axis=1) == groups["missed"]).all()
