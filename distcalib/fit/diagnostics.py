"""Judging weights: one row a target, effective sample size by column and by donor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


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
    t = np.asarray(targets, dtype=np.float64)
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    positive = np.bincount(row[X.data > 0], minlength=X.shape[0]) > 0
    negative = np.bincount(row[X.data < 0], minlength=X.shape[0]) > 0
    reachable: NDArray[np.bool_] = np.where(t > 0, positive, np.where(t < 0, negative, positive | negative))
    return reachable


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
    matrix = sp.csr_array(X, dtype=np.float64)
    w, t = np.asarray(weights, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    estimate = matrix @ w
    relative = relative_error(estimate, t, abs(matrix) @ w)
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
