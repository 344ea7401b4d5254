"""What a stratum may say: rules on its own constraints, on a stratum and its parent, and its group number."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.targets.constraints import GEOGRAPHIC, Constraint
from distcalib.targets.strata import read_strata

_ALONE = ("==", "!=", "in")
_BOUNDS = ((">", ">="), ("<", "<="))

# Numbers of strata in the older generation, which users' own SQL relies on. That generation numbered the
# variables of the IRS file from 100 in the order of its table; what it renamed keeps its number.
STRATUM_GROUPS = {
    "age": 2,
    "adjusted_gross_income": 3,
    "snap": 4,
    "medicaid_enrolled": 5,
    "eitc": 6,
    "state_income_tax": 7,
}
IRS_VARIABLES = (
    "qualified_business_income_deduction",
    "self_employment_income",
    "net_capital_gains",
    "real_estate_taxes",
    "rental_income",
    "taxable_ira_distributions",
    "taxable_interest_income",
    "tax_exempt_interest_income",
    "dividend_income",
    "qualified_dividend_income",
    "tax_unit_partnership_s_corp_income",
    "taxable_social_security",
    "unemployment_compensation",
    "medical_expense_deduction",
    "taxable_pension_income",
    "refundable_ctc",
    "salt",
    "income_tax",
    "income_tax_before_credits",
    "aca_ptc",
)
_NUMBERS = STRATUM_GROUPS | {name: 100 + i for i, name in enumerate(IRS_VARIABLES)}
_NUMBERS["eitc_child_count"] = _NUMBERS["eitc"]
_NUMBERS["total_self_employment_income"] = _NUMBERS["self_employment_income"]


def stratum_group(variables: Collection[str]) -> int | None:
    """Return the stratum_group_id of the older generation for the variables of a stratum's constraints.

    1 for geography alone; 2 age (and filers without another condition), 3 AGI, 4 SNAP, 5 Medicaid, 6 EITC,
    7 state income tax; 100 + i for variable i of `IRS_VARIABLES` (100 the business income deduction ... 118
    income tax before credits, 119 the ACA credit). The first of that order decides. None where the older
    generation had no number.

    >>> stratum_group(["state_fips"]), stratum_group(["tax_unit_is_filer", "salt"])
    (1, 116)
    """
    domain = set(variables) - set(GEOGRAPHIC)
    if not domain:
        return 1
    if domain == {"tax_unit_is_filer"}:
        return _NUMBERS["age"]
    return min((_NUMBERS[name] for name in domain if name in _NUMBERS), default=None)


def lines_of(constraints: Iterable[Constraint]) -> str:
    """Return constraints as a database's definition has them: sorted lines ``variable|operation|value``."""
    return "\n".join(sorted(f"{c.variable}|{c.operation}|{c.value}" for c in constraints))


def definition_hash(parent_stratum_id: int | None, lines: str) -> str:
    """Return the identity of a stratum: sha256 of its parent's id and its sorted lines.

    Parameters
    ----------
    parent_stratum_id
        None for the nation.
    lines
        The constraints as sorted lines ``variable|operation|value``.
    """
    parent = "" if parent_stratum_id is None else str(int(parent_stratum_id))
    return hashlib.sha256((f"{parent}\n{lines}" if lines else parent).encode()).hexdigest()


def normal(constraint: Constraint) -> Constraint:
    """Return the one spelling of a constraint that `check_strata` lets pass.

    Numbers as short as they go (``5`` for 05 and 5.0), flags as 1 and 0, lists sorted, states as their FIPS
    code, districts as their GEOID (201 for 200). Of two strata with equal constraints each is the other.

    >>> str(normal(Constraint("state_fips", "==", "030"))), str(normal(Constraint("age", "in", "9.0|5")))
    ('state_fips==30', 'age in 5|9')
    """
    variable, value = constraint.variable, constraint.value.strip()
    if variable == GEOGRAPHIC[0]:
        return Constraint(variable, constraint.operation, str(int(value)))
    if variable == GEOGRAPHIC[1]:
        return Constraint(variable, constraint.operation, str(District.parse(value).geoid))
    words = value.split("|") if constraint.operation == "in" else [value]
    if catalogue().variables[variable].value_type in ("str", "Enum"):
        words = [word.strip() for word in words]
    else:
        words = [_shortest(word) for word in words]
    return Constraint(variable, constraint.operation, "|".join(sorted(set(words))))


def _shortest(word: str) -> str:
    flag = {"true": "1", "false": "0"}.get(word.strip().lower())
    if flag is not None:
        return flag
    number = float(word)
    return str(int(number)) if number.is_integer() else repr(number)


def from_lines(lines: str) -> tuple[Constraint, ...]:
    """Return the constraints of such lines, unchecked."""
    return tuple(Constraint(*line.split("|", 2)) for line in lines.split("\n") if line)


def check_strata(strata: Collection[Collection[Constraint]], place: object) -> None:
    """Raise `InputError` unless the constraints of each stratum can be read and can hold together.

    Operators, variables and values are known, states and districts exist, a district lies in its state
    (`distcalib.targets.strata.read_strata`); for the rest see `check_together`.

    Parameters
    ----------
    strata
        The constraints of each, geography included.
    place
        Name of the database, or of the one stratum, for errors.
    """
    lines = [lines_of(constraints) for constraints in strata]
    names = [f"[{text.replace(chr(10), ' & ')}]" for text in lines]
    read_strata(pd.DataFrame({"lines": lines, "stratum_id": names, "status": "fit"}), place)
    for name, constraints in zip(names, strata, strict=True):
        check_together(constraints, f"{place}: stratum {name}")
        district = place_of(constraints)[1]
        if district is not None and district not in _districts():
            raise InputError(
                "unknown congressional district",
                place=f"{place}: {GEOGRAPHIC[1]}",
                value=district,
                choices=_districts(),
                expected="a district of the 119th Congress",
            )


def _districts() -> set[int]:
    from distcalib.geography.sources import districts

    return set(districts()["cd_geoid"])


def check_together(constraints: Iterable[Constraint], place: object) -> None:
    """Raise `InputError` where constraints of one stratum contradict each other.

    ``==``, ``!=`` and ``in`` stand alone for a variable; ``>`` excludes ``>=``, ``<`` excludes ``<=``; a
    range is not empty, and touching bounds are both inclusive; no operator stands twice for a variable.
    """
    by_variable: dict[str, list[Constraint]] = {}
    for constraint in constraints:
        by_variable.setdefault(constraint.variable, []).append(constraint)
    for variable, own in by_variable.items():
        wrong, expected = _wrong_together(own)
        if wrong:
            said = " & ".join(map(str, own))
            raise InputError(wrong, place=f"{place}: {variable}", value=said, expected=expected)


def _wrong_together(own: list[Constraint]) -> tuple[str, str]:
    """Return what is wrong with constraints on one variable, and what would be right; or two empty texts."""
    operations = [c.operation for c in own]
    if len(set(operations)) < len(operations):
        return "an operator stands twice for a variable", "each operator once"
    for operation in _ALONE:
        if operation in operations and len(own) > 1:
            return f"{operation} has to stand alone for a variable", "one condition, or a range"
    for strict, inclusive in _BOUNDS:
        if strict in operations and inclusive in operations:
            return f"{strict} and {inclusive} bound a variable on the same side", "one of the two"
    low = next((c for c in own if c.operation in _BOUNDS[0]), None)
    high = next((c for c in own if c.operation in _BOUNDS[1]), None)
    if low is None or high is None:
        return "", ""
    flags = {"true": 1.0, "false": 0.0}
    bottom, top = (flags[w] if w in flags else float(w) for w in (low.value.lower(), high.value.lower()))
    if bottom > top or (bottom == top and (low.operation, high.operation) != (">=", "<=")):
        return (
            "an empty range: nobody can pass",
            "a lower bound below the upper one, or two inclusive ones",
        )
    return "", ""


def place_of(constraints: Iterable[Constraint]) -> tuple[int | None, int | None]:
    """Return the state FIPS and the district GEOID that constraints name, None where they name none.

    At-large districts (200, 1198) have the number that they have everywhere here (201, 1101).
    """
    values = {c.variable: c.value.strip() for c in constraints if c.variable in GEOGRAPHIC}
    state, district = (
        int(word) if word.isdecimal() else None for word in (values.get(k, "") for k in GEOGRAPHIC)
    )
    if district is not None and district % 100 in (0, 98):
        district = district // 100 * 100 + 1
    return state, district


def check_child(child: Collection[Constraint], parent: Collection[Constraint], place: object) -> None:
    """Raise `InputError` unless a stratum is part of its parent.

    A child repeats its parent's constraints verbatim, but for geography: a child of a state names the state
    or a district of it (``district // 100 == state``), a child of a district the district.

    Parameters
    ----------
    child, parent
        The constraints of both, geography included.
    place
        Name of the child for errors.
    """
    for needed in parent:
        if needed.variable not in GEOGRAPHIC and needed not in child:
            said = " & ".join(str(c) for c in child if c.variable == needed.variable)
            raise InputError(
                "does not repeat a constraint of its parent",
                place=f"{place}: {needed.variable}",
                value=said or "no condition",
                expected=str(needed),
            )
    (state, district), (own_state, own_district) = place_of(parent), place_of(child)
    named = own_state if own_district is None else own_district // 100
    if district is not None:
        inside, within = own_district == district, f"district {district}"
        choices = {district}
    else:
        inside, within = state is None or named == state, f"state {state}"
        choices = {k for k in _districts() if k // 100 == state}
    if not inside:
        raise InputError(
            "does not lie in its parent",
            place=f"{place}: {GEOGRAPHIC[0 if own_district is None else 1]}",
            value=own_district or own_state or "no place",
            choices=choices,
            expected=f"a place in {within}",
        )
