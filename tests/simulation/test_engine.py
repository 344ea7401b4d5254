"""The rules engine: a task and a published file give the same values; no failure becomes a zero."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest

from distcalib.errors import RunError
from distcalib.geography import assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.simulation import engine
from distcalib.simulation.engine import checked, open_published, simulate
from distcalib.simulation.place import place

VARIABLES = (
    "snap",
    "income_tax",
    "state_income_tax",
    "medicaid_enrolled",
    "aca_ptc",
    "ssi",
    "eitc",
    "county",
)


@pytest.fixture(scope="module")
def placed(small):
    """Sixty households, all in Vermont, whatever state the source has them in."""
    table = districts()
    vermont = table[table["state"] == "VT"]
    assignment = assign_geography(small.ids["household"], 1, vermont, county_shares(), 1)
    return place(small, assignment, np.arange(0, 300, 5), weights=np.linspace(1, 60, 60), seed=4)


@pytest.fixture(scope="module")
def values(placed):
    with simulate(placed) as simulation:
        return {v: simulation.calculate(v) for v in VARIABLES}


def test_a_task_and_the_published_file_agree_bit_for_bit(placed, values, tmp_path):
    placed.write(tmp_path / "VT-01.h5")
    (whole,) = [
        {v: opened.calculate(v) for v in VARIABLES} for opened in open_published(tmp_path / "VT-01.h5", 2024)
    ]
    parts = [
        {v: opened.calculate(v) for v in VARIABLES}
        for opened in open_published(tmp_path / "VT-01.h5", 2024, 25)
    ]
    assert len(parts) == 3
    for variable in VARIABLES:
        np.testing.assert_array_equal(whole[variable], values[variable], err_msg=variable)
        together = np.concatenate([part[variable] for part in parts])
        np.testing.assert_array_equal(together, values[variable], err_msg=variable)
    assert values["snap"].any()
    assert values["state_income_tax"].any()
    assert all(str(c).endswith("_VT") for c in values["county"])


def test_values_do_not_depend_on_who_else_is_simulated(placed, values):
    part = np.arange(0, 60, 7)
    ids = {e: placed.ids[e][placed.rows_of(e, part)[0]] for e in placed.ids}
    with simulate(placed.take(part, ids)) as simulation:
        for variable in VARIABLES:
            entity = engine.catalogue().variables[variable].entity
            rows = placed.rows_of(entity, part)[0]
            np.testing.assert_array_equal(
                simulation.calculate(variable), values[variable][rows], err_msg=variable
            )


def test_take_up_flags_decide(placed, values):
    nobody = placed.with_columns({"takes_up_snap_if_eligible": np.zeros(placed.count("spm_unit"), bool)})
    with simulate(nobody) as simulation:
        assert not simulation.calculate("snap").any()
    flags = placed.column("takes_up_snap_if_eligible")
    assert not values["snap"][~flags].any()


def test_a_variable_that_fails_is_an_error_that_names_place_and_variable(placed, monkeypatch):
    with simulate(placed, "simulate state 50") as simulation:

        def fail(variable, period):
            raise KeyError("no such parameter")

        monkeypatch.setattr(simulation._engine, "calculate", fail)
        with pytest.raises(
            RunError, match=r"simulate state 50: policyengine-us failed on snap.*no such parameter"
        ):
            simulation.calculate("snap")


@pytest.mark.parametrize(
    ("parameter", "variable"),
    [("gov.ssa.ssi.amount.individual", "ssi"), ("gov.irs.credits.eitc.max", "eitc")],
)
def test_a_parameter_without_a_value_for_the_year_is_an_error_and_no_zero(
    placed, values, parameter, variable
):
    from policyengine_core.parameters import Parameter
    from policyengine_us.system import system

    assert values[variable].any()
    node = system.parameters.get_child(parameter)
    leaves = [leaf for leaf in [node, *node.get_descendants()] if isinstance(leaf, Parameter)]
    whole = [leaf.values_list for leaf in leaves]

    def have(lists) -> None:
        for leaf, values_list in zip(leaves, lists, strict=True):
            leaf.values_list = values_list
        # What was looked up at some instant has the other values.
        for above in (system.parameters, *system.parameters.get_descendants()):
            getattr(above, "_at_instant_cache", {}).clear()
        system._parameters_at_instant_cache.clear()

    have([[value for value in values_list if value.instant_str > "2030"] for values_list in whole])
    try:
        with (
            simulate(placed, "here") as simulation,
            pytest.raises(RunError, match=rf"failed on {variable}: Par"),
        ):
            simulation.calculate(variable)
    finally:
        have(whole)
    with simulate(placed) as simulation:
        np.testing.assert_array_equal(simulation.calculate(variable), values[variable])


def test_what_is_not_finite_or_not_complete_is_an_error():
    with pytest.raises(RunError, match="snap is not finite for 1 units"):
        checked(np.array([1.0, np.nan]), "snap", 2, "x")
    with pytest.raises(RunError, match=r"shape \(2,\), expected \(3,\)"):
        checked(np.zeros(2), "snap", 3, "x")


def test_another_version_than_the_catalogues_is_refused(monkeypatch):
    monkeypatch.setattr(engine, "engine_version", lambda: "2.99.0")
    with pytest.raises(RunError, match=r"policyengine-us 2\.99\.0 is installed.*2\.68\.0"):
        engine.check_version()


def test_the_catalogue_describes_the_installed_engine(tmp_path):
    from distcalib.simulation.catalogue import write_catalogue

    packaged = engine.__file__.replace("engine.py", "bundled/catalogue.json.gz")
    write_catalogue(tmp_path / "catalogue.json.gz")
    with open(packaged, "rb") as file:
        assert (tmp_path / "catalogue.json.gz").read_bytes() == file.read()


def test_the_coordinator_never_loads_the_rules_engine(settings, tmp_path):
    code = (
        "import sys; from click.testing import CliRunner; from distcalib.cli import main;"
        f"r = CliRunner().invoke(main, ['plan', {str(settings)!r}, '--output', {str(tmp_path / 'out')!r}]);"
        "print(r.exit_code, 'policyengine_us' in sys.modules, 'policyengine_core' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["0", "False", "False"], out


def test_what_a_simulation_leaves_to_later_ones_is_set_aside_once(monkeypatch):
    """New York keeps a cloned tax system: walking it took each later task of its worker two seconds."""
    kept = [0]
    monkeypatch.setattr(engine, "_aside", True)
    monkeypatch.setattr(engine, "_systems", 0)
    monkeypatch.setattr(engine, "kept_systems", lambda: kept[0])
    frozen = []
    try:
        for now in (0, 1, 1, 2):
            with engine._collected():
                kept[0] = now
                left = [[i] for i in range(1000)]
            frozen.append(gc.get_freeze_count())
            assert len(left) == 1000
    finally:
        gc.unfreeze()
    assert frozen[0] == 0
    assert frozen[1] > 1000
    assert 0 < frozen[2] <= frozen[1]
    assert frozen[3] >= frozen[2] + 1000
