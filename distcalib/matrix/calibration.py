"""`CalibrationMatrix`: the matrix of a run with the meaning of its rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.matrix.blocks import block_digest, read_block


@dataclass(frozen=True)
class CalibrationMatrix:
    """Targets x columns.

    Attributes
    ----------
    X
        csr_array of float32, shape (n targets, n columns).
    targets
        One row a row of `X`.
    columns
        One row a column of `X`: column, clone, record, household_id, state_fips, cd_geoid, county_fips,
        block_geoid.
    """

    X: sparse.csr_array
    targets: pd.DataFrame
    columns: pd.DataFrame

    def __post_init__(self) -> None:
        if self.X.shape != (len(self.targets), len(self.columns)):
            meant = (len(self.targets), len(self.columns))
            raise ValueError(f"X is {self.X.shape}, but targets and columns are {meant}")

    @classmethod
    def load(cls, run: str | Path) -> CalibrationMatrix:
        """Read the matrix of a run folder."""
        folder = Path(run)
        return cls(
            read_block(folder / "matrix.zarr" / "X"),
            pd.read_parquet(folder / "targets.parquet"),
            pd.read_parquet(folder / "columns.parquet"),
        )

    @property
    def achievable(self) -> np.ndarray:
        """Where a target has some nonzero cell, bool, shape (n targets,); negative amounts count."""
        return np.diff(self.X.indptr) > 0

    def digest(self) -> str:
        """Return the content digest of `X`."""
        return block_digest(self.X)

    def estimate(self, weights: np.ndarray) -> np.ndarray:
        """Return X.w in float64, shape (n targets,)."""
        return self.X.astype(np.float64) @ np.asarray(weights, dtype=np.float64)
