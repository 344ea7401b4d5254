"""Weights for every column that meet all targets and stay closest to the design weights.

The estimators of Deville and Särndal (1992), "Calibration Estimators in Survey Sampling", JASA 87, with the
distance functions of R's ``survey::calibrate``: GREG (linear), truncated linear, raking, and logit with
bounds. Each is a convex programme whose dual has one variable a target; Newton solves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.special
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.constraints import (
    check_each_target,
    checked_limits,
    feasibility,
    infeasible,
    target_scale,
)

Float = NDArray[np.float64]
#: u -> (ratio, its derivative, the integral of ratio from 0 to u), each (n_columns,).
Distance = Callable[[Float], tuple[Float, Float, Float]]

#: A pivot of the scaled system below this (of 1) is a row that others imply.
RANK_TOLERANCE = 1e-11
#: Sufficient decrease of the dual (Armijo), and the shortest step.
ARMIJO, SHORTEST_STEP = 1e-4, 2.0**-40
#: Newton squares the error at each step: after convergence so many more leave rounding only.
POLISH = 2
#: Steps in which the worst miss must halve, else the solution may not exist.
PATIENCE = 30
#: Targets whose system (8 bytes a pair) still fits in memory: 2 GB.
LARGEST_SYSTEM = 16_000


@dataclass(frozen=True)
class DenseFit:
    """A calibration.

    Attributes
    ----------
    weights
        float64 (n_columns,): design weight times `ratio`.
    ratio
        float64 (n_columns,), within the bounds to the last bit; 1 where the design weight is 0.
    iterations
        Newton steps.
    converged
        Every target is met within the tolerance.
    multipliers
        Lagrange multiplier of each target, float64 (n_targets,): ``ratio = F(multipliers @ X)``. Zero for
        rows that others imply.
    worst_error
        Largest ``|X w - t| / |t|`` (for a target of zero over the sum of ``|x|`` times the design weights).
    """

    weights: Float
    ratio: Float
    iterations: int
    converged: bool
    multipliers: Float
    worst_error: float


def calibrate_dense(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    design_weights: ArrayLike,
    *,
    method: str,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    tolerance: float = 1e-8,
    max_iter: int = 200,
    names: Sequence[str] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> DenseFit:
    """Calibrate design weights so that ``X @ weights`` equals the targets.

    Minimises the sum over columns of d G(w / d) subject to X w = t, where G is the distance whose inverse
    derivative is F: ``greg`` F(u) = 1 + u (weights may become negative), ``truncated_linear`` the same,
    clipped to the bounds, ``raking`` exp(u), clipped if bounds are given, and ``logit`` an S-shaped curve
    between the bounds.

    Feasibility is looked at first where that is cheap: each target by itself, and at each Newton step whether
    the multipliers prove (Farkas) that no weights within the bounds meet all targets. A solution proves the
    contrary; where Newton finds none, a linear programme decides and names the rows.

    Parameters
    ----------
    X
        scipy sparse, (n_targets, n_columns), finite.
    targets
        (n_targets,), finite; zero and negative ones are allowed.
    design_weights
        (n_columns,), >= 0; a column of weight 0 stays 0.
    method
        One of `METHODS`.
    bounds
        Least and largest ratio of weight to design weight, scalars or (n_columns,). Needed by
        ``truncated_linear`` and ``logit`` (there lower < 1 < upper), optional for ``raking``.
    tolerance
        Largest relative miss; see `DenseFit.worst_error`.
    max_iter
        Most Newton steps.
    names
        Names of the targets for errors.
    progress
        Called before each Newton step with stage (``newton``), epoch (steps so far) and loss (the sum of
        squared relative misses); has no influence on the result.

    Returns
    -------
    DenseFit

    Raises
    ------
    InputError
        Wrong shapes or values, an unknown method, or targets that no weights within the bounds can meet.
    RunError
        No solution within `max_iter` steps though the targets can be met; with ``logit`` and ``raking`` that
        means that they can be met only with some weights at a bound, which those reach in the limit.

    Notes
    -----
    Bytes do not depend on the number of BLAS threads beyond 1e-12: products with X are scipy's serial ones,
    and the last Newton steps remove what the factorisation left.
    """
    matrix, t, design = _checked(X, targets, design_weights)
    low, high = _ratio_limits(method, bounds, matrix.shape[1])
    used = design > 0
    matrix, low, high = matrix[:, used], low[used], high[used]
    mass = sp.csr_array(matrix @ sp.diags_array(design[used]))
    check_each_target(mass, t, (low, high), names=names)

    scale = target_scale(mass, t, np.ones(mass.shape[1]))
    dual = _Dual(
        rows=sp.csr_array(sp.diags_array(1 / scale) @ mass),
        cells=sp.csr_array((sp.diags_array(1 / scale) @ matrix).T),
        goal=t / scale,
        design=design[used],
        limits=(low, high),
        distance=METHODS[method](low, high),
    )
    point, steps = _newton(dual, tolerance, max_iter, progress)
    if not point.worst <= tolerance:
        verdict = feasibility(mass, t, (low, high))
        if not verdict.feasible:
            raise infeasible(verdict, names)
        raise RunError(
            f"{method} has not met the targets after {steps} Newton steps (worst relative error "
            f"{point.worst:.3g}), though weights within the bounds exist: wider bounds or more steps may help"
        )
    ratio = np.ones(len(design))
    ratio[used] = point.ratio
    return DenseFit(design * ratio, ratio, steps, True, point.multipliers / scale, point.worst)


@dataclass(frozen=True)
class _Point:
    """The dual at some multipliers: value and gradient (the misses), and the ratios that they stand for."""

    multipliers: Float
    argument: Float
    ratio: Float
    slope: Float
    value: float
    miss: Float

    @property
    def worst(self) -> float:
        return float(np.max(np.abs(self.miss), initial=0.0))


@dataclass(frozen=True)
class _Dual:
    """To be minimised: sum of d P(u) - multipliers . goal, u = cells @ multipliers, P the integral of F."""

    rows: sp.csr_array
    cells: sp.csr_array
    goal: Float
    design: Float
    limits: tuple[Float, Float]
    distance: Distance

    def at(self, multipliers: Float) -> _Point:
        with np.errstate(over="ignore", invalid="ignore"):
            argument = self.cells @ multipliers
            ratio, slope, integral = self.distance(argument)
            value = float(np.sum(self.design * integral) - np.sum(multipliers * self.goal))
            miss = self.rows @ ratio - self.goal
        return _Point(multipliers, argument, ratio, slope, value, miss)

    def direction(self, point: _Point) -> Float:
        """Return the Newton direction; columns at a bound count a little, less as the misses shrink."""
        curvature = np.maximum(point.slope, min(1e-3, point.worst))
        hessian = (self.rows @ sp.diags_array(curvature) @ self.cells).toarray()
        return _solve(hessian, -point.miss)

    def refutes(self, point: _Point) -> bool:
        """Say whether the multipliers prove that no ratios within the limits meet the goal (Farkas)."""
        low, high = self.limits
        extreme = np.where(point.argument > 0, high, low)
        with np.errstate(invalid="ignore"):
            most = np.where(point.argument == 0, 0.0, self.design * extreme * point.argument)
        wanted = float(np.sum(point.multipliers * self.goal))
        size = float(np.sum(np.abs(point.multipliers * self.goal)))
        return bool(float(np.sum(most)) < wanted - 1e-9 * size)


def _newton(
    dual: _Dual, tolerance: float, max_iter: int, progress: Callable[[dict[str, Any]], None] | None
) -> tuple[_Point, int]:
    """Minimise the dual from multipliers of 0; stop when met, refuted, stalled, or out of steps."""
    point = dual.at(np.zeros(len(dual.goal)))
    polish, best, waited = 0, np.inf, 0
    for step in range(max_iter):
        if progress is not None:
            progress({"stage": "newton", "epoch": step, "loss": float(np.sum(point.miss**2))})
        met = point.worst <= tolerance
        if met and (polish == POLISH or point.worst == 0.0):
            return point, step
        polish += met
        waited = 0 if point.worst < 0.5 * best else waited + 1
        best = min(best, point.worst)
        if not met and (waited > PATIENCE or dual.refutes(point)):
            return point, step
        found = _search(dual, point, dual.direction(point))
        if found is None:
            return point, step
        point = found
    return point, max_iter


def _search(dual: _Dual, point: _Point, direction: Float) -> _Point | None:
    """Halve the step until the dual falls enough or, where its change drowns in rounding, the misses do."""
    slope = float(np.sum(point.miss * direction))
    length = 1.0
    while length >= SHORTEST_STEP:
        found = dual.at(point.multipliers + length * direction)
        if np.isfinite(found.value) and np.isfinite(found.miss).all():
            falls = slope < 0 and found.value <= point.value + ARMIJO * length * slope
            if found.worst < 0.5 * point.worst or (falls and found.value < point.value):
                return found
        length /= 2
    return None


def _solve(hessian: Float, right: Float) -> Float:
    """Solve a positive semidefinite system on as many of its rows as are independent; the others get 0.

    Cholesky with complete pivoting (LAPACK ``pstrf``) of the system scaled to a diagonal of 1.
    """
    size = np.sqrt(np.diag(hessian))
    unit = np.where(size > 0, size, 1.0)
    tolerance = max(RANK_TOLERANCE, 10 * len(right) * np.finfo(float).eps)
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(hessian / unit[:, None] / unit, tol=tolerance)
    kept = pivots[:rank] - 1
    upper = factor[:rank, :rank]
    half = scipy.linalg.solve_triangular(upper, (right / unit)[kept], trans="T")
    out = np.zeros(len(right))
    out[kept] = scipy.linalg.solve_triangular(upper, half)
    return out / unit


def _linear(low: Float, high: Float) -> Distance:
    ends = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)

    def at(u: Float) -> tuple[Float, Float, Float]:
        wanted = 1.0 + u
        ratio = np.clip(wanted, low, high)
        beyond = ends[0] * np.minimum(wanted - low, 0.0) + ends[1] * np.maximum(wanted - high, 0.0)
        return ratio, ((wanted > low) & (wanted < high)).astype(np.float64), 0.5 * ratio**2 + beyond

    return at


def _raking(low: Float, high: Float) -> Distance:
    with np.errstate(divide="ignore"):
        first, last = np.log(low), np.log(high)
    end = np.where(np.isfinite(high), high, 0.0)

    def at(u: Float) -> tuple[Float, Float, Float]:
        ratio = np.clip(np.exp(u), low, high)
        beyond = low * np.minimum(u - first, 0.0) + end * np.maximum(u - last, 0.0)
        return ratio, np.where((u > first) & (u < last), ratio, 0.0), ratio + beyond

    return at


def _logit(low: Float, high: Float) -> Distance:
    width = high - low
    steep = width / ((1.0 - low) * (high - 1.0))
    shift = np.log((1.0 - low) / (high - 1.0))

    def at(u: Float) -> tuple[Float, Float, Float]:
        place = steep * u + shift
        share = scipy.special.expit(place)
        # expit(-x) is 1 - expit(x) without cancellation
        slope = steep * width * share * scipy.special.expit(-place)
        integral = low * u + width / steep * (np.logaddexp(0.0, place) - np.logaddexp(0.0, shift))
        return np.clip(low + width * share, low, high), slope, integral

    return at


#: Distance functions by name; ``greg`` is R's ``linear`` without bounds.
METHODS: dict[str, Callable[[Float, Float], Distance]] = {
    "greg": _linear,
    "truncated_linear": _linear,
    "raking": _raking,
    "logit": _logit,
}


def _ratio_limits(
    method: str, bounds: tuple[ArrayLike, ArrayLike] | None, n_columns: int
) -> tuple[Float, Float]:
    """Return the limits of the ratio, (n_columns,) each, or say what is wrong with method or bounds."""
    if method not in METHODS:
        raise InputError(
            "unknown calibration method",
            place="method",
            value=method,
            expected="one of " + ", ".join(METHODS),
            choices=METHODS,
        )
    if method == "greg" and bounds is not None:
        raise InputError("greg has no bounds", place="bounds", value=bounds, expected="truncated_linear")
    if bounds is None:
        if method in ("truncated_linear", "logit"):
            raise InputError(f"{method} needs bounds of the ratio", place="bounds", expected="(lower, upper)")
        bounds = (-np.inf, np.inf) if method == "greg" else (0.0, np.inf)
    low, high = checked_limits(bounds, n_columns, "bounds")
    if method != "greg" and (low < 0).any():
        raise InputError("negative lower bound", place="bounds", value=float(low.min()), expected="0 or more")
    if method == "logit" and not (((low < 1) & (high > 1) & np.isfinite(high)).all()):
        j = int(np.flatnonzero(~((low < 1) & (high > 1) & np.isfinite(high)))[0])
        raise InputError(
            "logit needs finite bounds around 1",
            place="bounds",
            value=(float(low[j]), float(high[j])),
            expected="lower < 1 < upper",
        )
    return low, high


def _checked(
    X: sp.spmatrix | sp.sparray, targets: ArrayLike, design_weights: ArrayLike
) -> tuple[sp.csr_array, Float, Float]:
    if not sp.issparse(X):
        raise InputError(
            "not a scipy sparse matrix", place="X", value=type(X).__name__, expected="csr_array(X)"
        )
    matrix = sp.csr_array(X, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    t = np.asarray(targets, dtype=np.float64)
    design = np.asarray(design_weights, dtype=np.float64)
    for place, vector, n in (("targets", t, matrix.shape[0]), ("design_weights", design, matrix.shape[1])):
        if vector.shape != (n,):
            raise InputError("wrong shape", place=place, value=vector.shape, expected=f"({n},)")
    for place, vector in (("X", matrix.data), ("targets", t), ("design_weights", design)):
        if not np.isfinite(vector).all():
            raise InputError("NaN or infinite", place=place, expected="finite numbers")
    if (design < 0).any() or not design.any():
        raise InputError("must be 0 or more, and not all 0", place="design_weights")
    if matrix.shape[0] > LARGEST_SYSTEM:
        raise InputError(
            f"the dense solvers take up to {LARGEST_SYSTEM:,} targets", place="X", value=matrix.shape
        )
    return matrix, t, design
