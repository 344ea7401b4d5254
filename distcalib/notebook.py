"""How values are shown in notebooks: a small table of facts, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def facts_html(title: str, facts: Mapping[str, object], table: pd.DataFrame | None = None) -> str:
    """Return HTML of a title, of facts as a table with a row each, and of a table below it.

    >>> facts_html("District", {"name": "<CA-06>"})
    '<b>District</b><table><tr><th>name</th><td>&lt;CA-06&gt;</td></tr></table>'
    """
    lines = [f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items()]
    below = ""
    if table is not None:
        told = table.astype(object).where(table.notna(), "")  # what is not known is left empty
        below = told.to_html(index=False, escape=True, border=0)
    return f"<b>{escape(title)}</b><table>{''.join(lines)}</table>{below}"
