"""A database with the rows of the two documents, and a survey of the size of the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_survey import OlderDatabase, singles

from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES


@pytest.fixture(scope="session")
def documents_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "policy_data.db"
    made = OlderDatabase(path)
    states = [str(s) for s in STATE_CODES]
    cds = [str(cd) for cd in districts()["cd_geoid"]]
    snap, aca = [("snap", ">", "0")], [("aca_ptc", ">", "0")]
    young = [("age", "<", "5")]
    made.add(1, "US", [], [("snap", 107_062_860_000, 2024), ("person_count", 340e6, 2024)])
    for area in states + cds:
        made.add(1, area, [], [("person_count", 1e6 + int(area), 2024)])
        made.add(2, area, young, [("person_count", 5e4 + int(area), 2024)])
    for s in states:
        amount = 4_041_086_120 if s == "37" else 1e8 + int(s)
        made.add(4, s, snap, [("household_count", 1e5 + int(s), 2024), ("snap", amount, 2024)])
        made.add(119, s, aca, [("aca_ptc", 2e8 + int(s), 2022), ("tax_unit_count", 3e4, 2022)])
    for cd in cds:
        made.add(4, cd, snap, [("household_count", 2e4 + int(cd), 2024)])
        made.add(119, cd, aca, [("aca_ptc", 3e7 + int(cd), 2022), ("tax_unit_count", 1e4, 2022)])
    made.add(119, "US", aca, [("person_count", 19_743_689, 2024)])
    made.db.commit()
    made.db.close()
    return path


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many households as the first document has."""
    path = tmp_path_factory.mktemp("survey") / "survey.h5"
    singles(13_507).write(path)
    return path
