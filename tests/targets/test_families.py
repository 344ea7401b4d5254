"""Sums over the parts of an area: districts of a state, states and districts of the nation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.targets.families import in_wholes, placed, sums_of_parts

# Two states: one of two districts, one of one.
GEOIDS = [101, 102, 201]


def figures(**values: float) -> pd.DataFrame:
    """Figures of areas: ``US`` or ``_`` and a number."""
    area = [name.lstrip("_") for name in values]
    level = ["national" if a == "US" else "state" if len(a) == 1 else "district" for a in area]
    table = pd.DataFrame({"geo_level": level, "geographic_id": area, "value": list(values.values())})
    return placed(table.assign(key="a", square=1.0))


def test_every_area_lies_in_the_areas_above_it():
    found = in_wholes(figures(US=9, _1=5, _101=3, _201=2))
    pairs = found[["geographic_id", "above", "whole", "below"]].to_numpy().tolist()
    assert sorted(pairs) == [
        ["1", 0, 0, 1],
        ["101", 0, 0, 2],
        ["101", 1, 1, 2],
        ["201", 0, 0, 2],
        ["201", 1, 2, 2],
    ]


def test_parts_are_summed_by_level_and_missing_ones_are_seen():
    parts = figures(US=9, _1=5, _2=4, _101=3, _201=4)
    parts.loc[parts["geographic_id"] == "2", "square"] = np.nan
    sums = sums_of_parts(parts, ["key"], GEOIDS, areas=("geographic_id", " ".join))
    at = sums.set_index(["above", "whole", "below"])
    assert at["total"].to_dict() == {(0, 0, 1): 9, (0, 0, 2): 7, (1, 1, 2): 3, (1, 2, 2): 4}
    assert at["complete"].to_dict() == {
        (0, 0, 1): True, (0, 0, 2): False, (1, 1, 2): False, (1, 2, 2): True,
    }  # fmt: skip
    assert at.loc[(0, 0, 1), ["square", "known", "number", "areas"]].tolist() == [1, 1, 2, "1 2"]


@pytest.mark.parametrize("key", [["key"], ["variable", "key"]])
def test_quantities_are_summed_apart(key):
    one = figures(_1=5, _2=4)
    both = pd.concat([one.assign(variable="x"), one.assign(variable="y", value=1.0)])
    sums = sums_of_parts(both if len(key) == 2 else one, key, GEOIDS)
    assert sums["total"].tolist() == [9, 2][: len(key)]
