"""Tables as the dashboard shows them."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd
import panel as pn

_NUMBER = {"type": "money", "precision": False, "thousand": ","}
ROWS = 12
_LINE = ":host { font: 600 14px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }"
_WRAPPED = "table td, table th { white-space: normal; overflow-wrap: anywhere; text-align: left !important; }"


def show(
    table: pd.DataFrame,
    *,
    percent: tuple[str, ...] = (),
    pick: bool = False,
    rows: int = ROWS,
    filters: bool = True,
) -> Any:
    """Return a table that sorts and filters, a page at a time.

    Parameters
    ----------
    table
        Shown as it is; floats are rounded to five digits.
    percent
        Columns that are shares, shown as percent.
    pick
        Whether a row can be chosen: `selection` of what is returned holds its place in `table`.
    rows
        On a page.
    filters
        Whether columns of text have a box to search in.
    """
    shown, formatters = table.copy(), {}
    for column in table:
        values = table[column]
        if column in percent:
            shown[column] = (100 * values).round(3)
            formatters[column] = {"type": "money", "precision": 2, "symbol": " %", "symbolAfter": True}
        elif values.dtype.kind == "f":
            large = values.abs() >= 1000
            shown[column] = values.round(0).where(
                large, values.round(1).where(values.abs() >= 10, values.round(4))
            )
            formatters[column] = _NUMBER
        elif values.dtype.kind in "iu":
            formatters[column] = {"type": "plaintext"} if str(column).lower().endswith("id") else _NUMBER
    boxes = {
        c: {"type": "input", "placeholder": "search"}
        for c in table
        if filters and table[c].dtype.kind not in "fiub"
    }
    return pn.widgets.Tabulator(
        shown, show_index=False, disabled=True, pagination="remote" if len(table) > rows else None,
        page_size=rows, formatters=formatters,
        header_filters=boxes if len(table) > rows else None, selectable=1 if pick else False,
        layout="fit_data_fill", sizing_mode="stretch_width", min_height=80,
        text_align={c: "right" for c in table if table[c].dtype.kind in "fiu"},
        titles={c: html.escape(str(c).replace("_", " ")) for c in table},  # Tabulator takes them as markup
    )  # fmt: skip


def line(text: str) -> Any:
    """Return a line of text above a table, shown as it is."""
    return pn.pane.HTML(html.escape(text), sizing_mode="stretch_width", stylesheets=[_LINE])


def facts(told: dict[str, str]) -> Any:
    """Return a small table of labels and texts."""
    return texts(pd.DataFrame({"": told.keys(), " ": told.values()}))


def texts(table: pd.DataFrame) -> Any:
    """Return a small table of texts, escaped."""
    return pn.pane.DataFrame(
        table, index=False, escape=True, justify="left", text_align="start", sizing_mode="stretch_width",
        max_width=760, stylesheets=[_WRAPPED],
    )  # fmt: skip
