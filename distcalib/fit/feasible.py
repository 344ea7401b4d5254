"""What weights within their limits can give: each target by itself, and all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse.csgraph import connected_components

Float = NDArray[np.float64]

#: A sum of relative misses up to this is rounding of the solver.
NO_EXCESS = 1e-6
#: Cells of the largest system that is solved: about ten seconds. What is above it is not judged.
LARGEST = 5_000_000
#: Passes of descent that look for weights that meet all targets, before a linear programme does.
PASSES = 30
#: Cells that are looked at together: figures of rows need no second copy of the matrix.
PIECE = 1 << 22


def rows_in_pieces(X: sp.csr_array) -> Iterator[sp.csr_array]:
    """Yield successive rows of a CSR matrix in float64, about `PIECE` cells each; without rows, one piece."""
    row, n = 0, X.shape[0]
    if n == 0:
        yield sp.csr_array(X, dtype=np.float64)
    while row < n:
        stop = int(np.searchsorted(X.indptr, int(X.indptr[row]) + PIECE, side="right")) - 1
        stop = min(max(stop, row + 1), n)
        yield sp.csr_array(X[row:stop], dtype=np.float64)
        row = stop


def attainable(X: sp.csr_array, limits: tuple[Float, Float]) -> tuple[Float, Float]:
    """Return the least and the most that each row can give, (n_targets,) each, with weights within limits."""
    low, high = limits
    least, most = [], []
    for rows in rows_in_pieces(X):
        positive, negative = rows.maximum(0), rows.minimum(0)
        positive.eliminate_zeros()  # a stored zero times an unbounded weight is no number
        negative.eliminate_zeros()
        least.append(positive @ low + negative @ high)
        most.append(positive @ high + negative @ low)
    return np.concatenate(least), np.concatenate(most)


def limits_before(
    initial_weights: Float,
    lower: float,
    upper: float,
    records: int | None = None,
    selects: bool = False,
    weight_ratio: float | None = None,
) -> tuple[Float, Float]:
    """Return the least and largest weight that a fit may give each column, as far as known before it.

    Parameters
    ----------
    initial_weights
        Design weights, (n_columns,).
    lower, upper
        Bounds of a kept column's weight over its design weight, scaled to the mass of all.
    records
        How many columns are kept, where that is given: at least the lightest ones, so the scale is at most
        the mass of all over theirs.
    selects
        Whether a penalty decides how many are kept: then the scale is not known.
    weight_ratio
        Largest weight over the design weight itself; None: no limit.
    """
    start = np.asarray(initial_weights, dtype=np.float64)
    some = start > 0
    columns = int(np.count_nonzero(some))
    least, scale = lower, 1.0
    if records is not None and records < columns:
        least, scale = 0.0, float(start.sum() / np.partition(start[some], records - 1)[:records].sum())
    elif selects:
        least, scale = 0.0, np.inf
    ratio = upper * scale if weight_ratio is None else min(upper * scale, weight_ratio)
    return least * start, np.multiply(ratio, start, out=np.zeros_like(start), where=some)


def within_cap(
    X: sp.csr_array, targets: pd.DataFrame, limits: tuple[Float, Float], cap: float | None
) -> tuple[Float, Float]:
    """Return limits with the largest weights cut to the largest share `cap` of any fitted target.

    Parameters
    ----------
    X, targets, limits
        As `consistency` takes them.
    cap
        ``w |x| <= cap |target|``, for targets other than zero; None: no cap.
    """
    if cap is None:
        return limits
    value = np.where(targets["status"] == "fit", targets["value"], 0.0).astype(np.float64)
    share, first = np.zeros(X.shape[1]), 0
    for rows in rows_in_pieces(X):
        goal = np.repeat(np.abs(value[first : first + rows.shape[0]]), np.diff(rows.indptr))
        part = np.divide(np.abs(rows.data), goal, out=np.zeros_like(rows.data), where=goal > 0)
        np.maximum.at(share, rows.indices, part)
        first += rows.shape[0]
    most = np.divide(cap, share, out=np.full_like(share, np.inf), where=share > 0)
    return limits[0], np.minimum(limits[1], most)


def least_excess(X: sp.csr_array, value: Float, tolerance: Float, limits: tuple[Float, Float]) -> float:
    """Return the least sum over rows of what a miss has beyond its tolerance, relative to the target.

    Zero when some weights within their limits meet all targets at once: where some passes of descent find
    such weights, they are the proof. Else a linear programme (HiGHS); NaN where that finds no optimum.

    Parameters
    ----------
    X, value, tolerance
        (n, k), targets (n,), and relative tolerances (n,). Targets of zero are left out.
    limits
        Least and largest weight of each column, (k,) each.
    """
    solved = _least_missing(X, value, tolerance, limits)
    if solved is None:
        return 0.0
    return float(solved.fun) if solved.status == 0 else np.nan


def conflicts(
    X: sp.csr_array, value: Float, tolerance: Float, limits: tuple[Float, Float]
) -> NDArray[np.int64] | None:
    """Find targets that cannot be met at once, though each might be by itself.

    They carry the dual solution of `least_excess`: a weighted sum of them has no weights within the limits,
    whatever becomes of the other targets. Those that share columns make one set.

    Parameters
    ----------
    X, value, tolerance, limits
        As `least_excess` takes them.

    Returns
    -------
    ndarray of int64, shape (n_targets,), or None
        Number of the set that each target is of, from 0; -1 for none. None where it cannot be said: no
        optimum was found, or X has more than `LARGEST` cells.
    """
    sets = np.full(X.shape[0], -1)
    if X.nnz > LARGEST:
        return None
    solved = _least_missing(X, value, tolerance, limits)
    if solved is None:
        return sets
    if solved.status != 0:
        return None
    over, under = np.abs(solved.ineqlin.marginals).reshape(2, -1)
    kept = np.flatnonzero(value)
    if solved.fun > NO_EXCESS:
        those = kept[np.maximum(over, under) > NO_EXCESS]
        cells = abs(X[those])
        sets[those] = connected_components(cells @ cells.T, directed=False)[1]
    return sets


def _least_missing(X: sp.csr_array, value: Float, tolerance: Float, limits: tuple[Float, Float]) -> Any:
    """Solve the programme of `least_excess`; None where it need not be solved, for nothing is missing."""
    kept = np.flatnonzero(value)
    if not kept.size:
        return None
    scaled = sp.diags_array(1 / np.abs(value[kept])) @ X[kept]
    n, k = scaled.shape
    slack = sp.eye_array(n)
    sign, give = np.sign(value[kept]), tolerance[kept]
    if _all_met(scaled, sign, give, limits):
        return None
    return linprog(
        np.r_[np.zeros(k), np.ones(n)],
        A_ub=sp.vstack([sp.hstack([scaled, -slack]), sp.hstack([-scaled, -slack])]).tocsc(),
        b_ub=np.r_[sign + give, give - sign],
        bounds=np.column_stack([np.r_[limits[0], np.zeros(n)], np.r_[limits[1], np.full(n, np.inf)]]),
        method="highs",
    )


def _all_met(scaled: sp.csr_array, sign: Float, give: Float, limits: tuple[Float, Float]) -> bool:
    """Try to find weights within their limits that meet all targets; False says only that none was found."""
    from distcalib.fit.descent import Descent

    low, high = (np.asarray(limit, dtype=np.float64) for limit in limits)
    path = Descent(scaled, sign)
    path.v[:] = low
    path.renew()
    nothing, every = np.zeros(len(low)), np.arange(len(low))
    for _ in range(PASSES):
        # Inside the tolerances: what the passes leave of a miss is small, and never quite nothing.
        if (np.abs(path.residual) <= give).all():
            return True
        if not path.walk(every, nothing, 0.0, 0.0, low, high, low):
            return False
        path.renew()
    return bool((np.abs(path.residual) <= give).all())
