"""Contradictions that a table of targets shows by itself: between its levels, sets, periods and variables.

Each check takes comparable rows (`distcalib.targets.comparable`) and returns findings, one row an area.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.targets.comparable import COUNT_NAMES, narrower
from distcalib.targets.families import placed, sums_of_parts

COLUMNS = [
    "kind", "severity", "variable", "constraints", "reform_id", "period", "geo_level", "geographic_id",
    "target_ids", "value", "against", "ratio", "margin", "compared_with", "why",
]  # fmt: skip
QUANTITY = ["variable", "constraints", "reform_id", "period"]
AREA = ["geo_level", "geographic_id"]

# Where no margin of error is published, figures of one thing may differ by this much: agencies round (the
# IRS gives the EITC of big states to 0.1 bn of 69.6), and 0.5 % covers a subset of its superset.
APART = 0.01
ABOVE = 0.005
# Two concepts of one variable, or two vintages, that differ by more than this are no longer one target.
CONCEPT = (0.8, 1.25)
# One of twelve months, with room for enrolment that changes in the year; and the year taken for a month.
MONTH = ((0.06, 0.115), (8.7, 16.0))
# Thousands taken for ones: figures of the same thing differ by less than two besides, areas' figures a
# resident (the middle area's beside one's own) by less than three.
THOUSAND = ((1 / 2000, 1 / 500), (500.0, 2000.0))
THOUSAND_A_HEAD = ((1 / 3000, 1 / 333), (333.0, 3000.0))

# These may be negative, so that a part may exceed its whole.
_SIGNED = (
    r"adjusted_gross_income|self_employment|partnership|rental|farm|capital_gain|capital_loss|(?:^|\+)net_"
    r"|^income_tax$|state_income_tax|estate_income|business_income"
)


@cache
def finding_kinds() -> pd.DataFrame:
    """Return the kinds of findings: severity, what they compare, why they matter; indexed by kind."""
    return _bundled("finding_kinds.csv").set_index("kind")


@cache
def parts_of_wholes() -> pd.DataFrame:
    """Return whole, part (variables) and whether a whole's parts exclude each other (yes, no)."""
    return _bundled("parts.csv")


def _bundled(name: str) -> pd.DataFrame:
    return pd.read_csv(str(resources.files("distcalib.targets").joinpath("bundled", name)))


def found(kind: str, at: pd.DataFrame) -> pd.DataFrame:
    """Return rows as findings of a kind: `at` has the quantity, its area and its figures if it has some."""
    of = finding_kinds().loc[kind]
    out = at.assign(kind=kind, severity=of["severity"], why=of["why"]).reset_index(drop=True)
    if "target_ids" not in out:
        out["target_ids"] = ids(out, "target_id")
    for name in ("value", "against", "margin"):
        out[name] = out[name].astype(float) if name in out else np.nan
    out["ratio"] = out["value"] / out["against"].where(out["against"] != 0)
    if "compared_with" not in out:
        out["compared_with"] = ""
    return out[COLUMNS]


def ids(table: pd.DataFrame, *columns: str) -> pd.Series:
    """Return target ids (or lists of them) as one text a row."""
    out = table[columns[0]].astype(str)
    for name in columns[1:]:
        out = out + " " + table[name].astype(str)
    return out


def never_negative(variable: pd.Series) -> pd.Series:
    """Where a variable is a count or an amount that cannot be negative."""
    return ~variable.str.contains(_SIGNED, regex=True)


def is_month(ratio: pd.Series) -> pd.Series:
    """Where one figure is near a twelfth of the other, or twelve times it."""
    return ratio.between(*MONTH[0]) | ratio.between(*MONTH[1])


def is_thousand(ratio: pd.Series, bands: tuple = THOUSAND) -> pd.Series:
    """Where one figure is near a thousandth of the other, or a thousand times it."""
    return ratio.between(*bands[0]) | ratio.between(*bands[1])


def allowed(value: pd.Series, share: float, one: pd.Series, other: pd.Series) -> pd.Series:
    """Return how far two figures may be apart: their combined margins of error, or a share of the value."""
    combined = np.hypot(one.fillna(0), other.fillna(0))
    return combined.where(combined > share * value.abs(), share * value.abs())


def rows_by_themselves(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Find rows that are wrong without another: unreadable, unknown, without value, negative, zero, twice."""
    known = set(catalogue().variables) | set(COUNT_NAMES)
    single = rows[["target_id", "variable"]].assign(one=rows["variable"].str.split("+")).explode("one")
    lost = set(single.loc[~single["one"].isin(known), "target_id"])
    unknown = rows["target_id"].isin(lost)
    added = ~unknown & ~rows["variable"].isin(known)
    twice = rows.duplicated([*QUANTITY, *AREA], keep=False) & (rows["geo_level"] != "unreadable")
    first = rows[twice].groupby([*QUANTITY, *AREA])["value"].transform("first")
    repeated = rows[twice].assign(against=first, compared_with="the first of them")
    again = repeated.duplicated([*QUANTITY, *AREA])
    signless = never_negative(rows["variable"])
    unreadable = rows[rows["unreadable"] != ""]
    monthly = {name for name, v in catalogue().variables.items() if v.definition_period == "month"}
    named = rows["constraints"].str.extractall(r"([A-Za-z_]\w*)(?=[<>=!]| in )")[0]
    in_month = rows.index.isin(named[named.isin(monthly)].index.get_level_values(0))
    in_month &= rows["variable"].isin(COUNT_NAMES)
    return [
        found("unreadable", unreadable.assign(compared_with=unreadable["unreadable"])),
        found("unknown variable", rows[unknown]),
        found("sum of variables", rows[added]),
        found("no value", rows[rows["value"].isna()]),
        found("negative", rows[signless & (rows["value"] < 0)]),
        found("zero", rows[signless & (rows["value"] == 0)]),
        found("stands twice", repeated[again]),
        found("average month", rows[in_month]),
    ]  # fmt: skip


def areas(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Find areas that do not exist, are spelled otherwise, or are missing from a level."""
    whole = {
        "state": {str(fips) for fips in STATE_CODES},
        "district": set(districts()["cd_geoid"].astype(str)),
    }
    out = []
    for level, expected in whole.items():
        here = rows[rows["geo_level"] == level]
        stranger = ~here["geographic_id"].isin(expected)
        out.append(found("unknown area", here[stranger]))
        there = here[~stranger].groupby(QUANTITY)["geographic_id"].unique()
        short = there[there.map(len) < len(expected)].reset_index()
        names = short["geographic_id"].map(lambda have, every=expected: sorted(every - set(have), key=int))
        short = short.assign(
            value=short["geographic_id"].map(len), against=len(expected), geo_level=level, geographic_id="",
            compared_with="missing " + names.map(lambda n: " ".join(n[:12]) + " ..." * (len(n) > 12)),
            target_ids="",
        )  # fmt: skip
        out.append(found("incomplete", short))
    otherwise = rows[(rows["spelled"] != "") & (rows["spelled"] != rows["geographic_id"])]
    otherwise = otherwise.assign(compared_with="spelled " + otherwise["spelled"])
    out.append(found("area spelled otherwise", otherwise))
    return out


def levels(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Compare districts with their state, states with the nation, and districts with the nation."""
    rows = placed(rows)
    parts = rows.assign(square=rows["moe"] ** 2, ids=rows["target_id"].astype(str))
    sums = sums_of_parts(parts, QUANTITY, districts()["cd_geoid"], ids=("ids", " ".join))
    of = [*QUANTITY, "above", "whole"]
    both = rows.merge(sums, left_on=[*QUANTITY, "level", "area"], right_on=of)
    # Districts are held against the nation only where no state stands between.
    stated = pd.MultiIndex.from_frame(rows.loc[rows["level"] == 1, QUANTITY])
    both = both[(both["below"] - both["above"] == 1) | ~pd.MultiIndex.from_frame(both[QUANTITY]).isin(stated)]
    what = both["below"].map({1: "states", 2: "districts"})
    off = _off_its_total(both, both["complete"], "value: sum of " + what + "; against: the area's own figure")
    ratio = off["value"] / off["against"]
    month, thousand = is_month(ratio), is_thousand(ratio)
    return [
        found("levels disagree", off[~month & ~thousand]),
        found("looks monthly", off[month]),
        found("looks thousandfold", off[thousand]),
    ]


def _off_its_total(both: pd.DataFrame, sure: pd.Series, compared_with: pd.Series) -> pd.DataFrame:
    """Return rows whose parts' total differs: either way where `sure`, beyond it if none may be negative."""
    margin = allowed(both["value"], APART, both["moe"], np.sqrt(both["square"]))
    excess = both["total"] - both["value"]
    bad = (sure & (excess.abs() > margin)) | (never_negative(both["variable"]) & (excess > margin))
    return both.assign(
        against=both["value"], value=both["total"], margin=margin, compared_with=compared_with,
        target_ids=ids(both, "target_id", "ids"),
    )[bad]  # fmt: skip


def nested_sets(rows: pd.DataFrame, bounds: pd.DataFrame) -> list[pd.DataFrame]:
    """Find a stricter set of constraints whose figure exceeds the wider one's in the same area, period."""
    rows = rows[never_negative(rows["variable"])]
    pairs = narrower(bounds, rows["constraints"].drop_duplicates())
    key = ["variable", "reform_id", "period", *AREA]
    both = rows.merge(pairs, left_on="constraints", right_on="narrow").merge(
        rows, left_on=[*key, "wide"], right_on=[*key, "constraints"], suffixes=("", "_wide")
    )
    margin = allowed(both["value_wide"], ABOVE, both["moe"], both["moe_wide"])
    both = both.assign(
        against=both["value_wide"], margin=margin, compared_with="[" + both["wide"] + "]",
        target_ids=ids(both, "target_id", "target_id_wide"),
    )[both["value"] - both["value_wide"] > margin]  # fmt: skip
    return [found("subset above its set", both)]


def bands(rows: pd.DataFrame, bounds: pd.DataFrame) -> list[pd.DataFrame]:
    """Compare the sum of disjoint bands of a variable (age, income) with the total that they divide."""
    key = ["variable", "reform_id", "period", *AREA, "rest", "band"]
    part = rows.merge(bounds[bounds["words"] == ""].rename(columns={"variable": "band"}), on="constraints")
    part = part.drop_duplicates([*key, "lo", "hi"]).sort_values([*key, "lo", "hi"], ascending=True)
    # A band that holds another one is a total of its own; what is left must not overlap.
    back = part.iloc[::-1]
    smallest_after = (
        back.groupby(key)["hi"].cummin().groupby([back[k] for k in key]).shift().reindex(part.index)
    )
    part = part[~(smallest_after <= part["hi"])]
    grouped = part.groupby(key)
    end = grouped["hi"].cummax().groupby([part[k] for k in key]).shift()
    part = part.assign(gap=part["lo"] - end, square=part["moe"] ** 2, ids=part["target_id"].astype(str))
    summed = part.groupby(key).agg(
        total=("value", "sum"), square=("square", "sum"), n=("value", "size"), least=("gap", "min"),
        most=("gap", "max"), first=("lo", "min"), last=("hi", "max"), ids=("ids", " ".join),
    ).query("n > 1 and not least <= 0")  # fmt: skip
    both = summed.reset_index().merge(
        rows, left_on=[*key[:-2], "rest"], right_on=[*key[:-2], "constraints"], suffixes=("", "_whole")
    )
    covers = (both["most"] <= 1) & (both["first"] <= 0) & np.isinf(both["last"])
    off = _off_its_total(
        both, covers, "value: " + ids(both, "n") + " bands of " + both["band"] + "; against: the total"
    )
    return [found("bands disagree", off)]


def vintages(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Find one quantity with two figures in the same area: two periods, or filers and everybody far apart."""
    key = ["variable", "constraints", "reform_id", *AREA]
    ordered = rows.sort_values(["period", "target_id"])
    grouped = ordered.groupby(key)
    several = ordered[(grouped["period"].transform("nunique") > 1) & ~ordered.duplicated(key, keep="last")]
    oldest = ordered.drop_duplicates(key).set_index(key)[["value", "period", "target_id"]]
    both = several.join(oldest.add_suffix("_old"), on=key)
    both = both.assign(
        against=both["value_old"], compared_with="period " + both["period_old"].astype(str),
        target_ids=ids(both, "target_id", "target_id_old"),
    )  # fmt: skip
    month = is_month(both["value"] / both["against"])
    filers = rows[rows["everybody"] != rows["constraints"]]
    two = filers.merge(
        rows, left_on=["variable", "everybody", "reform_id", *AREA],
        right_on=["variable", "constraints", "reform_id", *AREA], suffixes=("", "_all"),
    )  # fmt: skip
    far = two[~(two["value"] / two["value_all"]).between(*CONCEPT)]
    far = far.assign(
        against=far["value_all"], compared_with="the same without the condition of filing",
        target_ids=ids(far, "target_id", "target_id_all"),
    )  # fmt: skip
    return [
        found("two periods", both[~month]),
        found("looks monthly", both[month]),
        found("two concepts", far),
    ]  # fmt: skip


def wholes_and_parts(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Find a total below one of its parts, or below the sum of parts that exclude each other."""
    plain = rows.assign(whole=rows["variable"].str.split("+"))
    # A sum of variables is a bound only where none of them may be negative.
    plain = plain[
        ~rows["variable"].str.contains("+", regex=False) | never_negative(rows["variable"])
    ].explode("whole")
    itself = plain.loc[plain["variable"].str.contains("+", regex=False), "whole"].drop_duplicates()
    table = pd.concat([parts_of_wholes(), pd.DataFrame({"whole": itself, "part": itself, "disjoint": "no"})])
    key = ["reform_id", "period", *AREA]
    parts = rows.assign(part=rows["variable"], bare=rows["everybody"])
    both = plain.merge(table, on="whole").merge(parts, on=[*key, "part"], suffixes=("", "_part"))
    same = both["constraints"].eq(both["constraints_part"]) | both["constraints"].eq(both["bare"])
    both = both[same & (both["target_id"] != both["target_id_part"])].drop_duplicates(
        ["target_id", "target_id_part"]
    )
    margin = allowed(both["value"], ABOVE, both["moe"], both["moe_part"])
    below = both.assign(
        against=both["value_part"], margin=margin,
        compared_with=both["variable_part"] + " [" + both["constraints_part"] + "]",
        target_ids=ids(both, "target_id", "target_id_part"),
    )[both["value_part"] - both["value"] > margin]  # fmt: skip
    apart = both[both["disjoint"] == "yes"].assign(ids=both["target_id_part"].astype(str))
    summed = apart.groupby("target_id").agg(
        sum=("value_part", "sum"), n=("part", "nunique"), ids=("ids", " ".join)
    )
    over = rows.join(summed, on="target_id", how="inner").query("n > 1")
    over = over[over["sum"] - over["value"] > APART * over["value"].abs()]
    over = over.assign(
        against=over["sum"], compared_with="the sum of " + over["n"].astype(str) + " of its parts",
        target_ids=ids(over, "target_id", "ids"),
    )  # fmt: skip
    return [found("whole below its part", table) for table in (below, over)]
