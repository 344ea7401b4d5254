"""The tabs of what came out: groups, targets, the records behind a target, weights; two of them compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import panel as pn

from distcalib.dashboard import charts
from distcalib.dashboard.problem import Problem, id_columns
from distcalib.dashboard.run_parts import facts
from distcalib.dashboard.session import Session, alert
from distcalib.dashboard.tabulated import line, show, texts
from distcalib.dashboard.work import Outcome

RECORDS = 50
_NOTHING = "Calibrate first."


def by_group(targets: pd.DataFrame) -> pd.DataFrame:
    """Return one row a group.

    Median and largest absolute error and the share within 5 percent are those of its fitted targets; those
    held out have a number and a median of their own, unless there are none at all. What is out of reach
    counts among ``targets`` alone.
    """
    status, error = targets["status"], targets["error"].abs()
    fitted, held = status == "fitted", status == "held out"
    rows = pd.DataFrame(
        {"group": targets["group"], "fitted": fitted, "was": targets["error_before"].abs().where(fitted),
         "now": error.where(fitted), "close": (error <= 0.05).astype(float).where(fitted),
         "held": held, "unseen": error.where(held)}
    )  # fmt: skip
    made = rows.groupby("group", sort=False).agg(
        targets=("group", "size"), fitted=("fitted", "sum"), median_before=("was", "median"),
        median=("now", "median"), largest=("now", "max"), within_5_percent=("close", "mean"),
        held_out=("held", "sum"), held_out_median=("unseen", "median"),
    )  # fmt: skip
    return made.drop(columns=[] if held.any() else ["held_out", "held_out_median"]).reset_index()


def supporters(problem: Problem, outcome: Outcome, row: int, most: int = RECORDS) -> pd.DataFrame:
    """Return the records that give most to a target: weight, amount, what they give, and its share.

    Parameters
    ----------
    row
        Of `problem.targets`.
    most
        How many, by the size of what they give.
    """
    cells = slice(problem.X.indptr[row], problem.X.indptr[row + 1])
    record, amount = problem.X.indices[cells], problem.X.data[cells]
    gives = amount * outcome.weights[record]
    total = float(gives.sum())
    order = np.argsort(-np.abs(gives), kind="stable")[:most]
    order = order[gives[order] != 0]
    chosen = record[order]
    first = {"record": chosen, "weight": outcome.weights[chosen], "weight_before": problem.weights[chosen],
             "amount": amount[order], "gives": gives[order],
             "share": gives[order] / total if total else np.nan}  # fmt: skip
    rest = problem.survey.iloc[chosen].drop(columns=problem.weight or [], errors="ignore").iloc[:, :12]
    rest.columns = [f"{column} (survey)" if column in first else column for column in rest]
    return pd.concat([pd.DataFrame(first), rest.reset_index(drop=True)], axis=1)


def weights_table(problem: Problem, outcome: Outcome) -> pd.DataFrame:
    """Return what is downloaded: record (place in the survey), columns of ids, weights before and after."""
    table = problem.survey[id_columns(problem.survey)].copy()
    table.insert(0, "record", np.arange(len(problem.weights)), allow_duplicates=True)
    return table.assign(weight_before=problem.weights, weight=outcome.weights)


def results_tab(session: Session) -> Any:
    """Return the tab of one calibration."""
    menu = pn.widgets.Select(label="Calibration", options=[], width=320)
    view = pn.Column(pn.pane.Markdown(_NOTHING), sizing_mode="stretch_width")

    def fresh(*_: Any) -> None:
        labels = list(session.outcomes)
        menu.param.update(options=labels, value=labels[-1] if labels else None)
        menu.visible = bool(labels)
        if not labels:
            view[:] = [pn.pane.Markdown(_NOTHING)]

    def choose(*_: Any) -> None:
        if menu.value in session.outcomes and session.problem is not None:
            view[:] = _outcome(session.problem, session.outcomes[menu.value])

    menu.visible = False
    session.param.watch(fresh, "outcomes")
    menu.param.watch(choose, "value")
    return pn.Column(menu, view, sizing_mode="stretch_width")


def _outcome(problem: Problem, outcome: Outcome) -> list[Any]:
    targets = outcome.targets
    start = problem.weights * outcome.scale
    used = start > 0
    pictures = pn.FlexBox(
        pn.pane.Bokeh(charts.errors(targets["error_before"].to_numpy(), targets["error"].to_numpy(),
                                    targets["target_name"].tolist()), styles={"flex": "1 1 320px"}),
        pn.pane.Bokeh(charts.weights_histogram(outcome.weights[used] / start[used]),
                      styles={"flex": "1 1 320px"}),
    )  # fmt: skip
    return [
        facts("", outcome.facts),
        *(alert(text, "warning") for text in outcome.warnings),
        _downloads(problem, outcome),
        pictures,
        *_drill(problem, outcome),
    ]


def _downloads(problem: Problem, outcome: Outcome) -> Any:
    def file(label: str, filename: str, content: Callable[[], io.BytesIO]) -> Any:
        return pn.widgets.FileDownload(callback=content, filename=filename, label=label)

    def parquet() -> io.BytesIO:
        out = io.BytesIO()
        weights_table(problem, outcome).to_parquet(out, index=False)
        out.seek(0)
        return out

    def csv(table: Callable[[], pd.DataFrame]) -> Callable[[], io.BytesIO]:
        return lambda: io.BytesIO(table().to_csv(index=False).encode())

    return pn.FlexBox(
        file("Weights (CSV)", "weights.csv", csv(lambda: weights_table(problem, outcome))),
        file("Weights (Parquet)", "weights.parquet", parquet),
        file("Targets (CSV)", "calibrated_targets.csv", csv(lambda: outcome.targets)),
        file("Settings (YAML)", "settings.yaml", lambda: io.BytesIO(outcome.yaml.encode())),
        gap=".5rem",
    )


def _drill(problem: Problem, outcome: Outcome) -> list[Any]:
    """Return the tables of groups, targets and records: a row chosen in one fills the next."""
    groups = by_group(outcome.targets)
    errors = ("error_before", "error")
    chosen_targets, chosen_records = (
        pn.Column(sizing_mode="stretch_width"),
        pn.Column(sizing_mode="stretch_width"),
    )

    def fill_targets(rows: pd.DataFrame, of: str) -> None:
        place = rows.index.to_numpy()

        async def target(row: int) -> None:
            fill_records(int(place[row]))

        table = show(rows.drop(columns="variable"), percent=errors, chosen=target)
        chosen_records[:] = []
        chosen_targets[:] = [line(f"Targets of {of}: choose one to see the records behind it"), table]

    def fill_records(row: int) -> None:
        table = supporters(problem, outcome, row)
        behind = problem.X.indices[problem.X.indptr[row] : problem.X.indptr[row + 1]]
        number = np.count_nonzero(outcome.weights[behind])
        text = f"{problem.names[row]}: the {len(table):,} records that give most, of {number:,}"
        chosen_records[:] = [line(text), show(table, percent=("share",))]

    async def group(row: int) -> None:
        name = groups["group"].iloc[row]
        fill_targets(outcome.targets[outcome.targets["group"] == name], name)

    shares = ("median_before", "median", "largest", "within_5_percent", "held_out_median")
    first = show(groups, percent=shares, chosen=group)
    fill_targets(outcome.targets, "all groups")
    head = pn.pane.Markdown("#### Groups: choose one to see its targets")
    return [head, first, chosen_targets, chosen_records]


def comparing_tab(session: Session) -> Any:
    """Return the tab that holds two calibrations of the session against each other."""
    first = pn.widgets.Select(label="First", options=[], width=300)
    second = pn.widgets.Select(label="Second", options=[], width=300)
    hint = "Calibrate twice, with different settings, to compare."
    view = pn.Column(pn.pane.Markdown(hint), sizing_mode="stretch_width")

    def fresh(*_: Any) -> None:
        labels = list(session.outcomes) if len(session.outcomes) > 1 else []
        if not labels:
            view[:] = [pn.pane.Markdown(hint)]
        for menu, place in ((first, -2), (second, -1)):
            menu.visible = bool(labels)
            menu.param.update(options=labels, value=labels[place] if labels else None)

    def choose(*_: Any) -> None:
        a, b = (session.outcomes.get(menu.value) for menu in (first, second))
        if a is b and a is not None:
            view[:] = [pn.pane.Markdown("Choose two different calibrations.")]
        elif a is not None and b is not None:
            view[:] = _compared(a, b, (str(first.value), str(second.value)))

    session.param.watch(fresh, "outcomes")
    for menu in (first, second):
        menu.visible = False
        menu.param.watch(choose, "value")
    return pn.Column(pn.FlexBox(first, second), view, sizing_mode="stretch_width")


def _compared(a: Outcome, b: Outcome, labels: tuple[str, str]) -> list[Any]:
    told = pd.DataFrame({"": list(dict.fromkeys([*a.facts, *b.facts]))})
    for label, outcome in zip(labels, (a, b), strict=True):
        told[label] = told[""].map(outcome.facts).fillna("")
    first, second = (
        by_group(outcome.targets)
        .set_index("group")
        .filter(["fitted", "median", "largest", "held_out_median"])
        .add_suffix(side)
        for outcome, side in ((a, "_first"), (b, "_second"))
    )
    groups = first.join(second, how="inner").reset_index()
    shares = tuple(name for name in groups if not name.startswith(("group", "fitted")))
    targets = a.targets[["target_name", "group", "target"]].assign(
        first=a.targets["after"], second=b.targets["after"], error_first=a.targets["error"],
        error_second=b.targets["error"],
    )  # fmt: skip
    apart = (targets["error_first"].abs() - targets["error_second"].abs()).abs()
    targets = targets.iloc[np.argsort(-apart.to_numpy(), kind="stable")]
    weights = np.corrcoef(a.weights, b.weights)[0, 1] if a.weights.std() and b.weights.std() else np.nan
    told.loc[len(told)] = ["correlation of the weights", f"{weights:.3f}", ""]
    return [
        texts(told),
        pn.pane.Bokeh(
            charts.against(
                a.targets["error"].to_numpy(),
                b.targets["error"].to_numpy(),
                a.targets["target_name"].tolist(),
                labels,
            ),
            sizing_mode="stretch_width",
        ),
        pn.pane.Markdown("#### Groups"),
        show(groups, percent=shares),
        pn.pane.Markdown("#### Targets, those first whose errors differ most"),
        show(targets, percent=("error_first", "error_second")),
    ]
