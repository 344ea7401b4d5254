"""A run folder as a problem: its fitted targets and its matrix, to be calibrated like a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distcalib.dashboard.problem import MOST_PAIRS, Problem
from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.report.tiles import district_name
from distcalib.runs.run_fit import RunFit


def problem_of_run(folder: Path) -> Problem:
    """Return the problem that the fit of a run solves; each of its targets counts alike.

    Returns
    -------
    Problem
        `survey` has one row a column of the matrix: household_id, clone, district, state.

    Raises
    ------
    InputError
        When the folder is none of a run, has no matrix yet, or holds more than `MOST_PAIRS` cells.
    """
    fit = RunFit.read(folder)
    if fit.X.nnz > MOST_PAIRS:
        raise InputError(
            "has too many cells for the dashboard", place=folder / "matrix.zarr/X", value=f"{fit.X.nnz:,}",
            expected=f"at most {MOST_PAIRS:,}; distcalib run and distcalib tune take more",
        )  # fmt: skip
    targets = pd.DataFrame({"name": fit.fitted["name"].astype("str"), "variable": fit.fitted["variable"]})
    by = fit.fitted["domain_variable"].fillna("").astype("str")
    of = fit.fitted["geo_level"].astype("str") + ": " + targets["variable"].astype("str")
    targets.insert(1, "group", of + (" by " + by).where(by != "", ""))
    again = targets["name"].duplicated()
    if again.any():
        raise InputError(
            "names two targets", place=folder / "targets.parquet: name", value=targets["name"][again].iloc[0]
        )
    district = fit.columns["cd_geoid"]
    place = {geoid: district_name(int(geoid)) for geoid in district.unique()}
    state = {geoid: STATE_CODES.get(int(geoid) // 100, "") for geoid in place}
    records = fit.columns[["household_id", *({"clone"} & set(fit.columns))]].assign(
        district=district.map(place).astype("category"), state=district.map(state).astype("category")
    )
    return Problem(
        records.reset_index(drop=True), targets.assign(value=fit.values), fit.X, fit.initial,
        "initial_weight", fit.how["seed"],
    )  # fmt: skip


def problem_in(folder: Path) -> Problem:
    """Return the problem that lies in a folder: of a run, or what `Problem.save` wrote."""
    return problem_of_run(folder) if (folder / "plan.json").is_file() else Problem.load(folder)
