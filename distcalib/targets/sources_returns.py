"""Targets from income tax returns: adjusted gross income, income by source, tax, EITC.

Readers of raw files, as `distcalib.targets.sources_rows` describes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.targets.sources_rows import area, check_states, claims_and_amounts, digits, read_csv

FILER = "tax_unit_is_filer==1"
AGI = "adjusted gross income of filers"

# Published national totals of income tax returns (SOI name -> our variable), amounts in dollars. None of them
# is summed with another; a concept that the microdata do not hold says so and is excluded.
_ONE_RETIREMENT = (
    "only the sum of taxable pensions, annuities and IRA distributions is comparable, and it is a target: "
    "the source of the microdata divides them otherwise than returns do"
)
_SOI_AMOUNTS = {
    "employment_income": ("irs_employment_income", "wages and salaries on returns", ""),
    "taxable_interest_income": ("taxable_interest_income", "taxable interest on returns", ""),
    "exempt_interest": ("tax_exempt_interest_income", "tax-exempt interest on returns", ""),
    "ordinary_dividends": ("ordinary_dividend_income", "ordinary dividends on returns", ""),
    "qualified_dividends": ("qualified_dividend_income", "qualified dividends on returns", ""),
    "taxable_pension_income": (
        "taxable_pension_income",
        "taxable pensions and annuities on returns",
        _ONE_RETIREMENT,
    ),
    "ira_distributions": (
        "taxable_ira_distributions",
        "taxable IRA distributions on returns",
        _ONE_RETIREMENT,
    ),
    "taxable_social_security": ("taxable_social_security", "taxable Social Security on returns", ""),
    "taxable_income": ("taxable_income", "taxable income on returns", ""),
    "income_tax_before_credits": ("income_tax_before_credits", "federal income tax before credits", ""),
    "income_tax_after_credits": ("income_tax_positive", "federal income tax after credits", ""),
    "capital_gains_gross": (
        "net_capital_gains",
        "taxable net capital gains on returns",
        "the microdata have no Schedule D: capital gain distributions stand in for gains",
    ),
    "mortgage_interest_deductions": (
        "deductible_mortgage_interest",
        "home mortgage interest deducted by returns that itemise",
        "",
    ),
}
_SOI_NET = {
    ("business_net_profits", "business_net_losses"): (
        "total_self_employment_income",
        "business income less loss on returns (Schedule C)",
        "",
    ),
    ("partnership_and_s_corp_income", "partnership_and_s_corp_losses"): (
        "partnership_s_corp_income",
        "partnership and S corporation income less loss",
        "the microdata hold no partnership or S corporation income",
    ),
    ("rent_and_royalty_net_income", "rent_and_royalty_net_losses"): (
        "rental_income",
        "rent and royalty income less loss",
        "the microdata hold no rental income",
    ),
}


# Its count comes out with filing drawn, from others than those who stand on these returns.
_UNDER = ", under $1"
_LOSSES = (
    "such returns are mostly of business losses, which the microdata hardly hold: who files there in their "
    "stead is few in a state"
)


def agi_by_state(raw: Path) -> pd.DataFrame:
    """IRS SOI: returns and adjusted gross income by bracket and state, tax year 2022; the nation as sums."""
    path = raw / "calibration_targets/agi_state.csv"
    soi = read_csv(path, ["GEO_ID", "AGI_LOWER_BOUND", "AGI_UPPER_BOUND", "VALUE", "IS_COUNT"])
    lower, upper = soi["AGI_LOWER_BOUND"], soi["AGI_UPPER_BOUND"]
    at_least = np.where(np.isfinite(lower), "adjusted_gross_income>=" + digits(lower, 0), "")
    below = np.where(np.isfinite(upper), "adjusted_gross_income<" + digits(upper, 0), "")
    both = np.where((at_least != "") & (below != ""), "&", "")
    soi["constraints"] = at_least + both + below + "&" + FILER
    soi["concept"] = AGI + np.select(
        [~np.isfinite(lower), ~np.isfinite(upper)], [_UNDER, ", $1,000,000 and more"], ""
    )
    soi["geographic_id"] = soi["GEO_ID"].map(area)
    check_states(pd.Series(soi["geographic_id"].unique()), path)
    keys = ["constraints", "concept", "IS_COUNT"]
    nation = soi.groupby(keys, as_index=False)["VALUE"].sum().assign(geo_level="national", geographic_id="US")
    rows = pd.concat([soi.assign(geo_level="state"), nation], ignore_index=True)
    count = rows["IS_COUNT"] == 1
    stand_in = count & (rows["concept"] == AGI + _UNDER)
    return pd.DataFrame(
        {
            "variable": np.where(count, "tax_unit_count", "adjusted_gross_income"),
            "unit": np.where(count, "tax units", "dollars"),
            "value": rows["VALUE"].astype(float),
            "period": 2022,
            "note": np.where(rows["geo_level"] == "national", "sum of the states", ""),
            "key": "soi_state_2022_agi",
            "status": np.where(stand_in, "check", ""),
            "reason": np.where(stand_in, _LOSSES, ""),
        }
    ).join(rows[["geo_level", "geographic_id", "constraints", "concept"]])


def returns_national(raw: Path) -> pd.DataFrame:
    """IRS SOI Publication 1304: national totals of tax year 2023, all returns."""
    path = raw / "calibration_targets/soi_targets.csv"
    soi = read_csv(
        path, ["Year", "SOI table", "Variable", "Filing status", "Count", "Full population", "Value"]
    )
    soi = soi[(soi["Year"] == 2023) & (soi["Filing status"] == "All") & soi["Full population"]]
    amount = soi[~soi["Count"]].set_index("Variable")["Value"].astype(float)
    single = pd.DataFrame(
        [(v, c, why, amount[name]) for name, (v, c, why) in _SOI_AMOUNTS.items()],
        columns=["variable", "concept", "reason", "value"],
    )
    net = pd.DataFrame(
        [(v, c, why, amount[plus] - amount[minus]) for (plus, minus), (v, c, why) in _SOI_NET.items()],
        columns=["variable", "concept", "reason", "value"],
    ).assign(note="profits less losses, published in two columns")
    retirement = pd.DataFrame(
        {
            "variable": ["taxable_pension_income+taxable_ira_distributions"],
            "concept": "taxable pensions, annuities and IRA distributions on returns",
            "value": amount["taxable_pension_income"] + amount["ira_distributions"],
            "status": "",
            "reason": "",
            "key": "soi_14_2023",
        }
    )
    brackets = "the total of the brackets, which stand in the table one by one (tax year 2022, by state)"
    all_returns = pd.DataFrame(
        {
            "variable": ["adjusted_gross_income", "tax_unit_count"],
            "concept": AGI,
            "value": [
                amount["adjusted_gross_income"],
                float(soi.query("Variable == 'count'")["Value"].iloc[0]),
            ],
            "status": "check",
            "reason": brackets,
            "key": "soi_11_2023",
        }
    )
    rows = pd.concat([single, net], ignore_index=True)
    rows["status"] = np.select(
        [rows["reason"] == "", rows["reason"] == _ONE_RETIREMENT], ["", "check"], "excluded"
    )
    rows["key"] = "soi_14_2023"
    itemisers = soi[soi["Count"] & (soi["Variable"] == "itemized_deductions")]["Value"]
    itemising = pd.DataFrame(
        {
            "variable": ["tax_unit_count"],
            "concept": "returns that itemise deductions",
            "value": float(itemisers.iloc[0]),
            "status": "",
            "reason": "",
            "key": "soi_12_2023",
        }
    )
    rows = pd.concat([rows, retirement, all_returns, itemising], ignore_index=True)
    rows["unit"] = np.where(rows["variable"] == "tax_unit_count", "tax units", "dollars")
    itemise = rows["variable"].eq("deductible_mortgage_interest") | rows["key"].eq("soi_12_2023")
    rows["constraints"] = np.where(itemise, FILER + "&tax_unit_itemizes==True", FILER)
    return rows.assign(geo_level="national", geographic_id="US", period=2023)


def eitc(raw: Path) -> pd.DataFrame:
    """IRS: earned income credit by state, tax year 2024; the 2022 tables stand beside it, not fitted."""
    path = raw / "calibration_targets/eitc_claim_controls.csv"
    claims = read_csv(path, ["GEO_ID", "Returns", "Amount"], comment="#")
    claims = claims[claims["GEO_ID"] != "INTL"]
    ids = claims["GEO_ID"].map(area)
    check_states(ids[ids != "US"], path)
    older_path = raw / "calibration_targets/eitc_state.csv"
    older = read_csv(older_path, ["GEO_ID", "Returns", "Amount"], comment="#")
    older_ids = older["GEO_ID"].map(area)
    check_states(older_ids, older_path)
    current = claims_and_amounts(claims["Returns"], claims["Amount"], ids, "eitc").assign(
        period=2024, key="irs_eitc_2024"
    )
    past = claims_and_amounts(older["Returns"], older["Amount"], older_ids, "eitc").assign(
        period=2022,
        key="soi_state_2022_eitc",
        status="excluded",
        reason="an older vintage: tax year 2024 of the same quantity is in the table",
    )
    by_children = read_csv(
        raw / "calibration_targets/eitc_by_agi_and_children.csv",
        ["count_children", "returns", "amount"],
        comment="#",
    )
    sums = by_children.groupby("count_children")[["returns", "amount"]].sum()
    children = pd.Series(sums.index.astype(str), sums.index)
    most = children.index == children.index.max()
    relation = children.where(~most, ">=" + children).where(most, "==" + children)
    child = "eitc_child_count" + relation
    counts = pd.DataFrame({"value": sums["returns"], "constraints": "eitc>0&" + child})
    amounts = pd.DataFrame({"value": sums["amount"], "constraints": child})
    split = pd.concat(
        [
            counts.assign(variable="tax_unit_count", unit="tax units"),
            amounts.assign(variable="eitc", unit="dollars"),
        ],
        ignore_index=True,
    )
    split = split.assign(
        geo_level="national",
        geographic_id="US",
        period=2022,
        status="check",
        reason="tax year 2022: its total (60.1 bn) is not the one fitted (tax year 2024)",
        key="soi_25_2022",
    )
    return pd.concat([current, past, split], ignore_index=True).assign(concept="earned income credit")
