"""Draws of districts, counties and blocks: each a pure function of the seed and a household's own key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from distcalib.errors import InputError
from distcalib.random import uniform

# Records drawn at once: bounds the working memory at about 436 x 8 bytes x 4 arrays x this many.
_RECORDS_AT_ONCE = 20_000


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
        # At 50 / the smallest share nearly every district is expected, so more than the rest.
        upper = max(1e9, 50 / p[p > 0].min())
        t = brentq(lambda t: -np.expm1(-t * p).sum() - rest, 0.0, upper, xtol=1e-12, maxiter=10_000)
        expected += -np.expm1(-t * p)
    return expected


@dataclass(frozen=True)
class Parts:
    """The counties or the blocks of districts, ready to be drawn from by one search.

    Attributes
    ----------
    what
        ``counties`` or ``blocks``, for errors.
    districts
        int64, distinct GEOIDs, ascending.
    part
        int64, sorted by district and part.
    upper
        float64: rank of the district plus the cumulated share, so the whole array ascends.
    """

    what: str
    districts: NDArray[np.int64]
    part: NDArray[np.int64]
    upper: NDArray[np.float64]

    @classmethod
    def of(cls, what: str, cd_geoid: ArrayLike, part: ArrayLike, share: ArrayLike) -> Parts:
        """Sort and cumulate; the shares of a district sum to 1."""
        cds, parts, shares = np.asarray(cd_geoid, np.int64), np.asarray(part, np.int64), np.asarray(share)
        order = np.lexsort((parts, cds))
        cds = cds[order]
        districts, ranks = np.unique(cds, return_inverse=True)
        upper = ranks + pd.Series(shares[order]).groupby(ranks).cumsum().to_numpy().clip(0, 1)
        last = np.r_[cds[1:] != cds[:-1], True]
        upper[last] = ranks[last] + 1.0
        return cls(what, districts, parts[order], upper)

    def draw(self, cd_geoid: ArrayLike, u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the part of each district that a uniform draw falls on, shape as `cd_geoid`."""
        cds = np.asarray(cd_geoid, dtype=np.int64)
        missing = np.setdiff1d(np.unique(cds), self.districts)
        if missing.size:
            raise InputError(
                f"{len(missing)} districts have no {self.what} in the table of {self.what}",
                value=int(missing[0]),
                choices=map(str, self.districts),
            )
        wanted = np.searchsorted(self.districts, cds) + u
        # Millions of searches in order stay in the cache; out of order they take five times as long.
        order = np.argsort(wanted)
        out = np.empty(len(wanted), dtype=np.int64)
        out[order] = self.part[np.searchsorted(self.upper, wanted[order], side="left")]
        return out


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
    counties = Parts.of("counties", *(county_shares[c] for c in ("cd_geoid", "county_fips", "share")))
    return counties.draw(cd_geoid, uniform(seed, "county", household_id, cd_geoid)).astype(np.int32)


def draw_blocks(
    household_id: ArrayLike, cd_geoid: ArrayLike, blocks: Parts, seed: int, again: ArrayLike = 0
) -> NDArray[np.int64]:
    """Draw the census block of households within their districts, by the blocks' shares.

    A pure function of (seed, donor household id, district, `again`).

    Parameters
    ----------
    household_id, cd_geoid
        int arrays of equal shape (n,).
    blocks
        From `distcalib.geography.blocks.read_blocks`.
    seed
        Seed of the run.
    again
        How often the household was in the district before; 0 unless clones outnumber districts.

    Returns
    -------
    ndarray of int64, shape (n,)
        15-digit block ids.
    """
    return blocks.draw(cd_geoid, uniform(seed, "block", household_id, cd_geoid, again))
