"""What is printed of contradictions among targets."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from distcalib.report.findings import print_findings
from distcalib.report.pages import amount_text, area_name
from distcalib.targets.contradiction_checks import COLUMNS


def finding(**values: object) -> dict[str, object]:
    base = dict.fromkeys(COLUMNS, "") | {"kind": "levels disagree", "severity": "error", "why": "Because."}
    base |= {"variable": "snap", "reform_id": 0, "period": 2024, "geo_level": "state", "margin": np.nan}
    return base | {"value": 2e9, "against": 1e9, "ratio": 2.0, "compared_with": "the districts"} | values


def printed(*rows: dict[str, object]) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    print_findings(pd.DataFrame(list(rows), columns=COLUMNS), console)
    return console.file.getvalue().splitlines()


def test_no_finding_is_said():
    assert printed() == ["no contradictions"]


def test_a_line_a_quantity_names_the_first_area_and_how_many_there_are():
    lines = printed(finding(geographic_id="6"), finding(geographic_id="56"))
    assert lines == [
        "error: levels disagree. Because.",
        "  snap 2024, state, 2 areas, worst CA: 2.0 bn against 1.0 bn (ratio 2); the districts",
        "2 errors, 0 warnings, 0 notes",
    ]


def test_a_finding_without_a_second_figure_shows_its_own():
    alone = {"against": np.nan, "ratio": np.nan, "compared_with": "", "constraints": "age>=65"}
    line = printed(finding(geographic_id="3301", geo_level="district", value=-5.0, **alone))[1]
    assert line == "  snap [age>=65] 2024, district NH-01: -5"


def test_of_many_quantities_eight_are_shown():
    lines = printed(*(finding(geographic_id="US", variable=f"v{i}") for i in range(11)))
    assert lines[-2:] == ["  and 3 more quantities", "11 errors, 0 warnings, 0 notes"]
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("area", "name"), [("US", "US"), ("6", "CA"), ("612", "CA-12"), ("5601", "WY-01"), ("9901", "9901")]
)
def test_areas_have_names(area, name):
    assert area_name(area) == name


def test_amounts_are_short():
    figures = [amount_text(v, "dollars") for v in (2.34e9, -5.6e6, 7890.0, np.nan)]
    assert figures == ["$2.3 bn", "$-5.6 M", "$7,890", ""]
    assert amount_text(2.34e6, "persons") == "2.3 M"
