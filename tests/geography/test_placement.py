"""The settings of geography in a run: files, incomes, and what the plan says and digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distcalib import RunConfig
from distcalib.errors import InputError
from distcalib.geography import GeographyAssignment
from distcalib.geography.sources import county_shares, districts
from distcalib.runs.placement import area_agi, income_proxy, place_clones
from distcalib.runs.plan import make_plan
from distcalib.targets.sources import bundled_targets


@pytest.fixture
def config(settings: Path) -> RunConfig:
    """Wyoming and New Hampshire with blocks, a crosswalk and metropolitan areas beside the settings."""
    shares = county_shares()
    shares = shares[shares["cd_geoid"].isin([5601, 3301, 3302])].reset_index(drop=True)
    rows = shares.loc[shares.index.repeat(4)].reset_index(drop=True)
    ids = rows["county_fips"] * 10**10 + 1_001_000 + rows.groupby("county_fips").cumcount()
    table = rows.assign(block_geoid=ids.astype(str).str.zfill(15), population=10 + rows.index % 7)
    table[["cd_geoid", "block_geoid", "population"]].to_csv(settings.parent / "b.csv.gz", index=False)
    codes = table[["block_geoid"]].assign(place_fips="12345", puma=(100 + rows.index % 9).astype(str))
    codes.to_csv(settings.parent / "x.csv", index=False)
    pd.DataFrame({"county_fips": rows["county_fips"].unique(), "cbsa_code": "16940"}).to_csv(
        settings.parent / "cbsa.csv", index=False
    )
    text = settings.read_text().replace("3302]", "3302], blocks: b.csv.gz, crosswalk: x.csv, cbsa: cbsa.csv")
    settings.write_text(text)
    return RunConfig.load(settings)


def test_files_beside_the_settings_are_read_and_digested(config):
    assert Path(config.geography.blocks).is_absolute()
    prepared = make_plan(config)
    columns = prepared.columns
    assert set(columns) >= {"block_geoid", "place_fips", "puma", "cbsa_code"}
    assert (columns["block_geoid"] // 10**10 == columns["county_fips"]).all()
    assert set(columns["cbsa_code"]) == {"16940"}
    assert GeographyAssignment.from_frame(columns).digest() == prepared.plan.inputs["assignment"]
    # Where a file lies is no part of the plan; what it says is.
    folder = Path(config.geography.blocks).parent
    (folder / "x.csv").rename(folder / "y.csv")
    moved = replace(config, geography=replace(config.geography, crosswalk=str(folder / "y.csv")))
    assert make_plan(moved).plan.digest() == prepared.plan.digest()
    text = (folder / "y.csv").read_text()
    (folder / "y.csv").write_text(text.replace("12345", "54321"))
    changed = make_plan(moved).plan
    assert changed.digest() != prepared.plan.digest()
    assert not {s.id for s in changed.slices} & {s.id for s in prepared.plan.slices}


def test_the_plan_says_what_the_files_lack(config):
    bare = replace(config, geography=replace(config.geography, crosswalk=None))
    assert [w for w in make_plan(bare).plan.warnings if "blocks without place_fips" in w]
    assert not [w for w in make_plan(config).plan.warnings if "blocks" in w]
    alone = replace(config, geography=replace(config.geography, blocks=None, block_population="p.csv"))
    with pytest.raises(InputError, match=r"geography\.block_population: needs geography\.blocks"):
        make_plan(alone)


def test_incomes_are_off_by_default_and_move_the_top_tenth_alone(small):
    config = RunConfig(n_clones=2, design_weights="equal")
    assert config.geography.agi_conditioning is False
    table = districts()
    plain, weights, notes = place_clones(config, small, table)
    assert notes == []
    wanted = replace(config, geography=replace(config.geography, agi_conditioning=True))
    found, w, notes = place_clones(wanted, small, table)
    assert any("top tenth" in note and "AGI of states" in note for note in notes)
    moved = (found.cd_geoid != plain.cd_geoid).reshape(2, -1).any(axis=0)
    income = income_proxy(small)
    assert moved.any()
    assert income[moved].min() > np.quantile(income, 0.5)
    same = ~np.tile(w.reshape(2, -1)[0] != weights.reshape(2, -1)[0], 2)
    np.testing.assert_array_equal(found.cd_geoid[same], plain.cd_geoid[same])


def test_equal_design_weights_give_every_household_a_chance_and_the_population(small):
    """Half of the records of an extended CPS are clones from tax files that weigh nothing."""
    zeros = np.where(np.arange(small.count()) % 2, small.weights, 0.0)
    extended = small.with_columns({"household_weight": zeros})
    _, weights, notes = place_clones(RunConfig(n_clones=2), extended, districts())
    assert np.count_nonzero(weights) == small.count()  # of 600 columns
    assert "150 of 300 households have weight 0" in notes[0]
    assert "stand for" in notes[1]
    assert all("`design_weights: equal`" in note for note in notes)
    equal = RunConfig(n_clones=2, design_weights="equal")
    _, weights, notes = place_clones(equal, extended, districts())
    assert notes == []
    assert (weights > 0).all()
    persons = np.bincount(small.household_of["person"])[np.arange(600) % 300]
    assert np.sum(weights * persons) == pytest.approx(
        340.1e6, rel=0.1
    )  # as drawn, whose mean is the population
    plan, other = (make_plan(one.changed(targets=replace(one.targets, variables=("snap",)))).plan
                   for one in (equal, equal.changed(design_weights="microdata")))  # fmt: skip
    assert plan.inputs["initial_weights"] != other.inputs["initial_weights"]
    assert plan.inputs["assignment"] == other.inputs["assignment"]


def test_the_income_proxy_adds_the_inputs_of_all_persons(small):
    proxy = income_proxy(small)
    wages = small.column("employment_income_before_lsr").astype(np.float64)
    of = small.household_of["person"]
    base = np.bincount(of, weights=wages, minlength=small.count())
    pension = small.column("taxable_private_pension_income").astype(np.float64)
    raised = small.with_columns({"taxable_private_pension_income": pension + 1000})
    np.testing.assert_allclose(income_proxy(raised) - proxy, 1000 * np.bincount(of), rtol=1e-6, atol=0.1)
    assert (proxy - base).sum() > 0
    retired = small.column("social_security_retirement") + 50_000
    np.testing.assert_array_equal(
        income_proxy(small.with_columns({"social_security_retirement": retired})), proxy
    )


def test_the_income_of_states_is_the_sum_of_its_brackets():
    figures = area_agi("bundled", 2024)
    assert set(figures) == set(districts()["state_fips"])
    table = bundled_targets()
    rows = table[(table["variable"] == "adjusted_gross_income") & (table["geo_level"] == "state")]
    by_state = rows.groupby(rows["geographic_id"].astype(int))["value"].sum()
    assert figures == pytest.approx(by_state.to_dict())
    assert sum(figures.values()) == pytest.approx(14_676e9, rel=1e-4)


def own_database(path: Path, strata: list[tuple[str, int, float]]) -> str:
    """Write a target database by hand: constraints as text, period, value."""
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE strata (stratum_id INTEGER PRIMARY KEY)")
        db.execute(
            "CREATE TABLE stratum_constraints (stratum_id INTEGER, constraint_variable TEXT, operation TEXT, "
            "value TEXT)"
        )
        db.execute(
            "CREATE TABLE targets (target_id INTEGER, variable TEXT, period INTEGER, stratum_id INTEGER, "
            "value REAL)"
        )
        for i, (text, period, value) in enumerate(strata):
            db.execute("INSERT INTO strata VALUES (?)", (i,))
            for line in text.split("&"):
                db.execute("INSERT INTO stratum_constraints VALUES (?, ?, ?, ?)", (i, *line.split(" ")))
            row = (i, "adjusted_gross_income", period, i, value)
            db.execute("INSERT INTO targets VALUES (?, ?, ?, ?, ?)", row)
    db.close()
    return str(path)


FILER = "&tax_unit_is_filer == 1"


def test_a_users_own_figures_of_districts_and_states_are_read(tmp_path):
    own = own_database(
        tmp_path / "own.db",
        [
            ("state_fips == 37" + FILER, 2022, 5.0),
            ("state_fips == 37&age < 18", 2022, 99.0),
            ("congressional_district_geoid == 5600&tax_unit_is_filer > 0", 2022, 7.0),
            ("congressional_district_geoid == 1198" + FILER, 2022, 8.0),
            # Brackets that leave a gap are no total.
            ("state_fips == 6&adjusted_gross_income < 10" + FILER, 2022, 1.0),
            ("state_fips == 6&adjusted_gross_income >= 20" + FILER, 2022, 1.0),
            ("state_fips == 48&adjusted_gross_income >= -inf&adjusted_gross_income < 10" + FILER, 2022, 1.0),
            ("state_fips == 48&adjusted_gross_income >= 10" + FILER, 2022, 2.0),
            # A truth value is a number to the rules of constraints.
            ("state_fips == 4&adjusted_gross_income < True" + FILER, 2022, 1.0),
            ("state_fips == 4&adjusted_gross_income >= 1" + FILER, 2022, 3.0),
        ],
    )
    assert area_agi(own, 2024) == {37: 5.0, 5601: 7.0, 1101: 8.0, 48: 3.0, 4: 4.0}
    none = own_database(tmp_path / "none.db", [("age < 18&state_fips == 1", 2022, 1.0)])
    with pytest.raises(InputError, match=r"none\.db: has no adjusted gross income of states or districts"):
        area_agi(none, 2024)


def test_only_the_income_of_filers_counts(tmp_path):
    own = own_database(
        tmp_path / "own.db",
        [
            ("state_fips == 1&tax_unit_is_filer == 0", 2022, 1.0),
            ("state_fips == 4", 2022, 2.0),
            ("state_fips == 5&tax_unit_is_filer == 0", 2022, 3.0),
            ("state_fips == 5&tax_unit_is_filer == 1", 2022, 4.0),
            # Half of it is of everybody.
            ("state_fips == 6&adjusted_gross_income < 10", 2022, 5.0),
            ("state_fips == 6&adjusted_gross_income >= 10&tax_unit_is_filer == 1", 2022, 6.0),
        ],
    )
    assert area_agi(own, 2024) == {5: 4.0}


def test_a_figure_is_of_one_period(tmp_path):
    low, high = "&adjusted_gross_income < 10" + FILER, "&adjusted_gross_income >= 10" + FILER
    own = own_database(
        tmp_path / "own.db",
        [
            # The brackets of 2023 are not complete, those of 2022 are; the two are not mixed.
            ("state_fips == 1" + low, 2022, 1.0),
            ("state_fips == 1" + high, 2022, 2.0),
            ("state_fips == 01" + high, 2023, 50.0),
            ("state_fips == 4" + low, 2022, 1.0),
            ("state_fips == 4" + high, 2023, 2.0),
            ("state_fips == 5" + FILER, 2023, 1.0),
            ("state_fips == 05" + FILER, 2026, 2.0),
            ("state_fips == 6" + FILER, 2027, 1.0),
            ("state_fips == 06" + FILER, 2026, 2.0),
        ],
    )
    assert area_agi(own, 2024) == {1: 3.0, 5: 1.0, 6: 2.0}


@pytest.mark.parametrize(
    ("stratum", "words"),
    [
        ("state_fips == 37&adjusted_gross_income => 5", r"stratum 1: unknown operator; got '=>'"),
        ("state_fips > 37", r"stratum 1: a place is named with ==; got 'state_fips > 37'"),
        ("state_fips == x", r"stratum 1: unknown state; got 'x'"),
        ("state_fips == 37&agee < 18", r"stratum 1: unknown constraint variable; got 'agee'"),
        ("state_fips == 37&adjusted_gross_income < ten", r"stratum 1: .*compares a number with a text"),
    ],
)
def test_a_stratum_of_income_that_cannot_be_read_is_named(stratum, words, tmp_path):
    own = own_database(
        tmp_path / "own.db", [("state_fips == 1" + FILER, 2022, 5.0), (stratum + FILER, 2022, 1.0)]
    )
    with pytest.raises(InputError, match=r"own\.db: " + words):
        area_agi(own, 2024)


def test_the_note_says_whose_incomes_were_used(small, tmp_path):
    table = districts()
    states = [(f"state_fips == {s}" + FILER, 2022, 1e9) for s in table["state_fips"].unique()]
    # Of the two districts of New Hampshire one has a figure, of Montana both.
    some = [(f"congressional_district_geoid == {g}" + FILER, 2022, 1e9) for g in (3301, 3001, 3002, 5601)]
    every = [(f"congressional_district_geoid == {g}" + FILER, 2022, 1e9) for g in table["cd_geoid"]]
    for name, strata, words in (
        ("states", states, "by the AGI of states"),
        ("some", states + some, "by the AGI of districts in MT, WY and of states elsewhere"),
        ("every", every, "by the AGI of districts"),
    ):
        config = RunConfig(n_clones=1, design_weights="equal")
        config = replace(
            config,
            geography=replace(config.geography, agi_conditioning=True),
            targets=replace(config.targets, database=own_database(tmp_path / name, strata)),
        )
        (note,) = place_clones(config, small, table)[2]
        assert note.endswith(words)
