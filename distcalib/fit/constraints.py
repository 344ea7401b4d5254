"""What bounds on weights allow: feasibility, conservation of mass, a cap on a record's share of a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from distcalib.errors import InputError
from distcalib.fit.columns import Columns
from distcalib.fit.feasible import attainable

Float = NDArray[np.float64]

#: A relative miss up to this is rounding: HiGHS meets rows to 1e-7.
ROUNDING = 1e-6
#: Corrections of a sum by its last bits; the first nearly always suffices.
CORRECTIONS = 20
#: Bisection halves the interval of a scale factor; float64 has no more halves than this.
HALVINGS = 1100
#: Seconds after which the linear programme gives up; a larger system is an error in either case.
LONGEST = 300.0
#: Rows named in a message.
NAMED = 5


@dataclass(frozen=True)
class Feasibility:
    """Whether some weights within their limits meet all targets at once.

    Attributes
    ----------
    feasible
        No miss is needed.
    violation
        Least possible sum over targets of |estimate - target| / |target|.
    misses
        Of one solution with the least sum, relative, (n_targets,); the rows that stand in the way.
    """

    feasible: bool
    violation: float
    misses: Float


def target_scale(X: sp.csr_array, targets: Float, design: Float) -> Float:
    """Return what errors are relative to: ``|t|``; for a zero target the sum of ``|x| d``; else 1."""
    scale = np.where(targets != 0, np.abs(targets), abs(X) @ np.abs(design))
    return np.where(scale > 0, scale, 1.0)


def checked_limits(bounds: tuple[ArrayLike, ArrayLike], n_columns: int, place: str) -> tuple[Float, Float]:
    """Return (low, high) as float64 arrays (n_columns,); NaN or a low above its high is an `InputError`."""
    try:
        low, high = (np.broadcast_to(np.asarray(b, dtype=np.float64), (n_columns,)).copy() for b in bounds)
    except ValueError as error:
        raise InputError("wrong shape", place=place, expected=f"scalars or ({n_columns},)") from error
    wrong = np.flatnonzero(~(low <= high))
    if len(wrong):
        j = int(wrong[0])
        raise InputError(
            f"{len(wrong)} columns have a lower bound above the upper one",
            place=place,
            value=(float(low[j]), float(high[j])),
            expected="lower <= upper",
        )
    return low, high


def check_each_target(
    X: sp.csr_array,
    targets: Float,
    limits: tuple[Float, Float],
    *,
    place: str = "bounds",
    names: Sequence[str] | None = None,
) -> None:
    """Raise an `InputError` if a target alone lies outside what weights within their limits can give.

    Parameters
    ----------
    X, targets, limits
        CSR float64 (n_targets, n_columns), (n_targets,), and least and largest weight (n_columns,) each.
    """
    least, most = attainable(X, limits)
    slack = ROUNDING * np.where(targets != 0, np.abs(targets), 1.0)
    short = np.maximum(least - targets, targets - most)
    outside = np.flatnonzero(short > slack)
    if not len(outside):
        return
    worst = outside[np.argsort(-short[outside] / slack[outside], kind="stable")[:NAMED]]
    shown = "; ".join(
        f"{_name(int(i), names)}: target {targets[i]:g}, attainable {least[i]:g} to {most[i]:g}"
        for i in worst
    )
    raise InputError(f"the bounds leave {len(outside)} targets out of reach, the worst {shown}", place=place)


def feasibility(X: sp.csr_array, targets: Float, limits: tuple[Float, Float]) -> Feasibility:
    """Say whether some weights within `limits` meet all targets, and by how much they must be missed if not.

    A linear programme (HiGHS, one thread): the least sum of relative misses.

    Parameters
    ----------
    X, targets
        CSR float64 (n_targets, n_columns) and (n_targets,).
    limits
        Least and largest weight, (n_columns,) each; infinite ones are allowed.

    Raises
    ------
    InputError
        HiGHS has not decided within `LONGEST` seconds.
    """
    n_targets, n_columns = X.shape
    # Weights in units that make the largest cell of a column 1: HiGHS drops cells below 1e-9.
    scale = target_scale(X, targets, np.ones(n_columns))
    rows = sp.csr_array(sp.diags_array(1 / scale) @ X)
    unit = np.asarray(abs(rows).max(axis=0).toarray()).ravel()
    unit = np.where(unit > 0, unit, 1.0)
    slack = sp.eye_array(n_targets)
    solved = linprog(
        np.r_[np.zeros(n_columns), np.ones(2 * n_targets)],
        A_eq=sp.hstack([rows @ sp.diags_array(1 / unit), slack, -slack]).tocsc(),
        b_eq=targets / scale,
        bounds=np.column_stack(
            [
                np.r_[limits[0] * unit, np.zeros(2 * n_targets)],
                np.r_[limits[1] * unit, np.full(2 * n_targets, np.inf)],
            ]
        ),
        method="highs",
        options={"time_limit": LONGEST},
    )
    if solved.status != 0:
        raise InputError(
            f"the targets are not met, and whether any weights meet them is not decided: {solved.message}",
            place="bounds",
        )
    misses = np.asarray(solved.x[n_columns : n_columns + n_targets] - solved.x[n_columns + n_targets :])
    violation = float(np.sum(np.abs(misses)))
    return Feasibility(violation <= ROUNDING * max(1, n_targets) ** 0.5, violation, misses)


def infeasible(found: Feasibility, names: Sequence[str] | None = None, place: str = "bounds") -> InputError:
    """Return the error that names the rows in the way and the least sum of relative misses."""
    size = np.abs(found.misses)
    worst = [i for i in np.argsort(-size, kind="stable")[:NAMED] if size[i] > ROUNDING]
    shown = ", ".join(f"{_name(int(i), names)} by {size[i]:.3g}" for i in worst)
    return InputError(
        "no weights within the bounds meet all targets: the relative misses sum to at least "
        f"{found.violation:.3g} over {int(np.sum(size > ROUNDING))} targets, for example {shown}",
        place=place,
    )


def share_cap(X: sp.csr_array, targets: Float, cap: float) -> Float:
    """Return the largest weight of each column that keeps its share of every target within `cap`.

    Parameters
    ----------
    X, targets
        CSR float64 (n_targets, n_columns) and (n_targets,). A target of zero caps nothing: a share of it
        means nothing.
    cap
        Of |target|, above 0: ``w |x| <= cap |t|`` for every cell.

    Returns
    -------
    ndarray of float64, (n_columns,)
        Infinite where a column has no cell in a target other than zero. The product with the cell stays at
        or below the cap in float64 too.

    Raises
    ------
    InputError
        Some target has so few cells of its sign that it cannot be reached within the cap.
    """
    if not (math.isfinite(cap) and cap > 0):
        raise InputError("out of range", place="share_cap", value=cap, expected="more than 0")
    upper = within_share(Columns.of(X), targets, cap)
    check_each_target(X, targets, (np.zeros(X.shape[1]), upper), place="share_cap")
    return upper


def within_share(matrix: Columns, targets: Float, cap: float) -> Float:
    """Do what `share_cap` does, (columns in use,), without asking whether targets can still be reached."""
    limit = np.where(targets != 0, cap * np.abs(targets), np.inf)
    upper = matrix.least_over_cells(limit)
    # A quotient rounded up would put the product above the cap by its last bit.
    return np.where(np.isfinite(upper), np.nextafter(upper, 0.0), upper)


def conserve_mass(
    weights: ArrayLike, total: float, *, lower: ArrayLike = 0.0, upper: ArrayLike = np.inf
) -> Float:
    """Multiply weights by one factor, clipped to their bounds, so that they sum to `total` exactly.

    The sum of ``clip(c w, lower, upper)`` grows with c: bisection finds the columns at a bound, the others
    share the rest in proportion, and one of them takes the last bits.

    Parameters
    ----------
    weights
        float64 (n,), >= 0.
    total
        Sum wanted, >= 0.
    lower, upper
        Of the result, scalars or (n,), 0 <= lower <= upper.

    Returns
    -------
    ndarray of float64, (n,)
        Within the bounds; ``math.fsum`` of it is `total`.

    Raises
    ------
    InputError
        Negative or non-finite input, or a total outside what the bounds allow.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(w).all() or (w < 0).any():
        raise InputError("weights must be finite and 0 or more", place="weights")
    low, high = checked_limits((lower, upper), len(w), "bounds")
    if (low < 0).any():
        raise InputError("negative lower bound", place="bounds", value=float(low.min()), expected="0 or more")
    # A column of weight zero stays at the least weight that its bounds allow.
    least, most = math.fsum(low), math.fsum(np.where(w > 0, high, low))
    if not least <= total <= most:
        raise InputError(
            "no weights within the bounds have this sum",
            place="total",
            value=total,
            expected=f"{least:g} to {most:g}",
        )
    factor = _factor(w, total, low, high)
    scaled = factor * w
    free = (scaled > low) & (scaled < high)
    out = np.clip(scaled, low, high)
    if free.any():
        rest = total - math.fsum(out[~free])
        share = w[free] * (rest / math.fsum(w[free]))
        out[free] = np.clip(share, low[free], high[free])
    return _exact_sum(out, total, low, high)


def _factor(w: Float, total: float, low: Float, high: Float) -> float:
    """Return the largest factor found by bisection whose clipped sum is at most `total`."""

    def mass(factor: float) -> float:
        return float(np.sum(np.clip(factor * w, low, high)))

    positive = w[w > 0]
    if not len(positive):
        return 1.0
    below, above = 0.0, max(1.0, total / float(np.sum(positive)))
    # Far enough that every column is at its upper bound, or that the sum is above the total.
    while mass(above) < total and above * float(positive.min()) < np.max(high):
        below, above = above, 2.0 * above
    for _ in range(HALVINGS):
        middle = below + (above - below) / 2
        if middle in (below, above):
            break
        below, above = (middle, above) if mass(middle) <= total else (below, middle)
    return above if mass(above) <= total else below


def _exact_sum(w: Float, total: float, low: Float, high: Float) -> Float:
    """Move what a sum lacks in its last bits to the columns with the most room for it."""
    out = w.copy()
    for _ in range(CORRECTIONS):
        if math.fsum(out) == total:
            return out
        # The exact difference: that of two rounded sums can go back and forth between two neighbours.
        gap = math.fsum([total, *(-out).tolist()])
        room = (high - out) if gap > 0 else (out - low)
        # The smallest column with room: its own last bit is below that of the sum.
        able = np.flatnonzero(room >= abs(gap))
        j = int(able[np.argmin(out[able])]) if len(able) else int(np.argmax(room))
        out[j] = min(max(out[j] + gap, low[j]), high[j])
    raise InputError("the bounds leave no room for the last bits of this sum", place="total", value=total)


def _name(row: int, names: Sequence[str] | None) -> str:
    return f"row {row}" if names is None else str(names[row])
