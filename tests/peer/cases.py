"""Targets that the peer's own tables lack, inserted through its schema, and the cases of the comparison."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from distcalib.geography import GeographyAssignment

#: Lines that the suite prints at its end.
TABLE: list[str] = []
STATES = (2, 11, 15, 30, 36, 37)  # Alaska (at large), DC, Hawaii, Montana, New York, North Carolina
EVERYWHERE = ("US", "2", "37", "201", "1101", "3704")

Row = tuple[
    str, str, tuple[str, ...], int, float
]  # variable, area, constraints "variable operator value", period, value


def rows(
    variables: Iterable[str], *constraints: str, areas: Iterable[str] = EVERYWHERE, period: int = 2024
) -> list[Row]:
    """Return one target for each variable and area; values differ so that a mix-up shows."""
    return [
        (variable, area, constraints, period, 1000.0 + 7 * i + 1000 * j)
        for i, variable in enumerate(variables)
        for j, area in enumerate(areas)
    ]


COUNTS = ("household_count", "person_count", "tax_unit_count", "spm_unit_count")
# Every entity as a count and as dollars, under constraints of every entity, type and operator.
EXTRA: list[Row] = [
    *rows(COUNTS),
    *rows(COUNTS, "age >= 65"),
    *rows(COUNTS, "age < 18", "snap > 0"),
    *rows(COUNTS, "aca_ptc > 0"),
    *rows(("household_count", "person_count"), "tenure_type in RENTED|OWNED_OUTRIGHT"),
    *rows(("person_count",), "tenure_type != RENTED", "age <= 30"),
    *rows(("tax_unit_count", "adjusted_gross_income", "eitc"), "tax_unit_is_filer == 1"),
    *rows(("tax_unit_count", "eitc"), "eitc_child_count == 2", "adjusted_gross_income < 40000"),
    *rows(("employment_income", "ssi", "snap", "income_tax", "aca_ptc"), "age > 50"),
    *rows(("household_net_income",), "is_disabled == True"),
    *rows(("ssi+social_security", "taxable_interest_income+dividend_income"), "age >= 65"),
    *rows(("eitc+income_tax",), areas=("US", "30", "3001")),
    # A year before and a year after: both uprated; the year before wins where both are there.
    *rows(("snap", "ssi", "person_count"), "is_blind == True", period=2022),
    *rows(("snap", "ssi"), "is_blind == True", period=2025),
    *rows(("employment_income",), "is_blind == True", period=2025),
]
# The domain that the documents reconcile: state and district rows of the credit in an earlier year.
_DISTRICTS = ("201", "1101", "1501", "1502", "3001", "3002", "3604", "3701", "3704", "3712")
RECONCILED: list[Row] = [
    *rows(("aca_ptc", "tax_unit_count"), "aca_ptc > 0", areas=("2", "11", "15", "30", "37"), period=2022),
    *rows(("aca_ptc", "tax_unit_count"), "aca_ptc > 0", areas=_DISTRICTS, period=2022),
]
_HERE = ("30",)
# What differs on purpose: docs/peer.md tells why of each.
DIFFERENT: dict[str, list[Row]] = {
    "unknown operator": rows(("person_count",), "age ~ 30", areas=_HERE),
    "unknown variable": rows(("snapp",), areas=_HERE),
    "unknown constraint variable": rows(("person_count",), "agee > 5", areas=_HERE),
    "failing variable": rows(("person_count",), "in_poverty == 1", areas=_HERE),
    "no index for the year": rows(("ssi",), "age > 70", areas=_HERE, period=1900),
    "list of numbers": rows(("person_count",), "age in 3|4|5|60", areas=_HERE),
    "families and couples": rows(("family_count", "marital_unit_count"), areas=_HERE),
    "variable named like a count": rows(("eitc_child_count",), areas=_HERE),
    "share of the file": rows(("medicaid",), areas=_HERE),
    "flag of another year": rows(("medicaid_enrolled",), areas=_HERE, period=2022),
}


def insert(database: Path, wanted: Iterable[Row], *, guarded: bool = True) -> list[int]:
    """Insert targets with their strata; return the target ids. The table of valid values is widened
    for sums, which the peer registers one by one, and for everything when unguarded.
    """
    ids = []
    with closing(sqlite3.connect(database)) as db, db:
        for variable, area, constraints, period, value in wanted:
            terms = [tuple(c.split(" ")) for c in constraints]
            place = (
                []
                if area == "US"
                else [("state_fips" if len(area) < 3 else "congressional_district_geoid", "==", area)]
            )
            if not guarded or "+" in variable:
                valid = [("variable", variable), ("period", str(period))]
                valid += [
                    (f, w) for v, o, _ in terms for f, w in (("constraint_variable", v), ("operation", o))
                ]
                db.executemany("INSERT OR IGNORE INTO field_valid_values VALUES (?, ?, NULL)", valid)
            stratum = _stratum(db, _stratum(db, None, []), place) if place else _stratum(db, None, [])
            stratum = _stratum(db, stratum, [*place, *terms]) if terms else stratum
            done = db.execute(
                "INSERT INTO targets (variable, period, stratum_id, reform_id, value, active) "
                "VALUES (?, ?, ?, 0, ?, 1) "
                "ON CONFLICT DO UPDATE SET value = excluded.value RETURNING target_id",
                (variable, period, stratum, value),
            )
            ids.append(int(done.fetchone()[0]))
    return ids


def _stratum(db: sqlite3.Connection, parent: int | None, terms: list[tuple[str, ...]]) -> int:
    """Return the stratum of these constraints, inserted under `parent` unless it exists."""
    wanted = sorted(terms)
    clause = " OR ".join(["(constraint_variable = ? AND operation = ? AND value = ?)"] * len(wanted))
    found = db.execute(
        "SELECT s.stratum_id FROM strata s LEFT JOIN stratum_constraints c USING (stratum_id) GROUP BY 1 "
        "HAVING COUNT(c.stratum_id) = ?"
        + (f" AND SUM(CASE WHEN {clause} THEN 1 ELSE 0 END) = ?" if wanted else ""),
        [len(wanted), *(word for term in wanted for word in term), *([len(wanted)] if wanted else [])],
    ).fetchone()
    if found:
        return int(found[0])
    lines = "\n".join([str(parent or ""), *("|".join(term) for term in wanted)])
    made = db.execute(
        "INSERT INTO strata (definition_hash, parent_stratum_id, notes) VALUES (?, ?, 'peer test')",
        (hashlib.sha256(lines.encode()).hexdigest(), parent),
    ).lastrowid
    db.executemany(
        "INSERT INTO stratum_constraints VALUES (?, ?, ?, ?, NULL)", [(made, *term) for term in wanted]
    )
    return int(made)


def target_ids(database: Path, where: str) -> list[int]:
    """Return the active targets of the peer's view that meet a condition in SQL."""
    with closing(sqlite3.connect(database)) as db:
        return [
            i
            for (i,) in db.execute(
                f"SELECT target_id FROM target_overview WHERE active AND {where} ORDER BY 1"
            )
        ]


def equal_cases(
    source: Path, work: Path, six: GeographyAssignment, one: GeographyAssignment
) -> list[dict[str, Any]]:
    """Return the cases in which both sides must agree in everything.

    Parameters
    ----------
    source
        Target database that the peer's ETL made; it stays as it is.
    work
        Folder for the copies.
    six, one
        Assignments over `STATES` and over Montana alone.
    """
    filled, reconciled = work / "filled.db", work / "reconciled.db"
    shutil.copy(source, filled)
    extra = insert(filled, EXTRA)
    # Medicaid dollars depend on who else is in the file: see "share of the file".
    total = "geo_level = 'national' AND domain_variable IS NULL AND reform_id = 0 AND variable <> 'medicaid'"
    national = target_ids(filled, total)
    reforms = target_ids(filled, "reform_id > 0")
    shutil.copy(source, reconciled)
    insert(reconciled, RECONCILED)
    with closing(sqlite3.connect(reconciled)) as db, db:
        # The state rows of the year before, which are dropped once the districts are scaled to them.
        db.execute(
            "UPDATE targets SET period = 2023 WHERE variable = 'household_count' AND target_id IN "
            "(SELECT target_id FROM target_overview WHERE domain_variable = 'snap' AND geo_level = 'state')"
        )
    domains = {"domain_variables": ["age", "snap", "medicaid_enrolled", "aca_ptc"]}
    pair = ["aca_ptc", "snap"]
    sums = {"target_ids": sorted({*national, *extra})}

    def case(name: str, database: Path, geography: GeographyAssignment, chosen: dict[str, Any], **more: Any):
        return {"name": name, "database": database, "geography": geography, "target_filter": chosen, **more}

    return [
        case("four-domains", source, six, domains),
        case("reconciled", reconciled, six, {"domain_variables": pair}, hierarchical_domains=pair),
        case("unreconciled", reconciled, one, {"domain_variables": pair}),
        case("dollars-counts-sums", filled, six, sums),
        case("reforms", filled, one, {"target_ids": reforms}),
    ]


def different_case(
    source: Path, work: Path, one: GeographyAssignment
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the case that holds every difference on purpose, and the targets of each by its name."""
    database = work / "different.db"
    shutil.copy(source, database)
    ids = {name: insert(database, wanted, guarded=False) for name, wanted in DIFFERENT.items()}
    chosen = {"target_ids": sorted(i for some in ids.values() for i in some)}
    return {"name": "different", "database": database, "geography": one, "target_filter": chosen}, ids
