"""State-swapped calculations: one set of households under the rules of every state.

Everybody moves to each state in turn, with nothing changed but the place and what is drawn by place. The same
uniforms decide take-up everywhere, so that states differ by their rules and rates and not by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from distcalib.catalogue import OF_THE_WHOLE_FILE, catalogue
from distcalib.errors import InputError
from distcalib.geography.assign import assign_geography, check_counties
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts
from distcalib.geography.states import STATE_CODES, STATE_FIPS
from distcalib.microdata.model import Microdata
from distcalib.simulation.engine import simulate
from distcalib.simulation.place import place

# Bounds the memory of one simulation at about 2 GB; values do not depend on who else is in it.
_HOUSEHOLDS_AT_ONCE = 12_000

KEYS = ("state", "state_fips", "household_id", "county_fips", "weight")


def under_states(
    source: Microdata,
    variables: Iterable[str],
    states: Iterable[str | int] | None = None,
    *,
    seed: int = 0,
    take_up: bool | pd.DataFrame = True,
    county_level: bool = True,
    map: Callable[..., Iterable[pd.DataFrame]] = map,
) -> pd.DataFrame:
    """Compute variables for the same households under the rules of each of some states.

    Parameters
    ----------
    source
        The households; where they live is passed over.
    variables
        Variables of policyengine-us that can be added up (amounts, counts, flags).
    states
        Codes (``"NC"``) or FIPS codes; None: the 50 states and DC.
    seed
        Seed of the draws: in each state a household lives in a district and county of it, drawn by population
        as a function of (seed, household id), and takes up at the state's rates.
    take_up
        As in `distcalib.simulation.place.place`: False leaves the flags that the microdata hold.
    county_level
        False leaves the county unset, so that the rules engine takes the state's first.
    map
        Applies a function to each state, for example that of a ``ProcessPoolExecutor``; one simulation a
        state and 12,000 households.

    Returns
    -------
    DataFrame
        One row a state and household, states in the order given and households in that of `source`: state
        (code), state_fips, household_id, county_fips (0: unset), weight (design weight), and each variable,
        float64, summed over the units of the household, in its own unit.

    Raises
    ------
    InputError
        For an unknown or repeated state or variable, text, a monthly flag, and a variable that depends on the
        whole file.
    RunError
        When the rules engine fails; the message names the state and the variable.
    """
    names = _summable(variables)
    chosen = list(STATE_CODES) if states is None else _states(states)
    task = partial(_under_one, source, names, seed=seed, take_up=take_up, county_level=county_level)
    return pd.concat(list(map(task, chosen)), ignore_index=True)


def by_state(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `under_states` gave, as if all households lived in each state.

    Returns
    -------
    DataFrame
        One row a state and variable, in the order of `table`: state, state_fips, variable, total (weighted,
        in the variable's unit), mean (a household) and share (of households with more than 0).
    """
    keys = ["state", "state_fips", "variable"]
    long = table.drop(columns=["household_id", "county_fips"]).melt(["state", "state_fips", "weight"])
    long["total"] = long["weight"] * long["value"]
    long["share"] = long["weight"] * (long["value"] > 0)
    sums = long.groupby(keys, sort=False)[["weight", "total", "share"]].sum()
    sums["mean"] = sums["total"] / sums["weight"]
    sums["share"] /= sums["weight"]
    order = {state: at for at, state in enumerate(table["state"].unique())}
    out = sums.reset_index().sort_values("state", key=lambda s: s.map(order), kind="stable")
    return out[[*keys, "total", "mean", "share"]].reset_index(drop=True)


def at_state(source: Microdata, state_fips: int, seed: int, county_level: bool = True) -> GeographyAssignment:
    """Place every household in one state, in a district and county of it drawn by population."""
    table = districts()
    there = table[table["state_fips"] == state_fips]
    placed = assign_geography(source.ids["household"], 1, there, county_shares(), seed)
    if not county_level:
        return replace(placed, county_fips=np.zeros_like(placed.county_fips))
    check_counties(placed, county_fips_of_rules_engine()["county_fips"])
    return placed


def _under_one(
    source: Microdata,
    names: list[str],
    state_fips: int,
    *,
    seed: int,
    take_up: bool | pd.DataFrame,
    county_level: bool,
) -> pd.DataFrame:
    code, n = STATE_CODES[state_fips], source.count()
    assignment = at_state(source, state_fips, seed, county_level)
    sums: dict[str, np.ndarray] = {name: np.zeros(n) for name in names}
    for part in np.array_split(np.arange(n), -(-n // _HOUSEHOLDS_AT_ONCE)):
        data = place(source, assignment, part, seed=seed, take_up=take_up)
        with simulate(data, f"under the rules of {code}") as simulation:
            for name in names:
                homes = data.household_of[catalogue().variables[name].entity]
                values: Any = simulation.calculate(name)
                sums[name][part] = np.bincount(homes, values.astype(np.float64), minlength=len(part))
            del simulation  # else it would outlive the collection at the end of this block
    return pd.DataFrame(
        {
            "state": code,
            "state_fips": np.int32(state_fips),
            "household_id": source.ids["household"],
            "county_fips": assignment.county_fips,
            "weight": source.weights,
            **sums,
        }
    )


def _summable(variables: Iterable[str]) -> list[str]:
    names = list(variables)
    if not names:
        raise InputError("names no variable", place="under_states: variables")
    for at, name in enumerate(names):
        known = catalogue().get(name, place="under_states: variables")
        if known.value_type not in ("float", "int", "bool"):
            raise InputError("cannot be added up", place="under_states: variables", value=name)
        if known.definition_period == "month" and known.value_type != "float":
            raise InputError(
                f"is a monthly {known.value_type}, which has no value for a year",
                place="under_states: variables",
                value=name,
                expected="a yearly variable",
            )
        if name in OF_THE_WHOLE_FILE:
            raise InputError(
                "depends on everybody in the file and not on the household alone",
                place="under_states: variables",
                value=name,
            )
        if name in names[:at] or name in KEYS:
            raise InputError(
                "is named twice, or is a column anyway", place="under_states: variables", value=name
            )
    return names


def _states(states: Iterable[str | int]) -> list[int]:
    found: list[int] = []
    for given in states:
        text = str(given).strip().upper()
        fips = int(text) if text.isdecimal() else STATE_FIPS.get(text, 0)
        if fips not in STATE_CODES or fips in found:
            raise InputError(
                "names a state twice" if fips in found else "is no state",
                place="under_states: states",
                value=given,
                expected="codes or FIPS codes of the 50 states and DC, each once",
                choices=STATE_FIPS,
            )
        found.append(fips)
    if not found:
        raise InputError("names no state", place="under_states: states")
    return found
