"""Clone households and place each clone in a congressional district and a county."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from distcalib.digest import digest_arrays
from distcalib.errors import InputError
from distcalib.random import uniform

# Records drawn at once: bounds the working memory at about 436 x 8 bytes x 4 arrays x this many.
_RECORDS_AT_ONCE = 20_000


@dataclass(frozen=True)
class GeographyAssignment:
    """Where every column of the matrix lives; ``column = clone * n_records + record``.

    Attributes
    ----------
    block_geoid
        int64, 15-digit census block, 0 where no block is known (never invented).
    cd_geoid
        int32, state FIPS x 100 + district.
    county_fips
        int32, 5-digit county, 0 where the county is left unset.
    state_fips
        int32.
    n_records, n_clones
        Households of the microdata, and clones of each.
    """

    block_geoid: NDArray[np.int64]
    cd_geoid: NDArray[np.int32]
    county_fips: NDArray[np.int32]
    state_fips: NDArray[np.int32]
    n_records: int
    n_clones: int

    def __post_init__(self) -> None:
        n = self.n_records * self.n_clones
        for name in ("block_geoid", "cd_geoid", "county_fips", "state_fips"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name}: shape {getattr(self, name).shape}, expected ({n},)")

    @property
    def n_columns(self) -> int:
        """Number of columns, ``n_records * n_clones``."""
        return self.n_records * self.n_clones

    @property
    def record(self) -> NDArray[np.int64]:
        """Position in the microdata of each column's household."""
        return np.arange(self.n_columns) % self.n_records

    @property
    def clone(self) -> NDArray[np.int64]:
        """Clone number of each column."""
        return np.arange(self.n_columns) // self.n_records

    def digest(self) -> str:
        """Return the content digest."""
        return digest_arrays(
            {
                "block_geoid": self.block_geoid,
                "cd_geoid": self.cd_geoid,
                "county_fips": self.county_fips,
                "state_fips": self.state_fips,
                "n": np.array([self.n_records, self.n_clones]),
            }
        )

    def frame(self, household_id: ArrayLike) -> pd.DataFrame:
        """Return the table that a run stores as ``columns.parquet``, one row a column."""
        ids = np.asarray(household_id, dtype=np.int64)
        return pd.DataFrame(
            {
                "column": np.arange(self.n_columns, dtype=np.int64),
                "clone": self.clone.astype(np.int32),
                "record": self.record.astype(np.int32),
                "household_id": ids[self.record],
                "state_fips": self.state_fips,
                "cd_geoid": self.cd_geoid,
                "county_fips": self.county_fips,
                "block_geoid": self.block_geoid,
            }
        )


def draw_districts(household_id: ArrayLike, n_clones: int, shares: ArrayLike, seed: int) -> NDArray[np.int64]:
    """Draw districts for each household without replacement, with probability by share.

    Successive sampling by exponential races (Efraimidis and Spirakis 2006): district d of household h gets
    the arrival time ``-log(u) / share`` with u keyed by (seed, household id, district), and the clones take
    the earliest arrivals in order. Exact, and a household's districts do not depend on any other household.
    When clones outnumber districts the races are run anew for each full round.

    Parameters
    ----------
    household_id
        Donor ids, int, shape (n,).
    n_clones
        Districts to draw for each household.
    shares
        Population share of each district, shape (d,), positive.
    seed
        Seed of the run.

    Returns
    -------
    ndarray of int64, shape (n_clones, n)
        Index of the district of each clone.
    """
    ids = np.asarray(household_id, dtype=np.int64)
    p = np.asarray(shares, dtype=np.float64)
    out = np.empty((n_clones, len(ids)), dtype=np.int64)
    for start in range(0, n_clones, len(p)):
        k = min(len(p), n_clones - start)
        for at in range(0, len(ids), _RECORDS_AT_ONCE):
            part = slice(at, at + _RECORDS_AT_ONCE)
            u = uniform(seed, f"district/{start // len(p)}", ids[part, None], np.arange(len(p))[None, :])
            arrival = -np.log(u) / p
            first = (
                np.argpartition(arrival, k - 1, axis=1)[:, :k] if k < len(p) else np.argsort(arrival, axis=1)
            )
            order = np.argsort(np.take_along_axis(arrival, first, axis=1), axis=1)
            out[start : start + k, part] = np.take_along_axis(first, order, axis=1).T
    return out


def inclusion(shares: ArrayLike, n_clones: int) -> NDArray[np.float64]:
    """Expected number of a household's clones that land in each district, shape (d,).

    For one clone these are the shares. For more, successive sampling with unequal shares has no closed form;
    the first-order approximation ``1 - exp(-t p)`` with t solved so that they sum to the sample size is used
    (Rosen 1972; Hajek 1964). It is exact for equal shares and when every district is drawn.
    """
    p = np.asarray(shares, dtype=np.float64)
    rounds, rest = divmod(n_clones, len(p))
    expected = np.full(len(p), float(rounds))
    if rest == 1:
        expected += p
    elif rest:
        t = brentq(lambda t: -np.expm1(-t * p).sum() - rest, 0.0, 1e9, xtol=1e-12)
        expected += -np.expm1(-t * p)
    return expected


def draw_counties(
    household_id: ArrayLike, cd_geoid: ArrayLike, county_shares: pd.DataFrame, seed: int
) -> NDArray[np.int32]:
    """Draw the county of households within their districts.

    A pure function of (seed, donor household id, district), so everyone who places that household in that
    district finds it in the same county.

    Parameters
    ----------
    household_id, cd_geoid
        int arrays of equal shape (n,).
    county_shares
        Columns cd_geoid, county_fips, share (sums to 1 in each district).
    seed
        Seed of the run.

    Returns
    -------
    ndarray of int32, shape (n,)
        5-digit county FIPS.
    """
    cds = np.asarray(cd_geoid, dtype=np.int64)
    table = county_shares.sort_values(["cd_geoid", "county_fips"])
    keys = table["cd_geoid"].to_numpy(np.int64)
    missing = np.setdiff1d(np.unique(cds), keys)
    if missing.size:
        raise InputError(
            f"{len(missing)} districts have no counties in the county table",
            value=int(missing[0]),
            choices=map(str, np.unique(keys)),
        )
    # Cumulated shares shifted by the rank of the district make one sorted array to search at once.
    ranks = np.searchsorted(np.unique(keys), keys)
    upper = ranks + table.groupby("cd_geoid")["share"].cumsum().to_numpy().clip(0, 1)
    last = np.r_[keys[1:] != keys[:-1], True]
    upper[last] = ranks[last] + 1.0
    u = uniform(seed, "county", household_id, cds)
    at = np.searchsorted(upper, np.searchsorted(np.unique(keys), cds) + u, side="left")
    return table["county_fips"].to_numpy(np.int32)[at]


def assign_geography(
    household_id: ArrayLike, n_clones: int, districts: pd.DataFrame, county_shares: pd.DataFrame, seed: int
) -> GeographyAssignment:
    """Place `n_clones` clones of every household by population.

    Parameters
    ----------
    household_id
        Donor household ids, shape (n,).
    n_clones
        Clones of each household.
    districts
        Columns cd_geoid and population.
    county_shares
        See `draw_counties`.
    seed
        Seed of the run.
    """
    ids = np.asarray(household_id, dtype=np.int64)
    table = districts.sort_values("cd_geoid")
    geoids = table["cd_geoid"].to_numpy(np.int32)
    population = table["population"].to_numpy(np.float64)
    if (population <= 0).any():
        raise InputError(
            "districts without population",
            value=int(geoids[population <= 0][0]),
            expected="a positive population",
        )
    drawn = draw_districts(ids, n_clones, population / population.sum(), seed)
    cds = geoids[drawn].reshape(-1)
    counties = draw_counties(np.tile(ids, n_clones), cds, county_shares, seed)
    return GeographyAssignment(
        block_geoid=np.zeros(len(cds), dtype=np.int64),
        cd_geoid=cds,
        county_fips=counties,
        state_fips=(cds // 100).astype(np.int32),
        n_records=len(ids),
        n_clones=n_clones,
    )


def own_state_geography(
    household_id: ArrayLike,
    state_fips: ArrayLike,
    districts: pd.DataFrame,
    county_shares: pd.DataFrame,
    seed: int,
) -> GeographyAssignment:
    """Leave every household in its state, in one district of it and a county there, drawn by population.

    Parameters
    ----------
    household_id, state_fips
        int arrays of equal shape (n,).
    districts, county_shares, seed
        As in `assign_geography`.

    Raises
    ------
    InputError
        For a state that has no district in the table.
    """
    ids, fips = np.asarray(household_id, dtype=np.int64), np.asarray(state_fips, dtype=np.int64)
    table = districts.sort_values("cd_geoid")
    geoids, population = table["cd_geoid"].to_numpy(np.int64), table["population"].to_numpy(np.float64)
    lost = np.setdiff1d(fips, geoids // 100)
    if lost.size:
        raise InputError("a state without districts", value=int(lost[0]), choices=np.unique(geoids // 100))
    cds = np.empty(len(ids), dtype=np.int32)
    for state in np.unique(fips):
        there, here = geoids // 100 == state, fips == state
        shares = population[there] / population[there].sum()
        cds[here] = geoids[there][draw_districts(ids[here], 1, shares, seed)[0]]
    return GeographyAssignment(
        block_geoid=np.zeros(len(ids), dtype=np.int64),
        cd_geoid=cds,
        county_fips=draw_counties(ids, cds, county_shares, seed),
        state_fips=fips.astype(np.int32),
        n_records=len(ids),
        n_clones=1,
    )


def check_counties(assignment: GeographyAssignment, known: ArrayLike) -> None:
    """Raise `InputError` for a county that the rules engine does not map.

    It would silently take the first county of the state.

    Parameters
    ----------
    assignment
        The placement; county 0 means unset.
    known
        5-digit FIPS codes that the rules engine maps.
    """
    used = np.unique(assignment.county_fips)
    strange = np.setdiff1d(used[used != 0], np.asarray(known))
    if strange.size:
        raise InputError(
            f"{len(strange)} unknown county FIPS codes",
            place="county table",
            value=f"{strange[0]:05d}",
            expected="a county that policyengine-us maps",
            choices=[f"{c:05d}" for c in np.asarray(known).tolist()],
        )


def initial_weights(
    assignment: GeographyAssignment,
    household_weight: NDArray[Any],
    districts: pd.DataFrame,
    national_population: float | None = None,
) -> NDArray[np.float64]:
    """Design weight of every column: household weight x share of its district / expected inclusion.

    Summed over the clones of a household this is, in expectation, its weight; summed over a district it is
    the district's share of the population, however many clones there are.

    Parameters
    ----------
    assignment
        Placement of the columns.
    household_weight
        Design weights of the households, shape (n_records,), of the nation.
    districts
        Columns cd_geoid and population: the districts that were drawn from.
    national_population
        Population that the design weights stand for, when `districts` are only a part of it.

    Returns
    -------
    ndarray of float64, shape (n_columns,)
    """
    table = districts.sort_values("cd_geoid")
    share = table["population"].to_numpy(np.float64)
    total = share.sum() if national_population is None else national_population
    ratio = (share / total) / inclusion(share / share.sum(), assignment.n_clones)
    at = np.searchsorted(table["cd_geoid"].to_numpy(), assignment.cd_geoid)
    return np.tile(np.asarray(household_weight, dtype=np.float64), assignment.n_clones) * ratio[at]
