"""Small pictures as SVG text: dots on a line, counts in bins. Classes of `bundled/base.html` give colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_LEFT, _AXIS, _ROW = 270, 350, 22
# A histogram: its outer size, and the margins left, top, right and bottom.
_HISTOGRAM, _MARGINS, _BINS = (360, 220), (52, 30, 12, 44), 36


def dots(
    lines: Sequence[tuple[str, Sequence[tuple[str, float, str]]]],
    low: float,
    high: float,
    title: str,
    left: int = _LEFT,
) -> str:
    """Draw one line of dots for each name on a logarithmic axis; what lies outside sits on the edge.

    Parameters
    ----------
    lines
        Name, and of each dot its label, value and class (``now`` or ``before``).
    low, high, title
        Ends of the axis; the picture in words.
    left
        Room for the names.
    """
    height = _ROW * len(lines) + 34

    def x(value: float) -> float:
        share = np.log(np.clip(value, low, high) / low) / np.log(high / low)
        return round(left + (_AXIS - 20) * float(share), 1)

    out = [f'<svg viewBox="0 0 {left + _AXIS} {height}" role="img" aria-label="{escape(title)}">']
    for tick in sorted({low, 1.0, high, *(t for t in (0.5, 0.8, 1.25, 2.0) if low < t < high)}):
        kind = "one" if tick == 1 else "tick"
        out.append(f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{height - 24}"/>')
        out.append(f'<text class="axis" x="{x(tick)}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for i, (name, marks) in enumerate(lines):
        y = 4 + _ROW * i + _ROW / 2
        out.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        out += [
            f'<circle class="{kind}" cx="{x(value)}" cy="{y}" r="4">'
            f"<title>{escape(name)}, {escape(label)}: {value:.2f}</title></circle>"
            for label, value, kind in marks
            if np.isfinite(value)
        ]
    return "\n".join([*out, "</svg>"])


def histogram(values: NDArray[np.float64], title: str, axis: str, marks: Sequence[float] = ()) -> str:
    """Draw how many values lie in each of some bins, equal on a logarithmic axis.

    Parameters
    ----------
    values
        float64 (n,); what is not above zero is left out.
    title, axis
        In words: what is counted, and what the axis says.
    marks
        Values with a dashed line, such as bounds.
    """
    counts, ends, edges = bins(values)
    (width, height), (left, top, right, bottom) = _HISTOGRAM, _MARGINS
    out = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f'<text x="{left}" y="16" font-weight="bold">{escape(title)}</text>'
    ]
    if not len(counts):
        return "".join([*out, f'<text x="{left}" y="{height / 2}">nothing above zero</text></svg>'])
    base, most = height - bottom, int(counts.max())

    def x(log: float) -> float:
        return float(left + (log - ends[0]) / (ends[1] - ends[0]) * (width - left - right))

    for tick in ticks(np.array([0.0, most]), False):
        y = base - tick / most * (base - top)
        out.append(f'<line class="tick" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="axis" x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    for count, first, last in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            tall = count / most * (base - top)
            out.append(
                f'<rect class="now" x="{x(first):.1f}" y="{base - tall:.1f}" height="{tall:.1f}" '
                f'width="{x(last) - x(first) - 0.6:.1f}"><title>{10**first:,.3g} to {10**last:,.3g}: '
                f"{count:,}</title></rect>"
            )
    out.append(f'<line class="one" x1="{left}" x2="{width - right}" y1="{base}" y2="{base}"/>')
    written = -np.inf
    along = ticks(np.array(ends), True)
    for tick in along if len(along) > 1 else ticks(10 ** np.array(ends), False):
        at = x(float(np.log10(tick)))
        if at - written < 34:
            continue
        written = at
        out.append(
            f'<text class="axis" x="{at:.1f}" y="{base + 15}" text-anchor="middle">{_short(tick)}</text>'
        )
    for mark in marks:
        if mark > 0 and ends[0] <= np.log10(mark) <= ends[1]:
            at = x(float(np.log10(mark)))
            out.append(
                f'<line class="one" stroke-dasharray="4 3" x1="{at:.1f}" x2="{at:.1f}" '
                f'y1="{top}" y2="{base}"/>'
            )
    middle = left + (width - left - right) / 2
    out.append(f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">{escape(axis)}</text></svg>')
    return "".join(out)


def bins(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], tuple[float, float], NDArray[np.float64]]:
    """Count the values above zero in equal bins of their logarithm.

    Returns
    -------
    counts, ends, edges
        int64 (n bins,), the first and last edge, and the edges float64 (n bins + 1,), as log10; empty where
        no value is above zero.
    """
    logs = np.log10(values[np.isfinite(values) & (values > 0)])
    if not len(logs):
        return np.zeros(0, np.int64), (0.0, 0.0), np.zeros(0)
    ends = float(logs.min() - 0.02), float(logs.max() + 0.02)
    counts, edges = np.histogram(logs, bins=_BINS, range=ends)
    return counts, ends, edges


def ticks(bounds: NDArray[np.float64], logarithmic: bool) -> list[float]:
    """Return round numbers within the bounds of an axis, about five; a logarithmic one has logs as bounds."""
    if logarithmic:
        powers = range(int(np.floor(bounds[0])), int(np.ceil(bounds[1])) + 1)
        found = [m * 10.0**p for p in powers for m in ((1, 2, 5) if bounds[1] - bounds[0] < 3 else (1,))]
        return [t for t in found if bounds[0] <= np.log10(t) <= bounds[1]]
    raw = (bounds[1] - bounds[0]) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [float(step * k) for k in range(int(np.ceil(bounds[0] / step)), int(bounds[1] / step) + 1)]


def _short(number: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.4g}{letter}"
    return f"{number:,.4g}"
