"""The public-use CPS that taxcalc ships: reading it, ageing its money, and its impossible records.

The file holds 280,005 tax units of the March CPS of 2013 to 2015 (income years 2012 to 2014; public domain),
built by the taxdata project. A household is (FLPDYR, h_seq): h_seq alone repeats between years.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError

TAXCALC_VERSION = "6.8.0"
HOUSEHOLD_KEY = ["FLPDYR", "h_seq"]

# The CPS asks nobody under 15 for income, so a younger person cannot head a tax unit.
YOUNGEST_HEAD = 15

# Growth factor of each money column, as taxcalc's Records._extrapolate pairs them. Columns in SIGNED grow by
# one factor where they are gains and by another where they are losses.
GROWTH = {
    "e00200p": "AWAGE",
    "e00200s": "AWAGE",
    "e00300": "AINTS",
    "e00400": "AINTS",
    "e00600": "ADIVS",
    "e00650": "ADIVS",
    "e00800": "ATXPY",
    "e01100": "ACGNS",
    "e01400": "ATXPY",
    "e01500": "ATXPY",
    "e01700": "ATXPY",
    "e02100p": "ASCHF",
    "e02100s": "ASCHF",
    "e02300": "AUCOMP",
    "e02400": "ASOCSEC",
    "e03150": "ATXPY",
    "e03210": "ATXPY",
    "e03270": "ACPIM",
    "e03300": "ATXPY",
    "e17500": "ACPIM",
    "e18500": "ATXPY",
    "e19200": "AIPD",
    "e19800": "ATXPY",
    "e20100": "ATXPY",
    "e20400": "ATXPY",
    "e32800": "ATXPY",
    "snap_ben": "ABENSNAP",
    "ssi_ben": "ABENSSI",
}
SIGNED = {"e00900p": ("ASCHCI", "ASCHCL"), "e00900s": ("ASCHCI", "ASCHCL")}
MONEY = (*GROWTH, *SIGNED)


@dataclass(frozen=True)
class Units:
    """Tax units of the file, ready to be expanded into persons.

    Attributes
    ----------
    table
        One row a tax unit, in the order of the file; money in dollars of the year asked for. Beside the
        source's columns: ``household`` (position of the household, int64), ``has_spouse`` (bool) and the
        numbers of dependants by age, ``dep_0_5``, ``dep_6_12``, ``dep_13_16``, ``dep_17``, ``dep_18_20``,
        ``dep_21_64``, ``dep_65`` (int64).
    children
        Heads under 15 who join another unit as dependants: ``RECID``, ``age``, ``blind`` and ``host`` (row
        of `table`).
    households
        One row a household: FLPDYR, h_seq, fips, and s006 of its first unit in households (not hundredths).
    rules
        Rule for impossible records -> how many records it touched.
    """

    table: pd.DataFrame
    children: pd.DataFrame
    households: pd.DataFrame
    rules: dict[str, int]


def taxcalc_folder() -> Path:
    """Return the folder of the installed taxcalc without importing it.

    Raises
    ------
    InputError
        When taxcalc is not installed or is not the version whose file the rules were checked against.
    """
    spec = find_spec("taxcalc")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "taxcalc ships the public-use CPS and is not installed",
            place="taxcalc",
            expected=f"pip install taxcalc=={TAXCALC_VERSION}",
        )
    version = metadata.version("taxcalc")
    if version != TAXCALC_VERSION:
        raise InputError(
            "the rules for the public-use CPS were checked against another version of taxcalc",
            place="taxcalc",
            value=version,
            expected=f"pip install taxcalc=={TAXCALC_VERSION}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def growth_to(year: int, factors: pd.DataFrame) -> pd.DataFrame:
    """Return the growth of money from each income year to `year`.

    Parameters
    ----------
    year
        The year to age to.
    factors
        taxcalc's ``growfactors.csv`` indexed by YEAR: each value is the ratio of a year to the one before.

    Returns
    -------
    DataFrame
        Indexed by income year; the same columns as `factors`.
    """
    if year not in factors.index or year < 2014:
        raise InputError(
            "money cannot be aged to this year",
            place="year",
            value=year,
            expected=f"2014 to {factors.index.max()}",
        )
    level = factors.cumprod()
    return level.loc[year] / level


def read_units(year: int) -> Units:
    """Read taxcalc's CPS file, age its money to `year` and apply the rules for impossible records.

    Parameters
    ----------
    year
        Year of the dollars, 2014 to the last year of taxcalc's growth factors.

    Raises
    ------
    InputError
        When taxcalc is missing or of another version, or `year` has no growth factors.
    """
    folder = taxcalc_folder()
    growth = growth_to(year, pd.read_csv(folder / "growfactors.csv", index_col="YEAR"))
    raw = pd.read_csv(folder / "cps.csv.gz")
    money = {c: raw[c] * raw["FLPDYR"].map(growth[f]) for c, f in GROWTH.items()}
    for column, (gain, loss) in SIGNED.items():
        factor = np.where(raw[column] >= 0, raw["FLPDYR"].map(growth[gain]), raw["FLPDYR"].map(growth[loss]))
        money[column] = raw[column] * factor
    raw = raw.assign(**money)
    codes = raw.groupby(HOUSEHOLD_KEY, sort=False).ngroup()
    first = raw.groupby(codes, sort=True).first()
    households = first[[*HOUSEHOLD_KEY, "fips"]].assign(weight=first["s006"] / 100).reset_index(drop=True)
    raw = raw.assign(household=codes.to_numpy(np.int64), **dependants(raw))
    table, children = _children_join_a_unit(raw)
    rules = {
        "head under 15: joins the first unit of the household with a head of 15 or more, as a dependant": len(
            children
        ),
        "of these, head of age 0": int((children["age"] == 0).sum()),
        "joint unit without an age of the spouse: the spouse is absent, no person is made": int(
            ((raw["MARS"] == 2) & ~raw["has_spouse"]).sum()
        ),
        "XTOT differs from nu18 + n1820 + n21: the counts of persons hold": int(
            (raw["XTOT"] != raw["nu18"] + raw["n1820"] + raw["n21"]).sum()
        ),
    }
    return Units(table, children, households, rules)


def dependants(units: pd.DataFrame) -> dict[str, NDArray]:
    """Split the persons of tax units into head, spouse and dependants by age band.

    nu18, n1820 and n21 count everybody in the unit, head and spouse included; nu06, nu13, n24 (under 17, in
    this file) and elderly_dependents count dependants alone.

    Parameters
    ----------
    units
        Tax units with the source's counts and ages.

    Returns
    -------
    dict
        ``has_spouse`` (bool) and seven counts (int64), each of shape (n units,).

    Raises
    ------
    ValueError
        When a count would be negative: the file is not the one that the rules describe.
    """
    spouse = (units["MARS"] == 2) & (units["age_spouse"] > 0)

    def others(total: str, low: int, high: int) -> pd.Series:
        own = units["age_head"].between(low, high).astype(int)
        own += (spouse & units["age_spouse"].between(low, high)).astype(int)
        return units[total] - own

    minors, adults = others("nu18", 0, 17), others("n21", 21, 200)
    counts = {
        "dep_0_5": units["nu06"],
        "dep_6_12": units["nu13"] - units["nu06"],
        "dep_13_16": units["n24"] - units["nu13"],
        "dep_17": minors - units["n24"],
        "dep_18_20": others("n1820", 18, 20),
        "dep_21_64": adults - units["elderly_dependents"],
        "dep_65": units["elderly_dependents"],
    }
    negative = [name for name, count in counts.items() if (count < 0).any()]
    if negative:
        raise ValueError(f"counts of persons contradict each other: {', '.join(negative)} below zero")
    return {"has_spouse": spouse.to_numpy()} | {n: c.to_numpy(np.int64) for n, c in counts.items()}


def _children_join_a_unit(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take heads under 15 out of the table and name the unit each joins; their imputed money goes."""
    young = raw["age_head"] < YOUNGEST_HEAD
    table = raw[~young].reset_index(drop=True)
    hosts = pd.Series(table.index, index=table["household"])
    hosts = hosts[~hosts.index.duplicated()]
    children = raw.loc[young, ["RECID", "household", "age_head", "blind_head"]]
    children = children.rename(columns={"age_head": "age", "blind_head": "blind"})
    children["host"] = children.pop("household").map(hosts)
    if children["host"].isna().any():
        raise ValueError("a household of children under 15 only has no unit for them to join")
    return table, children.astype({"host": np.int64}).reset_index(drop=True)
