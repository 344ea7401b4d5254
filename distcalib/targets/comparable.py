"""Read any target table so that its rows can be compared: places and constraints in one spelling.

Nothing is refused here: what cannot be read is said in a column, so that one bad row hides no other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.catalogue import ENTITIES, catalogue
from distcalib.targets.constraints import GEOGRAPHIC, OPERATIONS

COUNT_NAMES = tuple(f"{entity}_count" for entity in ENTITIES)
FILER = "tax_unit_is_filer==True"
_OLDEST = 120


def comparable_targets(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give targets one spelling of place and constraints.

    Parameters
    ----------
    raw
        One row a target, as `distcalib.targets.database.read_database` returns it.

    Returns
    -------
    rows : DataFrame
        `raw` with geo_level (``national``, ``state``, ``district``, or ``unreadable``), geographic_id (text;
        at-large districts end in 01), spelled (the district as the table has it), constraints (canonical text
        without geography, and without ``x>0`` in a sum of x), everybody (the same without the condition of
        filing) and unreadable (why a stratum cannot be read, else empty).
    bounds : DataFrame
        One row a constraint set and variable: constraints, variable, lo, hi (float64, closed interval of the
        values that pass; infinite where open), words (conditions that are no interval), rest (the other
        constraints of the set as text).
    """
    terms, bad = _terms(raw)
    place = terms["variable"].isin((*GEOGRAPHIC, "ucgid_str"))
    strata = pd.DataFrame({"lines": raw["lines"].unique()})
    where = terms[place & terms["number"].notna() & (terms["operation"] == "==")]
    for name, variable in (("state", GEOGRAPHIC[0]), ("district", GEOGRAPHIC[1])):
        found = where[where["variable"] == variable].groupby("stratum")["number"].first()
        strata[name] = found.reindex(strata.index).to_numpy()
    in_state = strata["district"] % 100
    # Alaska's 200 and the District of Columbia's 1198 are 201 and 1101 here.
    at_large = in_state.isin([0, 98])
    geoid = strata["district"].where(~at_large, strata["district"] - in_state + 1)
    strata["geo_level"] = np.select(
        [strata["district"].notna(), strata["state"].notna()], ["district", "state"], "national"
    )
    strata["geographic_id"] = geoid.fillna(strata["state"]).map("{:.0f}".format).replace("nan", "US")
    strata["spelled"] = strata["district"].map("{:.0f}".format).replace("nan", "")
    lost = terms[place & (terms["number"].isna() | (terms["operation"] != "=="))]
    bad = pd.concat(
        [bad, pd.Series("a place that is not named by state_fips or by district ==", lost["stratum"])]
    )
    domain = terms[~place].sort_values(["stratum", "variable", "operation", "text"])
    texts = domain.groupby("stratum")["term"].agg("&".join)
    strata["constraints"] = texts.reindex(strata.index).fillna("").to_numpy()
    bounds = _bounds(domain, strata["constraints"])
    strata["unreadable"] = bad.groupby(level=0).first().reindex(strata.index).fillna("").to_numpy()
    nobody = strata["constraints"].isin(bounds.loc[bounds["lo"] > bounds["hi"], "constraints"])
    nobody &= strata["unreadable"] == ""
    strata.loc[nobody, "unreadable"] = "an empty range: nobody can pass"
    strata.loc[strata.index.isin(lost["stratum"]), "geo_level"] = "unreadable"
    rows = raw.merge(strata.drop(columns=["state", "district"]), on="lines", how="left")
    # A sum of x over those with x > 0 is the sum of x.
    rows.loc[rows["constraints"] == rows["variable"] + ">0", "constraints"] = ""
    no_filer = rows["constraints"].str.replace(FILER, "", regex=False).str.replace("&&", "&")
    return rows.assign(everybody=no_filer.str.strip("&")), bounds


def _terms(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """One row a distinct stratum and condition; and what is wrong with conditions, indexed by stratum."""
    lines = pd.Series(raw["lines"].unique()).str.split("\n").explode()
    lines = lines[lines != ""]
    terms = lines.str.split("|", n=2, expand=True).reindex(columns=range(3)).fillna("")
    terms = terms.set_axis(["variable", "operation", "text"], axis=1).rename_axis("stratum").reset_index()
    terms["operation"] = terms["operation"].replace({"=": "=="})
    terms["text"] = terms["text"].str.strip()
    named = terms["text"].str.lower().replace({"true": "1", "false": "0"})
    terms["number"] = pd.to_numeric(named, errors="coerce").where(terms["operation"] != "in")
    known = catalogue().variables
    kind = terms["variable"].map({name: v.value_type for name, v in known.items()})
    wrong = np.select(
        [~terms["operation"].isin(OPERATIONS), kind.isna() & (terms["variable"] != "ucgid_str")],
        ["unknown operator " + terms["operation"], "unknown constraint variable " + terms["variable"]],
        "",
    )
    bad = pd.Series(wrong, terms["stratum"])
    # Ages are whole years: over 4 is 5 and more.
    years = ((terms["variable"] == "age") | (kind == "int")) & (terms["number"] % 1 == 0)
    over, up_to = years & (terms["operation"] == ">"), years & (terms["operation"] == "<=")
    terms["number"] += over | up_to
    terms["operation"] = terms["operation"].mask(over, ">=").mask(up_to, "<")
    # A bound that everybody passes says nothing.
    low, high = terms["operation"].isin([">", ">="]), terms["operation"].isin(["<", "<="])
    age = terms["variable"] == "age"
    open_below = low & ((terms["number"] == -np.inf) | (age & (terms["number"] <= 0)))
    open_above = high & ((terms["number"] == np.inf) | (age & (terms["number"] >= _OLDEST)))
    terms = terms[~(open_below | open_above)].copy()
    flag = (kind.reindex(terms.index) == "bool") & terms["number"].isin([0, 1])
    one, op = terms["number"] == 1, terms["operation"]
    true = flag & ((one & op.isin(["==", ">="])) | (~one & op.isin([">", "!="])))
    false = flag & ((~one & op.isin(["==", "<="])) | (one & op.isin(["<", "!="])))
    terms.loc[true | false, "operation"] = "=="
    terms.loc[true | false, "number"] = true[true | false].astype(float)
    plain = terms["number"].map("{:.10g}".format).where(terms["number"].notna(), terms["text"])
    terms["text"] = plain.mask(true, "True").mask(false, "False")
    gap = terms["operation"].map({"in": " "}).fillna("")
    terms["term"] = terms["variable"] + gap + terms["operation"] + gap + terms["text"]
    return terms, bad[bad != ""]


def _bounds(domain: pd.DataFrame, constraints: pd.Series) -> pd.DataFrame:
    """Turn the conditions of each distinct set into one interval a variable."""
    table = domain.assign(constraints=domain["stratum"].map(constraints))
    table = table.drop_duplicates(["constraints", "term"])
    number, op = table["number"], table["operation"]
    lower, upper = op.isin([">", ">=", "=="]), op.isin(["<", "<=", "=="])
    table["lo"] = number.where(lower).mask(op == ">", np.nextafter(number, np.inf)).fillna(-np.inf)
    table["hi"] = number.where(upper).mask(op == "<", np.nextafter(number, -np.inf)).fillna(np.inf)
    interval = number.notna() & (op != "!=")
    table["words"] = table["term"].where(~interval, "")
    key = ["constraints", "variable"]
    if table.empty:  # only whole areas; pandas cannot join texts where there are none
        return pd.DataFrame({**dict.fromkeys([*key, "words", "rest"], ""), "lo": 0.0, "hi": 0.0}, index=[])
    out = table.groupby(key, as_index=False).agg(
        lo=("lo", "max"), hi=("hi", "min"), words=("words", "sum"), own=("term", "&".join)
    )
    # The set without this variable: its terms, in order, but for one's own.
    others = out[key].merge(out[[*key, "own"]], on="constraints", suffixes=("", "_other"))
    others = others[others["variable"] != others["variable_other"]].sort_values([*key, "variable_other"])
    rest = others.groupby(key)["own"].agg("&".join).rename("rest")
    return out.drop(columns="own").join(rest, on=key).fillna({"rest": ""})


def narrower(bounds: pd.DataFrame, sets: pd.Series) -> pd.DataFrame:
    """Return the pairs of constraint sets of which one implies the other.

    Parameters
    ----------
    bounds
        As `comparable_targets` returns it.
    sets
        The texts of the constraint sets to pair; may hold the empty one.

    Returns
    -------
    DataFrame
        narrow, wide: whoever passes `narrow` passes `wide`. No set is paired with itself.
    """
    used = bounds[bounds["constraints"].isin(sets)]
    both = used.merge(used, on="variable", suffixes=("", "_wide"))
    inside = (both["lo"] >= both["lo_wide"]) & (both["hi"] <= both["hi_wide"])
    inside &= (both["words_wide"] == "") | (both["words_wide"] == both["words"])
    held = both[inside].groupby(["constraints", "constraints_wide"]).size().rename("held").reset_index()
    needed = used.groupby("constraints").size()
    held = held[held["held"] == held["constraints_wide"].map(needed)]
    pairs = held[["constraints", "constraints_wide"]].set_axis(["narrow", "wide"], axis=1)
    everybody = pd.DataFrame({"narrow": sets[sets != ""].unique(), "wide": ""})
    if (sets == "").any():
        pairs = pd.concat([pairs, everybody])
    return pairs[pairs["narrow"] != pairs["wide"]].reset_index(drop=True)
