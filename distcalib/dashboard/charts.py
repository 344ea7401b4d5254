"""Bokeh figures of the dashboard. Blue is now, orange is before, told apart by shape too."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure
from numpy.typing import NDArray

#: Okabe and Ito (2008), told apart by the colour-blind.
NOW, BEFORE = "#0072b2", "#d55e00"
BINS = 40
#: Errors beyond this are drawn at it.
FURTHEST = 1.0


def _figure(title: str, x: str, y: str, **more: Any) -> Any:
    made = figure(
        title=title, x_axis_label=x, y_axis_label=y, height=300, sizing_mode="stretch_width", min_width=200,
        tools="pan,box_zoom,reset,save", toolbar_location="above", **more,
    )  # fmt: skip
    made.toolbar.logo = None
    return made


def loss_curve() -> tuple[Any, ColumnDataSource]:
    """Return the picture of the loss and the source that is streamed to: step, loss, held_out_error."""
    source = ColumnDataSource({"step": [], "loss": [], "held_out_error": []})
    made = _figure("Loss", "epochs and steps", "loss", y_axis_type="log")
    made.line("step", "loss", source=source, color=NOW, line_width=2, legend_label="loss of fitted targets")
    made.line("step", "held_out_error", source=source, color=BEFORE, line_width=2, line_dash="dashed",
              legend_label="error of held-out targets")  # fmt: skip
    made.legend.background_fill_alpha = 0.6
    made.add_tools(HoverTool(tooltips=[("step", "@step"), ("loss", "@loss{0.0000e}"),
                                       ("held-out error", "@held_out_error{0.0%}")]))  # fmt: skip
    return made, source


def weights_histogram(ratio: NDArray[np.float64]) -> Any:
    """Draw how many records have which ratio of final to initial weight, on a logarithmic axis."""
    ratio = ratio[ratio > 0]
    low, high = (float(ratio.min()), float(ratio.max())) if len(ratio) else (0.5, 2.0)
    low, high = min(low, 0.9), max(high, 1.1)
    edges = np.geomspace(low * 0.999, high * 1.001, BINS + 1)
    counts, _ = np.histogram(ratio, edges)
    made = _figure("Weights: how far they moved", "final over initial weight", "records", x_axis_type="log")
    made.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], fill_color=NOW, line_color="white")
    made.vspan(x=[1.0], line_color="#1b1f24", line_dash="dashed")
    made.y_range.start = 0
    return made


def errors(before: NDArray[np.float64], now: NDArray[np.float64], names: list[str]) -> Any:
    """Draw the errors of all targets, before and now, in the order of now."""
    order = np.argsort(now, kind="stable")
    source = ColumnDataSource(
        {
            "rank": np.arange(1, len(now) + 1),
            "before": np.clip(before[order], -FURTHEST, FURTHEST),
            "now": np.clip(now[order], -FURTHEST, FURTHEST),
            "true_before": before[order],
            "true_now": now[order],
            "name": np.array(names, dtype=object)[order],
        }
    )
    made = _figure("Errors of the targets", "targets, in the order of their error", "relative error")
    made.scatter("rank", "before", source=source, size=5, marker="triangle", color=BEFORE, alpha=0.5,
                 legend_label="before")  # fmt: skip
    made.scatter("rank", "now", source=source, size=5, color=NOW, legend_label="after")
    made.yaxis.formatter = NumeralTickFormatter(format="0 %")
    made.legend.background_fill_alpha = 0.6
    made.legend.click_policy = "hide"
    made.add_tools(HoverTool(tooltips=[("", "@name"), ("before", "@true_before{0.0%}"),
                                       ("after", "@true_now{0.00%}")]))  # fmt: skip
    return made


def against(a: NDArray[np.float64], b: NDArray[np.float64], names: list[str], labels: tuple[str, str]) -> Any:
    """Draw the absolute errors of two calibrations against each other; on the line they are equal."""
    x, y = (np.clip(np.abs(e), 1e-5, FURTHEST) for e in (a, b))
    source = ColumnDataSource({"x": x, "y": y, "name": names, "a": a, "b": b})
    made = _figure(
        "Absolute error of each target (below the line the second is better)", labels[0], labels[1],
        x_axis_type="log", y_axis_type="log",
    )  # fmt: skip
    made.scatter("x", "y", source=source, size=6, color=NOW, alpha=0.6)
    made.line([1e-5, FURTHEST], [1e-5, FURTHEST], color="#1b1f24", line_dash="dashed")
    for axis in (made.xaxis, made.yaxis):
        axis.formatter = NumeralTickFormatter(format="0.[000] %")
    made.add_tools(HoverTool(tooltips=[("", "@name"), (labels[0], "@a{0.00%}"), (labels[1], "@b{0.00%}")]))
    return made


def trials(records: NDArray[np.float64], error: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Any:
    """Draw the held-out error of trials by the records that they keep."""
    made = _figure("Trials", "records kept", "error of held-out targets")
    made.scatter(records[~chosen], error[~chosen], size=8, color=NOW, alpha=0.7, legend_label="trial")
    made.scatter(
        records[chosen], error[chosen], size=13, marker="diamond", color=BEFORE, legend_label="chosen"
    )
    made.yaxis.formatter = NumeralTickFormatter(format="0.0 %")
    made.legend.background_fill_alpha = 0.6
    return made
