"""Put a stratum or a target into a database, under all rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, Table, func, inspect, select
from sqlalchemy.sql.dml import ReturningInsert

from distcalib.catalogue import terms
from distcalib.errors import InputError
from distcalib.targets.constraints import Constraint, parse_constraints
from distcalib.targets.reforms import REFORMS
from distcalib.targets.schema import field_valid_values, strata, stratum_constraints, targets
from distcalib.targets.strata import check_targets
from distcalib.targets.stratum_rules import (
    check_child,
    check_strata,
    definition_hash,
    lines_of,
    normal,
    stratum_group,
)


@contextmanager
def _connection(where: Engine | Connection) -> Iterator[Connection]:
    """Yield the connection itself, or a transaction of its own that ends with the block."""
    if isinstance(where, Connection):
        yield where
    else:
        with where.begin() as db:
            yield db


def insert_stratum(
    where: Engine | Connection,
    parent_stratum_id: int | None,
    constraints: str | Iterable[Constraint | tuple[str, str, str]],
    notes: str | None = None,
) -> int:
    """Insert a stratum below its parent, and return its id.

    Parameters
    ----------
    where
        A database that `write_database` made (either engine), or a connection within a transaction.
    parent_stratum_id
        Id of the stratum that this one is part of; None for the nation.
    constraints
        All constraints, the parent's too: text (``age>=5&age<10``), `Constraint` objects or tuples
        (variable, operation, value). Values are written in one spelling (``5`` for 05 and 5.0, 201 for the
        district 200), or as the parent has them; flags stay as they are given.
    notes
        For people.

    Raises
    ------
    InputError
        For an unknown parent, operator, variable, place or value; for constraints that cannot hold together
        or are not part of the parent's (`distcalib.targets.stratum_rules`); and for a definition that stands
        in the database already. Nothing is written.
    """
    if isinstance(constraints, str):
        own = parse_constraints(constraints, "constraints")
    else:
        own = tuple(sorted(_given(constraints)))
    said = " & ".join(map(str, own)) or "the nation"
    place = f"new stratum [{said}]"
    check_strata([own], "insert_stratum")
    own = _spelled(own, ())
    with _connection(where) as db:
        if parent_stratum_id is None:
            if own:
                raise InputError(
                    "has constraints and no parent",
                    place=f"{place}: parent_stratum_id",
                    value="None",
                    expected="the id of the stratum that it is part of",
                )
        else:
            parent = _constraints_of(db, parent_stratum_id, f"{place}: parent_stratum_id")
            own = _spelled(own, parent)
            check_child(own, parent, place)
        lines = lines_of(own)
        found = _same_stratum(db, tuple(map(normal, own)))
        if found is not None:
            raise InputError(
                "stands in the database already",
                place=place,
                value=said,
                expected=f"another definition than that of stratum {found}",
            )
        row = {
            "parent_stratum_id": parent_stratum_id,
            "definition_hash": definition_hash(parent_stratum_id, lines),
            "stratum_group_id": stratum_group([c.variable for c in own]),
            "notes": notes,
        }
        made = db.execute(_into(db, strata, row)).scalar_one()
        conditions = [
            {
                "stratum_id": made,
                "constraint_variable": c.variable,
                "operation": c.operation,
                "value": c.value,
            }
            for c in own
        ]
        if conditions:
            db.execute(stratum_constraints.insert(), conditions)
    return int(made)


def insert_target(
    where: Engine | Connection,
    stratum_id: int,
    variable: str,
    period: int,
    value: float,
    *,
    reform_id: int = 0,
    active: bool = True,
    tolerance: float | None = None,
    source: str | None = None,
    notes: str | None = None,
) -> int:
    """Insert a target of a stratum, and return its id.

    Parameters
    ----------
    where
        As for `insert_stratum`.
    stratum_id
        Of whom.
    variable
        A variable of policyengine-us, an entity count, or a sum ``a+b`` of such variables.
    period
        Year of the figure.
    value
        In the variable's unit.
    reform_id
        0, or the reform whose difference the figure is (`distcalib.targets.reforms.REFORMS`).
    active
        Whether it is in use.
    tolerance
        In percent; None where unset.
    source
        One of the valid sources of the database (table ``field_valid_values``).
    notes
        For people.

    Raises
    ------
    InputError
        For an unknown stratum, variable, period, reform or source, a value that is no finite number, a
        negative tolerance, and a target of the same variable, period, stratum and reform. Nothing is written.
    """
    place = f"new target {variable} {period} of stratum {stratum_id}"
    for field, number, kind in (
        ("value", value, Real), ("period", period, Integral), ("reform_id", reform_id, Integral),
        ("tolerance", 0 if tolerance is None else tolerance, Real),
    ):  # fmt: skip
        if not isinstance(number, kind):
            what = "a whole number" if kind is Integral else "a number"
            raise InputError("is no number", place=f"{place}: {field}", value=number, expected=what)
    row = {"target_id": "new", "variable": variable, "value": value, "status": "fit"}
    check_targets(pd.DataFrame([row]), place)
    if not np.isfinite(value):
        raise InputError("is not finite", place=f"{place}: value", value=value, expected="a number")
    if tolerance is not None and not (tolerance >= 0 and np.isfinite(tolerance)):
        raise InputError(
            "is no tolerance", place=f"{place}: tolerance", value=tolerance, expected="percent, 0 or more"
        )
    if reform_id != 0 and reform_id not in REFORMS:
        known = ", ".join(f"{number} ({reform.label})" for number, reform in REFORMS.items())
        raise InputError(
            "unknown reform", place=f"{place}: reform_id", value=reform_id, expected=f"0, or one of {known}"
        )
    period, reform_id, value = int(period), int(reform_id), float(value)
    key = {"variable": variable, "period": period, "stratum_id": stratum_id, "reform_id": reform_id}
    more = {"value": value, "active": active, "tolerance": tolerance, "source": source, "notes": notes}
    with _connection(where) as db:
        insert = _into(db, targets, key | more)
        _constraints_of(db, stratum_id, f"{place}: stratum_id")
        asked = [*(("variable", name) for name in terms(variable)), ("period", period), ("source", source)]
        for field, word in asked:
            _check_valid(db, field, word, f"{place}: {field}")
        same = select(targets.c.target_id).where(*(targets.c[name] == word for name, word in key.items()))
        found = db.execute(same).scalar()
        if found is not None:
            raise InputError(
                "stands in the database already",
                place=place,
                value=f"reform {reform_id}",
                expected=f"another variable, period or reform than those of target {found}",
            )
        return int(db.execute(insert).scalar_one())


def _into(db: Connection, table: Table, row: dict) -> ReturningInsert:
    """Return the INSERT of a row into the columns that the database has, giving back the id."""
    there = {c["name"] for c in inspect(db).get_columns(table.name)}
    lost = sorted(row.keys() - there - {"stratum_group_id"})
    if lost:
        raise InputError(
            "lacks a column", place=table.name, value=lost[0], expected="a database of today's generation"
        )
    (key,) = table.primary_key.columns
    return table.insert().values({k: v for k, v in row.items() if k in there}).returning(key)


def _constraints_of(db: Connection, stratum_id: int, place: str) -> tuple[Constraint, ...]:
    known = db.execute(select(strata.c.stratum_id).where(strata.c.stratum_id == stratum_id)).scalar()
    if known is None:
        near = db.execute(
            select(strata.c.stratum_id).order_by(func.abs(strata.c.stratum_id - stratum_id)).limit(3)
        )
        raise InputError(
            "no such stratum", place=place, value=stratum_id,
            expected="one of the strata, as " + ", ".join(str(i) for i in near.scalars()),
        )  # fmt: skip
    c = stratum_constraints.c
    found = db.execute(select(c.constraint_variable, c.operation, c.value).where(c.stratum_id == stratum_id))
    return tuple(Constraint(*row) for row in found)


def _given(constraints: object) -> list[Constraint]:
    """Return constraints that were given one by one, or name the first that is none."""
    if not isinstance(constraints, Iterable):
        raise InputError(
            "is not a constraint", place="constraints", value=constraints, expected="text, or a list"
        )
    out = []
    for one in constraints:
        if isinstance(one, Constraint):
            out.append(one)
        elif isinstance(one, tuple | list) and len(one) == 3:
            out.append(Constraint(*map(str, one)))
        else:
            raise InputError(
                "is not a constraint", place="constraints", value=one, expected="variable, operation, value"
            )
    return out


def _spelled(own: Iterable[Constraint], parent: Iterable[Constraint]) -> tuple[Constraint, ...]:
    """Return constraints as the parent has them, which a child repeats, else in their one spelling."""
    known = {_normal_or_same(c): c for c in parent}
    flags = ("true", "false")
    spelled = [known.get(normal(c), c if c.value.strip().lower() in flags else normal(c)) for c in own]
    return tuple(sorted(spelled))


def _normal_or_same(constraint: Constraint) -> Constraint:
    """Return the one spelling of a constraint that stands in a database, itself where it cannot be read."""
    try:
        return normal(constraint)
    except (InputError, ValueError, KeyError):
        return constraint


def _same_stratum(db: Connection, own: tuple[Constraint, ...]) -> int | None:
    """Return a stratum of exactly these constraints in any spelling, whatever its parent, or None."""
    c = stratum_constraints.c
    if not own:
        bare = select(strata.c.stratum_id).where(strata.c.stratum_id.not_in(select(c.stratum_id)))
        return db.execute(bare).scalar()
    first = own[0]
    one = (c.constraint_variable == first.variable) & c.operation.in_(
        ["==", "="] if first.operation == "==" else [first.operation]
    )
    values = db.execute(select(c.value).where(one).distinct()).scalars()
    spellings = [
        v for v in values if _normal_or_same(Constraint(first.variable, first.operation, v)) == first
    ]
    holders = select(c.stratum_id).where(one & c.value.in_(spellings))
    found = pd.DataFrame(
        db.execute(
            select(c.stratum_id, c.constraint_variable, c.operation, c.value).where(c.stratum_id.in_(holders))
        ).all(),
        columns=["id", "variable", "operation", "value"],
    )
    distinct = found[["variable", "operation", "value"]].drop_duplicates()
    line = {
        row: lines_of([_normal_or_same(Constraint(*row))])
        for row in distinct.itertuples(index=False, name=None)
    }
    rows = found[["variable", "operation", "value"]].itertuples(index=False, name=None)
    found["line"] = [line[row] for row in rows]
    same = found["line"].sort_values().groupby(found["id"]).agg("\n".join)
    ids = same.index[same == lines_of(own)]
    return int(ids[0]) if len(ids) else None


def _check_valid(db: Connection, field: str, word: object, place: str) -> None:
    """Hold a value against those of the database, where it has any of the field."""
    if word is None or not inspect(db).has_table("field_valid_values"):
        return
    of = field_valid_values.c
    known = db.execute(select(of.valid_value).where(of.field_name == field)).scalars().all()
    if known and str(word) not in known:
        raise InputError(
            "is not valid", place=place, value=str(word), choices=known,
            expected="a value of the field in the table field_valid_values",
        )  # fmt: skip
