"""The database itself: today's schema, its triggers and rules, and the older generation's numbers."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.targets.choose import load_targets
from distcalib.targets.database import read_database, read_targets, read_tree, write_database_file
from distcalib.targets.insert import insert_stratum, insert_target
from distcalib.targets.sources import bundled_targets
from distcalib.targets.stratum_rules import IRS_VARIABLES, stratum_group
from distcalib.targets.writing import write_database

PLACES = ["US", "2", "201", "56", "5601"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The bundled targets of the nation, Alaska and Wyoming."""
    whole = bundled_targets()
    return whole[whole["geographic_id"].isin(PLACES)].reset_index(drop=True)


@pytest.fixture(scope="module")
def written(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "policy_data.db"
    write_database_file(table, path)
    return path


@pytest.fixture
def engine(written, tmp_path):
    engine = create_engine(f"sqlite:///{shutil.copy(written, tmp_path)}")
    yield engine
    engine.dispose()


def ask(engine, query):
    with engine.connect() as db:
        return pd.read_sql(text(query), db)


def stratum(engine, *lines):
    """The id of the stratum with exactly these lines."""
    tree = read_tree(engine.url.database)
    return int(tree.loc[tree["lines"] == "\n".join(sorted(lines)), "stratum_id"].item())


# What the first document asks of a database, as it stands there.
DISTRICTS = """
SELECT DISTINCT sc.value as cd_geoid
FROM strata s
JOIN stratum_constraints sc ON s.stratum_id = sc.stratum_id
WHERE s.stratum_group_id = 1
  AND sc.constraint_variable = 'congressional_district_geoid'
  AND (
    sc.value LIKE '37__'
    OR sc.value LIKE '150_'
    OR sc.value LIKE '300_'
    OR sc.value = '200' OR sc.value = '201'
  )
ORDER BY sc.value
"""


def test_the_first_documents_own_query_gives_its_nineteen_districts(tmp_path):
    path = tmp_path / "policy_data.db"
    done = CliRunner().invoke(main, ["data", "targets", "--database", str(path)])
    assert done.exit_code == 0, done.output
    engine = create_engine(f"sqlite:///{path}")
    found = ask(engine, DISTRICTS)["cd_geoid"].tolist()
    engine.dispose()
    assert found == ["1501", "1502", "201", "3001", "3002", *(f"37{n:02d}" for n in range(1, 15))]


def test_a_stratum_is_known_by_its_parent_and_its_sorted_lines(engine):
    tree = read_tree(engine.url.database).set_index("stratum_id")
    hashes = ask(engine, "SELECT stratum_id, definition_hash FROM strata").set_index("stratum_id")
    nation = tree.index[tree["lines"] == ""].item()
    assert pd.isna(tree.loc[nation, "parent_stratum_id"])
    assert hashes.loc[nation].item() == hashlib.sha256(b"").hexdigest()
    young = stratum(engine, "age|>=|5", "age|<|10", "congressional_district_geoid|==|5601")
    district = stratum(engine, "congressional_district_geoid|==|5601")
    assert tree.loc[young, "parent_stratum_id"] == district
    assert tree.loc[district, "parent_stratum_id"] == stratum(engine, "state_fips|==|56")
    lines = f"{district}\nage|<|10\nage|>=|5\ncongressional_district_geoid|==|5601"
    assert hashes.loc[young].item() == hashlib.sha256(lines.encode()).hexdigest()


def test_the_views_say_domains(engine):
    domains = ask(engine, "SELECT * FROM stratum_domain")
    assert {"age", "snap", "adjusted_gross_income"} <= set(domains["domain_variable"])
    assert not domains["domain_variable"].isin(["state_fips", "tax_unit_is_filer"]).any()
    assert not domains.duplicated().any()


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        (["congressional_district_geoid"], 1),
        (["age", "state_fips"], 2),
        (["tax_unit_is_filer"], 2),
        (["adjusted_gross_income", "tax_unit_is_filer"], 3),
        (["snap"], 4),
        (["medicaid_enrolled"], 5),
        (["eitc_child_count", "tax_unit_is_filer"], 6),
        (["state_income_tax"], 7),
        (["qualified_business_income_deduction"], 100),
        (["aca_ptc", "person_receives_aca"], 119),
        (["wic"], None),
    ],
)
def test_strata_carry_the_older_numbers(variables, number):
    assert stratum_group(variables) == number
    assert len(IRS_VARIABLES) == len(set(IRS_VARIABLES)) == 20


def test_the_groups_are_read_back(engine, table):
    read = read_targets(engine.url.database)
    assert str(read["stratum_group_id"].dtype) == "Int64"
    snap = read[(read["variable"] == "household_count") & read["lines"].str.contains("snap")]
    assert (len(snap), set(snap["stratum_group_id"])) == (5, {4})
    assert read.loc[read["lines"].str.contains("wic"), "stratum_group_id"].isna().all()
    with engine.begin() as db:
        db.execute(text("ALTER TABLE strata DROP COLUMN stratum_group_id"))
    assert "stratum_group_id" not in read_targets(engine.url.database)


@pytest.mark.parametrize(
    ("statement", "field", "value"),
    [
        ("UPDATE stratum_constraints SET operation = '=>' WHERE operation = '<'", "operation", "=>"),
        ("UPDATE stratum_constraints SET constraint_variable = 'agee'", "constraint_variable", "agee"),
        ("UPDATE targets SET variable = 'snp' WHERE variable = 'snap'", "variable", "snp"),
        ("UPDATE targets SET variable = 'snap + snp' WHERE variable = 'snap'", "variable", "snp"),
        ("UPDATE targets SET variable = '\"snap' WHERE variable = 'snap'", "variable", '"snap'),
        ("UPDATE targets SET period = 20224", "period", "20224"),
        ("UPDATE targets SET active = 2", "active", "2"),
        ("UPDATE targets SET source = 'IRSS'", "source", "IRSS"),
        (
            "INSERT INTO stratum_constraints (stratum_id, constraint_variable, operation, value) "
            "VALUES (1, 'age', '~', '5')",
            "operation",
            "~",
        ),
        (
            "INSERT INTO targets (variable, period, stratum_id, value) VALUES ('snp', 2024, 1, 5)",
            "variable",
            "snp",
        ),
    ],
)
def test_the_database_refuses_what_is_not_valid_and_names_it(engine, statement, field, value):
    before = ask(engine, "SELECT * FROM targets")
    with pytest.raises(DatabaseError) as error, engine.begin() as db:
        db.execute(text(statement))
    assert f".{field}: " in str(error.value.orig)
    assert value in str(error.value.orig)
    pd.testing.assert_frame_equal(ask(engine, "SELECT * FROM targets"), before)


def test_the_database_takes_what_is_valid(engine):
    with engine.begin() as db:
        db.execute(text("INSERT INTO field_valid_values VALUES ('source', 'my agency', '')"))
        db.execute(
            text(
                "INSERT INTO targets (variable, period, stratum_id, value, source) VALUES "
                "('ssi+ tanf', 2021, 1, 5, 'my agency')"
            )
        )
        db.execute(text("UPDATE targets SET source = NULL, active = 0 WHERE variable = 'snap'"))
    new = ask(engine, "SELECT * FROM targets WHERE variable = 'ssi+ tanf'").iloc[0]
    assert (new["reform_id"], new["active"], new["value"]) == (0, 1, 5)


def test_a_variable_period_stratum_and_reform_stand_once(engine):
    copy = (
        "INSERT INTO targets (variable, period, stratum_id, reform_id, value) "
        "SELECT variable, period, stratum_id, {}, 1 FROM targets WHERE variable = 'snap' AND period = 2024"
    )
    with engine.begin() as db:
        db.execute(text(copy.format(7)))
    with pytest.raises(DatabaseError, match="UNIQUE"), engine.begin() as db:
        db.execute(text(copy.format(7)))


def test_what_is_inserted_is_read(engine):
    path = engine.url.database
    state = stratum(engine, "state_fips|==|56")
    poor = insert_stratum(engine, state, [("state_fips", "==", "56"), ("snap", ">", "0"), ("age", "<", "18")])
    assert ask(engine, f"SELECT * FROM strata WHERE stratum_id = {poor}")["stratum_group_id"].item() == 2
    target = insert_target(engine, poor, "snap+tanf", 2023, 12.5, tolerance=10, notes="a test")
    read = read_targets(path).set_index("target_id").loc[target]
    assert (read["value"], read["tolerance"], read["period"]) == (12.5, 0.1, 2023)
    assert read["lines"] == "age|<|18\nsnap|>|0\nstate_fips|==|56"
    rows = load_targets(path, 2023, {201, 5601}).rows
    assert (rows["variable"] == "snap+tanf").sum() == 1
    # The whole of a district is part of its state, and the child of the new stratum repeats it.
    insert_stratum(engine, poor, "age<18&snap>0&congressional_district_geoid==5601")


def test_an_insert_within_a_transaction_goes_with_it(engine):
    before = len(ask(engine, "SELECT * FROM strata"))
    with engine.connect() as db, db.begin() as transaction:
        insert_target(db, insert_stratum(db, 1, "age>=90"), "person_count", 2024, 1.0)
        transaction.rollback()
    assert len(ask(engine, "SELECT * FROM strata")) == before


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ("age==5&age<10", ["age", "== has to stand alone", "age<10 & age==5"]),
        ("age!=5&age<10", ["!= has to stand alone"]),
        ([("age", "in", "5|6"), ("age", "<", "10")], ["in has to stand alone"]),
        ("age>5&age>=6", ["> and >= bound"]),
        ("age<5&age<=6", ["< and <= bound"]),
        ("age>=10&age<5", ["an empty range", "age<5 & age>=10"]),
        ("age>5&age<=5", ["an empty range", "inclusive"]),
        ([("age", "<", "5"), ("age", "<", "6")], ["an operator stands twice"]),
        ([("age", "=>", "5")], ["unknown operator", "'=>'", "'>='"]),
        ("agee>=5", ["unknown constraint variable", "'agee'", "'age'"]),
        ("age>=old", ["compares a number with a text", "'old'"]),
        ("state_fips==56&congressional_district_geoid==201", ["a district that is not", "state 56"]),
        ("state_fips==99", ["unknown state", "'99'"]),
        ("age>nan", ["compares with no number", "'nan'"]),
        ([("age", "<")], ["is not a constraint", "variable, operation, value"]),
        (["age<5"], ["is not a constraint", "'age<5'"]),
        (5, ["is not a constraint", "got 5"]),
        ("congressional_district_geoid==5602", ["unknown congressional district", "5602", "'5601'"]),
    ],
)
def test_a_stratum_that_contradicts_itself_is_refused(engine, constraints, words):
    refused(engine, 1, constraints, words)


@pytest.mark.parametrize(
    ("parent", "constraints", "words"),
    [
        (("snap|>|0", "state_fips|==|56"), "snap>1&state_fips==56", ["repeat", "snap>1", "snap>0"]),
        (("state_fips|==|56",), "age<5", ["does not lie in its parent", "no place", "state 56"]),
        (("state_fips|==|56",), "age<5&state_fips==2", ["state_fips", "got 2", "state 56"]),
        (("state_fips|==|56",), "congressional_district_geoid==201", ["201", "state 56"]),
        (
            ("congressional_district_geoid|==|201",),
            "state_fips==2&age<3",
            ["does not lie in its parent", "district 201"],
        ),
        (("state_fips|==|56",), "congressional_district_geoid==5601", ["stands in the database already"]),
        ((), "state_fips==56", ["stands in the database already", "stratum"]),
        ((), "", ["stands in the database already"]),
        ((), "state_fips==056", ["stands in the database already"]),
        (("state_fips|==|56",), "congressional_district_geoid==5600", ["stands in the database already"]),
        (("state_fips|==|2",), "congressional_district_geoid==AK-AL", ["stands in the database already"]),
        (
            ("congressional_district_geoid|==|5601",),
            "age>=05&age<10.0&congressional_district_geoid==5601",
            ["stands in the database already"],
        ),
        (
            ("state_fips|==|56",),
            "state_fips==56&medicaid_enrolled==1",
            ["stands in the database already"],
        ),
    ],
)
def test_a_stratum_that_is_no_new_part_of_its_parent_is_refused(engine, parent, constraints, words):
    refused(engine, stratum(engine, *parent) if parent else 1, constraints, words)


def refused(engine, parent, constraints, words):
    before = ask(engine, "SELECT * FROM strata")
    with pytest.raises(InputError) as error:
        insert_stratum(engine, parent, constraints)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    pd.testing.assert_frame_equal(ask(engine, "SELECT * FROM strata"), before)


def test_touching_bounds_may_be_inclusive_and_at_large_districts_have_two_numbers(engine):
    insert_stratum(engine, 1, "age>=5&age<=5")
    insert_stratum(engine, stratum(engine, "state_fips|==|2"), "congressional_district_geoid==200&age<7")


def test_what_is_inserted_is_written_in_one_spelling_or_in_its_parents(engine):
    path = engine.url.database
    first = insert_stratum(engine, 1, "age>=05&age<7.50")
    refused(engine, 1, "age>=5.0&age<7.5", ["stands in the database already", f"stratum {first}"])
    lines = read_tree(path).set_index("stratum_id")["lines"]
    assert lines[first] == "age|<|7.5\nage|>=|5"
    with engine.begin() as db:
        db.execute(
            text(f"UPDATE stratum_constraints SET value = '5.0' WHERE stratum_id = {first} AND value = '5'")
        )
    refused(engine, 1, "age>=5&age<7.5", ["stands in the database already", f"stratum {first}"])
    below = insert_stratum(engine, first, "age>=5&age<7.5&medicaid_enrolled==True&state_fips==056")
    lines = read_tree(path).set_index("stratum_id")["lines"]
    assert lines[below] == "age|<|7.5\nage|>=|5.0\nmedicaid_enrolled|==|True\nstate_fips|==|56"


def test_a_parent_that_is_not_there_is_named(engine):
    refused(engine, 10**6, "age<3", ["parent_stratum_id", "no such stratum", "1000000"])
    refused(engine, None, "age<3", ["has constraints and no parent"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stratum_id": 10**6}, ["stratum_id", "no such stratum"]),
        ({"variable": "snp"}, ["unknown variable", "'snp'", "'snap'"]),
        ({"variable": "snap+person_count"}, ["adds up counts"]),
        ({"period": 20224}, ["period", "'20224'", "2024"]),
        ({"source": "Federal Reserv"}, ["source", "'Federal Reserve'"]),
        ({"value": np.inf}, ["value", "finite"]),
        ({"value": np.nan}, ["no value"]),
        ({"value": "many"}, ["value", "is no number", "'many'"]),
        ({"value": None}, ["value", "is no number"]),
        ({"period": "2022"}, ["period", "is no number", "a whole number"]),
        ({"tolerance": -1}, ["tolerance", "0 or more"]),
        ({"tolerance": np.inf}, ["tolerance", "0 or more"]),
        ({"tolerance": "5"}, ["tolerance", "is no number"]),
        ({"reform_id": 6}, ["reform_id", "unknown reform", "1 (state and local tax deduction)"]),
        ({"reform_id": -1}, ["reform_id", "unknown reform"]),
        ({"reform_id": 1.5}, ["reform_id", "is no number"]),
        ({"variable": "household_count"}, ["stands in the database already", "target"]),
    ],
)
def test_a_target_that_cannot_be_is_refused(engine, change, words):
    good = {"stratum_id": 1, "variable": "ssi", "period": 2022, "value": 5.0}
    with engine.connect() as db:
        at = db.execute(
            text("SELECT period FROM targets WHERE variable = 'household_count' AND stratum_id = 1")
        )
        good["period"] = at.scalar_one()
    before = ask(engine, "SELECT * FROM targets")
    with pytest.raises(InputError) as error:
        insert_target(engine, **(good | change))
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    pd.testing.assert_frame_equal(ask(engine, "SELECT * FROM targets"), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"constraints": "age==5&age<10"}, ["== has to stand alone"]),
        ({"constraints": "agee<10"}, ["unknown constraint variable", "'age'"]),
        ({"variable": "snp"}, ["unknown variable", "'snap'"]),
    ],
)
def test_a_table_is_written_under_the_same_rules_whole_or_not_at_all(table, tmp_path, change, words):
    bad = pd.concat([table, table.tail(1).assign(**change)])
    with pytest.raises(InputError) as error:
        write_database_file(bad, tmp_path / "x.db")
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    with pytest.raises(InputError, match="a target stands twice"):
        write_database_file(pd.concat([table, table.tail(1)]), tmp_path / "x.db")
    assert not list(tmp_path.iterdir())


def test_a_database_that_is_not_empty_is_refused(engine, table, tmp_path):
    with pytest.raises(InputError, match="is not empty"):
        write_database(table, engine)
    path = tmp_path / "policy_data.db"
    for name in (path, f"sqlite:///{path}"):
        again = CliRunner().invoke(main, ["data", "targets", "--database", str(name)])
        assert again.exit_code == 2
        assert "exists" in again.output


@pytest.fixture
def older(tmp_path):
    """A database of the older generation: sources in a table of their own, no reforms, no active flag."""
    engine = create_engine(f"sqlite:///{tmp_path / 'older.db'}")
    with engine.begin() as db:
        for statement in (
            "CREATE TABLE sources (source_id INTEGER PRIMARY KEY, name VARCHAR, type VARCHAR)",
            "CREATE TABLE strata (stratum_id INTEGER PRIMARY KEY, definition_hash VARCHAR(64), "
            "parent_stratum_id INTEGER, stratum_group_id INTEGER, notes VARCHAR)",
            "CREATE TABLE stratum_constraints (stratum_id INTEGER, constraint_variable VARCHAR, "
            "operation VARCHAR, value VARCHAR, notes VARCHAR)",
            "CREATE TABLE targets (target_id INTEGER PRIMARY KEY, variable VARCHAR, period INTEGER, "
            "stratum_id INTEGER, value FLOAT, source_id INTEGER, tolerance FLOAT, notes VARCHAR)",
            "INSERT INTO sources VALUES (1, 'USDA FNS', 'administrative')",
            "INSERT INTO strata VALUES (1, 'a', NULL, 1, ''), (2, 'b', 1, 1, ''), (3, 'c', 2, 4, ''), "
            "(4, 'd', 1, NULL, '')",
            "INSERT INTO stratum_constraints VALUES (2, 'state_fips', '==', '56', ''), "
            "(3, 'state_fips', '==', '56', ''), (3, 'snap', '>', '0', ''), (4, 'wic', '>', '0', '')",
            "INSERT INTO targets VALUES (1, 'snap', 2023, 1, 107e9, 1, 5, ''), "
            "(2, 'household_count', 2023, 3, 13000, 1, NULL, ''), (3, 'wic', 2023, 4, 5e9, NULL, NULL, '')",
        ):
            db.execute(text(statement))
    yield engine
    engine.dispose()


def test_the_older_generation_is_read(older):
    read = read_database(older, "older").set_index("target_id")
    assert read["stratum_group_id"].tolist() == [1, 4, pd.NA]
    assert read["source"].fillna("").tolist() == ["USDA FNS", "USDA FNS", ""]
    assert read["reform_id"].tolist() == [0, 0, 0]
    assert set(read["status"]) == {"fit"}
    assert read["tolerance"].iloc[0] == 0.05
    rows = load_targets(older.url.database, 2023, {5601}).rows
    assert list(rows["name"]) == ["state_56/household_count/[snap>0]"]


def test_a_row_for_the_older_generation_names_what_it_lacks(older):
    with pytest.raises(InputError, match="lacks a column"):
        insert_target(older, 1, "ssi", 2023, 5.0)
