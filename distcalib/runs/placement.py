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
from distcalib.targets.constraints import parse_constraints
from distcalib.targets.database import read_targets, without_password
from distcalib.targets.strata import read_strata

_AGI = "adjusted_gross_income"

#: Persons that the design weights stand for, over the population: beyond this factor a plan warns.
FAR = 1.5

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
    from distcalib.geography.pinned import read_pinned
    from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts

    wanted, notes = config.geography, []
    nation = districts()
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
            f"their districts by the AGI of {_used(figures, nation)}"
        )
    if wanted.pinned is not None:
        pinned = read_pinned(wanted.pinned, source.ids["household"])
        conditions["pinned_state"] = pinned
        notes.append(f"{np.count_nonzero(pinned):,} of {len(pinned):,} households stay in one state")
    of_households, more = design_weights(config, source, nation)
    notes += more
    chances = Chances.of(source.count(), table, nation=nation, **conditions)
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
    return assignment, initial_weights(assignment, of_households, chances), notes + more


def design_weights(
    config: RunConfig, source: Microdata, nation: pd.DataFrame
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the design weight of each household, (n households,), and what an analyst should know of them.

    ``equal`` ones make the persons of the microdata the population of all districts.
    """
    population = float(nation["population"].sum())
    if config.design_weights == "equal":
        return np.full(source.count(), population / source.count("person")), []
    weights, notes, mend = source.weights, [], "`design_weights: equal` lets all households begin alike"
    if nothing := int(np.count_nonzero(weights == 0)):
        notes.append(
            f"{nothing:,} of {source.count():,} households have weight 0, and a fit leaves them there: {mend}"
        )
    persons = float(weights[source.household_of["person"]].sum())
    if not 1 / FAR <= persons / population <= FAR:
        notes.append(
            f"the weights of the microdata stand for {persons:,.0f} persons, and the nation has "
            f"{population:,.0f}; a fit stays within fit.lower_bound and fit.upper_bound times them: {mend}"
        )
    return weights, notes


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

    An area's figure is its target of adjusted gross income for all filers, else the sum over brackets of the
    AGI of filers that leave no gap, all of one period: of the periods with a figure the largest not after
    `period` counts, else the smallest.

    Raises
    ------
    InputError
        When no state or district has one, or a stratum of adjusted gross income cannot be read.
    """
    place = without_password(database)
    raw = read_targets(database)
    raw = raw[(raw["variable"] == _AGI) & (raw["reform_id"] == 0) & raw["active"] & raw["value"].notna()]
    figures = _figures(read_strata(raw.reset_index(drop=True), place), place) if len(raw) else raw
    if figures.empty:
        raise InputError(
            "has no adjusted gross income of states or districts, which geography.agi_conditioning needs",
            place=place,
            expected="that of all filers (tax_unit_is_filer == 1), whole or in brackets without a gap",
        )
    late, distance = figures["period"] > period, (figures["period"] - period).abs()
    nearest = figures.assign(late=late, distance=distance).sort_values(["area", "late", "distance"])
    nearest = nearest.drop_duplicates("area")
    return dict(zip(nearest["area"].tolist(), nearest["value"].tolist(), strict=True))


def _figures(table: pd.DataFrame, place: str) -> pd.DataFrame:
    """Return area, period and value of each area and period with a figure for all filers."""
    read = {text: _limits(text, place) for text in table["constraints"].unique()}
    limits = {text: found for text, found in read.items() if found is not None}
    rows = table[(table["geo_level"] != "national") & table["constraints"].isin(list(limits))]
    key = ["area", "period"]
    rows = rows.assign(
        area=rows["geographic_id"].astype(int),
        low=rows["constraints"].map({text: low for text, (low, _) in limits.items()}).astype(float),
        high=rows["constraints"].map({text: high for text, (_, high) in limits.items()}).astype(float),
    ).sort_values([*key, "low", "target_id"])
    is_whole = (rows["low"] == -np.inf) & (rows["high"] == np.inf)
    whole = rows[is_whole].drop_duplicates(key).set_index(key)["value"]
    parts = rows[~is_whole]
    before = parts.groupby(key)["high"].shift(fill_value=-np.inf)
    closed = (parts["low"] == before).groupby([parts[name] for name in key]).all()
    closed &= parts.groupby(key)["high"].last() == np.inf
    sums = parts.groupby(key)["value"].sum()[closed]
    return whole.combine_first(sums).astype(float).rename("value").reset_index()


def _limits(text: str, place: str) -> tuple[float, float] | None:
    """Return the bounds of AGI in a domain of filers; None where it is of others, or bounded otherwise."""
    low, high, filers = -np.inf, np.inf, False
    for constraint in parse_constraints(text, place):
        if constraint.variable == "tax_unit_is_filer":
            if constraint.holds(np.array([0.0, 1.0])).tolist() != [False, True]:
                return None
            filers = True
        elif constraint.variable != _AGI or constraint.operation not in (">", ">=", "<", "<="):
            return None
        elif constraint.operation in (">", ">="):
            low = max(low, _number(constraint.value))
        else:
            high = min(high, _number(constraint.value))
    return (low, high) if filers else None


def _number(word: str) -> float:
    # As a constraint reads its value: truth values are 1 and 0.
    return float({"true": "1", "false": "0"}.get(word.strip().lower(), word))


def _used(figures: dict[int, float], nation: pd.DataFrame) -> str:
    """Say whose figures count: a state's districts have their own only where all of them do."""
    own = nation["cd_geoid"].isin(list(figures)).groupby(nation["state"]).all()
    if own.all():
        return "districts"
    named = ", ".join(own.index[own])
    return f"districts in {named} and of states elsewhere" if named else "states"
