"""What the Bokeh plots have in common: whose tables they take, and parts of a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from distcalib.errors import InputError
from distcalib.report.run_tables import RunTables

if TYPE_CHECKING:
    from bokeh.models import Row
    from bokeh.plotting import figure

    from distcalib.runs import Run

    Source = str | Path | Run | RunTables


def tables_of(run: Source) -> RunTables:
    """Return the tables of a run: of its folder, of a `Run`, or as they are.

    Raises
    ------
    InputError
        When the folder is none of a run.
    """
    if isinstance(run, RunTables):
        return run
    return RunTables.read(run if isinstance(run, str | Path) else run.home.folder)


def lacks(tables: RunTables, file: str) -> InputError:
    """Return the error that a run has not got so far."""
    return InputError("is not there, or of an earlier fit", place=tables.folder / file,
                      expected="a run that has got so far (`distcalib report` says how far)")  # fmt: skip


def models() -> Any:
    """Return ``bokeh.models``.

    Raises
    ------
    InputError
        Where bokeh is not installed.
    """
    try:
        import bokeh.models
    except ImportError as error:
        raise InputError(f"plots need bokeh: pip install 'distcalib[dashboard]' ({error})") from None
    return bokeh.models


def new_figure(title: str, **more: Any) -> figure:
    """Return an empty figure."""
    models()
    from bokeh.plotting import figure

    made = figure(title=title, **{"width": 720, "tools": "pan,wheel_zoom,box_zoom,reset,save", **more})
    made.toolbar.logo = None
    return made


def data_of(table: pd.DataFrame) -> dict[str, Any]:
    """Return the columns of a table as a figure's data."""
    return {name: table[name].to_numpy() for name in table}


def row_of(charts: list[figure]) -> Row:
    """Return figures beside each other."""
    models()
    from bokeh.layouts import row

    return row(*charts)


def hover(chart: figure, lines: list[tuple[str, str]], renderers: list[Any] | None = None) -> None:
    """Let hovering over some renderers, or all, say some lines."""
    chart.add_tools(models().HoverTool(tooltips=lines, renderers=renderers or "auto"))


def legend_above(chart: figure, columns: int) -> None:
    """Put the legend above the figure, in so few columns that it fits a narrow page."""
    legend = chart.legend[0]
    legend.ncols = columns
    legend.orientation, legend.border_line_color, legend.padding = "horizontal", None, 2
    chart.add_layout(legend, "above")


def percent(chart: figure) -> figure:
    """Write the ticks of the x axis in percent."""
    return formatted(chart, "0%")


def formatted(chart: figure, words: str) -> figure:
    """Write the ticks of the x axis in a format of numeral.js."""
    chart.xaxis.formatter = models().NumeralTickFormatter(format=words)
    return chart
