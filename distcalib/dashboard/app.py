"""The page of one browser session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import panel as pn

from distcalib.dashboard.run_view import compare_view, run_view
from distcalib.errors import DistcalibError


def page(runs: Mapping[str, Path]) -> Any:
    """Return the page of a new session.

    Parameters
    ----------
    runs
        Label -> run folder, of those that the command line named; a session can open no others.
    """
    tabs = pn.Tabs(("Runs", runs_tab(runs)), dynamic=True, sizing_mode="stretch_width")
    return pn.Column("# distcalib", tabs, sizing_mode="stretch_width", max_width=1200)


def runs_tab(runs: Mapping[str, Path]) -> Any:
    """Return the menus of the runs, and beneath them the one that is chosen, or two beside each other."""
    if not runs:
        return pn.pane.Markdown(
            "No run folders: start with `distcalib dashboard RUN ...` or `--runs FOLDER`."
        )
    first = pn.widgets.Select(name="Run", options=["", *runs], value="")
    second = pn.widgets.Select(name="Compare with", options=["", *runs], value="")
    shown = pn.Column(sizing_mode="stretch_width")

    async def show(*_: Any) -> None:
        shown.loading = True
        try:
            shown[:] = [await asyncio.to_thread(_view, runs, first.value, second.value)]
        finally:
            shown.loading = False

    for menu in (first, second):
        menu.param.watch(show, "value")
    return pn.Column(pn.FlexBox(first, second), shown, sizing_mode="stretch_width")


def _view(runs: Mapping[str, Path], first: str, second: str) -> Any:
    """Return the view of the chosen runs; an error that explains itself is the view."""
    view: Callable[[], Any]
    if first and second:
        view = lambda: compare_view(runs[first], runs[second])  # noqa: E731
    elif first:
        view = lambda: run_view(runs[first])  # noqa: E731
    else:
        return pn.pane.Markdown("")
    try:
        return view()
    except DistcalibError as error:
        return pn.pane.Alert(str(error), alert_type="danger")
