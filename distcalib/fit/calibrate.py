"""`fit_weights`: select records with L0 gates, refit their weights, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError
from distcalib.fit.checkpoint import Checkpoint, identity
from distcalib.fit.engines import resolve_engine
from distcalib.fit.log import LOG_COLUMNS, FitLog, Progress, summary_of
from distcalib.fit.problem import build_problem, column_vector
from distcalib.fit.selection import select
from distcalib.fit.spec import FitSpec, refuse_unused
from distcalib.fit.weighing import check_mass_of_all, weigh
from distcalib.notebook import facts_html

Float = NDArray[np.float64]


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
        One row a logged epoch: stage (gates, reweighted, refit), epoch (steps, in the refit), loss
        (with deterministic gates), penalty (expected open gates, or columns left), lambda_l0, active, error
        measures over fitted targets, held_out_error.
    spec
        The settings, engine resolved.
    estimates
        (epoch, loss, estimate of every target, float64 (n_targets,)) of some epochs and of the end; see
        `distcalib.fit.log.performance`.
    limits
        Least and largest weight that each column could have had by the bounds, `weight_ratio` and
        `share_cap`, float64 (n_columns,) each; 0 where not kept.
    """

    weights: Float
    summary: dict[str, Any]
    log: pd.DataFrame
    spec: FitSpec
    estimates: list[tuple[int, float, Float]]
    limits: tuple[Float, Float]

    def _repr_html_(self) -> str:
        told, s = {}, self.summary
        told["records"] = f"{s['records_kept']:,} of {s['columns']:,} columns"
        told["targets"] = f"{s['targets_fitted']:,} fitted, {s['targets_held_out']:,} held out"
        told["loss"] = f"{s['loss_before']:.4g} before, {s['loss_after']:.4g} after"
        told["sum of weights"] = f"{s['sum_of_weights_before']:,.0f} before, {s['sum_of_weights']:,.0f} after"
        told["effective sample size"] = f"{s['effective_sample_size']:,.0f}"
        told["engine, seed"] = f"{s['engine']}, {s['seed']}"
        named = ("before", "fitted", *(("held_out",) if s["targets_held_out"] else ()))
        shares = pd.DataFrame({"targets": name, **s[name]} for name in named).set_index("targets")
        shares = shares.map("{:.1%}".format, na_action="ignore").reset_index()
        return facts_html("FitResult", told, shares)


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
    areas: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    group_multipliers: Mapping[Any, float] | None = None,
    tolerance: ArrayLike = 0.0,
    names: Sequence[str] | None = None,
    group_labels: ArrayLike | None = None,
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
    areas
        Area of each column, (n_columns,), for `effective_share`.
    target_weights
        (n_targets,), >= 0, for example 1 / tolerance^2: divides the share of a group (or of all) among its
        targets.
    group_multipliers
        Group -> factor, 0 or more, of the group's share.
    tolerance
        Relative to the scale of each error, scalar or (n_targets,), >= 0: errors within it cost nothing.
    names
        Names of the targets for the summary and for errors, (n_targets,).
    group_labels
        What errors call each target's group, (n_targets,); it decides nothing else. None: `groups`.
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
        The loss became infinite or NaN; names the epoch (pass, step), and the target that was furthest off
        with its group.
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
        areas=areas,
        target_weights=target_weights,
        group_multipliers=group_multipliers,
        tolerance=tolerance,
        names=names,
        group_labels=group_labels,
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
    areas: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    group_multipliers: Mapping[Any, float] | None = None,
    tolerance: ArrayLike = 0.0,
    names: Sequence[str] | None = None,
    group_labels: ArrayLike | None = None,
    progress: Progress | None = None,
    log_every: int = 50,
    checkpoints: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    threads: int | None = None,
) -> FitResult:
    """Fit with stored settings, as a run does; the other arguments are those of `fit_weights`."""
    began = time.perf_counter()
    refuse_unused(spec)
    spec = spec.resolved(plain=not np.any(tolerance))
    spec = FitSpec(**{**spec.as_dict(), "engine": resolve_engine(spec.engine)})
    if spec.engine == "cuda":  # before the matrix is read
        from distcalib.fit.device import cuda_device

        cuda_device()
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
        group_multipliers=group_multipliers,
        tolerance=tolerance,
        names=names,
        group_labels=group_labels,
        threads=threads,
    )
    n_columns = problem.X.shape[1]
    if donors is not None:
        donors = column_vector(donors, n_columns, "donors")
    if areas is not None:
        areas = column_vector(areas, n_columns, "areas")
    elif spec.effective_share is not None:
        raise InputError(
            "is asked for in each area, and there are none",
            place="fit.effective_share",
            value=spec.effective_share,
            expected="areas=, the area of each column",
        )
    log = FitLog(problem, progress)
    saved = None
    if checkpoints is not None:
        belongs = identity(problem.digest(), spec.as_dict())
        saved = Checkpoint(checkpoints, belongs, log, checkpoint_seconds)
    check_mass_of_all(problem, spec)
    prepared = time.perf_counter()

    support, reached = select(problem, spec, log, log_every, saved)
    selected = time.perf_counter()
    weighed = weigh(problem, spec, support, log, areas)
    finished = time.perf_counter()

    summary = summary_of(
        problem, spec, reached, weighed.solution, weighed.weights, weighed.mass_scale, donors, names
    )
    summary["areas_below_effective_share"] = weighed.uneven
    summary["timing"] = {
        "prepare_seconds": round(prepared - began, 3),
        "selection_seconds": round(selected - prepared, 3),
        "refit_seconds": round(finished - selected, 3),
        "total_seconds": round(time.perf_counter() - began, 3),
    }
    if saved is not None:
        saved.remove()
    rows = pd.DataFrame(log.rows, columns=list(LOG_COLUMNS))
    return FitResult(weighed.weights, summary, rows, spec, log.estimates, weighed.limits)
