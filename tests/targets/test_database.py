"""Target databases: ours and a user's are read by the same code; bad ones are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from own_database import change
from sqlalchemy import create_engine, text

from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.targets.choose import load_targets
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets

ALL = set(districts()["cd_geoid"])


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The bundled targets of Wyoming, Vermont and the nation."""
    whole = bundled_targets()
    return whole[whole["geographic_id"].isin(["56", "5601", "50", "5001", "US"])].reset_index(drop=True)


@pytest.fixture
def database(table, tmp_path):
    path = tmp_path / "policy_data.db"
    write_database_file(table, path)
    return path


def refused(path, *words, **options):
    with pytest.raises(InputError) as error:
        load_targets(path, 2024, ALL, **options)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_database_gives_back_the_table(table, database):
    from_file = load_targets(database, 2024, ALL)
    from_table = load_targets("bundled", 2024, ALL, bundled=table)
    pd.testing.assert_frame_equal(from_file.rows, from_table.rows)
    assert not any("target_register" in w for w in from_file.warnings)
    assert from_file.rows_digest() == from_table.rows_digest()
    kept = table[table["status"] != "excluded"]
    assert len(from_file.rows) <= len(kept)
    key = ["variable", "geographic_id", "constraints", "period"]
    merged = from_file.rows.merge(kept, on=key, suffixes=("", "_table"), validate="1:1")
    assert len(merged) == len(from_file.rows)
    np.testing.assert_allclose(merged["value"], merged["value_table"])
    np.testing.assert_allclose(merged["tolerance"], merged["tolerance_table"])


def test_rows_come_in_canonical_order(database):
    rows = load_targets(database, 2024, ALL).rows
    level = rows["geo_level"].map({"national": 0, "state": 1, "district": 2})
    key = list(
        zip(level, rows["variable"], rows["reform_id"], rows["geographic_id"], rows["target_id"], strict=True)
    )
    assert key == sorted(key)
    assert rows.loc[rows["geo_level"] == "district", "name"].str.match(r"cd_(56|50)01/").all()


def test_the_view_says_place_and_domain(database):
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as db:
        view = pd.read_sql(text("SELECT * FROM target_overview"), db)
    engine.dispose()
    snap = view[(view["variable"] == "household_count") & (view["domain_variable"] == "snap")]
    assert set(snap["geographic_id"]) == {"56", "50", "5601", "5001", "US"}
    assert set(view["geo_level"]) == {"national", "state", "district"}
    # The filer flag is no domain: filers by AGI belong to the domain of AGI alone.
    filers = view[view["domain_variable"].fillna("").str.contains("adjusted_gross_income")]
    assert len(filers)
    assert not view["domain_variable"].fillna("").str.contains("tax_unit_is_filer").any()


def test_a_users_database_without_our_register_is_read(database):
    change(database, "DROP TABLE target_register", "UPDATE targets SET active = 0 WHERE variable = 'eitc'")
    targets = load_targets(database, 2024, ALL)
    assert set(targets.rows["status"]) == {"fit"}
    assert any("no target_register" in w for w in targets.warnings)
    assert "eitc" not in set(targets.rows["variable"])
    reasons = targets.excluded.set_index("variable")["reason"]
    assert (reasons.loc[["eitc"]] == "not active in the database").all()


def test_at_large_districts_are_read_in_every_spelling(database):
    before = load_targets(database, 2024, ALL).rows
    change(
        database,
        "UPDATE stratum_constraints SET value = '5600' WHERE value = '5601'",
        "UPDATE stratum_constraints SET value = '5098' WHERE value = '5001'",
    )
    after = load_targets(database, 2024, ALL).rows
    pd.testing.assert_frame_equal(before.drop(columns="stratum_id"), after.drop(columns="stratum_id"))


def test_the_nearest_period_not_after_the_run_is_chosen(database):
    copy = (
        "INSERT INTO targets (variable, period, stratum_id, reform_id, value, active) "
        "SELECT variable, {}, stratum_id, reform_id, {}, 1 FROM targets "
        "WHERE variable = 'snap' AND period = 2024"
    )
    change(database, copy.format(2022, 1), copy.format(2025, 2))
    rows = load_targets(database, 2024, ALL).rows
    assert (rows.loc[rows["variable"] == "snap", "value"] > 2).all()
    older = load_targets(database, 2023, ALL)
    assert (older.rows.loc[older.rows["variable"] == "snap", "value"] == 1).all()
    assert any("other years" in w for w in older.warnings)


def test_areas_that_the_run_covers_in_part_have_no_targets(database):
    some = load_targets(database, 2024, {5601})
    assert set(some.rows["geographic_id"]) == {"56", "5601"}
    assert any("does not cover whole" in w for w in some.warnings)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE targets SET variable = 'snp' WHERE variable = 'snap'",
            ["unknown variable", "'snp'", "'snap'"],
        ),
        (
            "UPDATE stratum_constraints SET operation = '=>' "
            "WHERE operation = '<' AND constraint_variable = 'age'",
            ["stratum", "unknown operator", "'=>'", ">="],
        ),
        (
            "UPDATE stratum_constraints SET constraint_variable = 'agee' WHERE constraint_variable = 'age'",
            ["unknown constraint variable", "'agee'", "'age'"],
        ),
        ("UPDATE targets SET value = NULL WHERE variable = 'snap'", ["no value", "target", "snap"]),
        ("UPDATE stratum_constraints SET value = '5602' WHERE value = '5601'", ["5602", "'5601'"]),
        (
            "UPDATE stratum_constraints SET value = '99' "
            "WHERE value = '56' AND constraint_variable = 'state_fips'",
            ["unknown state", "'99'"],
        ),
        (
            "UPDATE stratum_constraints SET value = '²' "
            "WHERE value = '56' AND constraint_variable = 'state_fips'",
            ["unknown state", "'²'"],
        ),
        (
            "UPDATE stratum_constraints SET value = 'old' WHERE constraint_variable = 'age'",
            ["compares a number with a text", "'old'"],
        ),
        (
            "UPDATE stratum_constraints SET value = 'nan' WHERE constraint_variable = 'age'",
            ["stratum", "compares with no number", "'nan'"],
        ),
        (
            "UPDATE stratum_constraints SET operation = '!=' WHERE constraint_variable = 'state_fips'",
            ["a place is named with =="],
        ),
        (
            "INSERT INTO stratum_constraints (stratum_id, constraint_variable, operation, value) "
            "SELECT stratum_id, 'state_fips', '==', '6' FROM stratum_constraints WHERE value = '5601'",
            ["not in the stratum's state", "state 6"],
        ),
        (
            "UPDATE stratum_constraints SET constraint_variable = 'filing_status', value = 'JIONT', "
            "operation = '==' WHERE constraint_variable = 'age' AND operation = '<'",
            ["is no value of filing_status", "'JIONT'", "'JOINT'"],
        ),
        (
            "UPDATE stratum_constraints SET constraint_variable = 'filing_status' WHERE "
            "constraint_variable = 'age'",
            ["orders a text"],
        ),
        (
            "UPDATE stratum_constraints SET constraint_variable = 'is_snap_eligible', value = 'True', "
            "operation = '==' WHERE constraint_variable = 'snap'",
            ["is a monthly bool", "is_snap_eligible"],
        ),
        ("UPDATE targets SET value = 'many' WHERE variable = 'snap'", ["is not a finite number", "'many'"]),
        ("UPDATE targets SET value = 9e999 WHERE variable = 'snap'", ["is not a finite number", "inf"]),
        ("UPDATE target_register SET status = 'fitt'", ["unknown status", "'fitt'", "'fit'"]),
        ("UPDATE target_register SET status = 'check'", ["no target is left to fit"]),
        ("ALTER TABLE targets RENAME TO target", ["lacks a table", "'targets'", "'target'"]),
        ("ALTER TABLE stratum_constraints RENAME COLUMN operation TO op", ["lacks a column", "'operation'"]),
    ],
)
def test_what_cannot_be_read_is_named(database, statement, words):
    change(database, statement)
    refused(database, *words)


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "policy_data.db"
    path.write_text("not a database, but long enough to look at " * 50)
    refused(path, "cannot be read as a target database", str(path))
    refused(tmp_path / "policy_dat.db", "no such target database", "policy_data.db")
    refused("nosuchdialect://x", "not a usable database URL")


@pytest.mark.parametrize("name", ["run #2.db", "50%.db", "what?.db", "a b%20c.db", "x?mode=rwc.db"])
def test_any_file_name_is_written_and_read(table, tmp_path, name):
    path = tmp_path / name
    write_database_file(table, path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(load_targets(path, 2024, ALL).rows)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_url_of_no_file_is_refused_and_makes_none(database, tmp_path):
    for url in (f"sqlite:///{tmp_path}/policy_dat.db", f"sqlite:///{tmp_path}/policy_dat.db?timeout=5"):
        refused(url, "no such target database", "policy_dat.db", "'policy_data.db'")
    refused(f"sqlite:///file:{tmp_path}/policy_dat.db?uri=true", "cannot be read as a target database")
    assert [p.name for p in tmp_path.iterdir()] == [database.name]
    for url in (f"sqlite:///{database}", f"sqlite:///file:{database}?uri=true"):
        assert len(load_targets(url, 2024, ALL).rows)


def test_a_variable_that_no_target_has_is_named(database):
    refused(database, "no target has this variable", "'snapp'", "'snap'", variables=["snapp"])


def test_an_inactive_newer_figure_does_not_hide_an_active_older_one(database):
    change(
        database,
        "INSERT INTO targets (variable, period, stratum_id, reform_id, value, active) SELECT variable, 2023, "
        "stratum_id, reform_id, 5, 1 FROM targets WHERE variable = 'snap' AND period = 2024",
        "UPDATE targets SET active = 0 WHERE variable = 'snap' AND period = 2024",
    )
    targets = load_targets(database, 2024, ALL)
    assert (targets.rows.loc[targets.rows["variable"] == "snap", "value"] == 5).all()
    assert "snap" in set(targets.excluded["variable"])


def test_what_a_user_switches_on_is_fitted_against_the_register(database):
    before = load_targets(database, 2024, ALL)
    change(
        database,
        "UPDATE target_register SET status = 'excluded' WHERE target_id IN "
        "(SELECT target_id FROM targets WHERE variable = 'eitc')",
        "UPDATE targets SET active = 0 WHERE variable = 'eitc'",
    )
    assert "eitc" not in set(load_targets(database, 2024, ALL).rows["variable"])
    change(database, "UPDATE targets SET active = 1 WHERE variable = 'eitc'")
    after = load_targets(database, 2024, ALL)
    eitc = after.rows[after.rows["variable"] == "eitc"]
    assert len(eitc) == (before.rows["variable"] == "eitc").sum() > 0
    assert set(eitc["status"]) == {"fit"}
    words = f"{len(eitc)} targets that the register excludes are active and are fitted: eitc"
    assert words in after.warnings
    assert not any("the register excludes" in w for w in before.warnings)


UNGUARDED = (
    "DROP VIEW target_overview",
    "DROP VIEW stratum_domain",
    "ALTER TABLE targets RENAME TO strict",
    "CREATE TABLE targets AS SELECT * FROM strict",
)


def test_a_target_that_stands_twice_is_used_once_and_said(database):
    before = load_targets(database, 2024, ALL)
    again = (
        "INSERT INTO targets SELECT target_id + {}, variable, {}, stratum_id, reform_id, 7, 1, tolerance, "
        "source, notes FROM strict WHERE variable = 'snap' AND period = 2024"
    )
    change(database, *UNGUARDED, again.format(10**6, 2024), again.format(10**7, 2023))
    after = load_targets(database, 2024, ALL)
    pd.testing.assert_frame_equal(after.rows, before.rows)
    n = int((before.rows["variable"] == "snap").sum())
    assert f"{n} targets stand twice in the database, and the first is used: snap" in after.warnings
    reasons = after.excluded.set_index("target_id")["reason"]
    first = before.rows.loc[before.rows["variable"] == "snap", "target_id"].iloc[0]
    assert reasons[first + 10**6] == f"a duplicate: the same quantity and period as target {first}"
    assert reasons[first + 10**7] == "the figure of another period is used"


@pytest.mark.parametrize("register", [True, False])
def test_an_unset_active_is_not_active(database, register):
    drop = () if register else ("DROP TABLE target_register",)
    change(database, *UNGUARDED, "UPDATE targets SET active = NULL WHERE variable = 'snap'", *drop)
    targets = load_targets(database, 2024, ALL)
    assert "snap" not in set(targets.rows["variable"])
    reasons = targets.excluded.set_index("variable")["reason"]
    assert (reasons.loc[["snap"]] == "not active in the database").all()


def test_what_is_not_active_may_be_unreadable(database):
    change(
        database,
        "UPDATE stratum_constraints SET value = '72' WHERE value = '56' AND "
        "constraint_variable = 'state_fips'",
        "UPDATE targets SET active = 0 WHERE stratum_id IN (SELECT stratum_id FROM stratum_constraints "
        "WHERE value = '72')",
    )
    assert "56" not in set(load_targets(database, 2024, ALL).rows["geographic_id"])


def test_a_password_is_never_printed():
    from distcalib.targets.database import without_password

    words = without_password("postgresql://reader:s3cret@db.example.org/targets")
    assert "s3cret" not in words
    assert words.startswith("postgresql://reader:")
    for key in ("password", "sslpassword", "passfile", "Client_Secret", "token"):
        words = without_password(f"postgresql://db.example.org/targets?user=u&{key}=s3cret&sslmode=require")
        place, _, query = words.partition("?")
        assert place == "postgresql://db.example.org/targets"
        assert set(query.split("&")) == {"user=u", f"{key}=hidden", "sslmode=require"}
    refused("nosuch://reader:s3cret@host/x", "not a usable database URL")
    with pytest.raises(InputError) as error:
        load_targets("nosuch://reader:s3cret@host/x", 2024, ALL)
    assert "s3cret" not in str(error.value)


def test_reform_targets_are_excluded_and_said(database):
    change(database, "UPDATE targets SET reform_id = 1 WHERE variable = 'eitc'")
    targets = load_targets(database, 2024, ALL)
    assert "eitc" not in set(targets.rows["variable"])
    assert any("targets of reforms" in w for w in targets.warnings)
