"""The proof of a run: the tasks that read its files, and the judgement over what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.digest import digest_of
from distcalib.errors import RunError
from distcalib.geography.district import District
from distcalib.matrix.blocks import read_block
from distcalib.runs.area_stage import AreaFiles
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt
from distcalib.runs.tasks import Inputs
from distcalib.runs.verify import NationTask, VerifyTask, compare
from distcalib.simulation.installed import RULES
from distcalib.storage import publish


def state_tasks(plan: Plan, inputs: Inputs, files: AreaFiles, written: dict[str, str]) -> list[VerifyTask]:
    """Return a task a state; `written`: digest of each file by its path."""
    tasks = []
    for state, districts in files.states:
        parts = districts if plan.run.areas.districts else ()
        held = {area.file: written[area.file] for area in (state, *parts)}
        task_id = digest_of({**_depends(plan), "files": held})
        tasks.append(VerifyTask(inputs, task_id, state, parts, plan.run.verify.slice_households))
    return tasks


def nation_task(plan: Plan, inputs: Inputs, files: AreaFiles, written: dict[str, str]) -> NationTask:
    """Return the task that holds the nation's file against the states'."""
    assert files.nation is not None
    states = tuple(state for state, _ in files.states)
    held = {area.file: written[area.file] for area in (files.nation, *states)}
    return NationTask(inputs, digest_of({**_depends(plan), "files": held}), files.nation, states)


def _depends(plan: Plan) -> dict[str, str]:
    return {
        "stage": "verify",
        "code": plan.code["verify"],
        "rows": plan.inputs["rows"],
        "rules": plan.versions[RULES],
    }


def judge(folder: Path, plan: Plan, receipts: list[Receipt], weights: np.ndarray) -> dict[str, Any]:
    """Compare files with X.w and districts with their population.

    Parameters
    ----------
    folder, plan
        The run.
    receipts
        Of the states' tasks.
    weights
        Fitted weights, float64, (n_columns,).

    Returns
    -------
    dict
        What the manifest says of the proof.

    Raises
    ------
    RunError
        When guarantee 1 is broken: names the worst target.
    """
    from distcalib.geography.sources import districts

    totals = pd.concat(
        [pd.read_csv(folder / path) for r in receipts for path in r.outputs if "areas" in path]
    )
    publish(folder / "verify/areas.csv", lambda p: totals.to_csv(p, index=False))
    population = {name: n for r in receipts for name, n in r.facts["population"].items()}
    matrix = read_block(folder / "matrix.zarr" / "X")
    table = compare(folder, matrix, weights, plan.run.verify.tolerance)
    publish(folder / "verify/targets.csv", lambda p: table.to_csv(p, index=False))
    official = districts().set_index("cd_geoid")["population"]
    people = pd.DataFrame(
        {
            "district": list(population),
            "population": [float(official[District.parse(d).geoid]) for d in population],
            "from_file": list(population.values()),
        }
    ).sort_values("district")
    people["relative"] = people["from_file"] / people["population"] - 1
    people["listed"] = people["relative"].abs() > plan.run.verify.population
    publish(folder / "verify/population.csv", lambda p: people.to_csv(p, index=False))
    wrong = table[~table["ok"]]
    if len(wrong):
        worst = wrong.sort_values("difference", ascending=False).iloc[0]
        raise RunError(
            f"the files do not give what the matrix promised for {len(wrong)} of {len(table)} targets; "
            f"the worst is {worst['name']}: {worst['from_files']:,.3f} from the files, "
            f"{worst['promised']:,.3f} from X.w (see {folder / 'verify' / 'targets.csv'})"
        )
    return {
        "targets": len(table),
        "largest_difference": float(table["difference"].max()),
        "districts_checked": len(people),
        "population_listed": people.loc[people["listed"], ["district", "relative"]].to_dict("records"),
    }
