"""The files of a run: which there are, and the tasks that write them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distcalib.areas.stack import Area
from distcalib.config.settings import AreasConfig
from distcalib.digest import digest_arrays, digest_of
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.runs.plan import Plan
from distcalib.runs.tasks import AreaTask, Inputs
from distcalib.simulation.installed import RULES


@dataclass(frozen=True)
class AreaFiles:
    """The files of a run.

    Attributes
    ----------
    states
        Each state with its districts, whether or not they have files.
    nation
        The file of all households, if there is one.
    """

    states: tuple[tuple[Area, tuple[Area, ...]], ...]
    nation: Area | None


def files_of(asked: AreasConfig, assignment: GeographyAssignment) -> AreaFiles:
    """Return the files of a run that places its households so."""
    geoids = np.unique(assignment.cd_geoid).tolist()
    states = []
    for fips in sorted({g // 100 for g in geoids}):
        districts = tuple(Area("districts", District(g).name, g) for g in geoids if g // 100 == fips)
        states.append((Area("states", STATE_CODES[fips], fips), districts))
    return AreaFiles(tuple(states), Area("national", "US", 0) if asked.national else None)


def area_tasks(
    plan: Plan, inputs: Inputs, files: AreaFiles, assignment: GeographyAssignment, weights: np.ndarray
) -> list[AreaTask]:
    """Return the tasks that write the files: the nation's, and one a state with its districts'.

    Parameters
    ----------
    plan, inputs, files, assignment
        Of the run.
    weights
        Fitted weights, float64, (n_columns,).
    """
    asked = plan.run.areas
    depends = {
        "stage": "areas",
        "code": plan.code["areas"],
        "inputs": {k: plan.inputs[k] for k in ("microdata", "assignment")},
        "rules": plan.versions[RULES],
        "period": plan.run.period,
        "seed": plan.run.seed,
        "take_up": plan.inputs.get("take_up", plan.run.simulation.take_up),
    }
    tasks = []
    if files.nation is not None:
        share = digest_arrays({"w": weights})
        task_id = digest_of({**depends, "weights": share, "areas": [files.nation.name]})
        tasks.append(AreaTask(inputs, task_id, (files.nation,)))
    for state, districts in files.states:
        wanted = ((state,) if asked.states else ()) + (districts if asked.districts else ())
        share = digest_arrays({"w": weights[assignment.state_fips == state.code]})
        names = [area.name for area in wanted]
        if wanted:
            tasks.append(AreaTask(inputs, digest_of({**depends, "weights": share, "areas": names}), wanted))
    return tasks
