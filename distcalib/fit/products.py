"""Compiled loops over columns: products with the compact matrix, by chunks of columns.

Import this module when a fit begins: numba takes half a second.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from distcalib.fit.kernel import FUSED, HOW, compiled

# A call hands over every field of every array and counts references, which takes as long as a dozen cells.
_inlined = numba.njit(forceinline=True, fastmath=FUSED, **HOW)


@_inlined
def _dot(rows: Any, values: Any, start: int, stop: int, r: Any) -> float:
    a, b = 0.0, 0.0
    # Two sums in turn: the next addition need not wait for the last. Their total does not tell which of
    # them came last, so a cell of no weight at the end of a column changes nothing.
    for k in range(np.uint64(start), np.uint64(stop)):
        a, b = b, a + values[k] * r[rows[k]]
    return a + b


@_inlined
def _add(rows: Any, values: Any, start: int, stop: int, w: float, out: Any) -> None:
    for k in range(np.uint64(start), np.uint64(stop)):
        out[rows[k]] += values[k] * w


@compiled
def gather(matrix: Any, r: Any, out: Any, start: int, stop: int) -> None:
    """Write X.T @ r of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    for j in range(start, stop):
        c = columns[j] if len(columns) else j
        out[j] = _dot(rows, values, ptr[c], ptr[c + 1], r)


@compiled
def scatter(matrix: Any, w: Any, out: Any, start: int, stop: int) -> None:
    """Write X @ w of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    out[:] = 0.0
    for j in range(start, stop):
        if w[j] != 0:
            c = columns[j] if len(columns) else j
            _add(rows, values, ptr[c], ptr[c + 1], w[j], out)


@compiled
def scatter_absolute(matrix: Any, w: Any, out: Any, start: int, stop: int) -> None:
    """Write abs(X) @ w of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    out[:] = 0.0
    for j in range(start, stop):
        c = columns[j] if len(columns) else j
        for k in range(ptr[c], ptr[c + 1]):
            out[rows[k]] += abs(values[k]) * w[j]


@compiled
def least(matrix: Any, limit: Any, out: Any, start: int, stop: int) -> None:
    """Write the least of limit / abs(cell) of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    for j in range(start, stop):
        c = columns[j] if len(columns) else j
        smallest = np.inf
        for k in range(ptr[c], ptr[c + 1]):
            if values[k] != 0:
                smallest = min(smallest, limit[rows[k]] / abs(np.float64(values[k])))
        out[j] = smallest
