"""An epoch of `distcalib.fit.device` in torch operations, for any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distcalib.fit import device as d
from distcalib.fit.engines import PENALTY_GROWTH
from distcalib.fit.spec import ADAM_EPS, ADAM_MOMENTS, LOG_ALPHA_BOUND, UNIFORM_EPS

_GOLDEN, _M1, _M2 = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def epoch_of(gates: d.DeviceGates) -> Callable[[bool], None]:
    """Return what takes a step, unless the training has ended, and draws the next sample.

    It is told whether to take the step at all, or only to draw: the start of a fit, and of a resumed one.
    """

    @torch.no_grad()
    def epoch(move: bool) -> None:
        live = gates.now[d.STOP] == d.RUNNING
        if move:
            _targets(gates, live)
            _step(gates, live)
        _decide(gates, live, move, *_draw(gates, live, move))

    return epoch


def noise(stream: torch.Tensor, epoch: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the bits of ``uniform(seed, "gate", epoch, columns)`` of `distcalib.random`, float64 (columns,).

    Parameters
    ----------
    stream
        The key of the stream, int64 (1,).
    epoch, columns
        int64, scalar and (columns,).
    """
    bits = _right(_keyed(_keyed(stream, epoch), columns), 11)
    return (bits.double() + 0.5) * 2.0**-53


def _targets(gates: d.DeviceGates, live: torch.Tensor) -> None:
    cells = gates.row_values.double() * gates.weight[gates.row_columns].double()
    r = gates.factor * _sums(_sums(cells, gates.piece_starts), gates.row_pieces) - gates.goal
    beyond = r - torch.clamp(r, -gates.band, gates.band)
    size = beyond.abs()
    inner = torch.minimum(size, gates.knee)
    if gates.loss == "squared":
        terms, slope = size * size, 2.0 * beyond
    elif gates.loss == "huber":
        terms, slope = inner * (2.0 * size - inner), 2.0 * torch.clamp(beyond, -gates.knee, gates.knee)
    else:
        terms = gates.root * inner
        slope = torch.where(size < gates.knee, gates.root * beyond.sign(), 0.0)
    for kept, new in ((gates.residual, r), (gates.terms, terms), (gates.slope, gates.factor * slope)):
        kept.copy_(torch.where(live, new, kept))


def _step(gates: d.DeviceGates, live: torch.Tensor) -> None:
    settings, t = gates.settings, gates.tensors
    gamma, reach = settings[d.GAMMA].float(), (settings[d.ZETA] - settings[d.GAMMA]).float()
    used = ~(gates.drawn <= -gamma / reach)
    product = _sums(gates.values.double() * gates.slope[gates.rows], gates.ptr)
    g = torch.where(used, (gates.initial * product).clamp(-d.STEEPEST, d.STEEPEST), 0.0).float()
    la, s = t["log_alpha"].float(), gates.drawn
    rel = torch.exp(t["log_weight"].float().clamp(-d.LARGEST, d.LARGEST))
    bar = s * reach + gamma
    dw = g * (rel * bar.clamp(0, 1)) + (2.0 * settings[d.L2]).float() * rel * rel
    steep = ((settings[d.ZETA] - settings[d.GAMMA]) / settings[d.BETA]).float()
    inner = torch.where((bar >= 0) & (bar <= 1), steep * s * (1 - s), 0.0)
    e = torch.exp(-la.clamp(-LOG_ALPHA_BOUND, LOG_ALPHA_BOUND) - settings[d.SHIFT].float())
    da = g * (rel * inner) + gates.now[d.PENALTY].float() * e / ((1 + e) * (1 + e))
    da = torch.where(la.abs() <= LOG_ALPHA_BOUND, da, 0.0)
    _adam(gates, ("log_weight", "mw", "vw"), dw, live, settings[d.LOW], settings[d.HIGH])
    _adam(gates, ("log_alpha", "ma", "va"), da, live, None, None)


def _adam(
    gates: d.DeviceGates,
    names: tuple[str, str, str],
    gradient: torch.Tensor,
    live: torch.Tensor,
    low: Any,
    high: Any,
) -> None:
    x, mean, square = (gates.tensors[name] for name in names)
    (b1, b2), now = ADAM_MOMENTS, _at(gates.table, gates.now[d.EPOCH] + 1)
    g = gradient.clamp(-d.STEEPEST, d.STEEPEST).double()
    m, v = mean * b1 + g * (1 - b1), square * b2 + g * g * (1 - b2)
    step = now[d.RATE].float() * m.float() / ((v / now[d.CORRECTION]).float().sqrt() + ADAM_EPS)
    moved = x - step.double()
    new = moved if low is None else torch.clamp(moved, low, high)
    for kept, value in ((x, new), (mean, m), (square, v)):
        kept.copy_(torch.where(live, value, kept))


def _draw(gates: d.DeviceGates, live: torch.Tensor, move: bool) -> tuple[torch.Tensor, ...]:
    settings = gates.settings
    drawn_for = gates.now[d.EPOCH].long() + 1 + int(move)
    u = noise(gates.stream, drawn_for, gates.columns).clamp(UNIFORM_EPS, 1 - UNIFORM_EPS)
    la = gates.tensors["log_alpha"].float().clamp(-LOG_ALPHA_BOUND, LOG_ALPHA_BOUND)
    odds = torch.log(u.float() / (1.0 - u).float())
    s = torch.sigmoid(((odds + la) / settings[d.BETA].float()).clamp(-d.FLAT, d.FLAT))
    rel = torch.exp(gates.tensors["log_weight"].float().clamp(-d.LARGEST, d.LARGEST))
    gate = (s * (settings[d.ZETA] - settings[d.GAMMA]).float() + settings[d.GAMMA].float()).clamp(0, 1)
    gates.drawn.copy_(torch.where(live, s, gates.drawn))
    gates.weight.copy_(torch.where(live, (gates.initial * (rel * gate).double()).float(), gates.weight))
    expected = torch.sigmoid(la + settings[d.SHIFT].float()).double().sum()
    still = (gates.tensors["log_alpha"] > settings[d.SHUT]).sum().double()
    return expected, (rel.double() ** 2).sum(), still


def _decide(gates: d.DeviceGates, live: torch.Tensor, move: bool, *looked: torch.Tensor) -> None:
    """Judge the step as `distcalib.fit.engines` does after each: its loss, the end, the next penalty."""
    expected, squares, still = looked
    old, settings = gates.now, gates.settings
    new = old.clone()
    new[d.EXPECTED], new[d.SQUARES], new[d.OPEN] = expected, squares, still
    if move:
        penalty, epoch = old[d.PENALTY], old[d.EPOCH] + 1
        loss = gates.terms.sum() + penalty * old[d.EXPECTED] + settings[d.L2] * old[d.SQUARES]
        ended = (epoch == settings[d.LAST]) | (expected <= settings[d.BUDGET])
        late = ~ended & (expected > _at(gates.table, epoch)[d.ALLOWED])
        since = torch.where(old[d.CLOSED_SINCE] > 0, old[d.CLOSED_SINCE], epoch)
        new[d.EPOCH], new[d.LOSS], new[d.USED_PENALTY] = epoch, loss, penalty
        new[d.CLOSED_SINCE] = torch.where(still > 0, 0.0, since)
        new[d.STOP] = torch.where(torch.isfinite(loss), torch.where(ended, d.ENDED, d.RUNNING), d.DIVERGED)
        new[d.PENALTY] = torch.where(late, penalty * PENALTY_GROWTH, penalty)
    gates.now.copy_(torch.where(live, new, old))


def _at(table: torch.Tensor, epoch: torch.Tensor) -> torch.Tensor:
    """Return the row of an epoch; an index without a dimension would be read by the host."""
    return table[epoch.long().view(1)][0]


def _sums(cells: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """Return the sums of the cells from border to border, each in order."""
    return torch.segment_reduce(cells, "sum", offsets=borders, initial=0.0, unsafe=True)


def _right(z: torch.Tensor, places: int) -> torch.Tensor:
    """Shift the bits of int64 to the right as if they had no sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """Mix as `distcalib.random`: additions and products of int64 wrap, so the bits are those of uint64."""
    z = (z ^ _right(z, 30)) * _M1
    z = (z ^ _right(z, 27)) * _M2
    return z ^ _right(z, 31)


def _keyed(key: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return _mix((key ^ _mix(part + _GOLDEN)) + _GOLDEN)
