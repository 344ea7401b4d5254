"""Steps that choosing targets for a run and selecting them for a document share."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.catalogue import OF_THE_WHOLE_FILE
from distcalib.errors import InputError
from distcalib.targets.reconcile import ACA_DOMAIN, reconcile
from distcalib.targets.reforms import REFORMS
from distcalib.targets.strata import check_targets
from distcalib.targets.uprating import factor

LEVELS = ("national", "state", "district")


def prepare(table: pd.DataFrame, period: int, warnings: list[str], place: object) -> pd.DataFrame:
    """Choose periods, exclude reforms that are not known, and refuse targets that cannot be evaluated."""
    table = choose_periods(table, period, warnings)
    warn_of_activated(table, warnings)
    exclude_unknown_reforms(table, warnings)
    check_targets(table[table["status"] != "excluded"], place)
    return table


def choose_periods(raw: pd.DataFrame, period: int, warnings: list[str]) -> pd.DataFrame:
    """Exclude all but one period of each (stratum, variable, reform), among targets that are not excluded.

    The largest period that is not after `period` stays, else the smallest after it. Of rows that stand twice,
    in a database that lets them, the first stays, and `warnings` says how many others there are.
    """
    after = (raw["period"] > period).astype(int)
    distance = (raw["period"] - period).abs()
    unused = (raw["status"] == "excluded").astype(int)
    ranked = raw.assign(unused=unused, after=after, distance=distance)
    ranked = ranked.sort_values(["unused", "after", "distance", "target_id"])
    key = ["stratum_id", "variable", "reform_id"]
    lost = ranked.duplicated(key) & (ranked["unused"] == 0)
    ranked.loc[lost, ["status", "reason"]] = ["excluded", "the figure of another period is used"]
    twice = lost & ranked.duplicated([*key, "period"])
    if twice.any():
        first = ranked.groupby([*key, "period"])["target_id"].transform("first")[twice].astype(str)
        ranked.loc[twice, "reason"] = "a duplicate: the same quantity and period as target " + first
        some = ", ".join(sorted(set(ranked.loc[twice, "variable"]))[:5])
        warnings.append(
            f"{int(twice.sum())} targets stand twice in the database, and the first is used: {some}"
        )
    return ranked.drop(columns=["unused", "after", "distance"])


def names(table: pd.DataFrame) -> pd.Series:
    """Return the name of each row of the matrix: ``cd_3701/household_count/[snap>0]``."""
    prefix = np.select(
        [table["geo_level"] == "district", table["geo_level"] == "state"],
        ["cd_" + table["geographic_id"], "state_" + table["geographic_id"]],
        "national",
    )
    domain = np.where(table["constraints"] != "", "/[" + table["constraints"].str.replace("&", ",") + "]", "")
    # A target of a reform is what the deduction costs, not the amount deducted.
    expenditure = np.where(table["reform_id"] > 0, "_expenditure", "")
    return pd.Series(prefix, table.index) + "/" + table["variable"] + expenditure + domain


def warn_of_activated(table: pd.DataFrame, warnings: list[str]) -> None:
    """Say how many targets are fitted because the database has them active, against its own register."""
    used = table["activated"] & (table["status"] != "excluded")
    if used.any():
        some = ", ".join(sorted(set(table.loc[used, "variable"]))[:5])
        warnings.append(
            f"{int(used.sum())} targets that the register excludes are active and are fitted: {some}"
        )


def exclude_unknown_reforms(table: pd.DataFrame, warnings: list[str]) -> None:
    """Exclude, in place, targets of reforms that `REFORMS` does not hold, and name them."""
    expected = table["reform_id"].map({number: r.variables[0] for number, r in REFORMS.items()})
    unknown = (table["reform_id"] != 0) & (table["status"] != "excluded") & (table["variable"] != expected)
    if unknown.any():
        what = "reform " + table["reform_id"].astype(str) + " of " + table["variable"] + " is not known"
        table.loc[unknown, "reason"] = what[unknown]
        table.loc[unknown, "status"] = "excluded"
        some = ", ".join(sorted(set(what[unknown]))[:5])
        warnings.append(f"{int(unknown.sum())} targets of reforms are excluded: {some}")


def of_the_whole_file(table: pd.DataFrame) -> pd.Series:
    """Return which of `OF_THE_WHOLE_FILE` each target uses, as text, empty for none."""
    used = table["variable"].str.findall(r"\w+") + table["constraints"].str.findall(r"[A-Za-z_]\w*")
    return used.map(lambda names: ", ".join(sorted(OF_THE_WHOLE_FILE.intersection(names))))


def exclude_of_the_whole_file(table: pd.DataFrame, warnings: list[str]) -> None:
    """Exclude, in place, targets that no matrix can hold (`OF_THE_WHOLE_FILE`), by name."""
    shared = of_the_whole_file(table)
    lost = (shared != "") & (table["status"] != "excluded")
    if lost.any():
        table.loc[lost, "reason"] = "depends on everybody in a file, so has no cells: " + shared[lost]
        table.loc[lost, "status"] = "excluded"
        which = ", ".join(sorted(set(shared[lost])))
        warnings.append(f"{int(lost.sum())} targets depend on everybody in a file and are excluded: {which}")


def carry(
    table: pd.DataFrame,
    period: int,
    uprate: bool,
    domains: Collection[str],
    aca_multipliers: str | Path | None,
    place: object,
) -> tuple[pd.DataFrame, list[str]]:
    """Uprate and reconcile the targets that are not excluded; exclude those that their districts replace."""
    table = table.reset_index(drop=True)
    table["original_value"] = table["value"]
    table["uprating_factor"] = 1.0
    table["hif"] = np.nan
    table["state_uprating_factor"] = np.nan
    table["target_period"] = period
    usable = table["status"] != "excluded"
    if uprate:
        found = factor(table["variable"][usable], table["period"][usable], period, place=place)
        table.loc[usable, "uprating_factor"] = found
        table.loc[usable, "value"] *= found
    warnings: list[str] = []
    if aca_multipliers is not None and not (uprate and ACA_DOMAIN in domains):
        raise InputError(
            "is not used",
            place="aca_multipliers",
            value=str(aca_multipliers),
            expected=f"uprating, and {ACA_DOMAIN} among the hierarchical domains",
        )
    if domains:
        part, warnings = reconcile(
            table[usable], domains, period, uprate=uprate, multipliers=aca_multipliers, place=place
        )
        for column in ("value", "hif", "state_uprating_factor"):
            table.loc[usable, column] = part[column]
        superseded = part.index[part["superseded"]]
        table.loc[superseded, ["status", "reason"]] = [
            "excluded",
            f"of another year than {period}: its districts are scaled to it and stand for it",
        ]
        nation = superseded[table.loc[superseded, "geo_level"] == "national"]
        table.loc[nation, "reason"] = f"of another year than {period}: its domain has districts, which stay"
    growth = (table["value"] / table["original_value"]).where(table["original_value"] != 0, 1.0)
    table["moe"] *= growth
    return table, warnings


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return targets in the order of the rows of a matrix, with the column level (0, 1, 2)."""
    level = table["geo_level"].map({level: i for i, level in enumerate(LEVELS)})
    order = ["level", "variable", "reform_id", "geographic_id", "target_id"]
    return table.assign(level=level).sort_values(order, ignore_index=True)
