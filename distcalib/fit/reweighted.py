"""Choosing an exact number of records with a reweighted L1 penalty, along one warm path.

Candès, Wakin and Boyd (2008), "Enhancing Sparsity by Reweighted L1 Minimization", J. Fourier Anal. Appl. 14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.checkpoint import Checkpoint
from distcalib.fit.descent import Compressed, Descent
from distcalib.fit.loss import row_furthest_off
from distcalib.random import uniform

Float = NDArray[np.float64]

#: Passes without a penalty, for a start that knows which records the targets want.
WARM_PASSES = 3
#: First penalty, in units of the ridge's cost of a column; without a ridge of its median squared norm.
FIRST_OF_RIDGE, FIRST_OF_NORM = 0.2, 1e-3
#: Width of the noise on the penalties.
TIES = 0.01
#: Growth of the penalty a pass until the first records drop out.
APPROACH = 1.1
#: Share of the records in a pass that counts as the beginning.
BEGINNING = 5e-4


def select_reweighted(
    matrix: sp.spmatrix | sp.sparray | Compressed,
    goal: ArrayLike,
    records: int,
    *,
    factor: ArrayLike | None = None,
    unit: ArrayLike | None = None,
    ridge: float = 0.0,
    bounds: tuple[float, float] = (0.02, 50.0),
    most: ArrayLike = np.inf,
    growth: float = 1.02,
    epsilon: float = 0.02,
    seed: int = 0,
    observe: Callable[[int, Float], None] = lambda passes, ratio: None,
    saved: Checkpoint | None = None,
    worst: Callable[[Float], str] = row_furthest_off,
) -> NDArray[np.int64]:
    """Choose the columns of a least-squares problem that are worth keeping, exactly `records` of them.

    Minimises ||F X U v - g||^2 + ridge * mean over kept columns of (v / c - 1)^2 + sum of penalty_j v_j over
    v >= 0, with penalty_j = mu / (v_j / c + epsilon) renewed at each pass: a small v is pushed to 0, a large
    one is left alone. c is the mass of all columns over that of the kept ones, so the ridge pulls to where
    the refit starts. Coordinate descent from v = 1; mu rises by `growth` a pass, and a column that reached 0
    stays there. At the pass that would go below the budget, those that it dropped last come back, the
    largest first.

    Parameters
    ----------
    matrix
        X: scipy sparse (n_targets, n_columns), or its compressed columns (pointers, rows, values), which are
        read as they are.
    goal
        g, (n_targets,): scaled targets.
    records
        How many columns to keep, from 1 to n_columns.
    factor
        Diagonal of F, (n_targets,): what scales each row. None: 1.
    unit
        Diagonal of U, (n_columns,), > 0: the starting weights. None: 1.
    ridge
        In units of the loss: the cost of a mean squared relative change of 1.
    bounds
        lower <= 1 <= upper, of v / c: what the refit will allow. A column that would go below the lower one
        is dropped.
    most
        Largest v itself, scalar or (n_columns,), > 0.
    growth
        Of the penalty a pass, above 1: nearer to 1 is better and slower.
    epsilon
        Above 0, in units of c.
    seed
        Of the noise that chooses between equal columns.
    observe
        Called after each pass with (passes, v).
    saved
        Where the state is kept, and taken up again to the same bits.
    worst
        Names, for an error, the row that residuals (n_targets,) say is furthest off.

    Returns
    -------
    ndarray of int64, (records,)
        Ascending. The same bits with any number of threads: the passes are serial.

    Raises
    ------
    InputError
        Values out of range.
    RunError
        The loss is infinite or NaN; names the pass and what `worst` says.
    """
    path = Descent(matrix, goal, factor, unit)
    n = len(path.v)
    for place, value, holds, expected in (
        ("records", records, 1 <= records <= n, f"1 to {n}"),
        ("ridge", ridge, ridge >= 0, "0 or more"),
        ("growth", growth, growth > 1, "more than 1"),
        ("epsilon", epsilon, epsilon > 0, "more than 0"),
        ("bounds", bounds, 0 <= bounds[0] <= 1 <= bounds[1], "lower <= 1 <= upper"),
        ("unit", float(path.unit.min()), bool((path.unit > 0).all()), "more than 0"),
    ):
        if not holds:
            raise InputError(
                "out of range", place=f"select_reweighted.{place}", value=value, expected=expected
            )
    if records == n:
        return np.arange(n)
    # Equal columns would be dropped in their order; a little noise leaves it to the seed which of them stay.
    noise = 1.0 + TIES * (uniform(seed, "reweighted", np.arange(n)) - 0.5)
    total, most = float(np.sum(path.unit)), np.broadcast_to(np.asarray(most, dtype=np.float64), (n,))
    norm = float(np.median(path.squares[path.squares > 0])) if path.squares.any() else 1.0
    mu = FIRST_OF_RIDGE * ridge / n if ridge > 0 else FIRST_OF_NORM * norm
    # One row a pass: v and v before the pass, with the residual, are all that the next pass starts from.
    state = {"v": path.v, "before": path.v.copy(), "pull": path.pull}
    at: dict[str, Any] = {"passes": 0, "mu": mu, "began": False, "ended": False}
    if saved is not None:
        at = saved.load(state) or at
    if at["ended"]:
        observe(at["passes"], path.v)
    nothing, low, high = np.zeros(n), np.full(n, bounds[0]), np.minimum(bounds[1], most)
    kept = np.flatnonzero(path.v > 0) if at["passes"] > WARM_PASSES else np.arange(n)
    while not at["ended"]:
        warm = at["passes"] < WARM_PASSES
        if warm:
            finite = path.walk(kept, nothing, ridge / n, 1.0, low, high, low)
        else:
            state["before"][:] = path.v
            level = total / float(np.sum(path.unit[kept]))
            penalty = at["mu"] * noise / (path.v / level + epsilon) / level
            pull, highest = ridge / len(kept) / level**2, np.minimum(bounds[1] * level, most)
            finite = path.walk(kept, penalty, pull, level, nothing, highest, low * level)
            left = kept[path.v[kept] > 0]
            at["began"] = at["began"] or len(left) < (1 - BEGINNING) * len(kept)
            kept = left
            at["mu"] *= growth if at["began"] else APPROACH
        at["passes"] += 1
        if not finite:
            raise RunError(
                f"the selection diverged at pass {at['passes']}: the loss is infinite or NaN "
                f"({worst(path.off)} is furthest off)"
            )
        at["ended"] = len(kept) <= records
        observe(at["passes"], path.v)
        if saved is not None:
            saved.offer(at, state)
    # The kept ones first, then those dropped in the last pass; the larger first, then the lower column.
    rank = np.lexsort((np.arange(n), -state["before"], -path.v))
    return np.sort(rank[:records]).astype(np.int64)
