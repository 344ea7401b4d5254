"""Compiled loops that turn a matrix by rows into the compact one by columns, and look over its cells once."""

from __future__ import annotations

from typing import Any

import numpy as np

from distcalib.fit.kernel import compiled


@compiled
def signs(rows: Any, values: Any, positive: Any, negative: Any) -> None:
    """Mark the rows that have a positive and those that have a negative cell."""
    for k in range(len(rows)):
        if values[k] > 0:
            positive[rows[k]] = True
        elif values[k] < 0:
            negative[rows[k]] = True


@compiled
def count(indices: Any, data: Any, counts: Any) -> tuple[int, bool]:
    """Count cells by column; return the first that is not finite (or -1), and whether float32 holds all."""
    exact, bad = True, -1
    for k in range(len(indices)):
        counts[indices[k]] += 1
        if not np.isfinite(data[k]) and bad < 0:
            bad = k
        exact = exact and np.float64(np.float32(data[k])) == data[k]
    return bad, exact


@compiled
def place(indptr: Any, indices: Any, data: Any, row: int, until: Any, rows: Any, values: Any) -> None:
    """Put the cells of successive rows, from `row` on, at the ends of their columns."""
    offset = indptr[0]
    for i in range(len(indptr) - 1):
        for k in range(indptr[i] - offset, indptr[i + 1] - offset):
            p = until[indices[k]]
            rows[p] = row + i
            values[p] = data[k]
            until[indices[k]] = p + 1


@compiled
def repeats(ptr: Any, rows: Any) -> bool:
    """Say whether a column names a row twice (rows ascending)."""
    for j in range(len(ptr) - 1):
        for k in range(ptr[j] + 1, ptr[j + 1]):
            if rows[k] == rows[k - 1]:
                return True
    return False
