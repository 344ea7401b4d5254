"""Shapes of districts: tiles of every run, outlines of a user's file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.report.outlines import outline_map
from distcalib.report.tiles import GRID, TILE, Shapes, tile_map


def boxes(found: Shapes) -> dict[int, np.ndarray]:
    out = {}
    for geoid, shape in found.shapes.items():
        x, y, w, h = re.search(r'x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', shape).groups()
        out[geoid] = np.array([float(x), float(y), float(x) + float(w), float(y) + float(h)])
    return out


def apart(found: Shapes) -> bool:
    at = np.array(list(boxes(found).values()))
    inside = (at[:, :2].min() >= 0) and (at[:, 2].max() <= found.width) and (at[:, 3].max() <= found.height)
    meet = (
        (at[:, None, 0] < at[None, :, 2])
        & (at[None, :, 0] < at[:, None, 2])
        & (at[:, None, 1] < at[None, :, 3])
        & (at[None, :, 1] < at[:, None, 3])
    )
    return bool(inside and meet.sum() == len(at))


def test_the_nation_has_one_equal_tile_a_district():
    geoids = districts()["cd_geoid"].tolist()
    found = tile_map(geoids)
    assert sorted(found.shapes) == geoids
    assert apart(found)
    assert found.note == ""
    sizes = {tuple(np.round(box[2:] - box[:2], 1)) for box in boxes(found).values()}
    assert sizes == {(TILE - 1, TILE - 1)}


def test_every_state_has_a_place():
    assert sorted(c for c in GRID.split() if c != "..") == sorted(STATE_CODES.values())


def test_west_is_left_and_north_is_up():
    at = boxes(tile_map(districts()["cd_geoid"].tolist()))
    assert at[5301][0] < at[2501][0]  # Washington, Massachusetts
    assert at[5301][1] < at[601][1]  # Washington, California
    assert at[1201][1] > at[1301][1]  # Florida, Georgia


def test_after_a_redistricting_nothing_overlaps():
    for more in ({6: 60}, {48: 90, 12: 70}, {56: 30}, {36: 80}, {17: 21}):
        geoids = districts()["cd_geoid"].tolist()
        geoids += [100 * state + i for state, n in more.items() for i in range(1, n + 1)]
        found = tile_map(sorted(set(geoids)))
        assert set(found.shapes) == set(geoids)
        assert apart(found), more


def test_a_run_of_some_states_keeps_the_others_as_outlines():
    found = tile_map([5601, 3301, 3302])
    assert apart(found)
    assert sum('class="none"' in label for label in found.labels) == 49


def test_districts_of_no_state_stand_in_a_row_with_a_note():
    found = tile_map([5601, 7201, 7202])
    assert apart(found)
    assert "2 districts are of no state" in found.note


def square(x: float, y: float, **properties: object) -> dict:
    ring = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1], [x, y]]
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def write(path: Path, *features: dict) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def corners(shape: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[-0-9.]+,[-0-9.]+", shape)])


def test_outlines_are_drawn_where_they_are(tmp_path):
    file = write(
        tmp_path / "cd.geojson",
        square(-122, 38, GEOID="0601"),
        square(-71, 42, GEOIDFQ="5001900US2501"),
        square(-150, 62, name="AK-01"),
        square(-156, 20, district="HI-01"),
        square(-66, 18, GEOID="7201", name="none of the run"),
        square(-100, 31, cd_geoid=4801),
    )
    file.write_text(file.read_text().replace('"name": "none of the run"', '"district": "TX-02"'))
    found = outline_map(file, [601, 2501, 201, 1501, 5601])
    at = {geoid: corners(shape).mean(axis=0) for geoid, shape in found.shapes.items()}
    assert at[601][0] < at[2501][0]
    # Alaska and Hawaii stand below the other states, to the left.
    assert at[201][1] > at[601][1]
    assert at[601][0] < at[1501][0] < at[2501][0]
    assert "no outline of 1 districts of the run: WY-01" in found.note
    points = np.concatenate([corners(s) for s in found.shapes.values()])
    assert points.min() >= 0
    assert points[:, 0].max() <= found.width
    assert points[:, 1].max() <= found.height


def test_points_that_nobody_sees_are_left_out(tmp_path):
    one = square(-100, 40, district="KS-01")
    x = np.linspace(-100, -99, 20_000)
    one["geometry"]["coordinates"] = [[*[[a, 40.0] for a in x], [-99, 41], [-100, 41], [-100, 40]]]
    found = outline_map(write(tmp_path / "cd.json", one), [2001])
    assert len(corners(found.shapes[2001])) < 4_100


def test_the_aleutians_do_not_cross_the_map(tmp_path):
    one = square(179.5, 52, district="AK-01")
    one["geometry"]["coordinates"][0][1:3] = [[-179.5, 52], [-179.5, 53]]
    found = outline_map(write(tmp_path / "cd.json", one, square(-100, 40, district="KS-01")), [201, 2001])
    assert np.ptp(corners(found.shapes[201])[:, 0]) < 20


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([square(0, 0, colour="red")], "names no district"),
        ([square(0, 0, district="WY-01"), square(1, 1, district="WY-01")], "twice"),
        ([square(0, 0, district="CA-02")], "no district of the run"),
        ([], "no district of the run"),
        ([square(400, 0, district="WY-01")], "longitude and latitude"),
        ([{"properties": {"district": "WY-01"}, "geometry": None}], "is no area"),
        ([{"properties": {"district": "WY-01"}, "geometry": {"type": "Polygon"}}], "cannot be read"),
        (
            [
                {
                    "properties": {"district": "WY-01"},
                    "geometry": {"type": "Polygon", "coordinates": [[["x"]]]},
                }
            ],
            "cannot be read",
        ),
        ([{"properties": None}], "names no district"),
    ],
)
def test_a_bad_file_is_named_with_its_feature(tmp_path, features, words):
    file = write(tmp_path / "cd.json", *features)
    with pytest.raises(InputError, match=words) as raised:
        outline_map(file, [5601])
    assert "cd.json" in str(raised.value)


@pytest.mark.parametrize("text", ["no json", "[1, 2]", '{"features": 3}', '{"features": [1]}'])
def test_a_file_that_is_no_geojson(tmp_path, text):
    (tmp_path / "cd.json").write_text(text)
    with pytest.raises(InputError, match=r"cd.json"):
        outline_map(tmp_path / "cd.json", [5601])
    with pytest.raises(InputError, match="cannot be read"):
        outline_map(tmp_path / "missing.json", [5601])
