"""Choosing the columns that keep a weight, by either selector."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.fit.checkpoint import Checkpoint
from distcalib.fit.engines import ENGINES, GateFit
from distcalib.fit.log import FitLog
from distcalib.fit.problem import FitProblem
from distcalib.fit.spec import FitSpec

Float = NDArray[np.float64]


def select(
    problem: FitProblem, spec: FitSpec, log: FitLog, log_every: int, saved: Checkpoint | None
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Choose among the usable columns.

    Returns
    -------
    tuple
        Numbers of the kept usable columns, ascending, and what the selector reached: epochs, lambda_l0,
        gates_open.
    """
    reached: dict[str, Any] = {"epochs": 0, "lambda_l0": None, "gates_open": None}
    n = problem.usable.shape[1]
    if spec.epochs == 0 or spec.records == n:
        if spec.epochs == 0 and spec.records not in (None, n):
            raise InputError("a record budget needs epochs to select in", place="fit.epochs", value=0)
        return np.arange(n), reached
    if spec.selector == "reweighted":
        return _reweighted(problem, spec, log, log_every, saved, reached)
    gates = ENGINES[spec.engine](problem, spec, _observer(problem, spec, log), log_every, saved)
    n_open = int(np.count_nonzero(gates.gate(spec)))
    reached = {"epochs": gates.epoch, "lambda_l0": gates.lambda_l0, "gates_open": n_open}
    return _support(problem, gates, spec), reached


def _observer(problem: FitProblem, spec: FitSpec, log: FitLog) -> Any:
    def observe(state: GateFit) -> None:
        weights = np.zeros(problem.X.shape[1])
        weights[problem.initial > 0] = state.relative_weight(spec)
        weights *= problem.initial
        log.write("gates", state.attempt, state.epoch, weights, state.expected_open, state.lambda_l0)

    return observe


def _support(problem: FitProblem, gates: GateFit, spec: FitSpec) -> NDArray[np.int64]:
    """Return which usable columns are kept: the `records` most probable, or the open gates."""
    if spec.records is not None:
        # The keep probability rises with log alpha, which does not saturate; ties go to the lower column.
        return np.sort(np.argsort(-gates.log_alpha, kind="stable")[: spec.records])
    support = np.flatnonzero(gates.gate(spec) > 0)
    if not len(support):
        raise InputError(
            f"the penalty closed all {len(gates.log_alpha):,} gates at epoch {gates.closed_since} (without "
            f"any record {problem.worst(problem.goal)} is furthest off)",
            place="fit.lambda_l0",
            value=gates.lambda_l0,
            expected="a smaller lambda_l0, or a number of records",
        )
    return support


def _reweighted(
    problem: FitProblem,
    spec: FitSpec,
    log: FitLog,
    log_every: int,
    saved: Checkpoint | None,
    reached: dict[str, Any],
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Choose with a reweighted L1 penalty."""
    from distcalib.fit.reweighted import select_reweighted

    if spec.records is None:
        raise InputError(
            "the reweighted selector goes down to a number of records, and none is given",
            place="fit.records",
            expected="a number, or selector 'gates'",
        )
    if not problem.objective.plain:
        raise InputError(
            "the reweighted selector knows the squared loss without tolerances alone",
            place="fit.loss",
            value=spec.loss,
            expected="squared, or selector 'gates'",
        )
    initial = problem.initial[problem.columns]

    def observe(passes: int, ratio: Float) -> None:
        reached["epochs"] = passes
        said = bool(log.rows) and log.rows[-1]["epoch"] == passes  # before a restart
        if passes % log_every == 0 and not said:
            weights = np.zeros(problem.X.shape[1])
            weights[problem.columns] = ratio * initial
            log.write("reweighted", 1, passes, weights, float(np.count_nonzero(ratio)))

    support = select_reweighted(
        problem.usable.compressed(),
        problem.goal,
        spec.records,
        factor=problem.factor,
        unit=initial,
        ridge=spec.ridge * float(np.sum(problem.share)),
        bounds=(spec.lower_bound, spec.upper_bound),
        most=np.inf if spec.weight_ratio is None else spec.weight_ratio,
        seed=spec.seed,
        observe=observe,
        saved=saved,
        worst=problem.worst,
    )
    log.selection_epochs = reached["epochs"]
    return support, reached
