"""Compiled loops over columns: products with the compact matrix, and one epoch of gates in a single pass.

Every loop handles one chunk of columns and runs without the interpreter's lock, so threads share out chunks.
A chunk's sums have one order, and exp and log are written out so that they run in the processor's vectors.

Import this module when a fit begins: numba takes half a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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

# Gates, and what they make of a gradient, are computed in float32, where a vector holds twice as many and exp
# costs half: relative errors of 1e-7 beside noise of order 1. The state and every sum are float64.
_f = np.float32
# Rows of a block's working memory. One array with constant distances: with an array for each, the compiler
# gives up proving that they do not overlap and does not vectorise.
_LW, _LA, _DW, _DA, _Z, _PI, _REL = (BLOCK * i for i in range(7))
_B1, _B2 = ADAM_MOMENTS
_ZERO, _ONE, _EPS = _f(0.0), _f(1.0), _f(ADAM_EPS)
_LARGEST, _FLAT = _f(87.0), _f(60.0)  # of a log weight, and of a logit: beyond it the sigmoid is 0 or 1
_STEEPEST = _f(1e18)  # of a gradient, so that its square is a float32: Adam goes down all the same
_LOG2E, _LN2, _LN2_HI, _LN2_LO = _f(1.44269504), _f(0.69314718), _f(0.693359375), _f(-2.12194440e-4)
_ROUND = _f(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
_E2, _E3, _E4, _E5, _E6, _E7 = (_f(1 / math.factorial(i)) for i in range(2, 8))
_L3, _L5, _L7, _L9 = (_f(1 / i) for i in (3, 5, 7, 9))
_SQRT_HALF = np.int32(0x3F3504F3)  # bits of sqrt(1/2)
_GOLDEN, _M1, _M2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_U1, _S1, _S2, _S3, _S11 = (np.uint64(c) for c in (1, 30, 27, 31, 11))


_HOW = {"nogil": True, "error_model": "numpy"}
# A product and a sum in one instruction where the processor has it; no other liberty with arithmetic.
_FUSED = {"contract"}


def compiled(function: Callable[..., Any], liberties: set[str] = _FUSED) -> Callable[..., Any]:
    """Compile, keeping the code on disk where there is a place for it: by the source, or the user's own."""
    try:
        return numba.njit(cache=True, fastmath=liberties, **_HOW)(function)
    except RuntimeError:  # neither the installation nor the home folder can be written
        return numba.njit(fastmath=liberties, **_HOW)(function)


# A call hands over every field of every array and counts references, which takes as long as a dozen cells.
_inlined = numba.njit(forceinline=True, fastmath=_FUSED, **_HOW)
# One sum for each place of a vector: an order that the compiled code fixes.
_in_vectors = partial(compiled, liberties=_FUSED | {"reassoc"})


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def _exp(x: Any) -> Any:
    """exp of a float32 in [-87, 87], to within 2e-7: x = k ln 2 + r, then Taylor's series to r^7."""
    shifted = x * _LOG2E + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LN2_HI) - k * _LN2_LO
    p = r * _E7 + _E6
    p = p * r + _E5
    p = p * r + _E4
    p = p * r + _E3
    p = p * r + _E2
    p = p * r + _ONE
    p = p * r + _ONE
    return p * _from_bits(np.int32((_bits(shifted) + 127) << 23))


@compiled
def _log(x: Any) -> Any:
    """log of a positive normal float32, to within 2e-7: x = 2^k m, then 2 atanh((m - 1) / (m + 1))."""
    bits = _bits(x)
    k = np.int32((bits - _SQRT_HALF) >> 23)
    m = _from_bits(np.int32(bits - (k << 23)))
    f = (m - _ONE) / (m + _ONE)
    q = f * f
    p = q * _L9 + _L7
    p = p * q + _L5
    p = p * q + _L3
    p = p * q + _ONE
    return np.float32(k) * _LN2 + (f + f) * p


@compiled
def _mix(z: Any) -> Any:
    z = (z ^ (z >> _S1)) * _M1
    z = (z ^ (z >> _S2)) * _M2
    return z ^ (z >> _S3)


@compiled
def _keyed(key: Any, part: Any) -> Any:
    return _mix((key ^ _mix(part + _GOLDEN)) + _GOLDEN)


def noise_key(seed: int, epoch: int) -> np.uint64:
    """Return what an epoch's noise has in common; column c draws ``uniform(seed, "gate", epoch, c)``."""
    return np.uint64(_keyed(stream_key(seed, "gate"), np.uint64(epoch)))


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


@_inlined
def _used(ptr: Any, ids: Any, values: Any, least: float, found: Any) -> Any:
    """List the columns of a block that have cells and a value above `least` (or NaN).

    Without branches: which columns these are cannot be foreseen, and a wrong guess costs some 20 cycles.
    """
    count = np.uint64(0)
    for i in range(np.uint64(len(values))):
        found[count] = i
        c = ids[i]
        count += np.uint64((ptr[c + _U1] > ptr[c]) & (not (values[i] <= least)))
    return count


@_inlined
def _gradients(matrix: Any, initial: Any, slope: Any, ids: Any, found: Any, count: int, g: Any) -> None:
    """Derive the loss by the relative weights of the columns of a block that were found; others have none."""
    ptr, rows, values, _ = matrix
    g[:] = np.float32(0.0)
    for k in range(count):
        c = ids[found[k]]
        d = initial[c] * _dot(rows, values, ptr[c], ptr[c + _U1], slope)
        g[found[k]] = np.float32(min(max(d, -_STEEPEST), _STEEPEST))


@_inlined
def _estimates(matrix: Any, initial: Any, ids: Any, found: Any, count: int, z: Any, out: Any) -> None:
    """Add the part of the columns that were found to the estimate `out`."""
    ptr, rows, values, _ = matrix
    for k in range(count):
        c = ids[found[k]]
        _add(rows, values, ptr[c], ptr[c + _U1], initial[c] * np.float64(z[found[k]]), out)


@compiled
def _within(x: Any, bound: Any) -> Any:
    return min(max(x, -bound), bound)


@compiled
def _rounded(x: Any, w: Any, row: int) -> None:
    """Copy a block's parameters to a row of `w`."""
    if row >= 0:
        for i in range(len(x)):
            w[row + i] = np.float32(x[i])


@compiled
def _slopes(drawn: Any, w: Any, settings: Any) -> None:
    """Derive the loss of a block by log weight (row DW, which comes in by weight) and log alpha (row DA)."""
    beta, gamma, zeta, shift, _, _, penalty, l2 = settings[:8]
    reach, least, bound = np.float32(zeta - gamma), np.float32(gamma), np.float32(LOG_ALPHA_BOUND)
    steep, cost, ridge = np.float32((zeta - gamma) / beta), np.float32(penalty), np.float32(2.0 * l2)
    moved = np.float32(shift)
    for i in range(len(drawn)):
        rel = _exp(_within(w[_LW + i], _LARGEST))
        s, la, g = drawn[i], w[_LA + i], w[_DW + i]
        bar = s * reach + least
        w[_DW + i] = g * (rel * min(max(bar, _ZERO), _ONE)) + ridge * rel * rel
        e = _exp(-_within(la, bound) - moved)
        inner = steep * s * (_ONE - s) if (bar >= _ZERO) & (bar <= _ONE) else _ZERO
        d = g * (rel * inner) + cost * e / ((_ONE + e) * (_ONE + e))
        w[_DA + i] = d if abs(la) <= bound else _ZERO


@compiled
def _adam(
    x: Any, mean: Any, square: Any, w: Any, by: int, row: int, settings: Any, low: float, high: float
) -> None:
    """Take one Adam step of a block's parameters by the gradients in row `by` of `w`; copy them to `row`."""
    rate, correction = np.float32(settings[8]), 1.0 / settings[9]
    if by >= 0 and row >= 0:
        for i in range(len(x)):
            d = np.float64(_within(w[by + i], _STEEPEST))
            m = mean[i] * _B1 + d * (1 - _B1)
            v = square[i] * _B2 + d * d * (1 - _B2)
            mean[i], square[i] = m, v
            step = rate * np.float32(m) / (np.sqrt(np.float32(v * correction)) + _EPS)
            new = min(max(x[i] - np.float64(step), low), high)
            x[i] = new
            w[row + i] = np.float32(new)


@compiled
def _draw(drawn: Any, ids: Any, key: int, w: Any, settings: Any) -> None:
    """Sample the gates of a block for the noise of `key`: rows Z (relative weight), PI and REL of `w`."""
    beta, gamma, zeta, shift = settings[:4]
    reach, least, bound = np.float32(zeta - gamma), np.float32(gamma), np.float32(LOG_ALPHA_BOUND)
    colder, moved = np.float32(1.0 / beta), np.float32(shift)
    for i in range(len(ids)):
        u = (float(np.int64(_keyed(key, ids[i]) >> _S11)) + 0.5) * 2.0**-53
        u = min(max(u, UNIFORM_EPS), 1.0 - UNIFORM_EPS)
        w[_Z + i] = np.float32(u) / np.float32(1.0 - u)
    for i in range(len(drawn)):
        la = _within(w[_LA + i], bound)
        a = _ONE + _exp(-_within((_log(w[_Z + i]) + la) * colder, _FLAT))
        b = _ONE + _exp(-la - moved)
        both = _ONE / (a * b)
        s, rel = both * b, _exp(_within(w[_LW + i], _LARGEST))
        drawn[i], w[_PI + i], w[_REL + i] = s, both * a, rel
        w[_Z + i] = rel * min(max(s * reach + least, _ZERO), _ONE)


@_in_vectors
def _sums(log_alpha: Any, w: Any, shut: float) -> tuple[float, float, float]:
    """Return the block's share of `sums` (see `epoch_of_chunk`)."""
    expected, squares, still = 0.0, 0.0, 0.0
    for i in range(len(log_alpha)):
        expected += np.float64(w[_PI + i])
        squares += np.float64(w[_REL + i]) * np.float64(w[_REL + i])
        still += 1.0 if log_alpha[i] > shut else 0.0
    return expected, squares, still


@compiled
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
        log weight, log alpha, the two moments of each, float64 (n,), and the concrete variable that the last
        draw gave, float32 (n,); changed in place.
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
    ptr, columns = matrix[0], matrix[3]
    subset = len(columns) > 0
    log_weight, log_alpha, mw, vw, ma, va, drawn = state
    gamma, zeta, low, high = settings[1], settings[2], settings[4], settings[5]
    closed, shut = np.float32(-gamma / (zeta - gamma)), settings[0] * np.log(-gamma / zeta)
    out[:] = 0.0
    expected, squares, still = 0.0, 0.0, 0.0
    w = np.zeros(7 * BLOCK, dtype=np.float32)
    ids, found = np.zeros(BLOCK, dtype=np.uint64), np.zeros(BLOCK, dtype=np.uint64)
    for first in range(start, stop, BLOCK):
        n = min(BLOCK, stop - first)
        part = slice(first, first + n)
        lw, la, s = log_weight[part], log_alpha[part], drawn[part]
        if subset:
            ids[:n] = columns[part]
        else:
            for i in range(np.uint64(n)):
                ids[i] = np.uint64(first) + i
        _rounded(lw, w, _LW)
        _rounded(la, w, _LA)
        if move:
            count = _used(ptr, ids, s, closed, found)
            _gradients(matrix, initial, residual, ids, found, count, w[_DW : _DW + n])
            _slopes(s, w, settings)
            _adam(lw, mw[part], vw[part], w, _DW, _LW, settings, low, high)
            _adam(la, ma[part], va[part], w, _DA, _LA, settings, -np.inf, np.inf)
        _draw(s, ids[:n], key, w, settings)
        a, b, c = _sums(la, w, shut)
        expected, squares, still = expected + a, squares + b, still + c
        z = w[_Z : _Z + n]
        _estimates(matrix, initial, ids, found, _used(ptr, ids, z, _ZERO, found), z, out)
    sums[0], sums[1], sums[2] = expected, squares, still
