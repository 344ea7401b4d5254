"""The first tab: a survey and targets, uploaded or of the example, or a run."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn

from distcalib.dashboard.example import SURVEY, TARGETS, example
from distcalib.dashboard.problem import template, weight_columns
from distcalib.dashboard.session import Session, alert, attempted
from distcalib.dashboard.tables import read_table
from distcalib.dashboard.tabulated import line, show
from distcalib.dashboard.upload import Upload
from distcalib.errors import DistcalibError

HELP = """
**Survey**: one row a household (or person), columns of amounts, one of them the weight; CSV, Parquet, or a
PolicyEngine HDF5 file.
**Targets**: one row a total that the weights are to reach, with the columns `variable` (a column of the
survey, or `count` for the number of rows) and `value`. Every further column that the survey has too is a
condition: `state` = `CA` counts rows of California alone, an empty cell counts all. `name`, `group`, `source`
and `note` are free.
"""
_EACH_ONE = "(none: 1 each)"


def loading_tab(session: Session, runs: Mapping[str, Path]) -> Any:
    """Return the tab; `runs` are those that can be calibrated: label -> run folder."""
    troubles = pn.Column(sizing_mode="stretch_width")
    survey, targets = pn.Column(sizing_mode="stretch_width"), pn.Column(sizing_mode="stretch_width")
    weight = pn.widgets.Select(label="Weight", options=[_EACH_ONE], visible=False, width=260)
    summary = pn.Column(sizing_mode="stretch_width")

    def upload(label: str, take: Callable[[str, pd.DataFrame], Coroutine[Any, Any, None]]) -> Any:
        async def loaded(path: Path, name: str) -> None:
            table, trouble = await attempted(lambda: read_table(path, name))
            path.unlink(missing_ok=True)
            if trouble:
                troubles[:] = [alert(trouble)]
                return
            troubles.clear()
            await take(name, table)

        def failed(error: DistcalibError) -> None:
            troubles[:] = [alert(str(error))]

        made = Upload(label=label, sizing_mode="stretch_width", min_width=260)
        return made.on_file(session.folder, session.most_upload, loaded, failed)

    async def load_example(_: Any) -> None:
        button.loading = True
        try:
            tables = await asyncio.to_thread(example)
            troubles.clear()
            session.targets = None
            await session.set_survey(SURVEY, tables[0])
            await session.set_targets(TARGETS, tables[1])
        finally:
            button.loading = False

    button = pn.widgets.Button(label="Load the example", color="primary")
    button.on_click(load_example)

    run = pn.widgets.Select(label="Or a run", options=["", *runs], width=260, visible=bool(runs))

    async def take_run(*_: Any) -> None:
        if run.value:
            troubles.clear()
            await session.set_run(runs[run.value])

    run.param.watch(take_run, "value")

    def survey_came(*_: Any) -> None:
        start.visible = weight.visible = session.survey is not None
        if session.survey is None:
            survey.clear()
            return
        run.value = ""
        name, table = session.survey
        survey[:] = [_told(name, table)]
        weight.param.update(options=[_EACH_ONE, *weight_columns(table)], value=session.weight or _EACH_ONE)

    def targets_came(*_: Any) -> None:
        targets[:] = [] if session.targets is None else [_told(*session.targets)]
        if session.targets is not None:
            run.value = ""

    def problem_came(*_: Any) -> None:
        if session.trouble:
            summary[:] = [alert(session.trouble)]
        elif session.problem is not None:
            n_targets, n_records = session.problem.X.shape
            text = (
                f"{n_records:,} records and {n_targets:,} targets fit each other: on to Check or Calibrate."
            )
            summary[:] = [alert(text, "good")]
        else:
            summary.clear()

    async def weigh(_: Any) -> None:
        chosen = "" if weight.value == _EACH_ONE else weight.value
        if chosen != session.weight:
            session.weight = chosen
            await session.join()

    def starting_targets() -> io.StringIO:
        return io.StringIO(template(session.survey[1], session.weight or None).to_csv(index=False))

    start = pn.widgets.FileDownload(
        callback=starting_targets, filename="targets.csv", visible=False,
        label="Targets to start from (the survey's own totals)",
    )  # fmt: skip
    session.param.watch(survey_came, "survey")
    session.param.watch(targets_came, "targets")
    session.param.watch(problem_came, ["problem", "trouble"])
    weight.param.watch(weigh, "value")
    most = (
        f"At most {session.most_upload / 2**20:,.0f} MiB a file; files stay in this session and go with it."
    )
    about = pn.widgets.StaticText(value="12,000 households and official figures of 2024, by state")
    half: dict[str, Any] = {"min_width": 280, "styles": {"flex": "1 1 280px"}}
    return pn.Column(
        pn.FlexBox(button, about, run, align_items="center"),
        pn.FlexBox(
            pn.Column(upload("Your survey", session.set_survey), survey, weight, start, **half),
            pn.Column(upload("Your targets", session.set_targets), targets, **half),
            gap="1rem",
        ),
        troubles, summary, pn.pane.Markdown(HELP + "\n" + most, stylesheets=["code { color: #0b5cad; }"]),
        sizing_mode="stretch_width",
    )  # fmt: skip


def _told(name: str, table: pd.DataFrame) -> Any:
    text = f"{name}: {len(table):,} {'row' if len(table) == 1 else 'rows'}, {table.shape[1]} columns"
    return pn.Column(line(text), show(table.head(5), rows=5, named=True), sizing_mode="stretch_width")
