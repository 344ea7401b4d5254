"""`fit_weights`: select records with L0 gates, refit their weights, report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError
from distcalib.fit.checkpoint import Checkpoint, identity
from distcalib.fit.columns import Scaled
from distcalib.fit.diagnostics import effective_sample_size, relative_error, shares_within
from distcalib.fit.engines import ENGINES, GateFit, resolve_engine
from distcalib.fit.problem import FitProblem, build_problem, column_vector, first_names
from distcalib.fit.refit import Refit, refit
from distcalib.fit.spec import FitSpec

Float = NDArray[np.float64]
Progress = Callable[[dict[str, Any]], None]
LOG_COLUMNS = (
    "stage",
    "attempt",
    "epoch",
    "loss",
    "penalty",
    "lambda_l0",
    "active",
    "median_abs_rel_error",
    "mean_abs_rel_error",
    "within_5",
    "held_out_error",
)


@dataclass(frozen=True)
class FitResult:
    """What a fit returns.

    Attributes
    ----------
    weights
        float64 (n_columns,), >= 0, each equal to its float32 rounding.
    summary
        JSON-able; everything but ``summary["timing"]`` is a function of the inputs.
    log
        One row a logged epoch: stage (``gates``, ``refit``), epoch (steps, in the refit), loss (with
        deterministic gates), penalty (expected open gates), lambda_l0, active, error measures over fitted
        targets, held_out_error.
    spec
        The settings, engine resolved.
    """

    weights: Float
    summary: dict[str, Any]
    log: pd.DataFrame
    spec: FitSpec


def fit_weights(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    initial_weights: ArrayLike | None = None,
    records: int | None = None,
    lambda_l0: float | None = None,
    epochs: int | None = None,
    engine: str = "auto",
    seed: int = 0,
    holdout: float | ArrayLike | None = None,
    donors: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    log_every: int = 50,
    checkpoints: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    threads: int | None = None,
    **settings: Any,
) -> FitResult:
    """Find sparse non-negative weights w with X.w close to the targets.

    Parameters
    ----------
    X
        scipy sparse, (n_targets, n_columns), finite; float32 CSR is what runs store. It is read once, into 6
        to 8 bytes a cell (12 where float32 does not hold the values); sums are float64.
    targets
        (n_targets,), finite; zero and negative ones are allowed.
    groups
        Group of each target, (n_targets,): every group has the same share of the loss. None: every target
        has.
    initial_weights
        Design weights, (n_columns,), >= 0; the fit starts from and is bounded by them, and a column of weight
        0 stays 0. None: one weight for all, the median over targets of target / row sum.
    records
        Keep exactly this many columns. None: those whose gate is open after training.
    lambda_l0, epochs, engine, seed
        See `FitSpec`; other settings of it may follow by name.
    holdout
        Fraction of targets, or boolean mask (n_targets,): left out of the loss, and the refit stops where
        their error is least.
    donors
        Donor id of each column, (n_columns,), for the effective sample size by donor.
    target_weights
        (n_targets,), >= 0, for example 1 / tolerance^2: divides the share of a group (or of all) among its
        targets.
    names
        Names of the targets for the summary, (n_targets,).
    progress
        Called with a log row (a dict) whenever one is written.
    log_every
        Epochs between log rows; has no influence on the result.
    checkpoints
        Folder for the state of the gates. A fit that finds its own state there goes on from it, to the same
        bits; when the fit is done, the file is removed. Engine ``l0`` keeps none.
    checkpoint_seconds
        Least time between two checkpoints (0: every epoch).
    threads
        Of the CPU; None: all that this process may use. Has no influence on the result.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError
        Wrong shapes, NaN or infinite values, unknown settings or engines, no reachable target, or a penalty
        that closes every gate; a checkpoint of another fit.
    RunError
        The loss became infinite or NaN.
    """
    if epochs is not None:
        settings["epochs"] = epochs
    spec = FitSpec.of(engine=engine, seed=seed, records=records, lambda_l0=lambda_l0, **settings)
    return fit_with_spec(
        X,
        targets,
        spec,
        groups=groups,
        initial_weights=initial_weights,
        holdout=holdout,
        donors=donors,
        target_weights=target_weights,
        names=names,
        progress=progress,
        log_every=log_every,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        threads=threads,
    )


def fit_with_spec(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    spec: FitSpec,
    *,
    groups: ArrayLike | None = None,
    initial_weights: ArrayLike | None = None,
    holdout: float | ArrayLike | None = None,
    donors: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    log_every: int = 50,
    checkpoints: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    threads: int | None = None,
) -> FitResult:
    """Fit with stored settings, as a run does; the other arguments are those of `fit_weights`."""
    began = time.perf_counter()
    spec = FitSpec(**{**spec.as_dict(), "engine": resolve_engine(spec.engine)})
    if log_every < 1:
        raise InputError("out of range", place="log_every", value=log_every, expected="1 or more")
    problem = build_problem(
        X,
        targets,
        spec,
        groups=groups,
        initial_weights=initial_weights,
        holdout=holdout,
        target_weights=target_weights,
        threads=threads,
    )
    n_targets, n_columns = problem.X.shape
    if names is not None and len(names) != n_targets:
        raise InputError("wrong length", place="names", value=len(names), expected=str(n_targets))
    if donors is not None:
        donors = column_vector(donors, n_columns, "donors")
    log = _Log(problem, progress)
    saved = None
    if checkpoints is not None:
        belongs = identity(problem.digest(), spec.as_dict())
        saved = Checkpoint(checkpoints, belongs, log.rows, checkpoint_seconds)
    prepared = time.perf_counter()

    gates = _train_gates(problem, spec, log, log_every, saved)
    support = _support(gates, problem, spec)
    reached: dict[str, Any] = {"epochs": 0, "lambda_l0": None, "gates_open": None}
    if gates is not None:
        n_open = int(np.count_nonzero(gates.gate(spec)))
        reached = {"epochs": gates.epoch, "lambda_l0": gates.lambda_l0, "gates_open": n_open}
    del gates  # the refit needs the room of its arrays
    trained = time.perf_counter()

    columns = problem.columns[support]
    start = problem.initial[columns]
    mass_scale = float(np.sum(problem.initial) / np.sum(start))
    start *= mass_scale
    solution = _refit_support(problem, spec, support, start, log)
    weights = np.zeros(n_columns)
    bounds = spec.lower_bound * start, spec.upper_bound * start
    weights[columns] = _round_within(solution.ratio * start, *bounds)
    finished = time.perf_counter()

    summary = _summary(problem, spec, reached, solution, weights, mass_scale, donors, names)
    summary["timing"] = {
        "prepare_seconds": round(prepared - began, 3),
        "gate_seconds": round(trained - prepared, 3),
        "refit_seconds": round(finished - trained, 3),
        "total_seconds": round(time.perf_counter() - began, 3),
    }
    if saved is not None:
        saved.remove()
    return FitResult(weights, summary, pd.DataFrame(log.rows, columns=list(LOG_COLUMNS)), spec)


class _Log:
    """Rows of the log; it reads weights and never touches the fit."""

    def __init__(self, problem: FitProblem, progress: Progress | None) -> None:
        self.problem, self.progress = problem, progress
        self.rows: list[dict[str, Any]] = []

    def write(
        self, stage: str, attempt: int, epoch: int, weights: Float, penalty: float, lambda_l0: float
    ) -> None:
        p = self.problem
        estimate = p.X.estimate(weights)
        error = np.abs((estimate - p.targets) / p.scale)
        fitted = shares_within(error[p.fitted])
        row = {
            "stage": stage,
            "attempt": attempt,
            "epoch": epoch,
            "loss": p.loss_of(estimate),
            "penalty": penalty,
            "lambda_l0": lambda_l0,
            "active": int(np.count_nonzero(weights)),
            "median_abs_rel_error": fitted["median_abs_rel_error"],
            "mean_abs_rel_error": fitted["mean_abs_rel_error"],
            "within_5": fitted["within_5"],
            "held_out_error": p.held_out_error_of(estimate) if p.held_out.any() else float("nan"),
        }
        self.rows.append(row)
        if self.progress is not None:
            self.progress(dict(row))


def _train_gates(
    problem: FitProblem, spec: FitSpec, log: _Log, log_every: int, saved: Checkpoint | None
) -> GateFit | None:
    """Run the gate stage; None where there is nothing to select (no epochs, or a budget of every column)."""
    n = problem.usable.shape[1]
    if spec.epochs == 0 or spec.records == n:
        if spec.epochs == 0 and spec.records not in (None, n):
            raise InputError("a record budget needs epochs to select in", place="fit.epochs", value=0)
        return None

    def observe(state: GateFit) -> None:
        weights = np.zeros(problem.X.shape[1])
        weights[problem.initial > 0] = state.relative_weight(spec)
        weights *= problem.initial
        log.write("gates", state.attempt, state.epoch, weights, state.expected_open, state.lambda_l0)

    return ENGINES[spec.engine](problem, spec, observe, log_every, saved)


def _support(gates: GateFit | None, problem: FitProblem, spec: FitSpec) -> NDArray[np.int64]:
    """Return which usable columns are kept, ascending: the `records` most probable, or the open gates."""
    if gates is None:
        return np.arange(problem.usable.shape[1])
    if spec.records is not None:
        # The keep probability rises with log alpha, which does not saturate; ties go to the lower column.
        return np.sort(np.argsort(-gates.log_alpha, kind="stable")[: spec.records])
    support = np.flatnonzero(gates.gate(spec) > 0)
    if not len(support):
        raise InputError(
            f"the penalty closed all {len(gates.log_alpha):,} gates at epoch {gates.closed_since}",
            place="fit.lambda_l0",
            value=gates.lambda_l0,
            expected="a smaller lambda_l0, or a number of records",
        )
    return support


def _refit_support(
    problem: FitProblem, spec: FitSpec, support: NDArray[np.int64], start: Float, log: _Log
) -> Refit:
    columns, rows = problem.columns[support], np.flatnonzero(problem.fitted)

    def weights_of(ratio: Float) -> Float:
        weights = np.zeros(problem.X.shape[1])
        weights[columns] = ratio * start
        return weights

    def observe(steps: int, ratio: Float) -> None:
        log.write("refit", 1, steps, weights_of(ratio), float(len(columns)), 0.0)

    observe(0, np.ones(len(columns)))
    return refit(
        Scaled(problem.usable.take(support), rows, problem.factor, start),
        problem.goal[rows],
        ridge=spec.ridge * float(np.sum(problem.share[rows])) / len(columns),
        bounds=(spec.lower_bound, spec.upper_bound),
        max_steps=spec.refit_epochs,
        tolerance=spec.refit_tolerance,
        patience=spec.refit_patience,
        held_out_error=(lambda v: problem.held_out_error(weights_of(v))) if problem.held_out.any() else None,
        observe=observe,
    )


def _round_within(weights: Float, low: Float, high: Float) -> Float:
    """Round to float32 values (what the area files hold) without leaving the bounds."""
    rounded = weights.astype(np.float32)
    rounded = np.where(rounded > high, np.nextafter(rounded, np.float32(0)), rounded)
    rounded = np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return rounded.astype(np.float64)


def _summary(
    problem: FitProblem,
    spec: FitSpec,
    reached: dict[str, Any],
    solution: Refit,
    weights: Float,
    mass_scale: float,
    donors: ArrayLike | None,
    names: Sequence[str] | None,
) -> dict[str, Any]:
    p, kept = problem, weights > 0
    error, before = (
        np.abs(relative_error(p.X.estimate(w), p.targets, p.X.estimate(w, absolute=True)))
        for w in (weights, p.initial)
    )
    lost = np.flatnonzero(p.fitted & (p.X.estimate(kept.astype(np.float64), absolute=True) == 0))
    ratio = weights[kept] / (mass_scale * p.initial[kept])
    groups = []
    if p.group_codes is not None:
        for code, name in enumerate(p.group_names):
            rows = p.fitted & (p.group_codes == code)
            groups.append({"group": name, "targets": int(rows.sum()), **shares_within(error[rows])})
    return {
        "targets": len(p.targets),
        "targets_fitted": int(p.fitted.sum()),
        "targets_held_out": int(p.held_out.sum()),
        "targets_excluded": [
            {"row": row, "name": first_names([row], names)[0], "reason": reason}
            for row, reason in p.excluded.items()
        ],
        "targets_lost_by_selection": first_names(lost, names),
        "columns": len(weights),
        "records_kept": int(kept.sum()),
        "donors_kept": None if donors is None else len(pd.unique(np.asarray(donors)[kept])),
        "loss_before": p.loss(p.initial),
        "loss_after": p.loss(weights),
        "before": shares_within(before[p.fitted]),
        "fitted": shares_within(error[p.fitted]),
        "held_out": shares_within(error[p.held_out]),
        "held_out_error_before": p.held_out_error(p.initial) if p.held_out.any() else None,
        "held_out_error": p.held_out_error(weights) if p.held_out.any() else None,
        "groups": groups,
        "sum_of_weights_before": float(np.sum(p.initial)),
        "sum_of_weights": float(np.sum(weights)),
        "effective_sample_size": effective_sample_size(weights),
        "effective_sample_size_before": effective_sample_size(p.initial),
        "effective_sample_size_by_donor": None if donors is None else effective_sample_size(weights, donors),
        "mass_scale": mass_scale,
        "largest_ratio": float(ratio.max()),
        "smallest_ratio": float(ratio.min()),
        "engine": spec.engine,
        "seed": spec.seed,
        **reached,
        "refit_steps": solution.steps,
        "refit_ended": solution.ended,
        "settings": spec.as_dict(),
        "weights_sha256": hashlib.sha256(weights.astype("<f8").tobytes()).hexdigest(),
    }
