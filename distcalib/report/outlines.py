"""A user's GeoJSON of districts as shapes for a map: the 48 states, Alaska and Hawaii each in its projection.

Source of the projections and their places: Albers equal-area conic with the parallels and shifts of d3-geo's
``geoAlbersUsa``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.geography.district import District
from distcalib.report.tiles import Shapes

Float = NDArray[np.float64]

WIDTH = 1000.0
#: Of neighbouring points in a square of this side, in units of the picture, one is drawn.
NEAR = 0.25
# By FIPS code of the state, 0 for all others: central meridian, origin (longitude from it, latitude), two
# parallels, scale, and shift in radii.
_PROJECTIONS = {
    0: (-96.0, (-0.6, 38.7), (29.5, 45.5), 1.0, (0.0, 0.0)),
    2: (-154.0, (-2.0, 58.5), (55.0, 65.0), 0.35, (-0.307, 0.201)),
    15: (-157.0, (-3.0, 19.9), (8.0, 18.0), 1.0, (-0.205, 0.212)),
}
#: Properties of a feature that may name its district, in the order in which they are tried.
NAMES = ("cd_geoid", "geoid", "geoidfq", "geoid20", "affgeoid", "district", "cd", "name")


def outline_map(path: str | Path, districts: list[int]) -> Shapes:
    """Read a GeoJSON file and draw the districts of a run.

    Parameters
    ----------
    path
        A FeatureCollection of polygons in longitude and latitude; a property of each feature, one of
        `NAMES` in any case, names its district in any spelling that `District` reads.
    districts
        GEOIDs of the run. Features of other districts are left out.

    Raises
    ------
    InputError
        When the file cannot be read or is none of such features, names no district of the run or one twice.
    """
    wanted = set(districts)
    found: dict[int, list[Float]] = {}
    for number, feature in enumerate(_features(path)):
        place = f"{path}: feature {number}"
        geoid = _district(feature, place)
        if geoid not in wanted:
            continue
        if geoid in found:
            raise InputError("names a district twice", place=place, value=District(geoid).name)
        found[geoid] = [_projected(ring, geoid // 100) for ring in _rings(feature, place)]
    if not found:
        raise InputError("has no district of the run", place=path, expected="its districts as features")
    points = np.concatenate([ring for rings in found.values() for ring in rings])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = WIDTH / max(high[0] - low[0], 1e-9)
    shapes = {
        geoid: f'<path d="{"".join(_path((ring - low) * scale) for ring in rings)}"/>'
        for geoid, rings in found.items()
    }
    missing = sorted(wanted - set(found))
    note = ""
    if missing:
        names = ", ".join(District(d).name for d in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        note = f"{Path(path).name} has no outline of {len(missing)} districts of the run: {names}{more}"
    return Shapes(WIDTH, round(float((high - low)[1] * scale) + 1), shapes, (), note)


def _features(path: str | Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", place=path) from None
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", place=path, expected="a GeoJSON file") from None
    features = read.get("features") if isinstance(read, dict) else None
    if not isinstance(features, list) or not all(isinstance(one, dict) for one in features):
        raise InputError("is no collection of features", place=path, expected="a GeoJSON FeatureCollection")
    return features


def _district(feature: dict[str, Any], place: str) -> int:
    properties = feature.get("properties")
    given = {str(k).lower(): v for k, v in (properties if isinstance(properties, dict) else {}).items()}
    for name in NAMES:
        try:
            return District.parse(given[name]).geoid
        except (KeyError, InputError):
            continue
    if any(name in given for name in NAMES):
        return 0  # water, or a district that is none
    expected = f"one of {', '.join(NAMES)} such as 'CA-06', '0606' or '5001900US0606'"
    raise InputError(
        "names no district", place=f"{place}: properties", value=sorted(given), expected=expected
    )


def _rings(feature: dict[str, Any], place: str) -> Iterator[Float]:
    geometry = feature.get("geometry")
    geometry = geometry if isinstance(geometry, dict) else {}
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(
            "is no area", place=f"{place}: geometry", value=kind, expected="Polygon or MultiPolygon"
        )
    try:
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        rings = [np.array([p[:2] for p in ring], np.float64) for polygon in polygons for ring in polygon]
        good = all(
            ring.ndim == 2 and ring.shape[1] == 2 and len(ring) > 2 and np.isfinite(ring).all()
            for ring in rings
        )
    except (KeyError, TypeError, ValueError):
        good, rings = False, []
    if not (good and rings and all((abs(ring) <= (180, 90)).all() for ring in rings)):
        expected = "rings of three or more points of longitude and latitude"
        raise InputError("cannot be read", place=f"{place}: coordinates", expected=expected)
    yield from rings


def _projected(ring: Float, state: int) -> Float:
    """Return the points of a ring in radii, x to the right and y downwards."""
    meridian, origin, parallels, scale, shift = _PROJECTIONS.get(state, _PROJECTIONS[0])
    first, second = np.sin(np.radians(parallels))
    n = (first + second) / 2
    c = 1 + first * (2 * n - first)

    def plane(longitude: Float, latitude: Float) -> Float:
        # The Aleutians cross the antimeridian.
        angle = n * np.radians((longitude - meridian + 180) % 360 - 180)
        radius = np.sqrt(np.maximum(c - 2 * n * np.sin(np.radians(latitude)), 0)) / n
        return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)

    middle = plane(np.array([meridian + origin[0]]), np.array([origin[1]]))
    return np.asarray((plane(ring[:, 0], ring[:, 1]) - middle) * scale + shift)


def _path(ring: Float) -> str:
    """Return a ring as SVG path, without points that nobody sees."""
    near = np.round(ring / NEAR)
    keep = ring[np.r_[True, (np.diff(near, axis=0) != 0).any(axis=1)]]
    if len(keep) < 3:
        return ""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in keep.tolist()) + "Z"
