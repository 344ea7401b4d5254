"""The bounded refit finds the solution that scipy's bounded least squares finds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from distcalib.errors import RunError
from distcalib.fit.refit import refit


def system(rows: int = 25, columns: int = 60, seed: int = 0) -> tuple[sp.csr_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((rows, columns), density=0.2, rng=rng, format="csr")
    return matrix, matrix @ rng.uniform(-0.5, 3.0, columns)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ridge", [1e-1, 1e-3])
@pytest.mark.parametrize("bounds", [(0.0, np.inf), (0.5, 1.5)])
def test_the_minimum_is_that_of_an_independent_solver(
    seed: int, ridge: float, bounds: tuple[float, float]
) -> None:
    matrix, goal = system(seed=seed)
    got = refit(matrix, goal, ridge=ridge, bounds=bounds, max_steps=5000, tolerance=1e-8, patience=5)
    n = matrix.shape[1]
    stacked = np.vstack([matrix.toarray(), np.sqrt(ridge) * np.eye(n)])
    reference = scipy.optimize.lsq_linear(stacked, np.r_[goal, np.full(n, np.sqrt(ridge))], bounds, tol=1e-14)
    assert got.ended == "converged"
    np.testing.assert_allclose(got.ratio, reference.x, atol=1e-5)
    assert got.ratio.min() >= bounds[0]
    assert got.ratio.max() <= bounds[1]


def test_held_out_error_returns_the_best_round_not_the_last() -> None:
    matrix, goal = system(60, 80)
    noise = np.random.default_rng(1).normal(0, 0.5 * np.abs(goal).mean(), len(goal))
    fresh, fresh_goal = sp.csr_array(matrix[30:]), goal[30:]
    seen: list[float] = []

    def error(v: np.ndarray) -> float:
        seen.append(float(np.mean(np.abs(fresh @ v - fresh_goal))))
        return seen[-1]

    got = refit(
        sp.csr_array(matrix[:30]),
        (goal + noise)[:30],
        ridge=0.0,
        bounds=(0.0, np.inf),
        max_steps=4000,
        tolerance=1e-12,
        patience=3,
        held_out_error=error,
    )
    best = min(seen)
    assert error(got.ratio) == best
    assert got.rounds < 4000


def test_no_steps_leave_the_start() -> None:
    matrix, goal = system()
    got = refit(matrix, goal, ridge=0.0, bounds=(0.0, 9.0), max_steps=0, tolerance=1e-6, patience=1)
    np.testing.assert_array_equal(got.ratio, 1.0)
    assert got.ended == "step limit"


def test_an_infinite_loss_is_an_error_and_not_a_result() -> None:
    matrix, goal = system()
    with np.errstate(over="ignore"), pytest.raises(RunError, match="diverged"):
        refit(matrix, goal + 1e200, ridge=0.0, bounds=(0.0, 9.0), max_steps=9, tolerance=1e-6, patience=1)
