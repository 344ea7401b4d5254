"""Measures: what a row of the matrix counts or sums, evaluated once a task for all households.

A measure is a variable or an entity count under a set of constraints. Constraints hold for persons. A unit
counts when any of its members passes; its amount is then summed to the household; persons count one by one. A
measure of a reform sums what the reform adds to the income tax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.microdata.model import Microdata
from distcalib.targets.constraints import Constraint, parse_constraints

# A measure's key leaves room for every area code: 0 the nation, 1-99 a state, 101-9999 a district.
_AREAS = 10_000
# Sets of constraints that are tested together, one bit each.
_BITS = 64
# What a reform changes.
TAX = "income_tax"
# Asked first, where they are asked: branches of the rules engine, such as that of New York's child credit,
# keep what was calculated before them and calculate the rest anew (half of New York's time). No value depends
# on the order.
FIRST = ("income_tax_positive", TAX, "snap")

Asked = tuple[str, int]


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
    reform_id
        0, or a key of `distcalib.targets.reforms.REFORMS`: the measure is then the income tax under the
        reform minus the income tax as it is, summed over tax units, and `variable` only names it.
    """

    variable: str
    constraints: tuple[Constraint, ...] = ()
    reform_id: int = 0

    @property
    def counts(self) -> bool:
        """Whether units are counted; else an amount of theirs is summed."""
        return not self.reform_id and self.variable in COUNTS

    @property
    def asks(self) -> list[Asked]:
        """What the rules engine must give: variables, each with the reform under which (0: none)."""
        own: list[Asked] = []
        if self.reform_id:
            own = [(TAX, 0), (TAX, self.reform_id)]
        elif not self.counts:
            own = [(term, 0) for term in terms(self.variable)]
        return [*((c.variable, 0) for c in self.constraints), *own]

    @property
    def needs(self) -> set[str]:
        """Variables that the rules engine must give."""
        return {variable for variable, _ in self.asks}

    @property
    def entity(self) -> str:
        """Entity whose units are counted or whose amounts are summed."""
        if self.reform_id:
            return _entity(TAX)
        return COUNTS.get(self.variable) or _entity(terms(self.variable)[0])

    def amount(self, values: Mapping[Asked, np.ndarray]) -> np.ndarray:
        """Return the amount of every unit, float64, shape (n of the entity,), from what `asks` names."""
        if self.reform_id:
            return values[TAX, self.reform_id].astype(np.float64) - values[TAX, 0].astype(np.float64)
        return np.sum([values[term, 0].astype(np.float64) for term in terms(self.variable)], axis=0)

    def __str__(self) -> str:
        reform = f" under reform {self.reform_id}" if self.reform_id else ""
        where = f"[{','.join(map(str, self.constraints))}]" if self.constraints else ""
        return self.variable + reform + where


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
        """Index a table with the columns variable, constraints (text), geographic_id and maybe reform_id."""
        reform = targets["reform_id"].astype(str) if "reform_id" in targets else "0"
        codes, distinct = pd.factorize(targets["variable"] + "?" + reform + "?" + targets["constraints"])
        measures = []
        for words in distinct:
            variable, reform_id, constraints = words.split("?", 2)
            measures.append(Measure(variable, parse_constraints(constraints), int(reform_id)))
        area = pd.to_numeric(targets["geographic_id"].replace("US", "0")).to_numpy(np.int64)
        key = codes.astype(np.int64) * _AREAS + area
        order = np.argsort(key, kind="stable")
        return cls(tuple(measures), key[order], order.astype(np.int64))

    def within(self, state_fips: int) -> tuple[int, ...]:
        """Return the numbers of the measures that the nation, a state or its districts ask for."""
        area = self.key % _AREAS
        asked = (area == 0) | (area == state_fips) | (area // 100 == state_fips)
        return tuple(np.unique(self.key[asked] // _AREAS).tolist())


def evaluate(
    measures: Sequence[Measure], data: Microdata, calculate: Callable[..., np.ndarray]
) -> np.ndarray:
    """Evaluate measures over placed households.

    Up to 64 sets of constraints go together: one machine word a person says which of them the person meets,
    the words of members are joined to that of their unit, and one sparse product sums to households.

    Parameters
    ----------
    measures
        What to evaluate.
    data
        The placed households.
    calculate
        ``calculate(variable)`` gives a variable at its own entity, shape (n of the entity,), and
        ``calculate("income_tax", reform_id)`` the tax under a reform. Each is asked for once.

    Returns
    -------
    ndarray of float32, shape (n households, n measures)
        Counts, or sums of the variable in its own unit (float64 sums in the order of the units, rounded
        once).
    """
    values: dict[Asked, np.ndarray] = {}
    wanted = dict.fromkeys(chain.from_iterable(measure.asks for measure in measures))
    first = [asked for name in FIRST if (asked := (name, 0)) in wanted]
    for asked in dict.fromkeys([*first, *wanted]):
        # Without a reform by name alone, so that a plain table of columns will do.
        values[asked] = calculate(*asked) if asked[1] else calculate(asked[0])

    number: dict[tuple[Constraint, ...], int] = {}
    together: dict[tuple[str, int], list[int]] = {}
    # By entity, so that the sets of one stand in few words.
    for i in sorted(range(len(measures)), key=lambda i: measures[i].entity):
        one = number.setdefault(measures[i].constraints, len(number))
        together.setdefault((measures[i].entity, one // _BITS), []).append(i)
    words = _words(list(number), values, data)

    out = np.empty((data.count(), len(measures)), dtype=np.float32)
    for (entity, word), members in together.items():
        units, to_household = _units_that_pass(words[word], entity, data), _to_household(entity, data)
        # Few at a time, because every amount of a unit takes 8 bytes.
        for columns in (members[k : k + _BITS] for k in range(0, len(members), _BITS)):
            amounts = np.take(units, [number[measures[i].constraints] % _BITS for i in columns], axis=1)
            sums = [k for k, i in enumerate(columns) if not measures[i].counts]
            if sums or entity != "household":
                amounts = amounts.astype(np.float64)
                if sums:
                    amounts[:, sums] *= np.stack([measures[columns[k]].amount(values) for k in sums], axis=1)
                amounts = to_household @ amounts
            # Neighbours in `measures` are written as one piece, which is several times as fast.
            whole = columns[-1] - columns[0] == len(columns) - 1
            out[:, slice(columns[0], columns[-1] + 1) if whole else columns] = amounts
    return out


def _words(
    sets: list[tuple[Constraint, ...]], values: Mapping[Asked, np.ndarray], data: Microdata
) -> np.ndarray:
    """Say which sets each person meets: bit j of word k is set 64 k + j; uint64, (n words, n persons)."""
    used: dict[Constraint, list[int]] = {}
    for number, constraints in enumerate(sets):
        for constraint in constraints:
            used.setdefault(constraint, []).append(number)
    # Each constraint is tested on its own entity; words of failures are what persons then look up.
    fails = {
        e: np.zeros((-(-len(sets) // _BITS), data.count(e)), dtype=np.uint64)
        for e in {"person"} | {_entity(c.variable) for c in used}
    }
    for constraint, numbers in used.items():
        failed = (~constraint.holds(values[constraint.variable, 0])).astype(np.uint64)
        for number in numbers:
            fails[_entity(constraint.variable)][number // _BITS] |= failed << np.uint64(number % _BITS)
    for entity in fails.keys() - {"person"}:
        fails["person"] |= fails[entity][:, data.links[entity]]
    return ~fails["person"]


def _units_that_pass(word: np.ndarray, entity: str, data: Microdata) -> np.ndarray:
    """Return which units have a member that passes, uint8 0 or 1, shape (n units, 64)."""
    if entity != "person":
        order = np.argsort(data.links[entity], kind="stable")
        first = np.searchsorted(data.links[entity][order], np.arange(data.count(entity)))
        word = np.bitwise_or.reduceat(word[order], first)
    octets = word.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, bitorder="little")


def _to_household(entity: str, data: Microdata) -> sparse.csr_array:
    """Return the sum over units as a matrix; its entries, and so its sums, follow the order of the units."""
    homes = data.household_of[entity]
    shape = (data.count(), len(homes))
    return sparse.csr_array((np.ones(len(homes)), (homes, np.arange(len(homes)))), shape=shape)


def _entity(variable: str) -> str:
    return catalogue().variables[variable].entity


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
