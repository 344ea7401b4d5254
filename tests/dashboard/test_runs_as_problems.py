"""A run folder's targets and matrix, checked, calibrated and tuned like a table; the settings fit the run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import write_made_matrix, write_made_run

from distcalib import fit_weights
from distcalib.config import RunConfig
from distcalib.config.yaml_text import parse_yaml
from distcalib.dashboard.checking import checks
from distcalib.dashboard.results import by_group, supporters, weights_table
from distcalib.dashboard.run_problem import problem_of_run
from distcalib.dashboard.session import Session
from distcalib.dashboard.work import Settings, calibrate, tune
from distcalib.errors import InputError
from distcalib.runs.run_fit import RunFit

GEOIDS = [201, 3301, 3302, 5601]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_made_run(tmp_path_factory.mktemp("made") / "run", GEOIDS)
    write_made_matrix(folder)
    columns = pd.read_parquet(folder / "columns.parquet")
    # As far from the targets as a run's are: its matrix holds ones where amounts would be.
    fit = RunFit.read(folder)
    away = np.median(fit.values / (fit.X @ fit.initial + 1e-9))
    columns["initial_weight"] *= away
    columns.to_parquet(folder / "columns.parquet", index=False)
    return folder


@pytest.mark.parametrize("solver", ["all", "gates", "reweighted"])
def test_the_settings_give_the_run_the_same_weights(solver, run, tmp_path):
    said: list[dict] = []
    asked = Settings(solver=solver, records=60, epochs=60, seed=99)
    outcome = calibrate(run, asked, said.append)
    assert len(said) >= 2
    assert outcome.scale == 1
    assert outcome.settings.seed == 3  # the run's
    (tmp_path / "run.yaml").write_text(outcome.yaml)
    RunConfig.load(tmp_path / "run.yaml")
    fit = RunFit.read(run, changes=parse_yaml(outcome.yaml, "run.yaml")["fit"])
    again = fit_weights(fit.X, fit.values, **fit.how)
    assert again.weights.tolist() == outcome.weights.tolist()


def test_a_target_of_a_run_leads_to_its_records(run):
    problem, outcome = problem_of_run(run), calibrate(run, Settings(epochs=20), [].append)
    fit = RunFit.read(run)
    assert problem.targets["value"].tolist() == fit.fitted["value"].tolist()
    row = int(np.argmax(np.diff(fit.X.indptr)))
    table = supporters(problem, outcome, row)
    held = fit.columns.iloc[table["record"]]
    assert table["household_id"].tolist() == held["household_id"].tolist()
    assert table["clone"].tolist() == held["clone"].tolist()
    assert set(zip(table["district"], table["state"], strict=True)) <= {
        ("AK-AL", "AK"), ("AK-01", "AK"), ("NH-01", "NH"), ("NH-02", "NH"), ("WY-01", "WY")
    }  # fmt: skip
    groups = by_group(outcome.targets)
    assert groups["targets"].sum() == len(fit.fitted)
    assert "district: person_count by age" in groups["group"].tolist()
    assert list(weights_table(problem, outcome)) == ["record", "household_id", "weight_before", "weight"]
    told, _, _ = checks(problem)
    assert told["weights"] == "initial_weight"


def test_the_penalty_is_searched_on_the_matrix_of_a_run(run):
    said: list[dict] = []
    best, table = tune(run, (1e-4, 1e-1), 2, 2, 20, Settings(), said.append)
    assert 1e-4 <= best <= 1e-1
    assert len(table) == 2
    assert said


def test_a_run_without_a_matrix_says_so_and_leaves_no_problem(run, tmp_path):
    early = write_made_run(tmp_path / "early", GEOIDS, failed=("assemble", "no memory"))
    session = Session(None, tmp_path, 1 << 20)

    async def take(folder: Path) -> None:
        await session.set_run(folder)

    asyncio.run(take(run))
    assert session.problem is not None
    assert session.problem_folder == run
    asyncio.run(take(early))
    assert session.problem is None
    assert "has no matrix yet" in session.trouble
    session.end()
    assert (run / "plan.json").is_file()
    with pytest.raises(InputError, match="has no matrix yet"):
        calibrate(early, Settings(), [].append)


def test_tables_take_the_place_of_a_run_and_leave_it_whole(run, tmp_path):
    session = Session(None, tmp_path, 1 << 20)
    before = sorted(run.rglob("*"))

    async def steps() -> None:
        await session.set_run(run)
        await session.set_survey("s.csv", pd.DataFrame({"people": [1, 2]}))
        assert session.problem is None
        await session.set_targets("t.csv", pd.DataFrame({"variable": ["count"], "value": [4.0]}))

    asyncio.run(steps())
    assert session.problem.X.shape == (1, 2)
    assert session.problem_folder.parent == session.folder
    session.end()
    assert sorted(run.rglob("*")) == before
