"""Settings chosen on held-out targets: a search by Optuna over penalty, gates, learning rate and ridge.

The study lives in this process alone; what is spread is a plain function of (fold, settings), so any ``map``
will do. A trial is judged fold by fold, and one that is worse than the median after a fold is given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike

from distcalib.digest import digest_arrays, digest_of
from distcalib.errors import InputError, RunError
from distcalib.fit.folds import WORDS, Map, Outcome, WithoutFold, standard_error_of_mean
from distcalib.fit.spec import FitSpec
from distcalib.random import stream_key

#: What can be searched: least and most by default, and whether on a logarithmic scale.
SPACE: dict[str, tuple[float, float, bool]] = {
    "lambda_l0": (1e-8, 1e-3, True),
    "initial_keep": (0.5, 0.999, False),
    "beta": (0.2, 0.8, False),
    "learning_rate": (0.02, 0.3, True),
    "ridge": (1e-5, 1.0, True),
}
#: Trials drawn at random before the sampler (and the pruner) learns from them.
STARTUP_TRIALS = 8


@dataclass(frozen=True)
class Tuning:
    """A finished search.

    Attributes
    ----------
    lowest
        Settings of the trial with the lowest held-out error.
    chosen
        Settings of the trial with the fewest records among those whose held-out error is within one standard
        error of the lowest: of the difference over folds, since all trials are judged on the same folds.
    trials
        One row a trial: trial, the settings, error (mean over the folds that were judged), std_error, records
        (mean), folds (how many were judged), state (``complete``, ``pruned`` or ``failed``), note, lowest and
        chosen (bool).
    """

    lowest: dict[str, float]
    chosen: dict[str, float]
    trials: pd.DataFrame


@dataclass(frozen=True)
class _Judge:
    """A fold's outcome, or why there is none; the one function that a `map` calls."""

    without: WithoutFold

    def __call__(self, job: tuple[int, dict[str, Any]]) -> Outcome | tuple[str, str]:
        try:
            return self.without(job)
        except InputError as error:
            if error.place != "fit.lambda_l0":
                raise
            return "closed", str(error)
        except RunError as error:
            return "diverged", str(error)


def tune(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    folds: ArrayLike,
    *,
    space: Mapping[str, tuple[float, float] | None] | None = None,
    n_trials: int = 40,
    seed: int = 0,
    storage: str | Path | None = None,
    batch: int = 1,
    map: Map = map,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **fit: Any,
) -> Tuning:
    """Search the settings with the lowest error on held-out folds.

    Tree-structured Parzen estimator (Bergstra et al. 2011), pruned by the median after each fold. One after
    another (`batch` 1), equal seeds give equal trials, also when a stored study was interrupted and goes on.
    A trial that closes every gate has an error of 1: it estimates nothing. One that diverges has failed.

    Parameters
    ----------
    X, targets, folds
        (n_targets, n_columns), (n_targets,), and the fold of each target, as
        `distcalib.fit.folds.blocked_folds` gives them.
    space
        Any of `SPACE` -> (least, most), or None for the default range. None: lambda_l0 and ridge.
    n_trials, seed
        Trials in all, those of a stored study included; seed of the search.
    storage
        Where the study is kept, so that the same call goes on with it: an Optuna URL (``sqlite:///study.db``)
        or the path of a journal file. One process at a time. None: in memory.
    batch
        Trials that are asked for at once; with a `map` that spreads them, as many as there are workers.
    map
        Calls a picklable function for every job of a batch and returns the answers in order.
    progress
        Called with each trial's row.
    **fit
        Arguments of `distcalib.fit.fit_weights` that all trials share.

    Raises
    ------
    InputError
        For an unknown setting or a bad range, a stored study of another problem, and when no trial ended
        well.
    """
    import optuna

    ranges = _ranges({"lambda_l0": None, "ridge": None} if space is None else space, fit)
    for name, value in (("n_trials", n_trials), ("batch", batch)):
        if not isinstance(value, int) or value < 1:
            raise InputError("out of range", place=name, value=value, expected="1 or more")
    without = WithoutFold(X, targets, folds, **fit)
    judge = _Judge(without)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high, log=log)
        for name, (low, high, log) in ranges.items()
    }
    with _quiet():
        study = _open_study(storage, _digest(without, ranges, seed))
        ended = len(_ended(study))
        while ended < n_trials:
            trials = []
            for at in range(ended, min(ended + batch, n_trials)):
                # A sampler for each trial, so that a study that goes on draws as if it had not stopped.
                draw = int(stream_key(seed, f"tuning trial {at}")) % 2**32
                study.sampler = optuna.samplers.TPESampler(seed=draw, n_startup_trials=STARTUP_TRIALS)
                trials.append(study.ask(distributions))
            _run(study, trials, judge, map)
            ended += len(trials)
            if progress is not None:
                for trial in _ended(study)[-len(trials) :]:
                    progress(_row(0, trial))
        return _result(_ended(study), list(ranges))


def _ranges(
    space: Mapping[str, tuple[float, float] | None], fit: Mapping[str, Any]
) -> dict[str, tuple[float, float, bool]]:
    ranges = {}
    for name, limits in space.items():
        if name not in SPACE:
            raise InputError("cannot be tuned", place="space", value=name, choices=SPACE)
        if name in fit:
            raise InputError("is both searched and given", place=f"space.{name}", value=fit[name])
        low, high, log = SPACE[name]
        if limits is not None:
            low, high = (float(limit) for limit in limits)
        if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)):
            expected = f"{'0 < ' if log else ''}least < most"
            raise InputError("bad range", place=f"space.{name}", value=limits, expected=expected)
        for limit in (low, high):
            FitSpec.of(None, **{name: limit})
        ranges[name] = (low, high, log)
    if not ranges:
        raise InputError("names no setting", place="space", choices=SPACE)
    return ranges


def _run(study: Any, trials: list[Any], judge: _Judge, map: Map) -> None:
    """Judge a batch of trials fold by fold, and tell the study how each ended."""
    from optuna.trial import TrialState

    live = list(trials)
    errors: dict[int, list[float]] = {trial.number: [] for trial in trials}
    records: dict[int, list[int]] = {trial.number: [] for trial in trials}
    verdict = {trial.number: TrialState.COMPLETE for trial in trials}
    for step, fold in enumerate(judge.without.numbers):
        answers = list(map(judge, [(fold, dict(trial.params)) for trial in live]))
        still = []
        for trial, answer in zip(live, answers, strict=True):
            if isinstance(answer, Outcome):
                errors[trial.number].append(answer.error)
                records[trial.number].append(answer.records)
            else:
                trial.set_user_attr("note", answer[1])
                if answer[0] == "diverged":
                    trial.set_user_attr("diverged", True)
                    verdict[trial.number] = TrialState.FAIL
                    continue
                errors[trial.number].append(1.0)
                records[trial.number].append(0)
            trial.report(float(np.mean(errors[trial.number])), step)
            last = step == len(judge.without.numbers) - 1
            if not last and trial.should_prune():
                verdict[trial.number] = TrialState.PRUNED
            else:
                still.append(trial)
        live = still
    for trial in trials:
        trial.set_user_attr("errors", errors[trial.number])
        trial.set_user_attr("records", records[trial.number])
        complete = verdict[trial.number] == TrialState.COMPLETE
        study.tell(
            trial, float(np.mean(errors[trial.number])) if complete else None, state=verdict[trial.number]
        )


def _open_study(storage: str | Path | None, problem: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    backend: Any = None if storage is None else str(storage)
    if backend is not None and "://" not in backend:
        backend = optuna.storages.JournalStorage(JournalFileBackend(backend))
    study = optuna.create_study(
        storage=backend,
        study_name="distcalib",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
    )
    stored = study.user_attrs.get("problem")
    if stored is None:
        study.set_user_attr("problem", problem)
    elif stored != problem:
        raise InputError(
            "the study is of another matrix, other targets, folds, settings or seed",
            place=storage,
            value=stored[:12],
            expected=problem[:12],
        )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process died
    return study


def _ended(study: Any) -> list[Any]:
    """Return the trials that came to an end, without those whose process died: these are drawn again."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or "diverged" in trial.user_attrs
    ]


def _row(number: int, trial: Any) -> dict[str, Any]:
    errors, records = trial.user_attrs["errors"], trial.user_attrs["records"]
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    return {
        "trial": number,
        **trial.params,
        "error": float(np.mean(errors)) if errors else float("nan"),
        "std_error": standard_error_of_mean(errors) if len(errors) > 1 else float("nan"),
        "records": float(np.mean(records)) if records else float("nan"),
        "folds": len(errors),
        "state": state,
        "note": trial.user_attrs.get("note", ""),
    }


def _result(trials: list[Any], names: list[str]) -> Tuning:
    table = pd.DataFrame([_row(number, trial) for number, trial in enumerate(trials)])
    # What closed every gate has no records to choose.
    whole = np.flatnonzero((table["state"] == "complete") & (table["records"] > 0))
    if not len(whole):
        notes = [note for note in table["note"] if note] or ["all were given up"]
        raise InputError(f"none of {len(table)} trials gave weights: {notes[0]}", place="space")
    errors = np.array([trials[i].user_attrs["errors"] for i in whole])
    best = int(np.argmin(errors.mean(axis=1)))
    worse = errors - errors[best]
    slack = worse.std(axis=1, ddof=1) / math.sqrt(errors.shape[1])
    near = np.flatnonzero(worse.mean(axis=1) <= slack)
    order = np.lexsort((errors.mean(axis=1)[near], table["records"].to_numpy()[whole[near]]))
    lowest, chosen = int(whole[best]), int(whole[near[order[0]]])
    table["lowest"] = table["trial"] == lowest
    table["chosen"] = table["trial"] == chosen

    def settings(row: int) -> dict[str, float]:
        return {name: float(table.at[row, name]) for name in names}

    return Tuning(settings(lowest), settings(chosen), table)


def _digest(without: WithoutFold, ranges: Mapping[str, tuple[float, float, bool]], seed: int) -> str:
    X = without.X
    arrays = {"data": X.data.astype(np.float64), "indices": X.indices, "indptr": X.indptr}
    arrays |= {"targets": without.targets, "folds": without.folds}
    plain: dict[str, Any] = {}
    for name, value in without.common.items():
        if name in WORDS:
            continue
        if value is None or isinstance(value, str | int | float | bool):
            plain[name] = value
        elif not callable(value):
            arrays[f"fit.{name}"] = np.asarray(value)
    return digest_of({"arrays": digest_arrays(arrays), "fit": plain, "space": dict(ranges), "seed": seed})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's running commentary out of the output; its warnings stay."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
