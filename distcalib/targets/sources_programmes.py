"""Targets of benefit programmes: SNAP, Medicaid, the ACA premium tax credit.

Readers of raw files, as `distcalib.targets.sources_rows` describes them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.states import STATE_FIPS
from distcalib.targets.sources_rows import (
    ACS_FILE,
    area,
    check_states,
    claims_and_amounts,
    digits,
    read_acs,
    read_csv,
    state_and_nation,
    with_sums,
)


def snap(raw: Path) -> pd.DataFrame:
    """SNAP households and benefits by state (FNS), and households by district (ACS S2201, reconciled).

    One concept is fitted: households that the Food and Nutrition Service counts in an average month. ACS
    respondents report fewer (0.54 to 1.05 of the FNS count by state), so each state's district rows are
    scaled to its FNS count, margins with them; factor and published figure stand in the note.
    """
    path = raw / "calibration_targets/snap_state.csv"
    fns = read_csv(path, ["GEO_ID", "Households", "Cost"])
    fns["geographic_id"] = fns["GEO_ID"].str[-2:].astype(int).astype(str)
    check_states(fns["geographic_id"], path)
    counts = state_and_nation(fns["geographic_id"], fns["Households"])
    dollars = state_and_nation(fns["geographic_id"], fns["Cost"])

    acs = with_sums(read_acs(raw / ACS_FILE.format(table="S2201", level="district")), "S2201_C03_001")
    cd = acs[acs["geo_level"] == "district"].copy()
    state = (cd["geographic_id"].astype(int) // 100).astype(str)
    factor = state.map(fns.set_index("geographic_id")["Households"]) / cd["value"].groupby(state).transform(
        "sum"
    )
    cd["note"] = (
        "ACS S2201 publishes "
        + digits(cd["value"], 0)
        + " +- "
        + digits(cd["moe"], 0)
        + "; scaled by "
        + digits(factor, 6)
        + " so that the state's districts sum to its FNS count"
    )
    cd["value"], cd["moe"] = (cd["value"] * factor).round(2), (cd["moe"] * factor).round(2)
    counts = counts.assign(constraints="snap>0", concept="SNAP households", key="fns_snap")
    cd = cd.assign(constraints="snap>0", concept="SNAP households", key="acs_s2201_snap")
    count_rows = pd.concat([counts, cd], ignore_index=True).assign(
        variable="household_count", unit="households"
    )
    dollars = dollars.assign(
        variable="snap", unit="dollars", constraints="", concept="SNAP benefits", key="fns_snap"
    )
    return pd.concat([count_rows, dollars], ignore_index=True).assign(period=2024)


def medicaid(raw: Path) -> pd.DataFrame:
    """CMS: persons enrolled in Medicaid (without CHIP) by state in December 2024, final report.

    The final report gives Rhode Island no enrolment in that month; a state without a positive count takes its
    last earlier final month that has one, and the note says so.
    """
    path = raw / "calibration/raw_inputs/medicaid_enrollment_2024.csv"
    column, month = "Total Medicaid Enrollment", "Reporting Period"
    cms = read_csv(path, ["State Abbreviation", month, "Final Report", column])
    cms = cms[(cms[month] <= 202412) & (cms["Final Report"] == "Y") & (cms[column] > 0)]
    cms = cms.sort_values(month).drop_duplicates("State Abbreviation", keep="last")
    if (cms[month] < 202401).any():
        raise InputError("a state without enrolment in 2024", place=path)
    ids = cms["State Abbreviation"].map(STATE_FIPS).astype(int).astype(str)
    check_states(ids, path)
    earlier = cms.set_axis(ids)[month].loc[lambda m: m < 202412]
    note = "no count for December 2024 in the final report; the figure is of month " + earlier.astype(str)
    rows = state_and_nation(ids, cms[column])
    rows["note"] = rows["geographic_id"].map(note).fillna(rows["note"])
    return rows.assign(
        variable="person_count",
        period=2024,
        unit="persons",
        constraints="medicaid_enrolled==True",
        concept="Medicaid enrolment",
        key="cms_medicaid",
    )


def aca_credit(raw: Path) -> pd.DataFrame:
    """ACA premium tax credit by state: CMS (a month times twelve), and the tax returns of 2022."""
    path = raw / "calibration_targets/aca_spending_and_enrollment_2024.csv"
    cms = read_csv(path, ["state", "enrollment", "spending"])
    ids = cms["state"].map(STATE_FIPS).astype(int).astype(str)
    check_states(ids, path)
    persons = state_and_nation(ids, cms["enrollment"]).assign(
        variable="person_count",
        unit="persons",
        # The credit belongs to the tax unit; its members who pay a premium are what CMS enrols.
        constraints="aca_ptc>0&person_receives_aca==True",
        period=2024,
        key="cms_aca",
    )
    dollars = state_and_nation(ids, cms["spending"] * 12).assign(
        variable="assigned_aca_ptc",
        unit="dollars",
        constraints="",
        period=2024,
        key="cms_aca",
        note="published for a month; times 12",
    )
    old_path = raw / "calibration_targets/aca_ptc_state.csv"
    old = read_csv(old_path, ["GEO_ID", "Returns", "TotalPTCAmount"], comment="#")
    old_ids = old["GEO_ID"].map(area)
    check_states(old_ids, old_path)
    past = claims_and_amounts(old["Returns"], old["TotalPTCAmount"], old_ids, "aca_ptc").assign(
        period=2022,
        key="soi_state_2022_aca",
        status="excluded",
        reason="an older vintage: enrolment grew by about half from 2022 to 2024",
    )
    return pd.concat([persons, dollars, past], ignore_index=True).assign(concept="ACA premium tax credit")
