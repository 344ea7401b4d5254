"""Coordinate descent on ||F X U v - g||^2 within bounds: a pass visits each compressed column once.

F and U are diagonal (factor of each row, unit of each column) and never multiplied into X, so X stays as the
caller stores it. Serial and in a fixed order: the bits do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError

Float = NDArray[np.float64]
#: Column pointers, row of each cell, value of each cell; any integer and float types.
Compressed = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, keeping the code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the installation nor the home folder can be written
        return numba.njit(function)


class Descent:
    """Ratios v, starting at 1, and the residual F X U v - g, moved in place.

    Parameters
    ----------
    matrix
        scipy sparse (n_rows, n_columns), or the compressed columns of one.
    goal
        g, (n_rows,).
    factor, unit
        Diagonals of F and U, (n_rows,) and (n_columns,). None: 1.

    Attributes
    ----------
    v
        float64 (n_columns,).
    squares
        Squared norms of the columns of F X U, (n_columns,).
    pull
        F times the residual, (n_rows,), as the passes move it.
    """

    def __init__(
        self,
        matrix: sp.spmatrix | sp.sparray | Compressed,
        goal: ArrayLike,
        factor: ArrayLike | None = None,
        unit: ArrayLike | None = None,
    ) -> None:
        if isinstance(matrix, tuple):
            self.cells = matrix
        else:
            columns = sp.csc_array(matrix)
            self.cells = (columns.indptr, columns.indices, columns.data)
        self.goal = np.asarray(goal, dtype=np.float64)
        n_rows, n_columns = len(self.goal), len(self.cells[0]) - 1
        self.factor = np.ones(n_rows) if factor is None else np.asarray(factor, dtype=np.float64)
        self.unit = np.ones(n_columns) if unit is None else np.asarray(unit, dtype=np.float64)
        if self.factor.shape != (n_rows,) or self.unit.shape != (n_columns,):
            raise InputError(
                "one factor a row and one unit a column are needed",
                place="descent",
                value=(self.factor.shape, self.unit.shape),
                expected=f"({n_rows},) and ({n_columns},)",
            )
        self.v, self.pull = np.ones(n_columns), np.zeros(n_rows)
        self.squares = _squares(self.cells, self.factor, self.unit)
        self.renew()

    @np.errstate(over="ignore", invalid="ignore")  # a walk says so
    def renew(self) -> None:
        """Compute the residual afresh: the rounding of many moves adds up."""
        self._estimate = _estimate(self.cells, self.unit * self.v, len(self.goal))
        # Stored times its factor once more, as the gradient reads it.
        self.pull[:] = self.factor * (self.factor * self._estimate - self.goal)

    @property
    def residual(self) -> Float:
        """F X U v - g, (n_rows,), of the last `renew`."""
        return self.factor * self._estimate - self.goal

    def gradient(self) -> Float:
        """Return half the gradient of the loss by v, (n_columns,), at the last `renew`."""
        return self.unit * _gather(self.cells, self.factor * self.residual)

    def walk(
        self, columns: NDArray[np.int64], penalty: Float, ridge: float, center: float,
        low: Float, high: Float, least: Float,
    ) -> bool:  # fmt: skip
        """Minimise over each of `columns` in turn; return whether all is finite.

        Of ||F X U v - g||^2 + sum penalty v + ridge ||v - center||^2 over low <= v <= high, where a v below
        `least` becomes `low`; arrays have one element a column of X. A column that cannot be given a finite
        value ends the walk, so that `off` still tells which row is to blame.
        """
        weight = np.square(self.factor)
        finite = _walk(
            self.cells, self.unit, weight, self.squares, self.pull, self.v, columns, penalty, ridge, center,
            low, high, least,
        )  # fmt: skip
        return bool(finite and np.isfinite(self.pull).all())

    @property
    def off(self) -> Float:
        """The residual as the passes have moved it, (n_rows,); 0 in rows of factor 0."""
        with np.errstate(over="ignore"):
            return np.divide(self.pull, self.factor, out=np.zeros_like(self.pull), where=self.factor != 0)


@_compiled
def _walk(
    cells: Compressed, unit: Float, weight: Float, squares: Float, pull: Float, v: Float,
    columns: NDArray[np.int64], penalty: Float, ridge: float, center: float, low: Float, high: Float,
    least: Float,
) -> bool:  # fmt: skip
    ptr, rows, values = cells
    for k in range(len(columns)):
        j = columns[k]
        curvature = squares[j] + ridge
        if curvature <= 0.0:  # no cells and no pull: a penalty moves it to its bound at no cost
            if penalty[j] > 0.0:
                v[j] = low[j]
            continue
        slope = 0.0
        for p in range(ptr[j], ptr[j + 1]):
            slope += values[p] * pull[rows[p]]
        slope = unit[j] * slope + 0.5 * penalty[j] + ridge * (v[j] - center)
        wanted = v[j] - slope / curvature
        move = (low[j] if wanted < least[j] else min(max(wanted, low[j]), high[j])) - v[j]
        if not np.isfinite(move):
            return False
        if move != 0.0:
            v[j] += move
            move *= unit[j]
            for p in range(ptr[j], ptr[j + 1]):
                pull[rows[p]] += weight[rows[p]] * values[p] * move
    return True


@_compiled
def _squares(cells: Compressed, factor: Float, unit: Float) -> Float:
    ptr, rows, values = cells
    out = np.zeros(len(unit))
    for j in range(len(unit)):
        for p in range(ptr[j], ptr[j + 1]):
            out[j] += (factor[rows[p]] * values[p] * unit[j]) ** 2
    return out


@_compiled
def _estimate(cells: Compressed, weights: Float, n_rows: int) -> Float:
    ptr, rows, values = cells
    out = np.zeros(n_rows)
    for j in range(len(weights)):
        for p in range(ptr[j], ptr[j + 1]):
            out[rows[p]] += values[p] * weights[j]
    return out


@_compiled
def _gather(cells: Compressed, r: Float) -> Float:
    ptr, rows, values = cells
    out = np.zeros(len(ptr) - 1)
    for j in range(len(out)):
        for p in range(ptr[j], ptr[j + 1]):
            out[j] += values[p] * r[rows[p]]
    return out
