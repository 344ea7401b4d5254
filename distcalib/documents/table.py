"""A table of households and targets, checked: what the calls of the third document work on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError
from distcalib.fit.diagnostics import achievable_rows

Float = NDArray[np.float64]
Matrix: TypeAlias = pd.DataFrame | ArrayLike | sp.spmatrix | sp.sparray

#: Initial weights whose median target is further off than this factor are scaled first.
FAR = 10.0


@dataclass(frozen=True)
class Problem:
    """A table and targets, checked: X (n_targets, n_households) CSR, and what stands beside it."""

    X: sp.csr_array
    targets: Float
    names: list[str]
    named: bool
    weights: Float
    excluded: NDArray[np.bool_]
    reachable: NDArray[np.bool_]

    @property
    def fitted(self) -> NDArray[np.bool_]:
        """Which targets the fit is to meet, (n_targets,)."""
        return self.reachable & ~self.excluded

    @property
    def scale(self) -> float:
        """Factor by which initial weights are multiplied before the fit: 1 unless they are far off.

        Weights of 1 for the households of a survey say nothing of the size of a nation. Where the median over
        targets of target / initial estimate is above `FAR` or below 1 / `FAR`, it is that median.
        """
        start = (self.X @ self.weights)[self.fitted]
        target = self.targets[self.fitted]
        same = start * target > 0
        if not same.any():
            return 1.0
        median = float(np.median(target[same] / start[same]))
        return median if not 1 / FAR <= median <= FAR else 1.0

    def lambda_l0(self, l0_lambda: float) -> float:
        """Return the penalty per open gate, in the fit's loss (a sum over targets), of an `l0_lambda`."""
        if not 0 <= l0_lambda < np.inf:
            raise InputError("out of range", place="l0_lambda", value=l0_lambda, expected="0 or more")
        return l0_lambda * int(self.fitted.sum()) / int(np.count_nonzero(self.weights))


def read_table(
    weights: ArrayLike,
    targets: ArrayLike,
    matrix: Matrix,
    target_names: Iterable[object] | None,
    excluded_targets: Iterable[str],
) -> Problem:
    """Check what a user gave; arguments as in `distcalib.documents.microcalibrate.Calibration`."""
    w = numbers(weights, "weights")
    if (w < 0).any():
        at = int(np.flatnonzero(w < 0)[0])
        raise InputError("negative weight", place=f"weights[{at}]", value=w[at], expected="0 or more")
    if not w.any():
        raise InputError("every weight is 0", place="weights")
    columns = list(matrix.columns) if isinstance(matrix, pd.DataFrame) else None
    X, names = _cells(matrix, len(w)), columns
    n_targets = X.shape[0]
    if target_names is not None:
        given = list(target_names)
        if columns is not None and given != columns:
            raise InputError("are not those of estimate_matrix", place="target_names", value=given)
        if len(given) != n_targets:
            raise InputError("wrong length", place="target_names", value=len(given), expected=str(n_targets))
        names = given
    labels = [str(name) for name in names] if names is not None else [f"target_{i}" for i in range(n_targets)]
    if len(set(labels)) < len(labels):
        again = pd.Series(labels)[pd.Series(labels).duplicated()].iloc[0]
        raise InputError("names two targets", place="estimate_matrix", value=again)
    if isinstance(targets, pd.Series) and not isinstance(targets.index, pd.RangeIndex):
        targets = _aligned(targets, labels)
    t = numbers(targets, "targets", n_targets, "one a column of estimate_matrix")
    if isinstance(excluded_targets, str):
        excluded_targets = [excluded_targets]
    excluded = np.zeros(n_targets, dtype=bool)
    for name in excluded_targets:
        if name not in labels:
            raise InputError("names no target", place="excluded_targets", value=name, choices=labels)
        excluded[labels.index(name)] = True
    if excluded.all():
        raise InputError("leaves no target", place="excluded_targets")
    return Problem(X, t, labels, names is not None, w, excluded, achievable_rows(X, t))


def _aligned(targets: pd.Series, labels: list[str]) -> pd.Series:
    for name in targets.index:
        if name not in labels:
            raise InputError("names no target", place="targets", value=name, choices=labels)
    missing = [label for label in labels if label not in targets.index]
    if missing or not targets.index.is_unique:
        words = "lacks a target" if missing else "names a target twice"
        raise InputError(words, place="targets", value=missing[0] if missing else None)
    return targets.loc[labels]


def _cells(matrix: Any, n_households: int) -> sp.csr_array:
    """Return the transpose of what was given, (n_targets, n_households), with its cells checked."""
    names = list(matrix.columns) if isinstance(matrix, pd.DataFrame) else None
    try:
        if sp.issparse(matrix):
            cells = sp.csr_array(matrix.T, dtype=np.float64)
        else:
            dense = np.asarray(matrix, dtype=np.float64)
            cells = sp.csr_array(dense.T) if dense.ndim == 2 else dense
    except (TypeError, ValueError) as error:
        raise InputError(f"not numeric: {error}", place="estimate_matrix") from error
    shape = tuple(np.shape(matrix) if not sp.issparse(matrix) else matrix.shape)
    if len(shape) != 2 or shape[0] != n_households or 0 in shape:
        hint = ", transposed?" if len(shape) == 2 and shape[1] == n_households else ""
        raise InputError(
            "wrong shape" + hint,
            place="estimate_matrix",
            value=shape,
            expected=f"({n_households}, n_targets), a row for each of the {n_households} weights",
        )
    bad = np.flatnonzero(~np.isfinite(cells.data))
    if len(bad):
        row = int(np.searchsorted(cells.indptr, bad[0], side="right") - 1)
        name = names[row] if names is not None else row
        place = f"estimate_matrix: column {name!r}, row {int(cells.indices[bad[0]])}"
        raise InputError(f"{len(bad)} cells are NaN or infinite", place=place, value=cells.data[bad[0]])
    cells.sum_duplicates()
    cells.eliminate_zeros()
    return cells


def numbers(values: ArrayLike, place: str, n: int | None = None, what: str = "one dimension") -> Float:
    """Return a vector of finite numbers of length `n` (None: any), or raise `InputError`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("not numeric", place=place, value=values) from error
    if array.ndim != 1 or not len(array) or (n is not None and len(array) != n):
        expected = f"({n},), {what}" if n is not None else what
        raise InputError("wrong shape", place=place, value=array.shape, expected=expected)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InputError(f"{len(bad)} are NaN or infinite", place=f"{place}[{bad[0]}]", value=array[bad[0]])
    return array
