"""A run folder in the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import panel as pn


def run_view(folder: Path) -> Any:
    """Return what shows a run folder."""
    return pn.pane.Markdown(f"`{folder.name}`")


def compare_view(a: Path, b: Path) -> Any:
    """Return what shows two run folders beside each other."""
    return pn.pane.Markdown(f"`{a.name}` and `{b.name}`")
