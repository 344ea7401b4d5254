"""The data check under the real rules: a small file, and the bundled one against the shipped table."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from distcalib.cli import main
from distcalib.matrix.measures import Measure
from distcalib.report.data_check import read_check, shipped_path
from distcalib.report.totals import at_home, simulate_at_home, weighted_by_state
from distcalib.simulation.engine import simulate
from distcalib.simulation.place import place
from distcalib.targets.constraints import parse_constraints

pytestmark = pytest.mark.slow

STATES = (6, 33, 48)
AMOUNTS = ("snap", "eitc", "income_tax_positive", "social_security")


@pytest.fixture(scope="module")
def three_states(bundled):
    """A hundred households each of California, New Hampshire and Texas (fewer where there are fewer)."""
    fips = bundled.column("state_fips")
    chosen = np.concatenate([np.flatnonzero(fips == s)[:100] for s in STATES])
    return bundled.take(chosen, {e: bundled.ids[e][bundled.rows_of(e, chosen)[0]] for e in bundled.ids})


def direct(data, fips, variable):
    """The weighted total of a variable in a state, from a simulation of the placed households made here."""
    here = np.flatnonzero(data.column("state_fips") == fips)
    placed = place(data, at_home(data, 0), here, weights=data.weights[here])
    with simulate(placed, f"test {fips}") as simulation:
        values = simulation.calculate(variable).astype(np.float64)
        entity = placed.variables().get(variable) or {"snap": "spm_unit", "social_security": "person"}.get(
            variable, "tax_unit"
        )
    return float((values * placed.weights[placed.household_of[entity]]).sum())


def test_the_command_gives_what_a_direct_simulation_gives(three_states, tmp_path):
    three_states.write(tmp_path / "three.h5")
    done = CliRunner().invoke(
        main, ["data", "check", "--dataset", str(tmp_path / "three.h5"), "--output", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    table = read_check(tmp_path / "out" / "check.csv")
    register = table[table["section"] == "register"]
    for variable in AMOUNTS:
        mine = register[(register["variable"] == variable) & (register["constraints"] == "")]
        values = mine.set_index("area")["value"]
        expected = [direct(three_states, fips, variable) for fips in STATES]
        assert values["US"] == pytest.approx(sum(expected), rel=1e-6)
        by_state = [values[str(s)] for s in STATES if str(s) in values]
        assert by_state in ([], pytest.approx(expected, rel=1e-6))
    elsewhere = register[~register["area"].isin(["US", *map(str, STATES)])]
    assert len(elsewhere)
    assert (elsewhere["value"] == 0).all()
    gone = table[(table["section"] == "unreachable") & (table["quantity"] == "everything")]
    assert len(gone) == 48
    statuses = table[table["section"] == "filing status"]
    weights = three_states.weights[three_states.household_of["tax_unit"]]
    assert statuses["value"].sum() == pytest.approx(weights.sum())
    assert statuses["quantity"].str.contains("JOINT").any()
    page = (tmp_path / "out" / "check.html").read_text()
    assert "SNAP dollars" in page


def test_full_take_up_counts_more_than_drawn_take_up(three_states):
    enrolled = Measure("person_count", parse_constraints("medicaid_enrolled==True"))
    eligible = Measure("person_count", parse_constraints("is_medicaid_eligible==True"))
    snap = Measure("snap")
    measures = [enrolled, eligible, snap]
    flags = ["takes_up_medicaid_if_eligible", "takes_up_snap_if_eligible"]
    drawn = weighted_by_state(simulate_at_home(three_states, measures), measures)
    everyone = weighted_by_state(simulate_at_home(three_states, measures, claiming=flags), measures)
    # Equal where the rate solved for a state is 1.
    assert (drawn[str(enrolled)] <= everyone[str(enrolled)]).all()
    assert drawn[str(enrolled)].sum() < everyone[str(enrolled)].sum()
    assert (everyone[str(enrolled)] <= everyone[str(eligible)]).all()
    assert everyone[str(snap)].sum() > drawn[str(snap)].sum()


def test_the_bundled_microdata_give_the_shipped_figures(tmp_path):
    done = CliRunner().invoke(main, ["data", "check", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output[-4000:]
    assert "no difference" in done.output
    shipped = read_check(shipped_path())
    assert (shipped["section"] == "headline").sum() >= 16
