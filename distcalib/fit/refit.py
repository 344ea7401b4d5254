"""Weights of the selected records: bounded least squares with a ridge, by projected conjugate gradients.

Why not the gates' own weights: gates are trained under noise, and their weights leave several times the loss
that the same records can reach. Why not L-BFGS-B: scipy's calls BLAS, whose sums depend on the number of
threads (seen: other bits with two threads), and it took four times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.errors import RunError
from distcalib.fit.columns import Scaled, WithSum
from distcalib.fit.loss import Loss, row_furthest_off

Float = NDArray[np.float64]
#: One for all columns, or one each.
Bound: TypeAlias = float | Float

Matrix: TypeAlias = sp.sparray | Scaled | WithSum

#: Conjugate-gradient steps on one face of the box before the set of active bounds is looked at again.
FACE_STEPS = 20
#: Leave a face when its residual is down by this factor (squared norm).
FACE_TOLERANCE = 1e-4
#: Sufficient decrease in the projected line search (Armijo), and the shortest step.
ARMIJO, SHORTEST_STEP = 1e-4, 2.0**-20


@dataclass(frozen=True)
class Refit:
    """A solution: ratios (n,) within the bounds, steps and rounds taken, and why it ended."""

    ratio: Float
    steps: int
    rounds: int
    ended: str


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is an error, in words
def refit(
    matrix: Matrix,
    goal: Float,
    *,
    ridge: Bound,
    bounds: tuple[Bound, Bound],
    max_steps: int,
    tolerance: float,
    patience: int,
    center: Bound = 1.0,
    start: Float | None = None,
    objective: Loss | None = None,
    held_out_error: Callable[[Float], float] | None = None,
    observe: Callable[[int, Float], None] = lambda steps, ratio: None,
    worst: Callable[[Float], str] = row_furthest_off,
) -> Refit:
    """Minimise loss(matrix @ v - goal) + sum ridge (v - center)^2 subject to lo <= v <= hi.

    The loss is the sum of squares, or that of `objective`, of which each round minimises the quadratic that
    touches it at the round's start. Rounds of conjugate gradients on the free variables, each followed by a
    projected line search (the gradient projection / conjugate gradient method of Moré and Toraldo 1991, "On
    the solution of large quadratic programming problems with bound constraints"). The problem is convex
    (`capped_mape` is not), so with a ridge the answer is unique. Sums are numpy's pairwise sums and
    compressed-row products: the same bits with any number of threads.

    Parameters
    ----------
    matrix
        (rows, columns), float64 or `Scaled`, in units of the starting weights.
    goal
        float64 (rows,).
    ridge
        Weight of the pull toward the center, 0 or more; scalar or (columns,).
    bounds
        lo <= hi, scalars or (columns,).
    max_steps
        Bound on steps; each reads the matrix and its transpose once.
    tolerance
        Converged when the norm of the projected gradient is down to this share of the first.
    patience
        Rounds without a better held-out error before stopping; the best round is returned.
    center
        Scalar or (columns,).
    start
        float64 (columns,), clipped to the bounds; None: 1.
    objective
        Loss of the same rows.
    held_out_error
        Of a ratio vector; None: run to convergence.
    observe
        Called after each round with (steps, ratio).
    worst
        Names, for an error, the row that residuals (rows,) say is furthest off.

    Raises
    ------
    RunError
        The loss or its gradient is infinite or NaN; names the step and what `worst` says.
    """
    lo, hi = bounds
    transpose = matrix.T

    def value_and_gradient(v: Float) -> tuple[float, Float, Float | None]:
        residual, change = matrix @ v - goal, v - center
        terms, slope, curvature = residual * residual, 2.0 * residual, None
        if objective is not None and not objective.plain:
            terms, slope = objective.terms_of(residual), objective.slope_of(residual)
            curvature = objective.curvature_of(residual)
        value = float(np.sum(terms) + np.sum(ridge * change * change))
        return value, transpose @ slope + 2.0 * ridge * change, curvature

    v = np.clip(np.ones(matrix.shape[1]) if start is None else start, lo, hi)
    value, gradient, curvature = value_and_gradient(v)
    best, best_error, waited = v, np.inf, 0
    if held_out_error is not None:
        best_error = held_out_error(v)
    first_norm, steps, rounds, ended = np.inf, 0, 0, "converged"
    while True:
        free = ~(((v <= lo) & (gradient > 0)) | ((v >= hi) & (gradient < 0)))
        norm = float(np.sqrt(np.sum(gradient[free] ** 2)))
        if not (np.isfinite(value) and np.isfinite(norm)):
            raise RunError(
                f"the refit diverged after {steps} steps: the loss is {value:g}, its gradient {norm:g} "
                f"({worst(matrix @ v - goal)} is furthest off)"
            )
        if rounds == 0:
            first_norm = norm
        if norm <= tolerance * first_norm:
            break
        if steps >= max_steps:
            ended = "step limit"
            break
        direction, used = _face_direction(
            matrix, transpose, gradient, free, ridge, curvature, max_steps - steps
        )
        steps += used
        found, used = _search(value_and_gradient, v, value, gradient, direction, bounds)
        steps += used
        if found is None:
            # Clipping can turn a Newton direction into one that climbs; the projected gradient never does.
            steepest = _cauchy_step(matrix, gradient, free, ridge, curvature)
            found, used = _search(value_and_gradient, v, value, gradient, steepest, bounds)
            steps += used + 1
        if found is None:
            ended = "no further decrease"
            break
        (v, value, gradient, curvature), rounds = found, rounds + 1
        observe(steps, v)
        if held_out_error is not None:
            error = held_out_error(v)
            if error < best_error:
                best, best_error, waited = v, error, 0
            else:
                waited += 1
                if waited >= patience:
                    ended = "held-out error stopped falling"
                    break
    return Refit(v if held_out_error is None else best, steps, rounds, ended)


def _search(
    value_and_gradient: Callable[[Float], tuple[float, Float, Float | None]],
    v: Float,
    value: float,
    gradient: Float,
    path: Float,
    bounds: tuple[Bound, Bound],
) -> tuple[tuple[Float, float, Float, Float | None] | None, int]:
    """Halve a projected step until the value falls enough; return the point (or None) and the tries."""
    length, tries = 1.0, 0
    while length >= SHORTEST_STEP:
        candidate = np.clip(v + length * path, *bounds)
        slope = float(np.sum(gradient * (candidate - v)))
        if slope < 0:
            at = value_and_gradient(candidate)
            tries += 1
            if at[0] <= value + ARMIJO * slope:
                return (candidate, *at), tries
        length /= 2
    return None, tries


def _cauchy_step(
    matrix: Matrix, gradient: Float, free: NDArray[np.bool_], ridge: Bound, weight: Float | None
) -> Float:
    """Return the step down the projected gradient that is exact where no further bound is met."""
    search = np.where(free, -gradient, 0.0)
    image = matrix @ search
    squared = float(np.sum(search * search))
    bent = image if weight is None else weight * image
    curvature = 2.0 * float(np.sum(image * bent) + np.sum(ridge * search * search))
    return search * (squared / curvature) if curvature > 0 else search


def _face_direction(
    matrix: Matrix,
    transpose: Matrix,
    gradient: Float,
    free: NDArray[np.bool_],
    ridge: Bound,
    weight: Float | None,
    max_steps: int,
) -> tuple[Float, int]:
    """Return an approximate Newton direction on the free variables, and the steps it took.

    `weight` of the squared residuals: the loss's curvature; None: 1.
    """
    direction = np.zeros_like(gradient)
    residual = np.where(free, -gradient, 0.0)
    search = residual.copy()
    squared = first = float(np.sum(residual * residual))
    steps = 0
    while steps < min(FACE_STEPS, max(max_steps, 1)):
        image = matrix @ search
        bent = image if weight is None else weight * image
        curvature = 2.0 * float(np.sum(image * bent) + np.sum(ridge * search * search))
        if curvature <= 0:
            break
        length = squared / curvature
        direction += length * search
        residual -= length * np.where(free, 2.0 * (transpose @ bent) + 2.0 * ridge * search, 0.0)
        steps += 1
        new = float(np.sum(residual * residual))
        if new <= FACE_TOLERANCE * first:
            break
        search = residual + (new / squared) * search
        squared = new
    return direction, steps
