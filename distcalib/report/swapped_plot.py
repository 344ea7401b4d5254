"""The plot of state-swapped calculations: what the same households get under every state's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import InputError

if TYPE_CHECKING:
    from bokeh.plotting import figure


def plot(summary: pd.DataFrame, variable: str | None = None) -> figure:
    """Draw one bar a state, the largest first.

    Parameters
    ----------
    summary
        What `distcalib.simulation.swapped.by_state` gave.
    variable
        Which of its variables; by default the first.

    Returns
    -------
    bokeh.plotting.figure
        Weighted totals in the variable's unit; mean and share of households with some show on hovering. For
        ``bokeh.io.show`` or ``bokeh.embed``.

    Raises
    ------
    InputError
        For a variable that the summary lacks, and where bokeh is not installed.
    """
    try:
        from bokeh.models import HoverTool, NumeralTickFormatter
        from bokeh.plotting import figure
    except ImportError as error:
        raise InputError(f"plots need bokeh: pip install 'distcalib[dashboard]' ({error})") from None
    known = summary["variable"].unique().tolist()
    name = known[0] if variable is None else variable
    if name not in known:
        raise InputError("is not in the summary", place="plot: variable", value=name, choices=known)
    mine = summary[summary["variable"] == name].sort_values(["total", "state"], ascending=[True, False])
    about = catalogue().get(name)
    unit = " (dollars a year)" if about.unit == "currency-USD" else ""
    chart = figure(
        y_range=mine["state"].tolist(),
        height=120 + 16 * len(mine),
        width=720,
        title=f"{about.label or name}: the same households under the rules of each state",
        x_axis_label=f"{name}, weighted total{unit}",
        y_axis_label="rules of",
        toolbar_location=None,
    )
    chart.hbar(y="state", right="total", height=0.8, source=dict(mine.items()), color="#2c6e9b")
    chart.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    chart.ygrid.visible = False
    chart.add_tools(
        HoverTool(
            tooltips=[
                ("state", "@state"),
                ("total", "@total{0,0}"),
                ("mean a household", "@mean{0,0.00}"),
                ("households with some", "@share{0.0%}"),
            ]
        )
    )
    return chart
