"""The donor bootstrap: its variance is the textbook's, its draws depend on nothing but their key."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import nested_problem

from distcalib.errors import InputError
from distcalib.fit import FitSpec, fit_with_spec
from distcalib.fit.replicates import (
    CALIBRATED_PERTURBATION,
    bootstrap_factors,
    refitted_weights,
    scaled_weights,
    standard_error,
)

RNG = np.random.default_rng(5)
DONORS = RNG.choice(100_000, 400, replace=False)
STRATA = RNG.integers(1, 6, 400)


def many(number: int, **options) -> np.ndarray:
    return np.array([bootstrap_factors(DONORS, STRATA, r, **options) for r in range(1, number + 1)])


@pytest.mark.parametrize("perturbation", [1.0, CALIBRATED_PERTURBATION])
def test_the_standard_error_of_a_mean_is_the_textbooks(perturbation):
    # One stratum: s / sqrt(n). 1,000 replicates have a relative error of about 1 / sqrt(2,000) = 2.2 %.
    y = RNG.lognormal(0, 1, len(DONORS))
    one = np.zeros(len(DONORS))
    factors = [bootstrap_factors(DONORS, one, r, perturbation=perturbation) for r in range(1_000)]
    error = standard_error(y.mean(), np.array(factors) @ y / len(y), perturbation)
    assert error == pytest.approx(y.std(ddof=1) / np.sqrt(len(y)), rel=0.08)


def test_the_standard_error_of_a_stratified_total_is_the_textbooks():
    # Strata differ in level, so a bootstrap that ignored them would give several times as much.
    y = STRATA * 10.0 + RNG.normal(0, 1, len(DONORS))
    error = standard_error(y.sum(), many(1_000) @ y)
    by = [y[s == STRATA] for s in np.unique(STRATA)]
    expected = np.sqrt(sum(len(v) * v.var(ddof=1) for v in by))
    assert error == pytest.approx(expected, rel=0.08)
    assert expected < 0.2 * np.sqrt(len(y)) * y.std()


def test_each_stratum_keeps_its_size():
    factors = many(20)
    for s in np.unique(STRATA):
        np.testing.assert_allclose(factors[:, s == STRATA].sum(axis=1), (s == STRATA).sum())


def test_the_order_of_donors_and_other_replicates_do_not_matter():
    order = RNG.permutation(len(DONORS))
    np.testing.assert_array_equal(
        bootstrap_factors(DONORS[order], STRATA[order], 7, seed=3),
        bootstrap_factors(DONORS, STRATA, 7, seed=3)[order],
    )
    assert len(np.unique(many(10), axis=0)) == 10
    assert (
        bootstrap_factors(DONORS, STRATA, 7, seed=4) != bootstrap_factors(DONORS, STRATA, 7, seed=3)
    ).any()


def test_certain_donors_and_donors_alone_in_their_stratum_are_fixed():
    certain = np.arange(len(DONORS)) < 100
    strata = STRATA.copy()
    strata[-1] = 99
    factors = np.array([bootstrap_factors(DONORS, strata, r, certain=certain) for r in range(20)])
    assert (factors[:, certain] == 1).all()
    assert (factors[:, -1] == 1).all()
    assert (factors[:, 100:-1].std(axis=0) > 0).all()
    # The draws of the others are as if the certain donors were not there.
    rest = bootstrap_factors(DONORS[100:], strata[100:], 3)
    np.testing.assert_array_equal(factors[3, 100:], rest)


def test_a_repeated_donor_is_an_error():
    with pytest.raises(InputError, match="more than once"):
        bootstrap_factors([1, 1, 2], [1, 1, 1], 1)
    with pytest.raises(InputError, match="perturbation"):
        bootstrap_factors([1, 2], [1, 1], 1, perturbation=0.0)


def test_weights_of_a_replicate_are_float32_values_scaled_by_donor():
    weights = np.array([1.1, 2.2, 3.3, 0.0])
    made = scaled_weights(weights, [2.0, 2.0, 0.0, 2.0])
    np.testing.assert_allclose(made, [2.2, 4.4, 0, 0], rtol=1e-7)
    np.testing.assert_array_equal(made, made.astype(np.float32))


@pytest.fixture(scope="module")
def fitted():
    problem = nested_problem(n_donors=3_000, n_clones=3, n_districts=40, n_states=8)
    spec = FitSpec(epochs=0, ridge=0.001, refit_epochs=300)
    result = fit_with_spec(problem.X, problem.targets, spec, initial_weights=problem.initial)
    return problem, spec, result


def replicate(fitted, number: int, perturbation: float) -> tuple[np.ndarray, np.ndarray]:
    problem, spec, result = fitted
    donors = np.arange(3_000)
    factors = bootstrap_factors(donors, donors % 8, number, perturbation=perturbation)[problem.donors]
    made = refitted_weights(problem.X, problem.targets, problem.initial, result.weights > 0, factors, spec)
    return factors, made


def share_within(problem, weights) -> float:
    return float(np.mean(np.abs(problem.X @ weights / problem.targets - 1) <= 0.05))


def test_a_replicate_that_changes_nothing_is_the_run(fitted):
    problem, spec, result = fitted
    ones = np.ones(len(problem.initial))
    made = refitted_weights(problem.X, problem.targets, problem.initial, result.weights > 0, ones, spec)
    np.testing.assert_allclose(made, result.weights, rtol=1e-5)


def test_a_refitted_replicate_meets_the_targets_as_the_run_does(fitted):
    problem, _, result = fitted
    share = share_within(problem, result.weights)
    for number in (1, 2):
        factors, made = replicate(fitted, number, CALIBRATED_PERTURBATION)
        assert share_within(problem, made) == pytest.approx(share, abs=0.03)
        # Without the refit the same draw is far from them.
        assert share_within(problem, scaled_weights(result.weights, factors)) < share - 0.1
        assert np.array_equal(made, made.astype(np.float32))


def test_clones_of_a_donor_that_is_not_drawn_all_go(fitted):
    result = fitted[2]
    factors, made = replicate(fitted, 1, 1.0)
    out = factors == 0
    assert 0.3 < out.mean() < 0.45
    assert (made[out] == 0).all()
    assert (made[~out & (result.weights > 0)] > 0).all()
    # Clones of one donor stand in one another's places: all three have the donor's factor.
    np.testing.assert_array_equal(factors[:3_000], factors[3_000:6_000])
