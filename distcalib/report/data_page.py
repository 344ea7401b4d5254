"""What a data check shows: one HTML page that needs no network and no script, and lines on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from distcalib.report.charts import dots
from distcalib.report.pages import amount_text, area_name, ratio_text, render


def page(table: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    table
        The rows of a check, as `distcalib.report.data_tables.tidy` gives them.
    facts
        The facts of a `distcalib.report.data_check.Check`.
    """
    parts = dict(iter(table.groupby("section", sort=False)))
    empty = table.iloc[:0]
    headline, register = parts["headline"], parts["register"]
    nation = register[register["area"] == "US"]
    states = _by_state(register, headline)
    return render(
        "data_check.html",
        facts=facts,
        summary=_summary(headline),
        headline=_records(headline),
        out=_records(headline[headline["within"] == "no"]),
        ages=Markup(_age_plot(nation)),
        strips=Markup(_state_plot(states)),
        states=states.map(ratio_text).reset_index().to_dict("split"),
        raking=_records(parts.get("raking", empty).sort_values(["quantity", "constraints"], kind="stable")),
        filing=_records(parts["filing status"].sort_values("quantity")),
        unreachable=_unreachable(parts.get("unreachable", empty)),
        support=_records(parts["support"].sort_values(["ratio", "quantity"], ascending=[False, True])),
        excluded=_by_reason(parts.get("excluded", empty)),
        eligible=_records(parts["take-up"].sort_values("quantity", kind="stable")),
        imputed=_records(parts.get("imputed", empty)),
        nation=_records(nation.sort_values(["status", "quantity", "constraints"], kind="stable")),
    )


def print_check(table: pd.DataFrame, output: Path, console: Console) -> None:
    """Print the headline table of a check, and where the whole of it is."""
    headline = table[table["section"] == "headline"]
    shown = Table(title="Before any calibration, against official figures", title_justify="left")
    shown.add_column("quantity", overflow="fold")
    for name in ("before", "now", "official", "ratio", "allowed", "within"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in headline.itertuples(index=False):
        amounts = (amount_text(float(v), str(row.unit)) for v in (row.before, row.value, row.official))
        shown.add_row(row.quantity, *amounts, ratio_text(row.ratio), f"{row.allowed:.0%}", row.within)
    console.print(shown)
    console.print(_summary(headline), highlight=False, markup=False)
    console.print(f"{output / 'check.csv'}: {len(table):,} rows", highlight=False, markup=False)
    console.print(f"{output / 'check.html'}: the page", highlight=False, markup=False)


def print_drift(changed: pd.DataFrame, reference: str, output: Path, console: Console) -> None:
    """Print every figure that differs from an earlier check, and what to do where that is meant."""
    for row in changed.itertuples(index=False):
        words = " ".join(w for w in (row.section, row.quantity, row.constraints, row.area) if w)
        line = f"drift: {words}: {row.column} was {row.old!r}, is {row.new!r}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if len(changed):
        end = f"{len(changed):,} differences; if they are meant, copy {output / 'check.csv'} to {reference}"
    else:
        end = f"no difference from {reference}"
    console.print(end, highlight=False, markup=False, soft_wrap=True)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")


def _summary(headline: pd.DataFrame) -> str:
    judged = headline[headline["within"] != ""]
    out = judged.loc[judged["within"] == "no", "quantity"].tolist()
    words = f"{len(judged) - len(out)} of {len(judged)} headline figures are within their bound"
    return words + ("." if not out else f"; outside are {', '.join(out)}.")


def _by_state(register: pd.DataFrame, headline: pd.DataFrame) -> pd.DataFrame:
    """Ratios of the headline quantities that have an official figure by state: states x quantities."""
    names = headline.set_index(["variable", "constraints"])["quantity"]
    names = names[~names.index.duplicated()]
    mine = register[register["area"] != "US"]
    quantity = names.reindex(pd.MultiIndex.from_frame(mine[["variable", "constraints"]])).to_numpy()
    mine = mine.assign(quantity=quantity, state=mine["area"].map(area_name))[pd.notna(quantity)]
    wide = mine.pivot_table(index="state", columns="quantity", values="ratio", aggfunc="first", sort=False)
    order = [q for q in headline["quantity"] if q in wide.columns]
    return wide[order].sort_index()


def _age_plot(nation: pd.DataFrame) -> str:
    bands = nation[nation["constraints"].str.startswith("age") & (nation["variable"] == "person_count")]
    low = bands["constraints"].str.extract(r"age>=(\d+)")[0].astype(float)
    bands = bands.assign(low=low).sort_values("low")
    high = [*(f"-{int(a) - 1}" for a in bands["low"].iloc[1:]), "+"]
    names = [f"{int(a)}{b}" for a, b in zip(bands["low"], high, strict=True)] if len(bands) else []
    before = bands["before"] / bands["official"]
    lines = [
        (name, [("before", b, "before"), ("now", r, "now")])
        for name, b, r in zip(names, before, bands["ratio"], strict=True)
    ]
    return dots(lines, 0.5, 1.5, "Persons by age, ratio to the official figure")


def _state_plot(states: pd.DataFrame) -> str:
    lines = [(q, [(s, r, "now") for s, r in states[q].items()]) for q in states.columns]
    return dots(lines, 0.25, 4.0, "Ratio to the official figure; each dot is a state")


def _unreachable(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a quantity and reason, with its states in a line."""
    names = rows.assign(state=rows["area"].map(area_name))
    groups = names.groupby(["quantity", "variable", "constraints", "reason"], sort=True)["state"]
    return groups.agg(", ".join).reset_index().to_dict("records")


def _by_reason(rows: pd.DataFrame) -> list[dict[str, Any]]:
    groups = rows.groupby("reason", sort=True)["quantity"]
    return groups.agg(lambda q: ", ".join(dict.fromkeys(q))).reset_index().to_dict("records")
