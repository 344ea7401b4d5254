"""Costs decide how columns are cut into tasks, never what comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib import RunConfig
from distcalib.errors import InputError
from distcalib.runs.costs import BYTES, SECONDS, Costs, bundled_costs, read_costs, write_costs
from distcalib.runs.plan import make_plan
from distcalib.runs.split import longest_first, standing_tasks
from distcalib.runs.tasks import Inputs
from distcalib.simulation.engine import engine_version


def test_the_bundled_costs_are_of_the_pinned_rules_engine():
    costs = bundled_costs()
    assert costs.policyengine_us == engine_version()
    assert costs.seconds(4000, 27) > costs.seconds(300, 27) > costs.seconds(300, 1)
    assert costs.seconds(4000, 27, verify=True) > costs.seconds(4000, 27)
    assert 3_000 < costs.largest(27) < 100_000


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(0, 5), st.floats(0, 0.1), st.floats(0, 0.01), st.floats(0, 1e-4)]),
    st.floats(1e9, 3e9),
    st.floats(1e4, 1e6),
    st.integers(0, 60),
)
def test_the_largest_slice_keeps_to_time_and_memory(seconds, fixed, each, variables):
    costs = Costs("v", "", seconds, seconds, (fixed, each), (fixed, each), (0.8, 0.0))
    size = costs.largest(variables)
    assert size % 100 == 0
    assert size == 100 or (
        costs.seconds(size, variables) <= SECONDS + 1e-9 and costs.bytes(size) <= BYTES + 1
    )
    assert (
        size == 100_000 or costs.seconds(size + 100, variables) > SECONDS or costs.bytes(size + 100) > BYTES
    )


def test_costs_cut_the_tasks_and_change_no_digest(small_settings, tmp_path):
    config = RunConfig.load(small_settings)
    config = replace(config, simulation=replace(config.simulation, slice_households=None))
    whole = make_plan(config).plan
    assert len(whole.slices) == whole.facts["states"]
    slow = replace(bundled_costs(), simulate_seconds=(1.0, 0.0, 0.2, 0.0))
    write_costs(slow, tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == slow
    cut = make_plan(
        replace(config, simulation=replace(config.simulation, costs=str(tmp_path / "costs.json")))
    ).plan
    assert max(s.size for s in cut.slices) <= 100 < max(s.size for s in whole.slices)
    assert cut.digest() == whole.digest()
    longest, tasks = cut.facts["task_seconds"], cut.facts["tasks"]
    assert sum(longest.values()) < cut.facts["cpu_seconds"]
    assert sum(longest[stage] * tasks[stage] for stage in longest) >= cut.facts["cpu_seconds"]
    assert cut.facts["cpu_seconds"] > whole.facts["cpu_seconds"]
    write_costs(replace(slow, policyengine_us="0.0.1"), tmp_path / "costs.json")
    other = make_plan(
        replace(config, simulation=replace(config.simulation, costs=str(tmp_path / "costs.json")))
    )
    assert any("measured with policyengine-us 0.0.1" in words for words in other.plan.warnings)


def test_states_that_take_longer_have_smaller_slices_and_begin_first(small_settings, tmp_path):
    config = RunConfig.load(small_settings)
    config = replace(config, n_clones=4, simulation=replace(config.simulation, slice_households=None))
    whole = make_plan(config).plan
    assert [s.state_fips for s in whole.slices] == [33, 56]
    costs = replace(bundled_costs(), states={"WY": (2.0, 400.0)})
    write_costs(costs, tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == costs
    own = replace(config.simulation, costs=str(tmp_path / "costs.json"))
    plan = make_plan(replace(config, simulation=own)).plan
    assert plan.digest() == whole.digest()
    assert plan.slices[0] == whole.slices[0]
    assert sum(s.size for s in plan.slices[1:]) == whole.slices[1].size
    assert len(plan.slices) > 3
    assert plan.facts["cpu_seconds"] > whole.facts["cpu_seconds"]
    inputs = Inputs(str(tmp_path), "", "", "", "", 2024, 0, True)
    tasks = longest_first(plan, standing_tasks(plan, inputs, tmp_path))
    assert [t.state_fips for t in tasks] == [56] * (len(tasks) - 1) + [33]
    seconds = {s.id: s.seconds for s in plan.slices}
    assert [seconds[t.id] for t in tasks] == sorted(seconds.values(), reverse=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"simulate_seconds": [1, 2, 3]}, r"simulate_seconds.*4 numbers"),
        ({"simulate_seconds": [1, 2, 3, -1]}, r"simulate_seconds.*\[1, 2, 3, -1\]"),
        ({"simulate_bytes": [1e9, float("nan")]}, "simulate_bytes"),
        ({"simulate_bytes": [1e9, 0]}, "simulate_bytes"),
        ({"verify_bytes": "much"}, "verify_bytes.*'much'"),
        ({"reform_seconds": 0.8}, r"reform_seconds.*2 numbers"),
        ({"states": {"WX": [1, 1]}}, "states: is no state.*'WX'.*did you mean"),
        ({"states": {"WI": 2.3}}, r"states\.WI.*2 numbers"),
        ({"states": [1]}, "states: is no table"),
        ({"secnds": 1}, "field too many.*'secnds'.*did you mean"),
    ],
)
def test_a_file_that_holds_no_costs_is_refused_by_name(tmp_path, change, named):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({**asdict(bundled_costs()), **change}))
    with pytest.raises(InputError, match=rf"costs\.json.*{named}"):
        read_costs(file)
    file.write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        read_costs(file)


@pytest.mark.slow
def test_the_command_measures_costs(small_settings, tmp_path):
    file = tmp_path / "costs.json"
    # A process of its own, as by hand: what earlier tests hold in this one would count as a worker's memory.
    command = [sys.executable, "-m", "distcalib", "data", "costs", str(small_settings), "--by-state"]
    command += ["--output", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tasks of up to" in done.stdout
    costs = read_costs(file)
    assert costs.policyengine_us == engine_version()
    assert 0.3 < costs.seconds(300, 27) < 60
    assert 0.8e9 < costs.bytes(0) < 4e9
    assert np.isfinite(costs.simulate_seconds).all()
    assert costs.states.keys() == {"NH", "WY"}
    assert all(0.1 < factor < 10 for factors in costs.states.values() for factor in factors)
    assert 0 < costs.seconds(300, 27, reforms=2) - costs.seconds(300, 27, reforms=1) < 20
