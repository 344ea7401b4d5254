"""One epoch of gates, compiled: a single pass over the columns of a chunk.

It runs without the interpreter's lock, so threads share out chunks. A chunk's sums have one order, and exp
and log are written out so that they run in the processor's vectors. The cells of some dozen successive
columns are multiplied into a small array, and added up from there: a loop over each column's own cells,
whose end the processor has to guess, takes up to twice as long.

Import this module when a fit begins: numba takes half a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

from distcalib.fit.vectors import (
    bits,
    fetch,
    from_bits,
    products,
    spread_8,
    spread_32,
    total_of_8,
    total_of_32,
)
from distcalib.random import stream_key

# As in `distcalib.fit.spec`, to which a test holds them. Written out, for the compiled code that is kept on
# disk is renewed only when this file changes.
ADAM_MOMENTS, ADAM_EPS, LOG_ALPHA_BOUND, UNIFORM_EPS = (0.9, 0.999), 1e-8, 20.0, 1e-6
#: Digest of `distcalib.fit.vectors`, which is compiled into what is kept here: as `sha256sum` begins.
VECTORS = "f826a26873fd4892"

#: Columns handled at once: their state and their cells stay in the first and second cache.
BLOCK = 1024
_BLOCK = np.uint64(BLOCK)
#: Cells of successive columns that are read together, at most and on average: what is made of them fits the
#: first cache beside a float for each target. And the most columns.
_TOGETHER, _ABOUT, _MOST = (np.uint64(n) for n in (1024, 640, 64))

# Gates, and what they make of a gradient, are computed in float32, where a vector holds twice as many and exp
# costs half: relative errors of 1e-7 beside noise of order 1. The state and every sum are float64.
_f = np.float32
# Rows of a block's working memory. One array with constant distances: with an array for each, the compiler
# gives up proving that they do not overlap and does not vectorise.
_LW, _LA, _DW, _DA, _Z, _PI, _REL = (np.uint64(BLOCK * i) for i in range(7))
_B1, _B2 = ADAM_MOMENTS
_ZERO, _ONE, _EPS = _f(0.0), _f(1.0), _f(ADAM_EPS)
_LARGEST, _FLAT = _f(87.0), _f(60.0)  # of a log weight, and of a logit: beyond it the sigmoid is 0 or 1
_STEEPEST = _f(1e18)  # of a gradient, so that its square is a float32: Adam goes down all the same
_LITTLE = 1e-36  # beside ADAM_EPS it is nothing, and keeps moments from numbers so small that they are slow
_LOG2E, _LN2, _LN2_HI, _LN2_LO = _f(1.44269504), _f(0.69314718), _f(0.693359375), _f(-2.12194440e-4)
_ROUND = _f(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
_E2, _E3, _E4, _E5, _E6, _E7 = (_f(1 / math.factorial(i)) for i in range(2, 8))
_L3, _L5, _L7, _L9 = (_f(1 / i) for i in (3, 5, 7, 9))
_SQRT_HALF = np.int32(0x3F3504F3)  # bits of sqrt(1/2)
_GOLDEN, _M1, _M2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_U0, _U1, _S1, _S2, _S3, _S11 = (np.uint64(c) for c in (0, 1, 30, 27, 31, 11))
_N0 = np.uint32(0)
_U2, _U7, _U8, _U16, _U32 = (np.uint64(c) for c in (2, 7, 8, 16, 32))


HOW = {"nogil": True, "error_model": "numpy"}
# A product and a sum in one instruction where the processor has it; no other liberty with arithmetic.
FUSED = {"contract"}


def compiled(function: Callable[..., Any], liberties: set[str] = FUSED) -> Callable[..., Any]:
    """Compile, keeping the code on disk where there is a place for it: by the source, or the user's own."""
    try:
        return numba.njit(cache=True, fastmath=liberties, **HOW)(function)
    except RuntimeError:  # neither the installation nor the home folder can be written
        return numba.njit(fastmath=liberties, **HOW)(function)


# A call hands over every field of every array and counts references, which takes as long as a dozen cells.
# And each product is rounded before it is added, so that it does not matter which cells are read together.
_stepwise = numba.njit(forceinline=True, **HOW)
# One sum for each place of a vector: an order that the compiled code fixes.
_in_vectors = partial(compiled, liberties=FUSED | {"reassoc"})


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
    return p * from_bits(np.int32((bits(shifted) + 127) << 23))


@compiled
def _log(x: Any) -> Any:
    """log of a positive normal float32, to within 2e-7: x = 2^k m, then 2 atanh((m - 1) / (m + 1))."""
    pattern = bits(x)
    k = np.int32((pattern - _SQRT_HALF) >> 23)
    m = from_bits(np.int32(pattern - (k << 23)))
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


@compiled
def _placed(ptr: Any, columns: Any, first: int, n: int, begin: Any, size: Any) -> None:
    """Write where the cells of each column of a block begin, and how many it has."""
    if len(columns):
        for i in range(n):
            c = np.uint64(columns[first + i])
            begin[i], size[i] = ptr[c], ptr[c + _U1] - ptr[c]
    else:
        for i in range(n):
            begin[i] = ptr[first + i]
        for i in range(n):
            size[i] = np.uint32(ptr[first + i + _U1] - ptr[first + i])


@compiled
def _listed(begin: Any, size: Any, n: int, values: Any, at: int, least: float, used: Any, found: Any) -> Any:
    """List the columns of a block that have cells and a value (from `at` on) above `least`, or NaN.

    Without branches: which columns these are cannot be foreseen, and a wrong guess costs some 20 cycles.
    Return how many there are, and of how many the cells are read together: of one where most of those in
    between belong to other columns.
    """
    cells = _U0
    for i in range(n):
        used[i] = np.uint32((size[i] > _N0) & (not (values[at + i] <= least)))
        cells += np.uint64(used[i] * size[i])
    count = _U0
    for i in range(n):
        found[count] = np.uint32(i)
        count += np.uint64(used[i])
    if count == _U0:
        return count, _U1
    last = found[count - _U1]
    span = begin[last] + np.uint64(size[last]) - begin[found[_U0]]
    return count, min(max(_ABOUT * count // cells, _U1), _MOST) if span <= cells * _U2 else _U1


@_stepwise
def _multiply(rows: Any, values: Any, r: Any, start: int, n: int, t: Any) -> None:
    """Write values * r[rows] of n cells to `t`; past them, up to seven other products."""
    whole = min(n + _U7, np.uint64(len(rows)) - start) // _U8 * _U8
    for j in range(_U0, whole, _U8):
        products(rows, values, r, start + j, t, j)
    for j in range(whole, n):
        t[j] = np.float64(values[start + j]) * np.float64(r[rows[start + j]])


@_stepwise
def _total(t: Any, start: int, n: int) -> float:
    if n <= _U8:
        return total_of_8(t, start, n)
    total = total_of_32(t, start, n)
    for j in range(_U32, n, _U32):
        total += total_of_32(t, start + j, n - j)
    return total


@_stepwise
def _dots(
    rows: Any, values: Any, r: Any, listed: Any, count: Any, together: Any, t: Any, g: Any, following: Any,
    at: int,
) -> None:  # fmt: skip
    """Write the products of the listed columns with `r` to `g`; the others have none."""
    begin, size, found = listed
    share = _BLOCK // max(count, _U1)
    g[:] = 0.0
    for first in range(_U0, count, together):
        last = min(first + together, count)
        for x in following:
            for i in range(first * share, last * share, _U8):
                fetch(x, at + i)
        start, c = begin[found[first]], found[last - _U1]
        n = begin[c] + np.uint64(size[c]) - start
        if n <= _TOGETHER:
            _multiply(rows, values, r, start, n, t)
            for i in range(first, last):
                c = found[i]
                g[c] = _total(t, begin[c] - start, np.uint64(size[c]))
        else:
            for i in range(first, last):
                c, total = found[i], 0.0
                for k in range(_U0, np.uint64(size[c]), _TOGETHER):
                    n = min(np.uint64(size[c]) - k, _TOGETHER)
                    _multiply(rows, values, r, begin[c] + k, n, t)
                    total += _total(t, _U0, n)
                g[c] = total


@_stepwise
def _weigh(values: Any, start: int, n: int, w: float, t: Any, j: int) -> None:
    """Write values * w of n cells to `t` from j on; past them, up to 31 numbers of no meaning."""
    if start + n + _U32 > np.uint64(len(values)):
        for i in range(n):
            t[j + i] = np.float64(values[start + i]) * w
    elif n <= _U8:
        spread_8(values, start, w, t, j)
    else:
        spread_32(values, start, w, t, j)
        for i in range(_U32, n, _U32):
            spread_32(values, start + i, w, t, j + i)


@_stepwise
def _add_up(rows: Any, start: int, n: int, t: Any, out: Any) -> None:
    for j in range(n):
        out[rows[start + j]] += t[j]


@_stepwise
def _estimates(
    rows: Any, values: Any, listed: Any, count: Any, together: Any, w: Any, t: Any, out: Any, following: Any,
    at: int,
) -> None:  # fmt: skip
    """Add the part of the listed columns, of weights `w`, to the estimate `out`."""
    begin, size, found = listed
    share = _BLOCK // max(count, _U1)
    for first in range(_U0, count, together):
        last = min(first + together, count)
        for x in following:
            for i in range(first * share, last * share, _U16):
                fetch(x, at + i)
        start, c = begin[found[first]], found[last - _U1]
        n = begin[c] + np.uint64(size[c]) - start
        if n <= _TOGETHER:
            done = _U0
            for i in range(first, last):
                c = found[i]
                j = begin[c] - start
                for gap in range(done, j):
                    t[gap] = 0.0
                _weigh(values, begin[c], np.uint64(size[c]), w[c], t, j)
                done = j + np.uint64(size[c])
            _add_up(rows, start, n, t, out)
        else:
            for i in range(first, last):
                c = found[i]
                for k in range(_U0, np.uint64(size[c]), _TOGETHER):
                    n = min(np.uint64(size[c]) - k, _TOGETHER)
                    _weigh(values, begin[c] + k, n, w[c], t, _U0)
                    _add_up(rows, begin[c] + k, n, t, out)


@compiled
def _within(x: Any, bound: Any) -> Any:
    return min(max(x, -bound), bound)


@compiled
def _rounded(x: Any, first: int, n: int, w: Any, row: int) -> None:
    """Copy a block's parameters to a row of `w`."""
    for i in range(n):
        w[row + i] = np.float32(x[first + i])


@compiled
def _slopes(drawn: Any, initial: Any, first: int, n: int, g: Any, w: Any, settings: Any) -> None:
    """Derive the loss of a block, `g` by weight, by log weight (row DW) and log alpha (row DA)."""
    beta, gamma, zeta, shift, _, _, penalty, l2 = settings[:8]
    reach, least, bound = np.float32(zeta - gamma), np.float32(gamma), np.float32(LOG_ALPHA_BOUND)
    steep, cost, ridge = np.float32((zeta - gamma) / beta), np.float32(penalty), np.float32(2.0 * l2)
    moved = np.float32(shift)
    for i in range(n):
        w[_DW + i] = np.float32(min(max(initial[first + i] * g[i], -_STEEPEST), _STEEPEST))
    for i in range(n):
        rel = _exp(_within(w[_LW + i], _LARGEST))
        s, la, d = drawn[first + i], w[_LA + i], w[_DW + i]
        bar = s * reach + least
        w[_DW + i] = d * (rel * min(max(bar, _ZERO), _ONE)) + ridge * rel * rel
        e = _exp(-_within(la, bound) - moved)
        inner = steep * s * (_ONE - s) if (bar >= _ZERO) & (bar <= _ONE) else _ZERO
        d = d * (rel * inner) + cost * e / ((_ONE + e) * (_ONE + e))
        w[_DA + i] = d if abs(la) <= bound else _ZERO


@compiled
def _adam(
    x: Any, mean: Any, square: Any, first: int, n: int, w: Any, by: int, row: int, settings: Any,
    low: float, high: float,
) -> None:  # fmt: skip
    """Take one Adam step of a block's parameters by the gradients in row `by` of `w`; copy them to `row`."""
    rate, correction = np.float32(settings[8]), 1.0 / settings[9]
    for i in range(n):
        d = np.float64(_within(w[by + i], _STEEPEST))
        m = np.float64(mean[first + i]) * _B1 + (d * (1 - _B1) + _LITTLE)
        v = np.float64(square[first + i]) * _B2 + (d * d * (1 - _B2) + _LITTLE)
        mean[first + i], square[first + i] = m, v
        step = rate * np.float32(m) / (np.sqrt(np.float32(v * correction)) + _EPS)
        new = min(max(x[first + i] - np.float64(step), low), high)
        x[first + i] = new
        w[row + i] = np.float32(new)


@compiled
def _odds(key: Any, column: Any) -> Any:
    """Return u / (1 - u) of a column's uniform draw."""
    u = (float(np.int64(_keyed(key, column) >> _S11)) + 0.5) * 2.0**-53
    u = min(max(u, UNIFORM_EPS), 1.0 - UNIFORM_EPS)
    return np.float32(u) / np.float32(1.0 - u)


@compiled
def _draw(drawn: Any, columns: Any, first: int, n: int, key: int, w: Any, settings: Any) -> None:
    """Sample the gates of a block for the noise of `key`: rows Z (relative weight), PI and REL of `w`."""
    beta, gamma, zeta, shift = settings[:4]
    reach, least, bound = np.float32(zeta - gamma), np.float32(gamma), np.float32(LOG_ALPHA_BOUND)
    colder, moved = np.float32(1.0 / beta), np.float32(shift)
    if len(columns):
        for i in range(n):
            w[_Z + i] = _odds(key, np.uint64(columns[first + i]))
    else:
        for i in range(n):
            w[_Z + i] = _odds(key, first + i)
    for i in range(n):
        la = _within(w[_LA + i], bound)
        a = _ONE + _exp(-_within((_log(w[_Z + i]) + la) * colder, _FLAT))
        b = _ONE + _exp(-la - moved)
        both = _ONE / (a * b)
        s, rel = both * b, _exp(_within(w[_LW + i], _LARGEST))
        drawn[first + i], w[_PI + i], w[_REL + i] = s, both * a, rel
        w[_Z + i] = rel * min(max(s * reach + least, _ZERO), _ONE)


@_in_vectors
def _sums(log_alpha: Any, first: int, n: int, w: Any, shut: float) -> tuple[float, float, float]:
    """Return the block's share of `sums` (see `epoch_of_chunk`)."""
    expected, squares, still = 0.0, 0.0, 0.0
    for i in range(n):
        expected += np.float64(w[_PI + i])
        squares += np.float64(w[_REL + i]) * np.float64(w[_REL + i])
        still += 1.0 if log_alpha[first + i] > shut else 0.0
    return expected, squares, still


@compiled
def _weighed(initial: Any, first: int, n: int, w: Any, g: Any) -> None:
    """Write the weights of a block's sample to `g`."""
    for i in range(n):
        g[i] = initial[first + i] * np.float64(w[_Z + i])


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
        Initial weights of the columns in use.
    state
        log weight, log alpha, float64 (n,), the two moments of each, and the concrete variable that the last
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
    ptr, rows, values, columns = matrix
    log_weight, log_alpha, mw, vw, ma, va, drawn = state
    gamma, zeta, low, high = settings[1], settings[2], settings[4], settings[5]
    closed, shut = np.float32(-gamma / (zeta - gamma)), settings[0] * np.log(-gamma / zeta)
    out[:] = 0.0
    expected, squares, still = 0.0, 0.0, 0.0
    w, g, t = np.empty(7 * BLOCK, dtype=np.float32), np.empty(BLOCK), np.empty(_TOGETHER + _U32)
    begin, size = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint32)
    used, found = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    listed, streams = (begin, size, found), ((log_weight, log_alpha), (mw, vw, ma, va, drawn))
    for first in range(np.uint64(start), np.uint64(stop), _BLOCK):
        n = min(_BLOCK, np.uint64(stop) - first)
        _placed(ptr, columns, first, n, begin, size)
        _rounded(log_weight, first, n, w, _LW)
        _rounded(log_alpha, first, n, w, _LA)
        if move:
            count, together = _listed(begin, size, n, drawn, first, closed, used, found)
            _dots(rows, values, residual, listed, count, together, t, g, streams[0], first + _BLOCK)
            _slopes(drawn, initial, first, n, g, w, settings)
            _adam(log_weight, mw, vw, first, n, w, _DW, _LW, settings, low, high)
            _adam(log_alpha, ma, va, first, n, w, _DA, _LA, settings, -np.inf, np.inf)
        _draw(drawn, columns, first, n, key, w, settings)
        a, b, c = _sums(log_alpha, first, n, w, shut)
        expected, squares, still = expected + a, squares + b, still + c
        _weighed(initial, first, n, w, g)
        count, together = _listed(begin, size, n, w, _Z, _ZERO, used, found)
        _estimates(rows, values, listed, count, together, g, t, out, streams[1], first + _BLOCK)
    sums[0], sums[1], sums[2] = expected, squares, still
