"""Judging the fit of a run folder: what a record budget costs, what held-out targets say, better settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.config import ClusterConfig
from distcalib.errors import InputError
from distcalib.runs.fitting import LABELS
from distcalib.runs.run_fit import RunFit, fit_space
from distcalib.runs.spread import Job, Report, silent, spread, stage
from distcalib.storage import writable

if TYPE_CHECKING:
    from distcalib.fit.folds import Robustness
    from distcalib.fit.problem import FitProblem
    from distcalib.fit.tune import Tuning

Float = NDArray[np.float64]

#: Settings that only some numbers of records can keep.
BY_BUDGET = ("fit.weight_ratio", "fit.share_cap")
_SQLITE, _DATABASES = b"SQLite format 3\0", (".db", ".sqlite", ".sqlite3")
ROBUSTNESS_COLUMNS = (
    "fold",
    "targets",
    "error",
    "error_uncalibrated",
    "difference",
    "median_abs_rel_error",
    "median_uncalibrated",
    "within_tolerance",
    "within_uncalibrated",
    "fitted_error",
    "records",
    "effective_sample_size",
)


class Fitting:
    """Call with a `Job`: the weights of a fit of all targets, or the `Outcome` of one without a fold.

    Where the limits of weights allow no fit of so few records, the answer is the error that says so.
    """

    def __init__(self, fit: RunFit, folds: NDArray[np.int64] | None) -> None:
        from distcalib.fit.folds import WithoutFold

        self.X, self.values, self.how = fit.X, fit.values, fit.how
        self.without = None if folds is None else WithoutFold(fit.X, fit.values, folds, **fit.how)

    def __call__(self, job: Job) -> Any:
        """Fit; settings of the job go before the run's own."""
        from distcalib.fit import fit_weights

        fold, settings = job
        try:
            if fold is None:
                return fit_weights(self.X, self.values, **{**self.how, **settings}).weights
            assert self.without is not None
            return self.without((fold, settings))
        except InputError as error:
            # So few records cannot stand for all within these limits: nothing is wrong with the others.
            if error.place not in BY_BUDGET:
                raise
            return error


def judge_frontier(
    run: str | Path,
    records: Sequence[str | int | float] = (0.05, 0.1, 0.25, 0.5),
    *,
    folds: int = 5,
    by: str = "place",
    seed: int = 0,
    name: str = "",
    changes: Mapping[str, Any] | None = None,
    workers: int | ClusterConfig | None = None,
    report: Report = silent,
) -> pd.DataFrame:
    """Fit a run's targets with several numbers of records, and judge each.

    Parameters
    ----------
    run, name, changes
        As in `RunFit.read`.
    records
        Whole numbers, or shares of the columns with a design weight.
    folds, by, seed
        Folds of targets, as in `distcalib.fit.folds.blocked_folds`; each budget is fitted once with all
        targets and once without each fold. 0: no folds.
    workers
        Processes of this machine, or the cluster whose workers share the fits; None: this process. Has no
        influence on the table.
    report
        Called with the events of a stage.

    Returns
    -------
    DataFrame
        One row a budget: `distcalib.fit.frontier.FRONTIER_COLUMNS`, where attainable_loss is that of the best
        weights found (see `attainable`) and held_out_error is the mean over folds; and

        - ``attainable_bound``: no weights within the bounds have a smaller loss (weak duality; 0 says
          nothing); ``attainable_kkt``: projected gradient at the best weights found over that at the start;
        - ``within_tolerance``, ``attainable_within_tolerance``: share of the fitted targets, with the weights
          of the row and with those of attainable_loss;
        - ``held_out_std_error``: standard error of held_out_error over folds;
        - ``least_effective_share``: the least, over districts, of effective sample size over records;
        - ``largest_ratio``: the largest weight over its design weight;
        - ``note``: empty, or why there is no fit with so few records within weight_ratio or share_cap: then
          the figures are NaN.

        The attainable columns are empty where the loss is not the plain squared one.
    """
    from distcalib.fit.folds import Outcome, standard_error_of_mean
    from distcalib.fit.frontier import frontier
    from distcalib.fit.support_by_area import support_by_area

    fit = RunFit.read(run, name, changes)
    budgets = fit.budgets(records)
    if folds != 0 and folds < 2:
        raise InputError("out of range", place="--holdout-folds", value=folds, expected="0, or 2 and more")
    fitting = Fitting(fit, fit.folds(folds, by, seed) if folds else None)
    problem = fit.problem()
    seen: list[int | None] = [None]
    if fitting.without is not None:
        seen += fitting.without.numbers
    # The budget decides the penalty; one of the run's own would be for another number of records.
    jobs: list[Job] = [(fold, {"records": k, "lambda_l0": None}) for k in budgets for fold in seen]
    with (
        stage(report, "frontier", len(jobs)) as done,
        spread(workers, done, engine=fit.how["engine"]) as each,
    ):
        answers = list(each(fitting, jobs))
    by_budget = {k: answers[i * len(seen) : (i + 1) * len(seen)] for i, k in enumerate(budgets)}
    refused = {k: next((a for a in of if isinstance(a, InputError)), None) for k, of in by_budget.items()}
    for k, error in refused.items():
        if error is not None:
            report({"event": "warning", "text": f"{k:,} records: {error}"})
            by_budget.pop(k)
    if not by_budget:
        raise next(error for error in refused.values() if error is not None)
    weights: dict[int, Float] = {k: of[0] for k, of in by_budget.items()}
    donors, areas = fit.columns["household_id"].to_numpy(), fit.columns["cd_geoid"].to_numpy()
    table = frontier(weights.__getitem__, list(by_budget), fit.X, problem.objective, donors=donors)
    outcomes: list[list[Outcome]] = [of[1:] for of in by_budget.values()]
    if folds:
        errors = [[outcome.error for outcome in of] for of in outcomes]
        table["held_out_error"] = [float(np.mean(e)) for e in errors]
        table["held_out_std_error"] = [standard_error_of_mean(e) for e in errors]
    else:
        table["held_out_std_error"] = np.nan
    absolute = abs(fit.X)
    table["within_tolerance"] = [np.mean(fit.within(fit.X @ w, absolute @ w)) for w in weights.values()]
    carried = [support_by_area(w, {"district": areas}, donors, (0.0, np.inf)) for w in weights.values()]
    table["least_effective_share"] = [float(c["effective_share"].min()) for c in carried]
    some = fit.initial > 0
    table["largest_ratio"] = [float(np.max(w[some] / fit.initial[some])) for w in weights.values()]
    table = table.set_index("budget").reindex(budgets).rename_axis("budget").reset_index()
    table["note"] = ["" if refused[k] is None else str(refused[k]) for k in budgets]
    return table.assign(**attainable(fit, problem, report))


def attainable(fit: RunFit, problem: FitProblem, report: Report = silent) -> dict[str, float]:
    """Return how close any weights come to the targets within the run's bounds, and how sure that is.

    Every column may have a weight from 0 to upper_bound (and weight_ratio) times its design weight. There is
    no ridge and no conservation of mass. A fit of few records may give each of them more, by the mass of all
    columns over theirs, unless weight_ratio is set.

    Parameters
    ----------
    fit, problem
        Of a run.
    report
        Told where the loss is not the plain squared one: then all is NaN.
    """
    from distcalib.fit.frontier import attainable_loss
    from distcalib.fit.weighing import ratio_bounds

    names = ("attainable_loss", "attainable_bound", "attainable_kkt", "attainable_within_tolerance")
    if not problem.objective.plain:
        text = "attainable loss: known for the squared loss without tolerance bands alone; left empty"
        report({"event": "warning", "text": text})
        return dict.fromkeys(names, np.nan)
    free = replace(fit.spec(), lower_bound=0.0)
    start = problem.initial[problem.columns]
    with stage(report, "attainable loss", 1):
        found = attainable_loss(
            problem.usable.compressed(),
            problem.goal,
            factor=problem.factor,
            unit=start,
            bounds=ratio_bounds(problem, free, problem.usable, start, 1.0),
            worst=problem.worst,
        )
    weights = np.zeros(fit.X.shape[1])
    weights[problem.columns] = found.ratio * start
    met = fit.within(fit.X @ weights, abs(fit.X) @ weights)
    facts = (found.loss, found.lower_bound, found.kkt_residual, float(np.mean(met)))
    return dict(zip(names, facts, strict=True))


@dataclass(frozen=True)
class FoldsOfRun:
    """What K folds say of a run's fit, next to no calibration.

    Attributes
    ----------
    folds
        `ROBUSTNESS_COLUMNS`: one row a fold, then ``mean`` and ``std_error`` (of the mean, over folds). error
        is the mean of min(|relative error|, 1) over the fold's targets, which the fit had not seen;
        error_uncalibrated the same with the design weights of all columns; difference the first less the
        second, so that below 0 the fit is better.
    targets
        One row a fitted target: its labels, fold (-1: never held out), target, estimate and rel_error of the
        fit that had not seen it, estimate_uncalibrated and rel_error_uncalibrated.
    """

    folds: pd.DataFrame
    targets: pd.DataFrame


def judge_robustness(
    run: str | Path,
    *,
    folds: int = 5,
    by: str = "place",
    seed: int = 0,
    name: str = "",
    changes: Mapping[str, Any] | None = None,
    workers: int | ClusterConfig | None = None,
    report: Report = silent,
) -> FoldsOfRun:
    """Fit a run's targets as often as there are folds, each time without one; arguments as `judge_frontier`.

    Every column has its design weight in what it is compared with: there is no selection without a fit.
    """
    from distcalib.fit.diagnostics import relative_error
    from distcalib.fit.folds import robustness

    fit = RunFit.read(run, name, changes)
    fold_of = fit.folds(folds, by, seed)
    with stage(report, "robustness", folds) as done, spread(workers, done, engine=fit.how["engine"]) as each:
        found = robustness(fit.X, fit.values, fold_of, map=each, **fit.how)
    estimate = fit.X @ fit.initial
    start = relative_error(estimate, fit.values, abs(fit.X) @ fit.initial)
    targets = fit.fitted[LABELS].assign(
        fold=found.targets["fold"],
        target=fit.values,
        tolerance=fit.tolerance,
        estimate=found.targets["estimate"],
        rel_error=found.targets["rel_error"],
        estimate_uncalibrated=estimate,
        rel_error_uncalibrated=start,
    )
    return FoldsOfRun(_fold_rows(found, targets), targets)


def _fold_rows(found: Robustness, targets: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `FoldsOfRun.folds`."""
    from distcalib.fit.folds import standard_error_of_mean

    held = targets[targets["fold"] >= 0]
    rows = pd.DataFrame({"fold": held["fold"]})
    for ending, name in (("", "rel_error"), ("_uncalibrated", "rel_error_uncalibrated")):
        size = held[name].abs()
        rows[f"error{ending}"] = size.clip(upper=1.0)
        rows[f"within{ending or '_tolerance'}"] = size <= held["tolerance"]
    of_fold = rows.groupby("fold").mean()
    median = held["rel_error_uncalibrated"].abs().groupby(held["fold"]).median()
    table = found.folds.set_index("fold")
    table["error_uncalibrated"] = of_fold["error_uncalibrated"]
    table["difference"] = table["error"] - table["error_uncalibrated"]
    table["median_uncalibrated"] = median
    table[["within_tolerance", "within_uncalibrated"]] = of_fold[["within_tolerance", "within_uncalibrated"]]
    summed = pd.DataFrame([table.mean(), table.apply(standard_error_of_mean)], index=["mean", "std_error"])
    return pd.concat([table, summed]).rename_axis("fold").reset_index()[list(ROBUSTNESS_COLUMNS)]


@dataclass(frozen=True)
class TunedRun:
    """A search, and the run's own settings on the same folds.

    Attributes
    ----------
    tuning
        See `distcalib.fit.tune.Tuning`.
    own
        Held-out errors of the run's own settings.
    trials
        ``tuning.trials``, and in front a row of the run's own settings: trial -1, state ``own``.
    yaml
        Lines of the chosen settings, for a settings file.
    """

    tuning: Tuning
    own: Robustness
    trials: pd.DataFrame
    yaml: str


def judge_tuning(
    run: str | Path,
    *,
    trials: int,
    storage: str | Path | None = None,
    space: Mapping[str, tuple[float, float] | None] | None = None,
    folds: int = 5,
    by: str = "place",
    seed: int = 0,
    batch: int = 4,
    name: str = "",
    changes: Mapping[str, Any] | None = None,
    workers: int | ClusterConfig | None = None,
    report: Report = silent,
) -> TunedRun:
    """Search settings of a run's fit on blocked folds of its targets; arguments as `judge_frontier`.

    Parameters
    ----------
    trials
        In all, those of a stored study included.
    storage
        Where the study is kept: an SQLite file (``.db``, ``.sqlite``), another path (a journal), or a URL.
    space
        As in `distcalib.fit.tune.tune`. None: all of what this fit uses.
    batch
        Trials that are asked for at once, and the most that processes can share. Part of what decides the
        trials, unlike `workers`.
    """
    from distcalib.fit.folds import robustness
    from distcalib.fit.spec import DEFAULT_LAMBDA_L0
    from distcalib.fit.tune import tune

    fit = RunFit.read(run, name, changes)
    ranges = fit_space(fit) if space is None else dict(space)
    fold_of = fit.folds(folds, by, seed)
    # The seed of a search is not that of its fits: theirs is the run's, so a study of it is one of this run.
    own_seed = fit.how["seed"]
    shared = {key: value for key, value in fit.how.items() if key not in ranges and key != "seed"}
    with (
        stage(report, "tuning", trials) as done,
        spread(workers, lambda: None, {"seed": own_seed}, fit.how["engine"]) as each,
    ):
        found = tune(
            fit.X, fit.values, fold_of, space=ranges, n_trials=trials, seed=own_seed,
            storage=_storage(storage), batch=batch, map=each, progress=lambda row: done(), **shared,
        )  # fmt: skip
        own = robustness(fit.X, fit.values, fold_of, map=each, **fit.how)
    spec = asdict(fit.spec())
    spec["lambda_l0"] = DEFAULT_LAMBDA_L0 if spec["lambda_l0"] is None else spec["lambda_l0"]
    first = {
        "trial": -1,
        **{key: spec[key] for key in ranges},
        "error": own.mean_error,
        "std_error": own.std_error,
        "records": own.folds["records"].mean(),
        "folds": len(own.folds),
        "state": "own",
        "note": "",
        "lowest": False,
        "chosen": False,
    }
    table = pd.concat([pd.DataFrame([first]), found.trials], ignore_index=True)
    section = ["fits:", f"  {name}:"] if name else ["fit:"]
    indent = "  " * len(section)
    lines = [f"{indent}{key}: {value!r}" for key, value in found.chosen.items()]
    return TunedRun(found, own, table[list(found.trials)], "\n".join([*section, *lines]))


def search_space(search: Sequence[str]) -> dict[str, tuple[float, float] | None] | None:
    """Read settings to search, ``KEY`` or ``KEY=LEAST:MOST``; None where there are none.

    >>> search_space(["beta", "ridge=1e-4:1"])
    {'beta': None, 'ridge': (0.0001, 1.0)}
    """
    space: dict[str, tuple[float, float] | None] = {}
    for text in search:
        key, given, limits = text.partition("=")
        try:
            least, most = map(float, limits.split(":")) if given else (0.0, 0.0)
        except ValueError:
            raise InputError(
                "is no range", place=f"--search {key}", value=limits, expected="KEY or KEY=LEAST:MOST"
            ) from None
        space[key] = (least, most) if given else None
    return space or None


def _storage(given: str | Path | None) -> str | None:
    """Return what Optuna takes, after a look at a file that is there."""
    text = str(given) if given is not None else None
    if text is None or "://" in text:
        return text
    file = Path(text)
    writable(file)
    database = file.suffix in _DATABASES
    if file.is_file() and file.stat().st_size:
        with open(file, "rb") as handle:
            start = handle.read(len(_SQLITE))
        if start != _SQLITE if database else not start.startswith(b"{"):
            kind = "an SQLite file of Optuna" if database else "a journal of Optuna"
            raise InputError("is not a study", place=file, expected=f"{kind}, or a new file")
    return f"sqlite:///{file.absolute()}" if database else text
