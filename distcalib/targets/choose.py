"""Choose, check and order the targets of a run: the rows of the matrix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.digest import digest_of
from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.targets.constraints import GEOGRAPHIC, OPERATIONS, Constraint, constraint_text
from distcalib.targets.database import read_targets, without_password
from distcalib.targets.schema import NOT_A_DOMAIN

LEVELS = ("national", "state", "district")
STATUSES = ("fit", "check", "excluded")
DEFAULT_TOLERANCE = 0.05

COLUMNS = [
    "target_id", "stratum_id", "variable", "reform_id", "period", "original_value", "value",
    "uprating_factor",
    "moe", "tolerance", "geo_level", "geographic_id", "domain_variable", "constraints", "name", "group_id",
    "status", "reason",
]  # fmt: skip


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
        """Digest of values, tolerances, groups and statuses: what the fit depends on besides X."""
        table = self.rows[["value", "tolerance", "group_id", "status"]]
        return digest_of(table.values.tolist())


def rows_digest(rows: pd.DataFrame) -> str:
    """Digest of what rows measure: variable, reform, constraints and place, in their order."""
    table = rows[["variable", "reform_id", "constraints", "geo_level", "geographic_id"]]
    return digest_of([[str(v) for v in row] for row in table.itertuples(index=False)])


def load_targets(
    database: str | Path,
    period: int,
    districts: Collection[int],
    variables: Collection[str] | None = None,
    bundled: pd.DataFrame | None = None,
) -> Targets:
    """Read a target database and return the rows of the matrix.

    Parameters
    ----------
    database
        A SQLite file, a SQLAlchemy URL, or ``bundled``.
    period
        Year of the run. For each (stratum, variable, reform) the largest period not after it is taken, else
        the smallest after it, among those that are not excluded. Values are used as published.
    districts
        GEOIDs that the run places households in. Areas that are only partly in it have no targets in the run.
    variables
        If given, keep only targets of these variables.
    bundled
        The table behind ``bundled``; by default the packaged one.

    Raises
    ------
    InputError
        For an unknown variable, operator, state or district, a target without a value, a variable asked for
        that no target has, and when no target is left to fit.
    """
    raw = read_targets(database, bundled)
    database = without_password(database)
    table = _choose_periods(raw, period)
    table = _read_strata(table, database)
    _check(table[table["status"] != "excluded"], database)
    table["name"] = _names(table)
    warnings: list[str] = []
    if not raw["registered"].all():
        warnings.append(
            "the database has no target_register: every active target is fitted, however far it is"
        )
    table = _exclude_what_is_outside(table, districts, warnings, database)
    reforms = (table["reform_id"] > 0) & (table["status"] != "excluded")
    if reforms.any():
        table.loc[reforms, ["status", "reason"]] = ["excluded", "targets of reforms are not simulated"]
        warnings.append(f"{int(reforms.sum())} targets of reforms are excluded: they are not simulated")
    if variables is not None:
        for name in variables:
            if name not in set(table["variable"]):
                raise InputError(
                    "no target has this variable",
                    place="targets.variables",
                    value=name,
                    choices=table["variable"].unique(),
                )
        left_out = ~table["variable"].isin(list(variables)) & (table["status"] != "excluded")
        table.loc[left_out, ["status", "reason"]] = ["excluded", "not among targets.variables"]
    other_year = (table["period"] != period) & (table["status"] != "excluded")
    if other_year.any():
        years = ", ".join(str(y) for y in sorted(table.loc[other_year, "period"].unique()))
        warnings.append(f"{int(other_year.sum())} targets are of other years ({years}) and used as published")
    table["original_value"] = table["value"]
    table["uprating_factor"] = 1.0
    table["tolerance"] = table["tolerance"].fillna(DEFAULT_TOLERANCE).clip(lower=1e-9)
    table["level"] = table["geo_level"].map({level: i for i, level in enumerate(LEVELS)})
    table = table.sort_values(
        ["level", "variable", "reform_id", "geographic_id", "target_id"], ignore_index=True
    )
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


def _choose_periods(raw: pd.DataFrame, period: int) -> pd.DataFrame:
    after = (raw["period"] > period).astype(int)
    distance = (raw["period"] - period).abs()
    unused = (raw["status"] == "excluded").astype(int)
    ranked = raw.assign(unused=unused, after=after, distance=distance)
    ranked = ranked.sort_values(["unused", "after", "distance", "target_id"])
    lost = ranked.duplicated(["stratum_id", "variable", "reform_id"]) & (ranked["unused"] == 0)
    ranked.loc[lost, ["status", "reason"]] = ["excluded", "the figure of another period is used"]
    return ranked.drop(columns=["unused", "after", "distance"])


def _read_strata(table: pd.DataFrame, place: object) -> pd.DataFrame:
    """Split the constraints of each distinct stratum text into place and domain."""
    parsed = {}
    for lines, example in table.drop_duplicates("lines")[["lines", "stratum_id"]].itertuples(index=False):
        try:
            parsed[lines] = _one_stratum(lines, f"{place}: stratum {example}")
        except InputError:
            if (table.loc[table["lines"] == lines, "status"] != "excluded").any():
                raise
            # Nobody uses it, so it is listed as it stands.
            parsed[lines] = ("national", "US", "", lines.replace("|", "").replace("\n", "&"))
    level, area, domain, text = zip(*table["lines"].map(parsed), strict=True)
    return table.assign(geo_level=level, geographic_id=area, domain_variable=domain, constraints=text)


def _one_stratum(lines: str, place: str) -> tuple[str, str, str, str]:
    state = district = None
    rest = []
    for line in filter(None, lines.split("\n")):
        variable, operation, value = line.split("|", 2)
        operation = "==" if operation == "=" else operation
        if operation not in OPERATIONS:
            raise InputError(
                "unknown operator",
                place=place,
                value=operation,
                expected=f"one of {' '.join(OPERATIONS)}",
                choices=OPERATIONS,
            )
        if variable == "ucgid_str":
            raise InputError(
                "geography by ucgid_str is not read",
                place=place,
                value=value,
                expected="state_fips or congressional_district_geoid",
            )
        if variable not in catalogue():
            raise InputError(
                "unknown constraint variable", place=place, value=variable, choices=catalogue().variables
            )
        if variable in GEOGRAPHIC:
            if operation != "==":
                raise InputError(
                    "a place is named with ==",
                    place=place,
                    value=line.replace("|", " "),
                    expected=f"{variable} == ...",
                )
            if (state if variable == "state_fips" else district) is not None:
                raise InputError(
                    "names two places", place=place, value=line.replace("|", " "), expected="one"
                )
            if variable == "state_fips":
                state = value
            else:
                district = value
        else:
            rest.append(Constraint(variable, operation, value))
            _probe(rest[-1], place)
    constraints = tuple(sorted(rest))
    domain = ",".join(sorted({c.variable for c in constraints} - set(NOT_A_DOMAIN)))
    if district is not None:
        found = _district(district, place)
        if state is not None and str(found.state_fips) != state.strip().lstrip("0"):
            raise InputError(
                "a district that is not in the stratum's state",
                place=place,
                value=district,
                expected=f"a district of state {state}",
            )
        level, area = "district", str(found.geoid)
    elif state is not None:
        if not state.strip().isdigit() or int(state) not in STATE_CODES:
            raise InputError(
                "unknown state", place=place, value=state, expected="a state FIPS code", choices=STATE_CODES
            )
        level, area = "state", str(int(state))
    else:
        level, area = "national", "US"
    return level, area, domain, constraint_text(constraints)


def _district(text: str, place: str) -> District:
    try:
        return District.parse(text)
    except InputError as error:
        raise InputError(str(error), place=place) from None


def _probe(constraint: Constraint, place: str) -> None:
    """Raise now what would go wrong, or silently match nobody, in a task."""
    variable = catalogue().variables[constraint.variable]
    _refuse_monthly(constraint.variable, place)
    if variable.value_type in ("str", "Enum"):
        if constraint.operation not in ("==", "!=", "in"):
            raise InputError("orders a text", place=place, value=str(constraint), expected="==, != or in")
        words = constraint.value.split("|") if constraint.operation == "in" else [constraint.value]
        unknown = [w for w in words if variable.possible_values and w.strip() not in variable.possible_values]
        if unknown:
            raise InputError(
                f"is no value of {variable.name}",
                place=place,
                value=unknown[0],
                choices=variable.possible_values,
            )
        return
    try:
        constraint.holds(np.zeros(1))
    except InputError as error:
        raise InputError(str(error), place=place) from None


def _refuse_monthly(name: str, place: str) -> None:
    """Refuse a monthly flag, code or text: the rules engine would sum it over the months of the year."""
    variable = catalogue().variables[name]
    if variable.definition_period == "month" and variable.value_type != "float":
        raise InputError(
            f"is a monthly {variable.value_type}, which has no value for a year",
            place=place,
            value=name,
            expected="a yearly variable",
        )


def _check(table: pd.DataFrame, place: object) -> None:
    valid = {**COUNTS, **catalogue().variables}
    for variable in table["variable"].unique():
        target = f"{place}: target {table.loc[table['variable'] == variable, 'target_id'].iloc[0]}"
        added = terms(variable)
        for name in added:
            if name not in valid:
                raise InputError(
                    "unknown variable",
                    place=target,
                    value=name,
                    choices=valid,
                    expected="a variable of policyengine-us, a sum a+b of some, or an entity count",
                )
            if name in COUNTS:
                continue
            if catalogue().variables[name].value_type not in ("float", "int", "bool"):
                raise InputError("a target of a variable that is no number", place=target, value=name)
            _refuse_monthly(name, target)
        if len(added) > 1:
            _check_sum(variable, target)
    empty = table["value"].isna() & (table["status"] != "excluded")
    if empty.any():
        row = table[empty].iloc[0]
        raise InputError(
            f"{int(empty.sum())} active targets have no value",
            place=f"{place}: target {row['target_id']}",
            value=str(row["variable"]),
            expected="a number, or active = 0",
        )
    bad = ~table["status"].isin(STATUSES)
    if bad.any():
        raise InputError(
            "unknown status",
            place=f"{place}: target_register",
            value=table.loc[bad, "status"].iloc[0],
            choices=STATUSES,
            expected=" or ".join(STATUSES),
        )


def _check_sum(variable: str, place: str) -> None:
    """Refuse a sum of counts, or of variables of several entities or units: no unit has such a sum."""
    counts = [name for name in terms(variable) if name in COUNTS]
    if counts:
        raise InputError("adds up counts", place=place, value=variable, expected="amounts, or one count")
    known = [catalogue().variables[name] for name in terms(variable)]
    for what, found in (("entities", {v.entity for v in known}), ("units", {v.unit for v in known})):
        if len(found) > 1:
            raise InputError(
                f"adds up variables of several {what} ({', '.join(sorted(found))})",
                place=place,
                value=variable,
                expected="variables of one",
            )


def _names(table: pd.DataFrame) -> pd.Series:
    prefix = np.select(
        [table["geo_level"] == "district", table["geo_level"] == "state"],
        ["cd_" + table["geographic_id"], "state_" + table["geographic_id"]],
        "national",
    )
    domain = np.where(table["constraints"] != "", "/[" + table["constraints"].str.replace("&", ",") + "]", "")
    return pd.Series(prefix, table.index) + "/" + table["variable"] + domain


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
