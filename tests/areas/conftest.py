"""Three hundred donors, forty clones of each, everywhere; some have blocks and codes; few have weight."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_file import write_everything

from distcalib import RunConfig
from distcalib.areas.stack import Placing
from distcalib.geography import GeographyAssignment, assign_random_geography
from distcalib.geography.states import STATE_FIPS
from distcalib.microdata import Microdata

CLONES = 40


@pytest.fixture(scope="session")
def assignment(small: Microdata) -> GeographyAssignment:
    bare = assign_random_geography(small.count(), CLONES, 5, household_id=small.ids["household"])
    county = bare.county_fips.astype(np.int64)
    blocks = np.where(bare.state_fips == STATE_FIPS["WY"], 0, county * 10**10 + 10_1000)
    placed = replace(bare, block_geoid=blocks)
    places = np.unique(placed.finest())
    fips = places // 10**13
    codes = {
        # One code, which no part without New York has; codes of several widths; none in Wyoming.
        "place_fips": np.where(fips == 36, "51000", ""),
        "vtd": np.array([str(p // 10**10 % 1000)[-1 - p // 10**10 % 3 :] for p in places.tolist()]),
        "zcta": np.where(fips == STATE_FIPS["WY"], "", "10001"),
    }
    return placed.with_derived(places, codes)


@pytest.fixture(scope="session")
def weights(assignment: GeographyAssignment) -> np.ndarray:
    """Of some states: a quarter of the columns have weight, and one in every district at least."""
    draw = np.random.default_rng(11)
    out = np.where(draw.random(assignment.n_columns) < 0.25, draw.random(assignment.n_columns) * 3000, 0.0)
    out[np.unique(assignment.cd_geoid, return_index=True)[1]] = 77.0
    out[~np.isin(assignment.state_fips, [2, 11, 15, 33, 34, 36, 56])] = 0
    return out.astype(np.float32).astype(np.float64)


@pytest.fixture(scope="session")
def placing(small: Microdata, assignment: GeographyAssignment) -> Placing:
    return Placing(small, assignment, seed=3, take_up=True)


@pytest.fixture(scope="session")
def files(placing, weights, tmp_path_factory) -> tuple[Path, dict[str, dict[str, float]]]:
    """All files of these, in a folder; and what was told of each."""
    folder = tmp_path_factory.mktemp("areas")
    return folder, write_everything(folder, placing, weights)


@pytest.fixture(scope="session")
def run_folder(small_file, tmp_path_factory) -> Any:
    """A run that is planned and has weights, and is not simulated: settings -> (prepared, inputs)."""
    from distcalib import Run
    from distcalib.runs.folder import write_plan

    def prepared(settings: str = ""):
        home = tmp_path_factory.mktemp("planned")
        path = home / "run.yaml"
        path.write_text(
            f"microdata: {small_file}\nn_clones: 8\nseed: 3\n"
            "geography: {districts: [WY-01, NH-01, 3302, NY-12, NY-13, NY-10]}\n" + settings
        )
        run = Run(RunConfig.load(path), home / "run")
        made = run.prepare()
        run.folder.mkdir()
        write_plan(run.folder, made, False)
        draw = np.random.default_rng(2)
        for name in ("fit", *(f"fits/{name}" for name in made.plan.run.fits)):
            (run.folder / name).mkdir(parents=True)
            kept = draw.random(made.assignment.n_columns) < 0.1
            values = np.where(kept, draw.random(len(kept)) * 900, 0).astype(np.float32).astype(np.float64)
            np.save(run.folder / name / "weights.npy", values)
        return made, run._inputs(made.plan)

    return prepared


@pytest.fixture(scope="session")
def planned(run_folder):
    return run_folder("fits: {US-few: {records: 60}}\nareas: {others: {NYC: null}}\n")


@pytest.fixture(scope="session")
def carried(planned):
    """The same run with its files; a fixture that is only read."""
    made, inputs = planned
    return made, _at(inputs, _written(made, inputs))


def _written(made, inputs) -> Path:
    from distcalib.runs.area_stage import area_work, files_of
    from distcalib.runs.tasks import write_areas

    folder = Path(shutil.copytree(inputs.run, Path(inputs.run).parent / "written"))
    mine = _at(inputs, folder)
    for task in area_work(made.plan, mine, files_of(made.plan.run, made.assignment), made.assignment).tasks:
        write_areas(task)
    return folder


def _at(inputs, folder: Path):
    return replace(inputs, run=str(folder))


@pytest.fixture
def prepared(planned, tmp_path):
    """A copy of the planned run, without files."""
    made, inputs = planned
    return made, _at(inputs, shutil.copytree(inputs.run, tmp_path / "run"))


@pytest.fixture
def finished(carried, tmp_path):
    """A copy of the run with its files."""
    made, inputs = carried
    return made, _at(inputs, shutil.copytree(inputs.run, tmp_path / "run"))
