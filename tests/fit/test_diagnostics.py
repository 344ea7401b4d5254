"""Diagnostics say what the weights do to each target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from distcalib.fit import effective_sample_size, summarise

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
