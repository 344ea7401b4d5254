"""Two finished runs beside each other, as `distcalib compare` does it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
from markupsafe import escape

from distcalib.dashboard.run_districts import map_view
from distcalib.dashboard.run_parts import CHANGE, COUNT, SHARE, WRAP, grid, html, pages
from distcalib.report.comparison import Comparison, compare_runs
from distcalib.report.comparison_page import by_group, difference_maps, largest, runs_in_words

_SETTING = {"setting": ("setting", ""), "a": ("A", ""), "b": ("B", "")}
_SUMMARY = {"figure": ("figure", ""), "a": ("A", "0,0.[0000]"), "b": ("B", "0,0.[0000]"),
            "difference": ("difference", "0,0.[0000]")}  # fmt: skip
_GROUPS = {
    "geo_level": ("level", ""), "variable": ("variable", ""), "domain": ("by", ""),
    "targets": ("targets", COUNT),
    "within_5_a": ("within 5 %: A", SHARE), "within_5_b": ("B", SHARE),
    "within_tolerance_a": ("tolerance: A", SHARE), "within_tolerance_b": ("B", SHARE),
    "median_a": ("median: A", "0.00%"), "median_b": ("B", "0.00%"),
}  # fmt: skip
_TARGETS = {
    "area": ("area", ""), "geo_level": ("level", ""), "name": ("target", ""), "in": ("in", ""),
    "status_a": ("A", ""), "status_b": ("B", ""), "target_b": ("official (B)", COUNT),
    "estimate_a": ("estimate A", COUNT), "estimate_b": ("B", COUNT), "relative": ("change", CHANGE),
    "rel_error_a": ("error A", CHANGE), "rel_error_b": ("B", CHANGE),
}  # fmt: skip
_TOTALS = {
    "area": ("area", ""), "geo_level": ("level", ""), "variable": ("variable", ""), "in": ("in", ""),
    "total_a": ("A", COUNT), "total_b": ("B", COUNT), "relative": ("change", CHANGE),
    "share": ("of the nation's", "+0.0000%"),
}  # fmt: skip
_WEIGHTS = {
    "area": ("area", ""), "geo_level": ("level", ""), "in": ("in", ""), "records_a": ("records A", COUNT),
    "records_b": ("B", COUNT), "effective_sample_size_a": ("effective A", COUNT),
    "effective_sample_size_b": ("B", COUNT), "relative": ("change", CHANGE),
}  # fmt: skip


def compare_view(a: Path, b: Path) -> Any:
    """Return what shows two finished runs beside each other; the first of each table moved most.

    Raises
    ------
    InputError
        When one is not finished or lacks a table, or both are one folder.
    """
    found = compare_runs(a, b)
    return pages({
        "Summary": partial(_summary, found),
        "Targets": partial(_moved, found.targets, _TARGETS, ("area", "geo_level", "name", "in")),
        "Totals": partial(_moved, found.totals, _TOTALS, ("area", "geo_level", "variable", "in")),
        "Map of differences": partial(_map, found),
        "Weights": partial(_moved, found.weights, _WEIGHTS, ("area", "geo_level")),
    })  # fmt: skip


def _summary(found: Comparison) -> Any:
    runs = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in runs_in_words(found))
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    findings = found.findings[found.findings["in"] != "both"]
    return pn.Column(
        html(f"<table>{runs}</table><p>A change is B less A, as a share of A.</p><ul>{notes}</ul>"),
        html("<h3>Settings, inputs and versions that differ</h3>"), grid(found.settings, _SETTING),
        html("<h3>Fit</h3>"), grid(found.summary[found.summary["difference"] != 0], _SUMMARY),
        html("<h3>Groups of targets that both fit</h3>"), grid(by_group(found.groups), _GROUPS),
        html("<h3>Findings of one run only</h3>"),
        grid(findings, {"in": ("in", ""), "kind": ("kind", ""), "text": ("finding", WRAP)}),
        sizing_mode="stretch_width",
    )  # fmt: skip


def _moved(table: pd.DataFrame, columns: dict[str, tuple[str, str]], search: tuple[str, ...]) -> Any:
    moved = largest(table, "relative")
    rest = table.drop(index=moved.index)
    said = f"<p>{len(moved):,} of {len(table):,} differ; those that moved most stand first.</p>"
    return pn.Column(html(said), grid(pd.concat([moved, rest]), columns, search=search, rows=20),
                     sizing_mode="stretch_width")  # fmt: skip


def _map(found: Comparison) -> Any:
    districts, variables = difference_maps(found)
    if not variables:
        return html("<p>The runs share no figure of a district.</p>")
    return map_view(variables, districts)
