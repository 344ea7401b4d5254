"""Reweighted L1 keeps exactly the records asked for, and the right ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from synthetic import Problem, contradictory_problem

from distcalib.errors import InputError, RunError
from distcalib.fit.refit import refit
from distcalib.fit.reweighted import select_reweighted

RIDGE, BOUNDS = 0.005, (0.02, 50.0)


@pytest.fixture(scope="module")
def contradictory() -> Problem:
    return contradictory_problem(n_donors=4000, n_districts=60, n_states=9)


def select(p: Problem, records: int, rows: np.ndarray | slice = slice(None), **settings: float) -> np.ndarray:
    targets, X = p.targets[rows], p.X[rows]
    return select_reweighted(
        X, np.ones(len(targets)), records, factor=1 / targets, unit=p.initial,
        ridge=RIDGE * len(targets), bounds=BOUNDS, **settings,
    )  # fmt: skip


def weighted(p: Problem, support: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Refit the support from mass-scaled design weights, with the shipped ridge."""
    start = p.initial[support] * (p.initial.sum() / p.initial[support].sum())
    targets = p.targets[rows]
    matrix = sp.csr_array(sp.diags_array(1 / targets) @ p.X[rows][:, support] @ sp.diags_array(start))
    solution = refit(
        matrix, np.ones(len(targets)), ridge=RIDGE * len(targets) / len(support), bounds=BOUNDS,
        max_steps=500, tolerance=1e-6, patience=5,
    )  # fmt: skip
    out = np.zeros(len(p.initial))
    out[support] = solution.ratio * start
    return out


def loss(p: Problem, weights: np.ndarray) -> float:
    return float(np.sum(((p.X @ weights - p.targets) / p.targets) ** 2))


@pytest.mark.parametrize("records", [1, 37, 400, 800, 2000, 7999, 8000])
def test_exactly_the_records_asked_for_are_kept(contradictory: Problem, records: int) -> None:
    support = select(contradictory, records, growth=1.2)
    assert len(support) == records
    assert (np.diff(support) > 0).all()
    assert support[0] >= 0
    assert support[-1] < 8000


@pytest.mark.parametrize("records", [800, 2000])
def test_the_records_fit_better_than_chance_and_hold_out_no_worse(
    contradictory: Problem, records: int
) -> None:
    p = contradictory
    chance = np.sort(np.random.default_rng(0).choice(8000, records, replace=False))
    chosen = select(p, records)
    assert loss(p, weighted(p, chosen)) < 0.1 * loss(p, weighted(p, chance))

    district = (p.rows["level"] == "district").to_numpy()
    held = district & (p.rows["place"].to_numpy() % 5 == 0)
    rows = np.flatnonzero(~held)

    def held_out(weights: np.ndarray) -> float:
        error = np.abs(p.X @ weights - p.targets) / p.targets
        return float(np.mean(np.minimum(error[held], 1.0)))

    chosen = select(p, records, rows)
    # Districts without targets of their own lose records to those that have some.
    assert held_out(weighted(p, chosen, rows)) < 1.15 * held_out(weighted(p, chance, rows))


def test_a_slower_path_is_a_better_one(contradictory: Problem) -> None:
    fast, slow = (loss(contradictory, weighted(contradictory, select(contradictory, 800, growth=g)))
                  for g in (1.5, 1.02))  # fmt: skip
    assert slow < fast


def test_the_support_of_a_sparse_solution_is_found() -> None:
    # Candès, Wakin and Boyd's experiment: few non-zeros, fewer equations than unknowns.
    rng = np.random.default_rng(4)
    matrix = rng.uniform(0, 1, (60, 150)) * (rng.random((60, 150)) < 0.5)
    truth = np.sort(rng.choice(150, 12, replace=False))
    v = np.zeros(150)
    v[truth] = rng.uniform(2.0, 20.0, 12)
    found = select_reweighted(sp.csr_array(matrix), matrix @ v, 12, bounds=(0.0, np.inf), growth=1.01)
    np.testing.assert_array_equal(found, truth)


def test_columns_in_any_storage_give_the_same_records(contradictory: Problem) -> None:
    p = contradictory
    columns = sp.csc_array(p.X)
    compact = (columns.indptr.astype(np.int64), columns.indices.astype(np.uint16), columns.data)
    goal = np.ones(len(p.targets))
    again = select_reweighted(
        compact, goal, 700, factor=1 / p.targets, unit=p.initial, ridge=RIDGE * len(goal), bounds=BOUNDS,
        growth=1.1,
    )  # fmt: skip
    np.testing.assert_array_equal(again, select(p, 700, growth=1.1))


def test_the_seed_chooses_between_equal_columns() -> None:
    matrix = sp.csr_array(np.ones((1, 200)))
    chosen = [tuple(select_reweighted(matrix, [200.0], 20, ridge=1.0, seed=seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_columns_without_cells_go_first() -> None:
    matrix = sp.csr_array(np.r_[[np.r_[np.ones(10), np.zeros(10)]]])
    np.testing.assert_array_equal(select_reweighted(matrix, [10.0], 10), np.arange(10))


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 0},
        {"records": 9},
        {"ridge": -1.0},
        {"growth": 1.0},
        {"epsilon": 0.0},
        {"bounds": (1.5, 2.0)},
        {"unit": np.zeros(8)},
        {"factor": np.ones(3)},
    ],
)
def test_values_out_of_range_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        select_reweighted(sp.csr_array(np.ones((2, 8))), [1.0, 2.0], **{"records": 3, **wrong})  # type: ignore[arg-type]


def test_a_goal_that_is_no_number_is_an_error() -> None:
    with pytest.raises(RunError, match="diverged"):
        select_reweighted(sp.csr_array(np.ones((2, 8))), [1.0, np.nan], 3)
