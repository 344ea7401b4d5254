"""The fit as a task: the matrix and its targets in, weights and what they say of every target out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.matrix.blocks import read_block
from distcalib.runs.tasks import Inputs, finished
from distcalib.storage import publish, write_json


@dataclass(frozen=True)
class FitTask:
    """Fit the weights of all columns."""

    inputs: Inputs
    id: str
    engine: str
    settings: dict[str, Any]
    stage: str = "fit"


@finished
def fit(task: FitTask) -> tuple[list[str], dict[str, Any]]:
    """Fit weights to the targets of status fit."""
    from distcalib.fit import fit_weights, summarise
    from distcalib.fit.consistency import consistency, limits_before
    from distcalib.fit.diagnostics import explain, group_causes
    from distcalib.fit.spec import FitSpec

    run = Path(task.inputs.run)
    matrix = read_block(run / "matrix.zarr" / "X")
    targets = pd.read_parquet(run / "targets.parquet")
    columns = pd.read_parquet(run / "columns.parquet")
    chosen = np.flatnonzero((targets["status"] == "fit").to_numpy())
    fitted = targets.iloc[chosen]
    settings = dict(task.settings)
    share, few = target_shares(fitted, settings.pop("group_power")), settings.pop("few_donors")
    folder = run / "fit"
    problems = consistency(
        matrix,
        targets,
        initial_weights=columns["initial_weight"].to_numpy(np.float64),
        donors=columns["household_id"].to_numpy(),
        areas=columns["cd_geoid"].to_numpy(),
        limits=limits_before(
            columns["initial_weight"].to_numpy(np.float64),
            settings.get("lower_bound", FitSpec.lower_bound),
            settings.get("upper_bound", FitSpec.upper_bound),
            settings.get("records"),
            bool(settings.get("lambda_l0")),
        ),
        few=few,
    )
    publish(folder / "consistency.csv", lambda path: problems.to_csv(path, index=False))
    result = fit_weights(
        matrix[chosen],
        fitted["value"].to_numpy(np.float64),
        target_weights=share,
        initial_weights=columns["initial_weight"].to_numpy(np.float64),
        donors=columns["household_id"].to_numpy(),
        names=fitted["name"].tolist(),
        engine=task.engine,
        seed=task.inputs.seed,
        checkpoints=folder / "checkpoints" / task.id[:16],
        **settings,
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    labels = [
        "target_id",
        "name",
        "variable",
        "geo_level",
        "geographic_id",
        "domain_variable",
        "group_id",
        "status",
    ]
    table = summarise(
        matrix,
        result.weights,
        targets["value"].to_numpy(np.float64),
        tolerance=targets["tolerance"].to_numpy(np.float64),
        labels=targets[labels],
    )
    start = result.summary["mass_scale"] * columns["initial_weight"].to_numpy() * (result.weights > 0)
    causes = explain(
        table,
        targets,
        matrix,
        result.weights,
        donors=columns["household_id"].to_numpy(),
        limits=(result.spec.lower_bound * start, result.spec.upper_bound * start),
        areas=columns["cd_geoid"].to_numpy(),
    )
    table = pd.concat([table, causes], axis=1)
    publish(folder / "weights.npy", lambda path: np.save(path, result.weights))
    publish(folder / "log.csv", lambda path: result.log.to_csv(path, index=False))
    publish(folder / "diagnostics.csv", lambda path: table.to_csv(path, index=False))
    publish(folder / "groups.csv", lambda path: group_causes(table).to_csv(path, index=False))
    summary = {k: v for k, v in result.summary.items() if k != "timing"}
    counted = problems.loc[problems["problem"] != "", "problem"].value_counts()
    summary["problems"] = {str(k): int(n) for k, n in sorted(counted.items())}
    write_json(folder / "summary.json", summary)
    outputs = [
        "weights.npy", "log.csv", "consistency.csv", "diagnostics.csv", "groups.csv", "summary.json",
    ]  # fmt: skip
    return [f"fit/{name}" for name in outputs], {"summary": summary}


def target_shares(fitted: pd.DataFrame, group_power: float) -> np.ndarray:
    """Return each target's weight in the loss: a group of n targets has n^group_power in all."""
    size = fitted.groupby("group_id")["value"].transform("size").to_numpy(np.float64)
    return size ** (group_power - 1)
