"""An epoch of `distcalib.fit.device` as four Triton kernels; import it where there is Triton.

Each program owns what it writes and adds up in an order that the code fixes, so no sum needs an atomic. All
kernels return at once when the training has ended.
"""

from __future__ import annotations

from collections.abc import Callable

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

from distcalib.fit import device as d
from distcalib.fit import engines, spec

_const = tl.constexpr
_EPOCH, _PENALTY, _USED, _SINCE = (_const(i) for i in (d.EPOCH, d.PENALTY, d.USED_PENALTY, d.CLOSED_SINCE))
_STOP, _EXPECTED, _SQUARES = (_const(i) for i in (d.STOP, d.EXPECTED, d.SQUARES))
_OPEN, _LOSS = _const(d.OPEN), _const(d.LOSS)
_RUNNING, _ENDED, _DIVERGED = _const(d.RUNNING), _const(d.ENDED), _const(d.DIVERGED)
_BETA, _GAMMA, _ZETA, _SHIFT, _LOW = (_const(i) for i in (d.BETA, d.GAMMA, d.ZETA, d.SHIFT, d.LOW))
_HIGH, _L2, _SHUT, _BUDGET, _LAST = (_const(i) for i in (d.HIGH, d.L2, d.SHUT, d.BUDGET, d.LAST))
_ALLOWED, _RATE, _CORRECTION = _const(d.ALLOWED), _const(d.RATE), _const(d.CORRECTION)
_LARGEST, _FLAT, _STEEPEST = _const(d.LARGEST), _const(d.FLAT), _const(d.STEEPEST)
_BOUND, _EPS, _UNIFORM_EPS = _const(spec.LOG_ALPHA_BOUND), _const(spec.ADAM_EPS), _const(spec.UNIFORM_EPS)
_B1, _B2 = (_const(b) for b in spec.ADAM_MOMENTS)
_R1, _R2 = (_const(1 - b) for b in spec.ADAM_MOMENTS)
_GROWTH = _const(engines.PENALTY_GROWTH)
_GOLDEN, _M1, _M2 = (_const(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_UNIT = _const(2.0**-53)
#: Cells of a column that are read at once; cells of a row; sums that one program adds up at once.
_WIDTH, _CELLS, _PARTS = 16, 1024, 1024
_KINDS = {"squared": 0, "huber": 1, "capped_mape": 2}


def epoch_of(gates: d.DeviceGates) -> Callable[[bool], None]:
    """Return what takes a step, unless the training has ended, and draws the next sample.

    It is told whether to take the step at all, or only to draw: the start of a fit, and of a resumed one.
    """
    g, t, blocks = gates, gates.tensors, len(gates.sums) // 3
    row = (g.factor, g.goal, g.band, g.knee, g.root, g.residual, g.slope, g.terms)
    column = (*(t[name] for name in ("log_weight", "log_alpha", "mw", "vw", "ma", "va")), g.drawn, g.weight)
    matrix = (g.ptr, g.rows, g.values, g.slope, g.initial, g.columns, g.stream)
    numbered = gates.numbered

    def epoch(move: bool) -> None:
        if move:
            if len(g.partial):
                _pieces[(len(g.partial),)](
                    g.now, g.piece_starts, g.row_columns, g.row_values, g.weight, g.partial,
                    PIECE=d.PIECE, CELLS=_CELLS,
                )  # fmt: skip
            _targets[(g.n_targets,)](
                g.now, g.row_pieces, g.partial, *row, KIND=_KINDS[g.loss], PARTS=128, num_warps=1
            )
        _columns[(blocks,)](
            g.now, g.settings, g.table, *matrix, *column, g.sums, g.n,
            NUMBERED=numbered, MOVE=move, BLOCK=d.BLOCK, WIDTH=_WIDTH,
        )  # fmt: skip
        _decide[(1,)](
            g.now, g.settings, g.table, g.terms, g.sums, g.n_targets, blocks, MOVE=move, PARTS=_PARTS
        )

    return epoch


@triton.jit
def _pieces(
    now: tl.tensor, starts: tl.tensor, columns: tl.tensor, values: tl.tensor, weight: tl.tensor,
    partial: tl.tensor, PIECE: tl.constexpr, CELLS: tl.constexpr,
) -> None:  # fmt: skip
    """Add up one piece of a row of the matrix times the weights."""
    if tl.load(now + _STOP) != _RUNNING:
        return
    piece = tl.program_id(0)
    start, stop = tl.load(starts + piece), tl.load(starts + piece + 1)
    total = tl.zeros((CELLS,), dtype=tl.float64)
    for k in range(0, PIECE, CELLS):
        i = start + k + tl.arange(0, CELLS)
        inside = i < stop
        c = tl.load(columns + i, mask=inside, other=0, eviction_policy="evict_first")
        x = tl.load(values + i, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float64)
        total += x * tl.load(weight + c, mask=inside, other=0.0).to(tl.float64)
    tl.store(partial + piece, tl.sum(total, 0))


@triton.jit
def _targets(
    now: tl.tensor, row_pieces: tl.tensor, partial: tl.tensor, factors: tl.tensor, goals: tl.tensor,
    bands: tl.tensor, knees: tl.tensor, roots: tl.tensor, residual: tl.tensor, slopes: tl.tensor,
    terms: tl.tensor, KIND: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Add up the pieces of one row; derive the loss by its estimate."""
    if tl.load(now + _STOP) != _RUNNING:
        return
    row = tl.program_id(0)
    first, last = tl.load(row_pieces + row), tl.load(row_pieces + row + 1)
    total = tl.zeros((PARTS,), dtype=tl.float64)
    for k in range(first, last, PARTS):
        i = k + tl.arange(0, PARTS)
        total += tl.load(partial + i, mask=i < last, other=0.0)
    factor, band, knee = tl.load(factors + row), tl.load(bands + row), tl.load(knees + row)
    r = factor * tl.sum(total, 0) - tl.load(goals + row)
    beyond = r - tl.minimum(tl.maximum(r, -band), band)
    size = tl.abs(beyond)
    inner = tl.minimum(size, knee)
    if KIND == 0:
        term, slope = size * size, 2.0 * beyond
    elif KIND == 1:
        term, slope = inner * (2.0 * size - inner), 2.0 * tl.minimum(tl.maximum(beyond, -knee), knee)
    else:
        root = tl.load(roots + row)
        sign = (beyond > 0).to(tl.float64) - (beyond < 0).to(tl.float64)
        term, slope = root * inner, tl.where(size < knee, root * sign, 0.0)
    tl.store(residual + row, r)
    tl.store(terms + row, term)
    tl.store(slopes + row, factor * slope)


@triton.jit
def _mix(z: tl.tensor) -> tl.tensor:
    z = (z ^ (z >> 30)) * _M1
    z = (z ^ (z >> 27)) * _M2
    return z ^ (z >> 31)


@triton.jit
def _keyed(key: tl.tensor, part: tl.tensor) -> tl.tensor:
    return _mix((key ^ _mix(part + _GOLDEN)) + _GOLDEN)


@triton.jit
def _within(x: tl.tensor, bound: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(x, -bound), bound)


@triton.jit
def _moments(
    mean: tl.tensor, square: tl.tensor, gradient: tl.tensor, rate: tl.tensor, correction: tl.tensor
) -> tl.tensor:
    """Return Adam's moments and step."""
    g = _within(gradient, _STEEPEST).to(tl.float64)
    m, v = mean * _B1 + g * _R1, square * _B2 + g * g * _R2
    step = rate * m.to(tl.float32) / (tl.sqrt((v / correction).to(tl.float32)) + _EPS)
    return m, v, step.to(tl.float64)


@triton.jit
def _columns(
    now: tl.tensor, settings: tl.tensor, table: tl.tensor, ptr: tl.tensor, rows: tl.tensor,
    values: tl.tensor, slopes: tl.tensor, initials: tl.tensor, numbers: tl.tensor, stream: tl.tensor,
    log_weights: tl.tensor, log_alphas: tl.tensor, mws: tl.tensor, vws: tl.tensor, mas: tl.tensor,
    vas: tl.tensor, drawns: tl.tensor, weights: tl.tensor, sums: tl.tensor, n: tl.tensor,
    NUMBERED: tl.constexpr, MOVE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Take an Adam step of a block of columns and draw their next gates; add up what `_decide` looks at."""
    if tl.load(now + _STOP) != _RUNNING:
        return
    j = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = j < n
    beta, shift = tl.load(settings + _BETA).to(tl.float32), tl.load(settings + _SHIFT).to(tl.float32)
    gamma = tl.load(settings + _GAMMA).to(tl.float32)
    wide = tl.load(settings + _ZETA) - tl.load(settings + _GAMMA)
    reach = wide.to(tl.float32)
    initial = tl.load(initials + j, mask=inside, other=0.0)
    log_weight = tl.load(log_weights + j, mask=inside, other=0.0)
    log_alpha = tl.load(log_alphas + j, mask=inside, other=0.0)
    epoch = tl.load(now + _EPOCH).to(tl.int64) + 1
    if MOVE:
        s = tl.load(drawns + j, mask=inside, other=0.0)
        start, stop = tl.load(ptr + j, mask=inside, other=0), tl.load(ptr + j + 1, mask=inside, other=0)
        stop = tl.where(s <= -gamma / reach, start, stop)  # a closed gate has no gradient: cells not read
        total = tl.zeros((BLOCK, WIDTH), dtype=tl.float64)
        for k in range(0, tl.max(stop - start, 0), WIDTH):
            i = (start + k)[:, None] + tl.arange(0, WIDTH)[None, :]
            cell = i < stop[:, None]
            row = tl.load(rows + i, mask=cell, other=0, eviction_policy="evict_first")
            x = tl.load(values + i, mask=cell, other=0.0, eviction_policy="evict_first").to(tl.float64)
            total += x * tl.load(slopes + row, mask=cell, other=0.0)
        g = _within(initial * tl.sum(total, 1), _STEEPEST).to(tl.float32)
        la = log_alpha.to(tl.float32)
        rel = tl.exp(_within(log_weight.to(tl.float32), _LARGEST))
        bar = s * reach + gamma
        ridge = (2.0 * tl.load(settings + _L2)).to(tl.float32)
        by_weight = g * (rel * tl.minimum(tl.maximum(bar, 0.0), 1.0)) + ridge * rel * rel
        steep = (wide / tl.load(settings + _BETA)).to(tl.float32)
        inner = tl.where((bar >= 0) & (bar <= 1), steep * s * (1.0 - s), 0.0)
        e = tl.exp(-_within(la, _BOUND) - shift)
        cost = tl.load(now + _PENALTY).to(tl.float32)
        by_alpha = g * (rel * inner) + cost * e / ((1.0 + e) * (1.0 + e))
        by_alpha = tl.where(tl.abs(la) <= _BOUND, by_alpha, 0.0)
        rate = tl.load(table + 3 * epoch + _RATE).to(tl.float32)
        correction = tl.load(table + 3 * epoch + _CORRECTION)
        mean, square = tl.load(mws + j, mask=inside, other=0.0), tl.load(vws + j, mask=inside, other=0.0)
        mean, square, step = _moments(mean, square, by_weight, rate, correction)
        low, high = tl.load(settings + _LOW), tl.load(settings + _HIGH)
        log_weight = tl.minimum(tl.maximum(log_weight - step, low), high)
        tl.store(mws + j, mean, mask=inside)
        tl.store(vws + j, square, mask=inside)
        tl.store(log_weights + j, log_weight, mask=inside)
        mean, square = tl.load(mas + j, mask=inside, other=0.0), tl.load(vas + j, mask=inside, other=0.0)
        mean, square, step = _moments(mean, square, by_alpha, rate, correction)
        log_alpha = log_alpha - step
        tl.store(mas + j, mean, mask=inside)
        tl.store(vas + j, square, mask=inside)
        tl.store(log_alphas + j, log_alpha, mask=inside)
        epoch += 1
    number = j
    if NUMBERED:
        number = tl.load(numbers + j, mask=inside, other=0)
    key = _keyed(tl.load(stream).to(tl.uint64, bitcast=True), epoch.to(tl.uint64))
    bits = _keyed(key, number.to(tl.uint64)) >> 11
    u = (bits.to(tl.int64).to(tl.float64) + 0.5) * _UNIT
    u = tl.minimum(tl.maximum(u, _UNIFORM_EPS), 1.0 - _UNIFORM_EPS)
    la = _within(log_alpha.to(tl.float32), _BOUND)
    odds = tl.log(u.to(tl.float32) / (1.0 - u).to(tl.float32))
    s = 1.0 / (1.0 + tl.exp(-_within((odds + la) / beta, _FLAT)))
    rel = tl.exp(_within(log_weight.to(tl.float32), _LARGEST))
    gate = tl.minimum(tl.maximum(s * reach + gamma, 0.0), 1.0)
    tl.store(drawns + j, s, mask=inside)
    tl.store(weights + j, (initial * (rel * gate).to(tl.float64)).to(tl.float32), mask=inside)
    keep = (1.0 / (1.0 + tl.exp(-la - shift))).to(tl.float64)
    square = rel.to(tl.float64) * rel.to(tl.float64)
    still = (log_alpha > tl.load(settings + _SHUT)).to(tl.float64)
    part = sums + 3 * tl.program_id(0)
    tl.store(part, tl.sum(tl.where(inside, keep, 0.0), 0))
    tl.store(part + 1, tl.sum(tl.where(inside, square, 0.0), 0))
    tl.store(part + 2, tl.sum(tl.where(inside, still, 0.0), 0))


@triton.jit
def _total(values: tl.tensor, n: tl.tensor, step: tl.tensor, PARTS: tl.constexpr) -> tl.tensor:
    total = tl.zeros((PARTS,), dtype=tl.float64)
    for k in range(0, n, PARTS):
        i = k + tl.arange(0, PARTS)
        total += tl.load(values + step * i, mask=i < n, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _decide(
    now: tl.tensor, settings: tl.tensor, table: tl.tensor, terms: tl.tensor, sums: tl.tensor,
    n_targets: tl.tensor, blocks: tl.tensor, MOVE: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Judge the step as `distcalib.fit.engines` does after each: its loss, the end, the next penalty."""
    if tl.load(now + _STOP) != _RUNNING:
        return
    expected, squares = _total(sums, blocks, 3, PARTS), _total(sums + 1, blocks, 3, PARTS)
    still = _total(sums + 2, blocks, 3, PARTS)
    if MOVE:
        epoch, penalty = tl.load(now + _EPOCH) + 1.0, tl.load(now + _PENALTY)
        before = penalty * tl.load(now + _EXPECTED) + tl.load(settings + _L2) * tl.load(now + _SQUARES)
        loss = _total(terms, n_targets, 1, PARTS) + before
        ended = (epoch == tl.load(settings + _LAST)) | (expected <= tl.load(settings + _BUDGET))
        late = expected > tl.load(table + 3 * epoch.to(tl.int64) + _ALLOWED)
        since = tl.load(now + _SINCE)
        since = tl.where(since > 0, since, epoch)
        tl.store(now + _EPOCH, epoch)
        tl.store(now + _LOSS, loss)
        tl.store(now + _USED, penalty)
        tl.store(now + _SINCE, tl.where(still > 0, 0.0, since))
        sound = tl.abs(loss) < float("inf")
        tl.store(now + _STOP, tl.where(sound, tl.where(ended, _ENDED, _RUNNING), _DIVERGED).to(tl.float64))
        tl.store(now + _PENALTY, tl.where(late & (ended == 0), penalty * _GROWTH, penalty))
    tl.store(now + _EXPECTED, expected)
    tl.store(now + _SQUARES, squares)
    tl.store(now + _OPEN, still)
