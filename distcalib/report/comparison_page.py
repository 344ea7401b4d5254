"""What a comparison of two runs shows: an HTML page without network and script, and lines on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from distcalib.geography.district import District
from distcalib.report.comparison import Comparison
from distcalib.report.map_data import MapVariable, own_variable
from distcalib.report.pages import (
    Section,
    amount_text,
    change_text,
    count_text,
    render,
    section,
    share_text,
)

#: Rows of a section on the page, and on the terminal.
ON_PAGE, ON_TERMINAL = 40, 8


def page(found: Comparison) -> str:
    """Return the page of a comparison."""
    return render(
        "comparison.html", runs=runs_in_words(found), notes=found.notes, sections=sections(found, ON_PAGE)
    )


def print_comparison(found: Comparison, output: Path, console: Console) -> None:
    """Print the biggest movers of each kind, what could not be compared, and where the whole of it is."""
    for name, words in runs_in_words(found):
        console.print(f"{name}: {words}", highlight=False, markup=False)
    for part in sections(found, ON_TERMINAL):
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, column in enumerate(part.columns):
            shown.add_column(column, justify="right" if i >= part.numbers else "left", overflow="fold")
        for row in part.rows:
            shown.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(part.title if part.rows else f"{part.title}: nothing differs", style="bold")
        if part.rows:
            console.print(shown)
        if part.total > len(part.rows):
            console.print(f"and {part.total - len(part.rows):,} more", highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"{output / 'comparison.html'}: the page, beside the tables", highlight=False, markup=False)


def runs_in_words(found: Comparison) -> list[tuple[str, str]]:
    """Return A and B, each with its folder, name, plan and records."""
    out = []
    for name, run in (("A", found.a), ("B", found.b)):
        digest, records = run.plan["digest"][:12], run.summary["records_kept"]
        title = run.plan["run"]["name"]
        out.append((name, f"{run.folder} ({title}), plan {digest}, {records:,} records kept"))
    return out


def sections(found: Comparison, most: int) -> list[Section]:
    """Return the tables of a comparison as texts, each with at most `most` rows."""
    both = found.targets[found.targets["in"] == "both"]
    fitted = both[both["fitted"]]
    totals = found.totals[found.totals["in"] == "both"]
    nation = totals[totals["geo_level"] == "national"]
    areas = totals[totals["geo_level"] != "national"]
    new = found.findings[found.findings["in"] != "both"]
    new = new.assign(what=new["in"].map({"only A": "gone in B", "only B": "new in B"}))
    named = both.assign(changed=both["status_a"] + " to " + both["status_b"])
    moved = named[(named["status_a"] != named["status_b"]) | (named["target_a"] != named["target_b"])]
    amount = ("A", "total_a", amount_text), ("B", "total_b", amount_text), ("change", "relative", change_text)
    share = ("of the nation's", "share", change_text)
    place = ("area", "area", str), ("variable", "variable", str)
    estimates = (
        ("target", "name", str), ("official", "target_b", amount_text), ("A", "estimate_a", amount_text),
        ("B", "estimate_b", amount_text), ("change", "relative", change_text),
    )  # fmt: skip
    accuracy = (
        ("targets of", "group", str), ("n", "targets", count_text),
        ("5 %: A", "within_5_a", share_text), ("B", "within_5_b", share_text),
        ("toler.: A", "within_tolerance_a", share_text), ("B", "within_tolerance_b", share_text),
        ("median: A", "median_a", share_text), ("B", "median_b", share_text),
    )  # fmt: skip
    size = (
        ("area", "area", str), ("records: A", "records_a", count_text), ("B", "records_b", count_text),
        ("effective: A", "effective_sample_size_a", count_text), ("B", "effective_sample_size_b", count_text),
        ("change", "relative", change_text),
    )  # fmt: skip
    pair = ("A", "a", str), ("B", "b", str)
    figures = ("A", "a", _figure), ("B", "b", _figure), ("difference", "difference", _figure)
    summary = found.summary[found.summary["difference"] != 0]
    return [
        section("Settings, inputs and versions that differ", found.settings,
                (("setting", "setting", str), *pair), most),
        section("Findings that appeared or are gone", new, (("", "what", str), ("", "text", str)), most),
        section("Fit", summary, (("figure", "figure", str), *figures), most, numbers=1),
        section("Targets that both runs fit: shares within 5 % and within tolerance, median error",
                by_group(found.groups), accuracy, most, numbers=1),
        section("Targets whose status or value differs", moved,
                (("target", "name", str), ("status", "changed", str),
                 ("official: A", "target_a", amount_text), ("B", "target_b", amount_text)), most, numbers=2),
        section("Fitted targets whose estimate moved most", largest(fitted, "relative"), estimates, most,
                numbers=1),
        section("Totals of the nation", largest(nation, "relative"), (place[1], *amount), most, numbers=1),
        section("Totals of areas that moved most, relative to themselves", largest(areas, "relative"),
                (*place, *amount), most, numbers=2),
        section("Totals of areas that moved most, relative to the nation", largest(areas, "share"),
                (*place, *amount[:2], share), most, numbers=2),
        section("Weights: effective sample sizes that moved most", largest(found.weights, "relative"), size,
                most, numbers=1),
        section("Files that differ", found.files, (("file", "path", str), ("in", "in", str)), most),
    ]  # fmt: skip


def largest(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows of which a column is not zero, the largest first."""
    size = table[column].abs()
    return table.assign(size=size)[size > 0].sort_values("size", ascending=False, kind="stable")


def difference_maps(found: Comparison) -> tuple[list[int], list[MapVariable]]:
    """Return the districts of either run, and of each figure of both the change B less A, relative to A.

    First the effective sample size, then the totals of the files, then the estimates of targets.
    """
    parts = [found.weights.assign(what="Effective sample size", group="Weights")]
    parts.append(found.totals.assign(what=found.totals["variable"], group="Totals of the files"))
    bare = found.targets["name"].str.partition("/")[2]
    parts.append(found.targets.assign(what=bare, group="Estimates of targets"))
    table = pd.concat([part[part["geo_level"] == "district"] for part in parts], ignore_index=True)
    geoids = {name: District.parse(name).geoid for name in table["area"].unique()}
    districts = sorted(geoids.values())
    table = table[table["relative"].notna()].assign(geoid=table["area"].map(geoids))
    out = []
    for (group, what), rows in table.groupby(["group", "what"], sort=False):
        values = rows.drop_duplicates("geoid", keep="last").set_index("geoid")["relative"].reindex(districts)
        shown = own_variable(str(what), values.to_numpy(np.float64), signed=True)
        out.append(replace(shown, group=str(group), about="B less A, as a share of A"))
    return districts, out


def by_group(groups: pd.DataFrame) -> pd.DataFrame:
    """Name the groups, those first whose share within tolerance, then whose median error moved most."""
    domain = (" by " + groups["domain"]).where(groups["domain"] != "", "")
    named = groups.assign(group=groups["geo_level"] + " " + groups["variable"] + domain)
    for name in ("within_tolerance", "median"):
        named[name] = -(named[f"{name}_b"] - named[f"{name}_a"]).abs()
    return named.sort_values(["within_tolerance", "median"], kind="stable")


def _figure(value: float) -> str:
    return f"{value:,.6g}" if np.isfinite(value) else ""
