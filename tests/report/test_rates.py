"""Take-up rates solved to enrolment."""

from __future__ import annotations

import pandas as pd
import pytest

from distcalib.geography.states import STATE_CODES
from distcalib.report.rates import SOLVED, _table
from distcalib.simulation.takeup import rates
from distcalib.targets.sources import bundled_targets


@pytest.fixture
def totals():
    """Twice the official count is eligible; a quarter of it reports receipt."""
    register = bundled_targets().query("geo_level == 'state' and status != 'excluded'")
    columns = {}
    for programme in SOLVED:
        rows = register[
            (register["variable"] == programme.variable) & (register["constraints"] == programme.constraints)
        ]
        official = pd.Series(rows["value"].to_numpy(), index=rows["geographic_id"].astype(int).to_numpy())
        assert sorted(official.index) == sorted(STATE_CODES), programme.flag
        columns[str(programme.eligible)] = official * 2
        if programme.reporting:
            columns[str(programme.reporting)] = official / 4
    return pd.DataFrame(columns).sort_index()


def test_rates_lead_from_the_eligible_to_the_official_count(totals):
    table = _table(totals)
    table = table[table["of"] != "all"]
    for programme in SOLVED:
        mine = table[table["variable"] == programme.flag]
        assert sorted(mine["key"]) == (sorted(STATE_CODES.values()) if programme.by else [""])
        # (1 - 1/4) / (2 - 1/4) of those who do not report, or a half of all.
        assert mine["rate"].to_numpy() == pytest.approx(0.429 if programme.reported else 0.5)
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
        assert len(mine) == (51 if programme.by else 1)
        assert (mine["reported"] == programme.reported).all()
        assert mine["rate"].between(0, 1).all()
