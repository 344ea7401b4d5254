"""Plots for notebooks: Bokeh objects over the tables of a run, which its report shows too.

Each takes a run: its folder, its `Run`, or the tables that `RunTables` read of it; and where its docstring
says so a table of one's own. Show one with ``bokeh.io.show``, keep it with ``bokeh.io.save``. A run that
lacks the table, and a Python without bokeh (``pip install 'distcalib[dashboard]'``), is an `InputError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.report import figures
from distcalib.report.charts import bins, ticks
from distcalib.report.figure_parts import (
    data_of,
    formatted,
    hover,
    lacks,
    legend_above,
    models,
    new_figure,
    percent,
    row_of,
    tables_of,
)
from distcalib.report.map_plot import district_map
from distcalib.report.pages import area_name
from distcalib.report.run_tables import RunTables
from distcalib.report.timeline import COLOURS, lanes_of, unit_of
from distcalib.report.wording import quantity
from distcalib.runs import Run

if TYPE_CHECKING:
    from bokeh.models import Row
    from bokeh.plotting import figure

    from distcalib.report.figure_parts import Source

__all__ = [
    "district_map", "errors", "fit", "frontier", "loss", "official", "states", "timeline", "weights",
]  # fmt: skip

# Told apart by the colour-blind: Okabe and Ito (2008); shares from within 1 % to beyond 10 %.
_BLUE, _ORANGE = "#0072b2", "#d55e00"
_OF_LEVEL = {"national": "#d55e00", "state": "#009e73", "district": "#0072b2"}
_OF_SHARE = ("#08519c", "#6baed6", "#d0d7de", "#e6550d")
_SHARE_WORDS = ("within 1 %", "1 to 5 %", "5 to 10 %", "beyond 10 %")
#: Relative errors beyond this one are counted at the edge of `errors`.
EDGE = 0.2


def fit(run: Source | pd.DataFrame, by: str = "level") -> figure:
    """Draw how the targets are met: of each level or group the shares within 1, 5 and 10 percent.

    Parameters
    ----------
    run
        A run, or rows of ``fit/diagnostics.csv``.
    by
        ``level`` or ``group``.
    """
    targets, causes = _targets(run)
    if by not in ("level", "group"):
        raise InputError("cannot be drawn by this", place="fit: by", value=by, choices=("level", "group"))
    if by == "level":
        table = figures.levels(targets)
        table["name"] = table["level"] + " (" + table["targets"].map("{:,}".format) + ")"
    else:
        table = figures.groups(targets, causes)
        table["name"] = table["geo_level"] + ": " + table["group"] + np.where(
            table["status"] == "fit", "", " (not fitted)"
        )  # fmt: skip
        twice = table["name"].duplicated(keep=False)
        table["name"] += np.where(twice, ", group " + table["group_id"].astype(str), "")
        within = table[["within_1", "within_5", "within_10"]].to_numpy()
        edges = np.column_stack([np.zeros(len(table)), within, np.ones(len(table))])
        table[list(figures.SHARES)] = np.diff(edges, axis=1)
    table = table[::-1]  # from the bottom
    chart = new_figure(
        "Targets by absolute relative error", y_range=table["name"].tolist(), x_range=(0.0, 1.0),
        height=135 + 22 * len(table), x_axis_label="share of the targets",
    )  # fmt: skip
    chart.hbar_stack(
        list(figures.SHARES), y="name", height=0.8, color=list(_OF_SHARE), source=data_of(table),
        legend_label=list(_SHARE_WORDS),
    )  # fmt: skip
    hover(chart, [("", "@name"), ("targets", "@targets{0,0}"), ("median error", "@median{0.00%}"),
                  ("within tolerance", "@within_tolerance{0.0%}")])  # fmt: skip
    legend_above(chart, 2)
    return percent(chart)


def errors(run: Source | pd.DataFrame) -> figure:
    """Draw how many fitted targets have which relative error, by level; what is beyond `EDGE` at the edge.

    Parameters
    ----------
    run
        A run, or rows of ``fit/diagnostics.csv``.
    """
    targets, _ = _targets(run)
    fitted = targets[targets["status"] == "fit"]
    edges = np.linspace(-EDGE, EDGE, 41)
    names = [level for level in figures.LEVELS if (fitted["geo_level"] == level).any()]
    source: dict[str, Any] = {"left": edges[:-1], "right": edges[1:], "middle": (edges[:-1] + edges[1:]) / 2}
    for level in names:
        own = fitted.loc[fitted["geo_level"] == level, "rel_error"].dropna().clip(-EDGE, EDGE)
        source[level] = np.histogram(own, edges)[0]
    chart = new_figure("Relative errors of fitted targets", x_axis_label="estimate less official, relative",
                    y_axis_label="targets", height=340)  # fmt: skip
    chart.vbar_stack(names, x="middle", width=edges[1] - edges[0], source=source, line_color="white",
                     color=[_OF_LEVEL[level] for level in names], legend_label=names)  # fmt: skip
    hover(chart, [("error", "@left{0%} to @right{0%}"), *[(name, f"@{name}{{0,0}}") for name in names]])
    chart.y_range.start = 0
    legend_above(chart, 3)
    return percent(chart)


def loss(run: Source | pd.DataFrame) -> figure:
    """Draw the loss by epoch, a line a stage of the fit.

    Parameters
    ----------
    run
        A run, or the ``log`` of a `FitResult`: stage, epoch, loss, active.
    """
    table = run if isinstance(run, pd.DataFrame) else _need(run, "epochs", "fit/epochs.csv")
    chart = new_figure("Loss by epoch", x_axis_label="epoch (of the refit: step)", y_axis_label="loss",
                    y_axis_type="log", height=340)  # fmt: skip
    for number, (stage, own) in enumerate(table.groupby("stage", sort=False)):
        colour = (_BLUE, _ORANGE, "#009e73")[number % 3]
        chart.line("epoch", "loss", source=data_of(own), color=colour, legend_label=str(stage), width=2)
        chart.scatter("epoch", "loss", source=data_of(own), color=colour, legend_label=str(stage), size=4)
    hover(chart, [("stage", "@stage"), ("epoch", "@epoch"), ("loss", "@loss{0,0.0000}"),
                   ("columns open", "@active{0,0}")])  # fmt: skip
    return chart


def frontier(run: Source | pd.DataFrame) -> Row:
    """Draw loss, effective sample size and held-out error over the number of records, side by side.

    Parameters
    ----------
    run
        A run with ``fit/frontier.csv``, or what `distcalib.runs.judge.judge_frontier` returns. The dashed
        line is the attainable loss, bars are one standard error over folds.
    """
    table = run if isinstance(run, pd.DataFrame) else _need(run, "frontier", "fit/frontier.csv")
    table = table.dropna(subset="records").sort_values("records")
    table = table.assign(low=table["held_out_error"] - table["held_out_std_error"].fillna(0),
                         high=table["held_out_error"] + table["held_out_std_error"].fillna(0))  # fmt: skip
    charts = []
    for title, lines in (
        ("Loss", {"reached": "loss"}),
        ("Effective sample size",
         {"by column": "effective_sample_size", "by donor": "effective_sample_size_by_donor"}),
        ("Held-out error", {"held-out error": "held_out_error"}),
    ):  # fmt: skip
        if table[list(lines.values())].isna().all(axis=None):
            continue
        chart = new_figure(title, width=340, height=320, x_axis_type="log", x_axis_label="records",
                        y_axis_type="log" if title == "Loss" else "linear")  # fmt: skip
        for colour, (words, name) in zip((_BLUE, _ORANGE), lines.items(), strict=False):
            more = {"legend_label": words} if len(lines) > 1 else {}
            chart.line("records", name, source=data_of(table), color=colour, width=2, **more)
            dots = chart.scatter("records", name, source=data_of(table), color=colour, size=7, **more)
            if name == "held_out_error":
                chart.add_layout(
                    models().Whisker(base="records", lower="low", upper="high", source=dots.data_source)
                )
        attainable = table["attainable_loss"].iloc[0]
        if title == "Loss" and attainable > 0:
            chart.add_layout(models().Span(location=attainable, dimension="width", line_dash="dashed"))
        hover(chart, [("records", "@records{0,0}"),
                       *[(words, f"@{name}{{0,0.0000}}") for words, name in lines.items()]])  # fmt: skip
        charts.append(chart)
    return row_of(charts)


def weights(run: Source | ArrayLike) -> Row:
    """Draw how many records have which weight, and weight over design weight with its bounds.

    Parameters
    ----------
    run
        A run, of which the effective sample sizes of districts are drawn too; or weights, float64 (n,), of
        which those above zero are drawn.
    """
    if isinstance(run, str | Path | RunTables | Run):
        tables = tables_of(run)
        shown = figures.distributions(tables)
        if not shown:
            raise lacks(tables, "fit/weights.npy")
    else:
        values = np.asarray(run, np.float64)
        shown = [(values, "Weight of a record", "households that a record stands for", [])]
    return row_of([_histogram(*one) for one in shown])


def _histogram(values: np.ndarray, title: str, axis: str, marks: Sequence[float]) -> figure:
    counts, _, edges = bins(values)
    left, right = 10 ** edges[:-1], 10 ** edges[1:]
    chart = new_figure(title, width=340, height=300, x_axis_type="log", x_axis_label=axis)
    chart.quad(left="left", right="right", top="count", bottom=0, color=_BLUE, line_color="white",
               source={"left": left, "right": right, "count": counts})  # fmt: skip
    hover(chart, [("", "@left{0,0.00} to @right{0,0.00}"), ("count", "@count{0,0}")])
    for mark in marks:
        if mark > 0:
            chart.add_layout(models().Span(location=mark, dimension="height", line_dash="dashed"))
    chart.y_range.start = 0
    return chart


def timeline(run: Source) -> figure:
    """Draw what a run did when: stages, and tasks by worker process, over all its attempts."""
    tables = tables_of(run)
    found = lanes_of(tables.attempts)
    if found.length <= 0:
        raise lacks(tables, "events.ndjson")
    unit, word = unit_of(found.length)
    rows = [(lane, *bar) for lane in found.shown for bar in found.bars[lane]]
    table = pd.DataFrame(rows, columns=["lane", "begin", "end", "stage", "words"])
    table["colour"] = table["stage"].map(COLOURS).fillna("#4d4d4d")
    table[["left", "right"]] = table[["begin", "end"]] / unit
    chart = new_figure("Tasks by worker process", y_range=found.shown[::-1], x_axis_label=word, width=900,
                    height=170 + 18 * len(found.shown), x_range=(0.0, found.length / unit))  # fmt: skip
    for stage, own in table.groupby("stage", sort=False):
        chart.hbar(y="lane", left="left", right="right", height=0.8, color="colour",
                   source=data_of(own), legend_label=str(stage))  # fmt: skip
    hover(chart, [("", "@words")])
    chart.ygrid.visible = False
    chart.xaxis.ticker = ticks(np.array([0.0, found.length / unit]), False)
    legend_above(chart, 3)
    return chart


def official(run: Source | pd.DataFrame) -> figure:
    """Draw estimates over official figures, a point a target, on logarithmic axes.

    Parameters
    ----------
    run
        A run, or rows of ``fit/diagnostics.csv``. Targets with a figure not above zero are counted in the
        title and not drawn.
    """
    targets, _ = _targets(run)
    drawn = targets[(targets["target"] > 0) & (targets["estimate"] > 0)]
    drawn = drawn.assign(area=drawn["geographic_id"].astype(str).map(area_name), what=_words(drawn))
    left = len(targets) - len(drawn)
    chart = new_figure(
        "Estimates beside official figures" + (f" ({left:,} not above zero are left out)" if left else ""),
        x_axis_type="log", y_axis_type="log", x_axis_label="official figure", y_axis_label="estimate",
        width=640, height=560,
    )  # fmt: skip
    if len(drawn):
        ends = [drawn["target"].min(), drawn["target"].max()]
        chart.line(ends, ends, color="#4d4d4d", line_dash="dashed")
    shapes = {"fit": "circle", "check": "x"}
    names = ["what", "area", "target", "estimate", "rel_error"]
    groups = sorted(drawn.groupby(["geo_level", "status"]), key=lambda group: group[0][1] != "fit")
    for (level, status), own in groups:
        chart.scatter("target", "estimate", source=data_of(own[names]), size=5, alpha=0.6,
                      marker=shapes.get(str(status), "triangle"), color=_OF_LEVEL.get(str(level), "#4d4d4d"),
                      legend_label=f"{level}, {'fitted' if status == 'fit' else status}")  # fmt: skip
    hover(chart, [("", "@area: @what"), ("official", "@target{0,0}"), ("estimate", "@estimate{0,0}"),
                   ("error", "@rel_error{+0.00%}")])  # fmt: skip
    if chart.legend:
        chart.legend.click_policy = "hide"
        legend_above(chart, 2)
    return chart


def states(summary: pd.DataFrame, variable: str | None = None) -> figure:
    """Draw what the same households get under every state's rules, one bar a state, the largest first.

    Parameters
    ----------
    summary
        What `distcalib.simulation.swapped.by_state` gave.
    variable
        Which of its variables; by default the first. Weighted totals in its unit; mean and share of
        households with some show on hovering.

    Raises
    ------
    InputError
        For a variable that the summary lacks.
    """
    known = summary["variable"].unique().tolist()
    name = known[0] if variable is None else variable
    if name not in known:
        raise InputError("is not in the summary", place="plot: variable", value=name, choices=known)
    mine = summary[summary["variable"] == name].sort_values(["total", "state"], ascending=[True, False])
    about = catalogue().get(name)
    unit = " (dollars a year)" if about.unit == "currency-USD" else ""
    chart = new_figure(
        f"{about.label or name}: the same households under the rules of each state",
        y_range=mine["state"].tolist(), height=120 + 16 * len(mine), y_axis_label="rules of",
        x_axis_label=f"{name}, weighted total{unit}",
    )  # fmt: skip
    chart.hbar(y="state", right="total", height=0.8, source=data_of(mine), color=_BLUE)
    chart.ygrid.visible = False
    hover(chart, [("state", "@state"), ("total", "@total{0,0}"), ("mean a household", "@mean{0,0.00}"),
                   ("households with some", "@share{0.0%}")])  # fmt: skip
    return formatted(chart, "0.[0]a")


def _targets(run: Source | pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    if isinstance(run, pd.DataFrame):
        return run, None
    tables = tables_of(run)
    if tables.targets is None or not tables.fitted:
        raise lacks(tables, "fit/diagnostics.csv")
    return tables.targets, tables.groups


def _words(targets: pd.DataFrame) -> pd.Series:
    # The diagnostics alone do not say whom a target counts, their names do.
    return quantity(targets) if "constraints" in targets else targets["name"]


def _need(run: Source, table: str, file: str) -> pd.DataFrame:
    tables = tables_of(run)
    found = getattr(tables, table)
    if found is None:
        raise lacks(tables, file)
    return found
