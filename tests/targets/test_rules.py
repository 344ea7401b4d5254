"""Include and exclude rules: what they keep, and what they name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.errors import InputError
from distcalib.targets.rules import read_rules

TABLE = pd.DataFrame(
    [
        ("snap", "national", "US", "", 0),
        ("snap", "state", "37", "", 0),
        ("household_count", "state", "37", "snap", 0),
        ("household_count", "district", "3701", "snap", 0),
        ("person_count", "district", "3701", "age", 0),
        ("person_count", "district", "1501", "age", 0),
        ("salt_deduction", "national", "US", "", 1),
        ("a+b", "national", "US", "adjusted_gross_income,eitc", 0),
    ],
    columns=["variable", "geo_level", "geographic_id", "domain_variable", "reform_id"],
).assign(
    constraints="",
    period=2024,
    source="IRS [SOI]",
    name=lambda t: t["variable"] + "/" + t["geographic_id"],
    reason="",
)


def kept(tmp_path, text, usable=None):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    mask = read_rules(path).keep(TABLE, np.ones(len(TABLE), bool) if usable is None else usable)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("include:\n- variable: snap\n", [0, 1]),
        ("include:\n- {variable: snap, geo_level: state}\n- {domain_variable: age}\n", [1, 4, 5]),
        ("exclude:\n- geo_level: national\n", [1, 2, 3, 4, 5]),
        ("include:\n- variable: '*_count'\nexclude:\n- geographic_id: 37??\n", [2, 5]),
        ("include:\n- domain_variable: ''\n", [0, 1, 6]),
        ("include:\n- reform_id: 1\n", [6]),
        ("include:\n- domain_variable: adjusted_gross_income,eitc\n", [7]),
        ("include:\n- variable: a+b\n", [7]),
        # Brackets and dots stand for themselves.
        ("include:\n- {source: 'IRS [SOI]', variable: 'sn?p'}\n", [0, 1]),
        ("include:\n- variable: '*'\nexclude:\n- variable: snap\n- variable: '?erson*'\n", [2, 3, 6, 7]),
        # A comment and an empty list are no rules.
        ("include:\n# - variable: nothing\n- variable: snap\nexclude: []\n", [0, 1]),
    ],
)
def test_include_then_exclude(tmp_path, text, rows):
    assert kept(tmp_path, text) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "include:\n- variable: snapp\n",
            ["rules.yaml: include, rule 1", "matches no target", "variable: snap"],
        ),
        (
            "include:\n- variable: snap\nexclude:\n- {variable: snap, geo_level: distict}\n",
            ["exclude, rule 1", "geo_level: distict", "(variable: snap, geo_level: state)"],
        ),
        (
            "include:\n- variable: snapp\n- variable: eitcc\n",
            ["1 more match nothing", "(variable: eitcc)"],
        ),
        ("include:\n- variable: s.ap\n", ["matches no target"]),
        ("include:\n- variable: 'IRS [SO]'\n", ["matches no target"]),
        ("includes:\n- variable: snap\n", ["rules.yaml", "'includes'", "did you mean 'include'"]),
        ("include:\n- {variable: snap, geolevel: state}\n", ["include, rule 1", "'geolevel'", "'geo_level'"]),
        ("include: snap\n", ["include", "not a list of rules"]),
        ("include:\n- snap\n", ["include, rule 1", "is not a rule"]),
        ("include:\n- {}\n", ["is not a rule"]),
        ("include:\n- variable: [snap]\n", ["include, rule 1: variable", "is not a pattern"]),
        ("include:\n- domain_variable: null\n", ["is not a pattern"]),
        ("", ["has no rule"]),
        ("exclude: []\n", ["has no rule"]),
        ("- variable: snap\n", ["is not a file of rules"]),
        ("include: [\n", ["is not YAML"]),
        ("include:\n- variable: snap\n  variable: eitc\n", ["occurs twice"]),
    ],
)
def test_what_says_nothing_is_named(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        kept(tmp_path, text)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_rule_for_excluded_targets_alone_says_why(tmp_path):
    usable = np.ones(len(TABLE), bool)
    usable[6] = False
    TABLE_WITH_REASON = TABLE.assign(reason=["", "", "", "", "", "", "needs a reform", ""])
    path = tmp_path / "rules.yaml"
    path.write_text("include:\n- variable: salt_deduction\n")
    with pytest.raises(InputError, match=r"matches excluded targets \(needs a reform\)"):
        read_rules(path).keep(TABLE_WITH_REASON, usable)


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "rules.yaml").write_text("include:\n- variable: snap\n")
    with pytest.raises(InputError, match=r"no such file.*rules\.yaml"):
        read_rules(tmp_path / "rule.yaml")
