"""The draw of households from the full file, and the small calibration of its weights to the full file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.random import uniform

Array = NDArray[np.float64]

# Shares of the sample that the certainty stratum takes: households with most money, and those whose weighted
# amount is the largest part of some mapped total.
TAIL_BY_MONEY = 0.05
TAIL_BY_SHARE = 0.10
# How much of the probability of inclusion goes by that part of a total, so that rare incomes are present.
RARE = 0.25
# The least number of households of a state, as a share of an equal division among the states.
FLOOR = 0.5
# A sampled household's weight moves within these multiples of its design weight.
BOUNDS = (0.2, 5.0)


def draw(
    households: int, weight: Array, state: NDArray, money: Array, amounts: Array, seed: int
) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """Draw a stratified systematic sample of households.

    The certainty stratum holds the households with most money and those that make up most of a mapped total;
    each keeps its own weight. The others are drawn state by state, systematically along money so that every
    level of it is present, with probability proportional for four parts to weight x sqrt(1 + money /
    $100,000) and for one part to the household's largest share of any mapped total. A state's number is
    proportional to its households in the file, but at least half of an equal division.

    Parameters
    ----------
    households
        How many to draw.
    weight, state, money
        Weight, state FIPS and total money income of each household in the full file, shape (n,).
    amounts
        Mapped amounts, shape (n, k).
    seed
        Seed of the systematic starts.

    Returns
    -------
    chosen : ndarray of int64
        Positions drawn, ascending, shape (households,).
    design : ndarray of float64
        Their design weights (weight / probability of inclusion).
    certain : ndarray of bool
        Which belong to the certainty stratum.

    References
    ----------
    Särndal, Swensson and Wretman (1992), Model Assisted Survey Sampling, section 3.6.2 (systematic PPS).
    """
    share = _largest_share(weight, amounts)
    certain = np.zeros(len(weight), bool)
    for score, part in ((money, TAIL_BY_MONEY), (share, TAIL_BY_SHARE)):
        certain[np.argsort(-score, kind="stable")[: int(part * households)]] = True
    rest = np.flatnonzero(~certain)
    common = weight * np.sqrt(1 + np.maximum(money, 0) / 100_000)
    size = common / common[rest].sum() + RARE * share / share[rest].sum()
    codes, place = np.unique(state[rest], return_inverse=True)
    wanted = _allocate(households - int(certain.sum()), np.bincount(place))
    order = rest[np.lexsort((rest, money[rest], place))]
    probability = _probabilities(size[order], np.sort(place), wanted)
    start = uniform(seed, "cps/draw", codes)[np.sort(place)]
    # Within a state the cumulated probability ends at a whole number, so each state gets just what it should.
    cumulated = np.cumsum(probability)
    ends = np.cumsum(wanted)
    cumulated -= np.concatenate([[0], ends[:-1]])[np.sort(place)]
    before = np.maximum(cumulated - probability, 0)
    # The last household of a state closes on its whole number despite rounding.
    last = np.append(np.diff(np.sort(place)) > 0, True)
    cumulated[last] = wanted
    hit = np.floor(cumulated - start + 1) > np.floor(before - start + 1)
    chosen = np.sort(np.concatenate([np.flatnonzero(certain), order[hit]]))
    inclusion = np.ones(len(weight))
    inclusion[order] = probability
    return chosen, weight[chosen] / inclusion[chosen], certain[chosen]


def _largest_share(weight: Array, amounts: Array) -> Array:
    """Return the largest part of any mapped total (of absolute amounts) that each household makes up."""
    absolute = np.abs(amounts) * weight[:, None]
    totals = absolute.sum(axis=0)
    return (absolute[:, totals > 0] / totals[totals > 0]).max(axis=1)


def _allocate(total: int, counts: NDArray) -> NDArray[np.int64]:
    """Divide `total` among states by their households, with a floor, to whole numbers that add up."""
    floor = FLOOR * total / len(counts)
    share = np.maximum(total * counts / counts.sum(), floor)
    above = share > floor
    share[above] *= (total - floor * (~above).sum()) / share[above].sum()
    out = np.minimum(np.floor(share), counts).astype(np.int64)
    spare = np.argsort(-(share - out) * (out < counts), kind="stable")[: total - int(out.sum())]
    out[spare] += 1
    return out


def _probabilities(size: Array, place: NDArray, wanted: NDArray[np.int64]) -> Array:
    """Return probabilities of inclusion that sum to `wanted` in each state, none above 1."""
    probability = np.zeros(len(size))
    full = np.zeros(len(size), bool)
    while True:
        left = wanted - np.bincount(place[full], minlength=len(wanted))
        sums = np.bincount(place[~full], weights=size[~full], minlength=len(wanted))
        ratio = np.divide(left, sums, out=np.zeros(len(wanted)), where=sums > 0)
        probability = np.where(full, 1.0, size * ratio[place])
        more = (probability > 1) & ~full
        if not more.any():
            return probability
        full |= more


def calibrate(design: Array, measures: sp.csr_matrix, totals: Array, rounds: int = 200) -> Array:
    """Return weights nearest to the design weights that reproduce totals, within `BOUNDS` of them.

    The distance is the chi-square one, sum((w - d)^2 / d), truncated at the bounds (the 'truncated
    linear' method of Deville and Särndal 1992, JASA 87, 376-382), solved by Newton's method in the
    multipliers with its step halved until the dual rises.

    Parameters
    ----------
    design
        Design weights, shape (n,).
    measures
        Measures by household, shape (n totals, n).
    totals
        What ``measures @ weights`` has to be, shape (n totals,).
    rounds
        The most steps of Newton's method.

    Raises
    ------
    InputError
        When no weights within the bounds come within 0.5 % of every total.
    """
    scale = np.where(totals != 0, np.abs(totals), 1.0)
    rows = sp.csr_matrix(sp.diags(1 / scale) @ measures)
    goal = totals / scale

    def state(multipliers: Array) -> tuple[Array, Array, float]:
        """Return the factors, the gaps, and the concave dual that Newton's method climbs."""
        push = rows.T @ multipliers
        factors = np.clip(1 + push, *BOUNDS)
        gap = goal - rows @ (design * factors)
        return factors, gap, float(goal @ multipliers + design @ ((factors - 1) ** 2 / 2 - push * factors))

    multipliers = np.zeros(len(totals))
    factors, gap, height = state(multipliers)
    for _ in range(rounds):
        if np.abs(gap).max() < 1e-10:
            break
        free = (factors > BOUNDS[0]) & (factors < BOUNDS[1])
        if not free.any():
            break
        information = (rows[:, free] @ sp.diags(design[free]) @ rows[:, free].T).toarray()
        information[np.diag_indices_from(information)] += 1e-9 * np.trace(information) / len(gap)
        step = np.linalg.solve(information, gap)
        length = 1.0
        while length > 1e-6:
            tried = state(multipliers + length * step)
            if tried[2] >= height:
                break
            length /= 2
        else:
            break
        multipliers = multipliers + length * step
        factors, gap, height = tried
    worst = np.abs(gap).max()
    if worst > 0.005:
        raise InputError(
            f"this sample cannot meet the totals of the full file: the worst is {worst:.1%} off",
            place="households",
            value=len(design),
            expected="more households, or another seed",
        )
    return design * factors


def totals_frame(labels: list[str], full: Array, sample: Array) -> pd.DataFrame:
    """Return a table of totals of the full file and of the sample, with the relative difference."""
    difference = np.divide(sample - full, np.abs(full), out=np.zeros(len(full)), where=full != 0)
    return pd.DataFrame({"total": labels, "full": full, "sample": sample, "difference": difference})
