"""Final weights: bounds that hold exactly, mass, shares, losses with bands, groups, and even areas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic import Problem, nested_problem

from distcalib.errors import DistcalibWarning, InputError
from distcalib.fit import FitSpec, fit_weights
from distcalib.fit.support_by_area import support_by_area


@pytest.fixture(scope="module")
def nested() -> Problem:
    return nested_problem(n_donors=1500, n_clones=2, n_districts=24, n_states=4)


def errors(p: Problem, weights: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    some = p.targets != 0
    return np.abs((p.X @ weights)[some] / (p.targets if targets is None else targets)[some] - 1)


def fitted(p: Problem, **settings):
    return fit_weights(p.X, p.targets, **{"initial_weights": p.initial, "epochs": 60, **settings})


def test_no_weight_exceeds_its_ratio_to_the_design_weight_itself(nested) -> None:
    free = fitted(nested, records=1500)
    held = fitted(nested, records=1500, weight_ratio=2.5)
    assert (free.weights / nested.initial).max() > 2.5  # so the limit binds
    assert (held.weights / nested.initial).max() <= 2.5
    with pytest.raises(InputError, match=r"fit\.weight_ratio.*more than"):
        fitted(nested, records=500, weight_ratio=2.0)


def test_no_column_has_more_than_its_share_of_a_target(nested) -> None:
    def largest(weights: np.ndarray) -> float:
        shares = abs(nested.X).multiply(weights[None, :]).tocsr().max(axis=1).toarray().ravel()
        some = nested.targets != 0
        return float((shares[some] / np.abs(nested.targets[some])).max())

    free, held = fitted(nested, epochs=0), fitted(nested, epochs=0, share_cap=0.1, lower_bound=0.0)
    assert largest(free.weights) > 0.1
    assert largest(held.weights) <= 0.1
    with pytest.raises(InputError, match=r"fit\.share_cap.*smaller lower_bound"):
        fitted(nested, epochs=0, share_cap=1e-5, lower_bound=0.5)


def test_the_sum_of_weights_is_kept_where_asked(nested) -> None:
    total = float(nested.initial.sum())
    free, held = fitted(nested, records=1200), fitted(nested, records=1200, conserve_mass=True)
    assert abs(free.weights.sum() / total - 1) > 1e-5
    assert held.weights.sum() == pytest.approx(total, rel=1e-7)
    assert held.summary["loss_after"] < 0.1 * held.summary["loss_before"]


def test_a_sum_that_no_weights_within_their_limits_have_is_refused_before_any_solve(
    nested, monkeypatch
) -> None:
    def never(*given, **how):
        raise AssertionError("the feasibility is asked first")

    held = {"conserve_mass": True, "lower_bound": 0.0}
    fitted(nested, epochs=0, share_cap=0.5, refit_epochs=0, **held)
    monkeypatch.setattr("distcalib.fit.weighing.refit", never)
    # Half of the columns can carry all within a tenth of each target; sixty cannot.
    with pytest.raises(InputError, match=r"fit\.share_cap.* the 60 columns weigh 0 to .*conserve_mass"):
        fitted(nested, records=60, share_cap=0.1, epochs=10, **held)
    monkeypatch.setattr("distcalib.fit.calibrate.select", never)
    with pytest.raises(InputError, match=r"fit\.share_cap.* the 3,000 columns weigh 0 to .*conserve_mass"):
        fitted(nested, records=60, share_cap=1e-4, epochs=10, **held)


def test_areas_below_the_asked_effective_share_are_evened_out_and_others_left(nested) -> None:
    asked = {"records": 1500, "ridge": 1e-3, "areas": nested.district}
    free, even = fitted(nested, **asked), fitted(nested, **asked, effective_share=0.78)

    def share(weights: np.ndarray) -> pd.Series:
        table = support_by_area(weights, {"district": nested.district}, nested.donors, (0.0, np.inf))
        return table.set_index("area")["effective_share"]

    assert share(free.weights).min() < 0.75
    assert share(even.weights).min() >= 0.78
    assert even.summary["areas_below_effective_share"] == []
    assert np.array_equal(free.weights > 0, even.weights > 0)
    assert even.summary["loss_after"] < 3 * free.summary["loss_after"]


def test_areas_are_evened_out_after_a_refit_that_a_holdout_stopped(nested) -> None:
    even = fitted(nested, records=1500, areas=nested.district, effective_share=0.78, holdout=0.3)
    table = support_by_area(even.weights, {"district": nested.district}, nested.donors, (0.0, np.inf))
    assert table["effective_share"].min() >= 0.78
    refit = even.log[even.log["stage"] == "refit"]
    assert refit["epoch"].is_monotonic_increasing
    epochs = [epoch for epoch, _, _ in even.estimates]
    assert epochs == sorted(set(epochs))


def test_areas_that_cannot_be_even_are_named(nested) -> None:
    # Bounds that leave the design weights no room: four of these are tenfold in one district.
    tilted = nested.initial.copy()
    tilted[np.flatnonzero(nested.district == 7)[:4]] *= 10
    bounds = {"lower_bound": 0.99, "upper_bound": 1.01, "epochs": 0}
    with pytest.warns(DistcalibWarning, match="1 areas .* below 80%.* 7 "):
        uneven = fitted(nested, initial_weights=tilted, areas=nested.district, effective_share=0.8, **bounds)
    assert uneven.summary["areas_below_effective_share"] == [7]
    with pytest.raises(InputError, match=r"fit\.effective_share.*areas="):
        fitted(nested, effective_share=0.5)


@pytest.mark.parametrize("loss", ["huber", "capped_mape"])
def test_other_losses_than_the_squared_one_are_lowered(nested, loss: str) -> None:
    result = fitted(nested, loss=loss, epochs=60, groups=nested.groups)
    assert result.summary["loss_after"] < 0.5 * result.summary["loss_before"]
    gates = result.log[result.log["stage"] == "gates"]
    assert gates["loss"].iloc[-1] < result.summary["loss_before"]


def test_a_huber_loss_gives_way_to_outliers_less_than_the_squared_one(nested) -> None:
    wild = nested.targets.copy()
    wild[3] *= 10
    found = []
    for loss in ("squared", "huber"):
        weights = fit_weights(nested.X, wild, initial_weights=nested.initial, epochs=0, loss=loss).weights
        found.append(np.median(errors(nested, weights)))
    assert found[1] < found[0]


def test_errors_within_tolerance_bands_cost_nothing(nested) -> None:
    banded = fitted(nested, epochs=0, tolerance=0.05, ridge=1e-4)
    plain = fitted(nested, epochs=0, ridge=1e-4)
    assert banded.summary["loss_after"] < plain.summary["loss_after"]
    # What is left of the errors lies about the bands' edge, and the weights are the evener for it.
    assert np.quantile(errors(nested, banded.weights), 0.95) < 0.07
    assert np.median(errors(nested, banded.weights)) > 2 * np.median(errors(nested, plain.weights))
    assert banded.summary["effective_sample_size"] > plain.summary["effective_sample_size"]


def test_a_group_counts_as_often_as_its_multiplier_says(nested) -> None:
    names = pd.unique(np.asarray(nested.groups))
    base = fitted(nested, epochs=0, groups=nested.groups)
    more = fitted(nested, epochs=0, groups=nested.groups, group_multipliers={names[0]: 50.0})
    rows = np.asarray(nested.groups) == names[0]

    def error(weights: np.ndarray) -> float:
        return float(np.mean(np.square(errors(nested, weights))[rows[nested.targets != 0]]))

    assert error(more.weights) < error(base.weights)
    one = fitted(nested, epochs=0, groups=nested.groups, group_multipliers={names[0]: 1.0})
    np.testing.assert_array_equal(one.weights, base.weights)
    with pytest.raises(InputError, match="no such group"):
        fitted(nested, groups=nested.groups, group_multipliers={"nobody": 2.0})
    with pytest.raises(InputError, match="there are none"):
        fitted(nested, group_multipliers={names[0]: 2.0})
    with pytest.raises(InputError, match="0 or more"):
        fitted(nested, groups=nested.groups, group_multipliers={names[0]: -1.0})


def test_auto_is_reweighted_for_a_number_of_records_alone(nested) -> None:
    assert fitted(nested, records=900).spec.selector == "reweighted"
    assert fitted(nested).spec.selector == "gates"
    assert fitted(nested, records=900, engine="torch", epochs=3).spec.selector == "gates"
    assert FitSpec(records=9, lambda_l0=1e-6).resolved(True).selector == "gates"
    assert FitSpec(records=9).resolved(False).selector == "gates"
    with pytest.raises(InputError, match="none is given"):
        fitted(nested, selector="reweighted")
    with pytest.raises(InputError, match="squared loss"):
        fitted(nested, selector="reweighted", records=900, loss="huber")


def test_presets_are_penalties(nested) -> None:
    assert FitSpec.of("national").lambda_l0 == 1e-4
    assert FitSpec.of("local").lambda_l0 == 1e-8
    assert FitSpec.of("national", lambda_l0=0.5).lambda_l0 == 0.5
    assert FitSpec.of("national", records=7).lambda_l0 is None
    with pytest.raises(InputError, match="did you mean 'local'"):
        FitSpec.of("locl")


def test_estimates_are_kept_from_the_start_to_the_final_weights(nested) -> None:
    result = fitted(nested, epochs=60, log_every=20)
    epochs = [epoch for epoch, _, _ in result.estimates]
    assert epochs[:3] == [20, 40, 60]
    assert epochs == sorted(set(epochs))
    last, loss, estimate = result.estimates[-1]
    assert last == result.summary["epochs"] + result.summary["refit_steps"]
    assert loss == result.summary["loss_after"]
    np.testing.assert_allclose(estimate, nested.X @ result.weights, rtol=1e-12)


def test_support_by_area_by_hand() -> None:
    weights = np.array([1.0, 1.0, 2.0, 0.0, 4.0])
    table = support_by_area(
        weights, {"district": np.array([1, 1, 2, 2, 2])}, [7, 7, 8, 9, 9], (np.array([1, 0.5, 2, 1, 1]), 4.0)
    ).set_index("area")
    assert table["records"].tolist() == [2, 2]
    assert table["donors"].tolist() == [1, 2]
    np.testing.assert_allclose(table["effective_sample_size"], [2.0, 36 / 20])
    np.testing.assert_allclose(table["effective_sample_size_by_donor"], [1.0, 36 / 20])
    np.testing.assert_allclose(table["design_effect"], [1.0, 2 / 1.8])
    np.testing.assert_allclose(table["at_lower"], [0.5, 0.5])
    np.testing.assert_allclose(table["at_upper"], [0.0, 0.5])
    np.testing.assert_allclose(table["largest_donor_share"], [1.0, 4 / 6])


def test_the_limits_of_the_weights_are_told(nested) -> None:
    found = fitted(nested, records=1500, weight_ratio=2.5, share_cap=0.5, lower_bound=0.1)
    low, high = found.limits
    kept = found.weights > 0
    assert not low[~kept].any()
    assert not high[~kept].any()
    assert (found.weights >= low).all()
    assert (found.weights <= high).all()
    assert (high <= 2.5 * nested.initial * (1 + 1e-12)).all()
    scale = found.summary["mass_scale"]
    np.testing.assert_allclose(low[kept], 0.1 * scale * nested.initial[kept], rtol=1e-12)
    # Where it is neither the ratio nor the upper bound, it is the share of some target.
    capped = kept & (high < 2.5 * nested.initial * (1 - 1e-9))
    share = abs(nested.X).multiply(1 / np.where(nested.targets == 0, np.inf, np.abs(nested.targets))[:, None])
    largest = share.tocsc().max(axis=0).toarray().ravel() * high
    assert capped.any()
    np.testing.assert_allclose(largest[capped], 0.5, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "place"), [({"lambda_l0": 1e-6}, r"fit\.lambda_l0"), ({"engine": "torch"}, r"fit\.engine")]
)
def test_what_belongs_to_the_gates_is_not_ignored_by_the_other_selector(nested, settings, place) -> None:
    with pytest.raises(InputError, match=f"{place}.*reweighted"):
        fitted(nested, records=500, selector="reweighted", **settings)
