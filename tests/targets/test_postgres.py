"""The target database on a real PostgreSQL server, which the tests start for themselves."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.targets.choose import load_targets
from distcalib.targets.database import read_targets, read_tree, write_database_at
from distcalib.targets.insert import insert_stratum, insert_target
from distcalib.targets.sources import bundled_targets

pytestmark = pytest.mark.postgres

NUMBER = itertools.count()
PLACES = ["US", "2", "201", "56", "5601"]


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql (Debian: apt-get install postgresql)")
    return found[-1].parent


@pytest.fixture(scope="session")
def server():
    """A private server on a loopback port, run as a user that is not root; its URL without a database."""
    programs = binaries()
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_postgres and shutil.which("runuser") is None:
        pytest.skip("a server cannot run as root and there is no runuser (Debian: util-linux)")
    # Not below pytest's own folder, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="distcalib-postgres-"))
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")

    def call(program, *words):
        command = [*as_postgres, str(programs / program), *words]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    try:
        how = ("--username", "tester", "--auth", "trust", "--locale", "C", "--encoding", "UTF8")
        call("initdb", "--pgdata", data, *how, "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "start", "--wait", "-D", data, "-l", str(folder / "log"), "-o", options)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "stop", "--wait", "-D", data, "-m", "immediate")
    finally:
        subprocess.run([*as_postgres, "rm", "-rf", data], check=True)
        shutil.rmtree(folder)


@pytest.fixture
def empty(server):
    """The URL of a database without tables."""
    admin = create_engine(f"{server}/postgres".replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT")
    name = f"test_{next(NUMBER)}"
    with admin.connect() as db:
        db.execute(text(f"CREATE DATABASE {name}"))
    yield f"{server}/{name}"
    with admin.connect() as db:
        db.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    whole = bundled_targets()
    return whole[whole["geographic_id"].isin(PLACES)].reset_index(drop=True)


@pytest.fixture
def engine(empty, table):
    write_database_at(table, empty)
    engine = create_engine(empty.replace("://", "+psycopg://"))
    yield engine
    engine.dispose()


def ask(engine, query):
    with engine.connect() as db:
        return pd.read_sql(text(query), db)


def test_the_bundled_targets_are_the_same_from_a_server_and_a_file(empty, tmp_path):
    run = CliRunner()
    file = tmp_path / "policy_data.db"
    for where in (str(file), empty):
        done = run.invoke(main, ["data", "targets", "--database", where])
        assert done.exit_code == 0, done.output
    there, here = read_targets(empty), read_targets(file)
    pd.testing.assert_frame_equal(there.sort_values("target_id", ignore_index=True), here)
    pd.testing.assert_frame_equal(read_tree(empty), read_tree(file))
    # Nothing depends on the order in which a server gives rows.
    from_server, from_file = (load_targets(d, 2024, {5601, 201}) for d in (empty, file))
    assert from_server.rows_digest() == from_file.rows_digest()
    assert from_server.values_digest() == from_file.values_digest()
    assert from_server.labels_digest() == from_file.labels_digest()
    assert from_server.excluded_digest() == from_file.excluded_digest()
    engines = create_engine(empty.replace("://", "+psycopg://")), create_engine(f"sqlite:///{file}")
    order = "ORDER BY target_id"
    views = [ask(engine, f"SELECT * FROM target_overview {order}") for engine in engines]
    views[1]["active"] = views[1]["active"].astype(bool)
    pd.testing.assert_frame_equal(*views)
    order = "ORDER BY stratum_id, domain_variable"
    pd.testing.assert_frame_equal(
        *(ask(engine, f"SELECT * FROM stratum_domain {order}") for engine in engines)
    )
    for engine in engines:
        engine.dispose()
    again = run.invoke(main, ["data", "targets", "--database", empty])
    assert again.exit_code == 2
    assert "is not empty" in again.output


def test_a_refused_table_leaves_the_database_empty(empty, table):
    # The very last row is one that no PostgreSQL text can hold.
    bad = table.assign(reason=table["reason"].where(table.index != len(table) - 1, "nul \0 byte"))
    with pytest.raises(InputError, match="cannot be written"):
        write_database_at(bad, empty)
    engine = create_engine(empty.replace("://", "+psycopg://"))
    tables = ask(engine, "SELECT * FROM information_schema.tables WHERE table_schema = 'public'")
    functions = ask(engine, "SELECT * FROM information_schema.routines WHERE routine_schema = 'public'")
    engine.dispose()
    assert len(tables) == len(functions) == 0
    write_database_at(table, empty)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE stratum_constraints SET operation = '=>' WHERE operation = '<'", "operation: '=>'"),
        ("UPDATE stratum_constraints SET constraint_variable = 'agee'", "constraint_variable: 'agee'"),
        ("UPDATE targets SET variable = 'snap + snp' WHERE variable = 'snap'", "variable: 'snp'"),
        ("UPDATE targets SET period = 20224", "period: '20224'"),
        ("UPDATE targets SET source = 'IRSS'", "source: 'IRSS'"),
        ("INSERT INTO targets (variable, period, stratum_id) VALUES ('snp', 2024, 1)", "variable: 'snp'"),
    ],
)
def test_the_server_refuses_what_is_not_valid_and_names_it(engine, statement, words):
    with pytest.raises(IntegrityError) as error, engine.begin() as db:
        db.execute(text(statement))
    assert words in str(error.value.orig)


def test_the_server_holds_active_against_its_valid_values(engine):
    with engine.begin() as db:
        db.execute(text("DELETE FROM field_valid_values WHERE field_name = 'active' AND valid_value = '0'"))
    with pytest.raises(IntegrityError, match="active: '0'"), engine.begin() as db:
        db.execute(text("UPDATE targets SET active = false"))


def test_rows_are_inserted_after_the_bulk_under_the_rules(engine, empty):
    tree = read_tree(empty)
    state = int(tree.loc[tree["lines"] == "state_fips|==|56", "stratum_id"].item())
    stratum = insert_stratum(engine, state, "state_fips==56&snap>0&age<18")
    assert stratum == tree["stratum_id"].max() + 1
    target = insert_target(engine, stratum, "snap+tanf", 2023, 12.5, source="Federal Reserve")
    assert read_targets(empty).set_index("target_id").loc[target, "value"] == 12.5
    with pytest.raises(InputError, match="stands in the database already"):
        insert_target(engine, stratum, "snap+tanf", 2023, 13.0)
    with pytest.raises(InputError, match="stands in the database already"):
        insert_stratum(engine, state, "age<18&state_fips==56&snap>0")
    with pytest.raises(InputError, match="does not repeat"):
        insert_stratum(engine, stratum, "state_fips==56&snap>0")
    plain = "INSERT INTO targets (variable, period, stratum_id, value) VALUES ('ssi', 2021, 1, 1)"
    with engine.begin() as db:
        db.execute(text(plain))
    row = ask(engine, "SELECT * FROM targets WHERE variable = 'ssi' AND period = 2021").iloc[0]
    assert (row["reform_id"], row["active"]) == (0, True)


def test_a_server_that_does_not_answer_is_said_without_the_password(server):
    url = server.replace("tester@", "tester:s3cret@").rsplit(":", 1)[0] + ":1/nowhere"
    for words in (["targets", "--database", url], ["contradictions", "--database", url]):
        done = CliRunner().invoke(main, ["data", *words])
        assert done.exit_code == 2, done.output
        assert "error: postgresql://tester:***@127.0.0.1:1/nowhere: cannot be" in done.output
        assert "s3cret" not in done.output
