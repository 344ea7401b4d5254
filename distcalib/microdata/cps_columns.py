"""From the columns of the public-use CPS to inputs of policyengine-us: one row of `INPUTS` for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

SOI = "IRS Statistics of Income, Publication 1304, Table 1.4, tax year 2023"
SOI_ITEMISED = "IRS Statistics of Income, Publication 1304, Table 2.1, tax year 2023 (itemisers only)"
SSA = "Social Security Administration, trust fund data 2024, apportioned by benefit type"


@dataclass(frozen=True)
class Input:
    """One input of policyengine-us that is written from the source.

    Attributes
    ----------
    source, variable, entity, unit, rule, note
        Columns of the source, the input, its entity, its unit and how the one becomes the other.
    imputed
        True where the source itself, or this project, drew or inferred the value rather than asked for it.
    official, official_source
        The published total nearest in concept, in the same unit, and where it stands; None where there is
        none in hand.
    """

    source: str
    variable: str
    entity: str
    unit: str
    rule: str
    imputed: bool
    official: float | None = None
    official_source: str = ""
    note: str = ""


def _usd(source: str, variable: str, rule: str, imputed: bool = False, **more: Any) -> Input:
    return Input(source, variable, "person", "USD", rule, imputed, **more)


INPUTS: tuple[Input, ...] = (
    _usd(
        "e00200p, e00200s",
        "employment_income_before_lsr",
        "head's and spouse's own",
        official=10_204.10e9,
        official_source=SOI,
        note="the sum e00200 is not used; dependants have no incomes in the source",
    ),
    _usd(
        "e00900p, e00900s",
        "self_employment_income_before_lsr",
        "head's and spouse's own",
        official=530.380e9 - 153.441e9,
        official_source=SOI,
        note="gains and losses grow by different factors; the sum e00900 is not used",
    ),
    _usd(
        "e02100p, e02100s",
        "farm_operations_income",
        "head's and spouse's own",
        note="Schedule F; farm_income of policyengine-us is Schedule J. The sum e02100 is not used",
    ),
    _usd(
        "e00300", "taxable_interest_income", "to the head", True, official=313.813e9, official_source=SOI
    ),
    _usd("e00400", "tax_exempt_interest_income", "to the head", True, official=66.092e9, official_source=SOI),
    _usd("e00650", "qualified_dividend_income", "to the head", True, official=336.070e9, official_source=SOI),
    _usd(
        "e00600 - e00650",
        "non_qualified_dividend_income",
        "to the head; e00600 contains e00650",
        True,
        official=504.225e9 - 336.070e9,
        official_source=SOI,
    ),
    _usd(
        "e01100",
        "long_term_capital_gains_before_response",
        "to the head",
        True,
        official=966.168e9 - 29.355e9 + 9.341e9,
        official_source=SOI,
        note="the source's imputed gains in AGI stand in for gains; it has no Schedule D, so no losses",
    ),
    _usd(
        "e01700",
        "taxable_private_pension_income",
        "to the elder of head and spouse",
        official=932.130e9,
        official_source=SOI,
        note="public pensions are not told apart",
    ),
    _usd(
        "e01500 - e01700",
        "tax_exempt_private_pension_income",
        "to the elder of head and spouse; e01500 contains e01700",
        official=1_594.901e9 - 932.130e9,
        official_source=SOI,
        note="the official figure includes rollovers",
    ),
    _usd(
        "e01400",
        "taxable_ira_distributions",
        "to the elder of head and spouse",
        True,
        official=438.148e9,
        official_source=SOI,
    ),
    _usd(
        "e02400",
        "social_security_retirement",
        "62 or more; in halves where both head and spouse are",
        official=1_060e9,
        official_source=SSA,
    ),
    _usd(
        "e02400",
        "social_security_disability",
        "18 to 61 and not (single and 60 or 61), to the elder of head and spouse",
        official=148e9,
        official_source=SSA,
    ),
    _usd(
        "e02400",
        "social_security_survivors",
        "single and 60 or 61, or head under 18",
        official=160e9,
        official_source=SSA,
        note="widows with children and over 61 cannot be told apart",
    ),
    _usd("e02300", "unemployment_compensation", "to the head", official=30.939e9, official_source=SOI),
    _usd("e00800", "alimony_income", "to the head", note="policyengine-us takes the divorce as before 2019"),
    _usd(
        "e03270",
        "health_insurance_premiums",
        "to the one of head and spouse with more self-employment and farm income",
        True,
        note="the self-employed's premiums only; counts for the deduction with is_self_employed",
    ),
    _usd(
        "e03300",
        "self_employed_pension_contributions_desired",
        "to the one of head and spouse with more self-employment and farm income",
        True,
    ),
    _usd(
        "e03150",
        "traditional_ira_contributions_desired",
        "to the one of head and spouse with more earnings",
        True,
    ),
    _usd("e03210", "student_loan_interest", "to the head", True),
    _usd(
        "e17500",
        "other_medical_expenses",
        "to the head",
        True,
        official=118.009e9,
        official_source=SOI_ITEMISED,
    ),
    _usd(
        "e18500",
        "real_estate_taxes",
        "to the head",
        True,
        official=370.014e9,
        official_source="US Census Bureau, ACS 2024 1-year, B25090 (owner-occupied homes)",
    ),
    _usd(
        "e19200",
        "home_mortgage_interest",
        "to the head",
        True,
        official=172.408e9,
        official_source=SOI_ITEMISED,
        note="the source gives it to 61 % of units: deductions are far too large",
    ),
    _usd(
        "e19800",
        "charitable_cash_donations",
        "to the head",
        True,
        official=211.975e9,
        official_source=SOI_ITEMISED,
        note="the official figure is cash and non-cash together",
    ),
    _usd(
        "e20100",
        "charitable_non_cash_donations",
        "to the head",
        True,
        note="a fixed share of the source's imputed giving",
    ),
    _usd(
        "e20400",
        "unreimbursed_business_employee_expenses",
        "to the head",
        True,
        note="the nearest input: federal law suspends it, some states deduct it",
    ),
    Input(
        "e32800",
        "spm_unit_pre_subsidy_childcare_expenses",
        "spm_unit",
        "USD",
        "sum over the tax units of the SPM unit",
        True,
        63.092e9,
        "BLS Consumer Expenditure Surveys 2024, CXU670320LB0101M",
        "the source gives at most $681 before ageing",
    ),
    Input(
        "snap_ben",
        "spm_unit_snap",
        "spm_unit",
        "USD",
        "sum over the tax units of the SPM unit",
        True,
        93.7e9,
        "USDA Food and Nutrition Service, fiscal year 2024",
        "anchor of reported receipt: no formula of policyengine-us reads it; amounts are of the income year",
    ),
    _usd(
        "ssi_ben",
        "ssi_reported",
        "to the elder of head and spouse at 65 or more; else to the one who earns less, if below substantial "
        "gainful activity; else to the youngest dependant; else to the head",
        True,
        official=57e9,
        official_source="Social Security Administration, SSI federal payments 2024",
        note="anchor of reported receipt: only use_reported_ssi (never set) makes a formula read it",
    ),
    Input("age_head, age_spouse, nu06 ... n21", "age", "person", "years", "single years drawn in bands", True),
    Input(
        "MARS, age_spouse, counts",
        "tax_unit_role_input",
        "person",
        "enum",
        "HEAD, SPOUSE or DEPENDENT for everybody",
        False,
    ),
    Input(
        "blind_head, blind_spouse", "is_blind", "person", "bool", "head's and spouse's own; dependants no", False
    ),
    Input(
        "ssi_ben, e02400",
        "is_disabled",
        "person",
        "bool",
        "receives SSI under 65, or Social Security disability benefits",
        True,
        note="the source has no disability question",
    ),
    Input(
        "ssi_ben",
        "meets_ssi_disability_criteria",
        "person",
        "bool",
        "receives SSI under 65",
        True,
        note="a proxy: without it the rules pay SSI to the aged only",
    ),
    Input(
        "EIC, counts",
        "is_full_time_college_student",
        "person",
        "bool",
        "dependants of 19 to 23 who count for the EITC",
        True,
    ),
    Input("e00900, e02100", "is_self_employed", "person", "bool", "has self-employment or farm income", False),
    Input("MARS", "is_separated", "person", "bool", "head of a unit that files separately (MARS 3)", False),
    Input("DSI", "claimed_as_dependent_on_another_return", "person", "bool", "head of a unit with DSI 1", False),
    Input(
        "counts",
        "own_children_in_household",
        "person",
        "persons",
        "head's and spouse's: dependants under 18 in the tax unit",
        True,
        note="the source does not tell children from other dependants",
    ),
    Input("h_seq", "is_household_head", "person", "bool", "head of the household's first tax unit", False),
    Input("fips", "state_fips", "household", "FIPS code", "as it stands", False),
    Input(
        "s006",
        "household_weight",
        "household",
        "households",
        "s006 / 100 of the first tax unit, scaled to the state's population of 2024",
        False,
        note="s006 is already averaged over the three years",
    ),
)

# Columns that are not written, and why; they stand in the table of sources without an input.
NOT_WRITTEN = {
    "e00200, e00900, e02100": "sums of the split columns",
    "e18400": "policyengine-us computes state and local taxes",
    "e03240": "domestic production deduction, repealed from 2018",
    "mcaid_ben, mcare_ben, tanf_ben, wic_ben, housing_ben": (
        "imputed receipt: the inputs that would hold it (receives_*) are read by eligibility formulas, so "
        "writing them would override the rules"
    ),
    "vet_ben, other_ben": "imputed per tax unit, not reported; veterans_benefits counts as income",
    "pencon_p, pencon_s": "zero throughout",
    "agi_bin, f2441": "derived by the source",
}


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
    """Give ssi_ben to one person a unit; the order of preference is in `INPUTS`."""
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
    minors = np.bincount(
        persons.unit[(persons.role == DEPENDENT) & (persons.age < 18)], minlength=len(table)
    )
    ssi_disabled = (money["ssi_reported"] > 0) & (persons.age < 65)
    return {
        "age": persons.age.astype(np.float64),
        "tax_unit_role_input": ROLES[persons.role],
        "is_blind": persons.blind,
        "is_disabled": ssi_disabled | (money["social_security_disability"] > 0),
        "meets_ssi_disability_criteria": ssi_disabled,
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
