"""`Chances`: the probability with which each household goes to each district."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError
from distcalib.geography.draw import inclusion

# Households with at least this share of the weight below them draw districts by income.
TOP_INCOME = 0.9


@dataclass(frozen=True)
class Chances:
    """Where households may go. Households of one law share their probabilities.

    Attributes
    ----------
    cd_geoid
        int32, the districts drawn from, ascending, shape (d,).
    mass
        float64, shape (laws, d): population or income of each district, 0 where the law forbids.
    total
        float64, shape (laws,): the same mass over all the districts of the nation that the law allows.
    law
        int64, shape (n_records,): the law of each household.
    """

    cd_geoid: NDArray[np.int32]
    mass: NDArray[np.float64]
    total: NDArray[np.float64]
    law: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        n_records: int,
        districts: pd.DataFrame,
        *,
        nation: pd.DataFrame | None = None,
        agi: ArrayLike | None = None,
        area_agi: Mapping[int, float] | None = None,
        household_weight: ArrayLike | None = None,
        pinned_state: ArrayLike | None = None,
    ) -> Chances:
        """Say where households go: by population, the top tenth of incomes by income, the pinned at home.

        Parameters
        ----------
        n_records
            Number of households.
        districts
            Columns cd_geoid and population: the districts to draw from.
        nation
            All districts, when `districts` are only a part of them.
        agi
            Adjusted gross income of each household, shape (n_records,). Those with nine tenths of the weight
            or more strictly below them draw district d with probability by its income, that is P_pop(d) x
            A_d / mass(d).
        area_agi
            State FIPS or district GEOID -> income A in dollars. A state's figure is shared by population
            among its districts unless all of them have their own.
        household_weight
            Weights of the percentile, shape (n_records,); equal when left out.
        pinned_state
            State FIPS in which all clones of a household stay, shape (n_records,); 0 where it is free.

        Raises
        ------
        InputError
            For a district without population or income, a state without districts, incomes that are not
            numbers, or weights whose sum is not above 0.
        """
        whole = (districts if nation is None else nation).sort_values("cd_geoid")
        geoids = whole["cd_geoid"].to_numpy(np.int32)
        population = whole["population"].to_numpy(np.float64)
        if (population <= 0).any():
            raise InputError(
                "districts without population",
                value=int(geoids[population <= 0][0]),
                expected="a positive population",
            )
        top = np.zeros(n_records, dtype=np.int64)
        bases = [population]
        if agi is not None:
            if area_agi is None:
                raise InputError("conditioning on income needs the income of areas", place="area_agi")
            top = _top(_vector(agi, n_records, "agi"), household_weight).astype(np.int64)
            bases.append(_district_agi(geoids, population, area_agi))
        state = np.zeros(n_records, dtype=np.int64)
        if pinned_state is not None:
            state = _vector(pinned_state, n_records, "pinned_state").astype(np.int64)
        here = np.isin(geoids, districts["cd_geoid"])
        lost = np.setdiff1d(state[state != 0], geoids[here] // 100)
        if lost.size:
            states = np.unique(geoids[here] // 100)
            raise InputError("a state without districts", value=int(lost[0]), choices=states)
        kinds, law = np.unique(state * 2 + top, return_inverse=True)
        allowed = (kinds[:, None] // 2 == 0) | (kinds[:, None] // 2 == geoids // 100)
        mass = np.stack(bases)[kinds % 2] * allowed
        # Summed over what is allowed alone: zeros between would change the order of addition.
        total = np.array([m[a].sum() for m, a in zip(mass, allowed, strict=True)])
        return cls(geoids[here], mass[:, here], total, law)

    def shares(self, law: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the positions of a law's districts, and their probabilities for one clone."""
        there = np.flatnonzero(self.mass[law] > 0)
        mass = self.mass[law, there]
        return there, mass / mass.sum()

    def weight_ratios(self, n_clones: int) -> NDArray[np.float64]:
        """Return p(district) / expected number of clones there, shape (laws, d)."""
        out = np.zeros_like(self.mass)
        for law in range(len(self.mass)):
            there, share = self.shares(law)
            out[law, there] = (self.mass[law, there] / self.total[law]) / inclusion(share, n_clones)
        return out


def _vector(values: ArrayLike, n: int, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise InputError(f"is not one number for each of {n} households", place=name, value=array.shape)
    return array


def _top(agi: NDArray[np.float64], weight: ArrayLike | None) -> NDArray[np.bool_]:
    w = np.ones(len(agi)) if weight is None else _vector(weight, len(agi), "household_weight")
    # Of households with one income all are at the top, or none: what lies strictly below them decides.
    _, rank = np.unique(agi, return_inverse=True)
    upto = np.r_[0.0, np.cumsum(np.bincount(rank, weights=w))]
    if not upto[-1] > 0:
        raise InputError(
            "has no total above 0, so incomes have no top tenth",
            place="household_weight",
            value=float(upto[-1]),
            expected="weights with a positive sum",
        )
    return upto[rank] >= TOP_INCOME * upto[-1]


def _district_agi(
    geoids: NDArray[np.int32], population: NDArray[np.float64], area_agi: Mapping[int, float]
) -> NDArray[np.float64]:
    figures = pd.Series(dict(area_agi), dtype=np.float64)
    states = geoids // 100
    table = pd.DataFrame({"own": figures.reindex(geoids).to_numpy(), "population": population})
    by_state = table.groupby(states)
    shared = figures.reindex(states).to_numpy() * population / by_state["population"].transform("sum")
    complete = (by_state["own"].transform("count") == by_state["own"].transform("size")).to_numpy()
    income = np.where(complete, table["own"], shared)
    bad = ~(np.isfinite(income) & (income > 0))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} districts have no income, nor has their state",
            place="area_agi",
            value=int(geoids[bad][0]),
            expected="a positive amount for each state, or for each of its districts",
        )
    return income
