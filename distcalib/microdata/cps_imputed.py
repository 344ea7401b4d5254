"""What the public-use CPS lacks, imputed by stated, seeded, simple rules; each can be switched off.

A rule reads columns that are already inputs, never a simulated result. Its draws are keyed by the id of the
unit in the source, so that they do not depend on the sample. A constant that no source gives is chosen
so that one official total is met, or assumed; which, is said beside each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.microdata.cps_inputs import INPUTS, Input
from distcalib.microdata.cps_rake import official
from distcalib.microdata.model import Microdata
from distcalib.random import uniform

Array = NDArray[np.float64]
Columns = dict[str, NDArray]

# Rent rises with income and with the size of the household by these powers (assumed), from a floor of income.
RENT_BY_INCOME, RENT_BY_PERSONS, LEAST_INCOME = 0.35, 0.2, 10_000.0
# Share of the source's imputed mortgage interest that is kept: found by trial so that simulated itemisers are
# near SOI's 15.1 million (Publication 1304, Table 1.2, tax year 2023); the data check has the row.
MORTGAGE_INTEREST_KEPT = 0.6
# Share of owner-occupied homes with a mortgage (American Community Survey, table DP04), to one digit.
MORTGAGED = 0.6
# Persons under 65 with employer coverage, March 2023
# (Peterson-KFF Health System Tracker, analysis of the CPS ASEC, December 2023).
EMPLOYER_COVERED = 0.604
DEPENDANT_COVERED_UNDER = 26

WAGES = "employment_income_before_lsr"


def impute(data: Microdata, names: tuple[str, ...], seed: int) -> Microdata:
    """Return the data with the inputs of some imputations added or replaced, in the order of `IMPUTATIONS`.

    Parameters
    ----------
    data
        All households of the source, weighted.
    names
        Keys of `IMPUTATIONS`.
    seed
        Seed of the draws.

    Raises
    ------
    InputError
        For an unknown name.
    """
    for name in names:
        if name not in IMPUTATIONS:
            raise InputError("no such imputation", place="without", value=name, choices=IMPUTATIONS)
    for name, rule in IMPUTATIONS.items():
        if name in names:
            data = data.with_columns(rule(data, seed))
    return data


def mortgage_interest(data: Microdata, seed: int) -> Columns:
    """Keep a part of the mortgage interest of some tax units: the source gives it to nearly every owner."""
    unit = data.links["tax_unit"]
    keeps = uniform(seed, "cps/mortgage", data.ids["tax_unit"]) < MORTGAGED
    interest = np.rint(
        np.where(keeps[unit], data.column("home_mortgage_interest"), 0) * MORTGAGE_INTEREST_KEPT
    )
    spm = data.links["spm_unit"]
    payments = np.bincount(spm, weights=interest, minlength=data.count("spm_unit"))
    return {"home_mortgage_interest": interest, "mortgage_payments": payments}


def rent(data: Microdata, seed: int) -> Columns:
    """Households without real estate tax or mortgage interest rent; each state's rents sum to ACS B25060.

    Rent goes by income ** 0.35 and persons ** 0.2 within a state. In a household of several SPM units each
    pays its share by persons. Owners and renters pay for heating or cooling, which gives the standard utility
    allowance of SNAP.
    """
    del seed
    home = data.links["household"]
    taxes = sum_by_household(data, data.column("real_estate_taxes"))
    interest = sum_by_household(data, data.column("home_mortgage_interest"))
    renter = (taxes + interest) == 0
    persons = sum_by_household(data, np.ones(len(home)))
    income = np.maximum(sum_by_household(data, money_income(data)), LEAST_INCOME)
    shape = np.where(renter, income**RENT_BY_INCOME * persons**RENT_BY_PERSONS, 0.0)
    state = data.column("state_fips").astype(np.int64)
    wanted = official("contract rent")
    sums = np.bincount(state, weights=data.weights * shape, minlength=100)
    scale = np.zeros(100)
    scale[wanted.index] = wanted.to_numpy() / sums[wanted.index]
    rents = shape * scale[state]
    spm = data.links["spm_unit"]
    size = np.bincount(spm, minlength=data.count("spm_unit"))
    first = np.unique(spm, return_index=True)[1]
    of_person = np.zeros(len(home))
    of_person[first] = np.rint(rents[home[first]] * size / persons[home[first]])
    owner_kind = np.where(interest > 0, 1, 2)
    kind = np.where(renter, 0, owner_kind)
    tenure = np.array([b"RENTED", b"OWNED_WITH_MORTGAGE", b"OWNED_OUTRIGHT"])
    spm_tenure = np.array([b"RENTER", b"OWNER_WITH_MORTGAGE", b"OWNER_WITHOUT_MORTGAGE"])
    return {
        "pre_subsidy_rent": of_person,
        "tenure_type": tenure[kind],
        "spm_unit_tenure_type": spm_tenure[kind[home[first]]],
        "heating_cooling_expense": np.full(len(size), HEATING_AND_COOLING),
    }


# Assumed; programmes read only whether it is paid.
HEATING_AND_COOLING = 2_400.0


def employer_coverage(data: Microdata, seed: int) -> Columns:
    """Draw who is covered by an employer's health plan.

    A worker under 65 with wages y is covered in own name with probability 1 - exp(-y / c), and spouse and
    dependants under 26 with them; c is solved so that 60.4 % of persons under 65 are covered.
    """
    age, role = data.column("age"), data.column("tax_unit_role_input")
    wages, unit = data.column(WAGES).astype(np.float64), data.links["tax_unit"]
    weight = data.weights[data.links["household"]]
    young, worker = age < 65, (wages > 0) & (age < 65)
    joins = young & ((role != b"DEPENDENT") | (age < DEPENDANT_COVERED_UNDER))

    def expected(scale: float) -> float:
        none = np.zeros(data.count("tax_unit"))
        np.add.at(none, unit, np.where(worker, -wages / scale, 0.0))
        covered = np.where(joins, 1 - np.exp(none[unit]), 0.0)
        return float(weight[young] @ covered[young] / weight[young].sum())

    draw = uniform(seed, "cps/employer_coverage", data.ids["person"])
    own = worker & (draw < 1 - np.exp(-wages / solve(expected, EMPLOYER_COVERED)))
    insured = np.bincount(unit[own], minlength=data.count("tax_unit")) > 0
    return {"has_esi": own | (joins & insured[unit])}


def solve(share: Callable[[float], float], wanted: float) -> float:
    """Return the scale in dollars, between 1e2 and 1e7, at which a share falling in it is `wanted`."""
    low, high = np.log(1e2), np.log(1e7)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(float(np.exp(middle))) > wanted else (low, middle)
    # To three digits, so that the last bits of a sum never reach the file.
    return float(f"{np.exp(low):.3g}")


def ssi_disability(data: Microdata, seed: int) -> Columns:
    """Persons under 65 with reported SSI meet its disability criteria (the source has no disability)."""
    del seed
    disabled = (data.column("ssi_reported") > 0) & (data.column("age") < 65)
    return {"meets_ssi_disability_criteria": disabled}


def sum_by_household(data: Microdata, values: NDArray) -> Array:
    """Sum values of persons over households, float64, shape (n households,)."""
    home = data.links["household"]
    return np.bincount(home, weights=values.astype(np.float64), minlength=data.count()).astype(np.float64)


def money_income(data: Microdata) -> Array:
    """Return the money income of persons of all mapped kinds, dollars, shape (n persons,)."""
    incomes = [data.column(i.variable) for i in INPUTS if i.kind == "income"]
    return np.asarray(np.sum(incomes, axis=0), dtype=np.float64)


IMPUTATIONS: dict[str, Callable[[Microdata, int], Columns]] = {
    "mortgage_interest": mortgage_interest,
    "rent": rent,
    "employer_coverage": employer_coverage,
    "ssi_disability": ssi_disability,
}

# Columns of the source that an imputation changes, and how.
CHANGED = {
    "mortgage_interest": (
        "home_mortgage_interest",
        f"; kept for {MORTGAGED:.0%} of units that have it, and {MORTGAGE_INTEREST_KEPT:.0%} of the amount",
    )
}

# What the rules write beside columns that the source holds itself.
IMPUTED_INPUTS: tuple[Input, ...] = (
    Input(
        "expense",
        "imputation rent",
        "pre_subsidy_rent",
        "person",
        "USD",
        "no real estate tax and no mortgage interest: rents; income ** 0.35 x persons ** 0.2 within a state",
        True,
        float(official("contract rent").sum()),
        "US Census Bureau, ACS 2024 1-year, B25060 (contract rent), by state",
        "to the first person of the SPM unit",
    ),
    Input(
        "fact",
        "imputation rent",
        "tenure_type",
        "household",
        "enum",
        "rented, owned with mortgage (interest above 0) or owned outright",
        True,
    ),
    Input("fact", "imputation rent", "spm_unit_tenure_type", "spm_unit", "enum", "as tenure_type", True),
    Input(
        "expense",
        "imputation rent",
        "heating_cooling_expense",
        "spm_unit",
        "USD",
        f"${HEATING_AND_COOLING:,.0f} for everybody: only whether it is paid matters to SNAP",
        True,
    ),
    Input(
        "expense",
        "imputation mortgage_interest",
        "mortgage_payments",
        "spm_unit",
        "USD",
        "the interest kept; principal is not known",
        True,
    ),
    Input(
        "fact",
        "imputation employer_coverage",
        "has_esi",
        "person",
        "bool",
        "drawn by wages, with spouse and dependants under 26, to 60.4 % of persons under 65",
        True,
        164.7e6,
        "KFF, analysis of the CPS ASEC of March 2023 (persons under 65)",
    ),
)
