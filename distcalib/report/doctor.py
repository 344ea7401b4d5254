"""The table of `distcalib doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distcalib.runs.doctor import FAILS, NOTE, Check

_COLOURS = {FAILS: "bold red", NOTE: "yellow"}


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """Print each check with its mend, and how many fail."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("place", overflow="fold")
    for name in ("check", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for check in checks:
        words = f"{check.found}\n-> {check.mend}" if check.mend else check.found
        table.add_row(check.place, check.name, check.status, Text(words), style=_COLOURS.get(check.status))
    console.print(table)
    failed = sum(check.status == FAILS for check in checks)
    console.print(f"{failed} of {len(checks)} checks fail" if failed else f"all {len(checks)} checks pass")
