"""Problems at the edge, by either selector: the right answer or a clear error."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from distcalib.errors import InputError, RunError
from distcalib.fit import fit_weights

SELECTORS = ("gates", "reweighted")


def problem(n_targets: int = 12, n_columns: int = 60) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    X = sp.random_array((n_targets, n_columns), density=0.4, rng=rng, format="csr", dtype=np.float32)
    design = rng.uniform(50, 150, n_columns)
    return X, X @ (design * rng.uniform(0.8, 1.25, n_columns)), design


def fit(X, targets, design, selector: str, records: int = 30, **settings):
    return fit_weights(
        X,
        targets,
        initial_weights=design,
        selector=selector,
        records=records,
        epochs=40,
        ridge=1e-4,
        **settings,
    )


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_row_without_cells_is_excluded_and_touches_nothing(selector: str) -> None:
    X, targets, design = problem()
    with_row = sp.vstack([X, sp.csr_array((1, X.shape[1]))]).tocsr()
    result = fit(with_row, np.append(targets, 5.0), design, selector)
    assert result.summary["targets_excluded"][0]["reason"] == "empty row"
    np.testing.assert_array_equal(result.weights, fit(X, targets, design, selector).weights)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("value", [0.0, -1.0, -4000.0])
def test_zero_and_negative_targets_are_met_or_missed_but_finite(selector: str, value: float) -> None:
    X, targets, design = problem()
    signed = X.toarray()
    signed[0, ::2] *= -1
    targets = np.append(value, targets[1:])
    result = fit(sp.csr_array(signed), targets, design, selector)
    assert np.isfinite(result.weights).all()
    before, after = (abs(signed[0] @ w - value) for w in (design, result.weights))
    assert after < before


@pytest.mark.parametrize("selector", SELECTORS)
def test_one_target_and_one_record_meet(selector: str) -> None:
    X = sp.csr_array(np.array([[1.0, 2.0, 3.0, 4.0]]))
    result = fit(X, np.array([60.0]), np.full(4, 10.0), selector, records=1)
    assert np.count_nonzero(result.weights) == 1
    assert (X @ result.weights)[0] == pytest.approx(60.0, rel=0.01)


@pytest.mark.parametrize("selector", SELECTORS)
def test_of_columns_that_are_alike_as_many_stay_as_were_asked_for(selector: str) -> None:
    X, _, _ = problem(n_columns=3)
    alike = sp.hstack([X] * 20).tocsr()
    design = np.full(60, 100.0)
    result = fit(alike, alike @ design, design, selector, records=30)
    assert np.count_nonzero(result.weights) == 30
    np.testing.assert_allclose(alike @ result.weights, alike @ design, rtol=0.01)


@pytest.mark.parametrize("selector", SELECTORS)
def test_more_targets_than_a_short_integer_counts(selector: str) -> None:
    n = 65_540
    X = sp.csr_array((np.ones(n), (np.arange(n), np.arange(n) % 40)), shape=(n, 40))
    result = fit(X, np.full(n, 100.0), np.full(40, 60.0), selector, records=40)
    np.testing.assert_allclose(result.weights, 100.0, rtol=0.02)
    half = fit(X, np.full(n, 100.0), np.full(40, 60.0), selector, records=20)
    assert np.count_nonzero(half.weights) == 20
    np.testing.assert_allclose(half.weights[half.weights > 0], 100.0, rtol=0.05)


@pytest.mark.parametrize("selector", SELECTORS)
def test_what_is_no_number_is_refused_with_its_place(selector: str) -> None:
    X, targets, design = problem()
    wrong = X.copy()
    wrong.data[3] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        fit(wrong, targets, design, selector)
    with pytest.raises(InputError, match=r"targets\[4\]"):
        fit(X, np.where(np.arange(12) == 4, np.inf, targets), design, selector)
    with pytest.raises(InputError, match=r"initial_weights\[0\]"):
        fit(X, targets, np.where(np.arange(60) == 0, -1.0, design), selector)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_looks_change_no_bit(selector: str, threads: int) -> None:
    X, targets, design = problem(60, 600)
    once = fit(X, targets, design, selector, records=200, threads=1)
    again = fit(X, targets, design, selector, records=200, threads=threads, log_every=3)
    np.testing.assert_array_equal(once.weights, again.weights)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_matrix_of_the_same_shape_and_number_of_cells_is_another_matrix(selector: str) -> None:
    # A cache keyed on shape and number of cells goes stale.
    X, targets, design = problem()
    first = fit(X, targets, design, selector).weights
    other = X.copy()
    other.data = other.data[::-1].copy()
    second = fit(other, targets, design, selector).weights
    assert (first != second).any()
    X.data[:] = other.data  # the same object, changed in place
    np.testing.assert_array_equal(fit(X, targets, design, selector).weights, second)


@pytest.mark.parametrize("selector", SELECTORS)
def test_bounds_that_exclude_each_other_are_refused(selector: str) -> None:
    X, targets, design = problem()
    with pytest.raises(InputError, match=r"fit\.weight_ratio.*more than"):
        fit(X, targets, design, selector, records=6, weight_ratio=2.0)
    with pytest.raises(InputError, match=r"fit\.share_cap.*smaller lower_bound"):
        fit(X, targets, design, selector, share_cap=1e-6)
    with pytest.raises(InputError, match=r"fit\.lower_bound.*between 0 and 1"):
        fit(X, targets, design, selector, lower_bound=1.5)


@pytest.mark.parametrize(
    ("settings", "when"),
    [
        ({"records": 1, "selector": "reweighted"}, "the selection diverged at pass 1"),
        ({"records": 1, "selector": "gates", "lambda_l0": 1.0}, "the fit diverged at epoch 1"),
        ({"epochs": 0}, "the refit diverged after 0 steps"),
        ({"epochs": 0, "conserve_mass": True}, "the refit diverged after 0 steps"),
    ],
)
@pytest.mark.parametrize("labels", [{"groups": ["people", "money"]}, {"group_labels": ["people", "money"]}])
def test_a_divergence_names_when_which_target_and_its_group(settings, when: str, labels) -> None:
    X = sp.csr_array(np.array([[1.0, 1.0], [1e200, 0.0]]))
    with pytest.raises(RunError) as error:
        fit_weights(X, [1.0, 1e-200], names=["persons", "wages"], initial_weights=[1.0, 1.0],
                    scale_floor=1e-300, **settings, **labels)  # fmt: skip
    assert str(error.value).startswith(when)
    assert "(row 1 (wages), group 'money' is furthest off)" in str(error.value)


def test_a_gradient_that_is_no_number_is_a_divergence_though_the_loss_is_finite() -> None:
    # Squares of 1e150 are finite; their gradient by a column of 1e200 is not.
    X = sp.csr_array(np.array([[1.0, 1.0], [1e160, 0.0]]))
    with pytest.raises(RunError, match=r"refit diverged after 0 steps: the loss is 1\S+, its gradient inf"):
        fit_weights(X, [2.0, 1e10], initial_weights=[1.0, 1.0], scale_floor=1e-300, epochs=0)


def test_labels_of_groups_are_words_alone() -> None:
    X, targets, design = problem()
    labels = np.arange(12) // 4
    plain, told = (fit(X, targets, design, "gates", **given) for given in ({}, {"group_labels": labels}))
    np.testing.assert_array_equal(told.weights, plain.weights)
    with pytest.raises(InputError, match="group_labels: wrong length"):
        fit(X, targets, design, "gates", group_labels=labels[1:])
