"""The calls of the document MicroCalibrate, as it writes them, and what it says that they do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from distcalib import Calibration, HardConcrete, evaluate_robustness, tune_hyperparameters
from distcalib.errors import DistcalibWarning, InputError

# The document's Python, in its order: parts for analysts, patterns, performance, troubleshooting.
SNIPPETS = {
    "what it does": """
from microcalibrate import Calibration
import numpy as np
import pandas as pd

# Survey data (1,000 households)
weights = np.ones(1000)  # Initial weights

# Estimates (how much each household contributes to targets)
estimate_matrix = pd.DataFrame({
    'total_income': household_incomes,      # Each household's income
    'total_employed': household_employment  # 1 if employed, 0 if not
})

# Known population targets (benchmarks)
targets = np.array([
    50_000_000,  # Total income in population
    600,         # Total employed people
])

# Calibrate
cal = Calibration(
    weights=weights,
    targets=targets,
    estimate_matrix=estimate_matrix,
    l0_lambda=0.01  # Sparsity penalty
)

# Optimize weights
new_weights = cal.calibrate(max_iter=1000)

# Check results
achieved = (estimate_matrix.values.T @ new_weights)
print(f"Target: {targets}")
print(f"Achieved: {achieved}")
print(f"Non-zero weights: {(new_weights > 0).sum()} / {len(weights)}")
""",
    "penalty": """
# L0 encourages many weights to be exactly zero
cal = Calibration(
    weights=weights,
    targets=targets,
    estimate_matrix=estimate_matrix,
    l0_lambda=0.01  # Higher = more sparse
)
""",
    "impact": """
# Without L0
cal_dense = Calibration(..., l0_lambda=0.0)
weights_dense = cal_dense.calibrate()

# With L0
cal_sparse = Calibration(..., l0_lambda=0.01)
weights_sparse = cal_sparse.calibrate()

print(f"Dense: {(weights_dense > 0).sum()} households")
print(f"Sparse: {(weights_sparse > 0).sum()} households")
""",
    "tuning": """
from microcalibrate import tune_hyperparameters

# Find best l0_lambda using cross-validation
best_lambda, results = tune_hyperparameters(
    weights=weights,
    targets=targets,
    estimate_matrix=estimate_matrix,
    lambda_min=1e-4,
    lambda_max=1e-1,
    n_trials=50
)

print(f"Best lambda: {best_lambda}")
""",
    "robustness": """
from microcalibrate import evaluate_robustness

# Holdout validation
robustness = evaluate_robustness(
    weights=weights,
    targets=targets,
    estimate_matrix=estimate_matrix,
    l0_lambda=0.01,
    n_folds=5
)

print(f"Mean error: {robustness['mean_error']}")
print(f"Std error: {robustness['std_error']}")
""",
    "pattern 1": """
from microcalibrate import Calibration

cal = Calibration(
    weights=initial_weights,
    targets=benchmark_values,
    estimate_matrix=contributions,
    l0_lambda=0.01
)

calibrated_weights = cal.calibrate(max_iter=1000)
""",
    "pattern 2": """
from microcalibrate import tune_hyperparameters, Calibration

# Find best lambda
best_lambda, results = tune_hyperparameters(
    weights=weights,
    targets=targets,
    estimate_matrix=estimate_matrix
)

# Use best lambda
cal = Calibration(..., l0_lambda=best_lambda)
calibrated_weights = cal.calibrate()
""",
    "pattern 3": """
# Multiple population targets
estimate_matrix = pd.DataFrame({
    'total_population': population_counts,
    'total_income': incomes,
    'total_employed': employment_indicators,
    'total_children': child_counts
})

targets = np.array([
    331_000_000,   # US population
    15_000_000_000_000,  # Total income
    160_000_000,   # Employed people
    73_000_000     # Children
])

cal = Calibration(weights, targets, estimate_matrix, l0_lambda=0.01)
""",
    "performance": """
import time

start = time.time()
weights = cal.calibrate()
print(f"Calibration took {time.time() - start:.1f}s")
""",
    "not converging": """
# Try:
# - More iterations
# - Lower l0_lambda
# - Better initialization

cal = Calibration(..., l0_lambda=0.001)  # Lower sparsity penalty
weights = cal.calibrate(max_iter=5000)  # More iterations
""",
    "not matching": """
# Check achieved vs desired
achieved = (estimate_matrix.values.T @ weights)
error = np.abs(achieved - targets) / targets
print(f"Relative errors: {error}")

# If large errors, l0_lambda may be too high
""",
    "too sparse": """
# Lower l0_lambda
cal = Calibration(..., l0_lambda=0.0001)
""",
}
DOTS = "weights=weights, targets=targets, estimate_matrix=estimate_matrix"
N = 1000


def run(part: str, names: dict) -> None:
    code = SNIPPETS[part].replace("from microcalibrate import", "from distcalib import")
    code = code.replace("Calibration(...", f"Calibration({DOTS}")
    exec(compile(code, part, "exec"), names)


def survey() -> dict:
    rng = np.random.default_rng(7)
    adults, children = rng.integers(1, 4, N), rng.integers(0, 4, N)
    employed = rng.binomial(adults, 0.6)
    return {
        "household_incomes": rng.lognormal(10.6, 0.8, N),
        "household_employment": (employed > 0).astype(int),
        "population_counts": adults + children,
        "incomes": rng.lognormal(11, 0.8, N),
        "employment_indicators": employed,
        "child_counts": children,
    }


@pytest.fixture(scope="module")
def analyst() -> dict:
    """The names that are there after the document's first snippets have run."""
    names = survey()
    for part in ("what it does", "penalty", "impact"):
        run(part, names)
    return names


def test_the_first_example_meets_its_targets_with_fewer_households(analyst, capsys):
    np.testing.assert_allclose(analyst["achieved"], [50_000_000, 600], rtol=1e-3)
    kept = np.count_nonzero(analyst["new_weights"])
    assert 0.1 * N < kept < 0.9 * N
    assert analyst["new_weights"].shape == (N,)
    assert (analyst["new_weights"] >= 0).all()


def test_a_sparse_fit_has_tens_of_percent_fewer_households_than_a_dense_one(analyst):
    dense, sparse = analyst["weights_dense"], analyst["weights_sparse"]
    assert (dense > 0).all()
    assert 0.2 * N < (sparse > 0).sum() < 0.8 * N
    for weights in (dense, sparse):
        achieved = analyst["estimate_matrix"].values.T @ weights
        np.testing.assert_allclose(achieved, analyst["targets"], rtol=1e-3)


def test_a_higher_penalty_is_sparser_over_the_documents_whole_range(analyst):
    table = [analyst[name] for name in ("weights", "targets", "estimate_matrix")]
    kept = [
        np.count_nonzero(Calibration(*table, l0_lambda=v).calibrate(300)) for v in (1e-4, 1e-3, 1e-2, 1e-1)
    ]
    assert N >= kept[0] > kept[1] > kept[2] > kept[3] > 0


def test_tuning_robustness_and_pattern_2_run_as_written(analyst, capsys):
    names = dict(analyst)
    run("tuning", names)
    assert 1e-4 <= names["best_lambda"] <= 1e-1
    assert len(names["results"]) == 50
    assert names["results"].loc[names["results"]["chosen"], "l0_lambda"].item() == names["best_lambda"]
    run("robustness", names)
    found = names["robustness"]
    # Two targets make two folds: income is judged by a fit to employment, and the other way round.
    errors = found["targets"].set_index("target_name")["abs_rel_error"]
    assert found["n_folds"] == 2
    assert found["mean_error"] == pytest.approx(errors.mean())
    assert found["std_error"] == pytest.approx(abs(errors.iloc[0] - errors.iloc[1]) / 2)
    assert "Mean error: 0." in capsys.readouterr().out
    run("pattern 2", names)
    assert np.count_nonzero(names["calibrated_weights"]) > 0


def test_patterns_performance_and_troubleshooting_run_as_written(analyst, capsys):
    names = dict(analyst)
    names["initial_weights"], names["benchmark_values"] = np.ones(N), np.array([5e7, 600.0])
    names["contributions"] = sp.csr_matrix(names["estimate_matrix"].to_numpy())
    run("pattern 1", names)
    np.testing.assert_array_equal(names["calibrated_weights"], names["new_weights"])
    run("pattern 3", names)
    for part in ("performance", "not matching"):
        run(part, names)
    # A nation from weights of 1.
    assert names["error"].max() < 1e-3
    assert names["weights"].sum() > 1e7
    sparse = np.count_nonzero(names["weights"])
    names["weights"] = np.ones(N)
    run("not converging", names)
    assert np.count_nonzero(names["weights"]) > sparse
    run("too sparse", names)
    assert names["cal"].calibrate(max_iter=50).any()
    assert "Calibration took" in capsys.readouterr().out


def test_gates_multiply_weights_as_in_the_part_for_contributors():
    import torch

    gates = HardConcrete(n_items=5, temperature=0.35, init_mean=0.999)
    effective = torch.ones(5) * gates()
    assert effective.shape == (5,)
    assert effective.requires_grad


def table(n: int = 60, targets: int = 4, seed: int = 3) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    matrix = pd.DataFrame(rng.uniform(0, 2, (n, targets)), columns=[f"kind_{c}" for c in "abcd"[:targets]])
    return np.ones(n), matrix.to_numpy().T @ rng.uniform(0.5, 2, n), matrix


def test_frames_arrays_sparse_matrices_and_functions_give_the_same_weights():
    import torch

    weights, targets, frame = table()
    cells = frame.to_numpy()
    tensor = torch.tensor(cells, dtype=torch.float32)
    expected = Calibration(weights, targets, frame, l0_lambda=0.01).calibrate(100)
    for matrix in (cells, cells.tolist(), sp.coo_array(cells), sp.csc_matrix(cells)):
        found = Calibration(weights, targets, matrix, l0_lambda=0.01).calibrate(100)
        np.testing.assert_array_equal(found, expected)
    by_function = Calibration(weights, targets, estimate_function=lambda w: w @ cells, l0_lambda=0.01)
    np.testing.assert_allclose(by_function.calibrate(100), expected, rtol=1e-4)
    by_tensor = Calibration(weights, targets, estimate_function=lambda w: w @ tensor, l0_lambda=0.01)
    np.testing.assert_allclose(by_tensor.problem.X.toarray().T, cells, rtol=1e-6)
    named = pd.Series(targets, index=frame.columns)[::-1]
    np.testing.assert_array_equal(Calibration(weights, named, frame, 0.01).calibrate(100), expected)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda w: np.array([w.sum(), np.sqrt(w.sum())]), "not linear in the weights \\(estimate 1"),
        (lambda w: np.array([w[:30].sum() / max(w.sum(), 1e-9)]), "not linear"),
        (lambda w: np.array([w.sum() + 5.0]), "not linear"),
        (lambda w: np.array([w.max()]), "not linear"),
        (lambda w: np.array([np.nan]), "NaN"),
        (lambda w: w.sum(), "no vector"),
        (lambda w: {}["income"], "KeyError"),
    ],
)
def test_a_function_that_is_no_sum_over_households_is_refused(function, words):
    with pytest.raises(InputError, match=words):
        Calibration(np.ones(60), np.ones(2), estimate_function=function)


def test_excluded_targets_are_reported_and_not_fitted():
    weights, targets, frame = table()
    off = targets.copy()
    off[1] *= 5
    cal = Calibration(weights, off, frame, excluded_targets=["kind_b"])
    fitted = cal.calibrate()
    np.testing.assert_array_equal(
        fitted, Calibration(weights, targets, frame, excluded_targets="kind_b").calibrate()
    )
    summary = cal.summary().set_index("Metric")
    assert summary["Status"].tolist() == ["fitted", "excluded", "fitted", "fitted"]
    assert abs(summary.loc["kind_b", "Relative error"]) > 0.5
    assert summary.drop("kind_b")["Relative error"].abs().max() < 1e-3
    np.testing.assert_allclose(summary["Initial estimate"], frame.sum())
    np.testing.assert_allclose(summary["Final estimate"], frame.to_numpy().T @ fitted)
    with pytest.raises(InputError, match=r"kind_bb.*did you mean 'kind_b'"):
        Calibration(weights, targets, frame, excluded_targets=["kind_bb"])


def test_performance_has_the_columns_of_dashboards_and_ends_at_the_result(tmp_path):
    weights, targets, frame = table()
    cal = Calibration(weights, targets, frame, 0.01, performance_csv=tmp_path / "log.csv")
    fitted = cal.calibrate(120)
    log = pd.read_csv(tmp_path / "log.csv")
    assert list(log) == [
        "epoch", "loss", "target_name", "target", "estimate", "error", "abs_error", "rel_abs_error",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(log, cal.performance, check_dtype=False)
    last = log[log["epoch"] == log["epoch"].max()]
    assert last["target_name"].tolist() == list(frame)
    np.testing.assert_allclose(last["estimate"], frame.to_numpy().T @ fitted)
    np.testing.assert_allclose(last["abs_error"], np.abs(last["estimate"] - targets))
    first = log[log["epoch"] == 0]
    np.testing.assert_allclose(first["estimate"], frame.sum())
    assert first["loss"].iloc[0] > last["loss"].iloc[0]


def test_target_analysis_names_what_stands_in_the_way():
    weights, targets, frame = table()
    frame["kind_e"], frame["kind_f"], frame["kind_g"] = 0.0, frame["kind_a"], np.eye(1, 60)[0]
    frame["kind_h"], frame["kind_i"] = frame["kind_b"] - 1, frame["kind_c"]
    targets = np.r_[targets, 10, targets[0] * 2, 1, 0, -3]
    cal = Calibration(weights, targets, frame)
    found = cal.target_analysis().set_index("target_name")
    findings = found["findings"]
    assert (findings[["kind_a", "kind_b", "kind_c", "kind_d"]] == "").all()
    assert findings["kind_e"] == "unreachable: no household contributes"
    assert findings["kind_f"] == "contradicts kind_a"
    assert findings["kind_g"] == "few households"
    assert findings["kind_h"] == "zero target"
    assert findings["kind_i"].startswith(
        "unreachable: no household contributes with its sign; negative target"
    )
    assert found.loc["kind_g", ["households", "effective_households", "lowest", "highest"]].tolist() == [
        1,
        1,
        0.02,
        50,
    ]
    with pytest.warns(DistcalibWarning, match="kind_[ei]"):
        cal.calibrate()
    assert cal.summary()["Status"].tolist()[4] == "unreachable"


def test_target_analysis_names_targets_that_exclude_each_other():
    weights, targets, frame = table()
    frame["all"] = frame[["kind_a", "kind_b"]].sum(axis=1)
    together = targets[0] + targets[1]
    fine = Calibration(weights, np.r_[targets, together], frame).target_analysis()
    assert (fine["findings"] == "").all()
    found = Calibration(weights, np.r_[targets, 1.3 * together], frame).target_analysis()
    findings = found.set_index("target_name")["findings"]
    assert findings["all"] == "not together with kind_a, kind_b"
    assert findings["kind_b"] == "not together with kind_a, all"
    assert (findings[["kind_c", "kind_d"]] == "").all()


def test_targets_of_a_nation_are_met_from_weights_of_one_and_far_ones_are_told():
    weights, targets, frame = table()
    far = targets * np.array([1e6, 1e6, 1e6, 1e9])
    cal = Calibration(weights, far, frame)
    findings = cal.target_analysis().set_index("target_name")["findings"]
    assert findings["kind_d"] == "beyond bounds; far from the initial estimate"
    assert (findings.drop("kind_d") == "").all()
    fitted = Calibration(weights, targets * 1e6, frame).calibrate()
    np.testing.assert_allclose(frame.to_numpy().T @ fitted, targets * 1e6, rtol=1e-3)


def test_a_household_of_weight_zero_stays_out_and_a_budget_is_exact():
    weights, targets, frame = table()
    weights[:10] = 0
    fitted = Calibration(weights, targets, frame, records=20).calibrate(100)
    assert not fitted[:10].any()
    assert np.count_nonzero(fitted) == 20


def nan_at(array, *at):
    array = np.array(array, dtype=float)
    array[at] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, t, m: (w[:-1], t, m), r"estimate_matrix: wrong shape; got \(60, 4\); expected \(59"),
        (lambda w, t, m: (w, t, m.T), "transposed"),
        (lambda w, t, m: (w, t[:-1], m), "targets: wrong shape"),
        (lambda w, t, m: (w, nan_at(t, 2), m), r"targets\[2\]"),
        (lambda w, t, m: (nan_at(w, 5), t, m), r"weights\[5\]"),
        (lambda w, t, m: (w, t, m.assign(kind_b=m["kind_b"].where(m.index != 7))), "column 'kind_b', row 7"),
        (lambda w, t, m: (w * 0, t, m), "every weight is 0"),
        (lambda w, t, m: (w - 2, t, m), "negative weight"),
        (lambda w, t, m: (w, t, m.assign(kind_a="x")), "not numeric"),
        (lambda w, t, m: (w, t, m.set_axis(["a", "b", "a", "c"], axis=1)), "names two targets; got 'a'"),
        (
            lambda w, t, m: (w, pd.Series(t, index=["kind_a", "kind_b", "kind_c", "kind"]), m),
            "names no target",
        ),
        (lambda w, t, m: (w, t, None), "give one of the two"),
        (lambda w, t, m: (w, t, m, -0.1), "l0_lambda: out of range"),
        (lambda w, t, m: (w, t, m, np.nan), "l0_lambda: out of range"),
    ],
)
def test_bad_input_is_told_where_it_is(change, words):
    with pytest.raises(InputError, match=words):
        Calibration(*change(*table()))


def test_a_penalty_that_leaves_nobody_says_so_in_the_users_terms():
    with pytest.raises(InputError, match=r"l0_lambda: .*leaves no household; got 100000"):
        Calibration(*table(), l0_lambda=1e5).calibrate(200)


def test_other_bad_calls():
    weights, targets, frame = table()
    with pytest.raises(InputError, match="calibrate"):
        Calibration(weights, targets, frame).summary()
    with pytest.raises(InputError, match="max_iter"):
        Calibration(weights, targets, frame).calibrate(max_iter=0)
    with pytest.raises(InputError, match="did you mean 'ridge'"):
        Calibration(weights, targets, frame, rigde=1.0).calibrate()
    with pytest.raises(InputError, match="lambda_min"):
        tune_hyperparameters(weights, targets, frame, lambda_min=0.1, lambda_max=0.01)
    with pytest.raises(InputError, match="blocks of targets"):
        evaluate_robustness(weights, targets[:1], frame[["kind_a"]])
