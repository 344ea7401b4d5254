"""What a record budget costs, and what no weights at all could do better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.constraints import checked_limits
from distcalib.fit.descent import Compressed, Descent
from distcalib.fit.diagnostics import effective_sample_size
from distcalib.fit.loss import Loss, row_furthest_off

Float = NDArray[np.float64]

#: Passes between looks at the dual bound.
PASSES_A_LOOK = 10
FRONTIER_COLUMNS = (
    "budget",
    "records",
    "donors",
    "loss",
    "attainable_loss",
    "effective_sample_size",
    "effective_sample_size_by_donor",
    "design_effect",
    "held_out_error",
)


def frontier(
    fit: Callable[[int], ArrayLike],
    budgets: Iterable[int],
    X: sp.spmatrix | sp.sparray,
    loss: Loss,
    *,
    donors: ArrayLike | None = None,
    held_out: ArrayLike | None = None,
    attainable: float = np.nan,
) -> pd.DataFrame:
    """Fit at each budget and judge the weights.

    Parameters
    ----------
    fit
        Records -> weights (n_columns,); it must not see the held-out targets.
    budgets
        Numbers of records, in the order of the table.
    X
        Sparse (n_targets, n_columns).
    loss
        Over all rows of X; build it with an importance of 0 for the held-out ones.
    donors
        Donor of each column, (n_columns,). None: each column is its own.
    held_out
        Boolean (n_targets,). None: none, and the error is NaN.
    attainable
        Lower bound of the loss with every column, see `attainable_loss`; put beside each row.

    Returns
    -------
    DataFrame
        `FRONTIER_COLUMNS`, one row a budget: records and donors with weight, loss, Kish's effective sample
        sizes, design effect (records over effective sample size), and the mean over held-out targets of
        min(|error| / scale, 1).

    Raises
    ------
    InputError
        A fit returned weights that are not finite and 0 or more, one a column.
    """
    matrix = sp.csr_array(X, dtype=np.float64)
    n_targets, n_columns = matrix.shape
    of = np.arange(n_columns) if donors is None else np.asarray(donors)
    held = np.zeros(n_targets, dtype=bool) if held_out is None else np.asarray(held_out, dtype=bool)
    for place, vector, n in (("donors", of, n_columns), ("held_out", held, n_targets)):
        if vector.shape != (n,):
            raise InputError("wrong shape", place=place, value=vector.shape, expected=f"({n},)")
    rows = []
    for budget in budgets:
        weights = np.asarray(fit(budget), dtype=np.float64)
        if weights.shape != (n_columns,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise InputError("a fit must return finite weights of 0 or more, one a column", place="frontier")
        estimate, kept = matrix @ weights, weights > 0
        error = np.minimum(np.abs(estimate - loss.target) / loss.scale, 1.0)[held]
        size = effective_sample_size(weights)
        rows.append(
            (
                budget,
                int(kept.sum()),
                len(pd.unique(of[kept])),
                loss.value(estimate),
                attainable,
                size,
                effective_sample_size(weights, of),
                kept.sum() / size if size > 0 else np.nan,
                float(np.mean(error)) if len(error) else np.nan,
            )
        )
    return pd.DataFrame(rows, columns=list(FRONTIER_COLUMNS))


@dataclass(frozen=True)
class Attainable:
    """The best found of ||M v - g||^2 over bounds, and a proof of how good that is.

    Attributes
    ----------
    ratio
        float64 (n_columns,), within the bounds.
    loss
        Its value.
    lower_bound
        No ratios within the bounds have a smaller loss (weak duality).
    kkt_residual
        Norm of the projected gradient, over that at the start.
    passes
        Of coordinate descent.
    """

    ratio: Float
    loss: float
    lower_bound: float
    kkt_residual: float
    passes: int


def attainable_loss(
    matrix: sp.spmatrix | sp.sparray | Compressed,
    goal: ArrayLike,
    *,
    bounds: tuple[ArrayLike, ArrayLike],
    factor: ArrayLike | None = None,
    unit: ArrayLike | None = None,
    tolerance: float = 0.01,
    max_passes: int = 1000,
    worst: Callable[[Float], str] = row_furthest_off,
) -> Attainable:
    """Bracket the least of ||F X U v - g||^2 over low <= v <= high, with every column and no ridge.

    Serial coordinate descent from v = 1 until loss and lower bound differ by at most `tolerance` of the loss
    (or of 1e-12 of the first loss), or for `max_passes`: the bracket is then wider, and still valid.

    Parameters
    ----------
    matrix, goal, factor, unit
        X, g and the diagonals of F and U, as in `distcalib.fit.reweighted.select_reweighted`.
    bounds
        Least and largest ratio, scalars or (n_columns,); the least must be 0 or more.
    worst
        Names, for an error, the row that residuals (n_targets,) say is furthest off.

    Raises
    ------
    RunError
        The loss became infinite or NaN.
    """
    path = Descent(matrix, goal, factor, unit)
    n = len(path.v)
    low, high = checked_limits(bounds, n, "bounds")
    if (low < 0).any() or (path.unit < 0).any():
        raise InputError("negative lower bound or unit", place="bounds", expected="0 or more")
    path.v[:] = np.clip(1.0, low, high)
    path.renew()
    passes, best, nothing = 0, 0.0, np.zeros(n)
    first_loss, first_norm = float(np.sum(path.residual**2)), _projected_norm(path, low, high)
    while True:
        loss = float(np.sum(path.residual**2))
        best = max(best, dual_bound(path, (low, high)))
        if loss - best <= tolerance * max(loss, 1e-12 * first_loss) or passes >= max_passes:
            break
        for _ in range(PASSES_A_LOOK):
            if not path.walk(np.arange(n), nothing, 0.0, 1.0, low, high, low):
                raise RunError(
                    f"the search for the attainable loss diverged: it is infinite or NaN ({worst(path.off)} "
                    "is furthest off)"
                )
        passes += PASSES_A_LOOK
        path.renew()
    norm = _projected_norm(path, low, high)
    return Attainable(path.v, loss, best, norm / first_norm if first_norm > 0 else 0.0, passes)


def dual_bound(path: Descent, limits: tuple[Float, Float]) -> float:
    """Return a lower bound of ||M x - g||^2 over low <= x <= high: the better, the nearer `path` to the best.

    For any y, ||M x - g||^2 >= y . (M x - g) - ||y||^2 / 4. With y along the residual r of the path and x the
    one of the box that makes the right side least, the best length of y gives (r . (M x - g))^2 / ||r||^2 at
    that x, if the product is above 0; else the bound is 0.

    An unbounded column gets the largest value that a better x could have: where the cells of a row are all
    0 or more, none of its terms can exceed g by more than the root of the loss of the path.

    Parameters
    ----------
    path
        M = F X U, g, and a point within the limits; units of 0 or more.
    limits
        low (0 or more) and high, (n_columns,) each; high may be infinite.
    """
    low, high = limits
    residual = path.residual
    loss = float(np.sum(residual * residual))
    if loss == 0.0:
        return 0.0
    slope = path.gradient()
    open_ended = ~np.isfinite(high) & (slope < 0)
    if open_ended.any():
        high = np.where(open_ended, _implied_upper(path, loss), high)
        if not np.isfinite(high[open_ended]).all():
            return 0.0
    # Where the slope is 0 the column does not count, however long it may be.
    reach = np.where(slope < 0, high, low)
    reach[slope == 0] = 0.0
    half = float(np.sum(slope * reach) - np.sum(residual * path.goal))
    return half * half / loss if half > 0 else 0.0


def _implied_upper(path: Descent, loss: float) -> Float:
    """Return per column the least of (g + root of loss) / cell over rows without negative cells."""
    ptr, row, value = path.cells
    column = np.repeat(np.arange(len(path.v)), np.diff(ptr))
    signed = np.bincount(row[value < 0], minlength=len(path.goal)) > 0
    cell = path.factor[row] * value * path.unit[column]
    usable = np.flatnonzero(~signed[row] & (cell > 0))
    upper = np.full(len(path.v), np.inf)
    limit = np.maximum(path.goal[row[usable]] + np.sqrt(loss), 0.0) / cell[usable]
    np.minimum.at(upper, column[usable], limit)
    return upper


def _projected_norm(path: Descent, low: Float, high: Float) -> float:
    slope, v = path.gradient(), path.v
    free = ~(((v <= low) & (slope > 0)) | ((v >= high) & (slope < 0)))
    return float(np.sqrt(np.sum(slope[free] ** 2)))
