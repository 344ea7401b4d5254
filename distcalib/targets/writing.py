"""Write a whole table of targets into an empty database."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, inspect, text

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.errors import InputError
from distcalib.targets.constraints import GEOGRAPHIC, Constraint, parse_constraints
from distcalib.targets.guards import create_guards, valid_values
from distcalib.targets.schema import (
    create_views,
    field_valid_values,
    metadata,
    strata,
    stratum_constraints,
    target_register,
    targets,
)
from distcalib.targets.stratum_rules import check_strata, definition_hash, lines_of, stratum_group

_REGISTER = {
    "reason": "reason",
    "unit": "unit",
    "concept": "concept",
    "population": "population",
    "source_table": "table",
    "vintage": "vintage",
    "moe": "moe",
}


def write_database(table: pd.DataFrame, engine: Engine, *, guards: bool = True) -> None:
    """Write targets into an empty database, in one transaction: all of it or nothing.

    Tables, the strata tree, constraints, targets, register, views, valid values and triggers.

    Parameters
    ----------
    table
        One row a target: variable, reform_id, period, value, geo_level, geographic_id, constraints (text),
        tolerance (relative), status, and optionally reason, unit, concept, population, source, table,
        vintage, moe, note. Its sources become valid sources.
    engine
        SQLite or PostgreSQL.
    guards
        False leaves out valid values and triggers: for a database that nobody else writes to.

    Raises
    ------
    InputError
        For a database that is not empty, constraints that cannot hold together, an unknown variable, and
        two targets of one variable, period, stratum and reform.
    """
    rows = table.reset_index(drop=True).astype({"geographic_id": str, "constraints": str})
    _check_rows(rows)
    nodes, conditions = _strata_of(rows)
    key = ["geo_level", "geographic_id", "constraints"]
    stratum = rows[key].merge(nodes, on=key, how="left", validate="m:1")["stratum_id"]
    target = pd.DataFrame(
        {
            "target_id": np.arange(1, len(rows) + 1),
            "variable": rows["variable"],
            "period": rows["period"].astype(int),
            "stratum_id": stratum,
            "reform_id": rows["reform_id"].astype(int),
            "value": rows["value"].astype(float),
            "active": rows["status"] != "excluded",
            "tolerance": rows["tolerance"].astype(float) * 100,
            "source": rows.get("source"),
            "notes": rows.get("note"),
        }
    )
    register = target[["target_id"]].assign(status=rows["status"])
    register = register.assign(**{ours: rows.get(theirs) for ours, theirs in _REGISTER.items()})
    with engine.begin() as db:
        _refuse_unless_empty(db)
        metadata.create_all(db)
        create_views(db)
        columns = [c.name for c in strata.columns]
        for into, frame in (
            (strata, nodes[columns]),
            (stratum_constraints, conditions),
            (targets, target),
            (target_register, register),
        ):
            if len(frame):  # an empty list would insert one row of nothing
                db.execute(into.insert(), _records(frame))
        if guards:
            sources = target["source"].dropna().unique()
            db.execute(field_valid_values.insert(), valid_values(sources))
            create_guards(db)
        if db.dialect.name == "postgresql":
            # Ids were given: what comes next has to count on from them.
            for numbered, column in (("strata", "stratum_id"), ("targets", "target_id")):
                last = f"(SELECT max({column}) FROM {numbered})"
                db.execute(text(f"SELECT setval(pg_get_serial_sequence('{numbered}', '{column}'), {last})"))


def _refuse_unless_empty(db: Connection) -> None:
    look = inspect(db)
    there = [*look.get_table_names(), *look.get_view_names()]
    if there:
        raise InputError(
            "is not empty",
            place=f"{db.dialect.name} database {db.engine.url.database or 'in memory'}",
            value=f"table {sorted(there)[0]}",
            expected="a database without tables and views",
        )


def _check_rows(rows: pd.DataFrame) -> None:
    """Check each distinct constraint set and variable of a table, and that no target stands twice."""
    check_strata([parse_constraints(text) for text in rows["constraints"].unique()], "the table of targets")
    for variable in rows["variable"].unique():
        for name in terms(variable):
            if name not in COUNTS and name not in catalogue():
                raise InputError(
                    "unknown variable", place=f"target {variable}", value=name,
                    choices=[*COUNTS, *catalogue().variables],
                )  # fmt: skip
    key = ["variable", "period", "geo_level", "geographic_id", "constraints", "reform_id"]
    twice = rows.duplicated(key)
    if twice.any():
        row = rows.loc[twice, key].iloc[0]
        raise InputError(
            "a target stands twice", place=f"target {row['variable']}", value=" ".join(map(str, row)),
            expected="one row a variable, period, area, constraint set and reform",
        )  # fmt: skip


def _strata_of(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tree of strata (nation, states, districts, domains) and the rows of their constraints."""
    geo = rows[["geo_level", "geographic_id"]].drop_duplicates()
    cds = geo.loc[geo["geo_level"] == "district", "geographic_id"]
    state_of_cd = (cds.astype(int) // 100).astype(str).unique()
    more = pd.DataFrame(
        {"geo_level": ["national", *["state"] * len(state_of_cd)], "geographic_id": ["US", *state_of_cd]}
    )
    places = pd.concat([geo, more]).drop_duplicates().assign(constraints="")
    key = ["geo_level", "geographic_id", "constraints"]
    nodes = pd.concat([places, rows[key]]).drop_duplicates(ignore_index=True)
    nodes["depth"] = (nodes["constraints"] != "").astype(int)
    nodes["level"] = nodes["geo_level"].map({"national": 0, "state": 1, "district": 2})
    nodes = nodes.sort_values(["depth", "level", "geographic_id", "constraints"], ignore_index=True)
    nodes["stratum_id"] = np.arange(1, len(nodes) + 1)

    district, plain = nodes["geo_level"] == "district", nodes["depth"] == 0
    above = nodes[["geo_level", "geographic_id"]].assign(constraints="")
    of_state = plain & district
    above.loc[of_state, "geographic_id"] = (nodes["geographic_id"][of_state].astype(int) // 100).astype(str)
    above.loc[of_state, "geo_level"] = "state"
    above.loc[plain & ~district, ["geo_level", "geographic_id"]] = ["national", "US"]
    parent = above.merge(nodes[[*key, "stratum_id"]], on=key, how="left")["stratum_id"]
    # The nation is nobody's part.
    nodes["parent_stratum_id"] = parent.where(parent != nodes["stratum_id"])

    # Few distinct sets, many places: lines are sorted once a set and level, and the place put in.
    sets = nodes[["geo_level", "constraints"]].drop_duplicates()
    parsed = {text: parse_constraints(text) for text in sets["constraints"].unique()}
    of_level = {"state": [Constraint(GEOGRAPHIC[0], "==", "\0")]}
    of_level["district"] = [Constraint(GEOGRAPHIC[1], "==", "\0")]
    template = {
        (level, text): lines_of([*parsed[text], *of_level.get(level, [])])
        for level, text in sets.itertuples(index=False)
    }
    group = {text: stratum_group([c.variable for c in found]) for text, found in parsed.items()}
    nodes["stratum_group_id"] = nodes["constraints"].map(group).astype("Int64")
    lines = [
        template[level, text].replace("\0", place)
        for level, place, text in nodes[key].itertuples(index=False)
    ]
    parents = [None if np.isnan(p) else int(p) for p in nodes["parent_stratum_id"]]
    nodes["definition_hash"] = [definition_hash(*pair) for pair in zip(parents, lines, strict=True)]
    nodes["parent_stratum_id"] = nodes["parent_stratum_id"].astype("Int64")
    nodes["notes"] = (nodes["geographic_id"] + " " + nodes["constraints"]).str.strip()

    line = pd.Series(lines, nodes["stratum_id"]).str.split("\n").explode()
    line = line[line != ""]
    fields = line.str.split("|", n=2, expand=True).reindex(columns=range(3))
    fields = fields.set_axis(["constraint_variable", "operation", "value"], axis=1)
    return nodes, fields.rename_axis("stratum_id").reset_index()


def _records(frame: pd.DataFrame) -> list[dict]:
    columns = [frame[name].to_numpy(object, na_value=None).tolist() for name in frame]
    names = list(frame)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
