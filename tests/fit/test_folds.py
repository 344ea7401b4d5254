"""Folds that keep siblings together, and what is said of targets that a fit has not seen."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from synthetic import nested_problem

from distcalib.errors import InputError
from distcalib.fit import fit_weights
from distcalib.fit.folds import WithoutFold, blocked_folds, robustness, standard_error_of_mean, target_blocks


def run_targets(districts=(101, 102, 3701, 3702, 3703, 601)) -> pd.DataFrame:
    """Age bands and a total by nation, state and district; SNAP by nation and state; two national figures."""
    states = sorted({cd // 100 for cd in districts})
    places = [
        ("national", "US"),
        *(("state", str(s)) for s in states),
        *(("district", str(d)) for d in districts),
    ]
    rows = []
    for level, area in places:
        rows += [("person_count", "age", c, level, area) for c in ("age<18", "age>=18&age<65", "age>=65")]
        rows.append(("person_count", None, "", level, area))
        if level != "district":
            rows.append(("snap", None, "", level, area))
    rows.append(("person_count", "medicare", "medicare>0", "national", "US"))
    rows.append(("ssi", None, "", "national", "US"))
    return pd.DataFrame(
        rows, columns=["variable", "domain_variable", "constraints", "geo_level", "geographic_id"]
    )


def test_bands_totals_and_districts_of_a_state_share_a_block():
    targets = run_targets()
    block = pd.Series(target_blocks(targets))
    state = pd.to_numeric(targets["geographic_id"], errors="coerce")
    state = state.where(state < 100, state // 100)
    below = targets["geo_level"] != "national"
    by_place = block[below].groupby([targets["variable"][below], state[below]])
    assert by_place.nunique().max() == 1
    assert block[below].nunique() == by_place.ngroups == 2 * 3


def test_a_national_sum_is_never_held_out_and_other_national_figures_are():
    targets = run_targets()
    block = target_blocks(targets)
    nation = targets["geo_level"].eq("national").to_numpy()
    kept = targets[nation & (block >= 0)]
    assert kept["variable"].tolist() == ["person_count", "ssi"]
    assert kept["domain_variable"].iloc[0] == "medicare"
    assert (target_blocks(targets, by="family") >= 0).all()
    assert len(np.unique(target_blocks(targets, by="family"))) == 3


def test_names_as_runs_write_them_are_read_like_the_frame():
    targets = run_targets()
    place = targets["geo_level"].map({"national": "national", "state": "state_", "district": "cd_"})
    place += targets["geographic_id"].where(targets["geo_level"] != "national", "")
    tail = targets["constraints"].map(lambda c: f"/[{c.replace('&', ',')}]" if c else "")
    names = place + "/" + targets["variable"] + tail
    same = [pd.factorize(target_blocks(labels))[0] for labels in (targets, names.tolist())]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(target_blocks(targets) < 0, target_blocks(names.tolist()) < 0)


def test_bands_of_plain_names_share_a_block_and_numbers_do_not():
    names = [
        "age_0_17",
        "age_18_64",
        "age_65_plus",
        "age_under_5",
        "total_income",
        "total_employed",
        "income",
    ]
    assert pd.factorize(target_blocks(names))[0].tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert len(set(target_blocks(range(5)))) == 5


@pytest.mark.parametrize("k", [2, 3])
def test_folds_cut_no_block_are_about_equal_and_depend_on_the_seed_alone(k):
    targets = run_targets(districts=[s * 100 + d for s in range(1, 13) for d in range(1, 4)])
    block, fold = target_blocks(targets), blocked_folds(targets, k, seed=4)
    assert pd.Series(fold).groupby(block).nunique().max() == 1
    assert ((fold == -1) == (block == -1)).all()
    sizes = np.bincount(fold[fold >= 0], minlength=k)
    assert sizes.max() - sizes.min() <= 16  # no more than the largest block
    with_sums = targets["variable"].isin(["person_count", "snap"]) & (fold >= 0)
    states = pd.Series(block)[with_sums].groupby([targets["variable"][with_sums], fold[with_sums]]).nunique()
    assert states.min() >= 2  # or the national sum would tell the only one
    assert set(fold[(targets["variable"] == "snap") & (fold >= 0)]) == set(range(k))
    np.testing.assert_array_equal(fold, blocked_folds(targets, k, seed=4))
    assert (fold != blocked_folds(targets, k, seed=5)).any()


@pytest.mark.parametrize(
    ("labels", "k", "words"),
    [
        (run_targets(), 4, "3 blocks"),
        (["a", "b"], 3, "2 blocks.*expected 2 to 2"),
        (["age_1", "age_2"], 2, "1 blocks.*at least two kinds"),
        (["a", "b"], 1, "got 1"),
        ([], 2, "names no target"),
        (pd.DataFrame({"variable": ["a"]}), 2, "geographic_id"),
        (pd.DataFrame({"variable": ["a"], "geographic_id": ["Ohio"]}), 2, "'Ohio'"),
    ],
)
def test_what_cannot_be_divided_is_told(labels, k, words):
    with pytest.raises(InputError, match=words):
        blocked_folds(labels, k)


@pytest.fixture(scope="module")
def nested():
    p = nested_problem(n_donors=600, n_clones=2, n_districts=12, n_states=4)
    return p, np.arange(p.X.shape[0]) % 3


def labels_of(p) -> pd.DataFrame:
    """The rows of a nested problem as targets of a run."""
    kind = p.rows["group"].str.split(" ").str
    number = p.rows.groupby("group").cumcount()
    place = number // kind[0].map({"age": 18, "snap": 1, "agi": 10, "filers": 10})
    state_of = pd.Series(p.state).groupby(p.district).first()
    district = place.map(lambda d: (state_of[d] + 1) * 100 + d if d in state_of.index else 0)
    area = np.select(
        [kind[1] == "nation", kind[1] == "state"], ["US", (place + 1).astype(str)], district.astype(str)
    )
    return pd.DataFrame({"variable": kind[0], "geo_level": kind[1], "geographic_id": area})


def told_by_the_others(p, folds) -> int:
    """How many held-out rows are sums or differences of rows of their training: any weights give these."""
    X, told = p.X.toarray().astype(np.float64), 0
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    for fold in np.unique(folds[folds >= 0]):
        train, held = X[folds != fold], X[folds == fold]
        parts = np.linalg.lstsq(train @ train.T, train @ held.T, rcond=1e-10)[0]
        told += int((np.linalg.norm(held - parts.T @ train, axis=1) < 1e-4).sum())
    return told


@pytest.mark.parametrize("k", [2, 3, 5])
def test_no_held_out_row_is_a_sum_of_rows_that_are_fitted(k):
    p = nested_problem(n_donors=1200, n_clones=2, n_districts=8, n_states=6)
    labels = labels_of(p)
    folds = blocked_folds(labels, k, at_most=True)
    assert folds.max() == k - 1
    assert told_by_the_others(p, folds) == 0
    shuffled = np.random.default_rng(0).permutation(folds)
    assert told_by_the_others(p, shuffled) > 20


def fit_settings(p):
    return {"initial_weights": p.initial, "records": 400, "epochs": 60}


def test_each_fold_is_judged_by_a_fit_that_has_not_seen_it(nested):
    p, folds = nested
    found = robustness(p.X, p.targets, folds, groups=p.groups, **fit_settings(p))
    seen = folds != 1
    weights = fit_weights(p.X[seen], p.targets[seen], groups=p.groups[seen], **fit_settings(p)).weights
    reachable = found.targets["fold"] == 1
    rows = found.targets[reachable]
    np.testing.assert_array_equal(rows["estimate"], (p.X @ weights)[reachable])
    expected = np.minimum(np.abs(rows["estimate"] / rows["target"] - 1), 1).mean()
    assert found.folds.loc[1, "error"] == pytest.approx(expected)
    assert found.mean_error == pytest.approx(found.folds["error"].mean())
    assert found.std_error == pytest.approx(found.folds["error"].std() / np.sqrt(3))
    assert (found.folds["fitted_error"] < found.folds["error"]).all()
    assert (found.folds["records"] == 400).all()


def test_a_changed_target_of_a_fold_changes_nothing_but_its_own_error(nested):
    p, folds = nested
    other = p.targets.copy()
    other[folds == 0] *= 3
    a, b = (robustness(p.X, t, folds, **fit_settings(p)) for t in (p.targets, other))
    held = a.targets["fold"] == 0
    np.testing.assert_array_equal(a.targets["estimate"][held], b.targets["estimate"][held])
    assert (a.targets["rel_error"][held] != b.targets["rel_error"][held]).any()


def test_fits_may_be_spread(nested):
    p, folds = nested
    judge = WithoutFold(p.X, p.targets, folds, **fit_settings(p))
    there = pickle.loads(pickle.dumps(judge))
    np.testing.assert_array_equal(there((1, {})).estimate, judge((1, {})).estimate)
    with ThreadPoolExecutor(2) as pool:
        spread = robustness(p.X, p.targets, folds, map=pool.map, **fit_settings(p))
    pd.testing.assert_frame_equal(
        spread.targets, robustness(p.X, p.targets, folds, **fit_settings(p)).targets
    )


def test_the_matrix_is_not_copied_and_its_precision_does_not_matter(nested):
    p, folds = nested
    judge = WithoutFold(p.X, p.targets, folds, **fit_settings(p))
    assert p.X.dtype == np.float32
    assert np.shares_memory(judge.X.data, p.X.data)
    wide = WithoutFold(sp.csr_array(p.X, dtype=np.float64), p.targets, folds, **fit_settings(p))
    np.testing.assert_array_equal(judge((1, {})).rel_error, wide((1, {})).rel_error)


def test_what_cannot_be_reached_or_is_never_held_out_is_not_judged(nested):
    p, folds = nested
    X = sp.csr_array(sp.vstack([p.X, sp.csr_array((1, p.X.shape[1])), p.X[:1]]))
    targets, more = np.r_[p.targets, 5.0, p.targets[0]], np.r_[folds, 0, -1]
    found = robustness(X, targets, more, **fit_settings(p)).targets
    assert found["fold"].tolist()[-2:] == [-1, -1]
    assert found["estimate"].iloc[-2:].isna().all()
    with pytest.raises(InputError, match="fewer than two folds"):
        robustness(p.X, p.targets, np.zeros(len(folds), int))
    with pytest.raises(InputError, match="folds: wrong shape"):
        robustness(p.X, p.targets, folds[:-1])


def test_the_error_of_a_mean_shrinks_with_the_root_of_the_number():
    assert standard_error_of_mean([1, 3, 1, 3]) == pytest.approx(np.sqrt(4 / 3) / 2)
