"""Take-up of programs: who of the eligible claims, as inputs that are drawn once and never move.

A flag is a pure function of (seed, variable, donor entity id, clone, the rate that applies), so splitting or
reordering the households of a call never changes one. The rates are the bundled table ``take_up.csv``
(variable, by, key, rate, source). Take-up inputs without a rate keep the rules engine's default, True.
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
    """Return the table of take-up rates: variable, by (empty, state or children), key, rate, source."""
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
        elif by == "children":
            children = np.minimum(children_of_tax_units(source), len(values) - 1)
            rate = values[np.argsort(mine["key"].astype(int).to_numpy())][children[rows[entity]]]
        else:
            raise InputError(
                "rates by an unknown key", place="take_up.csv", value=by, choices=["state", "children"]
            )
        if np.isnan(rate).any():
            raise InputError("a state has no take-up rate", place="take_up.csv", value=variable)
        flags[variable] = uniform(seed, variable, source.ids[entity][rows[entity]], clone[entity]) < rate
    return flags


def children_of_tax_units(source: Microdata) -> np.ndarray:
    """Count the members under 19 of each tax unit, shape (n tax units,), int64.

    The qualifying-child tests proper are the rules engine's; this count only chooses a take-up rate.
    """
    young = source.column("age") < 19
    return np.bincount(source.links["tax_unit"][young], minlength=source.count("tax_unit"))
