"""The fit as a task: the matrix and its targets in, weights and what they say of every target out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.matrix.blocks import read_block
from distcalib.runs.saying import say
from distcalib.runs.tasks import Inputs, finished
from distcalib.storage import publish, write_json

LABELS = [
    "target_id", "name", "variable", "geo_level", "geographic_id", "domain_variable", "group_id", "status",
]  # fmt: skip
#: Epochs of the selection between two looks at every target (`fit/log.csv`), and how many looks at most.
LOOK_EVERY, MOST_LOOKS = 50, 10
#: Folds of which a holdout takes some: its share is met to half a fold.
HOLDOUT_FOLDS = 20
#: A state's GEOID of a district: FIPS code times this, and the district's number.
DISTRICTS_A_STATE = 100


@dataclass(frozen=True)
class FitTask:
    """Fit the weights of all columns; a further fit has a name, and a folder of its own."""

    inputs: Inputs
    id: str
    engine: str
    settings: dict[str, Any]
    name: str = ""
    stage: str = "fit"

    @property
    def folder(self) -> str:
        """The folder of its files in the run."""
        return f"fits/{self.name}" if self.name else "fit"

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths below the run folder of what it reads."""
        return "targets.parquet", "columns.parquet", "matrix.zarr/X"

    @property
    def unfinished(self) -> str:
        """The folder of what it leaves when it is stopped, and goes on from."""
        return f"{self.folder}/checkpoints"


@finished
def fit(task: FitTask) -> tuple[list[str], dict[str, Any]]:
    """Fit weights to the targets of status fit."""
    from distcalib.fit import fit_weights, summarise
    from distcalib.fit.diagnostics import explain, group_causes
    from distcalib.fit.log import performance
    from distcalib.fit.support_by_area import support_by_area

    run = Path(task.inputs.run)
    folder = run / task.folder
    matrix = read_block(run / "matrix.zarr" / "X")
    targets = pd.read_parquet(run / "targets.parquet")
    columns = pd.read_parquet(run / "columns.parquet")
    initial, donors = columns["initial_weight"].to_numpy(np.float64), columns["household_id"].to_numpy()
    outputs, problems = ["weights.npy", "log.csv", "epochs.csv", "diagnostics.csv", "groups.csv"], None
    if not task.name:
        say(doing="what is attainable")
        problems = _consistency(task, matrix, targets, columns)
        _publish_table(folder / "consistency.csv", problems)
        outputs.append("consistency.csv")
    chosen = np.flatnonzero((targets["status"] == "fit").to_numpy())
    fitted = targets.iloc[chosen]
    checkpoints = run / task.unfinished
    result = fit_weights(
        matrix[chosen] if len(chosen) < len(targets) else matrix,
        fitted["value"].to_numpy(np.float64),
        initial_weights=initial,
        donors=donors,
        areas=columns["cd_geoid"].to_numpy(),
        **told_of(fitted),
        engine=task.engine,
        seed=task.inputs.seed,
        checkpoints=checkpoints / task.id[:16],
        progress=_telling(task),
        log_every=max(LOOK_EVERY, task.settings["epochs"] // MOST_LOOKS),
        **fit_arguments(fitted, task.settings, task.inputs.seed),
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    say(doing="tables", fit=task.name)
    table = summarise(
        matrix,
        result.weights,
        targets["value"].to_numpy(np.float64),
        tolerance=targets["tolerance"].to_numpy(np.float64),
        labels=targets[LABELS],
    )
    limits = result.limits
    areas = columns["cd_geoid"].to_numpy()
    causes = explain(table, targets, matrix, result.weights, donors=donors, limits=limits, areas=areas)
    table = pd.concat([table, causes], axis=1)
    gross = abs(matrix[chosen]) @ initial
    looks = performance(
        fitted["name"].to_numpy(), fitted["value"].to_numpy(np.float64), gross, result.estimates
    )
    nation = np.zeros(len(areas), dtype=np.int64)
    levels = {"national": nation, "state": areas // DISTRICTS_A_STATE, "district": areas}
    carried = support_by_area(result.weights, levels, donors, limits)
    publish(folder / "weights.npy", lambda path: np.save(path, result.weights))
    tables = {
        "log.csv": looks,
        "epochs.csv": result.log,
        "diagnostics.csv": table,
        "groups.csv": group_causes(table),
        "areas.csv": carried,
    }
    for name, frame in tables.items():
        _publish_table(folder / name, frame)
    summary = {k: v for k, v in result.summary.items() if k != "timing"}
    summary["effective_share_of_districts"] = _spread(carried, "effective_share")
    if problems is not None:
        counted = problems.loc[problems["problem"] != "", "problem"].value_counts()
        summary["problems"] = {str(k): int(n) for k, n in sorted(counted.items())}
    write_json(folder / "summary.json", summary)
    return [f"{task.folder}/{name}" for name in (*outputs, "areas.csv", "summary.json")], {"summary": summary}


def _telling(task: FitTask) -> Callable[[dict[str, Any]], None]:
    """Return what says rows of the fit's log, one a second at most."""
    said = 0.0

    def tell(row: dict[str, Any]) -> None:
        nonlocal said
        if time.monotonic() - said < 1:
            return
        said = time.monotonic()
        facts = {name: row[name] for name in ("epoch", "loss", "active", "within_5", "held_out_error")}
        # The others go on, in rounds, until the number of records or the areas are as asked.
        of = task.settings["epochs"] if row["stage"] == "gates" else None
        say(doing=row["stage"], fit=task.name, attempt=row["attempt"], of=of, **facts)

    return tell


def _publish_table(path: Path, frame: pd.DataFrame) -> None:
    publish(path, lambda temporary: frame.to_csv(temporary, index=False))


def _consistency(task: FitTask, matrix: Any, targets: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    from distcalib.fit.consistency import consistency
    from distcalib.fit.feasible import limits_before, within_cap

    initial, settings = columns["initial_weight"].to_numpy(np.float64), task.settings
    limits = limits_before(
        initial,
        settings["lower_bound"],
        settings["upper_bound"],
        settings["records"],
        bool(settings["lambda_l0"] or settings["preset"]),
        settings["weight_ratio"],
    )
    return consistency(
        matrix,
        targets,
        initial_weights=initial,
        donors=columns["household_id"].to_numpy(),
        areas=columns["cd_geoid"].to_numpy(),
        limits=within_cap(matrix, targets, limits, settings["share_cap"]),
        few=settings["few_donors"],
    )


def _spread(carried: pd.DataFrame, column: str) -> dict[str, float]:
    """Return the least, the median and the largest of a column over districts."""
    values = carried.loc[carried["geo_level"] == "district", column].dropna()
    return {name: float(values.quantile(q)) for name, q in (("least", 0.0), ("median", 0.5), ("most", 1.0))}


def told_of(fitted: pd.DataFrame) -> dict[str, Any]:
    """Return what `fit_weights` calls each target and its group: words, which decide nothing."""
    from distcalib.fit.diagnostics import group_words

    groups = fitted["group_id"].astype(str) + ": " + group_words(fitted).astype(str)
    return {"names": fitted["name"].to_numpy(object), "group_labels": groups.to_numpy(object)}


def fit_arguments(fitted: pd.DataFrame, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return what `fit_weights` is told beside the matrix: settings of a run in the terms of the fit.

    Parameters
    ----------
    fitted
        The targets of status fit: variable, geo_level, group_id, tolerance, and what tells their places.
    settings
        Those of `distcalib.config.FitConfig`, without the engine.
    seed
        Of the choice of the holdout.
    """
    out = {k: v for k, v in settings.items() if k not in ("group_power", "few_donors", "engine")}
    share = target_shares(fitted, settings["group_power"])
    out["target_weights"] = share * _multipliers(fitted, out.pop("multipliers"))
    if out.pop("tolerance_bands"):
        out["tolerance"] = fitted["tolerance"].to_numpy(np.float64)
    by, held = out.pop("holdout_by"), out["holdout"]
    if held is not None and by != "target":
        out["holdout"] = held_out(fitted, held, by, seed)
    return out


def held_out(fitted: pd.DataFrame, share: float, by: str, seed: int) -> np.ndarray:
    """Choose blocks of targets that come nearest to a share of all, boolean (n fitted targets,).

    Raises
    ------
    InputError
        When there are not two blocks.
    """
    from distcalib.fit.folds import blocked_folds

    try:
        fold = blocked_folds(fitted, max(HOLDOUT_FOLDS, round(1 / share)), seed, by=by, at_most=True)
    except InputError as error:
        raise error.at("fit.holdout") from None
    # At least one fold, and at least one that stays.
    reached = np.cumsum(np.bincount(fold[fold >= 0])) / len(fold)
    return (fold >= 0) & (fold <= int(np.argmin(np.abs(reached[:-1] - share))))


def target_shares(fitted: pd.DataFrame, group_power: float) -> np.ndarray:
    """Return each target's weight in the loss: a group of n targets has n^group_power in all."""
    size = fitted.groupby("group_id")["value"].transform("size").to_numpy(np.float64)
    return size ** (group_power - 1)


def _multipliers(fitted: pd.DataFrame, given: dict[str, float]) -> np.ndarray:
    """Return the factor of each target's loss; VARIABLE@LEVEL goes before VARIABLE."""
    variable = fitted["variable"].astype(str)
    by_level = variable + "@" + fitted["geo_level"].astype(str)
    for name in given:
        choices = by_level if "@" in name else variable
        if name not in set(choices):
            raise InputError(
                "no fitted target has this variable",
                place="fit.multipliers",
                value=name,
                expected="VARIABLE or VARIABLE@LEVEL, such as " + by_level.iloc[0],
                choices=sorted({*variable, *by_level}),
            )
    factor = by_level.map(given).fillna(variable.map(given)).fillna(1.0)
    return factor.to_numpy(np.float64)
