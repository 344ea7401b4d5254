"""Judging a fit on targets that it has not seen: folds that keep siblings together, and errors over folds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError
from distcalib.fit.calibrate import fit_weights
from distcalib.fit.diagnostics import achievable_rows, effective_sample_size, relative_error
from distcalib.fit.feasible import rows_in_pieces
from distcalib.random import uniform

Float = NDArray[np.float64]
#: Calls a function for each job and returns the answers in order: ``map``, or one that spreads them.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Labels: TypeAlias = pd.DataFrame | Sequence[object] | NDArray[Any]

_RUN_NAME = re.compile(r"^(national|US|state_(\d+)|cd_(\d+))/([^/]+)(?:/(.*))?$")
#: Words that with a number name a band: ``age_under_18``, ``age_65_plus``.
_BAND_WORDS = frozenset(
    ["under", "over", "below", "above", "less", "more", "than", "up", "to", "plus", "and", "or", "older"]
)
_NATION = ""
#: Arguments of a fit that are words for its errors and summary, and decide nothing.
WORDS = ("names", "group_labels")


def target_blocks(labels: Labels, *, by: str = "place") -> NDArray[np.int64]:
    """Number the blocks of targets that must be held out together, -1 where a target must not be held out.

    Targets of a run: those of one variable (counts of one entity, dollars of one kind) and reform in one
    state, the state's own and those of its districts, under whatever constraints: bands sum to their total,
    districts to their state. A national figure whose variable and domain have states or districts below it,
    and a national total of which there are bands below it, is a sum over all blocks, so it would be known
    from the others: it is never held out (-1). Other national figures make one block a variable.

    Plain names: names that differ only in numbers and the words of bands (``age_0_17``, ``age_65_plus``) make
    a block; every other name is one. Names as runs write them (``cd_3402/household_count/[snap>0]``) are read
    like the targets of a run. Numbers as labels say nothing: each is a block.

    Parameters
    ----------
    labels
        A frame with variable, geographic_id and, where there are, geo_level, domain_variable, constraints and
        reform_id; or one label a target; shape (n_targets,).
    by
        ``"place"``, or ``"family"``: one block a variable, over all places. Then no row of the variable is
        left in the training, and what is judged is the extrapolation to statistics of another kind.

    Returns
    -------
    ndarray of int64, shape (n_targets,)
    """
    if by not in ("place", "family"):
        raise InputError("unknown way to block", place="by", value=by, choices=("place", "family"))
    rows = _rows(labels)
    if by == "family":
        return rows.groupby("family", sort=True).ngroup().to_numpy(np.int64)
    codes = rows.groupby(["family", "place"], sort=True).ngroup().to_numpy(np.int64)
    national = rows["place"].eq(_NATION).to_numpy()
    # A total is the sum of its bands below, too.
    quantity = rows["family"] + "|" + rows["domain"]
    total = rows["domain"].eq("") & rows["family"].isin(rows.loc[~national, "family"])
    summed = (quantity.isin(quantity[~national]) | total).to_numpy()
    return np.where(summed & national, -1, codes)


def _rows(labels: Labels) -> pd.DataFrame:
    """Return family, place (a state, or the nation) and domain of each target."""
    return _of_run(labels) if isinstance(labels, pd.DataFrame) else _of_names(labels)


def _of_run(targets: pd.DataFrame) -> pd.DataFrame:
    for column in ("variable", "geographic_id"):
        if column not in targets:
            raise InputError("lacks a column", place="targets", value=column, choices=targets.columns)
    area = targets["geographic_id"].astype(str).str.strip()
    level = targets.get("geo_level", pd.Series("", index=targets.index)).astype(str)
    number = pd.to_numeric(area, errors="coerce")
    national = area.isin(["US", "0"]) | level.eq("national")
    bad = number.isna() & ~national
    if bad.any():
        raise InputError(
            "is no area", place="geographic_id", value=area[bad].iloc[0], expected="US or a number"
        )
    # A district's GEOID is its state's FIPS code and two digits.
    state = number.where(number < 100, number // 100)
    reform = targets.get("reform_id", pd.Series(0, index=targets.index)).fillna(0).astype(int).astype(str)
    domain = targets.get("domain_variable", pd.Series("", index=targets.index)).astype("object").fillna("")
    return pd.DataFrame(
        {
            "family": (targets["variable"].astype(str) + "|" + reform).to_numpy(),
            "place": np.where(national, _NATION, state.fillna(0).astype(int).astype(str)),
            "domain": domain.astype(str).to_numpy(),
        }
    )


def _of_names(labels: Sequence[object] | NDArray[Any]) -> pd.DataFrame:
    names = list(labels)
    if not names:
        raise InputError("names no target", place="labels")
    return pd.DataFrame([_of_name(name) for name in names], columns=["family", "place", "domain"])


def _of_name(label: object) -> tuple[str, str, str]:
    found = _RUN_NAME.match(str(label))
    if found is not None:
        _, state, district, variable, constraints = found.groups()
        place = state or (str(int(district) // 100) if district else _NATION)
        return (
            variable,
            place,
            " ".join(sorted(set(re.findall(r"([A-Za-z]\w*)\s*[<>=!]", constraints or "")))),
        )
    words = re.split(r"[^0-9A-Za-z]+", str(label).lower())
    plain = [word for word in words if word and not re.search(r"\d", word)]
    banded = len(plain) < len([word for word in words if word])
    stem = " ".join(word for word in plain if not (banded and word in _BAND_WORDS))
    return (f"{stem} in bands" if banded and stem else str(label)), "plain", ""


def blocked_folds(
    labels: Labels, k: int, seed: int = 0, *, by: str = "place", at_most: bool = False
) -> NDArray[np.int64]:
    """Divide targets into folds of about equal size, block by block (see `target_blocks`).

    Each variable's blocks are spread evenly over the folds, largest first; ties are broken by a counter-based
    draw. A national sum stays in every training, so a fold that held out one state of its variable alone
    would hold out what is known: a variable with a national sum and fewer than 2 k states is one block, with
    the sum.

    Parameters
    ----------
    labels, by
        As in `target_blocks`, (n_targets,).
    k
        Number of folds, 2 or more.
    seed
        Of the order among blocks of equal size.
    at_most
        Where there are fewer blocks than folds, make as many folds as there can be.

    Returns
    -------
    ndarray of int64, shape (n_targets,)
        Fold of each target, 0 to k - 1; -1: never held out.

    Raises
    ------
    InputError
        When there are fewer blocks than folds.
    """
    rows = _rows(labels)
    apart = target_blocks(labels, by=by)
    blocks = _whole_where_few(apart, rows, k)
    while at_most and k > 2 and k > len(np.unique(blocks[blocks >= 0])):
        k -= 1
        blocks = _whole_where_few(apart, rows, k)
    number = len(np.unique(blocks[blocks >= 0]))
    if not 2 <= k <= number:
        raise InputError(
            f"{number} blocks of targets that know nothing of each other",
            place="folds",
            value=k,
            expected=f"2 to {number}" if number >= 2 else "targets of at least two kinds or places",
        )
    table = pd.DataFrame({"block": blocks, "family": rows["family"]})
    sizes = table[blocks >= 0].groupby("block").agg(family=("family", "first"), rows=("family", "size"))
    sizes["draw"] = uniform(seed, "folds", sizes.index.to_numpy())
    # Blocks, not targets: a thousand in a run of twelve thousand targets.
    total = np.zeros(k, dtype=np.int64)
    of_family: dict[str, NDArray[np.int64]] = {}
    fold_of = {-1: -1}
    for block in sizes.sort_values(["rows", "draw"], ascending=[False, True]).itertuples():
        here = of_family.setdefault(block.family, np.zeros(k, dtype=np.int64))
        fold = int(np.lexsort((np.arange(k), total, here))[0])
        fold_of[block.Index] = fold
        here[fold] += 1
        total[fold] += block.rows
    return np.array([fold_of[block] for block in blocks.tolist()], dtype=np.int64)


def _whole_where_few(blocks: NDArray[np.int64], rows: pd.DataFrame, k: int) -> NDArray[np.int64]:
    """Make one block of each family that has a national sum and too few places to hide one among others."""
    family = rows["family"].to_numpy()
    below = pd.Series(blocks[rows["place"].to_numpy() != _NATION])
    places = below.groupby(family[rows["place"].to_numpy() != _NATION]).nunique()
    few = np.isin(family, family[blocks < 0]) & np.isin(family, places.index[places < 2 * k])
    code = blocks.max() + 1 + pd.factorize(family, sort=True)[0]
    return np.where(few, code, blocks)


@dataclass(frozen=True)
class Outcome:
    """One fit without a fold.

    ``rows``: the held-out targets, ``estimate`` and ``rel_error`` of each; ``error``: the mean of
    min(abs. relative error, 1) over them; ``fitted_error``: the same over the targets that were fitted;
    ``records`` and ``effective_sample_size`` of the weights.
    """

    fold: int
    rows: NDArray[np.int64]
    estimate: Float
    rel_error: Float
    error: float
    fitted_error: float
    records: int
    effective_sample_size: float


class WithoutFold:
    """Call with (fold, settings of the fit): fits the other targets and judges on the fold's.

    The fold's targets are no part of that fit, not even as its holdout: early stopping would learn from them.
    Without groups the loss is a sum over targets, so a `lambda_l0` counts in proportion to those that are
    left.

    Parameters
    ----------
    X, targets, folds
        (n_targets, n_columns), (n_targets,) and (n_targets,); fold -1 is never held out. Targets that no
        weights reach are not judged.
    **common
        Arguments of `distcalib.fit.fit_weights`; those with one value a target are cut with it.
    """

    PER_TARGET = ("groups", "target_weights", "tolerance", *WORDS)

    def __init__(
        self, X: sp.spmatrix | sp.sparray, targets: ArrayLike, folds: ArrayLike, **common: Any
    ) -> None:
        if not sp.issparse(X):
            raise InputError(
                "not a scipy sparse matrix", place="X", value=type(X).__name__, expected="csr_array(X)"
            )
        self.X = sp.csr_array(X)  # its own cells where it is CSR: a fold's fit copies only the fold's rows
        self.targets: Float = np.asarray(targets, dtype=np.float64)
        given = np.asarray(folds)
        for place, shape in (("targets", self.targets.shape), ("folds", given.shape)):
            if shape != (self.X.shape[0],):
                raise InputError("wrong shape", place=place, value=shape, expected=f"({self.X.shape[0]},)")
        self.folds = np.where(achievable_rows(self.X, self.targets), given.astype(np.int64), -1)
        self.numbers: list[int] = np.unique(self.folds[self.folds >= 0]).tolist()
        if len(self.numbers) < 2:
            raise InputError("fewer than two folds have a target that can be reached", place="folds")
        self.common = common

    def __call__(self, job: tuple[int, dict[str, Any]]) -> Outcome:
        """Fit without the fold `job[0]`, with the settings `job[1]` above the common ones."""
        fold, settings = job
        fitted, rows = self.folds != fold, np.flatnonzero(self.folds == fold)
        how = {**self.common, **settings}
        for name in self.PER_TARGET:
            if isinstance(how.get(name), np.ndarray):  # one value for all needs no cut
                how[name] = np.asarray(how[name])[fitted]
        if how.get("lambda_l0") is not None and how.get("groups") is None:
            how["lambda_l0"] = how["lambda_l0"] * float(np.mean(fitted))
        weights = fit_weights(self.X[fitted], self.targets[fitted], **how).weights
        pieces = [(rows @ weights, abs(rows) @ weights) for rows in rows_in_pieces(self.X)]
        estimate, gross = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        error = relative_error(estimate, self.targets, gross)
        capped = np.minimum(np.abs(error), 1.0)
        return Outcome(
            fold,
            rows,
            estimate[rows],
            error[rows],
            float(np.mean(capped[rows])),
            float(np.mean(capped[fitted])),
            int(np.count_nonzero(weights)),
            effective_sample_size(weights),
        )


@dataclass(frozen=True)
class Robustness:
    """What K folds say of a fit.

    Attributes
    ----------
    mean_error, std_error
        Mean over folds of the held-out error (mean over a fold's targets of min(abs. relative error, 1)), and
        the standard error of that mean: standard deviation over folds / sqrt(number of folds).
    folds
        One row a fold: fold, targets (held out), error, median_abs_rel_error, fitted_error, records,
        effective_sample_size.
    targets
        One row a target: fold, target, estimate, rel_error, abs_rel_error, all of the fit that had not seen
        it (NaN where it was never held out).
    """

    mean_error: float
    std_error: float
    folds: pd.DataFrame
    targets: pd.DataFrame


def robustness(
    X: sp.spmatrix | sp.sparray, targets: ArrayLike, folds: ArrayLike, *, map: Map = map, **fit: Any
) -> Robustness:
    """Fit as many times as there are folds, each time without one, and judge each on what it has not seen.

    Parameters
    ----------
    X, targets, folds
        (n_targets, n_columns), (n_targets,), and the fold of each target, as `blocked_folds` gives them.
    map
        Calls a function for every fold; one that spreads them, for example over a Dask cluster, must return
        the answers in order.
    **fit
        Arguments of `distcalib.fit.fit_weights`.

    Raises
    ------
    InputError
        As `distcalib.fit.fit_weights`; also where fewer than two folds can be judged.
    """
    judge = WithoutFold(X, targets, folds, **fit)
    outcomes: list[Outcome] = list(map(judge, [(fold, {}) for fold in judge.numbers]))
    errors = np.array([outcome.error for outcome in outcomes])
    table = pd.DataFrame(
        {
            "fold": [o.fold for o in outcomes],
            "targets": [len(o.rows) for o in outcomes],
            "error": errors,
            "median_abs_rel_error": [float(np.median(np.abs(o.rel_error))) for o in outcomes],
            "fitted_error": [o.fitted_error for o in outcomes],
            "records": [o.records for o in outcomes],
            "effective_sample_size": [o.effective_sample_size for o in outcomes],
        }
    )
    estimate, error = np.full((2, len(judge.targets)), np.nan)
    rows = np.concatenate([o.rows for o in outcomes])
    estimate[rows] = np.concatenate([o.estimate for o in outcomes])
    error[rows] = np.concatenate([o.rel_error for o in outcomes])
    each = pd.DataFrame(
        {
            "fold": judge.folds,
            "target": judge.targets,
            "estimate": estimate,
            "rel_error": error,
            "abs_rel_error": np.abs(error),
        }
    )
    return Robustness(float(np.mean(errors)), standard_error_of_mean(errors), table, each)


def standard_error_of_mean(values: ArrayLike) -> float:
    """Return the standard deviation over the square root of the number of values.

    >>> standard_error_of_mean([1.0, 3.0])
    1.0
    """
    array = np.asarray(values, dtype=np.float64)
    return float(np.std(array, ddof=1) / np.sqrt(len(array)))
