"""Write a table of targets into a database, and read any such database back as one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from sqlalchemy import URL, Connection, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError as BadUrl
from sqlalchemy.exc import DatabaseError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from distcalib.errors import InputError
from distcalib.storage import publish, writable
from distcalib.targets.stratum_rules import STRATUM_GROUPS as STRATUM_GROUPS
from distcalib.targets.writing import write_database

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
    return _engine(words if "://" in words else URL.create("sqlite", database=words), reading=True)


def _read_only(url: URL) -> URL:
    """Return the URL of a SQLite file that is there, to be opened for reading: nothing is created."""
    if url.database in (None, "", ":memory:"):
        return url
    if "uri" in url.query:
        return url if "mode" in url.query else url.update_query_dict({"mode": "ro"})
    file = Path(str(url.database))
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*.db")] if file.parent.is_dir() else []
        raise InputError(
            "no such target database",
            place=file,
            value=file.name,
            choices=near,
            expected="'bundled', a SQLite file, or a SQLAlchemy URL",
        )
    # Within a URI ?, # and % of a name would end it or stand for something else.
    url = url.set(database=f"file:{quote(str(file.resolve()))}")
    return url.update_query_dict({"mode": "ro", "uri": "true"})


def _engine(source: str | URL, *, reading: bool = False) -> Engine:
    try:
        url = make_url(source)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if reading and url.get_backend_name() == "sqlite":
            url = _read_only(url)
        return create_engine(url)
    except (BadUrl, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(
            f"is not a usable database URL ({type(error).__name__}: {_last_words(error)})",
            place="targets.database",
            value=without_password(str(source)),
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
    """Return a database source as it may be printed and stored: without passwords, also of its query."""
    words = str(source)
    if "://" not in words:
        return words
    try:
        url = make_url(words)
        secret = [key for key in url.query if re.search("pass|secret|token", key, re.IGNORECASE)]
        return url.update_query_dict(dict.fromkeys(secret, "hidden")).render_as_string(hide_password=True)
    except BadUrl:
        return words.split("://")[0] + "://..."


def write_database_file(table: pd.DataFrame, path: str | Path) -> None:
    """Write targets as a new SQLite file, complete or not at all.

    Parameters
    ----------
    table
        One row a target, as for `distcalib.targets.writing.write_database`; that of
        `distcalib.targets.sources.bundled_targets` is such a table.
    path
        The file; one that is there is replaced.

    Raises
    ------
    InputError
        For constraints that cannot hold together, an unknown variable, and two targets of one variable,
        period, stratum and reform.
    """

    def write(temporary: Path) -> None:
        engine = create_engine(URL.create("sqlite", database=str(temporary)))
        write_database(table, engine)
        engine.dispose()

    publish(path, write)


def write_database_at(table: pd.DataFrame, database: str | Path) -> None:
    """Write targets as a new SQLite file or into an empty database behind a URL: all of it or nothing.

    Parameters
    ----------
    table
        As for `write_database`.
    database
        A file that does not exist, or a SQLAlchemy URL (``postgresql://user@host/database``).

    Raises
    ------
    InputError
        When the file exists, the database is not empty or cannot be reached, or `write_database` refuses.
    """
    words = str(database)
    url = make_url(words) if words.startswith("sqlite://") else None
    if "://" not in words or (url is not None and url.database):
        file = Path(words if url is None else str(url.database))
        writable(file)
        if file.exists():
            raise InputError("exists", place=file, expected="a new file")
        write_database_file(table, file)
        return
    engine = _engine(words)
    try:
        write_database(table, engine)
    except DatabaseError as error:
        raise InputError(
            f"cannot be written ({str(error.orig).strip()})",
            place=without_password(words),
            expected="an empty database that you may write in",
        ) from None
    finally:
        engine.dispose()


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
    packaged = str(database) == "bundled" and bundled is None
    raw = _packaged().copy() if packaged else _read(*_opened(database, bundled))
    if raw.empty:
        raise InputError(
            "has no targets", place=without_password(database), expected="rows in the table targets"
        )
    return raw


def _read(engine: Engine, place: str) -> pd.DataFrame:
    try:
        return read_database(engine, place)
    finally:
        engine.dispose()


@cache
def _packaged() -> pd.DataFrame:
    """Read the packaged table once a process: it passes through a database of its own (1 s)."""
    return _read(*_opened("bundled"))


def _opened(database: str | Path, bundled: pd.DataFrame | None = None) -> tuple[Engine, str]:
    """Return an engine for a file, a URL or ``bundled``, and its name for errors."""
    if str(database) != "bundled":
        return open_database(database), without_password(database)
    from distcalib.targets.sources import bundled_targets

    engine = create_engine("sqlite://", poolclass=StaticPool)
    # In memory and for this reading alone: nobody could write what triggers would refuse.
    write_database(bundled_targets() if bundled is None else bundled, engine, guards=False)
    return engine, "bundled"


def read_tree(database: str | Path) -> pd.DataFrame:
    """Read the strata of a SQLite file, a SQLAlchemy URL or ``bundled``, whether or not they have targets.

    Returns
    -------
    DataFrame
        stratum_id (int64), parent_stratum_id (Int64; missing for the nation, and throughout where the
        database has no such column) and lines (as in `read_database`).

    Raises
    ------
    InputError
        When there is no such database, or it is not one of targets.
    """
    engine, place = _opened(database)
    try:
        with _reading(engine, place) as db:
            columns = {c["name"] for c in inspect(db).get_columns("strata")}
            parent = "parent_stratum_id" if "parent_stratum_id" in columns else "NULL AS parent_stratum_id"
            strata = pd.read_sql(text(f"SELECT stratum_id, {parent} FROM strata ORDER BY stratum_id"), db)
            lines = _lines(db)
    finally:
        engine.dispose()
    strata["parent_stratum_id"] = strata["parent_stratum_id"].astype("Float64").astype("Int64")
    return strata.assign(lines=strata["stratum_id"].map(lines).astype(object).fillna(""))


@contextmanager
def _reading(engine: Engine, place: object) -> Iterator[Connection]:
    """Connect to a database that has the tables, or say in one sentence why it cannot be read."""
    try:
        with engine.connect() as db:
            _check_tables(db, place)
            yield db
    except DatabaseError as error:
        raise InputError(
            f"cannot be read as a target database ({error.orig})",
            place=place,
            expected="a database with the tables strata, stratum_constraints and targets",
        ) from None


def _lines(db: Connection) -> pd.Series:
    """Return the constraints of each stratum that has some as sorted lines, indexed by its id."""
    fields = "stratum_id, constraint_variable, operation, value"
    found = pd.read_sql(text(f"SELECT {fields} FROM stratum_constraints"), db).astype(
        {"constraint_variable": str, "operation": str, "value": str}
    )
    found["line"] = found["constraint_variable"] + "|" + found["operation"] + "|" + found["value"]
    found = found.sort_values(["stratum_id", "line"])
    ids, first = np.unique(found["stratum_id"], return_index=True)
    line = found["line"].tolist()
    joined = ["\n".join(line[a:b]) for a, b in pairwise([*first, len(line)])]
    return pd.Series(joined, ids, dtype=str)


def read_database(engine: Engine, place: object) -> pd.DataFrame:
    """Read all active or registered targets, one row each, without choosing or checking any.

    Parameters
    ----------
    engine
        Database with the tables strata, stratum_constraints and targets, of today's generation or the older
        one (no reform_id or active, sources in a table of their own); target_register is optional.
    place
        Name of the database for errors.

    Returns
    -------
    DataFrame
        target_id, stratum_id, variable, reform_id, period, value, active, tolerance (relative, NaN where
        unset), source, registered (whether the database has a register), status and reason (from the
        register, else fit for the active), activated (active though the register excludes it: so fit), moe,
        population (of the register, else empty), lines (the constraints as text ``var|op|value``, joined by
        newline, in the database's own spelling); and, where the strata have it, stratum_group_id (Int64,
        missing where unset).
    """
    with _reading(engine, place) as db:
        look = inspect(db)
        columns = {c["name"] for c in look.get_columns("targets")}
        optional = [c for c in ("reform_id", "active", "tolerance", "source") if c in columns]
        # The older generation has a table of sources.
        by_id = "source" not in columns and "source_id" in columns and look.has_table("sources")
        fields = ["target_id", "variable", "period", "stratum_id", "value", *optional, *["source_id"] * by_id]
        targets = pd.read_sql(text(f"SELECT {', '.join(fields)} FROM targets"), db)
        if by_id:
            names = pd.read_sql(text("SELECT source_id, name FROM sources"), db).set_index("source_id")
            targets["source"] = targets.pop("source_id").map(names["name"])
        lines = _lines(db)
        register = None
        if look.has_table("target_register"):
            register = pd.read_sql(text("SELECT * FROM target_register"), db)
        groups = None
        if "stratum_group_id" in {c["name"] for c in look.get_columns("strata")}:
            groups = pd.read_sql(text("SELECT stratum_id, stratum_group_id FROM strata"), db)
    _numbers(targets, place)
    for name, default in (("reform_id", 0), ("active", True), ("tolerance", np.nan), ("source", "")):
        if name not in targets:
            targets[name] = default
    targets["tolerance"] = targets["tolerance"].astype(float) / 100
    targets["active"] = targets["active"].notna() & targets["active"].astype(bool)
    if groups is not None:
        number = groups.set_index("stratum_id")["stratum_group_id"].astype("Float64").astype("Int64")
        targets["stratum_group_id"] = number.reindex(targets["stratum_id"]).array
    targets["registered"] = register is not None
    targets["activated"] = False
    targets["lines"] = targets["stratum_id"].map(lines).astype(object).fillna("")
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
        # What a register excludes is written as not active: somebody switched it on since.
        if "active" in columns:
            targets["activated"] = targets["active"] & (targets["status"] == "excluded")
            targets.loc[targets["activated"], ["status", "reason"]] = ["fit", ""]
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
