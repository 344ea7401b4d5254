"""Read strata into place and domain, and refuse what no task could evaluate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.targets.constraints import GEOGRAPHIC, OPERATIONS, Constraint, constraint_text
from distcalib.targets.schema import NOT_A_DOMAIN

STATUSES = ("fit", "check", "excluded")


def read_strata(table: pd.DataFrame, place: object) -> pd.DataFrame:
    """Split the constraints of each distinct stratum text into place and domain.

    Parameters
    ----------
    table
        Rows of `distcalib.targets.database.read_database`.
    place
        Name of the database for errors.

    Returns
    -------
    DataFrame
        `table` with geo_level, geographic_id (``US``, state FIPS or district GEOID as text without padding),
        domain_variable (alphabetical, joined by commas, empty for a whole area) and constraints (canonical
        text without the place).

    Raises
    ------
    InputError
        For an unknown operator, variable, state or district in a stratum that is used.
    """
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
        if not state.strip().isdecimal() or int(state) not in STATE_CODES:
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
    """Refuse a monthly flag, code or text: it has no value for a year, whatever the rules engine gives."""
    variable = catalogue().variables[name]
    if variable.definition_period == "month" and variable.value_type != "float":
        raise InputError(
            f"is a monthly {variable.value_type}, which has no value for a year",
            place=place,
            value=name,
            expected="a yearly variable",
        )


def check_targets(table: pd.DataFrame, place: object) -> None:
    """Raise `InputError` for a target that cannot be evaluated: variable, value or status."""
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
