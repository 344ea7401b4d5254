"""Sanity gates on the totals of a run's files: what would be wrong though every file gives X.w.

A variable that the rules silently leave at zero in one county is zero in the matrix too, so the proof against
X.w passes. These gates look at the totals themselves, each area against its state and its peers, and at what
each file holds against its parts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.errors import InputError, RunError
from distcalib.runs.zero_gate import found, zero

#: Columns of the table that is judged, and of the findings.
TOTALS = ("area", "geo_level", "variable", "total", "households", "nonzero")
COLUMNS = (
    "severity", "kind", "area", "geo_level", "variable", "figure", "low", "high", "cause", "accepted",
)  # fmt: skip
LEVELS = ("national", "state", "district", "other")
#: What stands for a variable in entries of ``verify.accept`` that are of warnings of the plan.
PLAN = "plan"
#: Kinds of findings that can be known and right.
ACCEPTABLE = ("missing", "negative", "zero", "outlier")

# Sums of the same float64 values in another order.
SUMS = 1e-9
# Robust z of the log of an amount a person, and the factor from the median that it has to be as well. Of the
# demo's 5,200 amounts by district the largest z is 4.0; z is spread there as it should be (sd 0.5 to 1.1).
OUTLIER, OUTLIER_FACTOR = 5.0, 2.0
# Beyond both no difference between districts is known; a wrong unit or a lost constraint is.
ABSURD, ABSURD_FACTOR = 10.0, 30.0
# Records with a value below which they explain an amount; share of areas with an amount above zero for logs.
_FEW, _MOSTLY = 10, 0.9
# A median of fewer areas says little of the next one.
LEAST_PEERS = 8
# Words of names of variables whose total may be below zero: losses, and taxes after refundable credits.
_SIGNED = ("income", "tax", "gain", "gains", "loss", "losses", "agi", "net", "profit")


def gates(
    totals: pd.DataFrame,
    accept: Sequence[str] = (),
    *,
    areas: Collection[str] = (),
    files: pd.DataFrame | None = None,
    warnings: Sequence[str] = (),
) -> pd.DataFrame:
    """Judge the totals of a run's files.

    Parameters
    ----------
    totals
        One row an area and variable: area (``US``, ``CA``, ``CA-06`` or a name), geo_level (``national``,
        ``state``, ``district``, ``other``), variable, total (weighted, float64), households (records in the
        area's file), nonzero (records with a value other than zero). ``person_count`` and ``household_count``
        are variables like others; amounts are compared a person where the first is there.
    accept
        Findings that are known: ``VARIABLE``, ``VARIABLE@AREA`` or ``*@AREA``, each with ``: reason`` behind
        it. An error so named becomes a warning that carries the text, but for ``not finite`` and ``sums``; an
        entry that meets nothing is a warning itself. ``plan@WORDS`` are of `accepted_warnings`.
    areas
        Names of the states and districts of which the files hold every record. One that is not in `totals`
        has none.
    files
        What each file says of itself, one row a file: area, geo_level, and sums: households, persons, weight.
        None: no sums are looked at.
    warnings
        Of the plan, which entries of `accept` may meet.

    Returns
    -------
    DataFrame
        The columns `COLUMNS`, errors first: severity (``error`` or ``warning``), kind (``missing``,
        ``not finite``, ``negative``, ``sums``, ``zero``, ``outlier``, ``accept``), area, geo_level, variable,
        figure, low and high (what was expected; float64, NaN where open), cause (the likely one), accepted
        (the entry of `accept`, or empty). The figure and bounds of ``zero`` are records with a value, those
        of ``outlier`` the amount a person, those of ``missing`` records, those of the others totals. The
        variable of ``sums`` is a column of `files`.

    Raises
    ------
    InputError
        When the table lacks a column, or has an area and variable twice.
    """
    lacks = [name for name in TOTALS if name not in totals]
    if lacks:
        raise InputError(
            "lacks a column", place="totals of areas", value=lacks[0], expected=", ".join(TOTALS)
        )
    twice = totals.duplicated(["area", "variable"])
    if twice.any():
        pair = totals.loc[twice, ["area", "variable"]].iloc[0].to_dict()
        raise InputError("stands twice", place="totals of areas", value=pair, expected="a row a pair")
    table = totals.loc[:, list(TOTALS)].reset_index(drop=True)
    table["state"] = table["area"].where(table["geo_level"] == "state", table["area"].str[:2])
    finite = np.isfinite(table["total"].to_numpy(np.float64))
    sound = table[finite]
    findings = pd.concat(
        [
            _missing(table, areas),
            *([] if files is None else [_sums(files, areas)]),
            found(table[~finite], "error", "not finite", "a value or weight of a household is no number"),
            _negative(sound),
            zero(sound),
            _outliers(sound),
        ],
        ignore_index=True,
    )
    findings = _accepted(findings, accept, warnings)
    findings["rank"] = findings["severity"].ne("error")
    findings["level"] = findings["geo_level"].map({name: i for i, name in enumerate(LEVELS)})
    order = ["rank", "kind", "variable", "level", "area"]
    return findings.sort_values(order, kind="stable", ignore_index=True)[list(COLUMNS)]


def refuse(findings: pd.DataFrame, place: object = "verify/gates.csv") -> None:
    """Raise `RunError` where `gates` found an error: area, variable, figure, expected, likely cause."""
    errors = findings[findings["severity"] == "error"]
    if errors.empty:
        return
    first = errors.iloc[0]
    more = f" (the first of {len(errors)} errors, see {place})" if len(errors) > 1 else f" (see {place})"
    text = f"the totals of the files cannot be right{more}: {sentence(first)}"
    if first["kind"] in ACCEPTABLE:
        entry = f"{first['variable'] or '*'}@{first['area']}"
        text += f"; if it is known and right, say so with verify.accept: ['{entry}: why']"
    raise RunError(text)


def sentence(finding: pd.Series) -> str:
    """Return a finding in words: ``zero: snap of CA-30 is 0, expected 8 or more; likely ...``."""
    low, high = finding["low"], finding["high"]
    if np.isfinite(low) and np.isfinite(high):
        range_ = f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"
    else:
        range_ = f"{low:,.6g} or more" if np.isfinite(low) else f"{high:,.6g} or less"
    expected = f", expected {range_}" if np.isfinite(low) or np.isfinite(high) else ""
    what = " of ".join(word for word in (finding["variable"], finding["area"]) if word)
    figure = f"{what} is {finding['figure']:,.6g}{expected}"
    return f"{finding['kind']}: {figure}; likely: {finding['cause']}"


def _missing(table: pd.DataFrame, areas: Collection[str]) -> pd.DataFrame:
    lost = pd.Series(sorted(set(areas) - set(table["area"])), dtype=str, name="area").to_frame()
    lost["geo_level"] = np.where(lost["area"].str.contains("-"), "district", "state")
    lost["variable"] = ""
    words = "no record was kept or placed there: too few records for so many areas"
    return found(lost, "error", "missing", words, figure=0.0, low=1.0)


def _negative(table: pd.DataFrame) -> pd.DataFrame:
    never = {v: all(_never_below_zero(t) for t in terms(v)) for v in table["variable"].unique()}
    below = table[(table["total"] < 0) & table["variable"].map(never).astype(bool)]
    return found(below, "error", "negative", "a weight or a value below zero that cannot be", low=0.0)


def _never_below_zero(variable: str) -> bool:
    if variable in COUNTS:
        return True
    known = catalogue()
    kind = known.get(variable).value_type if variable in known else ""
    return kind == "bool" or not any(word in variable.split("_") for word in _SIGNED)


def _sums(files: pd.DataFrame, areas: Collection[str]) -> pd.DataFrame:
    """Find files whose sums are not those of the files of their parts, read each by itself."""
    long = files.melt(["area", "geo_level"], ["households", "persons", "weight"], "variable", "total")
    out = []
    for whole, part in (("state", "district"), ("national", "state"), ("national", "district")):
        due = pd.Series([name for name in areas if ("-" in name) == (part == "district")], dtype=str)
        inside = long[long["geo_level"] == part]
        groups = inside.groupby([_over(inside["area"], whole), "variable"])
        sums = groups["total"].agg(["sum", "size"]).reset_index()
        both = long[long["geo_level"] == whole].merge(sums, on=["area", "variable"])
        # Only where all parts have files.
        both = both[both["size"] == both["area"].map(_over(due, whole).value_counts())]
        slack = SUMS * both["sum"].abs()
        wrong = (both["total"] - both["sum"]).abs() > slack
        low, high = (both["sum"] - slack)[wrong], (both["sum"] + slack)[wrong]
        words = f"the files of its {part}s hold other households, or other weights"
        out.append(found(both[wrong], "error", "sums", words, low=low, high=high))
    return pd.concat(out)


def _over(names: pd.Series, whole: str) -> pd.Series:
    return names.str[:2] if whole == "state" else names.mask(names.notna(), "US")


def _outliers(table: pd.DataFrame) -> pd.DataFrame:
    persons = table[table["variable"] == "person_count"].set_index("area")["total"]
    people = table["area"].map(persons) if len(persons) else table["households"]
    table = table.assign(each=table["total"] / people.where(people > 0))
    counts = table["variable"] == ("person_count" if len(persons) else "")
    table = table[table["each"].notna() & (table["nonzero"] > 0) & ~counts]
    parts = []
    for level in ("state", "district"):
        rows = table[table["geo_level"] == level]
        # Amounts that are above zero nearly everywhere differ by factors; others, such as losses, by dollars.
        log = (rows["each"] > 0).groupby(rows["variable"]).transform("mean") >= _MOSTLY
        rows = rows.assign(log=log)[~log | (rows["each"] > 0)]
        x = rows["each"].copy()
        x[rows["log"]] = np.log(x[rows["log"]])
        rows = rows.assign(x=x)
        beside = _robust(rows, ["variable", "state"])["z"]
        rows = rows.assign(**_robust(rows, ["variable"]))
        # Against its state as well where that has districts enough: programmes differ by state.
        own = beside.abs().fillna(np.inf) if level == "district" else np.inf
        z, far = np.minimum(rows["z"].abs(), own), (rows["x"] - rows["middle"]).abs()
        # One small amount among few records is low by any measure, and says nothing.
        few = rows["nonzero"] < _FEW
        wide = (z > OUTLIER) & (~rows["log"] | (far > np.log(OUTLIER_FACTOR))) & ~(few & (rows["z"] < 0))
        absurd = wide & rows["log"] & (z > ABSURD) & (far > np.log(ABSURD_FACTOR))
        parts.append(rows.assign(absurd=absurd, few=few)[wide])
    rows = pd.concat(parts)
    bound = np.maximum(OUTLIER * rows["scale"], np.where(rows["log"], np.log(OUTLIER_FACTOR), 0.0))
    low, high = rows["middle"] - bound, rows["middle"] + bound
    low[rows["log"]], high[rows["log"]] = np.exp(low[rows["log"]]), np.exp(high[rows["log"]])
    sampling = "few records carry it (" + rows["nonzero"].astype(str) + "): sampling"
    words = sampling.where(
        rows["few"].astype(bool), "large weights of a few records, or a rule, unit or year of this area alone"
    )
    severity = np.where(rows["absurd"].astype(bool), "error", "warning")
    return found(rows, severity, "outlier", words, figure=rows["each"], low=low, high=high)


def _robust(rows: pd.DataFrame, by: list[str]) -> dict[str, pd.Series]:
    """Return median, scale and z of x within groups; NaN where a group has too few areas.

    The scale is 1.4826 times the median absolute deviation, with the sampling error of the area's own records
    (about one over the root of those with a value) beside it where x is a logarithm.
    """
    groups = rows.groupby(by)["x"]
    middle = groups.transform("median")
    spread = 1.4826 * (rows["x"] - middle).abs().groupby([rows[b] for b in by]).transform("median")
    own = (1.0 / rows["nonzero"]).where(rows["log"].astype(bool), 0.0)
    scale = np.sqrt(spread**2 + own).where(groups.transform("size") >= LEAST_PEERS)
    return {"middle": middle, "scale": scale, "z": (rows["x"] - middle) / scale.where(scale > 0)}


def accepted_warnings(warnings: Sequence[str], accept: Sequence[str]) -> list[str]:
    """Return those warnings of a plan that entries of `accept` name by words: ``plan@WORDS: why``."""
    named = [area for variable, area in map(_meant, accept) if variable == PLAN and area]
    return [text for text in warnings if any(words in text for words in named)]


def _meant(entry: str) -> tuple[str, str]:
    variable, _, area = entry.partition(":")[0].partition("@")
    return variable.strip(), area.strip()


def _accepted(findings: pd.DataFrame, accept: Sequence[str], warnings: Sequence[str]) -> pd.DataFrame:
    unused = []
    for entry in accept:
        variable, area = _meant(entry)
        mine = findings["variable"].eq(variable) | (variable == "*")
        mine &= findings["area"].eq(area) | (area == "")
        mine &= findings["kind"].isin(ACCEPTABLE)
        findings.loc[mine, "accepted"] = entry
        findings.loc[mine, "severity"] = "warning"
        if not mine.any() and not accepted_warnings(warnings, [entry]):
            unused.append({"area": area, "geo_level": "other", "variable": variable, "accepted": entry})
    rows = pd.DataFrame(unused, columns=["area", "geo_level", "variable", "accepted"]).assign(total=np.nan)
    words = "this entry of verify.accept meets no finding: take it out, or mend its spelling"
    more = found(rows, "warning", "accept", words)
    more["accepted"] = rows["accepted"]
    return pd.concat([findings, more], ignore_index=True)
