"""Take-up rates solved to official counts: which share of the eligible has to claim to give the count.

Survey microdata hold another number of eligible persons than there are (incomes of a whole year, no assets,
no immigration status), so a published rate of participation among the truly eligible does not lead to the
number of participants. The rate that does is official count / eligible in these microdata, at most 1: by
state, for the nation, or by bands of income.
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
from distcalib.targets.constraints import constraint_text, parse_constraints
from distcalib.targets.sources import bundled_targets


@dataclass(frozen=True)
class Programme:
    """A take-up flag and the count of recipients that its rate is solved to.

    Attributes
    ----------
    flag
        The take-up input.
    variable, constraints
        The target of the register whose rows are the official counts: those of states, or of the nation.
    reported
        The input that shows reported receipt; empty where the microdata have none.
    by
        ``state``; ``income``; or empty for one rate for the nation: the source's imputed receipt is right for
        the nation, but in some states above the official count by itself.
    key
        Of ``income``: the least income of the band that the constraints say.
    undecided
        Constraints of those who count only if they take up; empty where nobody counts otherwise.
    """

    flag: str
    variable: str
    constraints: str
    reported: str = ""
    by: str = "state"
    key: str = ""
    undecided: str = ""

    @property
    def eligible(self) -> Measure:
        """The recipients if everybody claimed."""
        return Measure(self.variable, parse_constraints(self.constraints))

    @property
    def reporting(self) -> Measure | None:
        """Those of them who report receipt."""
        return self._among(f"{self.reported}>0") if self.reported else None

    @property
    def deciding(self) -> Measure | None:
        """Those of them who count only if they take up, where others count without."""
        return self._among(self.undecided) if self.undecided else None

    def _among(self, more: str) -> Measure:
        return Measure(self.variable, parse_constraints(f"{self.constraints}&{more}"))


SOLVED = (
    Programme("takes_up_snap_if_eligible", "household_count", "snap>0", "spm_unit_snap", by=""),
    Programme("takes_up_medicaid_if_eligible", "person_count", "medicaid_enrolled==True"),
    Programme("takes_up_aca_if_eligible", "person_count", "aca_ptc>0&person_receives_aca==True"),
    Programme("takes_up_wic_if_eligible", "person_count", "wic>0", by=""),
    *(
        Programme(
            "would_file_taxes_voluntarily",
            "tax_unit_count",
            constraint_text(parse_constraints(f"tax_unit_is_filer==1&{band}")),
            by="income",
            key=key,
            # Who has to file, or is refunded a credit, files whatever the flag says.
            undecided="tax_unit_is_required_to_file==False&eligible_for_refundable_credits==False",
        )
        for key, band in (
            ("0", "adjusted_gross_income<1"),
            ("1", "adjusted_gross_income>=1&adjusted_gross_income<10000"),
            ("10000", "adjusted_gross_income>=10000&adjusted_gross_income<25000"),
            ("25000", "adjusted_gross_income>=25000&adjusted_gross_income<50000"),
        )
    ),
)


def solve_rates(
    microdata: Microdata, seed: int = 0, report: Callable[[dict[str, Any]], object] = lambda event: None
) -> pd.DataFrame:
    """Return the table of take-up rates with those of `SOLVED` solved again.

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
    flags = sorted({p.flag for p in programmes})
    measures = [m for p in programmes for m in (p.eligible, p.reporting, p.deciding) if m is not None]
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
    """Return the table with rates from totals by state: of the eligible, reporters, those who decide."""
    table = rates()
    register = bundled_targets().query("reform_id == 0 and status != 'excluded'")
    codes = [STATE_CODES[int(fips)] for fips in totals.index]
    # A published rate of all stays: it holds for microdata that report no receipt.
    solved = table["variable"].isin([p.flag for p in programmes]) & (table["of"] != "all")
    solved |= table["variable"].isin([p.flag for p in programmes if not p.reported])
    parts = [table[~solved]]
    for programme in programmes:
        same = (register["variable"] == programme.variable) & (
            register["constraints"] == programme.constraints
        )
        of_states, of_nation = (
            register[same & (register["geo_level"] == level)] for level in ("state", "national")
        )
        # SNAP's is the sum of its states, of the same month as theirs.
        rows = of_nation if programme.by == "income" or of_states.empty else of_states
        eligible = totals[str(programme.eligible)]
        others = eligible
        if programme.reporting:
            others = eligible - totals[str(programme.reporting)]
        elif programme.deciding:
            others = totals[str(programme.deciding)]
        if programme.by == "state":
            official = pd.Series(rows["value"].to_numpy(), index=rows["geographic_id"].astype(int).to_numpy())
            share = (official.reindex(totals.index) - (eligible - others)) / others
        else:
            missing = rows["value"].sum() - (eligible.sum() - others.sum())
            share = pd.Series([missing / others.sum()])
        whom = "over the eligible" if not programme.deciding else "less who counts anyway, over the others"
        source = f"{rows['source'].iloc[0]}, {rows['vintage'].iloc[0]}: {whom} of the microdata"
        parts.append(
            pd.DataFrame(
                {
                    "variable": programme.flag,
                    "by": programme.by,
                    "key": codes if programme.by == "state" else programme.key,
                    "rate": np.round(share.clip(0, 1).to_numpy(), 3),
                    "reported": programme.reported,
                    "of": "others" if programme.reported else "",
                    "source": source,
                }
            )
        )
    out = pd.concat(parts, ignore_index=True)[list(table.columns)]
    return out.sort_values(["variable", "by", "key", "of"], kind="stable", ignore_index=True)
