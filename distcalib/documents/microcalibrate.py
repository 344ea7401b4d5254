"""For those who have a table and targets: the calls of the document *MicroCalibrate*."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.documents.analysis import target_analysis, why_not
from distcalib.documents.table import Float, Matrix, Problem, numbers, read_table
from distcalib.errors import InputError, warn
from distcalib.fit import FitResult, FitSpec, fit_weights
from distcalib.fit.diagnostics import relative_error
from distcalib.fit.folds import Map, blocked_folds, robustness
from distcalib.fit.log import performance
from distcalib.fit.probing import matrix_of
from distcalib.fit.tune import tune

#: Settings of the fit that differ from a run's: here the targets are to be met, so the pull toward the
#: initial weights only chooses among the weights that meet them.
SETTINGS: dict[str, Any] = {"ridge": 1e-5}
MAX_ITER = 500


class Calibration:
    """Weights of households that reproduce targets, sparse where asked.

    The fit minimises ``mean over targets of (relative error)^2 + l0_lambda * share of households kept`` (of
    the expected share: Louizos, Welling and Kingma 2017), then weights the kept households by bounded least
    squares. So `l0_lambda` has the same meaning for any number of households and targets: at 0.01, keeping
    all households costs as much as an error of 10 percent on every target. Higher is sparser, and so is a
    longer search.

    Parameters
    ----------
    weights
        Initial weights, >= 0, shape (n_households,). A household of weight 0 stays out. Weights that give
        totals far from the targets are scaled first (see `Problem.scale`).
    targets
        Totals to reach, shape (n_targets,); a Series indexed by name is put in the order of the matrix.
    estimate_matrix
        What each household adds to each target per unit of weight: DataFrame (columns name the targets),
        array or scipy sparse, shape (n_households, n_targets).
    l0_lambda
        0: all households keep a weight. 1e-4 to 1e-1: a few percent to about nine tenths fewer.
    estimate_function
        Instead of a matrix: weights -> estimates, linear in the weights (see
        `distcalib.fit.probing.matrix_of`).
    target_names
        Names, shape (n_targets,), where `estimate_matrix` has none.
    excluded_targets
        Names of targets that are reported and not fitted.
    performance_csv
        Where `calibrate` writes `performance`.
    seed, engine, **settings
        As in `distcalib.fit.fit_weights`: `records`, `lower_bound`, `upper_bound`, `ridge`, ...

    Attributes
    ----------
    performance : DataFrame or None
        After `calibrate`: epoch, loss, target_name, target, estimate, error, abs_error, rel_abs_error, one
        row a target at epoch 0 (initial weights, scaled) and at the end (epochs of the search and steps of
        the weighting); between them, fitted targets at every `log_every` epochs. A zero target's error is
        relative to what its households held at first.
    result : FitResult or None
        After `calibrate`: summary and log of the fit.

    Raises
    ------
    InputError
        For shapes that do not fit, NaN, negative weights, unknown or repeated names, a function that is not
        linear.
    """

    def __init__(
        self,
        weights: ArrayLike,
        targets: ArrayLike,
        estimate_matrix: Matrix | None = None,
        l0_lambda: float = 0.0,
        *,
        estimate_function: Callable[[Any], Any] | None = None,
        target_names: Iterable[object] | None = None,
        excluded_targets: Iterable[str] = (),
        performance_csv: str | Path | None = None,
        seed: int = 0,
        engine: str = "auto",
        **settings: Any,
    ) -> None:
        if (estimate_matrix is None) == (estimate_function is None):
            raise InputError("give one of the two", place="estimate_matrix, estimate_function")
        if estimate_function is not None:
            n = len(numbers(weights, "weights"))
            estimate_matrix = matrix_of(estimate_function, n, seed=seed).T
        assert estimate_matrix is not None
        self.problem = read_table(weights, targets, estimate_matrix, target_names, excluded_targets)
        self.problem.lambda_l0(l0_lambda)
        self.l0_lambda, self.seed, self.engine = l0_lambda, seed, engine
        self.performance_csv, self.settings = performance_csv, settings
        self.performance: pd.DataFrame | None = None
        self.result: FitResult | None = None

    def calibrate(self, max_iter: int = MAX_ITER) -> Float:
        """Fit, and return the weights, float64, shape (n_households,).

        Parameters
        ----------
        max_iter
            The most epochs of the search for households, and the most steps of the weighting after it.

        Raises
        ------
        InputError
            When no target can be reached, or the penalty closes every gate.
        """
        p = self.problem
        for row in np.flatnonzero(~p.reachable & ~p.excluded).tolist():
            warn(f"no weights can reach the target {p.names[row]!r}: {why_not(p, row)}; it is not fitted")
        try:
            result = fit_weights(
                p.X[p.fitted],
                p.targets[p.fitted],
                initial_weights=p.weights * p.scale,
                names=[name for name, fitted in zip(p.names, p.fitted, strict=True) if fitted],
                seed=self.seed,
                engine=self.engine,
                **_how(p, self.l0_lambda, max_iter, self.settings),
            )
        except InputError as error:
            if error.place != "fit.lambda_l0" or not self.l0_lambda:
                raise
            raise InputError(
                "the penalty is too high: it leaves no household",
                place="l0_lambda",
                value=self.l0_lambda,
                expected="a lower one, or records=K for exactly K households",
            ) from error
        self.result = result
        self.performance = _performance(p, result, p.X @ (p.weights * p.scale))
        if self.performance_csv is not None:
            self.performance.to_csv(self.performance_csv, index=False)
        return result.weights

    def summary(self) -> pd.DataFrame:
        """Return one row a target, after `calibrate`.

        Columns: Metric, Official target, Initial estimate, Final estimate, Initial relative error, Relative
        error (signed; of a zero target relative to the sum of its households' amounts), Status (fitted,
        excluded, unreachable).
        """
        if self.result is None:
            raise InputError("nothing to sum up yet", place="summary", expected="calibrate() first")
        p = self.problem
        start, end = p.X @ p.weights, p.X @ self.result.weights
        return pd.DataFrame(
            {
                "Metric": p.names,
                "Official target": p.targets,
                "Initial estimate": start,
                "Final estimate": end,
                "Initial relative error": relative_error(start, p.targets, abs(p.X) @ p.weights),
                "Relative error": relative_error(end, p.targets, abs(p.X) @ self.result.weights),
                "Status": np.select([p.excluded, ~p.reachable], ["excluded", "unreachable"], "fitted"),
            }
        )

    def target_analysis(self) -> pd.DataFrame:
        """Say before any fit what may stand in the way of each target.

        Returns
        -------
        DataFrame
            One row a target: target_name, target, initial_estimate, orders_of_magnitude (``log10 |target /
            initial estimate|``), households (that contribute), effective_households (Kish, by ``|amount| x
            weight``), lowest and highest (what weights within their bounds can give), and findings, in words:

            - *unreachable*: no household contributes, or none with the sign of the target;
            - *beyond bounds*: outside lowest to highest;
            - *zero* and *negative* targets;
            - *far from the initial estimate*: by more than a factor of 10 after the scaling of all weights;
            - *few households*: fewer than 10 effective ones;
            - *contradicts NAME*: the same households and amounts as NAME, with another target;
            - *not together with NAMES*: no weights within the bounds bring it and those to within 1 percent,
              whatever becomes of the others (`distcalib.fit.feasible.conflicts`; of those targets alone that
              have none of the findings above but the last three, and of at most 5 million amounts).
        """
        low, high = (
            self.settings.get(name, getattr(FitSpec, name)) for name in ("lower_bound", "upper_bound")
        )
        return target_analysis(self.problem, low, high)


def tune_hyperparameters(
    weights: ArrayLike,
    targets: ArrayLike,
    estimate_matrix: Matrix,
    lambda_min: float = 1e-4,
    lambda_max: float = 1e-1,
    n_trials: int = 30,
    *,
    n_folds: int = 5,
    max_iter: int = 200,
    target_names: Iterable[object] | None = None,
    excluded_targets: Iterable[str] = (),
    seed: int = 0,
    storage: str | Path | None = None,
    batch: int = 1,
    map: Map = map,
    **settings: Any,
) -> tuple[float, pd.DataFrame]:
    """Choose `l0_lambda` by cross-validation over targets.

    Parameters
    ----------
    weights, targets, estimate_matrix, target_names, excluded_targets, seed, **settings
        As in `Calibration`.
    lambda_min, lambda_max
        Range that is searched, on a logarithmic scale.
    n_trials, storage, batch, map
        See `distcalib.fit.tune.tune`.
    n_folds
        The most folds; never more than there are blocks of targets (see `distcalib.fit.folds.target_blocks`).
    max_iter
        As in `Calibration.calibrate`.

    Returns
    -------
    best_lambda : float
        The one with the fewest households among those whose held-out error is within one standard error of
        the lowest.
    results : DataFrame
        One row a trial: trial, l0_lambda, error (held out: mean of min(abs. relative error, 1)), std_error,
        records, folds, state, note, lowest (least error) and chosen.
    """
    p = read_table(weights, targets, estimate_matrix, target_names, excluded_targets)
    if not 0 < lambda_min < lambda_max:
        value = (lambda_min, lambda_max)
        raise InputError("bad range", place="lambda_min, lambda_max", value=value, expected="0 < min < max")
    how = _how(p, 0.0, max_iter, settings) | {"epochs": int(max_iter)}
    del how["lambda_l0"]
    found = tune(
        p.X[p.fitted],
        p.targets[p.fitted],
        _folds(p, n_folds, seed),
        space={"lambda_l0": (p.lambda_l0(lambda_min), p.lambda_l0(lambda_max))},
        n_trials=n_trials,
        seed=seed,
        storage=storage,
        batch=batch,
        map=map,
        initial_weights=p.weights * p.scale,
        **how,
    )
    results = found.trials.rename(columns={"lambda_l0": "l0_lambda"})
    results["l0_lambda"] /= p.lambda_l0(1.0)
    return found.chosen["lambda_l0"] / p.lambda_l0(1.0), results


def evaluate_robustness(
    weights: ArrayLike,
    targets: ArrayLike,
    estimate_matrix: Matrix,
    l0_lambda: float = 0.01,
    n_folds: int = 5,
    *,
    max_iter: int = MAX_ITER,
    excluded_targets: Iterable[str] = (),
    seed: int = 0,
    map: Map = map,
    **settings: Any,
) -> dict[str, Any]:
    """Calibrate once for each fold of targets without it, and see how close it comes.

    Parameters
    ----------
    weights, targets, estimate_matrix, l0_lambda, max_iter, excluded_targets, seed, **settings
        As in `Calibration`.
    n_folds, map
        As in `tune_hyperparameters`.

    Returns
    -------
    dict
        mean_error (mean over folds of the mean of min(abs. relative error, 1) over targets held out),
        std_error (standard error of that mean), n_folds, folds (DataFrame, one row a fold) and targets
        (DataFrame, one row a target: target_name, fold, target, estimate, rel_error, abs_rel_error, of the
        fit that had not seen it).
    """
    p = read_table(weights, targets, estimate_matrix, None, excluded_targets)
    found = robustness(
        p.X[p.fitted],
        p.targets[p.fitted],
        _folds(p, n_folds, seed),
        map=map,
        initial_weights=p.weights * p.scale,
        seed=seed,
        **_how(p, l0_lambda, max_iter, settings),
    )
    names = [name for name, fitted in zip(p.names, p.fitted, strict=True) if fitted]
    return {
        "mean_error": found.mean_error,
        "std_error": found.std_error,
        "n_folds": len(found.folds),
        "folds": found.folds,
        "targets": pd.concat([pd.DataFrame({"target_name": names}), found.targets], axis=1),
    }


def _how(p: Problem, l0_lambda: float, max_iter: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of `fit_weights`: no search for households where none is to be left out."""
    if not isinstance(max_iter, int | np.integer) or max_iter < 1:
        raise InputError("out of range", place="max_iter", value=max_iter, expected="a whole number above 0")
    penalty = p.lambda_l0(l0_lambda)
    sparse = penalty > 0 or settings.get("records") is not None
    return {
        **SETTINGS,
        "lambda_l0": penalty or None,
        "epochs": int(max_iter) if sparse else 0,
        "refit_epochs": int(max_iter),
        **settings,
    }


def _folds(p: Problem, n_folds: int, seed: int) -> NDArray[np.int64]:
    labels: list[Any] = p.names if p.named else list(range(len(p.names)))
    labels = [label for label, fitted in zip(labels, p.fitted, strict=True) if fitted]
    if not labels:
        raise InputError("no target can be reached by any weights", place="targets")
    return blocked_folds(labels, n_folds, seed, at_most=True)


def _performance(p: Problem, result: FitResult, start: Float) -> pd.DataFrame:
    """Return the fitted targets at every logged epoch, and the others at the first and the last."""
    gross, names = abs(p.X) @ (p.weights * p.scale), np.array(p.names, dtype=object)
    last, loss, _ = result.estimates[-1]
    ends = [(0, result.summary["loss_before"], start), (last, loss, p.X @ result.weights)]
    logged = [one for one in result.estimates[:-1] if one[0] > 0]
    tables = []
    for rows, times in (
        (p.fitted, [(e, v, s[p.fitted]) for e, v, s in ends[:1]] + logged),
        (p.fitted, [(e, v, s[p.fitted]) for e, v, s in ends[1:]]),
        (~p.fitted, [(e, v, s[~p.fitted]) for e, v, s in ends]),
    ):
        tables.append(performance(names[rows], p.targets[rows], gross[rows], times))
    return pd.concat(tables).sort_values("epoch", kind="stable", ignore_index=True)
