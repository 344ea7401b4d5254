"""The third tab: solver, settings, the live curve; and the search for a penalty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import panel as pn

from distcalib.dashboard import charts, work
from distcalib.dashboard.run_parts import facts
from distcalib.dashboard.running import Runner
from distcalib.dashboard.session import Session, alert
from distcalib.dashboard.tabulated import show
from distcalib.dashboard.work import Outcome, Settings
from distcalib.errors import InputError
from distcalib.runs.jobs import Job

ABOUT = {
    "all": "Every record keeps a weight within the bounds, as close as can be where targets contradict.",
    "gates": "L0 gates choose records, fewer by a higher penalty; those are weighted within the bounds.",
    "reweighted": "Keeps exactly so many records, weighted within the bounds.",
    "raking": "Meets every target, weights stay positive; an error where that is impossible.",
    "greg": "Meets every target with the least squared change; weights may become negative.",
    "truncated_linear": "GREG within the bounds.",
    "logit": "Meets every target within the bounds, smoothly; the bounds must lie around 1.",
}


class Choice:
    """The widgets of the settings."""

    def __init__(self) -> None:
        w = pn.widgets
        self.solver = w.Select(label="Solver", options=work.SOLVERS, value="all", width=320)
        self.about = pn.pane.Markdown(ABOUT["all"])
        self.records = w.IntInput(label="Records to keep", value=1000, start=1, width=140)
        self.penalty = w.FloatInput(
            label="Penalty l0_lambda (1e-4 to 1e-1)", value=0.01, start=0, step=0.005, width=220
        )
        self.epochs = w.IntInput(label="Epochs or steps, at most", value=500, start=1, end=100_000, width=150)
        self.lower = w.FloatInput(label="Least weight ratio", value=0.02, start=0, width=130)
        self.upper = w.FloatInput(label="Largest weight ratio", value=50.0, start=1, width=130)
        self.holdout = w.FloatInput(
            label="Share of targets held out", value=0.0, start=0, end=0.9, step=0.1, width=170
        )
        self.seed = w.IntInput(label="Seed", value=0, start=0, width=100)
        self.solver.param.watch(self._fitting, "value")
        self._fitting()

    def _fitting(self, *_: Any) -> None:
        solver = self.solver.value
        self.about.object = ABOUT[solver]
        self.records.visible = solver == "reweighted"
        self.penalty.visible = solver == "gates"
        self.lower.visible = self.upper.visible = solver != "greg"

    def settings(self) -> Settings:
        """Return what is chosen; `InputError` where a field is empty."""
        return Settings(
            solver=self.solver.value, records=_given(self.records) if self.records.visible else None,
            l0_lambda=_given(self.penalty), epochs=_given(self.epochs), lower=_given(self.lower),
            upper=_given(self.upper), holdout=_given(self.holdout), seed=_given(self.seed),
        )  # fmt: skip

    @property
    def view(self) -> Any:
        """The widgets."""
        fields = (self.records, self.penalty, self.epochs, self.lower, self.upper, self.holdout, self.seed)
        return pn.Column(self.solver, self.about, pn.FlexBox(*fields), sizing_mode="stretch_width")


def calibrating_tab(session: Session, choice: Choice) -> Any:
    """Return the tab that calibrates; outcomes go to the session."""
    figure, source = charts.loss_curve()
    said = pn.Column(sizing_mode="stretch_width")
    made = 0

    def draw(rows: list[dict[str, Any]] | None) -> None:
        """Add to the curve; None: begin anew. With the document's lock, which Bokeh's own models need."""
        columns = list(source.data)
        if rows is None:
            pn.state.execute(lambda: source.update(data={name: [] for name in columns}), schedule=True)
        else:
            new: Any = {name: [row[name] for row in rows] for name in columns}
            pn.state.execute(lambda: source.stream(new), schedule=True)

    def begin() -> Job:
        settings = choice.settings()
        settings.fit()
        job = session.submit(work.calibrate, settings)
        draw(None)
        runner.progress.param.update(value=0, max=settings.epochs, visible=True)
        said.clear()
        return job

    def heard(rows: list[dict[str, Any]]) -> None:
        draw(rows)
        last = rows[-1]
        runner.progress.value = min(last["epoch"], runner.progress.max)
        kept = "" if last["active"] is None else f", {last['active']:,} records with a weight"
        stage = {"refit": "weighting", "newton": "Newton"}.get(last["stage"], last["stage"])
        runner.status.value = f"{stage}: step {last['epoch']:,}, loss {last['loss']:.3g}{kept}"

    def done(outcome: Outcome) -> None:
        nonlocal made
        made += 1
        solver = outcome.settings.solver
        kept = int(np.count_nonzero(outcome.weights))
        label = f"{made}: {solver}, {kept:,} records, seed {outcome.settings.seed}"
        runner.status.value = f"done: {label}. See Results."
        said[:] = [facts("", outcome.facts), *(alert(text, "warning") for text in outcome.warnings)]
        session.outcomes = {**session.outcomes, label: outcome}

    runner = Runner(session, "Calibrate", begin, heard, done)

    def fresh(event: Any) -> None:
        said.clear()
        draw(None)
        runner.status.value = "" if event.new is not None else "load a survey and targets first"
        if event.new is not None:
            choice.records.value = max(1, event.new.X.shape[1] // 2)
            choice.seed.visible = event.new.run_seed is None

    session.param.watch(fresh, "problem")
    return pn.Column(
        choice.view, runner.view, pn.pane.Bokeh(figure, sizing_mode="stretch_width"), said,
        sizing_mode="stretch_width",
    )  # fmt: skip


def tuning_tab(session: Session, choice: Choice) -> Any:
    """Return the tab that searches the penalty of the gates on held-out targets."""
    w = pn.widgets
    low = w.FloatInput(label="Least penalty", value=1e-4, start=0, width=130)
    high = w.FloatInput(label="Largest penalty", value=1e-1, start=0, width=130)
    trials = w.IntInput(label="Trials", value=10, start=1, end=500, width=100)
    folds = w.IntInput(label="Folds", value=3, start=2, end=20, width=100)
    epochs = w.IntInput(label="Epochs", value=200, start=1, end=100_000, width=100)
    use = w.Button(label="Use the chosen penalty in Calibrate", visible=False)
    result = pn.Column(sizing_mode="stretch_width")
    chosen = 0.0

    def begin() -> Job:
        result.clear()
        use.visible = False
        number, parts = _given(trials), _given(folds)
        runner.progress.param.update(value=0, max=number * parts, visible=True)
        between = _given(low), _given(high)
        return session.submit(work.tune, between, number, parts, _given(epochs), choice.settings())

    def heard(rows: list[dict[str, Any]]) -> None:
        runner.progress.value = min(rows[-1]["step"], runner.progress.max)
        runner.status.value = f"fit {rows[-1]['step']} of at most {runner.progress.max}"

    def done(found: tuple[float, pd.DataFrame]) -> None:
        nonlocal chosen
        chosen, table = found
        runner.status.value = f"chosen: l0_lambda {chosen:.3g}"
        use.visible = True
        whole = table[table["state"] == "complete"]
        picture = charts.trials(
            whole["records"].to_numpy(), whole["error"].to_numpy(), whole["chosen"].to_numpy(bool)
        )
        shown = table[["trial", "l0_lambda", "error", "std_error", "records", "state", "chosen"]]
        result[:] = [pn.pane.Bokeh(picture, sizing_mode="stretch_width"),
                     show(shown, percent=("error", "std_error"), filters=False)]  # fmt: skip

    def take(_: Any) -> None:
        choice.penalty.value = chosen
        choice.solver.value = "gates"

    use.on_click(take)
    runner = Runner(session, "Tune", begin, heard, done)

    def fresh(_: Any) -> None:
        result.clear()
        use.visible = False
        runner.status.value = ""

    session.param.watch(fresh, "problem")
    text = (
        "Fits with several penalties, each without a part of the targets in turn, and judges on that part. "
        "Chosen is the one with the fewest records whose error is within one standard error of the lowest. "
        "Bounds and seed are those of Calibrate."
    )
    return pn.Column(
        pn.pane.Markdown(text), pn.FlexBox(low, high, trials, folds, epochs), runner.view, use,
        result, sizing_mode="stretch_width",
    )  # fmt: skip


def _given(field: Any) -> Any:
    if field.value is None:
        raise InputError("is empty", place=field.label, expected="a number")
    return field.value
