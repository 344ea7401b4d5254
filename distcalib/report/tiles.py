"""Districts as equal tiles, grouped by state, the states about where they are: shapes for a map.

The places of the states are those of the square-tile map that newsrooms use; a state that needs more than
its place grows where the map has room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES

GRID = """
AK .. .. .. .. .. .. .. .. .. ME
.. .. .. .. .. .. .. .. .. VT NH
WA ID MT ND MN IL WI MI NY RI MA
OR NV WY SD IA IN OH PA NJ CT ..
CA UT CO NE MO KY WV VA MD DE ..
.. AZ NM KS AR TN NC SC DC .. ..
.. .. .. OK LA MS AL GA .. .. ..
HI .. .. TX .. .. .. .. FL .. ..
"""
# Tiles that a place has room for, across and down, and the gaps between places; the name stands in the lower.
_ACROSS, _DOWN, _GAP_ACROSS, _GAP_DOWN = 5, 4, 0.9, 1.5
# States with more than one place: how many across and down; below zero they grow upwards.
_ROOMS = {"CA": (1, 3), "TX": (2, 2), "FL": (1, 2), "NY": (1, -2)}
#: Side of a tile in the units of the picture.
TILE = 15.0


@dataclass(frozen=True)
class Shapes:
    """What a map is drawn of.

    Attributes
    ----------
    width, height
        Of the picture.
    shapes
        District GEOID -> its SVG elements, without a colour.
    labels
        SVG elements beside them: names of states, outlines of states without a district in the run.
    note
        In words, what a reader should know of the map; empty where nothing is odd.
    """

    width: float
    height: float
    shapes: dict[int, str]
    labels: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """Where a district stands: the upper left corner of its square, its side and what is written in it.

    Lengths are in tiles, y grows downwards; a `strange` one is of no state and has its label beside it.
    """

    geoid: int
    x: float
    y: float
    size: float
    label: str
    strange: bool = False


@dataclass(frozen=True)
class State:
    """Where a state stands: the upper left corner of its tiles, their middle, and whether it has none."""

    code: str
    x: float
    y: float
    middle: float
    empty: bool


@dataclass(frozen=True)
class Places:
    """Tiles of districts and places of states, the ends of the picture to the right and below, and a note."""

    tiles: tuple[Tile, ...]
    states: tuple[State, ...]
    right: float
    bottom: float
    note: str = ""


def district_name(geoid: int) -> str:
    """Return ``CA-06``; of a code whose state is unknown the code."""
    return District(geoid).name if geoid // 100 in STATE_CODES else str(geoid)


def tile_map(districts: list[int]) -> Shapes:
    """Draw a tile for each district.

    Parameters
    ----------
    districts
        GEOIDs. Those of a code that is no state's stand in a row below the map, and the note says so.
    """
    found = tile_places(districts)
    shapes, labels = {}, []
    for tile in found.tiles:
        number = (
            _text(tile.x + 1.9, tile.y + 0.7, tile.label, "number")
            if tile.strange
            else _text(tile.x + tile.size / 2, tile.y + tile.size * 0.68, tile.label, "number")
        )
        shapes[tile.geoid] = _square(tile.x, tile.y, tile.size) + number
    for state in found.states:
        labels.append(
            _text(state.middle, state.y - 0.35, state.code, "state none" if state.empty else "state")
        )
        if state.empty:
            labels.append(_square(state.x, state.y, 1.0, 'class="none"'))
    return Shapes(
        round(found.right * TILE + 1), round((found.bottom + 0.3) * TILE), shapes, tuple(labels), found.note
    )


def tile_places(districts: list[int]) -> Places:
    """Place a tile for each district; see `tile_map`."""
    places = {
        code: (x, y)
        for y, line in enumerate(GRID.split("\n")[1:-1])
        for x, code in enumerate(line.split())
        if code != ".."
    }
    by_state: dict[str, list[int]] = {}
    strange = sorted(d for d in districts if STATE_CODES.get(d // 100) not in places)
    for geoid in sorted(set(districts) - set(strange)):
        by_state.setdefault(STATE_CODES[geoid // 100], []).append(geoid)
    tiles: list[Tile] = []
    states: list[State] = []
    right = bottom = 0.0
    for code, (column, row) in places.items():
        of_state = by_state.get(code, [])
        wide, tall = _ROOMS.get(code, (1, 1))
        room = (
            wide * _ACROSS + (wide - 1) * _GAP_ACROSS,
            abs(tall) * _DOWN + (abs(tall) - 1) * _GAP_DOWN,
        )
        across, size = _arranged(len(of_state), room)
        left, top = column * (_ACROSS + _GAP_ACROSS), (row + 1) * _GAP_DOWN + row * _DOWN
        shift = max(0.0, (_ACROSS - across * size) / 2) if wide == 1 else 0.0
        if tall < 0:
            top += _DOWN - math.ceil(len(of_state) / across) * size if of_state else 0.0
        states.append(State(code, left + shift, top, left + shift + across * size / 2, not of_state))
        for i, geoid in enumerate(of_state):
            x, y = left + shift + i % across * size, top + i // across * size
            tiles.append(Tile(geoid, x, y, size, str(geoid % 100)))
            right, bottom = max(right, x + size), max(bottom, y + size)
        right, bottom = max(right, left + _ACROSS), max(bottom, top + 1)
    for i, geoid in enumerate(strange):
        per_row = int(right) // 3
        x, y = i % per_row * 3.0, bottom + 1.0 + i // per_row * 1.5
        tiles.append(Tile(geoid, x, y, 1.0, str(geoid), strange=True))
    note = ""
    if strange:
        bottom += 1.0 + 1.5 * math.ceil(len(strange) / (int(right) // 3))
        note = f"{len(strange)} districts are of no state that the map knows and stand in a row below it"
    return Places(tuple(tiles), tuple(states), right, bottom, note)


def _arranged(n: int, room: tuple[float, float]) -> tuple[int, float]:
    """Return how many tiles of a state stand side by side, and the side of a tile: 1 unless room is short."""
    across = max(1, min(math.ceil(math.sqrt(n)), int(room[0])))
    if math.ceil(n / across) <= room[1]:
        return across, 1.0
    size = 1.0
    while int(room[0] / size + 1e-9) * int(room[1] / size + 1e-9) < n:
        size *= 0.98
    return int(room[0] / size + 1e-9), size


def _square(x: float, y: float, size: float, more: str = "") -> str:
    side = f"{size * TILE - 1:.1f}"
    return (
        f'<rect x="{x * TILE:.1f}" y="{y * TILE:.1f}" width="{side}" height="{side}"{more and " " + more}/>'
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x * TILE:.1f}" y="{y * TILE:.1f}" class="{kind}">{escape(words)}</text>'
