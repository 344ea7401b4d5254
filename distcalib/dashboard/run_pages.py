"""Pages of a run that show one thing each: overview, weights, figures not fitted, timeline, downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import panel as pn

from distcalib.dashboard.run_parts import COUNT, FIGURE, RATIO, SHARE, WRAP, grid, html, plot, words
from distcalib.report import plots
from distcalib.report.drill import target_list
from distcalib.report.pages import area_name
from distcalib.report.run_report import overview
from distcalib.report.run_tables import RunTables
from distcalib.report.timeline import costs
from distcalib.runs.manifest import MANIFEST, REPORT, SUMS, TRACE

#: What can be downloaded where it is there, and what it is.
FILES = {
    REPORT: "report: one page that needs no network",
    "fit/weights.npy": "weights: float64, one a column of columns.parquet (numpy.load)",
    "columns.parquet": "columns: donor, clone, place and design weight of each",
    "fit/diagnostics.csv": "targets: official figure, estimate, error, cause of a miss",
    "targets.parquet": "targets: the rows of the matrix",
    "excluded.parquet": "official figures that were not used, with the reason",
    "fit/groups.csv": "groups of targets",
    "fit/areas.csv": "records, donors, effective sample sizes of each area",
    "fit/consistency.csv": "what stood against each target before the fit",
    "fit/epochs.csv": "loss by epoch",
    "fit/log.csv": "targets on the way of the fit",
    "fit/frontier.csv": "records against loss and held-out error",
    "fit/summary.json": "summary of the fit",
    "verify/targets.csv": "targets recomputed from the files",
    "verify/areas.csv": "totals of each area's file",
    "verify/population.csv": "population of each district",
    "verify/checks.csv": "files beside official figures",
    "verify/gates.csv": "what looks wrong in the files",
    MANIFEST: "sha256 of every file",
    SUMS: "the same for sha256sum",
    TRACE: "TRACE declaration",
}


def overview_page(tables: RunTables) -> Any:
    """What was asked, how far the run is, its figures and warnings."""
    # What is not there is known when the rest was asked for.
    for name in ("targets", "summary", "population", "gates", "excluded"):
        getattr(tables, name)
    page = pn.Column(html(overview(tables)), sizing_mode="stretch_width")
    if (tables.folder / REPORT).is_file():
        page.insert(0, download(tables.folder, REPORT, "Download the report (opens without a network)"))
    return page


def weights_page(tables: RunTables) -> Any:
    """Distribution of the weights, and what carries each area."""
    shown = plots.weights(tables)
    assert tables.areas is not None  # the plot would not be there
    areas = tables.areas.assign(name=tables.areas["area"].map(area_name))
    areas["name"] = areas["name"].where(areas["geo_level"] != "national", "US")
    columns = {
        "name": ("area", ""), "geo_level": ("level", ""), "records": ("records", COUNT),
        "donors": ("donors", COUNT), "weight": ("households", COUNT),
        "effective_sample_size": ("effective size", COUNT),
        "effective_sample_size_by_donor": ("by donor", FIGURE), "effective_share": ("of records", SHARE),
        "at_lower": ("at lower bound", SHARE), "at_upper": ("at upper bound", SHARE),
        "largest_donor_share": ("largest donor", SHARE),
    }  # fmt: skip
    more = [plot(plots.loss(tables))] if tables.epochs is not None else []
    if tables.frontier is not None:
        more.append(plot(plots.frontier(tables)))
    return pn.Column(plot(shown), grid(areas, columns, search=("name", "geo_level")), *more,
                     sizing_mode="stretch_width")  # fmt: skip


def official_page(tables: RunTables) -> Any:
    """Official figures that were compared and not fitted, and those that were not used."""
    parts: list[Any] = []
    if tables.fitted:
        parts.append(plot(plots.official(tables)))
    targets = target_list(tables)
    check = targets[targets["status"] == "check"]
    columns = {"area": ("area", ""), "geo_level": ("level", ""), "what": ("figure", "")}
    more = {"target": ("official", COUNT)}
    if tables.fitted:
        check = check.assign(ratio=check["estimate"] / check["target"].where(check["target"] != 0))
        more |= {"estimate": ("estimate", COUNT), "ratio": ("ratio", RATIO)}
    parts += [html(f"<h3>{len(check):,} figures compared, not fitted</h3>"),
              grid(check, columns | more | {"reason": ("why it is not fitted", WRAP)},
                   search=tuple(columns))]  # fmt: skip
    left = tables.excluded
    if left is not None and len(left):
        shown = {"name": ("figure", ""), "geo_level": ("level", ""), "reason": ("reason", WRAP)}
        parts += [html(f"<h3>{len(left):,} figures not used</h3>"), grid(left, shown, search=tuple(shown))]
    return pn.Column(*parts, sizing_mode="stretch_width")


def timeline_page(tables: RunTables) -> Any:
    """What the run did when, and what it cost."""
    if not tables.attempts:
        return words("The run was not begun yet.")
    table = costs(tables.attempts, tables.receipts)
    columns = {
        "stage": ("stage", ""), "tasks": ("tasks", COUNT), "minutes": ("wall, minutes", "0,0.0"),
        "core_hours": ("core-hours", "0,0.000"), "longest": ("longest task, s", "0,0.0"),
        "gib": ("memory, GiB", "0.0"), "place": ("longest task", ""),
    }  # fmt: skip
    table = table.assign(minutes=table["wall_hours"] * 60, gib=table["peak_bytes"] / 2**30)
    parts = [plot(plots.timeline(tables))] if any(a.seconds > 0 for a in tables.attempts) else []
    return pn.Column(*parts, grid(table, columns, rows=20), sizing_mode="stretch_width")


def downloads_page(tables: RunTables) -> Any:
    """Weights, tables and area files as they lie in the run folder."""
    there = [name for name in FILES if inside(tables.folder, name)]
    lacks = [name for name in FILES if name not in there]
    rows = [pn.FlexBox(download(tables.folder, name), words(FILES[name])) for name in there]
    areas = sorted(path.relative_to(tables.folder).as_posix() for path in tables.folder.glob("areas/*/*.h5"))
    parts = [html("<h3>Tables and weights</h3>"), *rows]
    if lacks:
        parts.append(words("Not there: " + ", ".join(lacks)))
    if areas:
        menu = pn.widgets.Select(label="File of an area", options=areas, width=330)
        button = pn.Column(download(tables.folder, areas[0]))

        def change(*_: Any) -> None:
            button[:] = [download(tables.folder, menu.value)]

        menu.param.watch(change, "value")
        parts += [html(f"<h3>Datasets ({len(areas):,} files, PolicyEngine HDF5)</h3>"), menu, button]
    return pn.Column(*parts, sizing_mode="stretch_width")


def download(folder: Path, name: str, label: str | None = None) -> Any:
    """Return the button that sends a file of a run folder, read when it is pressed."""
    path = inside(folder, name)
    return pn.widgets.FileDownload(
        callback=lambda: inside(folder, name), filename=Path(name).name,
        label=label or f"{name} ({size_words(path.stat().st_size if path else 0)})", width=330,
    )  # fmt: skip


def inside(folder: Path, name: str) -> Path | None:
    """Return a file of a folder; None where there is none, or a link leads out of the folder."""
    path = (folder / name).resolve()
    return path if path.is_file() and folder.resolve() in path.parents else None


def size_words(size: int) -> str:
    """Return a size in kB or MB."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{max(size, 1) / 1e3:,.1f} kB"
