"""The table of ``docs/data_targets.md`` that says what is fitted, checked and excluded."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distcalib.errors import InputError
from distcalib.targets.sources import LEVELS, bundled_targets

_BEGIN, _END = "<!-- status table: begin -->\n", "<!-- status table: end -->"
_COLUMNS = ["concept", "population", "areas", "source", "vintage", "rows", "status"]


def status_table(targets: pd.DataFrame | None = None) -> str:
    """Return the register as a Markdown table, one line a concept, source and status.

    Parameters
    ----------
    targets
        As `distcalib.targets.sources.bundled_targets` returns them, which is the default.
    """
    table = bundled_targets() if targets is None else targets
    table = table.assign(source=table["source"] + ", " + table["table"])
    # What a measurement decided is said in the register; here only that it did.
    reason = table["reason"].str.replace(r"^uncalibrated total is .*", "far from it uncalibrated", regex=True)
    table["status"] = table["status"] + reason.where(reason == "", ": " + reason)
    table["level"] = table["geo_level"].map({level: i for i, level in enumerate(LEVELS)})
    key = ["concept", "population", "source", "vintage", "status"]
    grouped = table.sort_values("level").groupby(key, sort=False)
    lines = grouped.agg(areas=("geo_level", lambda level: ", ".join(level.unique())), rows=("value", "size"))
    lines = lines.reset_index().sort_values(key)[_COLUMNS]
    rows = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in lines.itertuples(index=False)]
    return "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|", *rows]) + "\n"


def write_status_table(page: str | Path, targets: pd.DataFrame | None = None) -> None:
    """Put the status table between its two marks in a Markdown page, in place.

    Raises
    ------
    InputError
        When the page lacks a mark.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8")
    page.write_text(_replaced(text, status_table(targets), page), encoding="utf-8")


def _replaced(text: str, table: str, page: Path) -> str:
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise InputError("lacks the marks of the status table", place=page, expected=_BEGIN + _END)
    return before + begin + table + end + after
