"""Figures of a run that its report, its plots and its dashboard show alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.report.console import accuracy_of
from distcalib.report.run_tables import RunTables
from distcalib.report.wording import short

LEVELS = ("national", "state", "district")
#: Shares of targets by absolute relative error: within 1 %, 1 to 5 %, 5 to 10 %, beyond 10 %.
SHARES = ("within_1", "to_5", "to_10", "beyond")


def levels(targets: pd.DataFrame) -> pd.DataFrame:
    """Return how the fitted targets of a run are met, by level.

    Parameters
    ----------
    targets
        Rows of ``fit/diagnostics.csv``: status, geo_level, abs_rel_error, within_tolerance.

    Returns
    -------
    DataFrame
        level (first ``all``), targets, within_tolerance (share), median (absolute relative error), and the
        shares `SHARES`, which sum to 1.
    """
    fitted = targets[targets["status"] == "fit"]
    error = fitted["abs_rel_error"]
    rows = []
    for name in ("all", *LEVELS):
        here = error if name == "all" else error[fitted["geo_level"] == name]
        if len(here):
            edges = [0.0, *(float((here <= bound).mean()) for bound in (0.01, 0.05, 0.10)), 1.0]
            own = fitted.loc[here.index, "within_tolerance"]
            rows.append((name, len(here), float(own.mean()), float(here.median()), *np.diff(edges).tolist()))
    return pd.DataFrame(rows, columns=["level", "targets", "within_tolerance", "median", *SHARES])


def groups(targets: pd.DataFrame, causes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return how the targets of a run are met, by status and group.

    Parameters
    ----------
    targets
        Rows of ``fit/diagnostics.csv``.
    causes
        ``fit/groups.csv``.

    Returns
    -------
    DataFrame
        status, group_id, geo_level, variable, domain, group (in words), targets, within_1, within_5,
        within_10, within_tolerance (shares), median (absolute relative error), missed and causes (fitted
        groups only); fitted ones first, the nation first.
    """
    table = accuracy_of(targets).assign(missed=np.nan, causes="")
    if causes is not None:
        by = causes.set_index("group_id")
        is_fit = table["status"] == "fit"
        table["missed"] = table["group_id"].map(by["missed"]).where(is_fit)
        table["causes"] = table["group_id"].map(by["causes"]).where(is_fit).fillna("")
    domain = (" by " + table["domain"]).where(table["domain"] != "", "")
    table["group"] = (table["variable"] + domain).map(short)
    table["order"] = table["geo_level"].map({name: i for i, name in enumerate(LEVELS)})
    ordered = table.sort_values(["status", "order", "group"], ascending=[False, True, True], kind="stable")
    return ordered.drop(columns="order").reset_index(drop=True)


def distributions(tables: RunTables) -> list[tuple[NDArray[np.float64], str, str, list[float]]]:
    """Return what of a run's weights is shown as a histogram; nothing before the fit.

    Returns
    -------
    list
        Of each: values float64 (n,), title, what the axis says, and marks on it (bounds).
    """
    if tables.weights is None or tables.areas is None:
        return []
    weight, design = tables.weights
    kept = weight > 0
    some = kept & (design > 0)
    by_donor = tables.areas.loc[tables.areas["geo_level"] == "district", "effective_sample_size_by_donor"]
    return [
        (weight[kept], "Weight of a record", "households that a record stands for", []),
        (weight[some] / design[some], "Weight over design weight",
         "times the design weight; dashed: the bounds", _bounds(tables)),
        (by_donor.to_numpy(np.float64), "Effective sample size of districts", "effective donors", []),
    ]  # fmt: skip


def _bounds(tables: RunTables) -> list[float]:
    """Return the least and the largest weight of a record, in design weights, that the fit allows."""
    settings, scale = tables.plan["run"]["fit"], float((tables.summary or {}).get("mass_scale", 1.0))
    cap = settings["weight_ratio"]
    most = settings["upper_bound"] * scale
    return [settings["lower_bound"] * scale, most if cap is None else min(most, cap)]
