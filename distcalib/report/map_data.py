"""What the map of districts can show: of each variable a class of colour and a text for every district."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.report.pages import amount_text, change_text, count_text, figure_text, share_text
from distcalib.report.run_tables import RunTables
from distcalib.report.tiles import district_name
from distcalib.report.wording import measures, quantity, short

Float = NDArray[np.float64]

# Breaks between classes of a share, and of a signed error.
_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_ERRORS = (-0.2, -0.1, -0.05, -0.01, 0.01, 0.05, 0.1, 0.2)
_SIGNED, _ORDERED, _NONE = "ABCDEFGHI", "abcdefg", "x"
#: Colours of the classes: cividis from low to high, blue to orange from too low to too high, white.
FILLS = {
    "a": "#00204c", "b": "#223d6c", "c": "#565c6c", "d": "#7b7b78", "e": "#a69c75", "f": "#d3c065",
    "g": "#ffe945", "A": "#08519c", "B": "#3182bd", "C": "#6baed6", "D": "#bdd7e7", "E": "#f0f0f0",
    "F": "#fdd0a2", "G": "#fdae6b", "H": "#e6550d", "I": "#a63603", "x": "#ffffff",
}  # fmt: skip
#: Classes whose colour is so dark that what is written on it is white.
DARK = "abcdABI"


@dataclass(frozen=True, eq=False)
class MapVariable:
    """A variable of the map.

    Attributes
    ----------
    group, label
        Where it stands in the menu, and its name.
    about
        What the figure is, in words.
    values
        float64 (n districts,); NaN without a figure.
    classes
        One letter a district: a-g from low to high, A-I from too low to too high, x without a figure.
    texts
        What is said of each district.
    legend
        Class and text of each colour.
    """

    group: str
    label: str
    about: str
    values: Float
    classes: str
    texts: list[str]
    legend: list[tuple[str, str]]


def map_variables(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    """Return what can be shown of a run's districts, the fit first; none where nothing is known of them.

    Parameters
    ----------
    tables
        Of the run.
    districts
        GEOIDs, in the order of classes and texts.
    """
    return [
        *_of_fit(tables, districts),
        *_of_population(tables, districts),
        *_of_weights(tables, districts),
        *_of_targets(tables, districts),
        *_of_totals(tables, districts),
    ]


def own_variable(label: str, values: Float, signed: bool = False) -> MapVariable:
    """Return figures of one's own, float64 (n districts,), as a variable; signed ones are relative errors."""
    if signed:
        return _errors("", label, "relative error", values, [change_text(v) for v in values])
    return _amounts("", label, "classes of equal numbers of districts", values,
                    [figure_text(v) for v in values], figure_text)  # fmt: skip


def district_table(tables: RunTables) -> pd.DataFrame:
    """Return a row a district: how its fitted targets are met, its population and its weights.

    Returns
    -------
    DataFrame
        cd_geoid, district (name), targets, within_tolerance (share), median (absolute relative error), worst
        (name), worst_error, population (relative error), records, donors, effective_sample_size,
        effective_sample_size_by_donor, effective_share, at_lower, at_upper, largest_donor_share; NaN where
        the run has no such table.
    """
    out = pd.DataFrame({"cd_geoid": tables.districts})
    out["district"] = [district_name(d) for d in tables.districts]
    fitted = _fitted(tables)
    if fitted is not None:
        own = fitted[fitted["geo_level"] == "district"]
        own = own.assign(cd_geoid=own["geographic_id"].astype(np.int64))
        by = own.groupby("cd_geoid", sort=True)
        judged = by.agg(
            targets=("name", "size"),
            within_tolerance=("within_tolerance", "mean"),
            median=("abs_rel_error", "median"),
        )
        worst = own.loc[by["abs_rel_error"].idxmax(), ["cd_geoid", "quantity", "rel_error"]]
        judged = judged.join(worst.set_index("cd_geoid").set_axis(["worst", "worst_error"], axis=1))
        out = out.merge(judged, on="cd_geoid", how="left")
    if tables.population is not None:
        people = tables.population[["district", "relative"]].rename(columns={"relative": "population"})
        out = out.merge(people, on="district", how="left")
    if tables.areas is not None:
        own = tables.areas[tables.areas["geo_level"] == "district"].drop(columns=["geo_level", "weight"])
        own = own.assign(cd_geoid=own["area"].astype(np.int64)).drop(columns="area")
        out = out.merge(own.drop(columns=["columns"], errors="ignore"), on="cd_geoid", how="left")
    for name in ("targets", "within_tolerance", "median", "worst_error", "population", "records", "donors",
                 "effective_sample_size", "effective_sample_size_by_donor", "effective_share", "at_lower",
                 "at_upper", "largest_donor_share"):  # fmt: skip
        if name not in out:
            out[name] = np.nan
    out["worst"] = out["worst"].fillna("") if "worst" in out else ""
    return out


def _fitted(tables: RunTables) -> pd.DataFrame | None:
    if tables.targets is None or not tables.fitted:
        return None
    fitted = tables.targets[tables.targets["status"] == "fit"]
    return fitted.assign(quantity=quantity(fitted))


def _of_fit(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    if _fitted(tables) is None:
        return []
    table = district_table(tables).set_index("cd_geoid").reindex(districts)
    said = [
        f"{share_text(a)} of {count_text(n)} within tolerance, median error {share_text(m)}" if n > 0 else ""
        for a, n, m in zip(table["within_tolerance"], table["targets"], table["median"], strict=True)
    ]
    worst = [
        f"{change_text(e)}: {q}" if q else ""
        for e, q in zip(table["worst_error"], table["worst"], strict=True)
    ]
    median = table["median"].to_numpy(np.float64)
    return [
        _shares(
            "Fit",
            "Fitted targets within tolerance",
            "share of the district's fitted targets that are within their tolerance",
            table["within_tolerance"].to_numpy(np.float64),
            said,
        ),
        _amounts(
            "Fit",
            "Median error",
            "median absolute relative error of the district's fitted targets",
            median,
            [share_text(v) for v in median],
            share_text,
        ),
        _errors(
            "Fit",
            "Largest miss",
            "the fitted target of the district that is missed most, and by how much",
            table["worst_error"].to_numpy(np.float64),
            worst,
        ),
    ]


def _of_population(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    people = tables.population
    if people is None:
        return []
    table = people.set_index("district").reindex([district_name(d) for d in districts])
    error = table["relative"].to_numpy(np.float64)
    said = [
        f"{change_text(e)}: {count_text(f)} persons in the file, {count_text(p)} official"
        if np.isfinite(e)
        else ""
        for e, f, p in zip(error, table["from_file"], table["population"], strict=True)
    ]
    about = "persons in the district's file against the official population"
    return [_errors("Population", "Population error", about, error, said)]


def _of_weights(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    if tables.areas is None:
        return []
    table = district_table(tables).set_index("cd_geoid").reindex(districts)
    shown: list[tuple[str, str, str, Callable[[float], str]]] = [
        ("effective_sample_size_by_donor", "Effective sample size by donor",
         "Kish's effective number of donors (clones of one donor are one household)", count_text),
        ("records", "Records", "records with weight", count_text),
        ("effective_share", "Evenness of weights", "effective sample size over records", share_text),
        ("at_upper", "Weights at their upper bound", "share of the records whose weight can grow no more",
         share_text),
        ("largest_donor_share", "Largest donor",
         "share of the district's weight that its largest donor carries", share_text),
    ]  # fmt: skip
    out = []
    for name, label, about, words in shown:
        values = table[name].to_numpy(np.float64)
        out.append(_amounts("Weights", label, about, values, [words(v) for v in values], words))
    return out


def _of_targets(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    """One variable a measure that has targets by district, else by state; checked ones are marked."""
    targets = tables.targets
    if targets is None or not tables.fitted:
        return []
    out = []
    codes = np.array(districts)
    for level, code, words in (
        ("district", codes, "Targets by district"),
        ("state", codes // 100, "Targets by state"),
    ):
        own = targets[targets["geo_level"] == level]
        own = own.assign(quantity=measures(own, "geographic_id"), code=own["geographic_id"].astype(np.int64))
        for (name, status), rows in own.groupby(["quantity", "status"], sort=True):
            # Of a measure of several years the last row stands.
            rows = rows.drop_duplicates("code", keep="last").set_index("code").reindex(code)
            error = rows["rel_error"].to_numpy(np.float64)
            said = [
                f"{change_text(e)}: estimate {amount_text(x)}, official {amount_text(t)}"
                if np.isfinite(e)
                else ""
                for e, x, t in zip(error, rows["estimate"], rows["target"], strict=True)
            ]
            label = name if status == "fit" else f"{name} (not fitted)"
            about = "estimate less official figure, relative to the official one" + (
                "; every district shows its state's" if level == "state" else ""
            )
            out.append(_errors(words, label, about, error, said))
    return out


def _of_totals(tables: RunTables, districts: list[int]) -> list[MapVariable]:
    """One variable an amount of the files, a person."""
    totals = tables.totals
    if totals is None:
        return []
    own = totals[totals["geo_level"] == "district"]
    wide = own.pivot_table(index="area", columns="variable", values="total", aggfunc="sum")
    wide = wide.reindex([district_name(d) for d in districts])
    if "person_count" not in wide:
        return []
    out = []
    for name in wide.columns:
        if name in ("person_count", "household_count"):
            continue
        values = (wide[name] / wide["person_count"].where(wide["person_count"] > 0)).to_numpy(np.float64)
        said = [f"{figure_text(v)} a person" if np.isfinite(v) else "" for v in values]
        about = f"weighted total of {name} in the district's file, over its persons"
        out.append(_amounts("Totals of the files, a person", short(name), about, values, said, figure_text))
    return out


def _shares(group: str, label: str, about: str, values: Float, texts: list[str]) -> MapVariable:
    legend = [
        "under 50 %",
        "50 to 70 %",
        "70 to 80 %",
        "80 to 90 %",
        "90 to 95 %",
        "95 to under 100 %",
        "all",
    ]
    return _variable(group, label, about, values, texts, _SHARES, list(zip(_ORDERED, legend, strict=True)))


def _errors(group: str, label: str, about: str, values: Float, texts: list[str]) -> MapVariable:
    inner = [f"{a:+.0%} to {b:+.0%}" for a, b in pairwise(_ERRORS)]
    legend = [f"below {_ERRORS[0]:+.0%}", *inner, f"above {_ERRORS[-1]:+.0%}"]
    legend[4] = "within 1 %"
    return _variable(group, label, about, values, texts, _ERRORS, list(zip(_SIGNED, legend, strict=True)))


def _amounts(
    group: str, label: str, about: str, values: Float, texts: list[str], words: Callable[[float], str]
) -> MapVariable:
    """Classes of near-equal numbers of districts; fewer where values are equal."""
    good = values[np.isfinite(values)]
    breaks = np.unique(np.quantile(good, np.arange(1, 7) / 7)) if len(good) else np.array([])
    breaks = breaks[breaks > good.min()] if len(good) else breaks
    letters = [_ORDERED[round(i * 6 / max(len(breaks), 1))] for i in range(len(breaks) + 1)]
    ends = [good.min(), *breaks, good.max()] if len(good) else []
    legend = [
        (letter, f"{words(a)} to {words(b)}")
        for letter, a, b in zip(letters, ends[:-1], ends[1:], strict=False)
    ]
    return _variable(group, label, about, values, texts, tuple(breaks), legend)


def _variable(
    group: str, label: str, about: str, values: Float, texts: list[str], breaks: Sequence[float],
    legend: list[tuple[str, str]],
) -> MapVariable:  # fmt: skip
    at = np.searchsorted(np.asarray(breaks, np.float64), values, side="right")
    letters = [letter for letter, _ in legend]
    classes = [
        letters[i] if np.isfinite(v) else _NONE for i, v in zip(at.tolist(), values.tolist(), strict=True)
    ]
    shown = legend + ([(_NONE, "no figure")] if _NONE in classes else [])
    said = [t or "no figure" for t in texts]
    return MapVariable(group, label, about, values, "".join(classes), said, shown)
