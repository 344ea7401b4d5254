"""Write a table of targets into a database, and read any such database back as one table."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError as BadUrl
from sqlalchemy.exc import DatabaseError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from distcalib.errors import InputError
from distcalib.storage import publish
from distcalib.targets.constraints import GEOGRAPHIC, parse_constraints
from distcalib.targets.schema import metadata, overview_sql

# The numbering of strata that users' own SQL relies on; the first domain variable decides.
STRATUM_GROUPS = {
    "age": 2,
    "adjusted_gross_income": 3,
    "snap": 4,
    "medicaid_enrolled": 5,
    "eitc": 6,
    "state_income_tax": 7,
}

_NEEDED = {
    "strata": {"stratum_id"},
    "stratum_constraints": {"stratum_id", "constraint_variable", "operation", "value"},
    "targets": {"target_id", "variable", "period", "stratum_id", "value"},
}


def open_database(source: str | Path) -> Engine:
    """Return an engine for a SQLite file or a SQLAlchemy URL, opened for reading.

    Raises
    ------
    InputError
        When the file is missing or is no SQLite database, or the URL cannot be used.
    """
    words = str(source)
    if "://" not in words:
        file = Path(words)
        if not file.is_file():
            near = [p.name for p in file.parent.glob("*.db")] if file.parent.is_dir() else []
            raise InputError(
                "no such target database",
                place=file,
                value=file.name,
                choices=near,
                expected="'bundled', a SQLite file, or a SQLAlchemy URL",
            )
        words = f"sqlite:///file:{file.resolve()}?mode=ro&uri=true"
    try:
        return create_engine(words)
    except (BadUrl, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(
            f"is not a usable database URL ({type(error).__name__}: {_last_words(error)})",
            place="targets.database",
            value=without_password(words),
            expected="dialect://user:password@host/database",
        ) from None


def _last_words(error: Exception) -> str:
    """Name what is missing (a dialect, a driver), never the URL itself."""
    return (
        str(error)
        if isinstance(error, ModuleNotFoundError | NoSuchModuleError)
        else "dialect://... is expected"
    )


def without_password(source: str | Path) -> str:
    """Return a database source as it may be printed and stored: without a password."""
    words = str(source)
    if "://" not in words:
        return words
    try:
        return make_url(words).render_as_string(hide_password=True)
    except BadUrl:
        return words.split("://")[0] + "://..."


def write_database(table: pd.DataFrame, engine: Engine) -> None:
    """Write targets into an empty database: strata tree, constraints, targets, register and view.

    Parameters
    ----------
    table
        One row a target: variable, reform_id, period, value, geo_level, geographic_id, constraints (text),
        tolerance (relative), status, and optionally reason, unit, concept, population, source, table,
        vintage, moe, note.
    engine
        SQLite or PostgreSQL.
    """
    rows = table.reset_index(drop=True)
    geo = rows[["geo_level", "geographic_id"]].astype(str).drop_duplicates()
    nodes = pd.concat(
        [geo.assign(constraints=""), rows[["geo_level", "geographic_id", "constraints"]].astype(str)]
    )
    states = {str(int(g) // 100) for g in geo.loc[geo.geo_level == "district", "geographic_id"]}
    more = [("national", "US", "")] + [("state", s, "") for s in states]
    nodes = pd.concat([nodes, pd.DataFrame(more, columns=nodes.columns)])
    nodes = nodes.drop_duplicates(ignore_index=True)
    nodes["depth"] = (nodes["constraints"] != "").astype(int)
    nodes["level"] = nodes["geo_level"].map({"national": 0, "state": 1, "district": 2})
    nodes = nodes.sort_values(["depth", "level", "geographic_id", "constraints"])
    key = list(zip(nodes.geo_level, nodes.geographic_id, nodes.constraints, strict=True))
    ids = {k: i + 1 for i, k in enumerate(key)}

    strata, constraints = [], []
    for (geo_level, place, domain), stratum_id in ids.items():
        terms = [(c.variable, c.operation, c.value) for c in parse_constraints(domain)]
        first = terms[0][0] if terms else None
        if domain:
            parent: int | None = ids[(geo_level, place, "")]
        elif geo_level == "district":
            parent = ids[("state", str(int(place) // 100), "")]
        else:
            parent = ids[("national", "US", "")] if geo_level == "state" else None
        if geo_level != "national":
            terms.append((GEOGRAPHIC[0] if geo_level == "state" else GEOGRAPHIC[1], "==", place))
        lines = "\n".join([str(parent or ""), *sorted("|".join(t) for t in terms)])
        strata.append(
            {
                "stratum_id": stratum_id,
                "definition_hash": hashlib.sha256(lines.encode()).hexdigest(),
                "parent_stratum_id": parent,
                "stratum_group_id": STRATUM_GROUPS.get(first, 100) if first else 1,
                "notes": f"{place} {domain}".strip(),
            }
        )
        constraints += [
            {"stratum_id": stratum_id, "constraint_variable": v, "operation": o, "value": x}
            for v, o, x in terms
        ]

    stratum_of = [
        ids[k]
        for k in zip(
            rows.geo_level, rows.geographic_id.astype(str), rows.constraints.astype(str), strict=True
        )
    ]
    target = pd.DataFrame(
        {
            "target_id": np.arange(1, len(rows) + 1),
            "variable": rows["variable"],
            "period": rows["period"].astype(int),
            "stratum_id": stratum_of,
            "reform_id": rows["reform_id"].astype(int),
            "value": rows["value"].astype(float),
            "active": rows["status"] != "excluded",
            "tolerance": rows["tolerance"].astype(float) * 100,
            "source": rows.get("source"),
            "notes": rows.get("note"),
        }
    )
    register = pd.DataFrame({"target_id": target["target_id"], "status": rows["status"]})
    for ours, theirs in {
        "reason": "reason",
        "unit": "unit",
        "concept": "concept",
        "population": "population",
        "source_table": "table",
        "vintage": "vintage",
        "moe": "moe",
    }.items():
        register[ours] = rows.get(theirs)
    with engine.begin() as db:
        metadata.create_all(db)
        db.execute(text("DROP VIEW IF EXISTS target_overview"))
        db.execute(text(overview_sql(engine.dialect.name)))
        tables = metadata.tables
        db.execute(tables["strata"].insert(), strata)
        db.execute(tables["stratum_constraints"].insert(), constraints)
        db.execute(tables["targets"].insert(), _records(target))
        db.execute(tables["target_register"].insert(), _records(register))


def write_database_file(table: pd.DataFrame, path: str | Path) -> None:
    """Write targets as a new SQLite file, complete or not at all; see `write_database`."""

    def write(temporary: Path) -> None:
        engine = create_engine(f"sqlite:///{temporary}")
        write_database(table, engine)
        engine.dispose()

    publish(path, write)


def read_targets(database: str | Path, bundled: pd.DataFrame | None = None) -> pd.DataFrame:
    """Read the targets of a SQLite file, a SQLAlchemy URL or ``bundled``; see `read_database`.

    Parameters
    ----------
    database
        Where they are.
    bundled
        The table behind ``bundled``; by default the packaged one.

    Raises
    ------
    InputError
        When there is no such database, or it is not one of targets, or has none.
    """
    if str(database) == "bundled":
        from distcalib.targets.sources import bundled_targets

        engine = create_engine("sqlite://", poolclass=StaticPool)
        write_database(bundled_targets() if bundled is None else bundled, engine)
    else:
        engine = open_database(database)
    place = without_password(database)
    try:
        raw = read_database(engine, place)
    finally:
        engine.dispose()
    if raw.empty:
        raise InputError("has no targets", place=place, expected="rows in the table targets")
    return raw


def read_database(engine: Engine, place: object) -> pd.DataFrame:
    """Read all active or registered targets, one row each, without choosing or checking any.

    Parameters
    ----------
    engine
        Database with the tables strata, stratum_constraints and targets; target_register is optional.
    place
        Name of the database for errors.

    Returns
    -------
    DataFrame
        target_id, stratum_id, variable, reform_id, period, value, active, tolerance (relative, NaN where
        unset), source, registered (whether the database has a register), status and reason (from the
        register, else fit for the active), moe, population (of the register, else empty), lines (the
        constraints as text ``var|op|value``, joined by newline, in the database's own spelling).
    """
    try:
        with engine.connect() as db:
            _check_tables(db, place)
            has_register = inspect(db).has_table("target_register")
            columns = {c["name"] for c in inspect(db).get_columns("targets")}
            optional = [c for c in ("reform_id", "active", "tolerance", "source") if c in columns]
            fields = ["target_id", "variable", "period", "stratum_id", "value", *optional]
            targets = pd.read_sql(text(f"SELECT {', '.join(fields)} FROM targets"), db)
            constraints = pd.read_sql(
                text("SELECT stratum_id, constraint_variable, operation, value FROM stratum_constraints"), db
            )
            register = pd.read_sql(text("SELECT * FROM target_register"), db) if has_register else None
    except DatabaseError as error:
        raise InputError(
            f"cannot be read as a target database ({error.orig})",
            place=place,
            expected="a database with the tables strata, stratum_constraints and targets",
        ) from None
    _numbers(targets, place)
    for name, default in (("reform_id", 0), ("active", True), ("tolerance", np.nan), ("source", "")):
        if name not in targets:
            targets[name] = default
    targets["tolerance"] = targets["tolerance"].astype(float) / 100
    targets["active"] = targets["active"].astype(bool)
    constraints["line"] = (
        constraints["constraint_variable"].astype(str)
        + "|"
        + constraints["operation"].astype(str)
        + "|"
        + constraints["value"].astype(str)
    )
    lines = constraints.sort_values(["stratum_id", "line"]).groupby("stratum_id")["line"].agg("\n".join)
    targets["registered"] = register is not None
    targets["lines"] = targets["stratum_id"].map(lines).fillna("")
    if register is None:
        targets["status"] = np.where(targets["active"], "fit", "excluded")
        targets["reason"] = np.where(targets["active"], "", "not active in the database")
        targets["moe"] = np.nan
        targets["population"] = ""
    else:
        kept = register.set_index("target_id").reindex(targets["target_id"])
        targets["status"] = kept["status"].fillna("fit").to_numpy()
        targets["reason"] = kept["reason"].fillna("").to_numpy()
        targets["moe"] = kept["moe"].astype(float).to_numpy()
        targets["population"] = kept["population"].fillna("").to_numpy() if "population" in kept else ""
        switched_off = ~targets["active"] & (targets["status"] != "excluded")
        targets.loc[switched_off, ["status", "reason"]] = ["excluded", "not active in the database"]
    return targets


def _numbers(targets: pd.DataFrame, place: object) -> None:
    """Turn the numeric columns of the targets into numbers, or name the first that is none."""
    for name in ("target_id", "stratum_id", "period", "value", "tolerance", "reform_id"):
        if name not in targets:
            continue
        given = targets[name]
        found = pd.to_numeric(given, errors="coerce").astype(float)
        wrong = (found.isna() & given.notna()) | np.isinf(found)
        if name in ("target_id", "stratum_id", "period"):
            wrong |= given.isna()
        if wrong.any():
            row = targets[wrong].iloc[0]
            raise InputError(
                "is not a finite number",
                place=f"{place}: target {row['target_id']}: {name}",
                value=str(row[name]),
                expected="a number",
            )
        targets[name] = found.astype(int) if name in ("target_id", "stratum_id", "period") else found
    if "reform_id" in targets:
        targets["reform_id"] = targets["reform_id"].fillna(0).astype(int)


def _check_tables(db: Connection, place: object) -> None:
    look = inspect(db)
    present = set(look.get_table_names())
    for table, columns in _NEEDED.items():
        if table not in present:
            raise InputError(
                "lacks a table",
                place=place,
                value=table,
                choices=present,
                expected=f"tables {', '.join(_NEEDED)}",
            )
        missing = columns - {c["name"] for c in look.get_columns(table)}
        if missing:
            raise InputError(
                "lacks a column",
                place=f"{place}: {table}",
                value=sorted(missing)[0],
                expected=f"columns {', '.join(sorted(columns))}",
            )


def _records(frame: pd.DataFrame) -> list[dict]:
    return [
        {
            k: (None if v is None or v is pd.NA or (isinstance(v, float) and np.isnan(v)) else v)
            for k, v in row.items()
        }
        for row in frame.to_dict("records")
    ]
