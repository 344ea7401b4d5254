"""Tables of the target database, as PolicyEngine's ``policy_data.db`` has them, plus a register of ours.

A stratum is a set of constraints; geography is said only through the constraints ``state_fips`` and
``congressional_district_geoid``. The table ``target_register`` holds what that schema has no place for
(status, reason, margin of error ...); a database without it is read all the same. The column
stratum_group_id is the older generation's numbering, which today's schema dropped and users' SQL still asks
for (`distcalib.targets.stratum_rules.stratum_group`).
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
    true,
)

metadata = MetaData()

strata = Table(
    "strata",
    metadata,
    Column("stratum_id", Integer, primary_key=True),
    Column("definition_hash", String(64), unique=True, nullable=False),
    Column("parent_stratum_id", Integer, ForeignKey("strata.stratum_id"), index=True),
    Column("stratum_group_id", Integer),
    Column("notes", Text),
)

stratum_constraints = Table(
    "stratum_constraints",
    metadata,
    Column("stratum_id", Integer, ForeignKey("strata.stratum_id"), primary_key=True),
    Column("constraint_variable", String, primary_key=True),
    Column("operation", String, primary_key=True),
    Column("value", String, nullable=False),
    Column("notes", Text),
)

targets = Table(
    "targets",
    metadata,
    Column("target_id", Integer, primary_key=True),
    Column("variable", String, nullable=False),
    Column("period", Integer, nullable=False),
    Column("stratum_id", Integer, ForeignKey("strata.stratum_id"), nullable=False, index=True),
    Column("reform_id", Integer, nullable=False, server_default=text("0")),
    Column("value", Float),
    Column("active", Boolean, nullable=False, server_default=true()),
    Column("tolerance", Float),
    Column("source", String),
    Column("notes", Text),
    UniqueConstraint("variable", "period", "stratum_id", "reform_id"),
)

target_register = Table(
    "target_register",
    metadata,
    Column("target_id", Integer, ForeignKey("targets.target_id"), primary_key=True),
    Column("status", String, nullable=False),
    Column("reason", Text),
    Column("unit", String),
    Column("concept", Text),
    Column("population", Text),
    Column("source_table", String),
    Column("vintage", String),
    Column("moe", Float),
)

field_valid_values = Table(
    "field_valid_values",
    metadata,
    Column("field_name", String, primary_key=True),
    Column("valid_value", String, primary_key=True),
    Column("description", String),
)

# The view that analysts query: a target with its place and its domain. Geography and the filer flag are
# no domain, so that 'all filers' is the same domain as 'everybody', as PolicyEngine has it.
NOT_A_DOMAIN = ("state_fips", "congressional_district_geoid", "tax_unit_is_filer", "ucgid_str")

TARGET_OVERVIEW = """
CREATE VIEW target_overview AS
SELECT t.target_id, t.stratum_id, t.variable, t.reform_id, t.value, t.period, t.active,
  CASE WHEN cd.value IS NOT NULL THEN 'district' WHEN st.value IS NOT NULL THEN 'state' ELSE 'national' END
    AS geo_level,
  COALESCE(cd.value, st.value, 'US') AS geographic_id,
  (SELECT {aggregate} FROM (SELECT DISTINCT constraint_variable FROM stratum_constraints d
     WHERE d.stratum_id = t.stratum_id AND d.constraint_variable NOT IN ({excluded})
     ORDER BY constraint_variable) AS named) AS domain_variable
FROM targets t
LEFT JOIN stratum_constraints cd
  ON cd.stratum_id = t.stratum_id AND cd.constraint_variable = 'congressional_district_geoid'
LEFT JOIN stratum_constraints st
  ON st.stratum_id = t.stratum_id AND st.constraint_variable = 'state_fips'
"""


STRATUM_DOMAIN = """
CREATE VIEW stratum_domain AS
SELECT DISTINCT stratum_id, constraint_variable AS domain_variable FROM stratum_constraints
WHERE constraint_variable NOT IN ({excluded})
"""


def create_views(db: Connection) -> None:
    """Create the views ``stratum_domain`` and ``target_overview`` on SQLite or PostgreSQL."""
    aggregate = (
        "STRING_AGG(constraint_variable, ',' ORDER BY constraint_variable)"
        if db.dialect.name == "postgresql"
        else "GROUP_CONCAT(constraint_variable, ',')"
    )
    excluded = ", ".join(f"'{name}'" for name in NOT_A_DOMAIN)
    for view in (STRATUM_DOMAIN, TARGET_OVERVIEW):
        db.execute(text(view.format(aggregate=aggregate, excluded=excluded)))
