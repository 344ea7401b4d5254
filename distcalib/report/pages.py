"""What pages have in common: style and frame (`bundled/base.html`), tables as texts, words for figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES


def render(template: str, **values: Any) -> str:
    """Return a page of `bundled/`; everything that is not `markupsafe.Markup` is escaped."""
    environment = Environment(
        loader=PackageLoader("distcalib.report", "bundled"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount_text, "ratio": ratio_text, "state": area_name}
    return environment.get_template(template).render(**values)


@dataclass(frozen=True)
class Section:
    """A table of texts: title, names of columns, rows, how many rows there are, and where figures begin."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    total: int
    #: Columns from this one on are figures.
    numbers: int = 99
    #: Of each cell the figure behind its text, for sorting; None: the text itself.
    keys: list[tuple[float | None, ...]] = field(default_factory=list)


def section(
    title: str,
    table: pd.DataFrame,
    columns: tuple[tuple[str, str, Callable[..., str]], ...],
    most: int | None = None,
    numbers: int = 99,
) -> Section:
    """Return the first rows of a table as texts.

    Parameters
    ----------
    title, table
        In words; the rows.
    columns
        Of each column its heading, its name in `table`, and what makes a text of a value.
    most
        Rows at most; None: all.
    numbers
        Columns from this one on are figures.
    """
    shown = table if most is None else table.head(most)
    cells = [[words(value) for value in shown[name]] for _, name, words in columns]
    keys = [
        _keys(shown[name]) if i >= numbers else [None] * len(shown) for i, (_, name, _) in enumerate(columns)
    ]
    rows = list(zip(*cells, strict=True))
    heads = tuple(head for head, _, _ in columns)
    return Section(title, heads, rows, len(table), numbers, list(zip(*keys, strict=True)))


def _keys(column: pd.Series) -> list[float | None]:
    if not pd.api.types.is_numeric_dtype(column):
        return [None] * len(column)
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in column.astype(np.float64)]


def area_name(area: str) -> str:
    """Return the name of an area: CA for 6, CA-12 for 612; others, such as US, as they are."""
    if not area.isdigit():
        return area
    number = int(area)
    of_state = number // 100 in STATE_CODES
    return STATE_CODES.get(number) or (District(number).name if of_state else area)


def amount_text(value: float, unit: str = "") -> str:
    """Return a figure in billions, millions or ones, with a $ where the unit is dollars; empty for NaN."""
    if not np.isfinite(value):
        return ""
    sign = "$" if unit == "dollars" else ""
    for size, word in ((1e9, " bn"), (1e6, " M")):
        if abs(value) >= size:
            return f"{sign}{value / size:,.1f}{word}"
    return f"{sign}{value:,.0f}"


def ratio_text(value: float) -> str:
    """Return a ratio, with three digits near 1; empty for NaN."""
    value = 0.0 if abs(value) < 0.005 else value  # not -0.00
    return "" if not np.isfinite(value) else f"{value:.2f}" if abs(value - 1) > 0.0995 else f"{value:.3f}"


def count_text(value: float) -> str:
    """Return a number without decimals; empty for NaN."""
    return f"{value:,.0f}" if np.isfinite(value) else ""


def figure_text(value: float) -> str:
    """Return a figure with three digits; empty for NaN."""
    return "" if not np.isfinite(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def share_text(value: float) -> str:
    """Return a share in percent; empty for NaN."""
    return f"{value:.1%}" if np.isfinite(value) else ""


def change_text(value: float) -> str:
    """Return a change in percent with its sign; empty for NaN, words for a change from zero."""
    return "from zero" if np.isinf(value) else f"{value:+.2%}" if np.isfinite(value) else ""
