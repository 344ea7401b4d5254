"""The final weights of the selected columns: bounds, refit, rounding to what the area files hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError, warn
from distcalib.fit.columns import Columns, Scaled, WithSum
from distcalib.fit.constraints import conserve_mass, within_share
from distcalib.fit.log import FitLog
from distcalib.fit.loss import furthest
from distcalib.fit.problem import FitProblem
from distcalib.fit.refit import Bound, Matrix, Refit, refit
from distcalib.fit.spec import FitSpec

Float = NDArray[np.float64]

#: Rounds that even out areas, steps of the refit in each, what the first pulls with, and how far above the
#: asked share of effective records the rounds aim.
EVEN_ROUNDS, EVEN_STEPS, FIRST_PULL, EVEN_MARGIN = 15, 500, 1e-3, 1e-3
#: Share of the loss, in shares of all targets, of a relative error in the sum of weights that is to be kept.
MASS_SHARE = 100.0


@dataclass(frozen=True)
class Weighed:
    """What the weighing gave.

    Attributes
    ----------
    weights
        float64 (n_columns,).
    solution
        Of the refit.
    mass_scale
        Initial mass over the kept columns' mass.
    uneven
        Areas whose effective share stayed below the one that was asked for.
    limits
        Least and largest weight that each column could have had, float64 (n_columns,) each; 0 where not kept.
    """

    weights: Float
    solution: Refit
    mass_scale: float
    uneven: list[object]
    limits: tuple[Float, Float]


def weigh(
    problem: FitProblem,
    spec: FitSpec,
    support: NDArray[np.int64],
    log: FitLog,
    areas: NDArray[Any] | None = None,
) -> Weighed:
    """Weight the usable columns `support` (ascending numbers); `areas`: that of each column, (n_columns,).

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
    low, high = (np.broadcast_to(bound * start, start.shape) for bound in bounds)
    if spec.conserve_mass:
        check_mass(total, low, high, spec)

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
    base = spec.ridge * float(np.sum(problem.share[rows])) / len(columns)

    def judged(ratio: Float) -> float:
        return problem.held_out_error(weights_of(ratio))

    def worst(residual: Float) -> str:
        if furthest(residual) == len(rows):
            return "the sum of weights"
        of_all = np.zeros(len(problem.targets))
        of_all[rows] = residual[: len(rows)]
        return problem.worst(of_all)

    done = 0

    def solve(ridge: Bound, center: Bound, ratio: Float | None, most: int) -> Refit:
        nonlocal done
        # Early stopping belongs to the first solve: a round that evens out areas is not to be thrown away.
        early = ratio is None and problem.held_out.any()
        found = refit(
            operator,
            objective.goal,
            ridge=ridge,
            center=center,
            start=ratio,
            bounds=bounds,
            max_steps=most,
            tolerance=spec.refit_tolerance,
            patience=spec.refit_patience,
            objective=objective,
            held_out_error=judged if early else None,
            observe=lambda steps, v: observe(done + steps, v),
            worst=worst,
        )
        done += found.steps
        return found

    solution, uneven = solve(base, 1.0, None, spec.refit_epochs), list[object]()
    if spec.effective_share is not None and areas is not None:
        unit = float(np.sum(problem.share[rows])) / len(columns)
        solution, uneven = _evened(solution, solve, areas[columns], start, base, unit, spec)
    final = np.clip(solution.ratio * start, low, high)
    if spec.conserve_mass:
        final = conserve_mass(final, total, lower=low, upper=high)
    weights, least, most = np.zeros((3, problem.X.shape[1]))
    weights[columns], least[columns], most[columns] = round_within(final, low, high), low, high
    log.end(weights, solution.steps)
    return Weighed(weights, solution, mass_scale, uneven, (least, most))


def _evened(
    solution: Refit,
    solve: Callable[[Bound, Bound, Float | None, int], Refit],
    areas: NDArray[Any],
    start: Float,
    base: float,
    unit: float,
    spec: FitSpec,
) -> tuple[Refit, list[object]]:
    """Raise the effective sample size of areas below `effective_share` of their records.

    A term pull * unit * (w / mean - 1)^2 a column, mean that of the area's weights in the last round: its sum
    over an area is what the effective share lacks. Each round adjusts the pulls by how far the shares are.
    """
    floor = float(spec.effective_share or 0.0)
    codes, names = pd.factorize(areas, sort=True)
    size = np.bincount(codes)
    pull, ratio, steps, rounds = np.zeros(len(size)), solution.ratio, solution.steps, solution.rounds
    ended = solution.ended
    for turn in range(EVEN_ROUNDS + 1):
        weight = ratio * start
        total, squares = np.bincount(codes, weights=weight), np.bincount(codes, weights=weight * weight)
        # An area without weight lacks nothing.
        share = np.divide(total * total, squares * size, out=np.ones(len(size)), where=squares > 0)
        below = share < floor + EVEN_MARGIN
        if not below.any() or turn == EVEN_ROUNDS:
            break
        gap = (1 / share - 1) / (1 / (floor + 5 * EVEN_MARGIN) - 1)
        pull *= np.clip(gap, 1 / 1.2, 4.0) ** 4
        pull[below & (pull == 0)] = FIRST_PULL
        even = np.where(total > 0, total / size, 1.0)[codes] / start
        toward = pull[codes] * unit / (even * even)
        ridge = base + toward
        center = np.divide(base + toward * even, ridge, out=np.ones_like(ridge), where=ridge > 0)
        found = solve(ridge, center, ratio, min(spec.refit_epochs, EVEN_STEPS))
        ratio, steps, rounds = found.ratio, steps + found.steps, rounds + found.rounds
        ended = found.ended
    uneven = names[share < floor].tolist()
    if uneven:
        warn(
            f"{len(uneven)} areas keep an effective sample size below {floor:.0%} of their records, for "
            f"example {uneven[0]} ({share[share < floor][0]:.1%})"
        )
    return Refit(ratio, steps, rounds, ended), uneven


def ratio_bounds(
    problem: FitProblem, spec: FitSpec, kept: Columns, start: Float, mass_scale: float
) -> tuple[Bound, Bound]:
    """Return the least and largest ratio to the mass-scaled initial weight: scalars, or one a kept column."""
    low, high = spec.lower_bound, spec.upper_bound
    if spec.weight_ratio is not None:
        high = min(high, spec.weight_ratio / mass_scale)
        if high < 1 - 1e-12:  # not for the last bit of a sum
            raise InputError(
                f"is too small: the kept columns weigh {mass_scale:.3g} times as much as at first where they "
                "stand for all",
                place="fit.weight_ratio",
                value=spec.weight_ratio,
                expected=f"more than {mass_scale:.3g}, or more records",
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


def check_mass(total: float, low: Float, high: Float, spec: FitSpec) -> None:
    """Raise an `InputError` if weights within (n,) limits cannot sum to what `conserve_mass` keeps."""
    least, most = math.fsum(low), math.fsum(high)
    if least <= total <= most:
        return
    raise InputError(
        f"lets the {len(high):,} columns weigh {least:,.6g} to {most:,.6g} in all, and conserve_mass keeps "
        f"their {total:,.6g}",
        place="fit.weight_ratio" if spec.share_cap is None else "fit.share_cap",
        value=spec.weight_ratio if spec.share_cap is None else spec.share_cap,
        expected="a larger one, more records, or conserve_mass false",
    )


def check_mass_of_all(problem: FitProblem, spec: FitSpec) -> None:
    """Do what `check_mass` does before any column is chosen: some cannot weigh more than all can."""
    if spec.conserve_mass and spec.share_cap is not None:
        targets = np.where(problem.fitted, problem.targets, 0.0)
        most = within_share(problem.usable, targets, spec.share_cap)
        check_mass(float(np.sum(problem.initial)), np.zeros(len(most)), most, spec)


def round_within(weights: Float, low: Float, high: Float) -> Float:
    """Round to float32 values (what the area files hold) without leaving the bounds."""
    rounded = weights.astype(np.float32)
    rounded = np.where(rounded > high, np.nextafter(rounded, np.float32(0)), rounded)
    rounded = np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return rounded.astype(np.float64)
