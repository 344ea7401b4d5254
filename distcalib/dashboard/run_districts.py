"""A map of the districts, and whatever is known of the one that is chosen."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import panel as pn

from distcalib.dashboard.run_fit import target_grid
from distcalib.dashboard.run_pages import download, inside
from distcalib.dashboard.run_parts import COUNT, FIGURE, facts, fill, grid, html
from distcalib.report.drill import by_donor, records_of_district, target_list
from distcalib.report.map_data import MapVariable, district_table, map_variables
from distcalib.report.map_plot import draw_map
from distcalib.report.pages import change_text, count_text, figure_text, share_text
from distcalib.report.run_tables import RunTables
from distcalib.report.tiles import district_name

_FACTS = {
    "within_tolerance": ("fitted targets within tolerance", share_text),
    "median": ("median error", share_text),
    "population": ("population in its file against the official one", change_text),
    "records": ("records with weight", count_text),
    "donors": ("donors", count_text),
    "effective_sample_size": ("effective sample size", figure_text),
    "effective_sample_size_by_donor": ("effective sample size by donor", figure_text),
    "effective_share": ("effective sample size over records", share_text),
    "at_lower": ("records at the lower bound", share_text),
    "at_upper": ("records at the upper bound", share_text),
    "largest_donor_share": ("weight that the largest donor carries", share_text),
}


def districts_page(tables: RunTables) -> Any:
    """The map, coloured by a chosen measure; a tap on a tile, or the menu, chooses a district."""
    districts = tables.districts
    if not districts:
        return html("<p>The run has no table of its columns yet, so its districts are not known.</p>")
    variables = map_variables(tables, districts) or [_nothing(len(districts))]
    below = pn.Column(sizing_mode="stretch_width")
    names = {district_name(geoid): geoid for geoid in districts}
    menu = pn.widgets.Select(label="District", options=["", *names], value="", width=150)
    view = map_view(variables, districts, menu)

    async def chosen(*_: Any) -> None:
        if menu.value in names:
            await fill(below, partial(_district, tables, names[menu.value]))

    menu.param.watch(chosen, "value")
    return pn.Column(view, below, sizing_mode="stretch_width")


def map_view(variables: list[MapVariable], districts: list[int], menu: Any = None) -> Any:
    """Return a map with the menu of what it shows; a tap on a tile sets `menu` to its district."""
    groups: dict[str, dict[str, MapVariable]] = {}
    for one in variables:
        groups.setdefault(one.group or "Districts", {})[one.label] = one
    measure = pn.widgets.Select(label="Show", groups=groups, value=variables[0], width=300)
    place = pn.Column(sizing_mode="stretch_width")
    held: dict[str, Any] = {}

    def draw(*_: Any) -> None:
        figure = draw_map(measure.value, districts)
        held["source"] = source = next(r for r in figure.renderers if r.name == "districts").data_source
        if menu is not None:
            source.selected.on_change("indices", tapped)
            mark()
        # Not as min_width, which all that is around the figure would take over: it scrolls on a phone.
        figure.update(sizing_mode="scale_width", max_width=960, stylesheets=[":host { min-width: 640px; }"])
        place[:] = [pn.pane.Bokeh(figure, sizing_mode="stretch_width")]

    def tapped(_: str, __: Any, indices: list[int]) -> None:
        if indices:
            menu.value = held["source"].data["district"][indices[0]]

    def mark(*_: Any) -> None:
        at = [i for i, name in enumerate(held["source"].data["district"]) if name == menu.value]
        if held["source"].selected.indices != at:
            held["source"].selected.indices = at

    draw()
    measure.param.watch(draw, "value")
    if menu is not None:
        menu.param.watch(mark, "value")
    widgets = [measure] if menu is None else [measure, menu]
    wide = pn.Column(
        place, sizing_mode="stretch_width", styles={"overflow-x": "auto", "contain": "inline-size"}
    )
    return pn.Column(pn.FlexBox(*widgets), wide, sizing_mode="stretch_width")


def _district(tables: RunTables, geoid: int) -> Any:
    name = district_name(geoid)
    row = district_table(tables).set_index("cd_geoid").loc[geoid]
    told = {words: text(row[key]) for key, (words, text) in _FACTS.items() if np.isfinite(row[key])}
    if row["worst"]:
        told["largest miss"] = f"{change_text(row['worst_error'])}: {row['worst']}"
    file = f"areas/districts/{name}.h5"
    parts: list[Any] = [facts(f"{name} ({geoid})", told)]
    if inside(tables.folder, file):
        parts.append(download(tables.folder, file))
    tabs: list[tuple[str, Any]] = []
    if tables.targets is not None and tables.fitted:
        own = target_list(tables)
        own = own[(own["geo_level"] == "district") & (own["geographic_id"].astype(str) == str(geoid))]
        tabs.append(("Targets", target_grid(tables, own, f"Targets of {name}")))
    if tables.weights is not None:
        records = records_of_district(tables, geoid)
        columns = {"household_id": ("donor (household)", "0"), "records": ("records", COUNT),
                   "weight": ("weight", FIGURE), "share": ("share of the weight", "0.00%")}  # fmt: skip
        tabs.append(("Donors", grid(by_donor(records), columns)))
    if tables.totals is not None:
        totals = tables.totals[tables.totals["area"] == name]
        columns = {"variable": ("variable", ""), "total": ("total", COUNT),
                   "households": ("households", COUNT),
                   "nonzero": ("with some", COUNT)}  # fmt: skip
        tabs.append(("Totals of its file", grid(totals, columns, search=("variable",))))
    if tabs:
        parts.append(pn.Tabs(*tabs, dynamic=True, sizing_mode="stretch_width"))
    return pn.Column(*parts, sizing_mode="stretch_width")


def _nothing(n: int) -> MapVariable:
    none = ["nothing is known of it yet"] * n
    about = "nothing is known of them yet"
    return MapVariable("", "Districts of the run", about, np.full(n, np.nan), "x" * n, none,
                       [("x", "no figure")])  # fmt: skip
