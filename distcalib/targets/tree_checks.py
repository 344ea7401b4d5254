"""Contradictions in the strata of a database, with targets or without: tree, definitions, repeats."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.targets.contradiction_checks import found
from distcalib.targets.stratum_rules import check_together, from_lines, place_of

_PLACE = r"^(?:state_fips|congressional_district_geoid)\|"


def tree(strata: pd.DataFrame, rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Find strata outside the tree, not part of their parent, contradictory in themselves, or repeated.

    Parameters
    ----------
    strata
        As `distcalib.targets.database.read_tree` returns it.
    rows
        The targets in use: stratum_id, target_id.

    Returns
    -------
    list of DataFrame
        Findings, one row a stratum; target_ids are those of the targets in use that it has.
    """
    strata = strata.reset_index(drop=True)
    strata = strata.assign(lines=strata["lines"].str.replace("|=|", "|==|", regex=False))
    lines = strata.set_index("stratum_id")["lines"].str.split("\n").explode()
    lines = lines[lines != ""]
    placed = lines.str.contains(_PLACE, regex=True)
    parent = strata["parent_stratum_id"].astype("Int64")
    known = parent.isin(strata["stratum_id"]).fillna(False).astype(bool)
    where = _described(strata, lines[~placed], rows)
    below = "stratum " + where["stratum_id"].astype(str) + " below " + parent.astype(str)
    lost = parent.notna() & ~known
    # A database without parents at all has no tree to hold anything against.
    rootless = parent.isna() & (strata["lines"] != "") & parent.notna().any()
    orphan = where.assign(compared_with=below + ", which does not exist")
    orphan.loc[rootless, "compared_with"] = "stratum " + where["stratum_id"].astype(str) + " has no parent"
    gone = rows[~rows["stratum_id"].isin(strata["stratum_id"])]
    gone = gone.assign(compared_with="stratum " + gone["stratum_id"].astype(str) + " does not exist")
    circular = where.assign(compared_with=below + " never reaches the nation")
    return [
        found("orphan stratum", orphan[lost | rootless]),
        found("orphan stratum", gone),
        found("circular strata", circular[_circular(strata)]),
        _not_part_of_parent(strata[known], lines, placed, where[known]),
        _contradictory(where),
        _repeated(where),
    ]


def _described(strata: pd.DataFrame, domain: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Give strata the columns of a finding: place, constraints, the targets in use."""
    place = _places(strata)
    state, district = place["state"], place["cd"]
    level = np.select([district.notna(), state.notna()], ["district", "state"], "national")
    area = district.fillna(state).map("{:.0f}".format).replace("nan", "US")
    of = strata["stratum_id"]
    text = domain.str.replace("|", "", regex=False).groupby(level=0).agg("&".join)
    used = rows["target_id"].astype(str).groupby(rows["stratum_id"]).agg(" ".join)
    return strata.assign(
        variable="(strata)", constraints=of.map(text).fillna(""), reform_id=0, period=0, geo_level=level,
        geographic_id=area, target_ids=of.map(used).fillna(""),
    )  # fmt: skip


def _places(strata: pd.DataFrame) -> pd.DataFrame:
    """Return the state and district that strata name with ==, float64, NaN where they name none."""
    texts = strata["lines"].unique()
    named = [place_of(c for c in from_lines(text) if c.operation == "==") for text in texts]
    places = pd.DataFrame(named, index=texts, columns=["state", "cd"], dtype=float)
    return places.reindex(strata["lines"]).set_axis(strata.index)


def _circular(strata: pd.DataFrame) -> np.ndarray:
    """Return where a stratum's ancestors go round for ever: each step doubles how far up is looked."""
    up = pd.Index(strata["stratum_id"]).get_indexer(strata["parent_stratum_id"].fillna(-1).astype(np.int64))
    for _ in range(len(up).bit_length()):
        up = np.where(up >= 0, up[up], -1)
    return up >= 0


def _not_part_of_parent(
    strata: pd.DataFrame, lines: pd.Series, placed: pd.Series, where: pd.DataFrame
) -> pd.DataFrame:
    """Find children that lack a constraint of their parent, or lie outside it."""
    pairs = strata[["stratum_id", "parent_stratum_id"]].astype(np.int64)
    needed = pairs.merge(
        lines[~placed].rename("line"), left_on="parent_stratum_id", right_index=True
    )  # one row a child and condition of its parent
    have = pd.MultiIndex.from_arrays([lines.index, lines])
    missing = needed[~pd.MultiIndex.from_frame(needed[["stratum_id", "line"]]).isin(have)]
    first = missing.drop_duplicates("stratum_id").set_index("stratum_id")["line"]
    lacks = "lacks " + first.str.replace("|", " ", regex=False) + " of its parent"
    place = _places(strata).set_axis(strata["stratum_id"])
    place["state"] = place["state"].fillna(place["cd"] // 100)
    above = place.reindex(strata["parent_stratum_id"]).set_axis(place.index)
    outside = above["cd"].notna() & (above["cd"] != place["cd"])
    outside |= above["state"].notna() & (above["state"] != place["state"])
    why = lacks.reindex(where["stratum_id"]).to_numpy(object)
    out = where.assign(why_not=np.where(outside, "does not lie in its parent", why))
    out = out[out["why_not"].notna()]
    said = "stratum " + out["stratum_id"].astype(str) + " " + out["why_not"].astype(str)
    return found("not its parent's part", out.assign(compared_with=said))


def _contradictory(where: pd.DataFrame) -> pd.DataFrame:
    """Find definitions that no one can pass or that say a thing twice; one look a distinct definition."""
    wrong = {}
    for text in where["lines"].unique():
        try:
            check_together(from_lines(text), "")
        except InputError as error:
            wrong[text] = str(error).removeprefix(": ")
        except ValueError:
            continue  # an order of texts: the check of rows names it
    bad = where[where["lines"].isin(wrong)]
    said = "stratum " + bad["stratum_id"].astype(str) + ": " + bad["lines"].map(wrong).astype(str)
    return found("contradictory stratum", bad.assign(compared_with=said))


def _repeated(where: pd.DataFrame) -> pd.DataFrame:
    first = where.groupby("lines")["stratum_id"].transform("first")
    again = where["lines"].duplicated()
    said = "stratum " + where["stratum_id"].astype(str) + " is defined as stratum " + first.astype(str)
    return found("stratum twice", where.assign(compared_with=said)[again])
