"""Find contradictions in a table of targets: in itself, and with the bundled register of official figures."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from distcalib.geography.states import STATE_CODES
from distcalib.targets import contradiction_checks as checks
from distcalib.targets.comparable import COUNT_NAMES, comparable_targets
from distcalib.targets.contradiction_checks import AREA, CONCEPT, QUANTITY, found, ids
from distcalib.targets.database import read_targets
from distcalib.targets.tree_checks import tree

SEVERITIES = ("error", "warning", "note")
# Beyond half or twice the official figure a national total is another quantity, not another vintage of it.
FAR = (0.5, 2.0)
WIDE = 0.1
# A register's population that is not the microdata's says after this word what theirs is.
_OTHERWISE = "(microdata:"
# Other names under which databases hold a figure of the register: column, in the register, elsewhere.
_ALSO = (
    ("variable", "assigned_aca_ptc", "aca_ptc"),
    ("constraints", "aca_ptc>0&person_receives_aca==True", "aca_ptc>0&is_aca_ptc_eligible==True"),
    ("constraints", "aca_ptc>0&person_receives_aca==True", "aca_ptc>0"),
)


def find_contradictions(targets: pd.DataFrame, strata: pd.DataFrame | None = None) -> pd.DataFrame:
    """Find what cannot all be true, or cannot be fitted as it stands, among the targets in use.

    Parameters
    ----------
    targets
        One row a target, as `distcalib.targets.database.read_targets` returns it. Rows of status excluded
        are left out. A register (status, margins of error, population) is used where there is one; where
        there is none the margins and populations of the same figures in the bundled register are.
    strata
        If given, the strata of the same database (`distcalib.targets.database.read_tree`), which are checked
        too: findings of the variable ``(strata)``, period 0. One that no target in use has is a warning.

    Returns
    -------
    pandas.DataFrame
        One row a finding and area, worst first: kind, severity (``error``: two figures cannot both be
        fitted, or a run refuses the row; ``warning``; ``note``), variable, constraints (canonical),
        reform_id, period, geo_level, geographic_id, target_ids (text, separated by spaces), value and
        against (the two figures, in the variable's unit), ratio (value / against), margin (how far they may
        be apart), compared_with (what `against` is) and why (a sentence that says what to do). An error of
        which a row has status check is a warning: it is not fitted. The kinds and their thresholds stand in
        ``bundled/finding_kinds.csv``.
    """
    rows, bounds = comparable_targets(targets)
    rows = rows[rows["status"] != "excluded"].reset_index(drop=True)
    good = rows[rows["value"].notna() & (rows["geo_level"] != "unreadable")]
    good = good.drop_duplicates([*QUANTITY, *AREA])
    existing = good[_exists(good)]
    parts = [
        *checks.rows_by_themselves(rows),
        *checks.areas(good),
        *checks.levels(existing),
        *checks.nested_sets(existing, bounds),
        *checks.bands(existing, bounds),
        *checks.vintages(existing),
        *checks.wholes_and_parts(existing),
        *_beside_the_register(existing),
        *([] if strata is None else tree(strata, rows)),
    ]
    out = pd.concat([part for part in parts if len(part)] or [parts[0]], ignore_index=True)
    status = rows.set_index(rows["target_id"].astype(str))["status"]
    checked = out["target_ids"].str.split().explode().map(status).eq("check").groupby(level=0).any()
    unused = (out["variable"] == "(strata)") & (out["target_ids"] == "")
    out.loc[(checked | unused) & (out["severity"] == "error"), "severity"] = "warning"
    rank = {severity: i for i, severity in enumerate(SEVERITIES)}
    kinds = {kind: i for i, kind in enumerate(checks.finding_kinds().index)}
    out = out.assign(rank=out["severity"].map(rank), order=out["kind"].map(kinds), off=-distance(out))
    by = ["rank", "order", *QUANTITY, "geo_level", "off", "geographic_id", "target_ids"]
    return out.sort_values(by, kind="stable", ignore_index=True)[checks.COLUMNS]


def _exists(rows: pd.DataFrame) -> pd.Series:
    known = set(checks.districts()["cd_geoid"].astype(str)) | {str(fips) for fips in STATE_CODES} | {"US"}
    return rows["geographic_id"].isin(known)


def distance(findings: pd.DataFrame) -> pd.Series:
    """Return how far apart the two figures of findings are: what the worst area of a quantity has most of.

    Parameters
    ----------
    findings
        With kind and ratio.

    Returns
    -------
    Series of float64
        |log ratio|; of a wide margin its share; 0 where there is no ratio.
    """
    ratio = findings["ratio"].abs()
    share = findings["kind"] == "wide margin"
    apart = np.log(ratio.where(ratio > 0)).abs()
    return apart.where(~share, ratio).fillna(0.0)


@cache
def _register() -> pd.DataFrame:
    """Every row of the bundled register, with what is excluded."""
    rows = comparable_targets(read_targets("bundled"))[0]
    also = [rows[rows[column] == ours].assign(**{column: theirs}) for column, ours, theirs in _ALSO]
    also = [copy.assign(everybody=copy["constraints"]) for copy in also]
    return pd.concat([rows, *also], ignore_index=True)


def _beside_the_register(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Compare rows with the bundled figures of the same quantity and area."""
    register = _register()
    official = register[register["reform_id"] == 0].assign(from_source=_source(register))
    plain = rows[rows["reform_id"] == 0]
    on = ["variable", "everybody", *AREA]
    both = plain.merge(official, on=on, suffixes=("", "_official"))
    both["apart"] = np.log((both["value"] / both["value_official"]).where(lambda r: r > 0)).abs()
    both["other"] = both["constraints"] != both["constraints_official"]
    both["years"] = (both["period"] - both["period_official"]).abs()
    # The figure of the same year and constraints; of two, the one that is nearer.
    nearest = both.sort_values(["other", "years", "apart"]).drop_duplicates("target_id")
    nearest = nearest.assign(against=nearest["value_official"], compared_with=nearest["from_source"])
    ratio = nearest["value"] / nearest["against"]
    amount = ~nearest["variable"].isin(COUNT_NAMES)
    month = amount & checks.is_month(ratio)
    thousand = checks.is_thousand(ratio)
    concepts = _national_totals(plain, official)
    month_total = ~concepts["variable"].isin(COUNT_NAMES) & checks.is_month(
        concepts["value"] / concepts["against"]
    )
    off = concepts["value"] / concepts["against"]
    slip = month_total | checks.is_thousand(off)
    far = ~off.between(*FAR) & ~slip
    costs = register[register["reform_id"] > 0].assign(from_source=_source(register))
    taken = plain.merge(costs, on=["variable", *AREA], suffixes=("", "_cost"))
    taken = taken.assign(against=taken["value_cost"], compared_with=taken["from_source"])
    reforms = rows[rows["reform_id"] > 0]
    amounts = pd.concat([plain, official])[["variable", *AREA, "value"]].drop_duplicates(["variable", *AREA])
    reforms = reforms.merge(amounts, on=["variable", *AREA], how="left", suffixes=("", "_amount"))
    reforms = reforms.assign(
        against=reforms["value_amount"],
        compared_with=np.where(reforms["value_amount"].notna(), "the amount of the same variable", ""),
    )
    figure = ratio.between(0.99, 1.01) & nearest["population_official"].str.contains(_OTHERWISE, regex=False)
    own = plain[plain["population"].str.contains(_OTHERWISE, regex=False)]
    borrowed = nearest[figure & ~nearest["target_id"].isin(own["target_id"])]
    borrowed = borrowed.assign(population=borrowed["population_official"]).drop(columns="against")
    others = pd.concat([own, borrowed])
    others["compared_with"] = others["population"]
    return [
        found("looks monthly", nearest[month]),
        found("looks thousandfold", nearest[thousand]),
        _beside_its_siblings(plain[~plain["target_id"].isin(nearest["target_id"])], register),
        found("another concept", concepts[far]),
        found("far from the register", concepts[~off.between(*CONCEPT) & ~far & ~slip]),
        found("tax expenditure as amount", taken[(taken["value"] / taken["against"]).between(*CONCEPT)]),
        found("reform", reforms),
        found("population", others[others["variable"].isin(COUNT_NAMES)]),
        _dollars_a_recipient(plain, official),
        _wide_margins(plain, nearest),
    ]


def _source(rows: pd.DataFrame) -> pd.Series:
    return "bundled: " + rows["source"].fillna("") + ", " + rows["period"].astype(str)


def _national_totals(plain: pd.DataFrame, official: pd.DataFrame) -> pd.DataFrame:
    """National figures, or sums of all states or districts where there is none, beside the bundled ones."""
    size = {"national": 1, "state": len(STATE_CODES), "district": len(checks.districts())}
    summed = plain.assign(ids=ids(plain, "target_id")).groupby([*QUANTITY, "everybody", "geo_level"])
    total = summed.agg(
        value=("value", "sum"), n=("value", "size"), target_ids=("ids", " ".join)
    ).reset_index()
    total = total[total["n"] == total["geo_level"].map(size)]
    order = total["geo_level"].map({level: i for i, level in enumerate(size)})
    total = total.assign(order=order).sort_values("order").drop_duplicates(QUANTITY)
    nation = official.loc[
        official["geo_level"] == "national", ["variable", "everybody", "value", "from_source"]
    ]
    both = total.merge(nation, on=["variable", "everybody"], suffixes=("", "_official"))
    both["apart"] = np.log((both["value"] / both["value_official"]).where(lambda r: r > 0)).abs()
    both = both.sort_values("apart").drop_duplicates(QUANTITY)
    words = {"state": "value: sum of the states; ", "district": "value: sum of the districts; "}
    said = both["geo_level"].map(words).fillna("") + both["from_source"]
    return both.assign(geographic_id="US", against=both["value_official"], compared_with=said)


def _beside_its_siblings(alone: pd.DataFrame, register: pd.DataFrame) -> pd.DataFrame:
    """Find areas without a bundled figure that have a thousand times the middle area's figure a resident."""
    residents = register[(register["variable"] == "person_count") & (register["constraints"] == "")]
    many = residents.drop_duplicates(AREA).set_index(AREA)["value"].rename("residents")
    each = alone.join(many, on=AREA)
    each["each"] = (each["value"] / each["residents"]).where(lambda share: share > 0)
    middle = each.groupby([*QUANTITY, "geo_level"])["each"].transform("median")
    off = checks.is_thousand(each["each"] / middle, checks.THOUSAND_A_HEAD)
    each = each.assign(against=middle * each["residents"])
    each["compared_with"] = "against: as much for each resident as in the middle area"
    return found("looks thousandfold", each[off])


def _dollars_a_recipient(plain: pd.DataFrame, official: pd.DataFrame) -> pd.DataFrame:
    """Find areas whose dollars for each recipient are near a twelfth of the bundled or the middle area's."""
    mine, theirs = _each(plain), _each(official)
    key = ["variable", "counted", *AREA]
    both = mine.join(theirs.drop_duplicates(key).set_index(key)["each"].rename("official"), on=key)
    middle = both.groupby(["variable", "counted", "period", "geo_level"])["each"].transform("median")
    against = both["official"].fillna(middle)
    said = np.where(both["official"].notna(), "bundled", "the middle area's")
    both = both.assign(value=both["each"], against=against)
    both["compared_with"] = "dollars for each of " + both["counted"] + "; against: " + said
    return found("looks monthly", both[checks.is_month(both["value"] / both["against"])])


def _each(rows: pd.DataFrame) -> pd.DataFrame:
    """Dollars of a variable divided by the persons or units that have it, in the same area and period."""
    counts = rows[rows["variable"].isin(COUNT_NAMES)]
    of = counts["constraints"].str.extract(r"^(\w+)>0(?:&\w+==True)?$")[0]
    counts = counts.assign(counted=counts["variable"], variable=of)[of.notna() & (counts["value"] > 0)]
    dollars = rows[rows["constraints"] == ""]
    both = dollars.merge(counts, on=["variable", "period", *AREA], suffixes=("", "_count"))
    both["target_ids"] = ids(both, "target_id", "target_id_count")
    return both.assign(each=both["value"] / both["value_count"])


def _wide_margins(plain: pd.DataFrame, nearest: pd.DataFrame) -> pd.DataFrame:
    """List rows whose margin of error, their own or the bundled row's, exceeds a tenth of the value."""
    lent = nearest.set_index("target_id")[["moe_official", "value_official"]]
    both = plain.join(lent, on="target_id")
    share = (both["moe"] / both["value"].abs()).fillna(both["moe_official"] / both["value_official"].abs())
    both = both.assign(
        against=both["value"], value=share * both["value"].abs(), margin=WIDE * both["value"].abs()
    )
    quantity = [*QUANTITY, "geo_level"]
    wide = share > WIDE
    part = wide.groupby([both[k] for k in quantity]).transform("mean")
    both["compared_with"] = (
        "value: margin of error; " + (100 * part).round().astype(int).astype(str) + " % of the rows"
    )
    return found("wide margin", both[wide & (both["value"] > 0)])


def summary(findings: pd.DataFrame) -> pd.DataFrame:
    """Return one row a kind and quantity: how many areas, and the figures of the worst one.

    Parameters
    ----------
    findings
        As `find_contradictions` returns them.
    """
    key = ["severity", "kind", "variable", "constraints", "reform_id", "period", "geo_level", "compared_with"]
    first = findings.drop_duplicates(key)
    n = findings.groupby(key).agg(areas=("geographic_id", "size")).reset_index()
    return first.merge(n, on=key, validate="1:1")
