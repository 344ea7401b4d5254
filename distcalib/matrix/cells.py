"""Cells of the matrix: simulate the households of some columns where they were placed, and scatter them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.matrix.measures import Rows, evaluate, scatter
from distcalib.microdata.model import Microdata
from distcalib.simulation.engine import simulate
from distcalib.simulation.place import place_once


def household_values(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: ArrayLike,
    rows: Rows,
    *,
    seed: int,
    take_up: bool | pd.DataFrame,
) -> np.ndarray:
    """Simulate the households of some columns of one state and evaluate every measure asked for there.

    Households that are equal in every input are simulated once.

    Parameters
    ----------
    source
        The donors.
    assignment
        Placement of every column.
    columns
        Columns of one state, int64, shape (k,).
    rows
        Index of the rows of the matrix.
    seed, take_up
        As in `distcalib.simulation.place.place`.

    Returns
    -------
    ndarray of float32, shape (k, number of measures of ``rows.within(state)``)
    """
    state = state_of(assignment, columns)
    data, which = place_once(source, assignment, columns, seed=seed, take_up=take_up)
    measures = [rows.measures[m] for m in rows.within(state)]
    with simulate(data, f"simulate state {state}") as simulation:
        values = evaluate(measures, data, simulation.calculate)
    return values if len(values) == len(which) else values[which]


def simulate_columns(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: ArrayLike,
    rows: Rows,
    *,
    seed: int,
    take_up: bool | pd.DataFrame,
) -> sparse.csr_array:
    """Return the block of the matrix that some columns of one state fill; see `household_values`.

    Returns
    -------
    csr_array of float32, shape (n rows, n columns of `assignment`)
        Only the given columns are filled.
    """
    columns = np.asarray(columns, dtype=np.int64)
    state = state_of(assignment, columns)
    table = household_values(source, assignment, columns, rows, seed=seed, take_up=take_up)
    cds = assignment.cd_geoid[columns]
    return scatter(rows, rows.within(state), table, columns, state, cds, assignment.n_columns)


def state_of(assignment: GeographyAssignment, columns: ArrayLike) -> int:
    """Return the one state of some columns, or raise `ValueError`: every state's formulas would run."""
    states = np.unique(assignment.state_fips[np.asarray(columns, dtype=np.int64)])
    if len(states) != 1:
        raise ValueError(f"columns of {len(states)} states, expected one")
    return int(states[0])


@lru_cache(maxsize=2)
def donors(path: str, period: int, digest: str) -> Microdata:
    """Read microdata once a process and hold them to their content digest.

    Raises
    ------
    InputError
        When the file is gone or holds something else.
    """
    source = Microdata.read(path, period)
    if source.digest() != digest:
        raise InputError("the microdata are not those that the matrix was made from", place=path)
    return source
