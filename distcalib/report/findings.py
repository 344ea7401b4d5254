"""What `distcalib data contradictions` prints: findings by kind, a line a quantity with its worst area."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.text import Text

from distcalib.report.pages import amount_text, area_name
from distcalib.targets.contradictions import SEVERITIES, distance, summary

_SHOWN = 8


def print_findings(findings: pd.DataFrame, console: Console) -> None:
    """Print findings, or that there are none.

    Parameters
    ----------
    findings
        As `distcalib.targets.contradictions.find_contradictions` returns them.
    console
        Where to.
    """
    console.print(_listing(findings) if len(findings) else "no contradictions")


def _listing(findings: pd.DataFrame) -> Group:
    lines: list[Text] = []
    for (severity, kind), group in summary(findings).groupby(["severity", "kind"], sort=False):
        style = {"error": "bold red", "warning": "bold yellow"}.get(str(severity), "bold")
        lines.append(Text.assemble((f"{severity}: {kind}", style), f". {group['why'].iloc[0]}"))
        if severity == "note":
            # Of many constraint sets, as the bands of age are, the worst one is named.
            same = ["variable", "geo_level", "period", *(["compared_with"] if kind == "population" else [])]
            sets = group.groupby(same)["constraints"].transform("nunique")
            worst = group.assign(sets=sets, off=-distance(group)).sort_values("off", kind="stable")
            group = worst.drop_duplicates(same).sort_index()
        lines += [Text("  " + _line(row), overflow="fold") for row in group.head(_SHOWN).to_dict("records")]
        if len(group) > _SHOWN:
            lines.append(Text(f"  and {len(group) - _SHOWN} more quantities"))
    counts = findings["severity"].value_counts().reindex(SEVERITIES, fill_value=0)
    lines.append(Text(", ".join(f"{n} {s}{'' if n == 1 else 's'}" for s, n in counts.items())))
    return Group(*lines)


def _line(row: dict[str, Any]) -> str:
    constraints = f" [{row['constraints']}]" if row["constraints"] else ""
    if row.get("sets", 1) > 1:
        constraints += f" and {row['sets'] - 1} more sets"
    where = row["geo_level"] + (f", {row['areas']} areas" if row["areas"] > 1 else "")
    period = f" {row['period']}" if row["period"] else ""  # a stratum has none
    words = f"{row['variable']}{constraints}{period}, {where}"
    area = area_name(row["geographic_id"])
    # The table has no unit: figures stand without a sign.
    value, against = amount_text(row["value"], ""), amount_text(row["against"], "")
    if against:
        words += (", worst " if row["areas"] > 1 else " ") + area if area else ""
        words += f": {value} against {against} (ratio {row['ratio']:.3g})"
    elif row["areas"] == 1:
        words += f" {area}: {value}" if value else f" {area}"
    return words + (f"; {row['compared_with']}" if row["compared_with"] else "")
