"""Take-up rates solved to enrolment: which share of the eligible has to claim to give the official count.

Survey microdata hold another number of eligible persons than there are (incomes of a whole year, no assets,
no immigration status), so a published rate of participation among the truly eligible does not lead to the
number of participants. The rate that does is official count / eligible in these microdata, at most 1, by
state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.measures import Measure
from distcalib.microdata.model import Microdata
from distcalib.report.totals import simulate_at_home, weighted_by_state
from distcalib.simulation.takeup import rates
from distcalib.targets.constraints import parse_constraints
from distcalib.targets.sources import bundled_targets


@dataclass(frozen=True)
class Programme:
    """A take-up flag and the count of recipients that its rate is solved to.

    Attributes
    ----------
    flag
        The take-up input.
    variable, constraints
        The target of the register whose state rows are the official counts.
    reported
        The input that shows reported receipt; empty where the microdata have none.
    by
        ``state``, or empty for one rate for the nation: the source's imputed receipt is right for the nation,
        but in some states above the official count by itself.
    """

    flag: str
    variable: str
    constraints: str
    reported: str = ""
    by: str = "state"

    @property
    def eligible(self) -> Measure:
        """The recipients if everybody claimed."""
        return Measure(self.variable, parse_constraints(self.constraints))

    @property
    def reporting(self) -> Measure | None:
        """Those of them who report receipt."""
        if not self.reported:
            return None
        return Measure(self.variable, parse_constraints(f"{self.constraints}&{self.reported}>0"))


SOLVED = (
    Programme("takes_up_snap_if_eligible", "household_count", "snap>0", "spm_unit_snap", by=""),
    Programme("takes_up_medicaid_if_eligible", "person_count", "medicaid_enrolled==True"),
    Programme("takes_up_aca_if_eligible", "person_count", "aca_ptc>0&person_receives_aca==True"),
)


def solve_rates(
    microdata: Microdata, seed: int = 0, report: Callable[[dict[str, Any]], object] = lambda event: None
) -> pd.DataFrame:
    """Return the table of take-up rates with those of `SOLVED` solved again, by state or for the nation.

    Where the microdata report receipt, reporters claim and the rate is that of the others:
    (official - reporters who are eligible) / (eligible - reporters who are eligible), within 0 and 1.

    Parameters
    ----------
    microdata
        Households of the whole nation with weights; the full source rather than a sample, because a state's
        rate is as uncertain as its households are few.
    seed
        Seed of the other programmes' draws.
    report
        Takes events, as `simulate_at_home`.

    Returns
    -------
    DataFrame
        The columns of ``take_up.csv``; rates to three digits.
    """
    programmes = solvable(microdata)
    flags = [p.flag for p in programmes]
    measures = [m for p in programmes for m in (p.eligible, p.reporting) if m is not None]
    simulated = simulate_at_home(
        microdata, measures, claiming=flags, seed=seed, report=report, name="solve take-up"
    )
    return _table(weighted_by_state(simulated, measures), programmes)


def solvable(microdata: Microdata) -> tuple[Programme, ...]:
    """Return `SOLVED` as these microdata allow it: without reporters where they hold no report of receipt.

    Raises
    ------
    InputError
        When a state has no households: its rates cannot be solved.
    """
    empty = np.setdiff1d(list(STATE_CODES), np.unique(microdata.column("state_fips")))
    if empty.size:
        raise InputError(
            f"{empty.size} states have no households, so their take-up cannot be solved",
            place="state_fips of the microdata",
            value=STATE_CODES[int(empty[0])],
            expected="households in every state and DC",
        )
    held = microdata.variables()
    return tuple(p if p.reported in held else replace(p, reported="") for p in SOLVED)


def _table(totals: pd.DataFrame, programmes: tuple[Programme, ...] = SOLVED) -> pd.DataFrame:
    """Return the table with rates from totals by state: the eligible, and those who report receipt."""
    table = rates()
    register = bundled_targets().query("geo_level == 'state' and reform_id == 0 and status != 'excluded'")
    codes = [STATE_CODES[int(fips)] for fips in totals.index]
    # A published rate of all stays: it holds for microdata that report no receipt.
    solved = table["variable"].isin([p.flag for p in programmes]) & (table["of"] != "all")
    solved |= table["variable"].isin([p.flag for p in programmes if not p.reported])
    parts = [table[~solved]]
    for programme in programmes:
        same = (register["variable"] == programme.variable) & (
            register["constraints"] == programme.constraints
        )
        rows = register[same]
        official = pd.Series(rows["value"].to_numpy(), index=rows["geographic_id"].astype(int).to_numpy())
        reporters = totals[str(programme.reporting)] if programme.reporting else 0.0
        others = totals[str(programme.eligible)] - reporters
        missing = official.reindex(totals.index) - reporters
        share = missing / others if programme.by else pd.Series([missing.sum() / others.sum()])
        source = f"{rows['source'].iloc[0]}, {rows['vintage'].iloc[0]}: over the eligible of the microdata"
        parts.append(
            pd.DataFrame(
                {
                    "variable": programme.flag,
                    "by": programme.by,
                    "key": codes if programme.by else "",
                    "rate": np.round(share.clip(0, 1).to_numpy(), 3),
                    "reported": programme.reported,
                    "of": "others" if programme.reported else "",
                    "source": source,
                }
            )
        )
    out = pd.concat(parts, ignore_index=True)[list(table.columns)]
    return out.sort_values(["variable", "by", "key", "of"], kind="stable", ignore_index=True)
