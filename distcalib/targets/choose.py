"""Choose, check, uprate and order the targets of a run: the rows of the matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.digest import digest_of
from distcalib.errors import DistcalibWarning, InputError, warn
from distcalib.geography.states import STATE_CODES
from distcalib.targets.database import read_targets, without_password
from distcalib.targets.prepare import (
    carry,
    exclude_of_the_whole_file,
    in_order,
    names,
    of_the_whole_file,
    prepare,
)
from distcalib.targets.rules import Rules
from distcalib.targets.strata import read_strata

DEFAULT_TOLERANCE = 0.05

COLUMNS = [
    "target_id", "stratum_id", "variable", "reform_id", "period", "original_value", "value",
    "uprating_factor", "hif", "state_uprating_factor", "target_period",
    "moe", "tolerance", "geo_level", "geographic_id", "domain_variable", "constraints", "name", "group_id",
    "status", "reason",
]  # fmt: skip

# Of them: what a cell of the matrix depends on, and what the weights depend on besides.
MEASURED = ["variable", "reform_id", "constraints", "geo_level", "geographic_id"]
FITTED = ["value", "tolerance", "group_id", "status"]

# Columns of `select_targets`, and which of them each key of a filter looks at.
SELECTED = [
    "target_id", "stratum_id", "variable", "reform_id", "value", "original_value", "period", "target_period",
    "uprating_factor", "hif", "state_uprating_factor", "geo_level", "geographic_id", "domain_variable",
    "constraints", "name", "stratum_group_id", "moe", "tolerance", "source", "status", "reason",
]  # fmt: skip
FILTERS = {
    "domain_variables": "domain_variable",
    "variables": "variable",
    "stratum_group_ids": "stratum_group_id",
    "stratum_ids": "stratum_id",
    "target_ids": "target_id",
    "geo_levels": "geo_level",
}


class TargetsWarning(DistcalibWarning):
    """Something that an analyst should know about targets that were selected."""


@dataclass(frozen=True)
class Targets:
    """The targets of a run.

    Attributes
    ----------
    rows
        One row a row of X, in its order: those of status fit and check.
    excluded
        The others, with their reasons.
    warnings
        Things that an analyst should know before the run.
    """

    rows: pd.DataFrame
    excluded: pd.DataFrame
    warnings: tuple[str, ...]

    def rows_digest(self) -> str:
        """Digest of what the rows measure, not of their values: what the matrix depends on."""
        return rows_digest(self.rows)

    def values_digest(self) -> str:
        """Digest of values, tolerances, groups and statuses: what the weights depend on besides X."""
        return digest_of(self.rows[FITTED].values.tolist())

    def labels_digest(self) -> str:
        """Digest of all else of the rows: margins of error, reasons, names; what the tables of a fit show."""
        return _texts_digest(self.rows[[c for c in COLUMNS if c not in (*MEASURED, *FITTED)]])

    def excluded_digest(self) -> str:
        """Digest of the targets that are not used, with their reasons."""
        return _texts_digest(self.excluded[COLUMNS])


def rows_digest(rows: pd.DataFrame) -> str:
    """Digest of what rows measure: variable, reform, constraints and place, in their order."""
    table = rows[MEASURED]
    return digest_of([[str(v) for v in row] for row in table.itertuples(index=False)])


def _texts_digest(table: pd.DataFrame) -> str:
    texts = table.astype(object).where(table.notna(), "").astype(str)
    return digest_of([list(table), texts.values.tolist()])


def load_targets(
    database: str | Path,
    period: int,
    districts: Collection[int],
    variables: Collection[str] | None = None,
    bundled: pd.DataFrame | None = None,
    *,
    rules: Rules | None = None,
    idle_rules: str = "error",
    uprate: bool = False,
    hierarchical_domains: Collection[str] = (),
    aca_multipliers: str | Path | None = None,
) -> Targets:
    """Read a target database and return the rows of the matrix.

    Parameters
    ----------
    database
        A SQLite file, a SQLAlchemy URL, or ``bundled``.
    period
        Year of the run. For each (stratum, variable, reform) the largest period not after it is taken, else
        the smallest after it, among those that are not excluded.
    districts
        GEOIDs that the run places households in. Areas that are only partly in it have no targets in the run.
    variables
        If given, keep only targets of these variables.
    bundled
        The table behind ``bundled``; by default the packaged one.
    rules
        Statuses, set before periods are chosen; then include and exclude rules, applied after reconciliation:
        a state that no rule includes still scales its districts.
    idle_rules
        ``error``: rules that match no target are refused; ``warn``: they are told.
    uprate
        Carry values of other years to `period` by `distcalib.targets.uprating.factor`. False uses values as
        published; so were the bundled table's statuses (fit or check) decided.
    hierarchical_domains, aca_multipliers
        See `distcalib.targets.reconcile.reconcile`.

    Raises
    ------
    InputError
        For an unknown variable, operator, state or district, a target without a value, a variable asked for
        that no target has or whose targets are all excluded, a rule that matches nothing, a year that an
        index lacks, and when no target is left to fit.
    """
    raw = read_targets(database, bundled)
    source, database = database, without_password(database)
    warnings: list[str] = []
    table = read_strata(raw, database)
    table["name"] = names(table)
    before = set(table.loc[table["status"] == "excluded", "target_id"])
    if rules is not None:
        # Strata of excluded targets need not be readable, those of targets in use must.
        table = read_strata(rules.with_statuses(table), database)
    table = prepare(table, period, warnings, database)
    taken = table["target_id"].isin(before) & (table["status"] != "excluded")
    if rules is not None and taken.any():
        some = ", ".join(sorted(set(table.loc[taken, "variable"]))[:5])
        warnings.append(
            f"{int(taken.sum())} targets that the database excludes have a status by the rules of "
            f"targets.rules: {some}"
        )
    if not raw["registered"].all():
        warnings.append(
            "the database has no target_register: every active target is fitted, however far it is"
        )
    exclude_of_the_whole_file(table, warnings)
    if uprate and str(source) == "bundled":
        warnings.append("the bundled targets' statuses (fit, check) were decided with published values")
    usable = (table["status"] != "excluded").to_numpy()
    table, more = carry(table, period, uprate, hierarchical_domains, aca_multipliers, database)
    warnings += more
    if rules is not None:
        told = warnings if idle_rules == "warn" else None
        left_out = ~rules.keep(table, usable, told) & (table["status"] != "excluded")
        table.loc[left_out, ["status", "reason"]] = ["excluded", "left out by the rules of targets.rules"]
    table = _exclude_what_is_outside(table, districts, warnings, database)
    if variables is not None:
        for name in variables:
            if name not in set(table["variable"]):
                raise InputError(
                    "no target has this variable",
                    place="targets.variables",
                    value=name,
                    choices=table["variable"].unique(),
                )
            own = table[table["variable"] == name]
            if (own["status"] == "excluded").all():
                raise InputError(
                    f"all {len(own)} targets of this variable are excluded",
                    place="targets.variables",
                    value=name,
                    expected=f"a variable with targets in use (here: {'; '.join(_reasons(own))})",
                )
        left_out = ~table["variable"].isin(list(variables)) & (table["status"] != "excluded")
        table.loc[left_out, ["status", "reason"]] = ["excluded", "not among targets.variables"]
    other_year = (table["period"] != period) & (table["status"] != "excluded")
    if other_year.any():
        years = ", ".join(str(y) for y in sorted(table.loc[other_year, "period"].unique()))
        how = f"carried to {period} by CPI-U or population" if uprate else "used as published"
        warnings.append(f"{int(other_year.sum())} targets are of other years ({years}) and {how}")
    table["tolerance"] = table["tolerance"].fillna(DEFAULT_TOLERANCE).clip(lower=1e-9)
    table = in_order(table)
    group_key = ["level", "domain_variable", "variable", "reform_id"]
    used = table[table["status"] != "excluded"].reset_index(drop=True)
    used["group_id"] = used.groupby(group_key, sort=True).ngroup().astype(np.int32)
    if not (used["status"] == "fit").any():
        raise InputError(
            "no target is left to fit",
            place=database,
            expected="at least one active target inside the districts of the run",
        )
    excluded = table[table["status"] == "excluded"].assign(group_id=-1)
    return Targets(used[COLUMNS], excluded[COLUMNS].reset_index(drop=True), tuple(warnings))


def select_targets(
    database: str | Path,
    period: int,
    *,
    any_of: bool = False,
    target_filter: Mapping[str, Collection[object]] | None = None,
    hierarchical_domains: Collection[str] | None = None,
    uprate: bool = True,
    aca_multipliers: str | Path | None = None,
) -> pd.DataFrame:
    """Select targets of a database by a filter, wherever they are, carried to a year.

    Parameters
    ----------
    database
        A SQLite file, a SQLAlchemy URL, or ``bundled``. Of the bundled table, and of databases with a
        register, targets of status check are selected with that status; without one all active are fit.
    period
        Year that is wanted. Periods are chosen as by `load_targets`, among the targets that pass the filter.
    any_of
        A target passes when any key of the filter holds; False: when all do.
    target_filter
        Any of `FILTERS`, each with a list of values. A domain is its whole text, such as
        ``adjusted_gross_income,eitc``; the empty text means targets of whole areas. None selects all.
    hierarchical_domains, aca_multipliers
        See `distcalib.targets.reconcile.reconcile`; rows of its domains that are superseded are left out.
    uprate
        False: values as published.

    Returns
    -------
    DataFrame
        The columns `SELECTED`, in the order of the rows of a matrix: level, variable, reform, geographic_id
        as text, target_id. moe is carried with the value; hif and state_uprating_factor are NaN where
        nothing was reconciled; domain_variable is empty for whole areas, stratum_group_id is NA where the
        database has none.

    Warns
    -----
    TargetsWarning
        For targets that are active against their register, for reforms that are not known, whose targets are
        left out, for targets that depend on everybody in a file, and for what `reconcile` warns of.

    Raises
    ------
    InputError
        As `load_targets`, for a key of the filter that is unknown, a value of it that no active target has,
        and when nothing passes.
    """
    raw = read_targets(database)
    database = without_password(database)
    raw = raw[raw["status"] != "excluded"].reset_index(drop=True)
    if "stratum_group_id" not in raw:
        raw["stratum_group_id"] = pd.array([pd.NA] * len(raw), dtype="Int64")
    wanted = _checked_filter(target_filter)
    # What is not asked for need not be readable, so the database's own columns are looked at first.
    own = {key: v for key, v in wanted.items() if FILTERS[key] in raw}
    _refuse_absent(raw, own)
    table = raw if any_of else raw[_passes(raw, own, any_of)]
    if len(table):
        table = read_strata(table.reset_index(drop=True), database)
        if _absent(table, wanted):
            _refuse_absent(read_strata(raw, database), wanted)
        table = table[_passes(table, wanted, any_of)].reset_index(drop=True)
    if table.empty:
        raise InputError(
            "no active target passes the filter", place=database, value=dict(target_filter or {})
        )
    warnings: list[str] = []
    table = prepare(table, period, warnings, database)
    table = table[table["status"] != "excluded"]
    shared = of_the_whole_file(table)
    if (shared != "").any():
        which = ", ".join(sorted(set(shared[shared != ""])))
        warnings.append(
            f"{int((shared != '').sum())} targets depend on everybody in a file, so their cells are not what "
            f"a file of these households gives: {which}"
        )
    table = table.assign(name=names(table))
    table, more = carry(table, period, uprate, hierarchical_domains or (), aca_multipliers, database)
    for warning in warnings + more:
        warn(warning, TargetsWarning)
    return in_order(table[table["status"] != "excluded"])[SELECTED]


def _reasons(excluded: pd.DataFrame, limit: int = 3) -> list[str]:
    """Return the most frequent reasons of excluded targets, each with its number."""
    counts = excluded["reason"].replace("", "excluded by the register").value_counts(sort=False)
    counts = counts.sort_values(ascending=False, kind="stable")
    return [f"{n} {reason}" for reason, n in counts.head(limit).items()]


def _checked_filter(target_filter: Mapping[str, Collection[object]] | None) -> dict[str, list[object]]:
    wanted = {}
    for key, values in (target_filter or {}).items():
        if key not in FILTERS:
            raise InputError("unknown key", place="target_filter", value=key, choices=FILTERS)
        if isinstance(values, str) or not isinstance(values, Collection):
            raise InputError("is not a list", place=f"target_filter: {key}", value=values)
        wanted[key] = list(values)
    return wanted


def _absent(table: pd.DataFrame, wanted: dict[str, list[object]]) -> list[tuple[str, object]]:
    """Return the keys and values of a filter that no target has."""
    held = {key: set(table[FILTERS[key]].dropna()) for key in wanted}
    return [(key, value) for key, values in wanted.items() for value in values if value not in held[key]]


def _refuse_absent(table: pd.DataFrame, wanted: dict[str, list[object]]) -> None:
    for key, value in _absent(table, wanted):
        raise InputError(
            "no active target has this",
            place=f"target_filter: {key}",
            value=value,
            choices=table[FILTERS[key]].dropna().unique(),
        )


def _passes(table: pd.DataFrame, wanted: dict[str, list[object]], any_of: bool) -> np.ndarray:
    """Return which targets pass a filter, bool, shape (n targets,)."""
    hits = [table[FILTERS[key]].isin(values).to_numpy(bool) for key, values in wanted.items()]
    if not hits:
        return np.ones(len(table), dtype=bool)
    return np.logical_or.reduce(hits) if any_of else np.logical_and.reduce(hits)


def _exclude_what_is_outside(
    table: pd.DataFrame, districts: Collection[int], warnings: list[str], place: object
) -> pd.DataFrame:
    """Exclude targets of areas that the run does not cover whole; refuse districts that do not exist."""
    from distcalib.geography.sources import districts as all_districts

    known = set(all_districts()["cd_geoid"])
    held = set(districts)
    is_district = table["geo_level"] == "district"
    named = pd.to_numeric(table["geographic_id"].where(is_district), errors="coerce")
    unknown = is_district & ~named.isin(known) & (table["status"] != "excluded")
    if unknown.any():
        row = table[unknown].iloc[0]
        raise InputError(
            "unknown congressional district",
            place=f"{place}: target {row['target_id']}",
            value=row["geographic_id"],
            choices=[str(k) for k in known],
            expected="a district of the 119th Congress",
        )
    whole_states = {s for s in STATE_CODES if {k for k in known if k // 100 == s} <= held}
    outside = (is_district & ~named.isin(held)) | (
        (table["geo_level"] == "state")
        & ~pd.to_numeric(table["geographic_id"], errors="coerce").isin(whole_states)
    )
    if held != known:
        outside |= table["geo_level"] == "national"
    outside &= table["status"] != "excluded"
    if outside.any():
        warnings.append(
            f"{int(outside.sum())} targets of areas that this run does not cover whole are excluded"
        )
    table.loc[outside, ["status", "reason"]] = ["excluded", "the run does not cover this area whole"]
    return table
