"""What stands in the way of each target of a table, said before any fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.documents.table import FAR, Problem
from distcalib.fit.feasible import attainable, conflicts

#: A target to which fewer households contribute is hard to meet without giving some of them great weights.
FEW_HOUSEHOLDS = 10
#: Targets that cannot come this near at once stand against each other.
NEAR = 0.01
#: So many of those that a target stands against are named.
NAMED = 3


def target_analysis(p: Problem, lower: float, upper: float) -> pd.DataFrame:
    """Return what `distcalib.Calibration.target_analysis` does, for weights within so many times the first.

    Parameters
    ----------
    p
        The table and its targets.
    lower, upper
        Least and largest weight over the initial one.
    """
    weights = p.weights * p.scale
    limits = lower * weights, np.where(weights > 0, upper, 0.0) * weights
    lowest, highest = attainable(p.X, limits)
    start, gross = p.X @ p.weights, abs(p.X) @ p.weights
    squares = p.X.power(2) @ p.weights**2
    effective = np.divide(gross**2, squares, out=np.zeros_like(gross), where=squares > 0)
    ratio = np.divide(p.targets, start, out=np.full_like(start, np.nan), where=start != 0)
    with np.errstate(divide="ignore"):
        orders = np.log10(np.abs(ratio))
    beyond = p.reachable & ((p.targets < lowest) | (p.targets > highest))
    other = _same_cells(p)
    tests = {
        "beyond bounds": beyond,
        "zero target": p.targets == 0,
        "negative target": p.targets < 0,
        "far from the initial estimate": np.isfinite(orders)
        & (np.abs(orders - np.log10(p.scale)) > np.log10(FAR)),
        "few households": p.reachable & (effective < FEW_HOUSEHOLDS),
    }
    findings: list[list[str]] = [[] for _ in p.names]
    for row in np.flatnonzero(~p.reachable).tolist():
        findings[row].append(f"unreachable: {why_not(p, row)}")
    for words, found in tests.items():
        for row in np.flatnonzero(found).tolist():
            findings[row].append(words)
    for row in np.flatnonzero(other >= 0).tolist():
        findings[row].append(f"contradicts {p.names[other[row]]}")
    # A target of zero is not asked about.
    asked = np.where(p.fitted & ~beyond & (other < 0), p.targets, 0.0)
    sets = conflicts(p.X, asked, np.full(len(asked), NEAR), limits)
    for number in range(0 if sets is None else sets.max() + 1):
        members = np.flatnonzero(sets == number)
        for row in members.tolist():
            findings[row].append(_together(p, members[members != row]))
    return pd.DataFrame(
        {
            "target_name": p.names,
            "target": p.targets,
            "initial_estimate": start,
            "orders_of_magnitude": orders,
            "households": np.diff(p.X.indptr),
            "effective_households": effective,
            "lowest": lowest,
            "highest": highest,
            "findings": ["; ".join(words) for words in findings],
        }
    )


def why_not(p: Problem, row: int) -> str:
    """Return why no weights reach the target of a row."""
    count = int(np.diff(p.X.indptr)[row])
    return "no household contributes" if not count else "no household contributes with its sign"


def _together(p: Problem, others: NDArray[np.intp]) -> str:
    others = others[np.argsort(-np.diff(p.X.indptr)[others], kind="stable")]  # wholes before their parts
    names = ", ".join(str(p.names[row]) for row in others[:NAMED])
    more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
    return f"not together with {names}{more}" if len(others) else "not within 1 percent"


def _same_cells(p: Problem) -> NDArray[np.intp]:
    """Return the first row with equal cells and another target, (n_targets,); -1 for none."""
    draws = np.random.default_rng(0).standard_normal((p.X.shape[1], 2))
    # Equal rows have equal sums to the bit, for they are summed in one order; others never have both.
    key = pd.DataFrame(p.X @ draws).assign(n=np.diff(p.X.indptr))
    first = key.groupby(list(key), sort=False).ngroup().to_numpy()
    place = np.unique(first, return_index=True)[1][first]
    return np.where((p.targets[place] != p.targets) & (key["n"] > 0), place, -1)
