"""A run folder in the dashboard: finished, failed, half done or still running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import panel as pn

from distcalib.dashboard import run_pages
from distcalib.dashboard.run_compare import compare_view
from distcalib.dashboard.run_districts import districts_page
from distcalib.dashboard.run_fit import fit_page
from distcalib.dashboard.run_parts import fill, pages
from distcalib.report.run_tables import RunTables
from distcalib.runs.home import EVENTS
from distcalib.runs.manifest import MANIFEST

__all__ = ["compare_view", "run_view"]

#: Milliseconds between looks at a run.
EVERY = 5_000
PAGES: dict[str, Callable[[RunTables], Any]] = {
    "Overview": run_pages.overview_page,
    "Fit": fit_page,
    "Districts": districts_page,
    "Weights": run_pages.weights_page,
    "Other figures": run_pages.official_page,
    "Timeline": run_pages.timeline_page,
    "Downloads": run_pages.downloads_page,
}


def run_view(folder: Path) -> Any:
    """Return what shows a run folder: a tab a question, each read when it is opened.

    A run is looked at every few seconds, also one that failed or is done, for it may be begun again: overview
    and timeline follow it, the other pages are made anew when they are opened again.

    Raises
    ------
    InputError
        When the folder is none of a run, or its plan cannot be read.
    """
    held: dict[str, Any] = {"stamp": _stamp(folder), "tables": _tables(folder, _stamp(folder))}
    tabs = pages({name: partial(_page, page, held) for name, page in PAGES.items()})
    tabs.tags = [tabs.name]  # a name of its own, by which `_drawn` finds it
    old: set[int] = set()  # pages that somebody was reading when the run changed

    def left(event: Any) -> None:
        if event.old in old:
            old.remove(event.old)
            tabs[event.old].clear()

    async def look() -> None:
        if not _drawn(tabs):
            watch.stop()  # another run is shown in its place
            return
        stamp = _stamp(folder)
        if stamp == held["stamp"]:
            return
        held.update(stamp=stamp, tables=await asyncio.to_thread(_tables, folder, stamp))
        names = list(PAGES)
        for number, name in enumerate(names):
            if number != tabs.active:
                tabs[number].clear()
            elif name in ("Overview", "Timeline"):
                await fill(tabs[number], partial(_page, PAGES[name], held))
            else:
                old.add(number)

    tabs.param.watch(left, "active")
    watch: Any = pn.state.add_periodic_callback(look, EVERY)  # type: ignore[arg-type]
    return tabs


def _page(page: Callable[[RunTables], Any], held: dict[str, Any]) -> Any:
    return page(held["tables"])


def _drawn(tabs: Any) -> bool:
    """Say whether tabs are part of the session's page."""
    page = pn.state.curdoc
    return page is not None and any(page.select_one({"tags": t}) for t in tabs.tags)


def _stamp(folder: Path) -> tuple[int, ...]:
    """Return when what says how far a run is, and what is made of it afterwards, was last written."""
    files = (folder / name for name in ("plan.json", MANIFEST, EVENTS, "fit/frontier.csv"))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


@lru_cache(maxsize=4)
def _tables(folder: Path, stamp: tuple[int, ...]) -> RunTables:
    """Read a run once for all sessions, as long as it stands as it is."""
    return RunTables.read(folder)
