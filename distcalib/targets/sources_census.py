"""Targets of the Census Bureau: residents by age, households, housing costs, state income tax.

Readers of raw files, as `distcalib.targets.sources_rows` describes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.targets.sources_rows import (
    ACS_FILE,
    check_states,
    digits,
    read_acs,
    read_csv,
    read_text,
    state_and_nation,
    with_sums,
)

_AGE_BANDS = 18
_CONTROLLED = -555555555  # the Census Bureau's mark of a value without sampling error


def age_bands(raw: Path) -> pd.DataFrame:
    """ACS S0101: residents by age band and in all, for nation, states and districts."""
    parts = []
    for level in ("national", "state", "district"):
        acs = read_acs(raw / ACS_FILE.format(table="S0101", level=level))
        cells = [f"S0101_C01_{i:03d}" for i in range(1, _AGE_BANDS + 2)]
        value = acs[[c + "E" for c in cells]].to_numpy(float)
        margin = acs[[c + "M" for c in cells]].to_numpy(float)
        lower = np.arange(_AGE_BANDS) * 5
        text = ["", *(f"age>={a}&age<{a + 5}" for a in lower[:-1]), f"age>={lower[-1]}"]
        n = len(acs)
        parts.append(
            pd.DataFrame(
                {
                    "geo_level": level,
                    "geographic_id": np.repeat(acs["geographic_id"].to_numpy(), len(cells)),
                    "constraints": np.tile(text, n),
                    "value": value.ravel(),
                    "moe": np.where(margin == _CONTROLLED, np.nan, margin).ravel(),
                    "concept": np.tile(["residents"] + ["residents by age"] * _AGE_BANDS, n),
                }
            )
        )
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(variable="person_count", period=2024, unit="persons", status="fit", key="acs_s0101")


def households(raw: Path) -> pd.DataFrame:
    """ACS S2201: all households, and households below poverty, by district; states and nation as sums.

    The median income stands beside them for districts, as a count of half of the households.
    """
    acs = read_acs(raw / ACS_FILE.format(table="S2201", level="district"))
    total = with_sums(acs, "S2201_C01_001").assign(
        constraints="",
        concept="households",
        status="fit",
        reason="",
    )
    poor = with_sums(acs, "S2201_C01_021").assign(
        constraints="in_poverty==True",
        concept="households below the official poverty line",
        status="check",
        reason="the Census counts official poverty of the householder's family (cash income, family "
        "thresholds); in_poverty of the rules is the supplemental measure, of any member",
    )
    # A median as a count: half of the households have less. Its own margin is in dollars, not households.
    middle = acs["S2201_C01_034E"].astype(float)
    median = acs[["geographic_id"]].assign(
        geo_level="district",
        value=acs["S2201_C01_001E"].astype(float) / 2,
        moe=np.nan,
        constraints="hud_annual_income<" + digits(middle, 0),
        concept="households below the median household income",
        status="check",
        reason="half of the households by definition of the median; the Census counts money income of the "
        "household before tax, hud_annual_income is the cash income of a resource unit, without retirement "
        "distributions and children's earnings, and a household counts when any unit of it is below",
        note="median of "
        + digits(middle, 0)
        + " dollars, 90 % margin "
        + digits(acs["S2201_C01_034M"].astype(float), 0),
    )
    rows = pd.concat([total, poor, median], ignore_index=True)
    return rows.assign(period=2024, key="acs_s2201", variable="household_count", unit="households")


def housing(raw: Path) -> pd.DataFrame:
    """ACS B25060 and B25090: contract rent and real estate taxes by state."""
    path = raw / "calibration_targets/acs_housing_costs_2024.csv"
    acs = read_csv(path, ["state_fips", "annual_contract_rent", "real_estate_taxes"])
    ids = acs["state_fips"].astype(int).astype(str)
    check_states(ids, path)
    rent = state_and_nation(ids, acs["annual_contract_rent"]).assign(
        variable="rent",
        concept="contract rent",
        key="acs_b25060",
    )
    tax = state_and_nation(ids, acs["real_estate_taxes"]).assign(
        variable="real_estate_taxes", concept="real estate taxes of owner-occupiers", key="acs_b25090"
    )
    rows = pd.concat([rent, tax], ignore_index=True)
    of_state = rows["geo_level"] == "state"
    rows["status"] = np.where(of_state, "check", "")
    rows["reason"] = np.where(
        of_state,
        "a clone keeps the housing costs of its donor's home state, so the sum over placed households is not "
        "the state's",
        "",
    )
    return rows.assign(period=2024, unit="dollars", constraints="")


def state_income_tax(raw: Path) -> pd.DataFrame:
    """Census STC: individual income tax collected by state, fiscal year 2024 (a transcription)."""
    path = raw / "calibration/raw_inputs/census_stc_individual_income_tax_2024.json"
    stc = pd.DataFrame(json.loads(read_text(path)))
    ids = stc["state_fips"].astype(int).astype(str)
    check_states(ids, path)
    rows = state_and_nation(ids, stc["income_tax_collections"]).assign(
        variable="state_income_tax",
        period=2024,
        unit="dollars",
        constraints="",
        concept="state individual income tax",
        key="census_stc",
        status="check",
        reason="collections of a fiscal year, not liability of a tax year; the file is a transcription "
        "rounded to millions that could not be compared with the published table",
    )
    zero = rows["value"] == 0
    rows.loc[zero, "status"] = "excluded"
    rows.loc[zero, "reason"] = "a zero: no relative error, and New Hampshire and Washington did collect some"
    return rows
