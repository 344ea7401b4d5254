"""The page of one browser session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import panel as pn

from distcalib.dashboard.calibrating import Choice, calibrating_tab, tuning_tab
from distcalib.dashboard.checking import checking_tab
from distcalib.dashboard.loading import loading_tab
from distcalib.dashboard.results import comparing_tab, results_tab
from distcalib.dashboard.run_view import compare_view, run_view
from distcalib.dashboard.session import Session, alert, attempted
from distcalib.runs.jobs import Jobs

#: As wide as a phone where it is one; without it browsers of phones lay pages out for a desk.
_TEMPLATE = """
{% extends base %}
{% block preamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}
{% block contents %}<main><h1>distcalib</h1>{{ embed(roots.page) }}</main>{% endblock %}
"""
_WRAP = ".bk-header { height: auto; } .bk-headers-wrapper { flex-wrap: wrap; }"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 0 .5rem 3rem; }
h1 { font-size: 1.5rem; margin: .8rem .6rem; }
"""


def page(runs: Mapping[str, Path], jobs: Jobs, folder: Path, most_upload: int) -> Any:
    """Return the page of a new session.

    Parameters
    ----------
    runs
        Label -> run folder, of those that the command line named; a session can open no others.
    jobs
        The queue that all sessions share.
    folder
        Where each session has a folder of its own.
    most_upload
        Bytes of a file.
    """
    session, choice = Session(jobs, folder, most_upload), Choice()
    pn.state.on_session_destroyed(lambda _: session.end())
    tabs = [
        ("1 Data", loading_tab(session, runs)),
        ("2 Check", checking_tab(session)),
        ("3 Calibrate", calibrating_tab(session, choice)),
        ("Tune", tuning_tab(session, choice)),
        ("4 Results", results_tab(session)),
        ("5 Compare", comparing_tab(session)),
    ]
    tabs.insert(0 if runs else len(tabs), ("Runs", runs_tab(runs)))
    made = pn.Template(_TEMPLATE)
    made.add_panel("page", pn.Tabs(*tabs, sizing_mode="stretch_width", stylesheets=[_WRAP]))
    return made


def runs_tab(runs: Mapping[str, Path]) -> Any:
    """Return the menus of the runs, and beneath them the one that is chosen, or two beside each other."""
    if not runs:
        return pn.pane.Markdown(
            "No run folders: start with `distcalib dashboard RUN ...` or `--runs FOLDER`."
        )
    first = pn.widgets.Select(label="Run", options=["", *runs], value=next(iter(runs)))
    second = pn.widgets.Select(label="Compare with", options=["", *runs], value="")
    shown = pn.Column(sizing_mode="stretch_width")

    async def show(*_: Any) -> None:
        chosen = first.value, second.value
        shown.loading = True
        view, trouble = await attempted(lambda: _view(runs, *chosen))
        if chosen == (first.value, second.value):  # else another was chosen meanwhile
            shown[:] = [alert(trouble) if trouble else view]
            shown.loading = False

    for menu in (first, second):
        menu.param.watch(show, "value")
    if pn.state.curdoc is not None:  # a session that a browser opened
        pn.state.onload(show)
    return pn.Column(pn.FlexBox(first, second), shown, sizing_mode="stretch_width")


def _view(runs: Mapping[str, Path], first: str, second: str) -> Any:
    """Return the view of the chosen runs; nothing chosen: a hint."""
    view: Callable[[], Any]
    if first and second:
        view = lambda: compare_view(runs[first], runs[second])  # noqa: E731
    elif first:
        view = lambda: run_view(runs[first])  # noqa: E731
    else:
        return pn.pane.Markdown("Choose a run.")
    return view()
