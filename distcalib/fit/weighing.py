"""The final weights of the selected columns: bounds, refit, rounding to what the area files hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.fit.columns import Columns, Scaled, WithSum
from distcalib.fit.constraints import conserve_mass, within_share
from distcalib.fit.log import FitLog
from distcalib.fit.problem import FitProblem
from distcalib.fit.refit import Bound, Matrix, Refit, refit
from distcalib.fit.spec import FitSpec

Float = NDArray[np.float64]

#: Share of the loss, in shares of all targets, of a relative error in the sum of weights that is to be kept.
MASS_SHARE = 100.0


@dataclass(frozen=True)
class Weighed:
    """Final weights (n_columns,), the refit that gave them, and initial mass over the kept columns' mass."""

    weights: Float
    solution: Refit
    mass_scale: float


def weigh(problem: FitProblem, spec: FitSpec, support: NDArray[np.int64], log: FitLog) -> Weighed:
    """Weight the usable columns `support` (ascending numbers).

    Raises
    ------
    InputError
        The bounds of a column exclude each other, or no weights within theirs have the initial sum.
    """
    columns, rows = problem.columns[support], np.flatnonzero(problem.fitted)
    start = problem.initial[columns]
    total = float(np.sum(problem.initial))
    mass_scale = total / float(np.sum(start))
    start *= mass_scale
    kept = problem.usable.take(support)
    bounds = ratio_bounds(problem, spec, kept, start, mass_scale)

    def weights_of(ratio: Float) -> Float:
        weights = np.zeros(problem.X.shape[1])
        weights[columns] = ratio * start
        return weights

    rounds = 0

    def observe(steps: int, ratio: Float) -> None:
        nonlocal rounds
        log.write("refit", 1, steps, weights_of(ratio), len(columns), keep=not rounds & (rounds - 1))
        rounds += 1

    observe(0, np.clip(np.ones(len(columns)), *bounds))
    objective, matrix = problem.objective.take(rows), Scaled(kept, rows, problem.factor, start)
    operator: Matrix = matrix
    if spec.conserve_mass:
        objective = objective.with_target(total, total, MASS_SHARE * float(np.sum(objective.share)))
        operator = WithSum(matrix, objective.factor[-1] * start)
    solution = refit(
        operator,
        objective.goal,
        ridge=spec.ridge * float(np.sum(problem.share[rows])) / len(columns),
        bounds=bounds,
        max_steps=spec.refit_epochs,
        tolerance=spec.refit_tolerance,
        patience=spec.refit_patience,
        objective=objective,
        held_out_error=(lambda v: problem.held_out_error(weights_of(v))) if problem.held_out.any() else None,
        observe=observe,
    )
    low, high = (np.broadcast_to(bound * start, start.shape) for bound in bounds)
    final = np.clip(solution.ratio * start, low, high)
    if spec.conserve_mass:
        final = conserve_mass(final, total, lower=low, upper=high)
    weights = np.zeros(problem.X.shape[1])
    weights[columns] = round_within(final, low, high)
    log.end(weights, solution.steps)
    return Weighed(weights, solution, mass_scale)


def ratio_bounds(
    problem: FitProblem, spec: FitSpec, kept: Columns, start: Float, mass_scale: float
) -> tuple[Bound, Bound]:
    """Return the least and largest ratio to the mass-scaled initial weight: scalars, or one a kept column."""
    low, high = spec.lower_bound, spec.upper_bound
    if spec.weight_ratio is not None:
        high = min(high, spec.weight_ratio / mass_scale)
        if low > high:
            raise InputError(
                f"is below lower_bound ({low:g}) times the mass scale ({mass_scale:.3g}) of the kept columns",
                place="fit.weight_ratio",
                value=spec.weight_ratio,
                expected=f"at least {low * mass_scale:.3g}, or a smaller lower_bound",
            )
    if spec.share_cap is None:
        return low, high
    targets = np.where(problem.fitted, problem.targets, 0.0)
    capped = np.minimum(high, within_share(kept, targets, spec.share_cap) / start)
    wrong = int(np.count_nonzero(capped < low))
    if wrong:
        raise InputError(
            f"leaves {wrong:,} of {len(start):,} kept columns less than lower_bound ({low:g}) allows",
            place="fit.share_cap",
            value=spec.share_cap,
            expected=f"at least {spec.share_cap * low / float(capped.min()):.3g}, or a smaller lower_bound",
        )
    return low, capped


def round_within(weights: Float, low: Float, high: Float) -> Float:
    """Round to float32 values (what the area files hold) without leaving the bounds."""
    rounded = weights.astype(np.float32)
    rounded = np.where(rounded > high, np.nextafter(rounded, np.float32(0)), rounded)
    rounded = np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return rounded.astype(np.float64)
