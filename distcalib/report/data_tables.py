"""The rows of the data check: what is compared with what, section by section. Pure tables, no simulation."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.measures import Measure
from distcalib.microdata.model import Array
from distcalib.targets.constraints import parse_constraints

COLUMNS = [
    "section", "quantity", "variable", "constraints", "area", "unit", "before", "value", "official", "ratio",
    "allowed", "within", "status", "reason", "source", "vintage",
]  # fmt: skip
NUMBERS = ["before", "value", "official", "ratio", "allowed"]
KEY = ["section", "quantity", "variable", "constraints", "area", "vintage"]
POPULATION = 0.01
PROGRAMME = 0.15
ACA = 0.25
# A state's figure that rests on fewer households than this is called thin.
DONORS = 30
AREAS = ["US", *map(str, STATE_CODES)]

# Concept of the register -> persons who could have it, by state.
_ELIGIBLE = {
    "Medicaid enrolment": "is_medicaid_eligible==True",
    "ACA premium tax credit": "aca_ptc_before_filing_gate>0&is_aca_ptc_eligible==True",
}


def register_rows(targets: pd.DataFrame) -> pd.DataFrame:
    """Return the national and state rows of the register that the rules can compute.

    Fitted and checked rows, and of the excluded those that another vintage does not replace.

    Parameters
    ----------
    targets
        The register, as `distcalib.targets.sources.bundled_targets`.
    """
    old = (targets["status"] == "excluded") & targets["reason"].str.contains("older vintage")
    here = targets["geo_level"].isin(["national", "state"]) & (targets["reform_id"] == 0) & ~old
    out = targets[here].rename(columns={"concept": "quantity", "geographic_id": "area", "value": "official"})
    out = out.assign(section="register", source=out["source"] + ", " + out["table"])
    computable = {k: _computable(m) for k, m in measures_of(out).items()}
    out = out[measure_keys(out).map(computable)]
    age = out["constraints"].str.fullmatch(r"(age[<>]=?\d+&?)+")
    population = out["variable"].isin(["person_count", "household_count"]) & (
        (out["constraints"] == "") | (age & (out["area"] == "US"))
    )
    aca = (out["variable"] + out["constraints"]).str.contains("aca_ptc")
    out["allowed"] = np.select([population, aca], [POPULATION, ACA], PROGRAMME)
    return out.reindex(columns=COLUMNS).reset_index(drop=True)


def headline_rows(register: pd.DataFrame, bundled: bool) -> pd.DataFrame:
    """Return the rows of the headline table.

    Parameters
    ----------
    register
        As `register_rows` gives it; official figures that the bundled ``headline.csv`` leaves open come from
        there (a variable ``a+b`` is the sum of two).
    bundled
        Whether the bundled microdata are checked: only to them do the table's reasons apply.

    Raises
    ------
    InputError
        When neither table has the official figure.
    """
    path = resources.files("distcalib.report").joinpath("bundled/headline.csv")
    with path.open(encoding="utf-8") as file:
        head = pd.read_csv(file, keep_default_na=False, na_values={"official": [""]})
    head = head.assign(section="headline", area="US", status="", reason=head["reason"] if bundled else "")
    nation = register[register["area"] == "US"]
    newest = nation.sort_values("vintage", kind="stable").set_axis(
        measure_keys(nation.sort_values("vintage"))
    )
    newest = newest[~newest.index.duplicated(keep="last")]
    keys = measure_keys(head)
    for column in ("official", "unit", "source", "vintage", "status"):
        found = keys.map(newest[column]).groupby(level=0)
        given = found.sum(min_count=1) if column == "official" else found.first()
        blank = head[column].isna() | (head[column] == "")
        head[column] = head[column].where(~blank, given)
    lost = head["official"].isna()
    if lost.any():
        raise InputError(
            "a headline quantity has no official figure",
            place="headline.csv",
            value=head.loc[lost, "quantity"].iloc[0],
            expected="an official figure, or a national row of the register",
        )
    known = keys.map(newest["reason"]).groupby(level=0).first().fillna("")
    head["reason"] = head["reason"].where(head["reason"] != "", known)
    return head.fillna({"status": ""}).reindex(columns=COLUMNS)


def eligible_rows(register: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count who is eligible, held against the official number of those enrolled."""
    out = register[(register["variable"] == "person_count") & register["quantity"].isin(_ELIGIBLE)]
    return out.assign(
        section="take-up",
        quantity=out["quantity"] + ": eligible persons",
        constraints=out["quantity"].map(_ELIGIBLE),
        allowed=np.nan,
        reason="",
    )


def optional_keys(register: pd.DataFrame) -> list[str]:
    """Return the keys of measures that no fitted row needs."""
    keys = measure_keys(register)
    fitted = keys[register["status"].loc[keys.index].to_numpy() == "fit"]
    return sorted(set(keys) - set(fitted))


def explained(rows: pd.DataFrame, failed: Mapping[str, str]) -> pd.DataFrame:
    """Give rows without a value the reason: what the rules engine said of the first variable that failed."""
    lost = rows["value"].isna()
    if not lost.any():
        return rows
    needs = {k: sorted(m.needs & failed.keys()) for k, m in measures_of(rows[lost]).items()}
    words = measure_keys(rows[lost]).map(lambda k: f"not computed: {failed[needs[k][0]]}" if needs[k] else "")
    first = words[words != ""].groupby(level=0).first()
    return rows.assign(reason=rows["reason"].where(~lost, first.reindex(rows.index)))


def measures_of(rows: pd.DataFrame) -> dict[str, Measure]:
    """Return the distinct measures of rows by key, in order of first use."""
    distinct = measure_keys(rows).drop_duplicates()
    pairs = (key.split("?", 1) for key in distinct)
    return {f"{v}?{c}": Measure(v, parse_constraints(c)) for v, c in pairs}


def measure_keys(rows: pd.DataFrame) -> pd.Series:
    """Return the key of the measure of each row, ``variable?constraints``."""
    return rows["variable"] + "?" + rows["constraints"]


def measured(rows: pd.DataFrame, by_state: pd.DataFrame) -> pd.Series:
    """Look up what was simulated for rows.

    Parameters
    ----------
    rows
        With variable, constraints, area (``US`` or a FIPS code as text).
    by_state
        Index state_fips, one column a key of `measures_of`; a state without households counts as zero.

    Returns
    -------
    Series of float64
        In the order of `rows`.
    """
    full = by_state.set_axis(by_state.index.astype(str)).reindex(AREAS[1:], fill_value=0.0)
    full = pd.concat([full.sum(skipna=False).to_frame("US").T, full])
    keys = measure_keys(rows)
    at = full.index.get_indexer(rows["area"].loc[keys.index]), full.columns.get_indexer(keys)
    found = pd.Series(full.to_numpy(float)[at], index=keys.index)
    return found.groupby(level=0).sum(skipna=False).reindex(rows.index)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Set ratio and within: ``yes`` or ``no`` where there are an official figure and a bound."""
    ratio = rows["value"] / rows["official"].where(rows["official"] != 0)
    known = ratio.notna() & rows["allowed"].notna()
    inside = (ratio - 1).abs() <= rows["allowed"]
    return rows.assign(ratio=ratio, within=np.where(known, np.where(inside, "yes", "no"), ""))


def unreachable_rows(register: pd.DataFrame, donors: pd.Series, states: list[str]) -> pd.DataFrame:
    """Return the figures of the register that no household of the area can reach.

    Parameters
    ----------
    register
        The rows, with their values.
    donors
        Households with a value other than zero behind each row.
    states
        FIPS codes that the microdata have; the others get one row each.
    """
    empty = (donors == 0) & (register["official"] != 0)
    here = register["area"].isin([*states, "US"])
    out = register[empty & here].assign(section="unreachable", allowed=np.nan, within="")
    none = "no household of the area has any"
    out["reason"] = out["reason"].where(out["reason"] != "", none)
    absent = [a for a in AREAS[1:] if a not in states]
    gone = pd.DataFrame({"section": "unreachable", "quantity": "everything", "area": absent})
    return pd.concat([out, gone.assign(reason="no household of the dataset lives there")])


def support_rows(register: pd.DataFrame, donors: pd.Series, states: list[str]) -> pd.DataFrame:
    """Return for each quantity how many states (value) of those with a figure (official) are thin."""
    mine = register[register["area"].isin(states)].assign(thin=donors < DONORS)
    groups = mine.groupby(["quantity", "variable", "constraints", "vintage"], sort=False)["thin"]
    out = groups.agg(value="sum", official="size").reset_index()
    return out.assign(
        section="support",
        area="states",
        unit="states",
        ratio=out["value"] / out["official"],
        reason=f"fewer than {DONORS} households of the state have any",
    )


def excluded_rows(targets: pd.DataFrame) -> pd.DataFrame:
    """Return the excluded concepts of the register above the districts, once each, with their reasons."""
    out = targets[(targets["status"] == "excluded") & (targets["geo_level"] != "district")]
    out = out.drop_duplicates(["variable", "constraints", "concept", "reason", "vintage"])
    return out.assign(
        section="excluded",
        quantity=out["concept"],
        area=np.where(out["geo_level"] == "national", "US", "states"),
        official=out["value"].where(out["geo_level"] == "national"),
        value=np.nan,
    )


def filing_rows(rules: Array, weights: Array, source: Array | None) -> pd.DataFrame:
    """Return the filing status of tax units, by the rules and, where it is known, in the source.

    Parameters
    ----------
    rules, source
        Names of the status, shape (n tax units,).
    weights
        Weights of the tax units, float64, shape (n tax units,).

    Returns
    -------
    DataFrame
        value: weighted tax units of a pair; official: those of the pair's source status (of all tax units
        without a source); ratio: their share.
    """
    table = pd.DataFrame({"rules": rules.astype(str), "stated": "" if source is None else source})
    out = table.assign(value=weights).groupby(["stated", "rules"], sort=True)["value"].sum().reset_index()
    out["official"] = out.groupby("stated")["value"].transform("sum")
    origin = np.where(out["stated"] == "", "", out["stated"] + " in the source, ")
    return out.assign(
        section="filing status",
        quantity=origin + out["rules"] + " by the rules",
        variable="tax_unit_count",
        constraints="filing_status==" + out["rules"],
        area="US",
        unit="tax units",
        ratio=out["value"] / out["official"],
    )


def raking_rows(raking: pd.DataFrame | None, households: pd.DataFrame | None) -> pd.DataFrame:
    """Return the raked margins, and the range of weight / design weight.

    Parameters
    ----------
    raking
        margin, area, official, before, after, and age_from where the margin is by age (text: where the band
        begins).
    households
        household_id, design_weight, weight, certain: one row a household.
    """
    if raking is None:
        raking = pd.DataFrame(columns=["margin", "area", "official", "before", "after"])
    age = raking["age_from"] if "age_from" in raking else pd.Series("", index=raking.index)
    out = raking.rename(columns={"margin": "quantity", "after": "value"}).assign(
        section="raking", constraints=("age>=" + age).where(age != "", ""), unit="", allowed=POPULATION
    )
    out["area"] = out["area"].astype(str)
    if households is not None and not out["quantity"].str.endswith("adjustment").any():
        change = households["weight"] / households["design_weight"]
        quantiles = {"min": 0.0, "p1": 0.01, "median": 0.5, "p99": 0.99, "max": 1.0}
        values = [change.quantile(q) for q in quantiles.values()]
        given = {"section": "raking", "quantity": "adjustment", "constraints": "", "unit": "weight / design"}
        out = pd.concat([out, pd.DataFrame(given | {"area": list(quantiles), "value": values})])
    out["variable"] = out["quantity"].map({"households": "household_count"}).fillna("person_count")
    scale = out["quantity"].str.endswith("adjustment")
    out.loc[scale, ["official", "allowed"]] = np.nan
    return judged(out.assign(variable=out["variable"].where(~scale, "household_weight")))


def imputed_rows(sources: pd.DataFrame | None) -> pd.DataFrame:
    """Return the inputs that the dataset's table of sources marks as imputed, with their rules."""
    if sources is None:
        return pd.DataFrame(columns=COLUMNS)
    out = sources[sources["imputed"] == "yes"].rename(
        columns={"policyengine_input": "variable", "rule": "reason", "source_column": "quantity"}
    )
    return out.assign(section="imputed", area="US").reindex(columns=COLUMNS)


def tidy(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Put sections together in the form of ``check.csv``: `COLUMNS`, text without NaN, numbers float64.

    Raises
    ------
    InputError
        When two rows are of the same quantity.
    """
    out = pd.concat([p.reindex(columns=COLUMNS) for p in parts if len(p)], ignore_index=True)
    out[NUMBERS] = out[NUMBERS].astype(float)
    words = [c for c in COLUMNS if c not in NUMBERS]
    out[words] = out[words].fillna("").astype(str)
    twice = out.duplicated(KEY)
    if twice.any():
        raise InputError("two rows of the same quantity", value=out.loc[twice, KEY].iloc[0].to_dict())
    return out


def drift(new: pd.DataFrame, old: pd.DataFrame, tolerance: float = 1e-6) -> pd.DataFrame:
    """List what differs between two tables of a check.

    Parameters
    ----------
    new, old
        As `tidy` gives them.
    tolerance
        Numbers may differ by this share of the larger one; text may not differ.

    Returns
    -------
    DataFrame
        `KEY`, column, old, new (text), one row a difference; a row that only one table has stands once, with
        the column ``row`` and the words missing and present.
    """
    both = old.merge(new, on=KEY, how="outer", suffixes=("_old", "_new"), indicator="side", sort=True)
    found = []
    here = both["side"] != "both"
    if here.any():
        gone = both.loc[here, "side"] == "left_only"
        found.append(
            both.loc[here, KEY].assign(
                column="row",
                old=np.where(gone, "present", "missing"),
                new=np.where(gone, "missing", "present"),
            )
        )
    both = both[~here]
    for column in [c for c in COLUMNS if c not in KEY]:
        a, b = both[f"{column}_old"], both[f"{column}_new"]
        if column in NUMBERS:
            same = (a.isna() & b.isna()) | ((a - b).abs() <= tolerance * np.maximum(a.abs(), b.abs()))
        else:
            same = a == b
        if not same.all():
            show = [s.map("{:.10g}".format) if column in NUMBERS else s for s in (a[~same], b[~same])]
            found.append(both.loc[~same, KEY].assign(column=column, old=show[0], new=show[1]))
    columns = [*KEY, "column", "old", "new"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _computable(measure: Measure) -> bool:
    known = catalogue()
    numeric = measure.variable in COUNTS or all(
        term in known and known.variables[term].value_type in ("float", "int", "bool")
        for term in terms(measure.variable)
    )
    return numeric and all(c.variable in known for c in measure.constraints)
