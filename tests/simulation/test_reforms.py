"""Reforms: a branch of a simulation, a simulation built with the reform and a published file agree."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distcalib import CalibrationMatrix, ClusterConfig, Run, RunConfig
from distcalib.errors import InputError
from distcalib.matrix.measures import Measure, evaluate
from distcalib.simulation.engine import checked, open_published, simulate
from distcalib.simulation.reforms import reform_of
from distcalib.targets.database import write_database_file
from distcalib.targets.reforms import REFORMS


@pytest.fixture(scope="module")
def californians(bundled):
    """A hundred and fifty households of one state with an income tax of its own, so that SALT matters."""
    return bundled.take(np.flatnonzero(bundled.column("state_fips") == 6)[:150])


@pytest.fixture(scope="module")
def taxes(californians):
    """Income tax as it is (0) and under each reform, calculated after what else a task asks for."""
    with simulate(californians) as simulation:
        for variable in ("snap", "aca_ptc", "state_income_tax", "salt_deduction"):
            simulation.calculate(variable)
        out = {0: simulation.calculate("income_tax")}
        out |= {k: simulation.calculate("income_tax", k) for k in REFORMS}
        again = simulation.calculate("income_tax")
        assert not [name for name in simulation._engine.branches if name.startswith("reform")]
    np.testing.assert_array_equal(again, out[0], err_msg="a reform changed the simulation it branched from")
    return out


def test_an_unknown_reform_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match=r"no such reform.*6"):
        reform_of(6)


def test_striking_out_a_deduction_adds_tax(taxes):
    for k in REFORMS:
        gain = taxes[k].astype(float) - taxes[0]
        assert gain.sum() > 0, REFORMS[k].label
        # Who does not claim the deduction pays what he paid.
        assert (gain == 0).mean() > 0.5, REFORMS[k].label


def test_a_measure_of_a_reform_is_its_tax_less_the_tax_as_it_is(californians, taxes):
    some = (4, 1)
    measures = [Measure(REFORMS[k].variables[0], (), k) for k in some]
    with simulate(californians) as simulation:
        table = evaluate(measures, californians, simulation.calculate)
    home = californians.household_of["tax_unit"]
    for i, k in enumerate(some):
        gain = taxes[k].astype(float) - taxes[0]
        np.testing.assert_array_equal(table[:, i], np.bincount(home, gain).astype(np.float32))


def test_a_published_file_gives_the_same_bit_for_bit(californians, taxes, tmp_path):
    californians.write(tmp_path / "CA.h5")
    for opened in open_published(tmp_path / "CA.h5", 2024):
        for k in (0, 1, 5):
            np.testing.assert_array_equal(opened.calculate("income_tax", k), taxes[k], err_msg=str(k))


@pytest.fixture(scope="module")
def rebuilt(californians, tmp_path_factory):
    """Income tax of simulations built with each reform; see `rebuild`. It takes half a minute a reform."""
    folder = tmp_path_factory.mktemp("rebuilt")
    californians.write(folder / "CA.h5")
    subprocess.run([sys.executable, __file__, str(folder), *map(str, REFORMS)], check=True, timeout=1200)
    return {k: np.load(folder / f"{k}.npy") for k in REFORMS}


@pytest.mark.slow
@pytest.mark.parametrize("reform_id", REFORMS)
def test_a_branch_equals_a_simulation_built_with_the_reform(californians, taxes, rebuilt, reform_id):
    """The deduction neutralised in the tax system itself."""
    expected = checked(rebuilt[reform_id], "income_tax", californians.count("tax_unit"), "reform")
    np.testing.assert_array_equal(taxes[reform_id], expected)
    assert (expected != taxes[0]).any()


@pytest.mark.slow
def test_files_give_what_the_matrix_promised_of_a_reform(small_settings, tmp_path):
    """A real run to a user's database: persons, children and two tax expenditures of a state."""
    row = {
        "geo_level": "state",
        "geographic_id": "33",
        "constraints": "",
        "period": 2024,
        "tolerance": 0.1,
    }
    row |= {"status": "fit", "source": "test"}
    table = pd.DataFrame(
        [
            {**row, "variable": "person_count", "reform_id": 0, "value": 1.4e6},
            {**row, "variable": "person_count", "reform_id": 0, "value": 2.5e5, "constraints": "age<18"},
            {**row, "variable": "salt_deduction", "reform_id": 1, "value": 2e8},
            {**row, "variable": "qualified_business_income_deduction", "reform_id": 5, "value": 1e8},
        ]
    )
    write_database_file(table, tmp_path / "targets.db")
    config = RunConfig.load(small_settings)
    config = config.changed(targets=replace(config.targets, database=str(tmp_path / "targets.db")))
    Run(config, tmp_path / "run", ClusterConfig(kind="serial")).execute()
    found = pd.read_csv(tmp_path / "run" / "verify" / "targets.csv").set_index("name")
    matrix = CalibrationMatrix.load(tmp_path / "run")
    reforms = matrix.targets["reform_id"].to_numpy() > 0
    assert reforms.sum() == 2
    assert (np.diff(matrix.X.indptr)[reforms] > 0).all()
    assert found["ok"].all()
    assert (found["from_files"] > 0).all()
    areas = pd.read_csv(tmp_path / "run" / "verify" / "areas.csv")
    assert not set(areas["variable"]) & {"salt_deduction", "qualified_business_income_deduction"}
    assert {"person_count", "person_in_poverty"} <= set(areas["variable"])


def rebuild(folder: Path, reform_id: int) -> None:
    """Calculate income tax with a deduction neutralised in the tax system itself."""
    from policyengine_core.reforms import Reform
    from policyengine_us import Microsimulation

    class Neutralised(Reform):
        def apply(self) -> None:
            for variable in REFORMS[reform_id].variables:
                self.neutralize_variable(variable)

    simulation = Microsimulation(dataset=str(folder / "CA.h5"), reform=Neutralised)
    with np.errstate(all="ignore"):
        values = simulation.calculate("income_tax", 2024)
    np.save(folder / f"{reform_id}.npy", pd.Series.to_numpy(values))


if __name__ == "__main__":
    # The engine keeps every tax system that is built: each ends with a process of its own.
    import policyengine_us  # noqa: F401  # once, before processes are forked

    fork = multiprocessing.get_context("fork")
    for number in sys.argv[2:]:
        one = fork.Process(target=rebuild, args=(Path(sys.argv[1]), int(number)))
        one.start()
        one.join()
        if one.exitcode:
            sys.exit(f"reform {number} ended with {one.exitcode}")
