"""Take-up rates solved to official counts."""

from __future__ import annotations

import pandas as pd
import pytest

from distcalib.geography.states import STATE_CODES
from distcalib.report.rates import SOLVED, Programme, _table
from distcalib.simulation.takeup import rates
from distcalib.targets.sources import MIN_TOLERANCE, bundled_targets, starting_totals


def official(programme: Programme) -> pd.Series:
    """Return the official count by state; the nation's, where there is no other, in equal parts."""
    register = bundled_targets().query("reform_id == 0 and status != 'excluded'")
    rows = register[
        (register["variable"] == programme.variable) & (register["constraints"] == programme.constraints)
    ]
    states = rows[rows["geo_level"] == "state"]
    if programme.by == "income" or states.empty:
        return pd.Series(rows.query("geo_level == 'national'")["value"].item() / 51, index=list(STATE_CODES))
    return pd.Series(states["value"].to_numpy(), index=states["geographic_id"].astype(int).to_numpy())


@pytest.fixture
def totals():
    """Twice the official count is eligible; a quarter of it reports receipt; half of it counts anyway."""
    columns = {}
    for programme in SOLVED:
        count = official(programme)
        assert sorted(count.index) == sorted(STATE_CODES), programme.flag
        columns[str(programme.eligible)] = count * 2
        if programme.reporting:
            columns[str(programme.reporting)] = count / 4
        if programme.deciding:
            columns[str(programme.deciding)] = count * 1.5
    return pd.DataFrame(columns).sort_index()


def test_rates_lead_from_the_eligible_to_the_official_count(totals):
    table = _table(totals)
    table = table[table["of"] != "all"]
    for programme in SOLVED:
        mine = table[table["variable"] == programme.flag]
        keys = sorted(p.key for p in SOLVED if p.flag == programme.flag)
        assert sorted(mine["key"]) == (sorted(STATE_CODES.values()) if programme.by == "state" else keys)
        # (1 - 1/4) / (2 - 1/4) of those who do not report, a half of all, (1 - 1/2) / 1.5 of who decides.
        expected = 0.429 if programme.reported else 0.333 if programme.undecided else 0.5
        assert mine["rate"].to_numpy() == pytest.approx(expected)
        assert set(mine["of"]) == ({"others"} if programme.reported else {""})
    others = ~table["variable"].isin([p.flag for p in SOLVED])
    known = rates()
    known = known[known["of"] != "all"]
    pd.testing.assert_frame_equal(
        table[others].reset_index(drop=True),
        known[~known["variable"].isin([p.flag for p in SOLVED])].reset_index(drop=True),
    )


def test_rates_stay_between_none_and_all(totals):
    few, many = totals.copy(), totals.copy()
    few[[str(p.eligible) for p in SOLVED]] /= 8
    few[[str(p.reporting) for p in SOLVED if p.reporting]] = 0
    for programme in SOLVED:
        if programme.deciding:
            few[str(programme.deciding)] = few[str(programme.eligible)]
    many[[str(p.reporting) for p in SOLVED if p.reporting]] *= 5
    found = _table(few).query("of != 'all'")
    assert (found["rate"][found["variable"].isin([p.flag for p in SOLVED])] == 1).all()
    snap = _table(many).query("variable == 'takes_up_snap_if_eligible' and of == 'others'")
    assert (snap["rate"] == 0).all()


def test_the_bundled_rates_are_solved_ones():
    table = rates().query("of != 'all'")
    for programme in SOLVED:
        mine = table[table["variable"] == programme.flag]
        assert (mine["by"] == programme.by).all()
        same = [p for p in SOLVED if p.flag == programme.flag]
        assert len(mine) == (51 if programme.by == "state" else len(same))
        assert (mine["reported"] == programme.reported).all()
        assert mine["rate"].between(0, 1).all()


def test_drawn_at_the_bundled_rates_the_bundled_microdata_come_to_the_official_counts():
    drawn = starting_totals().set_index(["variable", "constraints"])["starting"]
    nation = bundled_targets().query("geo_level == 'national' and status != 'excluded'")
    official = nation.sort_values("period").groupby(["variable", "constraints"])["value"].last()
    table = rates().query("of != 'all'")
    for programme in SOLVED:
        mine = table[(table["variable"] == programme.flag) & (table["key"] == programme.key)]
        if programme.by == "state" or (mine["rate"] == 1).all():
            continue  # a state's rate may be at its bound, and its households are few
        quantity = (programme.variable, programme.constraints)
        # The rates are solved on the whole source; the bundled sample may be off by a target's tolerance.
        assert drawn[quantity] == pytest.approx(official[quantity], rel=MIN_TOLERANCE), programme


def test_who_files_anyway_is_not_asked():
    filing = [p for p in SOLVED if p.by == "income"]
    assert [float(p.key) for p in filing] == sorted(float(p.key) for p in filing)
    for programme in filing:
        assert {c.variable for c in programme.deciding.constraints} == {
            "tax_unit_is_filer", "adjusted_gross_income", "tax_unit_is_required_to_file",
            "eligible_for_refundable_credits",
        }  # fmt: skip
