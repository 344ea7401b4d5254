"""The margins that the bundled microdata are raked to are the register's figures."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from distcalib.microdata.cps_rake import official
from distcalib.targets.margins import write_bundled
from distcalib.targets.sources import bundled_targets

RAW = os.environ.get("DISTCALIB_RAW")


def register(variable: str, constraints: str, level: str = "state") -> pd.Series:
    """Return the register's figures of one quantity, by state."""
    table = bundled_targets()
    same = (table["variable"] == variable) & (table["constraints"] == constraints)
    rows = table[same & (table["geo_level"] == level)]
    return pd.Series(rows["value"].to_numpy(), index=rows["geographic_id"].astype(int)).sort_index()


@pytest.mark.parametrize(
    ("quantity", "variable"),
    [("persons", "person_count"), ("households", "household_count"), ("contract rent", "rent")],
)
def test_margins_by_state_are_the_registers(quantity, variable):
    pd.testing.assert_series_equal(
        official(quantity).sort_index(), register(variable, "").round(), check_names=False
    )


def test_minors_and_the_aged_agree_with_the_bands():
    bands = official("persons by age")
    assert official("persons of 65 and over").sum() == bands[bands.index >= 65].sum()
    minors = official("persons under 18").sum()
    assert bands[bands.index < 15].sum() < minors < bands[bands.index < 20].sum()


@pytest.mark.skipif(not RAW, reason="needs the raw public files: set DISTCALIB_RAW to their folder")
def test_rebuilding_gives_the_bundled_bytes(tmp_path: Path):
    write_bundled(str(RAW), tmp_path)
    bundled = files("distcalib.microdata").joinpath("bundled/official_2024.csv")
    assert (tmp_path / "official_2024.csv").read_bytes() == bundled.read_bytes()
