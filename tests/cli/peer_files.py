"""Files as policyengine_us_data 1.115.4 leaves them, made without it: dataset, database, rules, package.

What they are like was read off files that its own code made (docs/migration.md): its tables, triggers and
views, the tree of strata, constraints as it words them, groups by variable with a dataset a period, names of
enums as bytes, records of tax files that weigh nothing.
"""

from __future__ import annotations

import hashlib
import pickle
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.geography.states import STATE_CODES
from distcalib.matrix.calibration import CalibrationMatrix
from distcalib.microdata import Microdata
from distcalib.microdata.model import ENTITIES, GROUP_ENTITIES
from distcalib.targets.sources import bundled_targets

_TABLES = """
CREATE TABLE strata (
  definition_hash VARCHAR(64) NOT NULL, stratum_id INTEGER NOT NULL, parent_stratum_id INTEGER, notes VARCHAR,
  PRIMARY KEY (stratum_id), CONSTRAINT uq_strata_definition_hash UNIQUE (definition_hash),
  FOREIGN KEY(parent_stratum_id) REFERENCES strata (stratum_id));
CREATE TABLE stratum_constraints (
  stratum_id INTEGER NOT NULL, constraint_variable VARCHAR NOT NULL, operation VARCHAR NOT NULL,
  value VARCHAR NOT NULL, notes VARCHAR, PRIMARY KEY (stratum_id, constraint_variable, operation),
  FOREIGN KEY(stratum_id) REFERENCES strata (stratum_id));
CREATE TABLE targets (
  target_id INTEGER NOT NULL, variable VARCHAR NOT NULL, period INTEGER NOT NULL, stratum_id INTEGER NOT NULL,
  reform_id INTEGER NOT NULL, value FLOAT, active BOOLEAN NOT NULL, tolerance FLOAT, source VARCHAR,
  notes VARCHAR, PRIMARY KEY (target_id),
  CONSTRAINT _target_unique UNIQUE (variable, period, stratum_id, reform_id),
  FOREIGN KEY(stratum_id) REFERENCES strata (stratum_id));
CREATE TABLE field_valid_values (
  field_name VARCHAR NOT NULL, valid_value VARCHAR NOT NULL, description VARCHAR,
  PRIMARY KEY (field_name, valid_value));
CREATE INDEX ix_strata_parent_stratum_id ON strata (parent_stratum_id);
CREATE INDEX ix_targets_stratum_id ON targets (stratum_id);
"""
_GUARD = """
CREATE TRIGGER validate_{table}_{when} BEFORE {when} ON {table} FOR EACH ROW BEGIN
  SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM field_valid_values
    WHERE field_name = '{field}' AND valid_value = CAST(NEW.{field} AS TEXT))
  THEN RAISE(ABORT, 'Invalid {field} value for {table}') END;
END;
"""
# An at-large district's figure, and rules for figures that this database lacks, as their file has many.
RULES = """
include:
  # === DISTRICT ===
  - variable: person_count
    geo_level: district
    domain_variable: age
  - variable: household_count
    geo_level: district
  - variable: refundable_ctc
    geo_level: district
  # === STATE ===
  - variable: snap
    geo_level: state
  - variable: household_count
    geo_level: state
    domain_variable: snap
  - variable: person_count
    geo_level: state
    domain_variable: medicaid_enrolled
  # REMOVED: state_income_tax
  # - variable: state_income_tax
  #   geo_level: state
  # === NATIONAL ===
  - variable: snap
    geo_level: national
  - variable: salt_deduction
    geo_level: national
"""


def write_dataset(data: Microdata, path: Path) -> None:
    """Write microdata with the records of odd number weightless, and the others weighing as a sample does."""
    weights = np.where(np.arange(data.count()) % 2, 0.0, data.weights).astype(np.float32)
    columns: dict[str, dict[str, np.ndarray]] = {}
    for entity in ENTITIES:
        columns[f"{entity}_id"] = {"2024": data.ids[entity].astype(np.int32)}
    for entity in GROUP_ENTITIES:
        columns[f"person_{entity}_id"] = {"2024": data.ids[entity][data.links[entity]].astype(np.int32)}
    for table in data.with_columns({"household_weight": weights}).values.values():
        for name, values in table.items():
            variable, period = name.split("/")
            columns.setdefault(variable, {})[period] = values
    columns["is_household_head"] = {"ETERNITY": columns["is_household_head"]["2024"]}
    columns["county_fips"] = {"2024": np.full(data.count(), 37, dtype=np.int32)}
    columns["ssn_card_type"] = {"2024": np.full(data.count("person"), b"CITIZEN")}
    # Written by their imputations, and not known to the rules.
    columns["is_puf_clone_of_theirs"] = {"2024": np.arange(data.count()) % 2 == 1}
    with h5py.File(path, "w") as file:
        for variable, periods in columns.items():
            group = file.create_group(variable)
            for period, values in periods.items():
                group.create_dataset(period, data=values)


def write_database(path: Path, states: Iterable[str]) -> None:
    """Write the bundled figures of some states, their districts and the nation in a database of theirs."""
    table = bundled_targets()
    codes = {str(fips) for fips, code in STATE_CODES.items() if code in set(states)}
    here = table["geographic_id"].isin(codes) | (table["geo_level"] == "national")
    here |= (table["geo_level"] == "district") & table["geographic_id"].str[:-2].isin(codes)
    measure = table["variable"] + " " + table["constraints"].str.replace(r"[<>=].*", "", regex=True)
    kept = measure.isin(
        ["snap ", "household_count snap", "person_count age", "person_count medicaid_enrolled"]
    )
    table = table[here & kept]
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_TABLES)
        _allow(db, table)
        nation = _stratum(db, None, {})
        of_state = {code: _stratum(db, nation, {"state_fips": ("==", code)}) for code in sorted(codes)}
        places = {"US": nation, **of_state}
        for geoid in sorted(set(table.loc[table["geo_level"] == "district", "geographic_id"])):
            where = {"congressional_district_geoid": ("==", geoid)}
            places[geoid] = _stratum(db, of_state[geoid[:-2]], where)
        strata: dict[tuple[str, str], int] = {}
        for row in table.itertuples():
            domain = row.constraints or ("snap>0" if row.variable == "snap" else "")
            if (row.geographic_id, domain) not in strata:
                where = _place(row.geo_level, row.geographic_id)
                strata[row.geographic_id, domain] = _stratum(
                    db, places[row.geographic_id], {**where, **_domain(domain)}
                )
            db.execute(
                "INSERT INTO targets (variable, period, stratum_id, reform_id, value, active, source) "
                "VALUES (?, 2024, ?, 0, ?, 1, 'PolicyEngine')",
                (row.variable, strata[row.geographic_id, domain], row.value),
            )
        # A tax expenditure: its amount under a reform.
        db.execute(
            "INSERT INTO targets (variable, period, stratum_id, reform_id, value, active, source) "
            "VALUES ('salt_deduction', 2024, ?, 1, 21.247e9, 1, 'PolicyEngine')",
            (nation,),
        )
        db.executescript(_VIEWS)


_VIEWS = """
CREATE VIEW stratum_domain AS SELECT DISTINCT stratum_id, constraint_variable AS domain_variable
  FROM stratum_constraints WHERE constraint_variable NOT IN
  ('state_fips', 'congressional_district_geoid', 'tax_unit_is_filer', 'ucgid_str');
CREATE VIEW target_overview AS SELECT target_id, stratum_id, variable, reform_id, value, period, active
  FROM targets;
"""


def _allow(db: sqlite3.Connection, table: pd.DataFrame) -> None:
    names = {"salt_deduction", *table["variable"]}
    constrained = ("state_fips", "congressional_district_geoid", "age", "snap", "medicaid_enrolled")
    allowed = [("operation", o) for o in ("==", "!=", "in", ">", ">=", "<", "<=")]
    allowed += [("active", "0"), ("active", "1"), ("source", "PolicyEngine")]
    allowed += [("period", str(year)) for year in range(2022, 2026)]
    allowed += [("variable", name) for name in names] + [("constraint_variable", n) for n in constrained]
    db.executemany("INSERT INTO field_valid_values (field_name, valid_value) VALUES (?, ?)", allowed)
    for when in ("INSERT", "UPDATE"):
        for name, field in (
            ("stratum_constraints", "operation"), ("stratum_constraints", "constraint_variable"),
            ("targets", "variable"), ("targets", "period"), ("targets", "active"), ("targets", "source"),
        ):  # fmt: skip
            db.executescript(_GUARD.format(table=name, when=when, field=field).replace(
                f"validate_{name}_{when}", f"validate_{name}_{field}_{when}"))  # fmt: skip


def _place(level: str, geographic_id: str) -> dict[str, tuple[str, str]]:
    if level == "national":
        return {}
    return {"state_fips" if level == "state" else "congressional_district_geoid": ("==", geographic_id)}


def _domain(text: str) -> dict[str, tuple[str, str]]:
    """Return constraints as their steps word them: ages with > and <, flags as True."""
    found: dict[str, tuple[str, str]] = {}
    for part in filter(None, text.split("&")):
        for operation in (">=", "<=", "==", ">", "<"):
            name, sign, value = part.partition(operation)
            if sign:
                break
        if name == "age" and operation == ">=":
            operation, value = ">", str(int(value) - 1)
        found[name if name not in found else f"{name} "] = (operation, value)
    return found


def _stratum(db: sqlite3.Connection, parent: int | None, constraints: dict[str, tuple[str, str]]) -> int:
    lines = sorted(f"{name.strip()}|{operation}|{value}" for name, (operation, value) in constraints.items())
    text = "\n".join([str(parent or ""), *lines])
    digest = hashlib.sha256(text.encode()).hexdigest()
    made = db.execute(
        "INSERT INTO strata (definition_hash, parent_stratum_id) VALUES (?, ?)", (digest, parent)
    ).lastrowid
    assert made is not None
    db.executemany(
        "INSERT INTO stratum_constraints (stratum_id, constraint_variable, operation, value) "
        "VALUES (?, ?, ?, ?)",
        [(made, name.strip(), operation, value) for name, (operation, value) in constraints.items()],
    )
    return made


def write_package(matrix: CalibrationMatrix, dataset: Path, path: Path) -> np.ndarray:
    """Write a matrix as a package of theirs, and weights beside it; return these."""
    targets = matrix.targets.reset_index(drop=True)
    shown = [
        "target_id",
        "stratum_id",
        "variable",
        "value",
        "period",
        "reform_id",
        "geo_level",
        "geographic_id",
    ]
    shown += ["domain_variable", "original_value", "uprating_factor"]
    n = matrix.X.shape[1]
    weights = np.random.default_rng(1).uniform(0, 900, n) * (np.arange(n) % 3 > 0)
    package = {
        "X_sparse": sparse.csr_matrix(matrix.X),
        "targets_df": targets[shown],
        "target_names": targets["name"].tolist(),
        "metadata": {
            "dataset_path": str(dataset), "n_clones": 2, "n_records": n, "base_n_records": n // 2, "seed": 42,
            "created_at": "2026-05-19T00:00:00Z", "package_scope": "minimal", "matrix_builder": "precompute",
            "chunk_size": None, "git_branch": None, "git_dirty": False,
        },
        "initial_weights": np.full(n, 100.0),
        "cd_geoid": matrix.columns["cd_geoid"].astype(str).to_numpy(),
        "block_geoid": np.full(n, "560210001001000"),
    }  # fmt: skip
    with open(path, "wb") as file:
        pickle.dump(package, file, protocol=pickle.HIGHEST_PROTOCOL)
    np.save(path.with_name("calibration_weights.npy"), weights)
    return weights
