"""`CalibrationMatrix`: the matrix of a run with the meaning of its rows and columns."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.errors import InputError
from distcalib.matrix.blocks import block_digest, read_block, write_block
from distcalib.simulation.takeup import rates, rates_digest, read_rates
from distcalib.storage import temporary_beside, write_json

if TYPE_CHECKING:
    from distcalib.matrix.inspect import CellReasons


@dataclass(frozen=True)
class Origin:
    """What the cells of a matrix were simulated from.

    Attributes
    ----------
    microdata, microdata_digest
        File of the donors and its content digest.
    period, seed, take_up
        As in the run's settings; without `take_up` the flags are those that the microdata hold.
    rates, rates_digest
        File of the run's table of take-up rates (empty: the bundled one), and the table's digest.
    """

    microdata: str
    microdata_digest: str
    period: int
    seed: int
    take_up: bool
    rates: str = ""
    rates_digest: str = ""

    def how_taken_up(self) -> bool | pd.DataFrame:
        """Return what `place` takes: False, True, or the table of rates.

        Raises
        ------
        InputError
            When the table is gone or another one.
        """
        if not self.take_up:
            return False
        table = read_rates(self.rates) if self.rates else rates()
        stated = self.rates or self.rates_digest  # who made a matrix by hand may have said neither
        if stated and rates_digest(table) != self.rates_digest:
            raise InputError(
                "the take-up rates are not those that the matrix was made with",
                place=self.rates or "bundled take-up rates",
            )
        return table


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
    origin
        What the cells were simulated from; `why` needs it.
    """

    X: sparse.csr_array
    targets: pd.DataFrame
    columns: pd.DataFrame
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.X.shape != (len(self.targets), len(self.columns)):
            meant = (len(self.targets), len(self.columns))
            raise ValueError(f"X is {self.X.shape}, but targets and columns are {meant}")

    @classmethod
    def load(cls, run: str | Path) -> CalibrationMatrix:
        """Read the matrix of a run folder, or of a folder that `save` wrote.

        Raises
        ------
        InputError
            When the folder is neither, or the run has no matrix yet.
        """
        folder = Path(run)
        origin: Origin | None
        if (folder / "plan.json").is_file():
            origin = _origin_of_run(folder / "plan.json")
        elif (folder / "matrix.json").is_file():
            try:
                held = json.loads((folder / "matrix.json").read_text(encoding="utf-8"))["origin"]
                origin = Origin(**held) if held else None
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"cannot be read ({type(error).__name__}: {error})",
                    place=folder / "matrix.json",
                    expected="what CalibrationMatrix.save wrote",
                ) from None
        else:
            raise InputError(
                "holds no matrix",
                place=folder,
                expected="a run folder, or one that CalibrationMatrix.save wrote",
            )
        for name in ("targets.parquet", "columns.parquet", "matrix.zarr/X"):
            if not (folder / name).exists():
                raise InputError(
                    "has no matrix yet", place=folder, value=name, expected="a run that has got so far"
                )
        try:
            return cls(
                read_block(folder / "matrix.zarr" / "X"),
                pd.read_parquet(folder / "targets.parquet"),
                pd.read_parquet(folder / "columns.parquet"),
                origin,
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(
                f"cannot be read ({type(error).__name__}: {error})",
                place=folder,
                expected="a matrix that was written whole",
            ) from None

    def save(self, folder: str | Path) -> None:
        """Write the matrix as a new folder, complete or not at all: `load` reads it back equal.

        Raises
        ------
        InputError
            When there is something of this name already.
        """
        final = Path(folder)
        if os.path.lexists(final):
            raise InputError("is there already", place=final, expected="a new folder")
        temporary = temporary_beside(final)
        try:
            temporary.mkdir(parents=True)
            self.targets.to_parquet(temporary / "targets.parquet")
            self.columns.to_parquet(temporary / "columns.parquet")
            write_block(temporary / "matrix.zarr" / "X", self.X)
            write_json(temporary / "matrix.json", {"origin": asdict(self.origin) if self.origin else None})
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @property
    def achievable(self) -> np.ndarray:
        """Where a target has some nonzero cell, bool, shape (n targets,); negative amounts count."""
        return np.diff(self.X.indptr) > 0

    def digest(self) -> str:
        """Return the content digest of `X`."""
        return block_digest(self.X)

    def estimate(self, weights: np.ndarray) -> np.ndarray:
        """Return X.w in float64, (n targets,), each in its target's unit, of one weight a column.

        Several sets of weights, (n columns, k), give (n targets, k).

        Raises
        ------
        InputError
            For another number of weights.
        """
        given = np.asarray(weights, dtype=np.float64)
        if given.ndim not in (1, 2) or len(given) != self.X.shape[1]:
            expected = f"one a column: ({self.X.shape[1]},)"
            raise InputError("has another shape", place="weights", value=str(given.shape), expected=expected)
        return self.X.astype(np.float64) @ given

    def impossible(self) -> pd.DataFrame:
        """Return the targets that no column contributes to, with their row numbers as index."""
        return self.targets.reset_index(drop=True)[~self.achievable].rename_axis("row")

    def hardest(self, n: int = 5) -> pd.DataFrame:
        """Return the `n` achievable targets with the smallest row sum for their value, the hardest first.

        A target of 0 has no such ratio and is left out.

        Returns
        -------
        DataFrame
            The columns of `targets` and row_sum, ratio (row_sum / value); row numbers as index.
        """
        table = self.targets.reset_index(drop=True).rename_axis("row")
        table["row_sum"] = self.estimate(np.ones(self.X.shape[1]))
        table = table[self.achievable & (table["value"] != 0)]
        return table.assign(ratio=table["row_sum"] / table["value"]).nsmallest(n, "ratio")

    def sparsity(self, by: str = "level") -> pd.DataFrame:
        """Return how full the matrix is, by ``level`` of its rows or by ``clone`` of its columns.

        Returns
        -------
        DataFrame
            One row a level (national, state, district) or a clone: rows, columns, nonzeros, density; for
            levels also the least, median and largest number of nonzeros in a row, for clones the number
            of states.
        """
        from distcalib.matrix.inspect import sparsity

        return sparsity(self, by)

    def why(self, row: int, column: int) -> CellReasons:
        """Say why a cell is what it is: simulate its household again and follow every step.

        Parameters
        ----------
        row, column
            The cell.

        Returns
        -------
        CellReasons
            Household, place, take-up flags, each constraint for each member, and the amount; prints itself.

        Raises
        ------
        InputError
            When the matrix does not say what it was simulated from, or the microdata are no longer there.
        """
        from distcalib.matrix.inspect import explain_cell

        return explain_cell(self, row, column)

    def to_scipy(self) -> sparse.csr_matrix:
        """Return X as a ``csr_matrix``, whose rows and columns stay two-dimensional; the data are shared."""
        return sparse.csr_matrix(self.X)

    def to_anndata_dict(self) -> dict[str, Any]:
        """Return the arguments of ``anndata.AnnData``: X, obs (targets), var (columns), uns (origin).

        The index of `obs` and `var` is the number of the row or column, as text.
        """
        return {
            "X": self.to_scipy(),
            "obs": self.targets.set_axis(pd.RangeIndex(len(self.targets)).astype(str)),
            "var": self.columns.set_axis(pd.RangeIndex(len(self.columns)).astype(str)),
            "uns": {"origin": asdict(self.origin) if self.origin else {}},
        }

    def to_anndata(self) -> Any:
        """Return an ``anndata.AnnData`` with targets as observations and columns as variables.

        Raises
        ------
        InputError
            When anndata is not installed; it is no dependency of this package.
        """
        try:
            anndata = import_module("anndata")
        except ImportError as error:
            raise InputError(
                f"the view needs the package anndata, which cannot be imported ({error})",
                expected="pip install anndata, or to_anndata_dict()",
            ) from None
        return anndata.AnnData(**self.to_anndata_dict())

    def _repr_html_(self) -> str:
        from distcalib.matrix.inspect import html

        return html(self)


def _origin_of_run(plan: Path) -> Origin:
    """Read from a run's plan what its cells were simulated from."""
    from distcalib.microdata.bundled_data import bundled_path

    held = json.loads(plan.read_text(encoding="utf-8"))
    run, own = (
        held["run"],
        plan.with_name("microdata.h5"),
    )  # of a trial, or of a run whose workers share no folder
    named = str(bundled_path()) if run["microdata"] == "bundled" else run["microdata"]
    return Origin(
        microdata=str(own) if own.is_file() else named,
        microdata_digest=held["inputs"]["microdata"],
        period=run["period"],
        seed=run["seed"],
        take_up=run["simulation"]["take_up"],
        rates=str(plan.parent / "take_up.csv") if run["simulation"]["take_up"] else "",
        rates_digest=held["inputs"].get("take_up", ""),
    )
