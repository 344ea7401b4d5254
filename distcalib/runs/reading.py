"""Matrix and weights of a run folder of whatever origin: what is none is bad input, nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError, RunError
from distcalib.matrix.calibration import CalibrationMatrix
from distcalib.runs.folder import stored_plan


def read_matrix(run: str | Path) -> CalibrationMatrix:
    """Return the matrix of a run folder, or of one that `CalibrationMatrix.save` wrote.

    Raises
    ------
    InputError
        When there is none, it cannot be read, or its indices lead out of it.
    """
    folder = Path(run)
    stored_plan(folder)
    try:
        held = CalibrationMatrix.load(folder)
        held.X.check_format(full_check=True)
    except (RunError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        words = f"cannot be read ({type(error).__name__}: {error})"
        raise InputError(words, place=folder, expected="a matrix that was written whole") from None
    lacks = [name for name in ("variable", "value") if name not in held.targets]
    if lacks:
        expected = "variable and value of each target"
        raise InputError(
            "lacks a column", place=folder / "targets.parquet", value=lacks[0], expected=expected
        )
    return held


def read_weights(path: Path, columns: int) -> NDArray[np.float64]:
    """Return fitted weights, float64 (columns,).

    Raises
    ------
    InputError
        When there is no file of so many finite numbers.
    """
    expected = f"{columns:,} finite numbers, as a fit writes them"
    try:
        # Mapped, so that what a header says is held to the size of the file before there is memory for it.
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # a header is read by Python's own parser, which raises all kinds of errors
        raise InputError("is no file of numbers", place=path, expected=expected) from None
    if found.dtype.kind != "f" or found.shape != (columns,):
        what = f"{found.dtype} {found.shape}"
        raise InputError("does not hold the weights of the run", place=path, value=what, expected=expected)
    weights = np.array(found, dtype=np.float64)
    if not np.isfinite(weights).all():
        raise InputError("holds what is no number", place=path, expected=expected)
    return weights
