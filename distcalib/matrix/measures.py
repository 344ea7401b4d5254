"""Measures: what a row of the matrix counts or sums, evaluated once a task for all households.

A measure is a variable or an entity count under a set of constraints. Constraints hold for persons. A unit
counts when any of its members passes; its amount is then summed to the household; persons count one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.microdata.model import Microdata
from distcalib.targets.constraints import Constraint, parse_constraints

# A measure's key leaves room for every area code: 0 the nation, 1-99 a state, 101-9999 a district.
_AREAS = 10_000


@dataclass(frozen=True)
class Measure:
    """What is counted or summed.

    Attributes
    ----------
    variable
        A numeric variable of policyengine-us, a sum of some of one entity (``a+b``), or ``person_count``,
        ``tax_unit_count`` ...
    constraints
        Conditions that persons must meet, all of them.
    """

    variable: str
    constraints: tuple[Constraint, ...] = ()

    @property
    def needs(self) -> set[str]:
        """Variables that the rules engine must give."""
        own = set() if self.variable in COUNTS else set(terms(self.variable))
        return own | {c.variable for c in self.constraints}

    @property
    def entity(self) -> str:
        """Entity whose units are counted or whose amounts are summed."""
        return COUNTS.get(self.variable) or catalogue().variables[terms(self.variable)[0]].entity

    def __str__(self) -> str:
        return self.variable + (f"[{','.join(map(str, self.constraints))}]" if self.constraints else "")


@dataclass(frozen=True)
class Rows:
    """The rows of a matrix by measure and area.

    Attributes
    ----------
    measures
        Distinct measures, in order of first use.
    key
        ``measure * 10000 + area`` of every row, sorted, int64, shape (n rows,).
    row
        Row number of each key, int64, shape (n rows,).
    """

    measures: tuple[Measure, ...]
    key: np.ndarray
    row: np.ndarray

    @property
    def n_rows(self) -> int:
        """Number of rows of the matrix."""
        return len(self.row)

    @classmethod
    def of(cls, targets: pd.DataFrame) -> Rows:
        """Index the rows of a table with the columns variable, constraints (text), geographic_id."""
        text = targets["variable"] + "?" + targets["constraints"]
        codes, distinct = pd.factorize(text)
        measures = []
        for words in distinct:
            variable, constraints = words.split("?", 1)
            measures.append(Measure(variable, parse_constraints(constraints)))
        area = pd.to_numeric(targets["geographic_id"].replace("US", "0")).to_numpy(np.int64)
        key = codes.astype(np.int64) * _AREAS + area
        order = np.argsort(key, kind="stable")
        return cls(tuple(measures), key[order], order.astype(np.int64))

    def within(self, state_fips: int) -> tuple[int, ...]:
        """Return the numbers of the measures that the nation, a state or its districts ask for."""
        area = self.key % _AREAS
        asked = (area == 0) | (area == state_fips) | (area // 100 == state_fips)
        return tuple(np.unique(self.key[asked] // _AREAS).tolist())


def evaluate(measures: list[Measure], data: Microdata, calculate: Callable[[str], np.ndarray]) -> np.ndarray:
    """Evaluate measures over placed households.

    Parameters
    ----------
    measures
        What to evaluate.
    data
        The placed households.
    calculate
        Gives a variable at its own entity, shape (n of the entity,).

    Returns
    -------
    ndarray of float32, shape (n households, n measures)
        Counts, or sums of the variable in its own unit (float64 sums, rounded once).
    """
    known = catalogue()
    values: dict[str, np.ndarray] = {}
    passing: dict[Constraint, np.ndarray] = {}

    def value(variable: str) -> np.ndarray:
        if variable not in values:
            values[variable] = calculate(variable)
        return values[variable]

    def to_person(entity: str, array: np.ndarray) -> np.ndarray:
        return array if entity == "person" else array[data.links[entity]]

    def mask(constraint: Constraint) -> np.ndarray:
        if constraint not in passing:
            entity = known.variables[constraint.variable].entity
            passing[constraint] = to_person(entity, constraint.holds(value(constraint.variable)))
        return passing[constraint]

    out = np.empty((data.count(), len(measures)), dtype=np.float32)
    for i, measure in enumerate(measures):
        persons = np.ones(data.count("person"), dtype=bool)
        for constraint in measure.constraints:
            persons = persons & mask(constraint)
        entity = measure.entity
        if entity == "person":
            units = persons
        else:
            units = np.bincount(data.links[entity][persons], minlength=data.count(entity)) > 0
        amounts = units.astype(np.float64)
        if measure.variable not in COUNTS:
            amounts *= np.sum([value(term).astype(np.float64) for term in terms(measure.variable)], axis=0)
        out[:, i] = np.bincount(data.household_of[entity], weights=amounts, minlength=data.count())
    return out


def scatter(
    rows: Rows,
    which: tuple[int, ...],
    table: np.ndarray,
    columns: np.ndarray,
    state_fips: int,
    cd_geoid: np.ndarray,
    n_columns: int,
) -> sparse.csr_array:
    """Scatter household values to the national, state and district rows that they count in.

    Parameters
    ----------
    rows
        Index of the rows.
    which
        Measure numbers of the columns of `table`.
    table
        Values, float32, shape (k households, len(which)).
    columns, cd_geoid
        Column of the matrix and district of each household, shape (k,).
    state_fips
        Their state.
    n_columns
        Width of the whole matrix.

    Returns
    -------
    csr_array of float32
        Shape (n rows, n_columns), only the given columns filled, no explicit zeros, indices sorted.
    """
    household, at = np.nonzero(table)
    data = table[household, at]
    measure = np.asarray(which, dtype=np.int64)[at]
    parts = []
    for area in (0, state_fips, np.asarray(cd_geoid, dtype=np.int64)[household]):
        key = measure * _AREAS + area
        first, last = np.searchsorted(rows.key, key, "left"), np.searchsorted(rows.key, key, "right")
        times = last - first
        entry = np.repeat(np.arange(len(key)), times)
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        parts.append((rows.row[first[entry] + within], entry))
    row = np.concatenate([p[0] for p in parts])
    entry = np.concatenate([p[1] for p in parts])
    column = np.asarray(columns, dtype=np.int64)[household[entry]]
    order = np.lexsort((column, row))
    counts = np.bincount(row, minlength=rows.n_rows)
    indptr = np.r_[0, np.cumsum(counts)].astype(np.int64)
    return sparse.csr_array(
        (data[entry][order], column[order].astype(np.int32), indptr), shape=(rows.n_rows, n_columns)
    )
