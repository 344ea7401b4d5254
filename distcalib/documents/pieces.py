"""Pieces of a builder's matrix: some columns of one state, simulated by one task here or on a Dask worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.geography.assignment import ARRAYS, GeographyAssignment
from distcalib.matrix.calibration import Origin
from distcalib.matrix.cells import donors, household_values
from distcalib.matrix.measures import Rows, scatter


@dataclass(frozen=True)
class Piece:
    """Some columns of one state: what one task simulates. Frozen and small, so that it can travel.

    Attributes
    ----------
    origin
        Where the donors are and how they are simulated.
    rows
        Index of the rows.
    columns
        Columns to simulate, int64, shape (k,).
    shifts
        The block also fills these columns further on, int64, shape (m,), the first 0: other districts of the
        state, where nothing that is simulated differs.
    places
        Placement of ``columns + shift`` for each shift in turn; arrays of shape (m * k,).
    n_records, n_clones
        Of the whole assignment.
    derived
        Its codes of smaller places.
    """

    origin: Origin
    rows: Rows
    columns: np.ndarray
    shifts: np.ndarray
    places: Mapping[str, np.ndarray]
    n_records: int
    n_clones: int
    derived: pd.DataFrame | None

    @classmethod
    def of(
        cls,
        origin: Origin,
        rows: Rows,
        assignment: GeographyAssignment,
        columns: np.ndarray,
        shifts: Iterable[int] = (0,),
    ) -> Piece:
        """Cut what a task needs out of a whole assignment."""
        by = np.asarray(list(shifts), dtype=np.int64)
        filled = (columns[None, :] + by[:, None]).ravel()
        derived = assignment.derived
        if derived is not None:
            derived = derived.loc[np.unique(assignment.finest(filled))]
        places = {name: getattr(assignment, name)[filled] for name in ARRAYS}
        n_records, n_clones = assignment.n_records, assignment.n_clones
        return cls(origin, rows, columns, by, places, n_records, n_clones, derived)


def fill(piece: Piece) -> sparse.csr_array:
    """Simulate a piece and return its block, in the shape of the whole matrix; pure."""
    origin, rows = piece.origin, piece.rows
    source = donors(origin.microdata, origin.period, origin.microdata_digest)
    n_columns = piece.n_records * piece.n_clones
    filled = (piece.columns[None, :] + piece.shifts[:, None]).ravel()
    # Only the piece's own columns are ever looked at; untouched pages of zeros take no memory.
    arrays = {name: np.zeros(n_columns, dtype=kind) for name, kind in ARRAYS.items()}
    for name, array in arrays.items():
        array[filled] = piece.places[name]
    assignment = GeographyAssignment(
        **arrays, n_records=piece.n_records, n_clones=piece.n_clones, derived=piece.derived
    )
    table = household_values(
        source, assignment, piece.columns, rows, seed=origin.seed, take_up=origin.take_up
    )
    state = int(piece.places["state_fips"][0])
    table = np.tile(table, (len(piece.shifts), 1))
    return scatter(rows, rows.within(state), table, filled, state, piece.places["cd_geoid"], n_columns)
