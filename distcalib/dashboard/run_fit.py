"""From groups of targets to a target and the records that carry it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import panel as pn

from distcalib.dashboard.run_parts import CHANGE, COUNT, FIGURE, SHARE, facts, fill, grid, html, plot, words
from distcalib.report import figures, plots
from distcalib.report.drill import by_donor, records_of_target, target_list
from distcalib.report.pages import change_text, figure_text, share_text
from distcalib.report.run_sections import CAUSES
from distcalib.report.run_tables import RunTables

_GROUP = {
    "geo_level": ("level", ""), "group": ("targets of", ""), "status": ("status", ""),
    "targets": ("targets", COUNT), "within_1": ("within 1 %", SHARE), "within_5": ("5 %", SHARE),
    "within_10": ("10 %", SHARE), "within_tolerance": ("tolerance", SHARE),
    "median": ("median error", "0.00%"),
    "missed": ("missed", COUNT), "causes": ("causes of misses", ""),
}  # fmt: skip
TARGET = {
    "area": ("area", ""), "geo_level": ("level", ""), "what": ("target", ""), "status": ("status", ""),
    "target": ("official", COUNT), "estimate": ("estimate", COUNT), "rel_error": ("error", CHANGE),
    "within_tolerance": ("within", ""), "donors": ("donors", COUNT), "cause": ("cause of the miss", ""),
}  # fmt: skip
_DONOR = {
    "household_id": ("donor (household)", "0"), "records": ("records", COUNT),
    "districts": ("districts", COUNT), "weight": ("weight", FIGURE),
    "contribution": ("contribution", COUNT), "share": ("share", "0.00%"),
}  # fmt: skip
_RECORD = {
    "household_id": ("donor (household)", "0"), "clone": ("clone", "0"), "district": ("district", ""),
    "column": ("column", "0"), "value": ("value", FIGURE), "weight": ("weight", FIGURE),
    "contribution": ("value x weight", COUNT), "share": ("share", "0.00%"),
}  # fmt: skip


def fit_page(tables: RunTables) -> Any:
    """How groups are met; a click on one shows its targets, a click on a target what carries it."""
    if not tables.fitted:
        targets = target_list(tables)
        known = {name: TARGET[name] for name in TARGET if name in targets}
        return pn.Column(words("The run has no fit yet. Its targets:"),
                         grid(targets, known, search=("area", "geo_level", "what", "status")))  # fmt: skip
    assert tables.targets is not None
    groups = figures.groups(tables.targets, tables.groups)
    below = pn.Column(sizing_mode="stretch_width")
    every = pn.widgets.Button(label="All targets", width=120)

    async def group(row: int) -> None:
        await fill(below, partial(_targets, tables, groups.iloc[row]))

    async def whole(*_: Any) -> None:
        await fill(below, partial(_targets, tables, None))

    every.on_click(whole)
    below[:] = [_targets(tables, None)]
    return pn.Column(
        plot(plots.fit(tables)), html("<h3>Groups: click on one to see its targets</h3>"),
        grid(groups, _GROUP, search=("geo_level", "group", "status"), chosen=group, rows=8), every, below,
        sizing_mode="stretch_width",
    )  # fmt: skip


def _targets(tables: RunTables, group: pd.Series | None) -> Any:
    targets = target_list(tables)
    title = "All targets"
    if group is not None:
        same = (targets["group_id"] == group["group_id"]) & (targets["status"] == group["status"])
        targets = targets[same]
        title = f"{group['geo_level']}, {group['group']}, {group['status']}"
    return target_grid(tables, targets, f"{title}: click on one to see what carries it")


def target_grid(tables: RunTables, targets: pd.DataFrame, title: str) -> Any:
    """Return targets, fitted and missed ones first, and a place for what carries the one that is clicked.

    Parameters
    ----------
    tables
        Of a run whose fit is done.
    targets
        Rows of `target_list`, with its index.
    title
        In words.
    """
    fitted = targets["status"] == "fit"
    targets = targets.assign(fitted=fitted).sort_values(
        ["fitted", "abs_rel_error"], ascending=False, kind="stable"
    )
    shown = targets.assign(within_tolerance=targets["within_tolerance"].map({True: "yes", False: "no"}))
    below = pn.Column(sizing_mode="stretch_width")

    async def one(row: int) -> None:
        await fill(below, partial(_target, tables, int(targets.index[row]), targets.iloc[row]))

    table = grid(shown, TARGET, search=("area", "geo_level", "what", "status", "cause"), chosen=one)
    return pn.Column(facts(f"{title} ({len(targets):,})", {}), table, below, sizing_mode="stretch_width")


def _target(tables: RunTables, row: int, target: pd.Series) -> Any:
    records = records_of_target(tables, row)
    donors = by_donor(records)
    cause = str(target["cause"])
    told = {
        "official figure": figure_text(target["target"]), "estimate": figure_text(target["estimate"]),
        "error": f"{change_text(target['rel_error'])}, tolerance {share_text(target['tolerance'])}",
        "name": target["name"], "row of the matrix": f"{row:,}",
        "carried by": f"{len(records):,} records with weight, clones of {len(donors):,} donors; "
        f"effective donors {figure_text(target['effective_donors'])}",
    }  # fmt: skip
    if len(donors):
        told["largest donors"] = f"the first carries {donors['share'].iloc[0]:.1%}, the first ten " \
            f"{donors['share'].head(10).sum():.1%}"  # fmt: skip
    if cause:
        told["cause of the miss"] = f"{cause}: {CAUSES.get(cause, '')}"
    return pn.Column(
        facts(f"{target['area']}: {target['what']}", told),
        pn.Tabs(("By donor", grid(donors, _DONOR, rows=10)),
                ("Records", grid(records, _RECORD, search=("district",), rows=10)), dynamic=True),
        sizing_mode="stretch_width",
    )  # fmt: skip
