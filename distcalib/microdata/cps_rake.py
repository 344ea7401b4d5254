"""Raking of the public-use CPS to the official population and households of 2024."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.microdata.cps_sample import calibrate
from distcalib.microdata.model import Microdata

Array = NDArray[np.float64]

# Lower ends of the age bands of ACS table S0101.
AGE_BANDS = np.array([0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85])


@cache
def official(quantity: str) -> pd.Series:
    """Return official figures of 2024, as bundled.

    Parameters
    ----------
    quantity
        ``persons``, ``persons under 18``, ``persons of 65 and over``, ``households`` or ``contract rent``
        (dollars a year), by state; ``persons by age``, by the lower end of the age band.

    Returns
    -------
    Series of float64
        Indexed by state FIPS, or by age.
    """
    path = resources.files("distcalib.microdata").joinpath("bundled/official_2024.csv")
    with path.open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    table = table[table["quantity"] == quantity]
    index = table["age_from"] if quantity == "persons by age" else table["area"]
    return pd.Series(table["value"].to_numpy(np.float64), index=index.astype(int).to_numpy())


def starting_weights(survey: Array, state: NDArray[np.int64], persons: Array) -> Array:
    """Scale survey weights by one factor a state, so that each state has its official persons.

    Parameters
    ----------
    survey, state, persons
        Survey weight, state FIPS and persons of each household, shape (n households,).
    """
    wanted = official("persons")
    own = np.bincount(state, weights=survey * persons, minlength=100)
    factor = np.zeros(100)
    factor[wanted.index] = wanted.to_numpy() / own[wanted.index]
    return survey * factor[state]


def margins(data: Microdata) -> tuple[pd.DataFrame, sp.csr_matrix]:
    """Return the margins (margin, area, age_from, official) and their matrix, (n margins, n households)."""
    states = official("persons").index.to_numpy()
    state = data.column("state_fips").astype(np.int64)
    if not np.isin(state, states).all() or len(np.unique(state)) != len(states):
        raise ValueError("the source's states are not the 51 of the official table")
    n, place = data.count(), np.searchsorted(states, state)
    home, age = data.links["household"], data.column("age")
    band = np.searchsorted(AGE_BANDS, age, side="right") - 1
    of_state = {
        "persons": np.ones(len(home)),
        "persons under 18": (age < 18).astype(np.float64),
        "persons of 65 and over": (age >= 65).astype(np.float64),
    }
    blocks = [
        sp.csr_matrix((values, (place[home], home)), shape=(len(states), n)) for values in of_state.values()
    ]
    blocks.append(sp.csr_matrix((np.ones(n), (place, np.arange(n))), shape=(len(states), n)))
    blocks.append(sp.csr_matrix((np.ones(len(home)), (band, home)), shape=(len(AGE_BANDS), n)))
    by_age = official("persons by age")
    rows = [
        pd.DataFrame({"margin": q, "area": states.astype(str), "age_from": "", "official": official(q)})
        for q in (*of_state, "households")
    ]
    ages = by_age.index.astype(str)
    rows.append(
        pd.DataFrame({"margin": "persons by age", "area": "US", "age_from": ages, "official": by_age})
    )
    return pd.concat(rows, ignore_index=True), sp.csr_matrix(sp.vstack(blocks))


def rake(data: Microdata) -> tuple[Array, pd.DataFrame]:
    """Rake household weights to persons (all, under 18, 65 and over) and households by state, and to ages.

    Ages count residents with group quarters (S0101), which the CPS does not visit; households (S2201) do not.
    Both are met, so that a household is about 2 % too large.

    Parameters
    ----------
    data
        All households of the source with their starting weights (see `starting_weights`).

    Returns
    -------
    weights : ndarray of float64
        Shape (n households,); the nearest ones within `BOUNDS` of the starting weights (see `calibrate`).
    table : DataFrame
        One row a margin: margin, area, age_from, official, before, after; then quantiles of the adjustment
        (weight / starting weight) as rows of margin ``adjustment``, whose area names the quantile.
    """
    table, matrix = margins(data)
    weights = calibrate(data.weights, matrix, table["official"].to_numpy())
    table["before"], table["after"] = matrix @ data.weights, matrix @ weights
    spread = adjustment("adjustment", weights / data.weights)
    return weights, pd.concat([table, spread], ignore_index=True)


def adjustment(margin: str, factors: Array) -> pd.DataFrame:
    """Return quantiles of factors on weights as rows of the table of `rake`."""
    return pd.DataFrame(
        {
            "margin": margin,
            "area": ["min", "p1", "p25", "median", "p75", "p99", "max"],
            "age_from": "",
            "after": np.quantile(factors, [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]),
        }
    )
