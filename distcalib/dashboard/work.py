"""What workers do for a session: calibrate and tune. They say how far they are, and that changes nothing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.dashboard.problem import Problem
from distcalib.dashboard.run_problem import problem_in
from distcalib.documents.analysis import target_analysis
from distcalib.errors import DistcalibWarning, InputError
from distcalib.fit import effective_sample_size
from distcalib.fit.dense import METHODS, calibrate_dense
from distcalib.fit.diagnostics import relative_error
from distcalib.random import uniform

#: Of a target that nothing was found against and that is off by more than 5 percent.
COMPROMISE = "compromise"
Say = Callable[[dict[str, Any]], None]
#: Title -> solver, in the order of the menu.
SOLVERS = {
    "All records, bounded least squares": "all",
    "Fewer records: L0 gates (penalty)": "gates",
    "Fewer records: reweighted L1 (exact number)": "reweighted",
    "Raking": "raking",
    "GREG (linear)": "greg",
    "Truncated linear": "truncated_linear",
    "Logit": "logit",
}
#: Rows of the log for the epochs that were asked for.
ABOUT_ROWS = 100


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Attributes
    ----------
    solver
        A value of `SOLVERS`.
    records
        Of ``reweighted``: how many keep a weight.
    l0_lambda
        Of ``gates``; see `distcalib.Calibration`.
    epochs
        The most epochs of a search and steps of the weighting, or Newton steps.
    lower, upper
        Bounds of final over initial weight; ``greg`` has none.
    holdout
        Share of the targets that the fit does not see.
    seed
        Of gates and holdout.
    """

    solver: str = "all"
    records: int | None = None
    l0_lambda: float = 0.01
    epochs: int = 500
    lower: float = 0.02
    upper: float = 50.0
    holdout: float = 0.0
    seed: int = 0

    def fit(self) -> dict[str, Any]:
        """Return the settings of `distcalib.Calibration` for a solver of `distcalib.fit`."""
        if self.solver not in SOLVERS.values():
            raise InputError("unknown solver", value=self.solver, choices=SOLVERS.values())
        how: dict[str, Any] = {"lower_bound": self.lower, "upper_bound": self.upper, "seed": self.seed}
        if self.solver == "gates":
            how |= {"l0_lambda": self.l0_lambda, "selector": "gates"}
        if self.solver == "reweighted":
            how |= {"records": self.records, "selector": "reweighted"}
        return how


@dataclass(frozen=True)
class Outcome:
    """A calibration.

    Attributes
    ----------
    settings
        What was asked for.
    weights
        float64 (n_records,).
    targets
        One row a target: name, group, variable, target, before, after, error_before, error (both relative),
        status (``fitted``, ``held out``, ``unreachable``), why (see `why`).
    scale
        What all initial weights were multiplied by before the fit.
    facts
        Label -> text.
    yaml
        Settings as a text that `distcalib` reads.
    warnings
        What was warned of.
    """

    settings: Settings
    weights: NDArray[np.float64]
    targets: pd.DataFrame
    scale: float
    facts: dict[str, str]
    yaml: str
    warnings: list[str]


def calibrate(folder: Path, settings: Settings, say: Say) -> Outcome:
    """Calibrate the problem of a folder; says a row with ``step`` and ``loss`` every few epochs."""
    problem = problem_in(folder)
    settings = _seeded(problem, settings)
    curve = _Curve(say)
    base = problem.calibration(**(settings.fit() if settings.solver not in METHODS else {}))
    held = held_out(base.problem.fitted, settings.holdout, settings.seed)
    with _heard() as warned:
        if settings.solver in METHODS:
            weights, yaml = _dense(base.problem, settings, held, curve)
        else:
            base.settings |= {"progress": curve, "log_every": max(1, settings.epochs // ABOUT_ROWS)}
            if held.any():
                base.settings["holdout"] = held[base.problem.fitted]
            weights = base.calibrate(settings.epochs)
            assert base.result is not None
            changed = _changed(base.result.spec)
            if problem.run_seed is not None:  # of all draws of a run, and no setting of its fit
                changed.pop("seed", None)
                changed["group_power"] = 1.0
            yaml = yaml_of("fit", changed)
            curve.end(base.result.summary["loss_after"], base.result.summary["held_out_error"])
    scale = base.problem.scale
    targets = _targets(problem, scale, weights, held, base.problem.reachable)
    targets["why"] = why(target_analysis(base.problem, settings.lower, settings.upper), targets["error"])
    facts = _facts(problem, weights, targets, scale)
    return Outcome(settings, weights, targets, scale, facts, yaml, warned)


def tune(
    folder: Path,
    between: tuple[float, float],
    trials: int,
    folds: int,
    epochs: int,
    settings: Settings,
    say: Say,
) -> tuple[float, pd.DataFrame]:
    """Search the penalty of the gates by held-out targets; says each fit.

    Bounds and seed are those of `settings`. Returns as `distcalib.tune_hyperparameters`.
    """
    from distcalib.documents.microcalibrate import tune_hyperparameters

    problem = problem_in(folder)
    settings = _seeded(problem, settings)
    done = 0

    def counted(function: Callable[[Any], Any], jobs: Any) -> Iterator[Any]:
        nonlocal done
        for job in jobs:
            answer = function(job)
            done += 1
            say({"step": done, "error": getattr(answer, "error", None)})
            yield answer

    how: dict[str, Any] = {"lower_bound": settings.lower, "upper_bound": settings.upper, "selector": "gates"}
    with _heard():
        return tune_hyperparameters(
            problem.weights, problem.targets["value"].to_numpy(), problem.X.T, *between,
            target_names=problem.names, n_trials=trials, n_folds=folds, max_iter=epochs,
            seed=settings.seed, map=counted, **how,
        )  # fmt: skip


def _seeded(problem: Problem, settings: Settings) -> Settings:
    return settings if problem.run_seed is None else dataclasses.replace(settings, seed=problem.run_seed)


def held_out(fitted: NDArray[np.bool_], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose targets that the fit does not see, (n_targets,): so many of those that can be fitted."""
    if not 0 <= share < 1:
        raise InputError("out of range", place="holdout", value=share, expected="0 or more, less than 1")
    rows = np.flatnonzero(fitted)
    number = min(round(share * len(rows)), len(rows) - 1)
    order = np.argsort(uniform(seed, "holdout", rows), kind="stable")
    held = np.zeros(len(fitted), dtype=bool)
    held[rows[order[:number]]] = True
    return held


def _dense(p: Any, settings: Settings, held: NDArray[np.bool_], curve: _Curve) -> tuple[Any, str]:
    rows = p.fitted & ~held
    how: dict[str, Any] = {"method": settings.solver, "max_iter": settings.epochs}
    if settings.solver != "greg":
        how["bounds"] = [settings.lower, settings.upper]
    found = calibrate_dense(
        p.X[rows], p.targets[rows], p.weights * p.scale, progress=curve,
        names=[name for name, one in zip(p.names, rows, strict=True) if one], **how,
    )  # fmt: skip
    return found.weights, yaml_of("calibrate_dense", how)


def _targets(problem: Problem, scale: float, weights: Any, held: Any, reachable: Any) -> pd.DataFrame:
    value, gross = problem.targets["value"].to_numpy(), abs(problem.X)
    start = problem.weights * scale
    before, after = problem.X @ start, problem.X @ weights
    return pd.DataFrame(
        {
            "target_name": problem.names,
            "group": problem.targets["group"],
            "variable": problem.targets["variable"],
            "target": value,
            "before": before,
            "after": after,
            "error_before": relative_error(before, value, gross @ start),
            "error": relative_error(after, value, gross @ np.abs(weights)),
            "status": np.select([~reachable, held], ["unreachable", "held out"], "fitted"),
        }
    )


def why(analysis: pd.DataFrame, error: pd.Series) -> pd.Series:
    """Return what explains each target's error, as far as it is known: findings, or *compromise*.

    That is said of misses over 5 percent that nothing was found against: other targets, the penalty, the
    number of records or too few epochs.
    """
    return analysis["findings"].where((analysis["findings"] != "") | (error.abs() <= 0.05), COMPROMISE)


def _facts(problem: Problem, weights: Any, targets: pd.DataFrame, scale: float) -> dict[str, str]:
    kept, start = weights != 0, problem.weights * scale
    size = np.abs(targets["error"])
    fitted, held = size[targets["status"] == "fitted"], size[targets["status"] == "held out"]
    ratio = weights[kept] / start[kept]
    facts = {
        "records with a weight": f"{kept.sum():,} of {len(weights):,}",
        "effective sample size (Kish)": f"{effective_sample_size(weights):,.0f}, before "
        f"{effective_sample_size(start):,.0f}",
        "sum of weights": f"{weights.sum():,.0f}, before {problem.weights.sum():,.0f}",
        "targets within 1 % / 5 %": f"{(fitted <= 0.01).mean():.0%} / {(fitted <= 0.05).mean():.0%} of "
        f"{len(fitted):,} fitted",
        "worst fitted target": f"{fitted.max():.2%} off",
        "weight over initial weight": f"{ratio.min():.3g} to {ratio.max():.3g}",
    }
    if len(held):
        facts["held-out targets"] = f"median {held.median():.2%} off, of {len(held):,}"
    if scale != 1:
        facts["initial weights"] = f"multiplied by {scale:,.4g}, for they were far from the targets"
    return facts


class _Curve:
    """Rows of a fit's log on one axis of steps, through stages and restarts; says each."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self._stage: tuple[Any, Any] | None = None
        self._base = self._last = 0

    def __call__(self, row: dict[str, Any]) -> None:
        stage = row.get("stage"), row.get("attempt")
        if stage != self._stage:
            self._stage, self._base = stage, self._base + self._last
        self._last = int(row["epoch"])
        self._add(row["loss"], row.get("held_out_error"), str(row.get("stage")), row.get("active"))

    def end(self, loss: float, held_out_error: float | None) -> None:
        self._add(loss, held_out_error, "end", None)

    def _add(self, loss: float, held_out_error: float | None, stage: str, active: int | None) -> None:
        error = float("nan") if held_out_error is None else float(held_out_error)
        self.say({"step": self._base + self._last, "loss": float(loss), "held_out_error": error,
                "stage": stage, "epoch": self._last, "active": active})  # fmt: skip


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect warnings of the package as texts."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DistcalibWarning)
        yield said
    said += [str(one.message) for one in caught if issubclass(one.category, DistcalibWarning)]


def _changed(spec: Any) -> dict[str, Any]:
    """Return the settings of a fit that differ from the defaults."""
    default = dataclasses.asdict(type(spec)())
    return {name: value for name, value in spec.as_dict().items() if value != default[name]}


def yaml_of(section: str, settings: dict[str, Any]) -> str:
    """Return settings as YAML."""
    lines = [f"  {name}: {_scalar(value)}" for name, value in settings.items()]
    return "\n".join([f"{section}:" if lines else f"{section}: {{}}", *lines]) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        # YAML 1.1 takes 1e-05 for a text.
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{exponent}" if e else text
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return str(value)
