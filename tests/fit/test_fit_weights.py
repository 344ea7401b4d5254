"""What a fit promises: closeness, budgets, bounds, sound losses, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from synthetic import Problem, nested_problem

from distcalib.errors import InputError
from distcalib.fit import ENGINES, FitSpec, fit_weights, fit_with_spec, resolve_engine, summarise

RNG = np.random.default_rng(5)
# tests/fit/test_device.py has the same cases for the code of engine 'cuda' on the CPU.
ENGINES_HERE = sorted({*ENGINES} - {"cuda"})


@pytest.fixture(scope="module")
def nested() -> Problem:
    return nested_problem(n_donors=1500, n_clones=2, n_districts=24, n_states=4)


@pytest.fixture(scope="module")
def feasible() -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    X = sp.random_array((60, 900), density=0.1, rng=RNG, format="csr", dtype=np.float32)
    design = RNG.uniform(50, 150, 900)
    return X, X @ (design * RNG.uniform(0.6, 1.6, 900)), design


def fit_nested(p: Problem, **settings):
    defaults = {"groups": p.groups, "initial_weights": p.initial, "donors": p.donors, "epochs": 200}
    return fit_weights(p.X, p.targets, **{**defaults, **settings})


def test_a_feasible_problem_is_met_within_one_percent(feasible) -> None:
    X, targets, design = feasible
    result = fit_weights(X, targets, initial_weights=design, epochs=100, ridge=1e-4)
    rows = summarise(X, result.weights, targets)
    assert rows["abs_rel_error"].max() < 0.01
    assert result.summary["fitted"]["within_1"] == 1.0
    assert result.summary["loss_after"] < 1e-3 * result.summary["loss_before"]


def test_weights_are_float32_values_within_the_bounds(nested) -> None:
    result = fit_nested(nested, records=1000, lower_bound=0.5, upper_bound=1.5, ridge=1e-5)
    w = result.weights
    assert w.dtype == np.float64
    assert np.isfinite(w).all()
    np.testing.assert_array_equal(w, w.astype(np.float32))
    kept = w > 0
    ratio = w[kept] / nested.initial[kept] / result.summary["mass_scale"]
    assert ratio.min() >= 0.5 * (1 - 1e-12)
    assert ratio.max() <= 1.5 * (1 + 1e-12)
    assert np.isclose(ratio, 1.5).any()  # the bound binds, so it is what holds the weights


@pytest.mark.parametrize("records", [1, 37, 1000, 2999, 3000])
def test_a_record_budget_is_exact(nested, records: int) -> None:
    result = fit_nested(nested, records=records, epochs=80)
    assert np.count_nonzero(result.weights) == records
    assert result.summary["records_kept"] == records


def test_gates_choose_better_records_than_chance_and_the_refit_better_weights_than_the_gates(nested) -> None:
    result = fit_nested(nested, records=750, epochs=300, selector="gates")
    chance = np.zeros(nested.X.shape[1])
    drawn = np.sort(np.random.default_rng(1).permutation(len(chance))[:750])
    by_chance = fit_weights(
        nested.X[:, drawn],
        nested.targets,
        groups=nested.groups,
        initial_weights=nested.initial[drawn],
        epochs=0,
    )
    chance[drawn] = by_chance.weights
    rows = [summarise(nested.X, w, nested.targets) for w in (result.weights, chance)]
    mean = [frame["abs_rel_error"].clip(upper=1).mean() for frame in rows]
    assert mean[0] < 0.75 * mean[1]
    gates = result.log[result.log["stage"] == "gates"]
    assert result.summary["loss_after"] < 0.7 * gates["loss"].iloc[-1]


def test_a_tiny_penalty_keeps_nearly_all_and_a_larger_one_fewer(nested) -> None:
    kept = [fit_nested(nested, lambda_l0=v).summary["records_kept"] for v in (1e-8, 1e-4, 1e-3)]
    assert kept[0] > 0.97 * nested.X.shape[1]
    assert kept[0] > kept[1] > kept[2] > 0


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_a_penalty_that_closes_every_gate_is_an_error_that_names_it(nested, engine: str) -> None:
    with pytest.raises(InputError, match=r"lambda_l0.*closed all 3,000 gates.*got 1000"):
        fit_nested(nested, lambda_l0=1000.0, engine=engine, epochs=90)


def test_the_l0_engine_selects_and_leaves_the_callers_random_state_alone(nested) -> None:
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fit_nested(nested, engine="l0", lambda_l0=1e-3, epochs=120)
    assert torch.equal(torch.rand(3), expected)
    second = fit_nested(nested, engine="l0", lambda_l0=1e-3, epochs=120)
    np.testing.assert_array_equal(first.weights, second.weights)
    ours = fit_nested(nested, engine="torch", lambda_l0=1e-3, epochs=120)
    assert 0 < first.summary["records_kept"] < nested.X.shape[1]
    assert first.summary["records_kept"] == pytest.approx(ours.summary["records_kept"], rel=0.1)
    assert first.summary["loss_after"] == pytest.approx(ours.summary["loss_after"], rel=0.5)


def test_the_l0_engine_says_that_it_cannot_search_for_a_budget(nested) -> None:
    with pytest.raises(InputError, match="engine 'l0' cannot"):
        fit_nested(nested, engine="l0", records=10)


def test_impossible_targets_are_named_and_do_not_touch_the_fit(nested) -> None:
    n = nested.X.shape[1]
    rows = sp.csr_array(([1.0], ([1], [3])), shape=(2, n), dtype=np.float32)
    X = sp.csr_array(sp.vstack([nested.X, rows]))
    names = [f"target {i}" for i in range(X.shape[0])]
    targets = np.r_[nested.targets, 1e9, -4.0]
    groups = np.r_[nested.groups, 0, 0]
    result = fit_weights(X, targets, groups=groups, initial_weights=nested.initial, names=names, epochs=60)
    found = {e["name"]: e["reason"] for e in result.summary["targets_excluded"]}
    k = len(nested.targets)
    assert found[f"target {k}"] == "empty row"
    assert found[f"target {k + 1}"] == "no cell has the sign of the target"
    alone = fit_nested(nested, epochs=60)
    np.testing.assert_array_equal(result.weights, alone.weights)
    assert result.summary["loss_after"] == alone.summary["loss_after"]


def test_targets_that_lose_their_last_record_are_named() -> None:
    X = sp.csr_array(np.eye(4, dtype=np.float32))
    result = fit_weights(X, np.full(4, 10.0), initial_weights=np.full(4, 10.0), records=3, epochs=60)
    lost = np.flatnonzero(result.weights == 0)
    assert result.summary["targets_lost_by_selection"] == [f"row {lost[0]}"]


def test_every_group_has_the_same_share_of_the_loss() -> None:
    # One column; 99 targets ask for 100 and one, alone in its group, for 200: the groups meet at 120, where
    # (w - 100) / 100^2 = (200 - w) / 200^2. Without groups the 99 would have it nearly all their way.
    X = sp.csr_array(np.ones((100, 1), dtype=np.float32))
    targets = np.r_[np.full(99, 100.0), 200.0]
    groups = np.r_[np.zeros(99, dtype=int), 1]
    common = {"initial_weights": [100.0], "epochs": 0, "ridge": 0.0}
    assert fit_weights(X, targets, groups=groups, **common).weights[0] == pytest.approx(120.0, rel=1e-5)
    assert fit_weights(X, targets, **common).weights[0] < 101
    # Weights within a group: the share of a group stays, its split changes.
    two = np.r_[np.full(50, 100.0), np.full(50, 200.0)]
    heavy = np.r_[np.full(50, 1.0), np.full(50, 1e-9)]
    one_group = np.zeros(100, dtype=int)
    weighted = fit_weights(X, two, groups=one_group, target_weights=heavy, **common)
    assert weighted.weights[0] == pytest.approx(100.0, rel=1e-5)


def test_groups_may_be_named_by_strings(nested) -> None:
    named = fit_nested(nested, groups=nested.rows["group"], epochs=60)
    assert [g["group"] for g in named.summary["groups"]] == sorted(nested.rows["group"].unique())
    pd.testing.assert_series_equal(
        named.log["loss"], fit_nested(nested, epochs=60).log["loss"], rtol=1e-9, check_exact=False
    )


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_zero_minus_one_and_negative_targets_stay_finite(engine: str) -> None:
    X = sp.csr_array(RNG.normal(0, 1, (6, 40)).astype(np.float32))
    targets = np.array([0.0, -1.0, 1.0, -500.0, 3e9, 1e-3])
    result = fit_weights(X, targets, initial_weights=np.full(40, 10.0), engine=engine, epochs=60)
    assert np.isfinite(result.weights).all()
    assert np.isfinite(result.log.drop(columns=["stage", "held_out_error"]).to_numpy(dtype=float)).all()
    assert np.isfinite(result.summary["loss_after"])


def test_a_zero_target_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(2)
    dense = np.vstack([rng.uniform(0, 1, (8, 200)), rng.normal(0, 1, (1, 200))]).astype(np.float32)
    X, design = sp.csr_array(dense), np.full(200, 1000.0)
    targets = np.r_[(X @ (design * rng.uniform(0.8, 1.3, 200)))[:8], 0.0]
    rows = summarise(X, fit_weights(X, targets, initial_weights=design, epochs=0).weights, targets)
    assert rows["abs_rel_error"].max() < 0.02


def test_a_holdout_is_left_out_of_the_loss_and_reported(nested) -> None:
    result = fit_nested(nested, holdout=0.2, epochs=60)
    s = result.summary
    assert s["targets_held_out"] == round(0.2 * (s["targets_held_out"] + s["targets_fitted"]))
    assert s["held_out_error"] < s["held_out_error_before"]
    mask = np.zeros(len(nested.targets), dtype=bool)
    mask[5:40] = True
    moved = np.where(mask, 2 * nested.targets, nested.targets)
    kept = fit_nested(nested, epochs=0, refit_patience=10_000, holdout=mask)
    assert kept.summary["targets_held_out"] == 35
    # Held-out values cannot reach the gates: the selection is the same whatever they are.
    supports = [
        fit_weights(
            nested.X,
            t,
            groups=nested.groups,
            initial_weights=nested.initial,
            records=500,
            holdout=mask,
            epochs=80,
        ).weights
        > 0
        for t in (nested.targets, moved)
    ]
    np.testing.assert_array_equal(*supports)


def test_initial_weights_are_derived_from_the_targets_when_none_are_given(feasible) -> None:
    X, targets, _ = feasible
    result = fit_weights(X, targets, epochs=50)
    assert result.summary["before"]["median_abs_rel_error"] < 0.2
    assert result.summary["fitted"]["within_5"] > 0.9


def test_a_column_of_initial_weight_zero_stays_zero(feasible) -> None:
    X, targets, design = feasible
    design = design.copy()
    design[::9] = 0
    result = fit_weights(X, targets, initial_weights=design, epochs=30)
    assert (result.weights[::9] == 0).all()
    assert result.summary["records_kept"] == np.count_nonzero(design)


def test_the_summary_is_json_and_counts_donors(nested) -> None:
    result = fit_nested(nested, records=800, epochs=80)
    s = json.loads(json.dumps(result.summary, allow_nan=False))
    by_donor = np.bincount(nested.donors, result.weights)
    assert s["effective_sample_size_by_donor"] == pytest.approx(by_donor.sum() ** 2 / (by_donor**2).sum())
    assert s["donors_kept"] == np.count_nonzero(by_donor)
    assert s["effective_sample_size"] > s["effective_sample_size_by_donor"]
    assert s["engine"] == "cpu"
    assert "seconds" not in json.dumps({k: v for k, v in s.items() if k != "timing"})


def test_progress_hears_every_log_row(nested) -> None:
    heard: list[dict] = []
    result = fit_nested(nested, epochs=60, log_every=20, progress=heard.append)
    assert [h["epoch"] for h in heard if h["stage"] == "gates"] == [20, 40, 60]
    pd.testing.assert_frame_equal(pd.DataFrame(heard), result.log)


def test_a_spec_gives_the_same_fit_as_its_keywords(nested) -> None:
    spec = FitSpec.of(records=700, epochs=60, seed=4, engine="auto")
    stored = FitSpec(**json.loads(json.dumps(spec.as_dict())))
    a = fit_with_spec(nested.X, nested.targets, stored, groups=nested.groups, initial_weights=nested.initial)
    b = fit_nested(nested, records=700, epochs=60, seed=4, donors=None)
    np.testing.assert_array_equal(a.weights, b.weights)
    assert a.spec.engine == "cpu"


def test_auto_is_cpu_and_other_names_are_errors_with_the_nearest() -> None:
    assert resolve_engine("auto") == "cpu"
    assert resolve_engine("l0") == "l0"
    with pytest.raises(InputError, match="did you mean 'torch'"):
        resolve_engine("troch")


def _bad(feasible, **changes):
    X, targets, design = feasible
    arguments = {"X": X, "targets": targets, "initial_weights": design, "epochs": 5, **changes}
    return fit_weights(arguments.pop("X"), arguments.pop("targets"), **arguments)


def _with(array: np.ndarray, index: int, value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


def test_bad_input_is_an_error_that_names_the_place(feasible) -> None:
    X, targets, design = feasible
    broken = X.copy()
    broken.data[7] = np.nan
    cases = [
        ({"X": broken}, r"X\[\d+, \d+\]: 1 cells are NaN"),
        ({"X": X.toarray()}, "X: not a scipy sparse"),
        ({"X": sp.csr_array((60, 900))}, "no target can be reached"),
        ({"targets": targets[:-1]}, r"targets: wrong shape.*\(59,\)"),
        ({"targets": _with(targets, 3, np.nan)}, r"targets\[3\]"),
        ({"targets": _with(targets, 3, np.inf)}, r"targets\[3\]"),
        ({"initial_weights": design[:-1]}, "initial_weights: wrong shape"),
        ({"initial_weights": _with(design, 8, -1)}, r"initial_weights\[8\]: negative weight"),
        ({"initial_weights": 0 * design}, "every initial weight is 0"),
        ({"groups": np.zeros(3)}, "groups: wrong shape"),
        ({"groups": _with(np.zeros(60), 2, np.nan)}, r"groups\[2\]: missing group"),
        ({"donors": np.zeros(3)}, "donors: wrong shape"),
        ({"names": ["a"]}, "names: wrong length"),
        ({"target_weights": -np.ones(60)}, "target_weights"),
        ({"holdout": 1.5}, "holdout: neither mask nor fraction"),
        ({"holdout": np.ones(60, dtype=bool)}, "no target is left to fit"),
        ({"records": 901}, "at most 900"),
        ({"records": 0}, "fit.records"),
        ({"records": 9, "epochs": 0}, "needs epochs"),
        ({"engine": "tourch"}, "did you mean 'torch'"),
        ({"epoch": 5}, "did you mean 'epochs'"),
        ({"beta": 0.0}, "fit.beta"),
        ({"lambda_l0": -1.0}, "fit.lambda_l0"),
        ({"lower_bound": 2.0}, "fit.lower_bound"),
        ({"ridge": float("nan")}, "fit.ridge"),
        ({"ridge": "0.1"}, "fit.ridge"),
        ({"seed": True}, "fit.seed"),
        ({"log_every": 0}, "log_every"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            _bad(feasible, **changes)


def test_cells_given_twice_or_out_of_order_change_nothing(feasible) -> None:
    X, targets, design = feasible
    coo = X.tocoo()
    order = np.random.default_rng(0).permutation(coo.nnz)
    row, col, half = coo.row[order], coo.col[order], coo.data[order] / 2
    twice = sp.coo_array((np.r_[half, half], (np.r_[row, row], np.r_[col, col])), shape=X.shape)
    a = fit_weights(X, targets, initial_weights=design, epochs=30)
    b = fit_weights(twice, targets, initial_weights=design, epochs=30)
    np.testing.assert_array_equal(a.weights, b.weights)


def test_one_target_and_one_record() -> None:
    result = fit_weights(sp.csr_array(np.array([[2.0]], dtype=np.float32)), [10.0], epochs=20)
    assert result.weights.tolist() == [5.0]
