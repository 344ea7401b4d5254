"""All files of a placement or of a planned run, written; and what an HDF5 file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from distcalib.areas.area import Area
from distcalib.areas.stack import Placing, write_together
from distcalib.geography import GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.runs.area_stage import AreaWork, area_work, files_of
from distcalib.runs.tasks import write_areas
from distcalib.storage import sha256_file


def areas_of(
    assignment: GeographyAssignment, weights: np.ndarray
) -> tuple[Area, list[tuple[Area, list[Area]]]]:
    """The nation; and each state with its districts, where there is weight."""
    states: dict[int, list[Area]] = {}
    for geoid in np.unique(assignment.cd_geoid[weights > 0]).tolist():
        states.setdefault(geoid // 100, []).append(Area("districts", District(geoid).name, geoid))
    return Area("national", "US"), [(Area("states", STATE_CODES[f], f), d) for f, d in states.items()]


def write_everything(folder: Path, placing: Placing, weights: np.ndarray) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = {}

    def note(area: Area, facts: dict[str, float]) -> None:
        told[area.file] = facts

    nation, states = areas_of(placing.assignment, weights)
    write_together(folder, placing, weights, nation, (), note)
    for state, districts in states:
        write_together(folder, placing, weights, state, districts, note)
    return told


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as h5:
        return {f"{name}/{when}": h5[name][when][:] for name in h5 for when in h5[name]}


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every dataset and mapping of a run folder."""
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.glob("areas/*/*")}


def with_areas(plan, **values):
    return replace(plan, run=plan.run.changed(areas=replace(plan.run.areas, **values)))


def work_of(made, inputs, plan=None) -> AreaWork:
    plan = plan or made.plan
    return area_work(plan, inputs, files_of(plan.run, made.assignment), made.assignment)


def carried_out(made, inputs, plan=None) -> AreaWork:
    work = work_of(made, inputs, plan)
    for task in work.tasks:
        write_areas(task)
    return work
