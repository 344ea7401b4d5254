"""What the pages of a run share: tables that stay on the server, HTML, and pages made when opened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pandas as pd
import panel as pn
from bokeh.models import Model, NumberFormatter, Row
from markupsafe import escape

from distcalib.dashboard.session import alert, tried

#: Formats of columns in tables: a text that is wrapped, and numbers.
WRAP = "wrap"
COUNT, FIGURE, SHARE, CHANGE, RATIO = "0,0", "0,0.[00]", "0.0%", "+0.00%", "0.000"
_NO_PAGES = ".tabulator-footer { display: none; }"
STYLE = """
table { border-collapse: collapse; font-size: 13px; margin: .4rem 0; }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #d8dee4; vertical-align: top;
  overflow-wrap: anywhere; }
th { overflow-wrap: normal; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
.state { border-left: 5px solid #0b5cad; background: #f3f6f9; padding: .5rem .9rem; }
.state.failed, .state.unfinished, .state.stopped { border-color: #b04a00; background: #fdf3ea; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
.cards div { flex: 1 1 7rem; max-width: 16rem; border: 1px solid #d8dee4; border-radius: 6px;
  padding: .4rem .7rem; }
.cards b { display: block; font-size: 1.35rem; } .cards span { font-size: 12.5px; color: #424a53; }
"""


def html(text: str) -> Any:
    """Return HTML in the style of the pages; what comes from data has to be escaped."""
    return pn.pane.HTML(text, stylesheets=[STYLE], sizing_mode="stretch_width")


def words(text: str) -> Any:
    """Return a text as it is, never markup."""
    return html(str(escape(text)))


def facts(title: str, rows: Mapping[str, object]) -> Any:
    """Return a title (empty: none) and facts as a table with a row each."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    lines = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return html(f"{head}<table>{lines}</table>")


def plot(figure: Model) -> Any:
    """Return a Bokeh figure as wide as the page, or those of a row beside or below each other."""
    if isinstance(figure, Row):
        for one in figure.children:
            one.update(sizing_mode="stretch_width", stylesheets=[":host { min-width: 320px; }"])
        panes = [pn.pane.Bokeh(one, sizing_mode="stretch_width") for one in figure.children]
        return pn.Row(*panes, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
    figure.update(sizing_mode="stretch_width", min_width=280)
    return pn.pane.Bokeh(figure, sizing_mode="stretch_width")


def grid(
    table: pd.DataFrame,
    columns: Mapping[str, tuple[str, str]],
    *,
    search: tuple[str, ...] = (),
    chosen: Callable[[int], Awaitable[None]] | None = None,
    rows: int = 12,
) -> Any:
    """Return a table of which the browser gets one page at a time.

    Parameters
    ----------
    table
        Its rows; the index is replaced.
    columns
        Of each column shown its heading, and its format: one of numbers, `WRAP`, or empty for a text.
    search
        Columns that can be searched for a part of their text.
    chosen
        Awaited with the position in `table` of a row that was clicked.
    rows
        Of a page.
    """
    if table.empty:
        return words("None.")
    shown = table[list(columns)].reset_index(drop=True)
    wrapped = [name for name, (_, form) in columns.items() if form == WRAP]
    numbers = [name for name, (_, form) in columns.items() if form not in ("", WRAP)]
    formats: dict[str, Any] = {n: NumberFormatter(format=columns[n][1], nan_format="") for n in numbers}
    formats |= {name: {"type": "textarea"} for name in wrapped}
    made = pn.widgets.Tabulator(
        shown, show_index=False, disabled=True, pagination="remote", page_size=rows,
        sizing_mode="stretch_width", layout="fit_data_fill", selectable=1 if chosen else False,
        titles={name: title for name, (title, _) in columns.items()},
        formatters=formats, widths=dict.fromkeys(wrapped, 380), text_align=dict.fromkeys(numbers, "right"),
        header_filters={name: {"type": "input", "func": "like", "placeholder": "search"} for name in search},
        theme="simple", stylesheets=[_NO_PAGES] if len(table) <= rows else [],
    )  # fmt: skip
    if chosen is not None:

        async def clicked(event: Any) -> None:
            await chosen(event.row)

        made.on_click(clicked)  # type: ignore[arg-type]
    return made


async def fill(place: Any, make: Callable[[], Any]) -> None:
    """Make what stands in a place in a thread; an error stands there instead. Who asks last is shown."""
    place.loading, place.wanted = True, make
    made = await asyncio.to_thread(made_or_told, make)
    if place.wanted is make:
        place[:] = [made]
        place.loading = False


def made_or_told(make: Callable[[], Any]) -> Any:
    """Return what a function makes, or the error that explains itself."""
    made, trouble = tried(make)
    return alert(trouble) if trouble else made


def pages(makers: Mapping[str, Callable[[], Any]]) -> Any:
    """Return tabs, the first made now, each other one when it is opened and stands empty."""
    places = {name: pn.Column(sizing_mode="stretch_width", min_height=120) for name in makers}
    tabs = pn.Tabs(*places.items(), dynamic=True, sizing_mode="stretch_width")
    first = next(iter(makers))
    places[first][:] = [made_or_told(makers[first])]

    async def opened(*_: Any) -> None:
        name = list(places)[tabs.active]
        if not places[name].objects:
            await fill(places[name], makers[name])

    tabs.param.watch(opened, "active")
    return tabs
