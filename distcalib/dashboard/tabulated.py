"""Tables as the dashboard shows them."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
import panel as pn

from distcalib.dashboard.run_parts import COUNT, grid

ROWS = 12
_LINE = ":host { font: 600 14px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }"
_WRAPPED = "table td, table th { white-space: normal; overflow-wrap: anywhere; text-align: left !important; }"


def show(
    table: pd.DataFrame,
    *,
    percent: tuple[str, ...] = (),
    chosen: Callable[[int], Awaitable[None]] | None = None,
    rows: int = ROWS,
    filters: bool = True,
    named: bool = False,
) -> Any:
    """Return a table of whatever columns, headings and formats by their names and types.

    Parameters
    ----------
    table
        Shown as it is; floats are rounded to five digits.
    percent
        Columns that are shares, shown as percent.
    chosen, rows
        As in `distcalib.dashboard.run_parts.grid`.
    filters
        Whether columns of text have a box to search in, where there is more than a page.
    named
        Whether headings are the columns' names to the letter, as of a user's own table; else in words.
    """
    shown, columns, search = table.copy(), {}, []
    for column in table:
        values, form = table[column], ""
        if column in percent:
            form = "0.00%"
        elif values.dtype.kind == "f":
            small = values.round(1).where(values.abs() >= 10, values.round(4))
            shown[column] = values.round(0).where(values.abs() >= 1000, small)
            form = "0,0.[0000]"
        elif values.dtype.kind in "iu":
            form = "0" if column.lower().endswith("id") else COUNT
        elif values.dtype.kind != "b" and filters and len(table) > rows:
            search.append(column)
        # Tabulator takes headings as markup.
        columns[column] = html.escape(column if named else column.replace("_", " ")), form
    return grid(shown, columns, search=tuple(search), chosen=chosen, rows=rows)


def line(text: str) -> Any:
    """Return a line of text above a table, shown as it is."""
    return pn.pane.HTML(html.escape(text), sizing_mode="stretch_width", stylesheets=[_LINE])


def texts(table: pd.DataFrame) -> Any:
    """Return a small table of texts, escaped."""
    return pn.pane.DataFrame(
        table, index=False, escape=True, justify="left", text_align="start", sizing_mode="stretch_width",
        max_width=760, stylesheets=[_WRAPPED],
    )  # fmt: skip
