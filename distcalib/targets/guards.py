"""What the database itself refuses: the table of valid values, and triggers that hold rows against it.

The triggers stand on SQLite and PostgreSQL alike and name field and value. They are made after a bulk insert,
so that writing the bundled targets does not pay for them row by row.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, text

from distcalib.catalogue import COUNTS, catalogue
from distcalib.targets.constraints import OPERATIONS

# Years that a figure may be of: wide enough for history and projections, narrow enough to catch 20224.
PERIODS = range(2015, 2036)

_FIELDS = {
    "stratum_constraints": ("operation", "constraint_variable"),
    "targets": ("active", "period", "variable", "source"),
}
_WORDS = "is not among the valid values of this field (table field_valid_values)"


def valid_values(sources: Iterable[str] = ()) -> list[dict[str, str]]:
    """Return the rows of ``field_valid_values``: field_name, valid_value, description.

    Fields are operation, constraint_variable (variables of the catalogue), active (0, 1), period
    (`PERIODS`), variable (the catalogue's and the entity counts; a target may be a sum ``a+b`` of valid
    ones) and source.

    Parameters
    ----------
    sources
        Names of the sources that the targets may have. Another one is made valid by a row in the table.
    """
    variables = {name: v.label for name, v in catalogue().variables.items()}
    counts = {name: f"number of {entity} entities" for name, entity in COUNTS.items()}
    fields = {
        "operation": dict.fromkeys(OPERATIONS, ""),
        "constraint_variable": variables,
        "active": {"0": "not in use", "1": "in use"},
        "period": dict.fromkeys(map(str, PERIODS), ""),
        "variable": variables | counts,
        "source": dict.fromkeys(sorted(sources), ""),
    }
    return [
        {"field_name": field, "valid_value": value, "description": words}
        for field, values in fields.items()
        for value, words in values.items()
    ]


def create_guards(db: Connection) -> None:
    """Create the triggers that abort an INSERT or UPDATE of a value that is not valid.

    Parameters
    ----------
    db
        Connection to SQLite or PostgreSQL, with the tables in place. The error is a
        ``sqlalchemy.exc.DatabaseError``.
    """
    statements = _postgresql() if db.dialect.name == "postgresql" else _sqlite()
    for statement in statements:
        db.execute(text(statement))


def _sqlite() -> list[str]:
    out = []
    for table, fields in _FIELDS.items():
        checks = "\n".join(_sqlite_check(table, field) for field in fields)
        for event, name in (("INSERT", "insert"), (f"UPDATE OF {', '.join(fields)}", "update")):
            out.append(
                f"CREATE TRIGGER validate_{table}_{name} BEFORE {event} ON {table} FOR EACH ROW\n"
                f"BEGIN\n{checks}\nEND"
            )
    return out


def _sqlite_check(table: str, field: str) -> str:
    # RAISE takes only a literal before SQLite 3.47. The error of a bad JSON path carries any text, so the
    # value can be named: the text is no path, and the statement is aborted with it.
    given = f"NEW.{field}"
    if field == "variable":
        terms = f"""json_each('[' || replace(json_quote({given}), '+', '","') || ']') AS term"""
        value, of = "trim(term.value)", f"FROM {terms}"
    else:
        value, of = f"CAST({given} AS TEXT)", ""
    return (
        f"  SELECT json_extract('{{}}', '{table}.{field}: ' || quote({value}) || ' {_WORDS}') {of}\n"
        f"  WHERE {given} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM field_valid_values\n"
        f"    WHERE field_name = '{field}' AND valid_value = {value});"
    )


def _postgresql() -> list[str]:
    texts = {"active": "(NEW.active::int)::text", "period": "NEW.period::text", "variable": "btrim(term)"}
    out = [
        f"""
        CREATE FUNCTION need_valid_value(place text, field text, given text) RETURNS void
        LANGUAGE plpgsql AS $$
        BEGIN
          IF given IS NOT NULL AND NOT EXISTS (SELECT 1 FROM field_valid_values
              WHERE field_name = field AND valid_value = given) THEN
            RAISE EXCEPTION '%.%: % {_WORDS}', place, field, quote_literal(given)
              USING ERRCODE = 'check_violation';
          END IF;
        END $$
        """
    ]
    for table, fields in _FIELDS.items():
        checks = ""
        for field in fields:
            value = texts.get(field, f"NEW.{field}")
            of = "FROM unnest(string_to_array(NEW.variable, '+')) AS term" if field == "variable" else ""
            checks += f"PERFORM need_valid_value('{table}', '{field}', {value}) {of};\n"
        function = f"validate_{table}()"
        out.append(
            f"CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN\n{checks}RETURN NEW;\nEND $$"
        )
        event = f"INSERT OR UPDATE OF {', '.join(fields)}"
        out.append(
            f"CREATE TRIGGER validate_{table} BEFORE {event} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}"
        )
    return out
