"""The table of the public-use CPS dataset: which column of the source becomes which input, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SOI = "IRS Statistics of Income, Publication 1304, Table 1.4, tax year 2023"
SOI_ITEMISED = "IRS Statistics of Income, Publication 1304, Table 2.1, tax year 2023 (itemisers only)"


@dataclass(frozen=True)
class Input:
    """One input of policyengine-us that is written from the source.

    Attributes
    ----------
    kind
        ``income``, ``expense`` and ``receipt`` are money; ``fact`` is who or where somebody is.
    source, variable, entity, unit, rule, note
        Columns of the source, the input, its entity, its unit and how the one becomes the other.
    imputed
        True where the source itself, or this project, drew or inferred the value rather than asked for it.
    official, official_source
        The published total nearest in concept, in the same unit, and where it stands; None where there is
        none in hand.
    """

    kind: str
    source: str
    variable: str
    entity: str
    unit: str
    rule: str
    imputed: bool
    official: float | None = None
    official_source: str = ""
    note: str = ""


def _income(source: str, variable: str, rule: str, imputed: bool = False, **more: Any) -> Input:
    return Input("income", source, variable, "person", "USD", rule, imputed, **more)


def _expense(source: str, variable: str, rule: str, **more: Any) -> Input:
    # The source imputed every expense from tax returns or the Consumer Expenditure Survey.
    return Input("expense", source, variable, "person", "USD", rule, True, **more)


INPUTS: tuple[Input, ...] = (
    _income(
        "e00200p, e00200s",
        "employment_income_before_lsr",
        "head's and spouse's own",
        official=10_204.10e9,
        official_source=SOI,
        note="the sum e00200 is not used; dependants have no incomes in the source",
    ),
    _income(
        "e00900p, e00900s",
        "self_employment_income_before_lsr",
        "head's and spouse's own",
        official=530.380e9 - 153.441e9,
        official_source=SOI,
        note="gains and losses grow by different factors; the sum e00900 is not used",
    ),
    _income(
        "e02100p, e02100s",
        "farm_operations_income",
        "head's and spouse's own",
        note="Schedule F; farm_income of policyengine-us is Schedule J. The sum e02100 is not used",
    ),
    _income(
        "e00300", "taxable_interest_income", "to the head", True, official=313.813e9, official_source=SOI
    ),
    _income(
        "e00400", "tax_exempt_interest_income", "to the head", True, official=66.092e9, official_source=SOI
    ),
    _income(
        "e00650", "qualified_dividend_income", "to the head", True, official=336.070e9, official_source=SOI
    ),
    _income(
        "e00600 - e00650",
        "non_qualified_dividend_income",
        "to the head; e00600 contains e00650",
        True,
        official=504.225e9 - 336.070e9,
        official_source=SOI,
    ),
    _income(
        "e01100",
        "long_term_capital_gains_before_response",
        "to the head",
        True,
        official=966.168e9 - 29.355e9 + 9.341e9,
        official_source=SOI,
        note="the source's imputed gains in AGI stand in for gains; it has no Schedule D, so no losses",
    ),
    _income(
        "e01700",
        "taxable_private_pension_income",
        "to the elder of head and spouse",
        official=932.130e9,
        official_source=SOI,
        note="public pensions are not told apart",
    ),
    _income(
        "e01500 - e01700",
        "tax_exempt_private_pension_income",
        "to the elder of head and spouse; e01500 contains e01700",
        official=1_594.901e9 - 932.130e9,
        official_source=SOI,
        note="the official figure includes rollovers",
    ),
    _income(
        "e01400",
        "taxable_ira_distributions",
        "to the elder of head and spouse",
        True,
        official=438.148e9,
        official_source=SOI,
    ),
    _income(
        "e02400",
        "social_security_retirement",
        "62 or more; in halves where both head and spouse are",
    ),
    _income(
        "e02400",
        "social_security_disability",
        "18 to 61 and not (single and 60 or 61), to the elder of head and spouse",
    ),
    _income(
        "e02400",
        "social_security_survivors",
        "single and 60 or 61, or head under 18",
        note="widows with children and over 61 cannot be told apart",
    ),
    _income("e02300", "unemployment_compensation", "to the head", official=30.939e9, official_source=SOI),
    _income(
        "e00800", "alimony_income", "to the head", note="policyengine-us takes the divorce as before 2019"
    ),
    _expense(
        "e03270",
        "health_insurance_premiums",
        "to the one of head and spouse with more self-employment and farm income",
        note="the self-employed's premiums only; counts for the deduction with is_self_employed",
    ),
    _expense(
        "e03300",
        "self_employed_pension_contributions_desired",
        "to the one of head and spouse with more self-employment and farm income",
    ),
    _expense(
        "e03150",
        "traditional_ira_contributions_desired",
        "to the one of head and spouse with more earnings",
    ),
    _expense("e03210", "student_loan_interest", "to the head"),
    _expense(
        "e17500",
        "other_medical_expenses",
        "to the head",
        official=118.009e9,
        official_source=SOI_ITEMISED,
    ),
    _expense(
        "e18500",
        "real_estate_taxes",
        "to the head",
        official=370.014e9,
        official_source="US Census Bureau, ACS 2024 1-year, B25090 (owner-occupied homes)",
    ),
    _expense(
        "e19200",
        "home_mortgage_interest",
        "to the head",
        official=172.408e9,
        official_source=SOI_ITEMISED,
        note="the source gives it to 61 % of units",
    ),
    _expense(
        "e19800",
        "charitable_cash_donations",
        "to the head",
        official=211.975e9,
        official_source=SOI_ITEMISED,
        note="the official figure is cash and non-cash together",
    ),
    _expense(
        "e20100",
        "charitable_non_cash_donations",
        "to the head",
        note="a fixed share of the source's imputed giving",
    ),
    _expense(
        "e20400",
        "unreimbursed_business_employee_expenses",
        "to the head",
        note="the nearest input: federal law suspends it, some states deduct it",
    ),
    Input(
        "expense",
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
        "receipt",
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
    Input(
        "receipt",
        "ssi_ben",
        "ssi_reported",
        "person",
        "USD",
        "to the elder of head and spouse at 65 or more; else to the one who earns less, if below substantial "
        "gainful activity; else to the youngest dependant; else to the head",
        True,
        official=57e9,
        official_source="Congressional Budget Office, baseline projection of SSI outlays, FY2024",
        note="anchor of reported receipt: only use_reported_ssi (never set) makes a formula read it",
    ),
    Input(
        "fact",
        "age_head, age_spouse, nu06 ... n21",
        "age",
        "person",
        "years",
        "single years drawn in bands",
        True,
    ),
    Input(
        "fact",
        "MARS, age_spouse, counts",
        "tax_unit_role_input",
        "person",
        "enum",
        "HEAD, SPOUSE or DEPENDENT for everybody",
        False,
    ),
    Input(
        "fact",
        "blind_head, blind_spouse",
        "is_blind",
        "person",
        "bool",
        "head's and spouse's own; dependants no",
        False,
    ),
    Input(
        "fact",
        "ssi_ben, e02400",
        "is_disabled",
        "person",
        "bool",
        "receives SSI under 65, or Social Security disability benefits",
        True,
        note="the source has no disability question",
    ),
    Input(
        "fact",
        "ssi_ben",
        "meets_ssi_disability_criteria",
        "person",
        "bool",
        "receives SSI under 65",
        True,
        note="a proxy: without it the rules pay SSI to the aged only",
    ),
    Input(
        "fact",
        "EIC, counts",
        "is_full_time_college_student",
        "person",
        "bool",
        "dependants of 19 to 23 who count for the EITC",
        True,
    ),
    Input(
        "fact",
        "e00900, e02100",
        "is_self_employed",
        "person",
        "bool",
        "has self-employment or farm income",
        False,
    ),
    Input(
        "fact",
        "MARS",
        "is_separated",
        "person",
        "bool",
        "head of a unit that files separately (MARS 3)",
        False,
    ),
    Input(
        "fact",
        "DSI",
        "claimed_as_dependent_on_another_return",
        "person",
        "bool",
        "head of a unit with DSI 1",
        False,
    ),
    Input(
        "fact",
        "counts",
        "own_children_in_household",
        "person",
        "persons",
        "head's and spouse's: dependants under 18 in the tax unit",
        True,
        note="the source does not tell children from other dependants",
    ),
    Input(
        "fact",
        "h_seq",
        "is_household_head",
        "person",
        "bool",
        "head of the household's first tax unit",
        False,
    ),
    Input("fact", "fips", "state_fips", "household", "FIPS code", "as it stands", False),
    Input(
        "fact",
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
