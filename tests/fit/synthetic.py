"""Households with ages, SNAP and income, cloned into nested geography, and noisy targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

BANDS = 18
BRACKETS = 10


@dataclass(frozen=True)
class Problem:
    X: sp.csr_array
    targets: np.ndarray
    groups: np.ndarray
    rows: pd.DataFrame
    initial: np.ndarray
    donors: np.ndarray
    district: np.ndarray
    state: np.ndarray


def nested_problem(
    n_donors: int = 12_000, n_clones: int = 3, n_districts: int = 436, n_states: int = 51, noise: float = 0.03
) -> Problem:
    """Age bands by nation, state and district, SNAP households by state and district, income by state.

    The truth is a population of reweighted households (log-normal tilts by district and by record), so that
    the design weights are off by tens of percent; each target then gets its own relative noise, which makes
    districts, states and nation contradict one another.
    """
    rng = np.random.default_rng(20240001)
    n = n_donors * n_clones
    state_of = np.sort(np.r_[np.arange(n_states), rng.integers(0, n_states, n_districts - n_states)])
    donors = np.tile(np.arange(n_donors), n_clones)
    district = rng.integers(0, n_districts, n)
    state = state_of[district]

    size = rng.choice([1, 2, 3, 4, 5, 6], p=[0.28, 0.35, 0.15, 0.13, 0.06, 0.03], size=n_donors)
    household = np.repeat(np.arange(n_donors), size)
    head_band = rng.integers(4, BANDS, n_donors)
    first = np.r_[0, np.cumsum(size)[:-1]]
    order = np.arange(len(household)) - first[household]
    band = np.where(
        order == 0,
        head_band[household],
        np.where(
            order == 1,
            np.clip(head_band[household] + rng.integers(-1, 2, len(household)), 0, BANDS - 1),
            np.maximum(head_band[household] - rng.integers(4, 8, len(household)), 0),
        ),
    )
    ages = np.zeros((n_donors, BANDS))
    np.add.at(ages, (household, band), 1.0)
    agi = rng.lognormal(10.9, 0.9, n_donors) * np.sqrt(size)
    bracket = np.searchsorted(np.quantile(agi, np.linspace(0, 1, BRACKETS + 1)[1:-1]), agi)
    snap = (agi < np.quantile(agi, 0.3)) & (rng.random(n_donors) < 0.6)
    initial = (132e6 / n) * rng.lognormal(0, 0.4, n_donors)[donors]

    def geography_rows(values: np.ndarray, place: np.ndarray, n_places: int) -> sp.csr_array:
        k = values.shape[1]
        col, j = np.nonzero(values)
        return sp.csr_array((values[col, j], (place[col] * k + j, col)), shape=(n_places * k, n))

    age, low = ages[donors], snap[donors][:, None].astype(float)
    income = np.zeros((n_donors, BRACKETS))
    income[np.arange(n_donors), bracket] = agi
    filers = np.zeros((n_donors, BRACKETS))
    filers[np.arange(n_donors), bracket] = 1.0
    nation = np.zeros(n, dtype=int)
    parts = [
        ("age nation", geography_rows(age, nation, 1)),
        ("age state", geography_rows(age, state, n_states)),
        ("age district", geography_rows(age, district, n_districts)),
        ("snap state", geography_rows(low, state, n_states)),
        ("snap district", geography_rows(low, district, n_districts)),
        ("agi state", geography_rows(income[donors], state, n_states)),
        ("filers state", geography_rows(filers[donors], state, n_states)),
    ]
    X = sp.csr_array(sp.vstack([m for _, m in parts]), dtype=np.float32)
    X.sort_indices()
    rows = pd.DataFrame({"group": np.concatenate([[name] * m.shape[0] for name, m in parts])})
    rows["name"] = rows["group"] + " " + rows.groupby("group").cumcount().astype(str)

    tilt = rng.normal(0, 0.25, (n_districts, 3))
    older = head_band[donors] / 9 - 1
    log_truth = tilt[district, 0] + tilt[district, 1] * (snap[donors] - 0.2) + tilt[district, 2] * older
    truth = initial * np.exp(log_truth + rng.normal(0, 0.3, n))
    targets = (X @ truth) * (1 + noise * rng.standard_normal(X.shape[0]))
    groups = pd.factorize(rows["group"])[0]
    return Problem(X, targets, groups, rows, initial, donors, district, state)


def contradictory_problem(
    n_donors: int = 20_000, n_clones: int = 2, n_districts: int = 436, n_states: int = 51, noise: float = 0.05
) -> Problem:
    """Nine measures by district, fifteen by state, 27 for the nation, each target with noise of its own.

    With the defaults 4,716 targets and 40,000 columns. Counts and heavy-tailed amounts; the truth reweights
    the households by district and by record, so design weights miss the targets by a third, and no weights
    meet districts, states and nation at once.
    """
    rng = np.random.default_rng(20240002)
    n = n_donors * n_clones
    state_of = np.sort(np.r_[np.arange(n_states), rng.integers(0, n_states, n_districts - n_states)])
    donors = np.tile(np.arange(n_donors), n_clones)
    district = rng.integers(0, n_districts, n)
    state = state_of[district]

    persons = rng.poisson([0.35, 0.25, 0.55, 0.55, 0.35, 0.15], (n_donors, 6)).astype(float)
    persons[persons.sum(axis=1) == 0, 3] = 1.0
    size = persons.sum(axis=1)
    income = rng.lognormal(10.9, 0.9, n_donors) * np.sqrt(size)
    rank = np.argsort(np.argsort(income)) / n_donors
    snap = (rank < 0.35) & (rng.random(n_donors) < 0.5)
    wages = income * (rng.random(n_donors) < 0.75) * rng.uniform(0.5, 1.0, n_donors)
    medicaid = size * ((rank < 0.4) & (rng.random(n_donors) < 0.7))
    few = rng.lognormal(9.0, 1.5, (n_donors, 4)) * (rng.random((n_donors, 4)) < [0.05, 0.2, 0.08, 0.3])
    brackets = (np.floor(rank * 12).astype(int)[:, None] == np.arange(12)) * 1.0
    measures = np.column_stack(
        [persons, np.ones(n_donors), snap, snap * rng.gamma(3, 900, n_donors),
         income, wages, medicaid, few[:, :3], few[:, 3], rank > 0.9, size == 1, brackets[:, :9]]
    )  # fmt: skip

    def rows(count: int, place: np.ndarray, n_places: int) -> sp.csr_array:
        values = measures[donors][:, :count]
        col, j = np.nonzero(values)
        return sp.csr_array((values[col, j], (place[col] * count + j, col)), shape=(n_places * count, n))

    levels = [("nation", 27, np.zeros(n, dtype=int), 1), ("state", 15, state, n_states),
              ("district", 9, district, n_districts)]  # fmt: skip
    X = sp.csr_array(sp.vstack([rows(k, place, places) for _, k, place, places in levels]), dtype=np.float32)
    X.sort_indices()
    frame = pd.DataFrame(
        {
            "group": [f"{name} {j}" for name, k, _, m in levels for _ in range(m) for j in range(k)],
            "level": np.repeat([name for name, *_ in levels], [k * m for _, k, _, m in levels]),
            "place": np.concatenate([np.repeat(np.arange(m), k) for _, k, _, m in levels]),
        }
    )
    frame["name"] = frame["group"] + " of " + frame["place"].astype(str)
    initial = (132e6 / n) * rng.lognormal(0, 0.4, n_donors)[donors]
    tilt = rng.normal(0, 0.25, (n_districts, 3))
    tilts = np.column_stack([np.ones(n), snap[donors], rank[donors] - 0.5])
    truth = initial * np.exp(np.sum(tilt[district] * tilts, axis=1) + rng.normal(0, 0.3, n))
    targets = (X @ truth) * (1 + noise * rng.standard_normal(X.shape[0]))
    return Problem(X, targets, pd.factorize(frame["group"])[0], frame, initial, donors, district, state)
