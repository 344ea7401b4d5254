"""Areas and their parts: the districts of a state, the states and districts of the nation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

_LEVEL = {"national": 0, "state": 1, "district": 2}
# An area as a whole (its level and number), and the level of the parts that it is compared with.
WHOLE = ["above", "whole", "below"]


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Add level (0 the nation, 1 a state, 2 a district) and area (0, FIPS, GEOID; float64) to targets."""
    level = rows["geo_level"].map(_LEVEL)
    area = pd.to_numeric(rows["geographic_id"], errors="coerce").where(level > 0, 0.0)
    return rows.assign(level=level, area=area)


def in_wholes(parts: pd.DataFrame) -> pd.DataFrame:
    """Return rows once for each area that they lie in: districts in state and nation, states in the nation.

    Parameters
    ----------
    parts
        With level and area, as `placed` gives them.

    Returns
    -------
    DataFrame
        Their rows with the columns `WHOLE`: level and number of the area that holds the row's, and its level.
    """
    parts = parts.assign(below=parts["level"])
    district = parts[parts["level"] == 2]
    within = district.assign(above=1, whole=district["area"] // 100)
    return pd.concat([within, parts[parts["level"] > 0].assign(above=0, whole=0.0)])


def sums_of_parts(
    parts: pd.DataFrame, key: Sequence[str], districts: ArrayLike, **more: tuple[str, object]
) -> pd.DataFrame:
    """Sum figures over the parts of each area.

    Parameters
    ----------
    parts
        With level and area, as `placed` gives them, no area twice for a key; value, square (of the margin of
        error; may be missing) and the columns of `key`.
    key
        What makes figures those of one quantity.
    districts
        GEOIDs that there are: an area is complete when it has a figure of each of its parts among them.
    **more
        Other sums, as for `DataFrameGroupBy.agg`.

    Returns
    -------
    DataFrame
        One row a quantity, area and level of its parts: `key`, `WHOLE`, total, square (of the known margins),
        known (how many margins are), number (of parts), complete (bool), and `more`.
    """
    geoids = np.unique(np.asarray(districts, dtype=np.int64))
    every = pd.concat(
        [
            pd.DataFrame({"level": 1, "area": np.unique(geoids // 100)}),
            pd.DataFrame({"level": 2, "area": geoids}),
        ]
    )
    expected = in_wholes(every).groupby(WHOLE).size().rename("expected")
    sums = in_wholes(parts).groupby([*key, *WHOLE]).agg(
        total=("value", "sum"), square=("square", "sum"), known=("square", "count"), number=("area", "size"),
        **more,
    ).join(expected, on=WHOLE).reset_index()  # fmt: skip
    return sums.assign(complete=sums["number"] == sums.pop("expected"))
