"""Strata that hang in the air, contradict themselves or stand twice, and figures in the wrong unit."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from distcalib.cli import main
from distcalib.targets.comparable import comparable_targets
from distcalib.targets.contradictions import find_contradictions
from distcalib.targets.database import read_targets, read_tree, write_database_file
from distcalib.targets.sources import bundled_targets
from distcalib.targets.tree_checks import tree

OF_TREE = {
    "orphan stratum",
    "circular strata",
    "not its parent's part",
    "contradictory stratum",
    "stratum twice",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """SNAP and the age bands of Alaska, Wyoming and the nation; no register, no triggers."""
    whole = bundled_targets()
    keep = whole["geographic_id"].isin(["US", "2", "201", "56", "5601"])
    keep &= whole["constraints"].str.contains("age|snap") | (whole["variable"] == "snap")
    path = tmp_path_factory.mktemp("written") / "policy_data.db"
    write_database_file(whole[keep & (whole["status"] == "fit")], path)
    change(
        path,
        "DROP TABLE target_register",
        *(f"DROP TRIGGER validate_targets_{event}" for event in ("insert", "update")),
        *(f"DROP TRIGGER validate_stratum_constraints_{event}" for event in ("insert", "update")),
    )
    return path


def change(path, *statements):
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        for statement in statements:
            db.execute(text(statement))
    engine.dispose()


@pytest.fixture
def find(written, tmp_path):
    """Findings about strata after statements; {young} is Wyoming's district under 5, {cd} the district."""

    def run(*statements):
        path = shutil.copy(written, tmp_path / "copy.db")
        strata = read_tree(path)
        named = {
            "young": "age|<|5\nage|>=|0\ncongressional_district_geoid|==|5601",
            "cd": "congressional_district_geoid|==|5601",
            "state": "state_fips|==|56",
            "alaska": "state_fips|==|2",
        }
        ids = {k: strata.loc[strata["lines"] == lines, "stratum_id"].item() for k, lines in named.items()}
        change(path, *(statement.format(**ids) for statement in statements))
        rows = comparable_targets(read_targets(path))[0]
        return pd.concat(tree(read_tree(path), rows), ignore_index=True), ids

    return run


def test_a_tree_in_order_has_no_finding(find):
    assert find()[0].empty


def test_a_parent_that_does_not_exist(find):
    found, ids = find("UPDATE strata SET parent_stratum_id = 99999 WHERE stratum_id = {young}")
    assert list(found["kind"]) == ["orphan stratum"]
    assert found["severity"].item() == "error"
    assert (found["geo_level"].item(), found["geographic_id"].item()) == ("district", "5601")
    said = f"stratum {ids['young']} below 99999, which does not exist"
    assert found["compared_with"].item() == said
    assert len(found["target_ids"].item().split()) == 1


def test_a_stratum_without_a_parent_that_is_not_the_nation(find):
    found, _ = find("UPDATE strata SET parent_stratum_id = NULL WHERE stratum_id = {state}")
    assert list(found["kind"]) == ["orphan stratum"]
    assert found["geographic_id"].item() == "56"


def test_a_target_of_a_stratum_that_does_not_exist(find):
    found, _ = find("UPDATE targets SET stratum_id = 99999 WHERE stratum_id = {young}")
    assert list(found["kind"]) == ["orphan stratum"]
    assert found["variable"].item() == "person_count"
    assert found["compared_with"].item() == "stratum 99999 does not exist"


def test_strata_that_are_their_own_ancestors(find):
    found, ids = find(
        "UPDATE strata SET parent_stratum_id = {cd} WHERE stratum_id = {state}",
    )
    circular = found[found["kind"] == "circular strata"]
    # The state, its district, and whatever is below the two.
    assert circular["geographic_id"].isin(["56", "5601"]).all()
    said = circular["compared_with"]
    for name in ("state", "cd", "young"):
        assert said.str.startswith(f"stratum {ids[name]} below").any()
    assert (
        find("UPDATE strata SET parent_stratum_id = stratum_id WHERE stratum_id = {young}")[0].shape[0] == 1
    )


def test_a_child_that_lacks_a_constraint_of_its_parent(find):
    found, _ = find(
        "INSERT INTO strata (stratum_id, definition_hash, parent_stratum_id) VALUES (5000, 'x', {young})",
        "INSERT INTO stratum_constraints (stratum_id, constraint_variable, operation, value) VALUES "
        "(5000, 'age', '>=', '0'), (5000, 'congressional_district_geoid', '==', '5601')",
    )
    assert list(found["kind"]) == ["not its parent's part"]
    assert found["compared_with"].item() == "stratum 5000 lacks age < 5 of its parent"
    assert found["target_ids"].item() == ""


@pytest.mark.parametrize("child", ["young", "cd"])
def test_a_child_that_lies_elsewhere(find, child):
    found, _ = find(f"UPDATE strata SET parent_stratum_id = {{alaska}} WHERE stratum_id = {{{child}}}")
    assert list(found["kind"]) == ["not its parent's part"]
    assert found["compared_with"].item().endswith("does not lie in its parent")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SET value = '-1'", "empty range"),
        ("SET operation = '=='", "== has to stand alone"),
        ("SET operation = '>'", "> and >= bound"),
    ],
)
def test_a_stratum_that_contradicts_itself(find, statement, words):
    where = "WHERE stratum_id = {young} AND operation = '<'"
    found, _ = find(f"UPDATE stratum_constraints {statement} {where}")
    assert list(found["kind"]) == ["contradictory stratum"]
    assert words in found["compared_with"].item()
    assert found["severity"].item() == "error"


def test_one_definition_under_two_ids(find):
    found, ids = find(
        "INSERT INTO strata (stratum_id, definition_hash, parent_stratum_id) VALUES (5000, 'x', {state})",
        "INSERT INTO stratum_constraints (stratum_id, constraint_variable, operation, value) VALUES "
        "(5000, 'state_fips', '==', '56')",
    )
    assert list(found["kind"]) == ["stratum twice"]
    assert found["compared_with"].item() == f"stratum 5000 is defined as stratum {ids['state']}"
    assert found["severity"].item() == "warning"


def test_the_command_checks_the_strata_too(written, tmp_path):
    path = shutil.copy(written, tmp_path / "copy.db")
    run = CliRunner()
    table = tmp_path / "findings.csv"
    call = ["data", "contradictions", "--database", str(path), "--output", str(table), "--force"]
    run.invoke(main, call)
    assert not pd.read_csv(table)["kind"].isin(OF_TREE).any()
    change(
        path,
        "UPDATE strata SET parent_stratum_id = 99999 WHERE notes = '5601 age<5&age>=0'",
        "INSERT INTO strata (stratum_id, definition_hash, parent_stratum_id) VALUES (5000, 'x', 99999)",
    )
    done = run.invoke(main, call)
    assert done.exit_code == 1
    found = pd.read_csv(table)
    found = found[found["kind"] == "orphan stratum"]
    # What no target in use has cannot spoil a fit.
    assert dict(zip(found["severity"], found["geographic_id"], strict=True)) == {
        "error": "5601",
        "warning": "US",
    }


def slips(path_of, frame):
    path = path_of / "policy_data.db"
    path.unlink(missing_ok=True)
    write_database_file(frame, path)
    change(path, "DROP TABLE target_register")
    found = find_contradictions(read_targets(path))
    return found[found["kind"] == "looks thousandfold"]


@pytest.fixture(scope="module")
def snap():
    whole = bundled_targets()
    keep = whole["variable"].eq("snap") & (whole["constraints"] == "") & (whole["status"] != "excluded")
    return whole[keep & (whole["period"] == 2024)]


def test_one_state_in_thousands_is_found_by_the_bundled_figure(tmp_path, snap):
    assert slips(tmp_path, snap).empty
    wrong = snap.assign(value=snap["value"].where(snap["geographic_id"] != "48", snap["value"] / 1000))
    found = slips(tmp_path, wrong)
    assert list(found["geographic_id"]) == ["48"]
    assert found["severity"].item() == "error"
    assert found["ratio"].item() == pytest.approx(1 / 1000)


def test_a_level_in_thousands_is_found_by_its_sum(tmp_path, snap):
    # A variable and figures that no register has.
    other = snap.assign(variable="child_support_expense")
    nation = other["geo_level"] == "national"
    found = slips(tmp_path, other.assign(value=other["value"].where(nation, other["value"] * 1000)))
    assert list(found["geographic_id"]) == ["US"]
    assert found["ratio"].item() == pytest.approx(1000, rel=0.01)
    assert "sum of states" in found["compared_with"].item()


def test_one_state_in_thousands_is_found_by_its_siblings(tmp_path, snap):
    other = snap[snap["geo_level"] == "state"].assign(variable="child_support_expense")
    assert slips(tmp_path, other).empty
    wrong = other.assign(value=other["value"].where(other["geographic_id"] != "56", other["value"] * 1000))
    found = slips(tmp_path, wrong)
    assert list(found["geographic_id"]) == ["56"]
    assert "each resident" in found["compared_with"].item()
