"""An example to begin with: the bundled households and official figures of 2024, as two plain tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.dashboard.tables import AGE_BANDS, household_table
from distcalib.geography.states import STATE_CODES
from distcalib.microdata import bundled_microdata
from distcalib.targets.sources import bundled_targets

SURVEY, TARGETS = "example_survey.csv", "example_targets.csv"
_AMOUNTS = ("rent", "real_estate_taxes")


def example() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a survey of 12,000 households and targets: persons by age and households, by state; two sums.

    Every household has the same weight, as if nothing was known but their number.
    """
    households = household_table(bundled_microdata())
    weight = households["household_weight"].astype(np.float64).mean()
    survey = pd.DataFrame(
        {
            "household_id": households["household_id"],
            "weight": round(float(weight), 2),
            "state": households["state_fips"].map(STATE_CODES),
            "tenure": households["tenure_type"].str.lower(),
            **{name: households[name] for name in households if name.startswith("persons")},
            "employment_income": households["employment_income_before_lsr"].round(),
            "real_estate_taxes": households["real_estate_taxes"].round(),
            "rent": households["pre_subsidy_rent"].round(),
        }
    )
    official = bundled_targets()
    official = official[(official["reform_id"] == 0) & (official["geo_level"] == "state")]
    state = pd.to_numeric(official["geographic_id"]).map(STATE_CODES)
    official = official.assign(state=state, constraints=official["constraints"].fillna(""))
    persons = official[official["variable"] == "person_count"]
    age = persons["constraints"].str.extract(r"^(?:age<\d+&)?age>=(\d+)$")[0].astype(float)
    parts = []
    for band, least, most in AGE_BANDS:
        rows = persons[(age >= least) & (age < most)].groupby("state", sort=True)["value"].sum()
        parts.append(_rows(f"persons_{band}", "persons by age", rows))
    whole = official[official["constraints"] == ""]
    counts = whole[whole["variable"] == "household_count"].groupby("state", sort=True)["value"].sum()
    parts.append(_rows("count", "households", counts))
    for name in _AMOUNTS:
        rows = whole[whole["variable"] == name]
        parts.append(
            pd.DataFrame({"variable": [name], "value": [rows["value"].sum()], "group": ["national sums"]})
        )
    return survey, pd.concat(parts, ignore_index=True)[["variable", "state", "value", "group"]]


def _rows(variable: str, group: str, values: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {"variable": variable, "state": values.index, "value": values.to_numpy(np.float64), "group": group}
    )
