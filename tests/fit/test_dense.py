"""Dense calibration meets its targets, keeps its bounds, and agrees with R's survey package."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError, RunError
from distcalib.fit.constraints import check_each_target, conserve_mass, feasibility, share_cap
from distcalib.fit.dense import METHODS, calibrate_dense

AREA = np.array(list("abc" * 4))
SIZE = np.array([1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 2, 1.0])
INCOME = np.array([10, 25, 0, 40, -5, 12, 30, 55, 8, 21, 17, 3.0])
DESIGN = np.array([10, 12, 8, 9, 11, 10, 15, 7, 6, 10, 12, 9.0])
X = sp.csr_array(np.vstack([np.ones(12), AREA == "b", AREA == "c", SIZE, INCOME]).astype(float))
TARGETS = np.array([125, 44, 38, 345, 2300.0])

# Weights of calibrate(svydesign(ids=~1, weights=~pw, data=df), ~area+size+income, TARGETS, epsilon=1e-14,
# calfun=, bounds=) in R 4.2.2 with survey 4.1-1, df the four columns above.
OF_R = {
    ("greg", None): "8.507973861896989, 12.761276236594254, 9.162805261870389, 9.404910301268439, "
    "10.217889995614390, 11.574104600942990, 14.703887265691204, 8.594644155729576, 7.397559567141728, "
    "10.383228571143366, 12.426189612061785, 9.865530570044895",
    ("truncated_linear", (0.87, 1.22)): "8.699999999999999, 12.944798328843746, 9.252745441613470, "
    "9.410671012636406, 9.983251931771678, 11.660496014535507, 14.407130980239426, 8.540000000000001, "
    "7.320000000000001, 10.482198007124207, 12.531949739384565, 9.766758543851006",
    ("raking", None): "8.630698070744035, 12.707067617241320, 9.151569293587269, 9.361451702211175, "
    "10.241050236436221, 11.565669023847059, 14.661340995118115, 8.678519836585190, 7.468904923935279, "
    "10.346509231926674, 12.373362309737272, 9.813856758630394",
    ("raking", (0.88, 1.22)): "8.799999999999999, 13.000623826748715, 9.287271216426888, 9.403928753279612, "
    "9.926349466533887, 11.720071550620013, 14.306802336793607, 8.540000000000001, 7.320000000000001, "
    "10.489268909926805, 12.533026706717468, 9.672657232953114",
    ("logit", (0.8, 1.3)): "8.617506867586334, 12.840478700986276, 9.209955609717369, 9.413124384832811, "
    "10.124140609223227, 11.606067912949397, 14.530199084071118, 8.594387678501477, 7.353441619911695, "
    "10.439169663509736, 12.440993011289024, 9.830534857421540",
}


@pytest.mark.parametrize(("case", "weights"), OF_R.items(), ids=str)
def test_weights_are_those_of_r_survey(case: tuple[str, tuple[float, float] | None], weights: str) -> None:
    method, bounds = case
    got = calibrate_dense(X, TARGETS, DESIGN, method=method, bounds=bounds)
    np.testing.assert_allclose(got.weights, np.fromstring(weights, sep=","), rtol=1e-12)
    assert got.converged
    assert got.worst_error < 1e-12


def problem(seed: int, rows: int = 12, columns: int = 300) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = sp.random_array((rows, columns), density=0.3, rng=rng, format="csr")
    cells.data = cells.data * 10 - 1  # some negative
    design = rng.lognormal(3, 0.5, columns)
    design[:5] = 0.0
    return cells, cells @ (design * rng.uniform(0.5, 1.8, columns)), design


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_solutions_satisfy_the_defining_equations(method: str, seed: int) -> None:
    matrix, t, design = problem(seed)
    bounds = (0.4, 2.5) if method in ("truncated_linear", "logit") else None
    fit = calibrate_dense(matrix, t, design, method=method, bounds=bounds)
    np.testing.assert_allclose(matrix @ fit.weights, t, rtol=1e-11)
    used = design > 0
    u = (fit.multipliers @ matrix)[used]
    if method == "logit":
        low, high = 0.4, 2.5
        a = (high - low) / ((high - 1) * (1 - low))
        e = np.exp(a * u)
        expected = (low * (high - 1) + high * (1 - low) * e) / (high - 1 + (1 - low) * e)
    else:
        expected = {"raking": np.exp(u), "greg": 1 + u, "truncated_linear": np.clip(1 + u, 0.4, 2.5)}[method]
    np.testing.assert_allclose(fit.ratio[used], expected, rtol=1e-10)
    np.testing.assert_array_equal(fit.weights[~used], 0.0)


def test_greg_is_its_closed_form_and_may_be_negative() -> None:
    matrix, t, design = problem(5, rows=20, columns=40)
    x = matrix.toarray()
    t = t + 3 * np.abs(t) * np.random.default_rng(5).standard_normal(20)
    correction = np.linalg.solve((x * design) @ x.T, t - x @ design)
    fit = calibrate_dense(matrix, t, design, method="greg")
    np.testing.assert_allclose(fit.weights, design * (1 + x.T @ correction), rtol=1e-9, atol=1e-9)
    assert fit.weights.min() < 0


def test_raking_a_table_is_iterative_proportional_fitting() -> None:
    rng = np.random.default_rng(3)
    table = rng.uniform(1, 9, (5, 7))
    wanted = table * rng.uniform(0.5, 2, table.shape)
    row_sums, column_sums = wanted.sum(axis=1), wanted.sum(axis=0)
    fitted = table.copy()
    for _ in range(200):
        fitted *= (row_sums / fitted.sum(axis=1))[:, None]
        fitted *= column_sums / fitted.sum(axis=0)
    i, j = np.divmod(np.arange(35), 7)
    both = np.r_[[i == k for k in range(5)], [j == k for k in range(7)]]
    margins = sp.csr_array(both.astype(float))  # one row is implied by the others
    fit = calibrate_dense(margins, np.r_[row_sums, column_sums], table.ravel(), method="raking")
    np.testing.assert_allclose(fit.weights.reshape(5, 7), fitted, rtol=1e-10)


def test_rows_that_others_imply_change_nothing() -> None:
    matrix, t, design = problem(7)
    twice = sp.csr_array(sp.vstack([matrix, matrix[:3] * 2.0, matrix[[0]] + matrix[[1]]]))
    for method in ("greg", "raking"):
        once = calibrate_dense(matrix, t, design, method=method)
        again = calibrate_dense(twice, np.r_[t, 2 * t[:3], t[0] + t[1]], design, method=method)
        np.testing.assert_allclose(again.weights, once.weights, rtol=1e-9)


@pytest.mark.parametrize("method", ["truncated_linear", "logit", "raking"])
def test_bounds_hold_to_the_last_bit_also_when_they_differ_by_column(method: str) -> None:
    matrix, t, design = problem(2)
    rng = np.random.default_rng(0)
    low, high = rng.uniform(0.8, 0.9, 300), rng.uniform(1.2, 1.4, 300)
    fit = calibrate_dense(matrix, t, design, method=method, bounds=(low, high))
    assert (fit.weights >= design * low).all()
    assert (fit.weights <= design * high).all()
    if method != "logit":
        assert ((fit.ratio == low) | (fit.ratio == high)).sum() > 0
    np.testing.assert_allclose(matrix @ fit.weights, t, rtol=1e-8)


def test_weights_do_not_depend_on_the_threads_of_blas() -> None:
    # A process each: BLAS reads its number of threads when it is loaded.
    program = """
import numpy as np, scipy.sparse as sp, sys
from distcalib.fit.dense import calibrate_dense
rng = np.random.default_rng(1)
X = sp.random_array((300, 1500), density=0.05, rng=rng, format="csr")
t = X @ rng.uniform(0.6, 1.6, 1500)
for method, bounds in (("raking", None), ("truncated_linear", (0.3, 3.0))):
    print(*(w.hex() for w in calibrate_dense(X, t, np.ones(1500), method=method, bounds=bounds).weights))
"""
    one, two = (
        np.array([
            float.fromhex(w)
            for w in subprocess.run(
                [sys.executable, "-c", program], env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
                check=True, capture_output=True, text=True,
            ).stdout.split()
        ])
        for threads in ("1", "2")
    )  # fmt: skip
    assert len(one) == 3000
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_zero_and_negative_targets_are_met() -> None:
    matrix = sp.csr_array(np.array([[1.0, -1, 2, 0], [1, 1, 1, 1], [-1, -2, 0, 0]]))
    t = np.array([0.0, 50.0, -30.0])
    fit = calibrate_dense(matrix, t, np.full(4, 10.0), method="raking")
    np.testing.assert_allclose(matrix @ fit.weights, t, atol=1e-9)
    assert fit.weights.min() > 0


def test_a_target_out_of_reach_by_itself_is_named_with_what_can_be_reached() -> None:
    with pytest.raises(
        InputError, match=r"1 targets out of reach.*size: target 900, attainable 256.8 to 385.2"
    ):
        calibrate_dense(
            X, [125, 44, 38, 900, 2300.0], DESIGN, method="logit", bounds=(0.8, 1.2),
            names=["all", "b", "c", "size", "income"],
        )  # fmt: skip


@pytest.mark.parametrize("method", ["truncated_linear", "logit", "raking"])
def test_targets_that_contradict_one_another_are_named(method: str) -> None:
    # each alone is within reach: b and c take more than all
    with pytest.raises(InputError, match="no weights within the bounds meet all targets") as caught:
        calibrate_dense(X[:3], [119, 60, 62.0], DESIGN, method=method, bounds=(0.5, 2.0))
    assert "row" in str(caught.value)


def test_greg_says_when_equal_rows_have_unequal_targets() -> None:
    with pytest.raises(InputError, match="no weights within the bounds meet all targets"):
        calibrate_dense(X[[0, 0, 1]], [119, 130, 42.0], DESIGN, method="greg")


def test_the_least_violation_is_that_worked_by_hand() -> None:
    matrix = sp.csr_array(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    found = feasibility(matrix, np.array([10.0, 8.0, 8.0]), (np.zeros(2), np.full(2, 100.0)))
    # parts sum to 16: missing the whole costs 0.6, but missing one part from above costs 6 / 8
    assert not found.feasible
    assert found.violation == pytest.approx(0.6)
    assert np.flatnonzero(np.abs(found.misses) > 1e-9).tolist() == [0]
    assert feasibility(matrix, np.array([16.0, 8.0, 8.0]), (np.zeros(2), np.full(2, 100.0))).feasible


def test_a_solution_only_at_the_bounds_is_reached_by_the_truncated_method() -> None:
    matrix = sp.csr_array(np.ones((1, 3)))
    fit = calibrate_dense(matrix, [6.0], np.ones(3), method="truncated_linear", bounds=(0.5, 2.0))
    np.testing.assert_array_equal(fit.ratio, 2.0)


def test_too_few_steps_are_no_sign_of_infeasible_targets() -> None:
    with pytest.raises(RunError, match=r"after 1 Newton steps .* though weights within the bounds exist"):
        calibrate_dense(X, TARGETS, DESIGN, method="raking", max_iter=1)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"method": "rakking"}, "did you mean 'raking'"),
        ({"method": "logit"}, "needs bounds"),
        ({"method": "logit", "bounds": (1.0, 2.0)}, "lower < 1 < upper"),
        ({"method": "truncated_linear", "bounds": (2.0, 1.0)}, "lower bound above the upper"),
        ({"method": "raking", "bounds": (-1.0, 2.0)}, "negative lower bound"),
        ({"method": "greg", "bounds": (0.5, 2.0)}, "truncated_linear"),
        ({"method": "raking", "bounds": ([0.5, 0.5], 2.0)}, "wrong shape"),
    ],
)
def test_wrong_settings_are_errors(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate_dense(X, TARGETS, DESIGN, **settings_)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1e7, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=1, max_size=30),
    st.floats(0, 1),
    st.floats(0, 0.9),
    st.floats(1.1, 20),
)
def test_mass_is_conserved_exactly_within_bounds(
    weights: list[float], place: float, lower: float, upper: float
) -> None:
    w = np.array(weights)
    low, high = w * lower, w * upper
    least, most = math.fsum(low), math.fsum(high)
    total = least + place * (most - least)
    total = min(max(total, least), most)
    got = conserve_mass(w, total, lower=low, upper=high)
    assert math.fsum(got) == total
    assert (got >= low).all()
    assert (got <= high).all()
    free = (got > low) & (got < high)
    if free.sum() > 2:  # one factor for all that are not at a bound (one took the last bits)
        ratio = got[free] / w[free]
        assert np.ptp(ratio) <= 1e-6 * ratio.max() + total * 1e-12 / w[free].min()


def test_mass_out_of_reach_is_an_error() -> None:
    with pytest.raises(InputError, match="no weights within the bounds have this sum"):
        conserve_mass([1.0, 2.0, 0.0], 10.0, upper=[2.0, 4.0, 50.0])
    with pytest.raises(InputError, match="finite and 0 or more"):
        conserve_mass([1.0, -2.0], 10.0)


def test_no_record_exceeds_its_share_of_a_target() -> None:
    matrix, _, design = problem(9)
    t = matrix @ design
    t[3] = 0.0
    upper = share_cap(matrix, t, 0.05)
    share = (abs(matrix) @ sp.diags_array(np.where(np.isfinite(upper), upper, 0.0))).tocoo()
    kept = t[share.coords[0]] != 0
    assert (share.data[kept] <= 0.05 * np.abs(t[share.coords[0][kept]])).all()
    # and no more is cut than that: each finite cap is reached in some row
    reached = np.zeros(300)
    np.maximum.at(reached, share.coords[1][kept], share.data[kept] / np.abs(t[share.coords[0][kept]]))
    np.testing.assert_allclose(reached[np.isfinite(upper)], 0.05, rtol=1e-12)
    with pytest.raises(InputError, match="out of reach"):
        share_cap(matrix, t, 0.001)


def test_each_target_alone_is_checked_against_its_interval() -> None:
    limits = DESIGN * 0.5, DESIGN * 2
    check_each_target(X, TARGETS, limits)
    with pytest.raises(InputError, match="row 1: target 100, attainable 21 to 84"):
        check_each_target(X, np.array([125, 100, 38, 345, 2300.0]), limits)
