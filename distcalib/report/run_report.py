"""The report of a run: one HTML file that needs no network, made of the tables in the run folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from distcalib.errors import DistcalibError, InputError
from distcalib.report import run_sections as parts
from distcalib.report.fit_plots import frontier_svg
from distcalib.report.map_data import DARK, FILLS, MapVariable, map_variables
from distcalib.report.outlines import outline_map
from distcalib.report.pages import render, share_text
from distcalib.report.run_tables import RunTables
from distcalib.report.tiles import Shapes, district_name, tile_map
from distcalib.report.timeline import timeline
from distcalib.runs.events import INTERRUPTED
from distcalib.runs.home import Home
from distcalib.runs.manifest import REPORT
from distcalib.storage import writable, write_text

_STATES = {
    "done": "finished: every file is written and proven",
    "failed": "failed",
    "stopped": "stopped as asked, before its end",
    "unfinished": "not finished: it is still running, or was ended from outside",
    "planned": "planned, not begun",
}


def write_report(
    run: str | Path, output: str | Path | None = None, geojson: str | Path | None = None
) -> Path:
    """Write the report of a run, finished or not, and return where it is.

    It shows what the tables of the run folder hold, and says which are not there; equal folders give equal
    bytes.

    Parameters
    ----------
    run
        The run folder.
    output
        The file to write; None: ``report.html`` in the run folder. It is no part of the manifest, so it can
        be written again at any time.
    geojson
        Outlines of districts for the map in place of tiles; see `distcalib.report.outlines.outline_map`.

    Raises
    ------
    InputError
        When the folder is none of a run, a table of it cannot be read, `output` is another file of the run or
        cannot be written, or `geojson` is none of districts of the run.
    """
    folder = Path(run)
    tables = RunTables.read(folder)
    file = folder / REPORT if output is None else Path(output)
    inside = folder.resolve() in file.resolve().parents
    if inside and file.resolve() != folder.resolve() / REPORT:
        raise InputError(
            "is in the run folder", place=file, expected=f"{REPORT} there, or a file outside of it"
        )
    writable(file)
    write_text(file, page(tables, geojson))
    return file


def write_report_once(home: Home) -> str:
    """Write the report of a run that is done, unless it is there.

    Returns
    -------
    str
        Empty, or why it could not be written: the run stands whatever becomes of its report.
    """
    try:
        if home.read(REPORT) is None:
            write_report(home.folder)
            home.keep([REPORT])
    except DistcalibError as error:
        return f"the run is finished, its report could not be written: {error}"
    return ""


def page(tables: RunTables, geojson: str | Path | None = None) -> str:
    """Return the page; see `write_report`."""
    shapes = tile_map(tables.districts) if geojson is None else outline_map(geojson, tables.districts)
    drawn = sorted(shapes.shapes)
    variables = map_variables(tables, drawn)
    words, cause = state_words(tables)
    table = parts.frontier(tables)
    values: dict[str, Any] = {
        "name": tables.plan["run"]["name"],
        "folder": tables.folder.resolve().name,
        "plan": tables.plan["digest"],
        "bundled": tables.plan["run"]["microdata"] == "bundled",
        "state": tables.state,
        "state_words": words,
        "cause": cause,
        "asked": parts.asked(tables),
        "fit": parts.fit(tables),
        "worst": parts.worst(tables),
        "weights": parts.weights(tables),
        "further": parts.further_fits(tables),
        "frontier": table,
        "frontier_plot": Markup(frontier_svg(tables.frontier, "")) if table and table.rows else "",
        "map": _map(shapes, drawn, variables),
        "fills": FILLS,
        "dark": DARK,
        "outlines": geojson is not None,
        "districts": parts.districts(tables),
        "checks": parts.checks(tables),
        "timeline": Markup(timeline(tables.attempts)),
        "attempts": tables.attempts,
        "stages": parts.legend_of_stages(tables),
        "costs": parts.cost_table(tables),
        "provenance": parts.provenance(tables),
        "warnings": parts.warnings(tables),
        "headline": headline(tables),
        "verification": (tables.manifest or {}).get("verification"),
    }
    # Last: reading fills it.
    return render("report.html", **values, missing=sorted(tables.missing))


def overview(tables: RunTables) -> str:
    """Return HTML of what a run was to do, how far it is, its figures and its warnings; texts are escaped."""
    words, cause = state_words(tables)
    values = {"name": tables.plan["run"]["name"], "state": tables.state, "state_words": words, "cause": cause}
    values |= {"asked": parts.asked(tables), "headline": headline(tables), "warnings": parts.warnings(tables)}
    return render("overview.html", **values, missing=sorted(tables.missing))


def state_words(tables: RunTables) -> tuple[str, str]:
    """Return in words how far a run is, and where it failed why."""
    stage, cause = tables.failure
    words = _STATES[tables.state]
    if cause == INTERRUPTED:
        words, cause = "interrupted", "The same command goes on from what is finished."
    return words + (f" in {stage}" if stage else ""), cause


def headline(tables: RunTables) -> list[tuple[str, str]]:
    """Return figures that a reader sees first, each with its words."""
    out = []
    if tables.targets is not None and tables.fitted:
        fitted = tables.targets[tables.targets["status"] == "fit"]
        met = share_text(float(fitted["within_tolerance"].mean())) if len(fitted) else ""
        out.append((met, f"of {len(fitted):,} fitted targets within their tolerance"))
    if tables.summary is not None:
        kept, size = tables.summary.get("records_kept"), tables.summary.get("effective_sample_size_by_donor")
        if kept is not None:
            out.append((f"{kept:,}", f"records of {tables.summary.get('columns', 0):,} columns"))
        if size is not None:
            out.append((f"{size:,.0f}", "effective donors, all areas together"))
    if tables.population is not None and "listed" in tables.population:
        off = int(tables.population["listed"].sum())
        out.append((f"{off:,}", f"of {len(tables.population):,} districts too far from their population"))
    proof = (tables.manifest or {}).get("verification")
    if proof:
        out.append(
            (
                f"{proof.get('proven', 0):,}",
                f"of {proof.get('targets', 0):,} targets recomputed from the files",
            )
        )
    hours = sum(task.cpu_seconds for attempt in tables.attempts for task in attempt.tasks) / 3600
    if hours > 0:
        out.append((f"{hours:,.2g}" if hours < 10 else f"{hours:,.0f}", "core-hours of tasks"))
    return out


def _map(shapes: Shapes, drawn: list[int], variables: list[MapVariable]) -> dict[str, Any] | None:
    """Return what the template needs of the map; None for a run without districts."""
    if not drawn:
        return None
    names = [district_name(d) for d in drawn]
    first = variables[0] if variables else None
    classes = first.classes if first else "x" * len(drawn)
    texts = first.texts if first else ["nothing is known of it yet"] * len(drawn)
    tiles = [
        (kind, f"{name}: {text}", Markup(shapes.shapes[geoid]))
        for geoid, name, kind, text in zip(drawn, names, classes, texts, strict=True)
    ]
    menu: dict[str, list[tuple[int, str]]] = {}
    for i, one in enumerate(variables):
        menu.setdefault(one.group, []).append((i, one.label))
    # Sentences that many districts share are not rare: texts stand once, districts hold their number.
    return {
        "width": shapes.width,
        "height": shapes.height,
        "labels": Markup("".join(shapes.labels)),
        "note": shapes.note,
        "tiles": tiles,
        "first": first,
        "menu": menu,
        "data": {"names": names, "variables": [compact(one) for one in variables]},
    }


def compact(one: MapVariable) -> dict[str, Any]:
    """Return a variable as JSON values, each text once: states' figures stand in many districts."""
    texts = list(dict.fromkeys(one.texts))
    number = {text: i for i, text in enumerate(texts)}
    return {
        "label": one.label,
        "about": one.about,
        "classes": one.classes,
        "texts": texts,
        "at": [number[text] for text in one.texts],
        "legend": one.legend,
    }
