"""Losses survive zero and negative targets, and their derivatives are derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError
from distcalib.fit.loss import LOSSES, loss_for

numbers = st.floats(-1e6, 1e6).map(lambda x: round(x, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LOSSES),
    st.lists(st.tuples(numbers, numbers, st.floats(0, 0.5), st.integers(0, 2)), min_size=1, max_size=6),
)
def test_derivatives_agree_with_differences(name: str, rows: list[tuple[float, float, float, int]]) -> None:
    target, estimate, tolerance, groups = (np.array(c) for c in zip(*rows, strict=True))
    loss = loss_for(target, name=name, gross=np.full(len(target), 1e3), tolerance=tolerance, groups=groups)
    step = 1e-6 * loss.scale
    error = (estimate - target) / loss.scale
    # Differences say nothing across a corner: of the band, and of the capped loss.
    corners = np.abs(np.abs(error)[:, None] - np.c_[tolerance, tolerance + loss.knee]).min(axis=1)
    smooth = corners > 1e-5
    slope = (loss.terms(estimate + step) - loss.terms(estimate - step)) / (2 * step)
    np.testing.assert_allclose(
        (loss.derivative(estimate) * loss.scale)[smooth],
        (slope * loss.scale)[smooth],
        rtol=1e-4,
        atol=1e-6 * (1 + error[smooth] ** 2).max() if smooth.any() else 1,
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(("squared", "huber")), st.lists(st.tuples(numbers, numbers, numbers), min_size=1))
def test_squared_and_huber_are_convex(name: str, rows: list[tuple[float, float, float]]) -> None:
    target, one, other = (np.array(c) for c in zip(*rows, strict=True))
    loss = loss_for(target, name=name, tolerance=0.05)
    first, rise = loss.terms(one), loss.derivative(one) * (other - one)
    # What is left of two large numbers has their rounding.
    assert (loss.terms(other) >= first + rise - 1e-9 * (1 + np.abs(first) + np.abs(rise))).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_target_met_costs_nothing_and_one_within_tolerance_neither(name: str) -> None:
    target = np.array([0.0, -1.0, 250.0])
    loss = loss_for(target, name=name, gross=[10.0, 0.0, 0.0], tolerance=[0.0, 0.1, 0.02])
    assert loss.value(target) == 0.0
    inside = target + np.array([0.0, 0.0999, 4.9])
    assert loss.value(inside) == 0.0
    np.testing.assert_array_equal(loss.derivative(inside), 0.0)
    assert loss.value(target + np.array([0.0, 0.0, 5.1])) > 0


def test_values_by_hand() -> None:
    target, estimate = np.array([100.0, 0.0]), np.array([150.0, -3.0])
    gross = [0.0, 100.0]  # scale of the zero target: 0.1 * 100
    assert loss_for(target, gross=gross).terms(estimate).tolist() == [0.25, pytest.approx(0.09)]
    huber = loss_for(target, name="huber", gross=gross, knee=0.2).terms(estimate)
    np.testing.assert_allclose(huber, [0.2 * (1.0 - 0.2), 0.2 * (0.6 - 0.2)])
    capped = loss_for(target, name="capped_mape", gross=gross, knee=0.4)
    np.testing.assert_allclose(capped.terms(estimate), [0.4, 0.3])
    np.testing.assert_allclose(capped.derivative(estimate), [0.0, -0.1])
    band = loss_for(target, gross=gross, tolerance=0.1)
    np.testing.assert_allclose(band.terms(estimate), [0.16, 0.04])


def test_zero_and_negative_targets_stay_finite_without_a_mass() -> None:
    loss = loss_for([0.0, -1.0, -5.0])
    assert np.isfinite(loss.value(np.array([2.0, 0.0, 5.0])))
    np.testing.assert_array_equal(loss.terms(np.array([2.0, 0.0, 5.0])), [4.0, 1.0, 4.0])


def test_groups_have_equal_shares_and_importance_divides_them() -> None:
    loss = loss_for(np.ones(4), groups=["a", "a", "a", "b"], importance=[1.0, 1.0, 0.0, 7.0])
    np.testing.assert_array_equal(loss.share, [0.5, 0.5, 0.0, 1.0])
    np.testing.assert_array_equal(loss_for(np.ones(4), importance=[1, 1, 0, 4]).share, [0.5, 0.5, 0.0, 2.0])


def test_a_wrong_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'huber'"):
        loss_for([1.0], name="hubber")


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": -0.1},
        {"tolerance": [0.1, 0.1, 0.1]},
        {"gross": [np.nan, 1.0]},
        {"importance": 0.0},
        {"knee": 0.0, "name": "huber"},
        {"scale_floor": -1.0},
        {"groups": ["a"]},
        {"groups": ["a", None]},
    ],
)
def test_values_out_of_range_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        loss_for([1.0, 2.0], **wrong)  # type: ignore[arg-type]
