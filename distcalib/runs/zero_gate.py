"""The gate that finds zeros which the records of other areas rule out, and the form of every finding."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts

# -log of the chance that no record of an area has a value, given the share of its peers' records that do. A
# run has about 500 areas and 25 variables: were shares equal, chance alone would give an error in one run of
# 13. They are not equal, so the lower one of state and nation counts.
ZERO_ERROR, ZERO_WARNING = 12.0, 6.0
# A variable that somebody asks for has a value in one of a hundred households, or is accepted by name.
LEAST_SHARE = 0.01
# Districts with so much of their population in one county count as the county's.
_WHOLE = 0.95

#: Where a variable is rightly zero, by rule: states, and why. Further ones are accepted by `verify.accept`.
RIGHTLY_ZERO = {
    "state_income_tax": (
        frozenset({"AK", "FL", "NH", "NV", "SD", "TN", "TX", "WA", "WY"}),
        "these states have no income tax on wages",
    )
}
_PLACED = ("aca", "premium", "slcsp", "rating_area")


def found(
    rows: pd.DataFrame,
    severity: object,
    kind: str,
    cause: object,
    *,
    figure: object = None,
    low: object = np.nan,
    high: object = np.nan,
) -> pd.DataFrame:
    """Return findings, one a row of `rows`, the columns those of `distcalib.runs.gates.gates`.

    Arguments are values, or arrays of one a row; the figure is the total unless another is given.
    """
    out = rows[["area", "geo_level", "variable"]].assign(severity=severity, kind=kind, cause=cause)
    out["accepted"] = ""
    out["figure"] = rows["total"] if figure is None else figure
    out["low"], out["high"] = low, high
    return out.astype({"figure": np.float64, "low": np.float64, "high": np.float64, "cause": object})


def zero(table: pd.DataFrame) -> pd.DataFrame:
    """Find zeros that the shares of others rule out: everywhere, in states, in counties, in districts."""
    table = table[~_rightly_zero(table)]
    inside = table[table["geo_level"] == "district"]
    states = table[table["geo_level"] == "state"]
    if states.empty:
        keys = ["state", "variable"]
        states = inside.groupby(keys)[["total", "households", "nonzero"]].sum().reset_index()
        states = states.assign(area=states["state"], geo_level="state")
    rest = table[table["geo_level"].isin(("national", "other"))]
    by_variable = states.groupby("variable")[["households", "nonzero"]].sum()
    if by_variable.empty:
        by_variable = rest.groupby("variable")[["households", "nonzero"]].sum()
    everywhere = by_variable[by_variable["nonzero"] == 0]
    top = pd.DataFrame({"area": "US", "geo_level": "national", "variable": everywhere.index})
    expected = everywhere["households"].to_numpy() * LEAST_SHARE
    words = "the rules have no value for it in this year, or the dataset lacks an input of it"
    out = [_zeros(top, expected, words)]
    alive = [part[~part["variable"].isin(everywhere.index)] for part in (states, rest, inside)]
    states, rest, inside = (_with_shares(part, by_variable) for part in alive)
    words = "a rule or parameter of this state is missing for the year: it is zero in the whole state"
    out.append(_zeros(states, _surprise(states, states["nation"]), words))
    out.append(_zeros(rest, _surprise(rest, rest["nation"]), "the filter of the area, or its counties"))
    dead = pd.MultiIndex.from_frame(states.loc[states["nonzero"] == 0, ["state", "variable"]])
    inside = inside[~pd.MultiIndex.from_frame(inside[["state", "variable"]]).isin(dead)]
    counties = _of_counties(inside)
    alone = inside.assign(surprise=_surprise(inside, _lower_share(inside)))
    few = "few records (" + alone["households"].astype(str) + ") of a variable that few have: sampling"
    words = "an input of it is missing in this district alone: its county, rating area or flags"
    alone["cause"] = few.where(alone["surprise"] < ZERO_ERROR, words)
    alone.loc[counties.index, ["cause", "surprise"]] = counties
    out.append(_zeros(alone, alone["surprise"].to_numpy(), alone["cause"]))
    return pd.concat(out)


def _zeros(rows: pd.DataFrame, surprise: object, cause: object) -> pd.DataFrame:
    rows = rows.assign(surprise=surprise, cause=cause)
    zero = rows["surprise"] >= ZERO_WARNING
    if "nonzero" in rows:
        zero &= rows["nonzero"] == 0
    rows = rows[zero]
    severity = np.where(rows["surprise"] >= ZERO_ERROR, "error", "warning")
    return found(rows, severity, "zero", rows["cause"], figure=0.0, low=rows["surprise"])


def _with_shares(rows: pd.DataFrame, by_variable: pd.DataFrame) -> pd.DataFrame:
    """Add the share of records with a value in the nation, and of a district in the rest of its state."""
    nation = by_variable["nonzero"] / by_variable["households"]
    rows = rows.assign(nation=rows["variable"].map(nation))
    sums = rows.groupby(["state", "variable"])[["households", "nonzero"]].transform("sum")
    others = (sums["households"] - rows["households"]).where(lambda n: n > 0)
    return rows.assign(beside=(sums["nonzero"] - rows["nonzero"]) / others)


def _surprise(rows: pd.DataFrame, share: pd.Series) -> pd.Series:
    """Return -log of the chance that none of the records of an area has a value."""
    return -rows["households"] * np.log1p(-share.astype(np.float64).clip(upper=1 - 1e-9))


def _lower_share(rows: pd.DataFrame) -> pd.Series:
    return rows["nation"].where(rows["beside"].isna(), np.fmin(rows["nation"], rows["beside"]))


def _of_counties(inside: pd.DataFrame) -> pd.DataFrame:
    """Return cause and surprise of districts where a variable is zero in all districts of their county."""
    shares = county_shares()
    shares = shares[shares["share"] >= _WHOLE].merge(districts()[["cd_geoid", "name"]], on="cd_geoid")
    county = inside["area"].map(shares.set_index("name")["county_fips"])
    mine = inside.assign(county=county)[county.notna()]
    groups = mine.groupby(["county", "variable"])
    pooled = groups[["households", "nonzero"]].transform("sum")
    size = groups["area"].transform("size")
    of_state = inside.groupby(["state", "variable"])[["households", "nonzero"]].sum()
    state = of_state.reindex(pd.MultiIndex.from_frame(mine[["state", "variable"]])).set_axis(mine.index)
    others = (state["households"] - pooled["households"]).where(lambda n: n > 0)
    mine = mine.assign(size=size, households=pooled["households"], zero=pooled["nonzero"] == 0)
    mine["beside"] = (state["nonzero"] - pooled["nonzero"]) / others
    mine["surprise"] = _surprise(mine, _lower_share(mine))
    mine = mine[mine["zero"] & (mine["size"] > 1) & (mine["surprise"] >= ZERO_WARNING)]
    if mine.empty:
        return pd.DataFrame({"cause": [], "surprise": []})
    names = county_fips_of_rules_engine().set_index("county_fips")["member"]
    placed = mine["variable"].str.split("_").map(lambda words: any(w in words for w in _PLACED))
    why = np.where(placed, "a missing rating area of the county", "a county that the rules do not know")
    words = (
        "zero in all " + mine["size"].astype(str) + " districts of " + mine["county"].map(names).astype(str)
    )
    words += " (" + mine["households"].astype(str) + " records): " + why
    return pd.DataFrame({"cause": words, "surprise": mine["surprise"]})


def _rightly_zero(table: pd.DataFrame) -> pd.Series:
    right = pd.Series(False, table.index)
    for variable, (states, _) in RIGHTLY_ZERO.items():
        right |= (table["variable"] == variable) & table["state"].isin(states)
    # A variable of one state's rules (``ca_premium_subsidy``) is zero elsewhere.
    placed = table["geo_level"].isin(("state", "district"))
    prefix = table["variable"].str.extract(r"^([a-z]{2})_", expand=False).str.upper()
    own = table[placed & (table["nonzero"] > 0)].groupby("variable")["state"].agg(set)
    only = table["variable"].map(own.map(lambda states: next(iter(states)) if len(states) == 1 else ""))
    return right | (placed & (prefix == only) & (table["state"] != only))
