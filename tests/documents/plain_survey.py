"""Parts of the tests of the documents: the older schema, a plain survey, amounts without a rules engine."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES
from distcalib.matrix.measures import Rows
from distcalib.microdata import Microdata

SCHEMA = """
CREATE TABLE strata (stratum_id INTEGER PRIMARY KEY, definition_hash TEXT, parent_stratum_id INTEGER,
  stratum_group_id INTEGER, notes TEXT);
CREATE TABLE stratum_constraints (stratum_id INTEGER, constraint_variable TEXT, operation TEXT, value TEXT);
CREATE TABLE targets (target_id INTEGER PRIMARY KEY, variable TEXT, period INTEGER, stratum_id INTEGER,
  reform_id INTEGER DEFAULT 0, value REAL, active INTEGER DEFAULT 1, tolerance REAL, source TEXT);
"""


class OlderDatabase:
    """The schema of the first document, filled stratum by stratum."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.executescript(SCHEMA)

    def add(self, group: int, area: str, domain: list[tuple[str, str, str]], targets: list[tuple]) -> None:
        place = []
        if area != "US":
            variable = "state_fips" if int(area) < 100 else "congressional_district_geoid"
            place = [(variable, "==", area)]
        (number,) = self.db.execute("SELECT COALESCE(MAX(stratum_id), 0) + 1 FROM strata").fetchone()
        self.db.execute(
            "INSERT INTO strata VALUES (?, ?, NULL, ?, ?)", (number, f"{number:064d}", group, area)
        )
        self.db.executemany(
            "INSERT INTO stratum_constraints VALUES (?, ?, ?, ?)", [(number, *c) for c in place + domain]
        )
        self.db.executemany(
            "INSERT INTO targets (stratum_id, variable, value, period) VALUES (?, ?, ?, ?)",
            [(number, *t) for t in targets],
        )


def singles(n: int) -> Microdata:
    """Return n households of one person each, with ids that are not their positions."""
    ids = {entity: 25 + 3 * np.arange(n) for entity in ENTITIES}
    links = {entity: np.arange(n) for entity in GROUP_ENTITIES}
    columns = {
        "household": {"household_weight": np.full(n, 1000.0), "state_fips": np.full(n, 23)},
        "person": {"age": np.arange(n) % 90},
    }
    return Microdata.build(2024, ids, links, columns)


class Households:
    """Stands for the user's simulation where only its households matter."""

    def __init__(self, path: Path) -> None:
        self.ids = Microdata.read(path).ids["household"]

    def calculate(self, variable: str, period: int | None = None) -> np.ndarray:
        assert variable == "household_id"
        return self.ids


def fake_values(source: Microdata, assignment: object, columns: np.ndarray, rows: Rows, **how: object):
    """Every tenth household receives 100 dollars plus its state's number; counts are 1 for them."""
    state = int(assignment.state_fips[columns][0])
    record = columns % assignment.n_records
    out = np.zeros((len(columns), len(rows.within(state))), dtype=np.float32)
    for i, m in enumerate(rows.within(state)):
        out[record % 10 == 0, i] = 1 if rows.measures[m].variable.endswith("_count") else 100 + state
    return out
