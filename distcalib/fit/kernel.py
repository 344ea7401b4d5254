"""Compiled loops over columns: products with the compact matrix, and one epoch of gates in a single pass.

Every loop handles one chunk of columns and runs without the interpreter's lock, so threads share out chunks.
A chunk's sums have one order, and exp and log are written out so that they run in the processor's vectors.

Import this module when a fit begins: numba takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from distcalib.random import stream_key

# As in `distcalib.fit.spec`, to which a test holds them. Written out, for the compiled code that is kept on
# disk is renewed only when this file changes.
ADAM_MOMENTS, ADAM_EPS, LOG_ALPHA_BOUND, UNIFORM_EPS = (0.9, 0.999), 1e-8, 20.0, 1e-6

#: Columns handled at once: their state and their cells stay in the first and second cache.
BLOCK = 256

# Rows of a block's working memory. One array with constant distances: with an array for each, the compiler
# gives up proving that they do not overlap and does not vectorise.
_G, _LW, _LA, _MW, _VW, _MA, _VA, _S, _Z, _PI, _REL = (BLOCK * i for i in range(11))
_B1, _B2 = ADAM_MOMENTS
_LARGEST, _FLAT = 700.0, 200.0  # of a log weight, and of a logit: beyond it the sigmoid is 0 or 1
_LOG2E, _LN2_HI, _LN2_LO = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which the low bits then hold
_SQRT_HALF = np.int64(0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)
_GOLDEN, _M1, _M2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_S1, _S2, _S3, _S11 = (np.uint64(c) for c in (30, 27, 31, 11))


# A product and a sum in one instruction where the processor has it; no other liberty with arithmetic.
_HOW = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, keeping the code on disk where there is a place for it: by the source, or the user's own."""
    try:
        return numba.njit(cache=True, **_HOW)(function)
    except RuntimeError:  # neither the installation nor the home folder can be written
        return numba.njit(**_HOW)(function)


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _from_bits(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@_compiled
def _exp(x: float) -> float:
    """exp of x in [-700, 700], to within 1e-15: x = k ln 2 + r, then Taylor's series to r^12."""
    shifted = x * _LOG2E + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LN2_HI) - k * _LN2_LO
    p = r * (1 / 479001600) + (1 / 39916800)
    p = p * r + (1 / 3628800)
    p = p * r + (1 / 362880)
    p = p * r + (1 / 40320)
    p = p * r + (1 / 5040)
    p = p * r + (1 / 720)
    p = p * r + (1 / 120)
    p = p * r + (1 / 24)
    p = p * r + (1 / 6)
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _from_bits((_bits(shifted) + np.int64(1023)) << np.int64(52))


@_compiled
def _log(x: float) -> float:
    """log of a positive normal x, to within 1e-15: x = 2^k m, then 2 atanh((m - 1) / (m + 1))."""
    bits = _bits(x)
    k = (bits - _SQRT_HALF) >> np.int64(52)
    m = _from_bits(bits - (k << np.int64(52)))
    f = (m - 1.0) / (m + 1.0)
    q = f * f
    p = q * (1 / 19) + (1 / 17)
    p = p * q + (1 / 15)
    p = p * q + (1 / 13)
    p = p * q + (1 / 11)
    p = p * q + (1 / 9)
    p = p * q + (1 / 7)
    p = p * q + (1 / 5)
    p = p * q + (1 / 3)
    p = p * q + 1.0
    return float(k) * _LN2_HI + (2.0 * f * p + float(k) * _LN2_LO)


@_compiled
def _mix(z: Any) -> Any:
    z = (z ^ (z >> _S1)) * _M1
    z = (z ^ (z >> _S2)) * _M2
    return z ^ (z >> _S3)


@_compiled
def _keyed(key: Any, part: Any) -> Any:
    return _mix((key ^ _mix(part + _GOLDEN)) + _GOLDEN)


def noise_key(seed: int, epoch: int) -> np.uint64:
    """Return what an epoch's noise has in common; column c draws ``uniform(seed, "gate", epoch, c)``."""
    return np.uint64(_keyed(stream_key(seed, "gate"), np.uint64(epoch)))


@_compiled
def _dot(rows: Any, values: Any, start: int, stop: int, r: Any) -> float:
    a, b = 0.0, 0.0
    if start >= 0:  # always; it spares a test for Python's negative indices at each cell
        # Two sums in turn: the next addition need not wait for the last. Their total does not tell which of
        # them came last, so a cell of no weight at the end of a column changes nothing.
        for k in range(start, stop):
            a, b = b, a + values[k] * r[rows[k]]
    return a + b


@_compiled
def _add(rows: Any, values: Any, start: int, stop: int, w: float, out: Any) -> None:
    if start >= 0:
        for k in range(start, stop):
            out[rows[k]] += values[k] * w


@_compiled
def _copy(source: Any, start: int, target: Any, at: int, n: int) -> None:
    if start >= 0 and at >= 0:  # always; with Python's negative indices possible it is not vectorised
        for i in range(n):
            target[at + i] = source[start + i]


@_compiled
def gather(matrix: Any, r: Any, out: Any, start: int, stop: int) -> None:
    """Write X.T @ r of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    for j in range(start, stop):
        c = columns[j] if len(columns) else j
        out[j] = _dot(rows, values, ptr[c], ptr[c + 1], r)


@_compiled
def scatter(matrix: Any, w: Any, out: Any, start: int, stop: int) -> None:
    """Write X @ w of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    out[:] = 0.0
    for j in range(start, stop):
        if w[j] != 0:
            c = columns[j] if len(columns) else j
            _add(rows, values, ptr[c], ptr[c + 1], w[j], out)


@_compiled
def scatter_absolute(matrix: Any, w: Any, out: Any, start: int, stop: int) -> None:
    """Write abs(X) @ w of columns start to stop into `out`."""
    ptr, rows, values, columns = matrix
    out[:] = 0.0
    for j in range(start, stop):
        c = columns[j] if len(columns) else j
        for k in range(ptr[c], ptr[c + 1]):
            out[rows[k]] += abs(values[k]) * w[j]


@_compiled
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


@_compiled
def signs(rows: Any, values: Any, positive: Any, negative: Any) -> None:
    """Mark the rows that have a positive and those that have a negative cell."""
    for k in range(len(rows)):
        if values[k] > 0:
            positive[rows[k]] = True
        elif values[k] < 0:
            negative[rows[k]] = True


@_compiled
def count(indices: Any, data: Any, counts: Any) -> tuple[int, bool]:
    """Count cells by column; return the first that is not finite (or -1), and whether float32 holds all."""
    exact, bad = True, -1
    for k in range(len(indices)):
        counts[indices[k]] += 1
        if not np.isfinite(data[k]) and bad < 0:
            bad = k
        exact = exact and np.float64(np.float32(data[k])) == data[k]
    return bad, exact


@_compiled
def place(indptr: Any, indices: Any, data: Any, row: int, until: Any, rows: Any, values: Any) -> None:
    """Put the cells of successive rows, from `row` on, at the ends of their columns."""
    offset = indptr[0]
    for i in range(len(indptr) - 1):
        for k in range(indptr[i] - offset, indptr[i + 1] - offset):
            p = until[indices[k]]
            rows[p] = row + i
            values[p] = data[k]
            until[indices[k]] = p + 1


@_compiled
def repeats(ptr: Any, rows: Any) -> bool:
    """Say whether a column names a row twice (rows ascending)."""
    for j in range(len(ptr) - 1):
        for k in range(ptr[j] + 1, ptr[j + 1]):
            if rows[k] == rows[k - 1]:
                return True
    return False


@_compiled
def _gradients(matrix: Any, initial: Any, slope: Any, closed: float, w: Any, first: int, n: int) -> None:
    """Derive the loss by the relative weights of a block, where gates are open: others pass no gradient."""
    ptr, rows, values, columns = matrix
    for i in range(n):
        g = 0.0
        if w[_S + i] > closed:
            c = columns[first + i] if len(columns) else first + i
            g = initial[c] * _dot(rows, values, ptr[c], ptr[c + 1], slope)
        w[_G + i] = g


@_compiled
def _estimates(matrix: Any, initial: Any, w: Any, first: int, n: int, out: Any) -> None:
    """Add a block's part of the estimate to `out`."""
    ptr, rows, values, columns = matrix
    for i in range(n):
        if w[_Z + i] != 0.0:
            c = columns[first + i] if len(columns) else first + i
            _add(rows, values, ptr[c], ptr[c + 1], initial[c] * w[_Z + i], out)


@_compiled
def _move(w: Any, settings: Any) -> None:
    """Take one Adam step of log weight and log alpha of a block from the gradients of its weights."""
    beta, gamma, zeta, shift, low, high, penalty, l2, rate, second = settings
    slope, correction = (zeta - gamma) / beta, 1.0 / second
    for i in range(BLOCK):
        rel = _exp(min(max(w[_LW + i], -_LARGEST), _LARGEST))
        s, g = w[_S + i], w[_G + i]
        bar = s * (zeta - gamma) + gamma
        d = g * rel * min(max(bar, 0.0), 1.0) + 2.0 * l2 * rel * rel
        m = w[_MW + i] * _B1 + d * (1 - _B1)
        v = w[_VW + i] * _B2 + d * d * (1 - _B2)
        w[_MW + i], w[_VW + i] = m, v
        w[_LW + i] = min(max(w[_LW + i] - rate * m / (np.sqrt(v * correction) + ADAM_EPS), low), high)
        la = w[_LA + i]
        pi = 1.0 / (1.0 + _exp(-min(max(la, -LOG_ALPHA_BOUND), LOG_ALPHA_BOUND) - shift))
        d = g * rel * slope * s * (1.0 - s) if (bar >= 0.0) & (bar <= 1.0) else 0.0
        d = d + penalty * pi * (1.0 - pi) if abs(la) <= LOG_ALPHA_BOUND else 0.0
        m = w[_MA + i] * _B1 + d * (1 - _B1)
        v = w[_VA + i] * _B2 + d * d * (1 - _B2)
        w[_MA + i], w[_VA + i] = m, v
        w[_LA + i] = la - rate * m / (np.sqrt(v * correction) + ADAM_EPS)


@_compiled
def _draw(w: Any, ids: Any, key: int, settings: Any) -> None:
    """Sample the gates of a block for the noise of `key`, and its relative weights and keep probabilities."""
    beta, gamma, zeta, shift = settings[:4]
    colder = 1.0 / beta
    for i in range(BLOCK):
        u = (float(np.int64(_keyed(key, ids[i]) >> _S11)) + 0.5) * 2.0**-53
        w[_Z + i] = min(max(u, UNIFORM_EPS), 1.0 - UNIFORM_EPS)
    for i in range(BLOCK):
        u = w[_Z + i]
        la = min(max(w[_LA + i], -LOG_ALPHA_BOUND), LOG_ALPHA_BOUND)
        logit = (_log(u / (1.0 - u)) + la) * colder
        a = 1.0 + _exp(-min(max(logit, -_FLAT), _FLAT))
        b = 1.0 + _exp(-la - shift)
        both = 1.0 / (a * b)
        s = both * b
        rel = _exp(min(max(w[_LW + i], -_LARGEST), _LARGEST))
        w[_S + i], w[_PI + i], w[_REL + i] = s, both * a, rel
        w[_Z + i] = rel * min(max(s * (zeta - gamma) + gamma, 0.0), 1.0)


@_compiled
def epoch_of_chunk(
    matrix: Any,
    initial: Any,
    state: Any,
    key: int,
    settings: Any,
    residual: Any,
    out: Any,
    sums: Any,
    start: int,
    stop: int,
    move: bool,
) -> None:
    """Take one Adam step of columns start to stop, and add up the next epoch's estimate.

    Parameters
    ----------
    matrix
        `Columns.arrays`.
    initial
        Initial weights of the matrix's columns.
    state
        log weight, log alpha, the two moments of each, and the concrete variable that the last draw gave;
        float64 (n,) each, changed in place.
    key
        `noise_key` of the next epoch.
    settings
        beta, gamma, zeta, -beta log(-gamma / zeta), bounds of log weight, penalty per open gate, penalty per
        squared relative weight, learning rate over Adam's first correction, Adam's second correction.
    residual
        Derivative of the loss by the estimates, (n_targets,).
    out
        (n_targets,): the chunk's part of the next estimate.
    sums
        (3,): expected open gates, squared relative weights, and gates open without noise, after the step.
    move
        False: no step, only the draw; the start of a fit, and of a resumed one.
    """
    columns = matrix[3]
    log_weight, log_alpha, mw, vw, ma, va, drawn = state
    beta, gamma, zeta = settings[0], settings[1], settings[2]
    subset = len(columns) > 0
    closed = -gamma / (zeta - gamma)
    shut = beta * np.log(-gamma / zeta)
    out[:] = 0.0
    expected, squares, still = 0.0, 0.0, 0.0
    w = np.zeros(11 * BLOCK)
    ids = np.zeros(BLOCK, dtype=np.uint64)
    for first in range(start, stop, BLOCK):
        n = min(BLOCK, stop - first)
        _copy(log_weight, first, w, _LW, n)
        _copy(log_alpha, first, w, _LA, n)
        for i in range(n):
            ids[i] = np.uint64(columns[first + i] if subset else first + i)
        if move:
            _copy(mw, first, w, _MW, n)
            _copy(vw, first, w, _VW, n)
            _copy(ma, first, w, _MA, n)
            _copy(va, first, w, _VA, n)
            _copy(drawn, first, w, _S, n)
            _gradients(matrix, initial, residual, closed, w, first, n)
            _move(w, settings)
            _copy(w, _LW, log_weight, first, n)
            _copy(w, _LA, log_alpha, first, n)
            _copy(w, _MW, mw, first, n)
            _copy(w, _VW, vw, first, n)
            _copy(w, _MA, ma, first, n)
            _copy(w, _VA, va, first, n)
        _draw(w, ids, key, settings)
        _copy(w, _S, drawn, first, n)
        for i in range(n):
            expected += w[_PI + i]
            squares += w[_REL + i] * w[_REL + i]
            still += 1.0 if w[_LA + i] > shut else 0.0
        _estimates(matrix, initial, w, first, n, out)
    sums[0], sums[1], sums[2] = expected, squares, still
