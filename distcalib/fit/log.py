"""What a fit says of itself: a row an observed epoch, estimates of every target, and the summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.fit.diagnostics import effective_sample_size, relative_error, shares_within
from distcalib.fit.problem import FitProblem, first_names
from distcalib.fit.refit import Refit
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
#: Columns that calibration dashboards read.
PERFORMANCE = ("epoch", "loss", "target_name", "target", "estimate", "error", "abs_error", "rel_abs_error")


class FitLog:
    """Rows and estimates; it reads weights and never touches the fit.

    Attributes
    ----------
    rows
        One a call of `write`, `LOG_COLUMNS`.
    estimates
        (epoch, loss, estimate of every target) where `write` was told to keep them. Epochs count on through
        restarts and through the steps of the refit.
    selection_epochs
        Where they stand when the refit begins; None: as the rows say.
    """

    def __init__(self, problem: FitProblem, progress: Progress | None) -> None:
        self.problem, self.progress = problem, progress
        self.rows: list[dict[str, Any]] = []
        self.estimates: list[tuple[int, float, Float]] = []
        self.selection_epochs: int | None = None

    def write(
        self,
        stage: str,
        attempt: int,
        epoch: int,
        weights: Float,
        penalty: float = float("nan"),
        lambda_l0: float = 0.0,
        keep: bool = True,
    ) -> None:
        """Judge weights (n_columns,), and say so."""
        p = self.problem
        estimate = p.X.estimate(weights)
        loss = p.loss_of(estimate)
        error = np.abs((estimate - p.targets) / p.scale)
        fitted = shares_within(error[p.fitted])
        row = {
            "stage": stage,
            "attempt": attempt,
            "epoch": epoch,
            "loss": loss,
            "penalty": penalty,
            "lambda_l0": lambda_l0,
            "active": int(np.count_nonzero(weights)),
            "median_abs_rel_error": fitted["median_abs_rel_error"],
            "mean_abs_rel_error": fitted["mean_abs_rel_error"],
            "within_5": fitted["within_5"],
            "held_out_error": p.held_out_error_of(estimate) if p.held_out.any() else float("nan"),
        }
        if keep:
            self._keep(self._before(stage, attempt) + epoch, loss, estimate)
        self.rows.append(row)
        if self.progress is not None:
            self.progress(dict(row))

    def end(self, weights: Float, steps: int) -> None:
        """Keep the estimates of the final weights, after so many steps of the refit."""
        estimate = self.problem.X.estimate(weights)
        self._keep(self._before("refit", 1) + steps, self.problem.loss_of(estimate), estimate)

    def _keep(self, epoch: int, loss: float, estimate: Float) -> None:
        # The refit begins where the selection ended: the later word holds.
        self.estimates[:] = [kept for kept in self.estimates if kept[0] != epoch]
        self.estimates.append((epoch, loss, estimate))

    def _before(self, stage: str, attempt: int) -> int:
        """Return the epochs of the stages and attempts that came before."""
        if stage == "refit" and self.selection_epochs is not None:
            return self.selection_epochs
        last: dict[tuple[Any, Any], int] = {}
        for row in self.rows:
            last[row["stage"], row["attempt"]] = row["epoch"]
        last.pop((stage, attempt), None)
        return sum(last.values())


def performance(
    names: Sequence[object] | NDArray[Any],
    targets: Float,
    gross: Float,
    estimates: Sequence[tuple[int, float, Float]],
) -> pd.DataFrame:
    """Return one row a target and kept epoch.

    Parameters
    ----------
    names, targets
        (n_targets,).
    gross
        What errors of zero targets are relative to, (n_targets,).
    estimates
        As in `FitLog`.

    Returns
    -------
    DataFrame
        `PERFORMANCE`: error is estimate - target; rel_abs_error is relative to |target|.
    """
    estimate = np.concatenate([values for _, _, values in estimates])
    n, times = len(targets), len(estimates)
    target = np.tile(targets, times)
    error = estimate - target
    table = {
        "epoch": np.repeat([epoch for epoch, _, _ in estimates], n),
        "loss": np.repeat([loss for _, loss, _ in estimates], n),
        "target_name": np.tile(np.array([*names], dtype=object), times),
        "target": target,
        "estimate": estimate,
        "error": error,
        "abs_error": np.abs(error),
        "rel_abs_error": np.abs(relative_error(estimate, target, np.tile(gross, times))),
    }
    return pd.DataFrame(table)[[*PERFORMANCE]]


def summary_of(
    problem: FitProblem,
    spec: FitSpec,
    reached: dict[str, Any],
    solution: Refit,
    weights: Float,
    mass_scale: float,
    donors: ArrayLike | None,
    names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the summary of a fit, JSON-able."""
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
