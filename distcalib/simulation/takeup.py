"""Take-up of programs: who of the eligible claims, as inputs that are drawn once and never move.

A flag is a pure function of (seed, variable, donor entity id, clone, the rate that applies), so splitting or
reordering the households of a call never changes one. The rates are the bundled table ``take_up.csv``
(variable, by, key, rate, reported, of, source). Take-up inputs without a rate keep the rules' default, True.

Where the microdata report receipt (column ``reported``), those who report it take up, and the others at the
rate ``of`` others. Where the table has none, the rate of all becomes clip((rate - r) / (1 - r), 0, 1) for
them, r the design-weighted share of reporters among all entities of that type: the same number in
every call. In microdata that lack the column the rate of all holds for everybody.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.microdata.model import Microdata
from distcalib.random import uniform


@cache
def rates() -> pd.DataFrame:
    """Return the table of rates: variable, by (empty or state), key, rate, reported, of, source."""
    with (
        resources.files("distcalib.simulation").joinpath("bundled/take_up.csv").open(encoding="utf-8") as file
    ):
        return pd.read_csv(file, dtype={"key": "str"}, keep_default_na=False)


def drawn_variables() -> tuple[str, ...]:
    """Return the take-up inputs that have a rate, in name order."""
    return tuple(sorted(rates()["variable"].unique()))


def draw_take_up(
    source: Microdata,
    rows: dict[str, np.ndarray],
    clone: dict[str, np.ndarray],
    state_fips: dict[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Draw the take-up flags of placed households.

    Parameters
    ----------
    source
        Microdata of the donors.
    rows, clone, state_fips
        Entity -> arrays of shape (k,): the donor row, the clone number and the state of each placed unit.
    seed
        Seed of the run.

    Returns
    -------
    dict
        Variable -> bool flags, shape (k of the variable's entity,).
    """
    table = rates()
    flags = {}
    for variable in drawn_variables():
        entity = catalogue().get(variable, place="take_up.csv").entity
        mine = table[table["variable"] == variable]
        reported = mine["reported"].iloc[0]
        anchored = reported in source.variables()
        if anchored and (mine["of"] == "others").any():
            mine = mine[mine["of"] == "others"]
        else:
            mine = mine[mine["of"] != "others"]
        by = mine["by"].iloc[0]
        values = mine["rate"].to_numpy(float)
        if by == "":
            rate = np.full(len(rows[entity]), values[0])
        elif by == "state":
            by_fips = np.full(100, np.nan)
            codes = dict(zip(mine["key"], values, strict=True))
            for fips, code in STATE_CODES.items():
                by_fips[fips] = codes.get(code, np.nan)
            rate = by_fips[state_fips[entity]]
        else:
            raise InputError("rates by an unknown key", place="take_up.csv", value=by, choices=["", "state"])
        if np.isnan(rate).any():
            raise InputError("a state has no take-up rate", place="take_up.csv", value=variable)
        if anchored:
            receives, share = reporters(source, reported)
            if mine["of"].iloc[0] == "all":
                rate = np.clip((rate - share) / (1 - share), 0, 1)
            rate = np.where(receives[rows[entity]], 1.0, rate)
        flags[variable] = uniform(seed, variable, source.ids[entity][rows[entity]], clone[entity]) < rate
    return flags


def reporters(source: Microdata, reported: str) -> tuple[np.ndarray, float]:
    """Return who reports receipt (bool, shape (n of the entity,)) and their design-weighted share."""
    receives = source.column(reported) > 0
    weights = source.weights[source.household_of[source.variables()[reported]]]
    # Sums and no matrix product: the last digits of the latter depend on the number of threads.
    return receives, float(weights[receives].sum() / weights.sum())
