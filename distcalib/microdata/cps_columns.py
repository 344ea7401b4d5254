"""The inputs of policyengine-us computed from the public-use CPS, as `cps_inputs` states them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.microdata.cps_persons import DEPENDENT, HEAD, ROLES, Persons
from distcalib.microdata.cps_source import Units

Money = NDArray[np.float64]

RETIREMENT_AGE = 62
SURVIVOR_AGE = 60
# Earnings above which nobody is disabled for SSI: substantial gainful activity, 2024, 12 times $1,550
# (20 CFR 416.974; Federal Register 88 FR 72803).
SUBSTANTIAL_GAINFUL_ACTIVITY = 18_600.0


def person_columns(units: Units, persons: Persons) -> dict[str, NDArray]:
    """Return the inputs of persons.

    Parameters
    ----------
    units
        Tax units, money in dollars of the year.
    persons
        Their persons.

    Returns
    -------
    dict
        Variable -> array of shape (n persons,); money in whole dollars.
    """
    table = units.table
    n = len(persons.age)
    married = persons.spouse >= 0
    age = persons.age[persons.head]
    spouse_age = np.where(married, persons.age[persons.spouse], -1)

    def to_persons(amount: Any, head_share: Any = 1.0) -> Money:
        """Give each unit's amount to its head, and what is left of it to its spouse."""
        whole = np.asarray(amount, dtype=np.float64)
        of_head = np.where(married, whole * head_share, whole)
        out = np.zeros(n)
        out[persons.head] = of_head
        out[persons.spouse[married]] = (whole - of_head)[married]
        return np.rint(out)

    def own(head: str, spouse: str) -> Money:
        out = np.zeros(n)
        out[persons.head] = table[head]
        out[persons.spouse[married]] = table.loc[married, spouse]
        return np.rint(out)

    business_p, business_s = table["e00900p"] + table["e02100p"], table["e00900s"] + table["e02100s"]
    business = np.where(business_s > business_p, 0.0, 1.0)
    earner = np.where(table["e00200s"] + business_s > table["e00200p"] + business_p, 0.0, 1.0)
    elder = np.where(spouse_age > age, 0.0, 1.0)
    out = {
        "employment_income_before_lsr": own("e00200p", "e00200s"),
        "self_employment_income_before_lsr": own("e00900p", "e00900s"),
        "farm_operations_income": own("e02100p", "e02100s"),
        "taxable_interest_income": to_persons(table["e00300"]),
        "tax_exempt_interest_income": to_persons(table["e00400"]),
        "qualified_dividend_income": to_persons(table["e00650"]),
        "non_qualified_dividend_income": to_persons(table["e00600"] - table["e00650"]),
        "long_term_capital_gains_before_response": to_persons(table["e01100"]),
        "taxable_private_pension_income": to_persons(table["e01700"], elder),
        "tax_exempt_private_pension_income": to_persons(table["e01500"] - table["e01700"], elder),
        "taxable_ira_distributions": to_persons(table["e01400"], elder),
        "unemployment_compensation": to_persons(table["e02300"]),
        "alimony_income": to_persons(table["e00800"]),
        "health_insurance_premiums": to_persons(table["e03270"], business),
        "self_employed_pension_contributions_desired": to_persons(table["e03300"], business),
        "traditional_ira_contributions_desired": to_persons(table["e03150"], earner),
        "student_loan_interest": to_persons(table["e03210"]),
        "other_medical_expenses": to_persons(table["e17500"]),
        "real_estate_taxes": to_persons(table["e18500"]),
        "home_mortgage_interest": to_persons(table["e19200"]),
        "charitable_cash_donations": to_persons(table["e19800"]),
        "charitable_non_cash_donations": to_persons(table["e20100"]),
        "unreimbursed_business_employee_expenses": to_persons(table["e20400"]),
        "ssi_reported": np.rint(_ssi(units, persons, age, spouse_age)),
    }
    out |= _social_security(table, persons, age, spouse_age, elder, to_persons)
    return out | _people(units, persons, out)


def _social_security(
    table: pd.DataFrame,
    persons: Persons,
    age: NDArray,
    spouse_age: NDArray,
    elder: NDArray,
    to_persons: Callable[..., Money],
) -> dict[str, Money]:
    """Split e02400 between head and spouse, then by each one's age into three components."""
    both = (age >= RETIREMENT_AGE) & (spouse_age >= RETIREMENT_AGE)
    benefit = to_persons(table["e02400"], np.where(both, 0.5, elder))
    single = (persons.spouse < 0)[persons.unit]
    retired = persons.age >= RETIREMENT_AGE
    survivor = (persons.age < 18) | (~retired & (persons.age >= SURVIVOR_AGE) & single)
    return {
        "social_security_retirement": np.where(retired, benefit, 0),
        "social_security_survivors": np.where(survivor, benefit, 0),
        "social_security_disability": np.where(retired | survivor, 0, benefit),
    }


def _ssi(units: Units, persons: Persons, age: NDArray, spouse_age: NDArray) -> Money:
    """Give ssi_ben to one person a unit; the order of preference is in `cps_inputs.INPUTS`."""
    table = units.table
    married = persons.spouse >= 0
    head_earns = table["e00200p"] + table["e00900p"].clip(lower=0)
    spouse_earns = table["e00200s"] + table["e00900s"].clip(lower=0)
    spouse_less = married & (spouse_earns < head_earns).to_numpy()
    least = np.where(spouse_less, spouse_earns, head_earns)
    elder = np.where(spouse_age > age, persons.spouse, persons.head)
    poorer = np.where(spouse_less, persons.spouse, persons.head)
    # The persons of a unit are ordered head, spouse, dependants from the youngest band: the first dependant.
    child = persons.head + 1 + married
    has_child = np.zeros(len(table), bool)
    inside = child < len(persons.unit)
    at = np.minimum(child, len(persons.unit) - 1)
    has_child[:] = inside & (persons.unit[at] == np.arange(len(table))) & (persons.role[at] == DEPENDENT)
    who = np.select(
        [np.maximum(age, spouse_age) >= 65, least < SUBSTANTIAL_GAINFUL_ACTIVITY, has_child],
        [elder, poorer, at],
        default=persons.head,
    )
    out = np.zeros(len(persons.age))
    out[who] = table["ssi_ben"]
    return out


def _people(units: Units, persons: Persons, money: dict[str, Money]) -> dict[str, NDArray]:
    """Return who people are: age, role and flags."""
    table = units.table
    head = persons.role == HEAD
    adult = persons.role != DEPENDENT
    first = np.zeros(len(table), bool)
    first[np.unique(table["household"], return_index=True)[1]] = True
    minors = np.bincount(persons.unit[(persons.role == DEPENDENT) & (persons.age < 18)], minlength=len(table))
    ssi_disabled = (money["ssi_reported"] > 0) & (persons.age < 65)
    return {
        "age": persons.age.astype(np.float64),
        "tax_unit_role_input": ROLES[persons.role],
        "is_blind": persons.blind,
        "is_disabled": ssi_disabled | (money["social_security_disability"] > 0),
        "is_full_time_college_student": persons.student,
        "is_self_employed": (money["self_employment_income_before_lsr"] != 0)
        | (money["farm_operations_income"] != 0),
        "is_separated": head & (table["MARS"] == 3).to_numpy()[persons.unit],
        "claimed_as_dependent_on_another_return": head & (table["DSI"] == 1).to_numpy()[persons.unit],
        "own_children_in_household": np.where(adult, minors[persons.unit], 0),
        "is_household_head": head & first[persons.unit],
    }


def spm_unit_columns(units: Units, persons: Persons) -> dict[str, NDArray]:
    """Return the inputs of SPM units: variable -> whole dollars, shape (n SPM units,)."""
    spm = persons.links["spm_unit"][persons.head]
    n = int(persons.links["spm_unit"].max()) + 1
    return {
        variable: np.rint(np.bincount(spm, weights=units.table[column], minlength=n))
        for variable, column in (
            ("spm_unit_pre_subsidy_childcare_expenses", "e32800"),
            ("spm_unit_snap", "snap_ben"),
        )
    }
