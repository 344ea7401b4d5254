"""The matrix behind a function that computes estimates from weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.random import uniform

Float = NDArray[np.float64]
#: Deviation from linearity that passes for rounding, in units of sum |x| w.
ROUNDING = {"float64": 1e-9, "float32": 1e-4}
PLACE = "estimate_function"


def matrix_of(function: Callable[[Any], Any], n_columns: int, *, seed: int = 0) -> sp.csr_array:
    """Find X with function(w) = X.w by asking the function, and check that it is so.

    A function of float64 arrays is asked once a column; pass the matrix itself where there is one. A function
    of torch tensors (float32 or float64) is differentiated instead, once a target.

    Parameters
    ----------
    function
        Weights (n_columns,) -> estimates (n_targets,), linear: sums and counts, not means, shares or medians.
    n_columns
        Number of weights.
    seed
        Of the weights that linearity is checked at.

    Returns
    -------
    csr_array of float64, shape (n_targets, n_columns)

    Raises
    ------
    InputError
        When the function fails, gives no vector of finite numbers, or is not linear.
    """
    points = np.stack([_point(seed, i, n_columns) for i in range(2)])
    try:
        ask, kind = _numpy(function), "float64"
        n_targets = len(ask(points[0]))
    except Exception as first:
        ask, kind = _torch(function, n_columns, first)
        n_targets = len(ask(points[0]))
        _check_linear(ask, points, ROUNDING[kind])
        X = _by_gradient(function, n_columns, kind)
    else:
        _check_linear(ask, points, ROUNDING[kind])
        X = _by_column(ask, n_columns, n_targets)
    estimates = np.stack([ask(point) for point in points])
    gross = points @ abs(X).T
    _refuse(np.abs(estimates - points @ X.T) > ROUNDING[kind] * np.maximum(gross, np.abs(estimates)))
    return X


def _point(seed: int, number: int, n: int) -> Float:
    """Weights between 0 and 2, half of them 0: a ratio or a maximum shows there."""
    draw = uniform(seed, "linearity", np.int64(number), np.arange(n))
    return np.maximum(0.0, 4.0 * draw - 2.0)


def _check_linear(ask: Callable[[Float], Float], points: Float, rounding: float) -> None:
    a, b = (ask(point) for point in points)
    size = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(all="ignore"):
        nothing = ask(np.zeros(points.shape[1]))
    _refuse(np.abs(nothing) > rounding * size)
    _refuse(np.abs(ask(3.0 * points[0]) - 3.0 * a) > 3.0 * rounding * size)
    _refuse(np.abs(ask(points.sum(axis=0)) - a - b) > 2.0 * rounding * size)


def _refuse(wrong: NDArray[np.bool_]) -> None:
    targets = np.flatnonzero(wrong.any(axis=0)) if wrong.ndim == 2 else np.flatnonzero(wrong)
    if len(targets):
        raise InputError(
            f"is not linear in the weights (estimate {targets[0]}, {len(targets)} in all)",
            place=PLACE,
            expected="sums over households of value x weight; a share or mean is to be two targets",
        )


def _vector(values: Any) -> Float:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise InputError("gives no vector", place=PLACE, value=array.shape, expected="(n_targets,)")
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError("gives NaN or infinite numbers", place=f"{PLACE}: estimate {at}", value=array[at])
    return array


def _numpy(function: Callable[[Any], Any]) -> Callable[[Float], Float]:
    return lambda weights: _vector(function(weights.copy()))


def _by_column(ask: Callable[[Float], Float], n_columns: int, n_targets: int) -> sp.csr_array:
    # The function is a closed box, so there is no way but one question a column.
    rows, columns, data = [], [], []
    unit = np.zeros(n_columns)
    for column in range(n_columns):
        unit[column] = 1.0
        cells = ask(unit)
        unit[column] = 0.0
        at = np.flatnonzero(cells)
        rows.append(at)
        columns.append(np.full(len(at), column))
        data.append(cells[at])
    cells_at = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_array((np.concatenate(data), cells_at), shape=(n_targets, n_columns))


def _torch(
    function: Callable[[Any], Any], n_columns: int, first: Exception
) -> tuple[Callable[[Float], Float], str]:
    """Return the function of arrays for one of tensors, and the type of its numbers."""
    import torch

    def asked(kind: str) -> Callable[[Float], Float]:
        def ask(weights: Float) -> Float:
            return _vector(function(torch.tensor(weights, dtype=getattr(torch, kind))).detach().cpu())

        return ask

    for kind in ROUNDING:
        try:
            asked(kind)(np.ones(n_columns))
        except InputError:
            raise
        except Exception:  # the other type may do; if none does, the array's error is the clearest
            continue
        return asked(kind), kind
    if isinstance(first, InputError):
        raise first
    raise InputError(
        f"fails for weights: {type(first).__name__}: {first}",
        place=PLACE,
        expected="a function of one array or tensor, (n_households,)",
    ) from first


def _by_gradient(function: Callable[[Any], Any], n_columns: int, kind: str) -> sp.csr_array:
    import torch

    weights = torch.ones(n_columns, dtype=getattr(torch, kind), requires_grad=True)
    estimates = function(weights)
    if not estimates.requires_grad:
        raise InputError("gives tensors without a gradient", place=PLACE, expected="torch operations only")
    rows = []
    for estimate in estimates:
        (row,) = torch.autograd.grad(estimate, weights, retain_graph=True, allow_unused=True)
        cells = np.zeros(n_columns) if row is None else row.cpu().numpy().astype(np.float64)
        rows.append(sp.csr_array(cells[None, :]))
    return sp.csr_array(sp.vstack(rows))
