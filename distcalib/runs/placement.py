"""Where the clones of a run go: its districts, blocks and incomes, read from what the settings name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.config import RunConfig
from distcalib.errors import InputError
from distcalib.geography.assign import assign_geography, check_counties, initial_weights
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.chances import Chances
from distcalib.geography.district import District
from distcalib.microdata.model import Microdata
from distcalib.targets.database import read_targets

_AGI = "adjusted_gross_income"

# Inputs of the rules engine that make up most of gross income; Social Security is left out, for most of it is
# not taxed.
INCOME_INPUTS = (
    "employment_income_before_lsr", "self_employment_income_before_lsr",
    "sstb_self_employment_income_before_lsr", "farm_operations_income", "farm_income", "farm_rent_income",
    "partnership_income", "s_corp_income", "rental_income", "estate_income", "taxable_interest_income",
    "qualified_dividend_income", "non_qualified_dividend_income", "long_term_capital_gains_before_response",
    "short_term_capital_gains", "non_sch_d_capital_gains", "taxable_private_pension_income",
    "taxable_public_pension_income", "taxable_federal_pension_income", "military_retirement_pay",
    "taxable_ira_distributions", "taxable_401k_distributions", "taxable_403b_distributions",
    "taxable_sep_distributions", "unemployment_compensation", "alimony_income", "miscellaneous_income",
    "gambling_winnings",
)  # fmt: skip


def chosen_districts(config: RunConfig, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the districts that the settings ask for; all without any."""
    if config.geography.districts is None:
        return table
    known = set(table["cd_geoid"])
    place = f"{config.file}: geography.districts"
    chosen = []
    for text in config.geography.districts:
        try:
            district = District.parse(text, config.geography.congress, known)
        except InputError as error:
            raise InputError(str(error), place=place) from None
        if district.congress != config.geography.congress:
            raise InputError(
                f"is a district of the {district.congress}th Congress",
                place=place,
                value=text,
                expected=f"a district of the {config.geography.congress}th",
            )
        chosen.append(district.geoid)
    if not chosen:
        raise InputError("is empty", place=place, expected="districts, or null for all")
    return table[table["cd_geoid"].isin(chosen)].reset_index(drop=True)


def place_clones(
    config: RunConfig, source: Microdata, table: pd.DataFrame
) -> tuple[GeographyAssignment, NDArray[np.float64], list[str]]:
    """Place the clones of a run and weigh them.

    Parameters
    ----------
    config
        Settings of the run.
    source
        The donors.
    table
        The districts to place them in.

    Returns
    -------
    assignment : GeographyAssignment
    weights : ndarray of float64
        Design weight of every column.
    notes : list of str
        What an analyst should know.
    """
    from distcalib.geography.blocks import read_blocks
    from distcalib.geography.crosswalk import derive
    from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts

    wanted, notes = config.geography, []
    conditions: dict[str, Any] = {}
    if wanted.agi_conditioning:
        figures = area_agi(config.targets.database, config.period)
        conditions = {
            "agi": income_proxy(source),
            "area_agi": figures,
            "household_weight": source.weights,
        }
        notes.append(
            "households in the top tenth by income inputs (a proxy of AGI, without Social Security) draw "
            "their districts by the AGI of " + ("districts" if max(figures) > 100 else "states")
        )
    chances = Chances.of(source.count(), table, nation=districts(), **conditions)
    blocks = None
    if wanted.blocks is not None:
        blocks, more = read_blocks(wanted.blocks, wanted.block_population)
        notes += more
    elif wanted.block_population is not None:
        raise InputError(
            "needs geography.blocks", place=f"{config.file}: geography.block_population", expected="null"
        )
    assignment = assign_geography(
        source.ids["household"], config.n_clones, chances, county_shares(), config.seed, blocks=blocks
    )
    check_counties(assignment, county_fips_of_rules_engine()["county_fips"], wanted.blocks or "county table")
    assignment, more = derive(assignment, wanted.crosswalk, wanted.cbsa)
    return assignment, initial_weights(assignment, source.weights, chances), notes + more


def income_proxy(data: Microdata) -> NDArray[np.float64]:
    """Return the sum of the income inputs of each household's persons: a proxy of AGI before any calculation.

    It has no exclusions, deductions or taxable Social Security; it serves to rank households.

    Returns
    -------
    ndarray of float64, shape (n households,)
        Dollars.

    Raises
    ------
    InputError
        When the microdata hold none of `INCOME_INPUTS`.
    """
    held = data.variables()
    names = [name for name in INCOME_INPUTS if name in held]
    if not names:
        raise InputError(
            "have no income to condition on", place="microdata", expected=f"such as {INCOME_INPUTS[0]}"
        )
    persons = np.sum([data.column(name).astype(np.float64) for name in names], axis=0)
    out = np.zeros(data.count())
    np.add.at(out, data.household_of["person"], persons)
    return out


def area_agi(database: str, period: int) -> dict[int, float]:
    """Return adjusted gross income by state FIPS and district GEOID from a database of targets.

    An area's figure is its target of adjusted gross income for all filers, else the sum over brackets of AGI
    that leave no gap. Of several periods the largest not after `period` counts, else the smallest.

    Raises
    ------
    InputError
        When no state or district has one.
    """
    raw = read_targets(database)
    raw = raw[(raw["variable"] == _AGI) & (raw["reform_id"] == 0) & raw["active"] & raw["value"].notna()]
    late = raw["period"] > period
    raw = raw.assign(late=late, distance=(raw["period"] - period).abs()).sort_values(["late", "distance"])
    raw = raw.drop_duplicates("lines")
    terms = raw["lines"].str.split("\n").explode().str.split("|", n=2, expand=True)
    if terms.shape[1] != 3:
        terms = terms.reindex(columns=range(3))
    terms.columns = ["variable", "operation", "value"]
    rows = pd.DataFrame({"value": raw["value"], "low": -np.inf, "high": np.inf}).assign(area=0, bracket=False)
    state, district = terms["variable"] == "state_fips", terms["variable"] == "congressional_district_geoid"
    for own, of_district in ((state, False), (district, True)):
        texts = terms.loc[own, "value"]
        known = {t: District.parse(t).geoid if of_district else int(t) for t in texts.unique()}
        rows.loc[texts.index, "area"] = texts.map(known).astype(int)
    for signs, side in (((">", ">="), "low"), (("<", "<="), "high")):
        limits = terms[(terms["variable"] == _AGI) & terms["operation"].isin(signs)]
        rows.loc[limits.index, side] = limits["value"].astype(float)
        rows.loc[limits.index, "bracket"] = True
    plain = state | district | (terms["variable"] == "tax_unit_is_filer")
    plain |= (terms["variable"] == _AGI) & terms["operation"].isin((">", ">=", "<", "<="))
    other = terms.index[~plain]
    rows = rows[~rows.index.isin(other) & (rows["area"] > 0)].sort_values(["area", "low"])
    whole = rows[~rows["bracket"]].drop_duplicates("area").set_index("area")["value"]
    parts = rows[rows["bracket"]]
    before = parts.groupby("area")["high"].shift(fill_value=-np.inf)
    closed = (parts["low"] == before).groupby(parts["area"]).all()
    closed &= parts.groupby("area")["high"].last() == np.inf
    sums = parts.groupby("area")["value"].sum()[closed]
    figures = whole.combine_first(sums).astype(float)
    if figures.empty:
        raise InputError(
            "has no adjusted gross income of states or districts, which geography.agi_conditioning needs",
            place=database,
        )
    return {int(area): float(value) for area, value in figures.items()}
