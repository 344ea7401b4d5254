"""The pictures of the documentation can be renewed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from made_tables import write_made_run
from PIL import Image

from distcalib.report.run_report import write_report

SCRIPT = Path(__file__).parents[2] / "docs" / "screenshots.py"


@pytest.mark.browser
def test_both_pictures_are_made_of_a_finished_run(tmp_path):
    run = write_made_run(tmp_path / "demo", [611, 612, 3301])
    write_report(run)
    names = runpy.run_path(str(SCRIPT))
    names["main"](run, tmp_path / "images")
    for name in ("report", "dashboard"):
        picture = Image.open(tmp_path / "images" / f"{name}.png")
        assert picture.width == names["WIDTH"]
        assert picture.height > 500
        # Something is drawn on it.
        assert len(set(picture.convert("L").get_flattened_data())) > 20
