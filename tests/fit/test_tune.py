"""A search for settings: what it finds, that it can be repeated, stopped and spread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from synthetic import nested_problem

from distcalib.errors import InputError
from distcalib.fit import FitSpec, folds, tune
from distcalib.fit.tune import SPACE


@pytest.fixture(scope="module")
def problem():
    p = nested_problem(n_donors=400, n_clones=2, n_districts=8, n_states=4)
    return p.X, p.targets, np.arange(p.X.shape[0]) % 3, {"initial_weights": p.initial, "groups": p.groups}


def search(problem, n_trials=6, **how):
    X, targets, fold, fit = problem
    settings = {"space": {"ridge": (1e-4, 1.0)}, "epochs": 0, "refit_epochs": 40, **fit, **how}
    return tune.tune(X, targets, fold, n_trials=n_trials, **settings)


def test_every_setting_that_can_be_searched_is_one_of_the_fit():
    assert set(SPACE) == {"lambda_l0", "initial_keep", "beta", "learning_rate", "ridge"}
    for name, (low, high, _) in SPACE.items():
        assert FitSpec.of(**{name: low}) != FitSpec.of(**{name: high})


def test_the_lowest_error_wins_and_is_that_of_the_folds(problem):
    found = search(problem)
    complete = found.trials[found.trials["state"] == "complete"]
    best = complete.loc[complete["error"].idxmin()]
    assert found.lowest == {"ridge": best["ridge"]}
    X, targets, fold, fit = problem
    again = folds.robustness(X, targets, fold, epochs=0, refit_epochs=40, ridge=best["ridge"], **fit)
    assert best["error"] == pytest.approx(again.mean_error, rel=1e-12)
    assert best["std_error"] == pytest.approx(again.std_error, rel=1e-12)


def test_all_settings_are_searched_at_once(problem):
    found = search(problem, 3, space=dict.fromkeys(SPACE), epochs=15)
    assert set(found.chosen) == set(SPACE)
    for name, (low, high, _) in SPACE.items():
        assert found.trials[name].between(low, high).all()
        assert found.trials[name].nunique() == 3


def test_equal_seeds_give_equal_trials_and_others_do_not(problem):
    first, second, third = (search(problem, 10, seed=s).trials for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first, second)
    assert (first["ridge"] != third["ridge"]).all()


@pytest.mark.parametrize(("kind", "n"), [("sqlite", 4), ("journal", 10)])
def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(problem, tmp_path, kind, n):
    storage = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else tmp_path / "study.log"
    calls = []

    def dies(function, jobs):
        calls.append(1)
        if len(calls) > 2 * n:
            raise KeyboardInterrupt
        return map(function, jobs)

    with pytest.raises(KeyboardInterrupt):
        search(problem, n, storage=storage, map=dies)
    told = []
    resumed = search(problem, n, storage=storage, progress=told.append)
    pd.testing.assert_frame_equal(resumed.trials, search(problem, n).trials)
    assert 0 < len(told) < n
    # What is finished is not done again.
    finished = search(problem, n, storage=storage, map=lambda function, jobs: pytest.fail("a fit was run"))
    assert finished.chosen == resumed.chosen
    X, targets, fold, fit = problem
    with pytest.raises(InputError, match="of another matrix"):
        search((X, targets * 2, fold, fit), n, storage=storage)


def test_batches_may_be_spread(problem):
    with ThreadPoolExecutor(2) as pool:
        spread = search(problem, 4, batch=2, map=pool.map)
    pd.testing.assert_frame_equal(spread.trials, search(problem, 4, batch=2).trials)


def outcome_of(errors_of, records_of):
    """A judge that computes nothing: errors and records as functions of (fold, lambda_l0)."""

    def judge(self, job):
        fold, settings = job
        value = settings["lambda_l0"]
        none = np.zeros(0)
        return folds.Outcome(
            fold, none.astype(int), none, none, errors_of(fold, value), 0.0, records_of(value), 1.0
        )

    return judge


def test_the_fewest_records_within_one_standard_error_are_chosen(problem, monkeypatch):
    # As good as the best up to 1e-6; up to 1e-5 worse by a tenth of what that differs over folds; bad above.
    def error(fold, penalty):
        differs = (0.005 + 0.05 * (fold - 1)) if penalty > 1e-6 else 0.0
        return 0.2 + 0.1 * fold + (differs if penalty < 1e-5 else 0.03)

    monkeypatch.setattr(folds.WithoutFold, "__call__", outcome_of(error, lambda penalty: int(1 / penalty)))
    found = search(problem, 20, space={"lambda_l0": (1e-8, 1e-3)}, epochs=1)
    whole = found.trials[found.trials["state"] == "complete"]["lambda_l0"]
    assert whole.between(1e-6, 1e-5).any()
    assert found.lowest["lambda_l0"] <= 1e-6
    assert found.chosen["lambda_l0"] == whole[whole < 1e-5].max() > 1e-6


def test_trials_worse_than_the_median_are_given_up(problem, monkeypatch):
    judge = outcome_of(lambda fold, penalty: 0.1 + penalty * 100, lambda penalty: 10)
    monkeypatch.setattr(folds.WithoutFold, "__call__", judge)
    trials = search(problem, 24, space={"lambda_l0": (1e-8, 1e-3)}, epochs=1).trials
    pruned = trials["state"] == "pruned"
    assert pruned.any()
    assert not pruned.iloc[:8].any()
    assert (trials.loc[pruned, "folds"] < 3).all()
    assert trials.loc[pruned, "error"].min() > trials.loc[~pruned, "error"].min()
    assert not trials.loc[pruned, ["lowest", "chosen"]].any(axis=None)


def test_a_trial_that_closes_every_gate_is_an_error_of_one_and_never_chosen(problem):
    space = {"lambda_l0": (1e-9, 1e6)}
    found = search(problem, 6, space=space, epochs=40, learning_rate=0.5)
    closed = found.trials["records"] == 0
    assert 0 < closed.sum() < 6
    assert (found.trials.loc[closed, "error"] == 1).all()
    assert found.trials.loc[closed, "note"].str.contains("closed").all()
    assert not found.trials.loc[closed, ["lowest", "chosen"]].any(axis=None)
    with pytest.raises(InputError, match="none of 2 trials gave weights"):
        search(problem, 2, space={"lambda_l0": (1e5, 1e6)}, epochs=40, learning_rate=0.5)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"space": {"lamda_l0": None}}, "did you mean 'lambda_l0'"),
        ({"space": {}}, "names no setting"),
        ({"space": {"ridge": (1.0, 0.1)}}, "space.ridge: bad range"),
        ({"space": {"ridge": (0.0, 1.0)}}, "0 < least"),
        ({"space": {"initial_keep": (0.5, 1.5)}}, "initial_keep"),
        ({"ridge": 0.1}, "both searched and given"),
        ({"n_trials": 0}, "n_trials"),
        ({"batch": 0}, "batch"),
    ],
)
def test_bad_searches_are_told(problem, how, words):
    with pytest.raises(InputError, match=words):
        search(problem, **how)
