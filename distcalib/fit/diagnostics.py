"""Judging weights: one row a target, effective sample size by column and by donor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.fit.consistency import FEW_DONORS, NOT_JUDGED, area_excess, family_gaps, support
from distcalib.fit.feasible import NO_EXCESS, attainable, rows_in_pieces

Float = NDArray[np.float64]

#: A miss within so many published (90 %) margins of error, two standard errors, does not tell the estimate
#: from the figure.
MARGINS = 1.2
#: A group with a smaller share of its targets within tolerance is listed with its causes.
ENOUGH = 0.95
CAUSES = ("support", "sampling error of the source", "contradiction", NOT_JUDGED, "compromise")


def effective_sample_size(weights: ArrayLike, ids: ArrayLike | None = None) -> float:
    """Kish's effective sample size, (sum w)^2 / sum w^2.

    Parameters
    ----------
    weights
        Non-negative weights, shape (n,).
    ids
        Donor of each column, shape (n,): weights are summed by donor first, because the clones of one
        household are one observation. None: each column counts for itself.

    Returns
    -------
    float
        0 when all weights are 0.

    Notes
    -----
    Kish (1965), "Survey Sampling", section 11.7.

    >>> effective_sample_size([1.0, 1.0, 2.0, 0.0], ids=[7, 7, 8, 9])
    2.0
    """
    w: Float = np.asarray(weights, dtype=np.float64)
    if ids is not None:
        codes, _ = pd.factorize(np.asarray(ids))
        w = np.bincount(codes, weights=w).astype(np.float64)
    squares = float(np.sum(w * w))
    return float(np.sum(w)) ** 2 / squares if squares > 0 else 0.0


def achievable_rows(X: sp.csr_array, targets: ArrayLike) -> NDArray[np.bool_]:
    """Say which targets some non-negative weights could reach at all, shape (n_targets,).

    A positive target needs a positive cell, a negative one a negative cell. A zero target is within reach of
    weights of zero; with an empty row there is nothing to weight, so it counts as out of reach like any other
    empty row. Cells are looked at one by one: the sum of a row says nothing where amounts cancel.
    """
    cells = np.diff(X.indptr) > 0
    positive, negative = np.zeros((2, X.shape[0]), dtype=bool)
    starts = X.indptr[:-1][cells]
    if len(starts):
        data = X.data[: X.indptr[-1]]
        positive[cells] = np.logical_or.reduceat(data > 0, starts)
        negative[cells] = np.logical_or.reduceat(data < 0, starts)
    return reachable_targets(np.asarray(targets, dtype=np.float64), positive, negative)


def reachable_targets(
    targets: Float, positive: NDArray[np.bool_], negative: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Do what `achievable_rows` does, told which rows have positive and which negative cells."""
    by_sign = np.where(targets > 0, positive, np.where(targets < 0, negative, positive | negative))
    return by_sign.astype(bool)


def relative_error(estimate: Float, targets: Float, gross: Float) -> Float:
    """Return (estimate - target) / |target|; for targets of zero estimate / `gross` (0 where that is 0).

    `gross` is the sum of |x| w of each row, so the error of a zero target lies in [-1, 1].
    """
    scale = np.where(targets != 0, np.abs(targets), gross)
    return np.divide(estimate - targets, scale, out=np.zeros_like(targets), where=scale > 0)


def summarise(
    X: sp.spmatrix | sp.sparray,
    weights: ArrayLike,
    targets: ArrayLike,
    *,
    tolerance: ArrayLike = 0.05,
    labels: pd.DataFrame | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compare X.w with the targets, one row a target in the order of `targets`.

    Parameters
    ----------
    X
        Sparse matrix, (n_targets, n_columns).
    weights, targets
        Shapes (n_columns,) and (n_targets,).
    tolerance
        Relative, a scalar or shape (n_targets,): 0.05 is 5 percent of the target.
    labels
        Names, shape (n_targets,), or a frame whose columns are put in front.

    Returns
    -------
    DataFrame
        Labels, then target, estimate, error, rel_error (estimate - target over |target|; for a zero target
        over the sum of |x| w), abs_rel_error, achievable, within_tolerance.
    """
    matrix = sp.csr_array(X)
    w, t = np.asarray(weights, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    sums = [(rows @ w, abs(rows) @ w) for rows in rows_in_pieces(matrix)]
    estimate, gross = (np.concatenate(part) for part in zip(*sums, strict=True))
    relative = relative_error(estimate, t, gross)
    columns: dict[str, Any] = {
        "target": t,
        "estimate": estimate,
        "error": estimate - t,
        "rel_error": relative,
        "abs_rel_error": np.abs(relative),
        "achievable": achievable_rows(matrix, t),
        "within_tolerance": np.abs(relative) <= np.asarray(tolerance, dtype=np.float64),
    }
    frame = pd.DataFrame(columns)
    if labels is None:
        return frame
    front = labels if isinstance(labels, pd.DataFrame) else pd.DataFrame({"name": list(labels)})
    return pd.concat([front.reset_index(drop=True), frame], axis=1)


def shares_within(abs_rel_error: Float) -> dict[str, float | None]:
    """Return the shares within 1, 5 and 10 percent, and the median and mean absolute relative error."""
    if not len(abs_rel_error):
        return dict.fromkeys(
            ("within_1", "within_5", "within_10", "median_abs_rel_error", "mean_abs_rel_error")
        )
    return {
        **{f"within_{p}": float(np.mean(abs_rel_error <= p / 100)) for p in (1, 5, 10)},
        "median_abs_rel_error": float(np.median(abs_rel_error)),
        "mean_abs_rel_error": float(np.mean(abs_rel_error)),
    }


def explain(
    table: pd.DataFrame,
    targets: pd.DataFrame,
    X: sp.spmatrix | sp.sparray,
    weights: ArrayLike,
    *,
    donors: ArrayLike,
    limits: tuple[Float, Float],
    areas: ArrayLike,
) -> pd.DataFrame:
    """Say for each target that is missed why, as far as a figure shows it.

    Parameters
    ----------
    table
        What `summarise` returns, one row a target.
    targets
        The same targets: variable, reform_id, constraints, geo_level, geographic_id, value, moe, tolerance,
        status.
    X, weights, donors
        (n_targets, n_columns) and (n_columns,).
    limits
        Least and largest weight that the fit could give each column, (n_columns,) each.
    areas
        District GEOIDs of the run: parts are compared with their area only where all of them have a target.

    Returns
    -------
    DataFrame
        One row a target:

        - ``donors``: how many have weight and a cell in the row; ``effective_donors``: Kish's number of
          them by |x| w;
        - ``margins``: |error| over the published margin of error;
        - ``parts_gap``: by what share the targets of an area's parts sum to more than the area's, for the
          area itself or the one that it is a part of, whichever disagrees more;
        - ``area_excess``: see `distcalib.fit.consistency.area_excess`; NaN for areas without a miss, and
          where it cannot be said;
        - ``cause``: empty for a target that is met or not fitted. Else the first of these that holds:

        1. *support*: no weights within their limits give the target;
        2. *sampling error of the source*: the miss is within `MARGINS` margins of error, or parts and whole
           disagree by more than the tolerance but by no more than their margins together;
        3. *contradiction*: parts and whole disagree by more than the whole's tolerance, and the miss is on
           the side to which the other figure pulls;
        4. *support*: fewer than `FEW_DONORS` effective donors, or no weights within their limits meet all
           targets of the target's own area at once;
        5. *not judged*: whether the targets of its area can be met at once cannot be said (``area_excess`` is
           NaN), and that alone tells support from compromise;
        6. *compromise*: no figure shows another cause; the fit traded the target against others of the same
           households, or against the evenness of the weights.
    """
    matrix = sp.csr_array(X)
    w, t = np.asarray(weights, np.float64), targets["value"].to_numpy(np.float64)
    donors_of, effective = support(matrix, w, donors)
    least, most = attainable(matrix, limits)
    beyond = (t > most) | (t < least)
    error = table["error"].to_numpy(np.float64)
    moe = targets["moe"].to_numpy(np.float64)
    margins = np.divide(np.abs(error), moe, out=np.full(len(t), np.nan), where=moe > 0)
    gap, pull, explained = family_gaps(targets, areas)
    pulled = np.sign(error) == pull
    missed = ((targets["status"] == "fit") & ~table["within_tolerance"].to_numpy(bool)).to_numpy()
    excess = area_excess(matrix, targets, limits, areas, only=missed)
    tests = (
        beyond | ~table["achievable"].to_numpy(),
        (margins <= MARGINS) | (pulled & explained),
        pulled,
        (effective < FEW_DONORS) | (excess > NO_EXCESS),
        np.isnan(excess),
    )
    support_, source, contradiction, not_judged, compromise = CAUSES
    found = np.select(tests, [support_, source, contradiction, support_, not_judged], compromise)
    cause = np.where(missed, found, "")
    return pd.DataFrame(
        {
            "donors": donors_of,
            "effective_donors": effective,
            "margins": margins,
            "parts_gap": gap,
            "area_excess": excess,
            "cause": cause,
        }
    )


def group_words(targets: pd.DataFrame) -> pd.Series:
    """Return each target's group in words, of its geo_level, variable and domain_variable."""
    domain = targets["domain_variable"].fillna("")
    words = targets["geo_level"] + " " + targets["variable"]
    return words.where(domain == "", words + " by " + domain)


def group_causes(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up the targets of status fit by group.

    Parameters
    ----------
    table
        Columns of `summarise` and `explain`, with group_id, status, name, geo_level, variable and
        domain_variable.

    Returns
    -------
    DataFrame
        One row a group: group_id, group (in words), geo_level, targets; within_tolerance, within_5, within_10
        (shares); worst (name), worst_error (relative); missed, and how many of these by each of `CAUSES`; and
        ``causes``: for a group with less than 95 percent within tolerance the causes in words with their
        share of the misses, else empty.
    """
    fitted = table[table["status"] == "fit"].copy()
    fitted["group"] = group_words(fitted)
    fitted["within_5"] = fitted["abs_rel_error"] <= 0.05
    fitted["within_10"] = fitted["abs_rel_error"] <= 0.10
    for cause in CAUSES:
        fitted[cause] = fitted["cause"] == cause
    groups = fitted.groupby("group_id", sort=True)
    out = groups.agg(
        group=("group", "first"),
        geo_level=("geo_level", "first"),
        targets=("target", "size"),
        within_tolerance=("within_tolerance", "mean"),
        within_5=("within_5", "mean"),
        within_10=("within_10", "mean"),
    )
    worst = fitted.loc[groups["abs_rel_error"].idxmax(), ["group_id", "name", "rel_error"]]
    worst = worst.set_index("group_id").set_axis(["worst", "worst_error"], axis=1)
    counts = groups[list(CAUSES)].sum()
    missed = counts.sum(axis=1)
    shares = counts.div(missed.where(missed > 0, 1), axis=0)
    words = [
        ", ".join(
            f"{c} {row[c]:.0%}" for c in row.sort_values(ascending=False, kind="stable").index if row[c]
        )
        for _, row in shares.iterrows()
    ]
    out = out.join(worst).assign(missed=missed).join(counts)
    return out.assign(causes=np.where(out["within_tolerance"] < ENOUGH, words, "")).reset_index()
