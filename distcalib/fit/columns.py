"""The matrix of a fit in memory: by columns, 6 to 8 bytes a cell, shared by gates, refit, log and summary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.digest import digest_arrays
from distcalib.errors import InputError

Float = NDArray[np.float64]

#: Cells of the caller's matrix that are converted at once.
_PIECE = 1 << 16
#: Chunks of columns: no more than this, none with less work than `_LEAST` (in cells; a column's own work is
#: that of `_COLUMN` cells). They depend on the matrix alone, so that threads cannot change the order of sums.
_MOST_CHUNKS, _LEAST, _COLUMN = 64, 1 << 19, 32
_ALL = np.empty(0, dtype=np.int64)


class Columns:
    """A compact, immutable sparse matrix, or some columns of one.

    Parameters
    ----------
    ptr, rows, values
        Column pointers int64, row of each cell (uint16 up to 65,535 rows, else uint32), and value (float32
        where that holds every cell exactly, else float64).
    n_rows
        Number of rows.
    columns
        Columns in use, ascending int64; None: all.
    threads
        How many threads share the work. Has no influence on any result.

    Attributes
    ----------
    shape
        (rows, columns in use).
    arrays
        ptr, rows, values, and columns in use (empty: all).
    borders
        Of the chunks.
    """

    def __init__(
        self,
        ptr: NDArray[np.int64],
        rows: NDArray[Any],
        values: NDArray[Any],
        n_rows: int,
        columns: NDArray[np.int64] | None = None,
        threads: int | None = None,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self.columns = _ALL if columns is None else columns
        self.shape = (n_rows, len(ptr) - 1 if columns is None else len(columns))
        threads = available_threads() if threads is None else threads
        self._pool = ThreadPoolExecutor(threads) if pool is None and threads > 1 else pool
        self.arrays = (ptr, rows, values, self.columns)
        self.borders = self._borders()

    @classmethod
    def of(cls, X: sp.spmatrix | sp.sparray, threads: int | None = None) -> Columns:
        """Convert a scipy sparse matrix of any kind, CSR in pieces without a copy of the whole.

        Raises
        ------
        InputError
            Not a sparse matrix, an empty shape, or a cell that is no finite number.
        """
        if not sp.issparse(X):
            raise InputError(
                "not a scipy sparse matrix", place="X", value=type(X).__name__, expected="csr_array(X)"
            )
        if X.ndim != 2 or 0 in X.shape or X.dtype.kind not in "biuf":
            raise InputError(
                "wrong shape or type",
                place="X",
                value=f"{X.shape} {X.dtype}",
                expected="targets x columns, at least 1 x 1, real numbers",
            )
        # Other formats may hold a cell in parts, which a conversion sums in the matrix's own type.
        matrix = X if X.format == "csr" else sp.csr_array(X if X.format == "csc" else X.astype(np.float64))
        made = cls(*_by_columns(matrix), matrix.shape[0], threads=threads)
        from distcalib.fit import sorting

        if sorting.repeats(*made.arrays[:2]):
            # Cells given in parts: their sum is taken once, in float64 and in one order.
            matrix = sp.csr_array(X, dtype=np.float64, copy=True)
            matrix.sum_duplicates()
            made = cls(*_by_columns(matrix), matrix.shape[0], threads=threads)
        return made

    def take(self, columns: NDArray[np.int64]) -> Columns:
        """Return some of the columns in use (ascending positions); cells are shared."""
        chosen = columns if self.columns is _ALL else self.columns[columns]
        ptr, rows, values = self.arrays[:3]
        return Columns(
            ptr, rows, values, self.shape[0], chosen, 1 if self._pool is None else None, self._pool
        )

    def compressed(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
        """Return pointers, rows and values of the columns in use: of some columns, a copy."""
        ptr, rows, values = self.arrays[:3]
        if self.columns is _ALL:
            return ptr, rows, values
        part = sp.csc_array((values, rows, ptr), shape=(self.shape[0], len(ptr) - 1))[:, self.columns]
        return part.indptr.astype(np.int64), part.indices, part.data

    def estimate(self, weights: Float, absolute: bool = False) -> Float:
        """Return X @ weights, or abs(X) @ weights; float64 (rows,)."""
        from distcalib.fit import products

        loop = products.scatter_absolute if absolute else products.scatter
        parts = np.empty((len(self.borders) - 1, self.shape[0]))
        w = _fixed(weights)
        self.each_chunk(lambda i, start, stop: loop(self.arrays, w, parts[i], start, stop))
        return parts.sum(axis=0)

    def gradient(self, r: Float) -> Float:
        """Return X.T @ r, float64 (columns in use,)."""
        from distcalib.fit import products

        out, r = np.empty(self.shape[1]), _fixed(r)
        self.each_chunk(lambda i, start, stop: products.gather(self.arrays, r, out, start, stop))
        return out

    def least_over_cells(self, limit: Float) -> Float:
        """Return per column in use the least of limit[row] / |cell| over its cells other than 0, else inf."""
        from distcalib.fit import products

        out, limit = np.empty(self.shape[1]), _fixed(limit)
        self.each_chunk(lambda i, start, stop: products.least(self.arrays, limit, out, start, stop))
        return out

    def signs(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which rows have a positive cell, and which a negative one (over all columns)."""
        from distcalib.fit import sorting

        positive, negative = np.zeros((2, self.shape[0]), dtype=bool)
        sorting.signs(*self.arrays[1:3], positive, negative)
        return positive, negative

    def digest(self) -> str:
        """Return the digest of the cells and of the columns in use."""
        names = ("ptr", "rows", "values", "columns")
        return digest_arrays(dict(zip(names, self.arrays, strict=False)))

    def scaled_csr(self, row_factor: Float, column_factor: Float, dtype: type = np.float64) -> sp.csr_array:
        """Return the columns in use as scipy CSR with rows and columns multiplied: for reference engines."""
        ptr, rows, values = self.arrays[:3]
        whole = sp.csc_array(
            (values.astype(np.float64), rows.astype(np.int32), ptr), shape=(self.shape[0], len(ptr) - 1)
        )
        part = whole if self.columns is _ALL else whole[:, self.columns]
        scaled = sp.diags_array(row_factor) @ part @ sp.diags_array(column_factor)
        return sp.csr_array(scaled, dtype=dtype)

    def each_chunk(self, work: Callable[[int, int, int], object]) -> None:
        """Call `work` with (number, start, stop) of every chunk, on all threads."""
        tasks = list(zip(range(len(self.borders) - 1), self.borders, self.borders[1:], strict=False))
        if self._pool is None or len(tasks) == 1:
            for task in tasks:
                work(*task)
        else:
            for done in [self._pool.submit(work, *task) for task in tasks]:
                done.result()

    def _borders(self) -> list[int]:
        ptr, n = self.arrays[0], self.shape[1]
        if self.columns is _ALL:
            work: Callable[[int], int] = lambda j: int(ptr[j]) + _COLUMN * j  # noqa: E731
        else:
            cells = np.cumsum(ptr[self.columns + 1] - ptr[self.columns])
            work = lambda j: (int(cells[j - 1]) if j else 0) + _COLUMN * j  # noqa: E731
        # A chunk has an estimate of its own, which must not outweigh its cells.
        n_chunks = min(max(work(n) // max(_LEAST, 16 * self.shape[0]), 1), _MOST_CHUNKS)
        borders = [0]
        for i in range(1, n_chunks):
            low, high = borders[-1], n
            while low < high:  # the first column at which the work done is i chunks' share
                middle = (low + high) // 2
                low, high = (middle + 1, high) if work(middle) * n_chunks < work(n) * i else (low, middle)
            borders.append(low)
        return [*borders, n]


class Scaled:
    """Some rows of columns times a factor for each row and each column, as an operator: A @ v and A.T @ r.

    Parameters
    ----------
    matrix
        (n_targets, columns in use).
    rows
        Rows in use, ascending: those left out lengthen no sum over rows.
    row_factor, column_factor
        (n_targets,) and (columns in use,).
    flipped
        Whether this is the transpose.
    """

    def __init__(
        self,
        matrix: Columns,
        rows: NDArray[np.intp],
        row_factor: Float,
        column_factor: Float,
        flipped: bool = False,
    ) -> None:
        self.matrix, self.rows, self.flipped = matrix, rows, flipped
        self.row_factor, self.column_factor = row_factor, column_factor
        shape = len(rows), matrix.shape[1]
        self.shape = shape[::-1] if flipped else shape

    @property
    def T(self) -> Scaled:
        """The transpose."""
        return Scaled(self.matrix, self.rows, self.row_factor, self.column_factor, not self.flipped)

    def __matmul__(self, v: Float) -> Float:
        if self.flipped:
            whole = np.zeros(self.matrix.shape[0])
            whole[self.rows] = self.row_factor[self.rows] * v
            return self.matrix.gradient(whole) * self.column_factor
        return self.matrix.estimate(self.column_factor * v)[self.rows] * self.row_factor[self.rows]


class WithSum:
    """An operator with one more row, which sums `row * v`."""

    def __init__(self, matrix: Scaled, row: Float, flipped: bool = False) -> None:
        self.matrix, self.row, self.flipped = matrix, row, flipped
        n = matrix.shape[flipped] + 1, matrix.shape[not flipped]
        self.shape = n[::-1] if flipped else n

    @property
    def T(self) -> WithSum:
        """The transpose."""
        return WithSum(self.matrix.T, self.row, not self.flipped)

    def __matmul__(self, v: Float) -> Float:
        if self.flipped:
            return self.matrix @ v[:-1] + v[-1] * self.row
        return np.append(self.matrix @ v, np.sum(self.row * v))


def _fixed(array: Float) -> Float:
    """Return a read-only view: one kind of argument, so that no loop is compiled twice."""
    view = np.ascontiguousarray(array, dtype=np.float64).view()
    view.flags.writeable = False
    return view


def available_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pieces(X: sp.csr_array) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], Float]]:
    """Yield the first row, and pointers, columns and values of successive rows: int64 and float64."""
    indptr, row, n = X.indptr, 0, X.shape[0]
    while row < n:
        stop = max(int(np.searchsorted(indptr, int(indptr[row]) + _PIECE, side="right")) - 1, row + 1)
        stop = min(stop, n)
        cells = slice(int(indptr[row]), int(indptr[stop]))
        yield (
            row,
            indptr[row : stop + 1].astype(np.int64),
            X.indices[cells].astype(np.int64),
            X.data[cells].astype(np.float64),
        )
        row = stop


def _by_columns(
    X: sp.csr_array,
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Sort the cells of a CSR matrix by column: a counting sort that keeps the order of rows."""
    from distcalib.fit import sorting

    n_rows, n_columns = X.shape
    # Two too many: while cells are placed, element c + 1 says where the next cell of column c goes, and in
    # the end it is where column c + 1 begins.
    until = np.zeros(n_columns + 2, dtype=np.int64)
    exact = True
    for row, pointers, indices, data in _pieces(X):
        if len(indices) and not 0 <= indices.min() <= indices.max() < n_columns:
            raise InputError(
                "column number out of range", place="X.indices", expected=f"0 to {n_columns - 1}"
            )
        bad, fits = sorting.count(indices, data, until[2:])
        if bad >= 0:
            at = row + int(np.searchsorted(pointers - pointers[0], bad, side="right")) - 1
            number = int(np.count_nonzero(~np.isfinite(X.data)))
            raise InputError(
                f"{number} cells are NaN or infinite",
                place=f"X[{at}, {int(indices[bad])}]",
                value=float(data[bad]),
            )
        exact = exact and fits
    np.cumsum(until, out=until)
    rows = np.empty(int(until[-1]), dtype=np.uint16 if n_rows <= 65_535 else np.uint32)
    values = np.empty(len(rows), dtype=np.float32 if exact else np.float64)
    for row, pointers, indices, data in _pieces(X):
        sorting.place(pointers, indices, data, row, until[1:], rows, values)
    return until[:-1], rows, values
