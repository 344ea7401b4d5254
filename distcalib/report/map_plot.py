"""The map of districts as a Bokeh object: one equal tile a district."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.report.figure_parts import hover, lacks, models, new_figure, tables_of
from distcalib.report.map_data import DARK, FILLS, MapVariable, map_variables, own_variable
from distcalib.report.tiles import district_name, tile_places

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from distcalib.report.figure_parts import Source


def district_map(
    run: Source | pd.Series | pd.DataFrame, variable: str | None = None, signed: bool = False
) -> figure:
    """Draw districts as equal tiles, grouped by state, coloured by a figure; hovering says it.

    Parameters
    ----------
    run
        A run; or a Series of figures by district, in any spelling (601, ``CA-06``); or a table with the
        column cd_geoid or district.
    variable
        Of a run: label of what its report's map can show (by default the first), such as
        ``Population error``; of a table: its column.
    signed
        Figures of one's own are relative errors: blue where too low, orange where too high, in fixed classes.

    Raises
    ------
    InputError
        For a variable that is not there, or a district that is none.
    """
    if isinstance(run, pd.DataFrame):
        key = next((name for name in ("cd_geoid", "district") if name in run), None)
        if key is None or variable not in run:
            raise InputError("needs a column of the districts (cd_geoid or district) and one of the figures",
                             place="district_map", value=variable, choices=run.columns)  # fmt: skip
        run = run.set_index(key)[variable]
    if isinstance(run, pd.Series):
        districts = [District.parse(d).geoid for d in run.index]
        if len(set(districts)) < len(districts):
            twice = next(d for d in districts if districts.count(d) > 1)
            raise InputError("stands twice", place="district_map", value=district_name(twice))
        name = str(variable or run.name or "figure")
        return draw_map(own_variable(name, run.to_numpy(np.float64), signed), districts)
    tables = tables_of(run)
    known = {one.label: one for one in map_variables(tables, tables.districts)}
    if not known:
        raise lacks(tables, "fit/diagnostics.csv")
    label = next(iter(known)) if variable is None else variable
    if label not in known:
        raise InputError("cannot be shown of this run", place="district_map: variable", value=label,
                         choices=known)  # fmt: skip
    return draw_map(known[label], tables.districts)


def draw_map(shown: MapVariable, districts: list[int]) -> figure:
    """Draw a variable of the districts; the renderer named ``districts`` can be tapped."""
    at = tile_places(districts)
    place = {geoid: i for i, geoid in enumerate(districts)}
    order = [place[tile.geoid] for tile in at.tiles]
    letters = [shown.classes[i] for i in order]
    half = [tile.size / 2 for tile in at.tiles]
    source = {
        "cd_geoid": [tile.geoid for tile in at.tiles],
        "district": [district_name(tile.geoid) for tile in at.tiles],
        "x": [tile.x + h for tile, h in zip(at.tiles, half, strict=True)],
        "y": [tile.y + h for tile, h in zip(at.tiles, half, strict=True)],
        "size": [tile.size - 0.07 for tile in at.tiles],
        "value": shown.values[order],
        "text": [shown.texts[i] for i in order],
        "fill": [FILLS[letter] for letter in letters],
        "label": [tile.label for tile in at.tiles],
        "ink": ["#ffffff" if letter in DARK else "#1b1f24" for letter in letters],
    }
    chart = new_figure(
        shown.label, width=960, height=780, match_aspect=True, toolbar_location=None,
        x_range=(-0.5, at.right + 0.5), y_range=(at.bottom + 0.5, -0.5), tools="tap",
    )  # fmt: skip
    chart.axis.visible, chart.grid.visible, chart.outline_line_color = False, False, None
    tiles = chart.rect("x", "y", "size", "size", source=source, fill_color="fill", line_color="#8c959f",
                       line_width=0.5, name="districts", nonselection_fill_alpha=1.0,
                       nonselection_line_alpha=1.0, selection_line_color="#000000",
                       selection_line_width=2.5, hover_line_color="#000000", hover_line_width=2)  # fmt: skip
    numbers = chart.text("x", "y", "label", source=tiles.data_source, text_color="ink", text_align="center",
                         text_baseline="middle", text_font_size="7px")  # fmt: skip
    numbers.nonselection_glyph = numbers.selection_glyph = numbers.glyph
    ink = ["#8c959f" if state.empty else "#1b1f24" for state in at.states]
    chart.text([s.middle if not s.empty else s.x + 0.5 for s in at.states], [s.y - 0.1 for s in at.states],
               [s.code for s in at.states], text_color=ink, text_align="center", text_font_size="10px",
               text_font_style="bold")  # fmt: skip
    items = [
        models().LegendItem(label=words, renderers=[
            chart.scatter([np.nan], [np.nan], marker="square", size=12, fill_color=FILLS[letter],
                          line_color="#8c959f")
        ])
        for letter, words in shown.legend
    ]  # fmt: skip
    legend = models().Legend(
        items=items, orientation="horizontal", border_line_color=None, ncols=5, location="center_left"
    )
    chart.add_layout(legend, "above")
    about = f"{shown.about} ({at.note})" if at.note else shown.about
    chart.add_layout(models().Title(text=about, text_font_style="italic"), "above")
    hover(chart, [("", "@district"), ("", "@text")], [tiles])
    return chart
