"""The frontier judges weights as they are, and its lower bounds are lower bounds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from distcalib.errors import InputError
from distcalib.fit.descent import Descent
from distcalib.fit.frontier import FRONTIER_COLUMNS, attainable_loss, dual_bound, frontier
from distcalib.fit.loss import loss_for


def system(seed: int, rows: int = 120, columns: int = 60) -> tuple[sp.csr_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(sp.random_array((rows, columns), density=0.2, rng=rng))
    return matrix, matrix @ rng.uniform(-0.5, 3.0, columns) + rng.normal(0, 0.5, rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bounds", [(0.0, np.inf), (0.02, 10.0), (0.7, 1.3)])
def test_loss_and_bound_bracket_the_minimum_of_an_independent_solver(
    seed: int, bounds: tuple[float, float]
) -> None:
    matrix, goal = system(seed)
    least = 2 * scipy.optimize.lsq_linear(matrix.toarray(), goal, bounds, tol=1e-14).cost
    found = attainable_loss(matrix, goal, bounds=bounds, tolerance=1e-6, max_passes=5000)
    assert found.lower_bound <= least * (1 + 1e-9)
    assert found.loss == pytest.approx(least, rel=2e-6)
    assert found.loss - found.lower_bound <= 1e-6 * found.loss
    assert found.kkt_residual < 1e-3
    assert bounds[0] <= found.ratio.min()
    assert found.ratio.max() <= bounds[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("high", [np.inf, 3.0])
def test_the_bound_holds_at_any_point(seed: int, high: float) -> None:
    matrix, goal = system(seed)
    limits = np.zeros(60), np.full(60, high)
    least = 2 * scipy.optimize.lsq_linear(matrix.toarray(), goal, (0, high), tol=1e-14).cost
    best = scipy.optimize.lsq_linear(matrix.toarray(), goal, (0, high), tol=1e-14).x
    rng = np.random.default_rng(seed)
    for distance in (0.0, 1e-4, 0.1, 3.0):
        at = np.clip(best + distance * rng.standard_normal(60), 0, high)
        path = Descent(matrix, goal)
        path.v[:] = at
        path.renew()
        assert 0 <= dual_bound(path, limits) <= least * (1 + 1e-9)


def test_a_goal_within_reach_is_attained() -> None:
    matrix, _ = system(0, rows=10)
    found = attainable_loss(matrix, matrix @ np.full(60, 2.0), bounds=(0.0, 5.0))
    assert found.loss < 1e-9
    assert found.lower_bound <= found.loss


def test_negative_lower_bounds_are_refused() -> None:
    with pytest.raises(InputError, match="negative lower bound"):
        attainable_loss(*system(0), bounds=(-1.0, 1.0))


def test_the_table_by_hand() -> None:
    X = sp.csr_array(np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 5, 0, 0]]))
    target, held = np.array([8.0, 4.0, 5.0]), np.array([False, False, True])
    loss = loss_for(target, importance=~held)
    given = {4: [2.0, 2, 2, 2], 2: [4.0, 4, 0, 0], 1: [8.0, 0, 0, 0]}
    table = frontier(
        given.__getitem__, [4, 2, 1], X, loss, donors=[7, 8, 7, 8], held_out=held, attainable=0.0
    )
    assert list(table.columns) == list(FRONTIER_COLUMNS)
    assert table["records"].tolist() == [4, 2, 1]
    assert table["donors"].tolist() == [2, 2, 1]
    np.testing.assert_allclose(table["loss"], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(table["effective_sample_size"], [4.0, 2.0, 1.0])
    np.testing.assert_allclose(table["effective_sample_size_by_donor"], [2.0, 2.0, 1.0])
    np.testing.assert_allclose(table["design_effect"], 1.0)
    np.testing.assert_allclose(table["held_out_error"], [1.0, 1.0, 1.0])  # 10 of 5, 20 of 5, 0 of 5
    nearer = frontier(lambda _: [2.0, 1.2, 2, 2], [4], X, loss, held_out=held)
    np.testing.assert_allclose(nearer["held_out_error"], [0.2])


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [1.0, np.nan, 0, 0], [1.0, -1.0, 0, 0]])
def test_weights_that_are_none_are_refused(wrong: list[float]) -> None:
    X = sp.csr_array(np.ones((1, 4)))
    with pytest.raises(InputError, match="must return finite weights"):
        frontier(lambda _: wrong, [4], X, loss_for([1.0]))
