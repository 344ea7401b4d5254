"""The second tab: what stands against the targets before any fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import panel as pn

from distcalib.dashboard.problem import Problem, id_columns
from distcalib.dashboard.run_parts import facts
from distcalib.dashboard.session import Session, alert, attempted
from distcalib.dashboard.tabulated import show

#: Findings of `Calibration.target_analysis` that name other targets.
_EXCLUDE = "(?:^|; )(?:contradicts|not together with) "


def checks(problem: Problem) -> tuple[dict[str, str], pd.DataFrame, pd.DataFrame]:
    """Return facts, the columns of the survey with missing values, and one row a target.

    The last has what `Calibration.target_analysis` says: the design total, how many records contribute, what
    weights within the default bounds can give, and findings.
    """
    survey = problem.survey
    missing = survey.isna().sum()
    missing = missing[missing > 0].rename_axis("column").reset_index(name="missing_values")
    missing["share"] = missing["missing_values"] / len(survey)
    found = problem.calibration()
    table = found.target_analysis().rename(columns=lambda name: name.replace("households", "records"))
    table.insert(1, "findings", table.pop("findings"))
    table.insert(2, "group", problem.targets["group"].to_numpy())
    start = table["initial_estimate"]
    off = np.divide(start - table["target"], table["target"].abs().where(table["target"] != 0))
    table.insert(table.columns.get_loc("initial_estimate") + 1, "initial_error", off)
    told = {
        "records": f"{len(survey):,}, weighted {problem.weights.sum():,.0f}",
        "weights": problem.weight or "1 each",
        "targets": f"{len(table):,} in {table['group'].nunique():,} groups",
        "off by more than 10 % before calibration": f"{(off.abs() > 0.1).sum():,}",
        "targets that exclude each other": f"{table['findings'].str.contains(_EXCLUDE).sum():,}",
        "targets with a finding": f"{(table['findings'] != '').sum():,}",
        "columns with missing values": f"{len(missing):,} of {survey.shape[1]:,}",
    }
    for column in id_columns(survey):
        again = int(survey[column].duplicated().sum())
        if again:
            told[f"rows that repeat a {column}"] = f"{again:,}"
    if found.problem.scale != 1:
        told["initial weights"] = (
            f"far from the targets: calibration multiplies them by {found.problem.scale:,.4g} first"
        )
    return (
        told,
        missing,
        table.sort_values("findings", key=lambda c: c == "", kind="stable", ignore_index=True),
    )


def checking_tab(session: Session) -> Any:
    """Return the tab."""
    view = pn.Column(pn.pane.Markdown("Load a survey and targets first."), sizing_mode="stretch_width")

    async def look(*_: Any) -> None:
        problem = session.problem
        if problem is None:
            view[:] = [pn.pane.Markdown("Load a survey and targets first.")]
            return
        view.loading = True
        found, trouble = await attempted(lambda: checks(problem))
        view.loading = False
        if session.problem is not problem:
            return
        if trouble:
            view[:] = [alert(trouble)]
            return
        told, missing, table = found
        parts: list[Any] = [facts("", told)]
        if len(missing):
            parts += [
                pn.pane.Markdown("#### Missing values"),
                show(missing, percent=("share",), filters=False),
            ]
        shown = table.drop(columns=["orders_of_magnitude"])
        parts += [
            pn.pane.Markdown("#### Targets, those with findings first"),
            pn.pane.Markdown(
                "*initial estimate* is the total by the design weights; *lowest* and *highest* are what "
                "weights between 0.02 and 50 times their first value can give."
            ),
            show(shown, rows=15, percent=("initial_error",)),
        ]
        view[:] = parts

    session.param.watch(look, "problem")
    return view
