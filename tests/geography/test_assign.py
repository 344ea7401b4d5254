"""Placement of clones: without replacement, by population, each household on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.digest import digest_arrays
from distcalib.errors import InputError
from distcalib.geography import (
    STATE_CODES,
    Chances,
    assign_geography,
    assign_random_geography,
    initial_weights,
)
from distcalib.geography.assign import own_state_geography
from distcalib.geography.draw import draw_counties, draw_districts, inclusion
from distcalib.geography.sources import county_shares, districts


@given(n=st.integers(1, 40), d=st.integers(1, 12), data=st.data(), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_no_district_twice_while_there_are_enough(n, d, data, seed):
    clones = data.draw(st.integers(1, 2 * d))
    shares = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=d, max_size=d)))
    drawn = draw_districts(np.arange(n), clones, shares / shares.sum(), seed)
    assert drawn.shape == (clones, n)
    for start in range(0, clones, d):
        part = np.sort(drawn[start : start + d], axis=0)
        assert (np.diff(part, axis=0) > 0).all()


def test_a_household_is_placed_whoever_else_is_there():
    ids = np.arange(1000, 1400)
    shares = districts()["population"].to_numpy(float)
    shares /= shares.sum()
    together = draw_districts(ids, 3, shares, 5)
    apart = np.hstack([draw_districts(part, 3, shares, 5) for part in np.array_split(ids, 7)])
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(draw_districts(ids, 2, shares, 5), together[:2])


def test_first_clones_follow_the_population():
    table = districts()
    assignment = assign_geography(np.arange(60_000), 1, table, county_shares(), 0)
    share = table.set_index("cd_geoid")["population"] / table["population"].sum()
    counts = pd.Series(assignment.cd_geoid).value_counts().reindex(share.index, fill_value=0)
    z = (counts - 60_000 * share) / np.sqrt(60_000 * share * (1 - share))
    assert abs(z).max() < 4.5
    assert 0.85 < z.std() < 1.15


# With all districts the formula is exact; with 400 of 436 the noise is small enough to tell it from weight /
# n_clones, which is off by 0.037 on average. Few clones show only the noise of the draw.
@pytest.mark.parametrize(
    ("clones", "households", "error"),
    [(1, 120_000, 0.06), (3, 40_000, 0.06), (40, 3_000, 0.06), (400, 1_000, 0.012), (436, 275, 1e-9)],
)
def test_initial_weights_keep_mass_and_population_shares(clones, households, error):
    table = districts()
    weight = np.random.default_rng(1).uniform(500, 3000, households)
    assignment = assign_geography(np.arange(households), clones, table, county_shares(), 0)
    w = initial_weights(assignment, weight, table)
    assert abs(w.sum() / weight.sum() - 1) < 0.005
    share = table.set_index("cd_geoid")["population"] / table["population"].sum()
    by_district = pd.Series(w).groupby(assignment.cd_geoid).sum() / weight.sum()
    assert abs(by_district.reindex(share.index) / share - 1).mean() < error


@pytest.mark.parametrize("clones", [1, 2, 5, 11, 12, 30])
def test_expected_inclusion_is_what_the_draw_does(clones):
    shares = np.array([0.2, 0.15, 0.15, 0.1, 0.1, 0.08, 0.06, 0.05, 0.05, 0.03, 0.02, 0.01])
    drawn = draw_districts(np.arange(40_000), clones, shares, 0)
    seen = np.bincount(drawn.ravel(), minlength=len(shares)) / 40_000
    expected = inclusion(shares, clones)
    assert abs(expected.sum() - clones) < 1e-6
    # Exact for one clone and for all; else within a few percent even for twelve very unequal districts.
    error = np.sqrt((1 - shares) / (40_000 * shares)) * 4.5 if clones == 1 else 0.06
    assert (abs(seen / expected - 1) < error).all()


def test_a_part_of_the_nation_keeps_its_part_of_the_weight():
    table = districts()
    part = table[table["state"] == "NC"]
    assignment = assign_geography(np.arange(5000), 2, part, county_shares(), 0)
    w = initial_weights(assignment, np.full(5000, 1000.0), Chances.of(5000, part, nation=table))
    assert abs(w.sum() / 5e6 / (part["population"].sum() / table["population"].sum()) - 1) < 0.01


def test_counties_lie_in_their_districts_and_follow_the_shares():
    shares = county_shares()
    cds = np.repeat(districts()["cd_geoid"].to_numpy(), 400)
    ids = np.tile(np.arange(400), 436)
    counties = draw_counties(ids, cds, shares, 0)
    possible = set(zip(shares["cd_geoid"], shares["county_fips"], strict=True))
    assert set(zip(cds.tolist(), counties.tolist(), strict=True)) <= possible
    assert (counties // 1000 == cds // 100).all()
    drawn = pd.Series(counties).groupby(cds).value_counts(normalize=True)
    expected = shares.set_index(["cd_geoid", "county_fips"])["share"].reindex(drawn.index)
    assert (abs(drawn - expected) / np.sqrt(expected * (1 - expected) / 400 + 1e-9)).quantile(0.99) < 3.2
    # The same household in the same district is always in the same county.
    np.testing.assert_array_equal(counties[::7], draw_counties(ids[::7], cds[::7], shares, 0))


def test_a_district_without_counties_is_an_error():
    with pytest.raises(InputError, match="no counties"):
        draw_counties([1], [9901], county_shares(), 0)


def test_the_defaults_place_as_they_always_did():
    # Digests recorded before incomes, pinned states and blocks could be asked for.
    table = districts()
    assignment = assign_geography(np.arange(1, 3001), 3, table, county_shares(), 0)
    assert assignment.digest() == "8e5ada5d0714c3736c3e8326bdbfdc4305af0228cc8b1a76b07469a9c037022a"
    w = initial_weights(assignment, np.linspace(1, 9, 3000), table)
    assert digest_arrays({"w": w}) == "4745e3b4a205ae06a705cd06898f4efc27e90afaf7f8a88f1ae42ceb0c979a4c"
    home = own_state_geography(np.arange(500), np.full(500, 48), table, county_shares(), 7)
    assert home.digest() == "9983803ceb476f8eea4b517fe127c27bfb6f06f27d1eb656217b182df85cd909"


@given(
    d=st.integers(1, 9),
    clones=st.integers(1, 14),
    ids=st.lists(st.integers(0, 10**9), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_whoever_is_added_and_in_whatever_order_nobody_moves(d, clones, ids, seed, data):
    table = districts().iloc[data.draw(st.integers(0, 400)) :].head(d)
    whole = assign_geography(ids, clones, table, county_shares(), seed)
    order = data.draw(st.permutations(range(len(ids))))
    some = order[: data.draw(st.integers(1, len(ids)))]
    part = assign_geography(np.array(ids)[some], clones, table, county_shares(), seed)
    for name in ("cd_geoid", "county_fips"):
        both = getattr(whole, name).reshape(clones, -1)[:, some]
        np.testing.assert_array_equal(both, getattr(part, name).reshape(clones, -1))
    assert (whole.state_fips == whole.cd_geoid // 100).all()
    assert (whole.county_fips // 1000 == whole.state_fips).all()


@given(shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=40), clones=st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_expected_inclusion_sums_to_the_clones(shares, clones):
    p = np.array(shares) / sum(shares)
    expected = inclusion(p, clones)
    assert abs(expected.sum() - clones) < 1e-6 * clones
    assert (expected <= -(-clones // len(p)) + 1e-9).all()


def test_expected_inclusion_of_tiny_shares_is_found():
    # One of the two tiny districts must be drawn, and either is as likely.
    expected = inclusion([0.5, 0.5 - 2e-12, 1e-12, 1e-12], 3)
    np.testing.assert_allclose(expected, [1, 1, 0.5, 0.5], atol=1e-9)


PINNED = st.lists(st.sampled_from([0, 0, 2, 11, 33, 37, 48, 6]), min_size=1, max_size=40)


@given(pinned=PINNED, clones=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_pinned_households_stay_in_their_state_and_repeat_no_district_while_there_are_enough(
    pinned, clones, seed
):
    table, state = districts(), np.array(pinned)
    chances = Chances.of(len(state), table, pinned_state=state)
    assignment = assign_geography(np.arange(len(state)), clones, chances, county_shares(), seed)
    where = assignment.state_fips.reshape(clones, -1)
    assert ((where == state) | (state == 0)).all()
    cds = np.sort(assignment.cd_geoid.reshape(clones, -1), axis=0)
    for record, fips in enumerate(pinned):
        size = len(table) if fips == 0 else int((table["state_fips"] == fips).sum())
        most = np.unique(cds[:, record], return_counts=True)[1].max()
        assert most <= -(-clones // size)
    # The free are where they would be if nobody were pinned.
    free = assign_geography(np.arange(len(state)), clones, table, county_shares(), seed)
    np.testing.assert_array_equal(
        assignment.cd_geoid.reshape(clones, -1)[:, state == 0],
        free.cd_geoid.reshape(clones, -1)[:, state == 0],
    )


@pytest.mark.parametrize("clones", [1, 2, 3, 14, 40])
def test_a_pinned_household_weighs_what_it_weighed_over_its_clones(clones):
    table = districts()
    state = np.tile([37, 11, 50, 6], 15_000)
    chances = Chances.of(60_000, table, pinned_state=state)
    assignment = assign_geography(np.arange(60_000), clones, chances, county_shares(), 2)
    w = initial_weights(assignment, np.full(60_000, 10.0), chances).reshape(clones, -1).sum(axis=0)
    for fips in (37, 11, 50, 6):
        assert abs(w[state == fips].mean() / 10 - 1) < 0.01


def test_a_state_without_districts_cannot_be_pinned():
    table = districts()
    with pytest.raises(InputError, match=r"a state without districts; got 72"):
        Chances.of(2, table, pinned_state=[0, 72])
    with pytest.raises(InputError, match=r"without districts; got 6"):
        Chances.of(1, table[table["state"] == "NC"], nation=table, pinned_state=[6])


@pytest.mark.parametrize("households", [4, 6])
def test_chances_of_another_number_of_households_are_refused(households):
    table = districts()
    with pytest.raises(
        InputError, match=rf"chances: are of another number.*got \(5,\); expected \({households},"
    ):
        assign_geography(np.arange(households), 2, Chances.of(5, table), county_shares(), 0)
    assignment = assign_geography(np.arange(households), 2, table, county_shares(), 0)
    with pytest.raises(InputError, match=r"chances: are of another number"):
        initial_weights(assignment, np.ones(households), Chances.of(5, table))


def test_a_household_of_no_law_is_refused():
    chances = Chances.of(3, districts())
    with pytest.raises(InputError, match="chances: have a household of a law that they lack"):
        assign_geography(np.arange(3), 2, replace(chances, law=np.array([0, 1, 0])), county_shares(), 0)


@pytest.mark.parametrize("state", ["AL", "NC", "WY"])
def test_a_district_that_was_not_drawn_from_has_no_weight(state):
    table = districts()
    part = table[table["state"] == state]
    assignment = assign_geography(np.arange(3), 1, table[table["state"] == "OH"], county_shares(), 0)
    first = assignment.cd_geoid[0]
    with pytest.raises(InputError, match=f"assignment: has 3 columns in districts .* got {first}"):
        initial_weights(assignment, np.ones(3), part)
    pinned = Chances.of(3, table, pinned_state=[39, int(part["state_fips"].iloc[0]), 0])
    with pytest.raises(InputError, match=f"assignment: has 1 columns .* got {assignment.cd_geoid[1]}"):
        initial_weights(assignment, np.ones(3), pinned)


STATES = {int(s): float(1e9 * (1 + k)) for k, s in enumerate(districts()["state_fips"].unique())}


def test_the_top_tenth_of_incomes_goes_where_the_income_is():
    table = districts()
    n = 100_000
    agi = np.random.default_rng(0).permutation(n).astype(float)
    chances = Chances.of(n, table, agi=agi, area_agi=STATES)
    top = agi >= 0.9 * n
    assert top.sum() == n // 10
    np.testing.assert_array_equal(chances.law, top)
    assignment = assign_geography(np.arange(n), 1, chances, county_shares(), 0)
    # State by state in proportion to its income; within it by population.
    seen = pd.Series(assignment.state_fips[top]).value_counts(normalize=True)
    expected = pd.Series(STATES) / sum(STATES.values())
    z = (seen - expected) / np.sqrt(expected * (1 - expected) / top.sum())
    assert abs(z).max() < 4.5
    texas = pd.Series(assignment.cd_geoid[top & (assignment.state_fips == 48)]).value_counts(normalize=True)
    people = table[table["state"] == "TX"].set_index("cd_geoid")["population"]
    assert abs(texas - people / people.sum()).max() < 0.02
    # The others go where they always went.
    free = assign_geography(np.arange(n), 1, table, county_shares(), 0)
    np.testing.assert_array_equal(assignment.cd_geoid[~top], free.cd_geoid[~top])


def test_the_percentile_of_incomes_is_weighted():
    weight = np.array([80.0, 10, 5, 5])
    chances = Chances.of(4, districts(), agi=[1, 2, 3, 4], area_agi=STATES, household_weight=weight)
    # 80 of 100 lie below the second, 90 below the third.
    assert chances.law.tolist() == [0, 0, 1, 1]
    # Three quarters below the highest are not nine tenths.
    assert not Chances.of(4, districts(), agi=[1, 2, 3, 4], area_agi=STATES).law.any()


@pytest.mark.parametrize(
    ("agi", "top"),
    [
        ([0.0] * 95 + [1.0] * 5, 5),
        ([0.0] * 85 + [1.0] * 15, 0),
        ([0.0] * 90 + [1.0] * 10, 10),
        ([7.0] * 10, 0),
        (list(range(10)), 1),
    ],
)
def test_equal_incomes_are_at_the_top_together_or_not_at_all(agi, top):
    law = Chances.of(len(agi), districts(), agi=agi, area_agi=STATES).law
    assert law.sum() == top
    assert top == 0 or law[-top:].all()


@pytest.mark.parametrize("weight", [[0.0, 0.0], [1.0, -1.0]])
def test_weights_without_a_positive_sum_have_no_top_tenth(weight):
    with pytest.raises(InputError, match=r"household_weight: has no total above 0.*; got 0\.0"):
        Chances.of(2, districts(), agi=[1, 2], area_agi=STATES, household_weight=weight)


@pytest.mark.parametrize("clones", [1, 3, 40, 436])
def test_weights_keep_their_sum_when_incomes_and_states_condition_the_draw(clones):
    table = districts()
    households = 60_000 // clones
    rng = np.random.default_rng(3)
    agi, weight = rng.lognormal(11, 1, households), rng.uniform(500, 3000, households)
    state = np.where(rng.random(households) < 0.3, 48, 0)
    chances = Chances.of(
        households, table, agi=agi, area_agi=STATES, household_weight=weight, pinned_state=state
    )
    assert len(chances.mass) == 4
    assignment = assign_geography(np.arange(households), clones, chances, county_shares(), 0)
    w = initial_weights(assignment, weight, chances).reshape(clones, -1).sum(axis=0)
    for law in range(4):
        of = chances.law == law
        assert abs(w[of].sum() / weight[of].sum() - 1) < 0.06


def test_districts_with_their_own_income_use_it():
    table = districts()
    carolina = table[table["state"] == "NC"]
    own = {int(g): 100.0 + i for i, g in enumerate(carolina["cd_geoid"])}
    chances = Chances.of(10, table, agi=np.arange(10), area_agi=STATES | own)
    mass = pd.Series(chances.mass[1], index=chances.cd_geoid)
    assert mass[list(own)].to_dict() == own
    assert mass[mass.index // 100 == 48].sum() == pytest.approx(STATES[48])
    # One of fourteen is not enough: the state's figure is shared by population.
    chances = Chances.of(10, table, agi=np.arange(10), area_agi=STATES | {3701: 5.0})
    mass = pd.Series(chances.mass[1], index=chances.cd_geoid)
    assert mass[mass.index // 100 == 37].sum() == pytest.approx(STATES[37])


@pytest.mark.parametrize(
    ("agi", "area", "words"),
    [
        ([1.0, 2.0], {37: 1.0}, r"area_agi: \d+ districts have no income, nor has their state; got 101"),
        ([1.0, 2.0], None, "area_agi: conditioning on income needs"),
        ([1.0, np.nan], STATES, "agi: is not one number for each of 2 households"),
        ([1.0], STATES, "agi: is not one number"),
    ],
)
def test_incomes_that_cannot_be_used_are_refused(agi, area, words):
    with pytest.raises(InputError, match=words):
        Chances.of(2, districts(), agi=agi, area_agi=area)


def test_the_documents_call():
    geography = assign_random_geography(200, n_clones=3, seed=42)
    assert len(geography.state_fips) == 600
    assert STATE_CODES.get(geography.state_fips[599]) in STATE_CODES.values()
    cds = np.sort(geography.cd_geoid.reshape(3, 200), axis=0)
    assert (np.diff(cds, axis=0) > 0).all()
    assert not geography.block_geoid.any()
    assert geography.derived is None
    same = assign_random_geography(200, n_clones=3, seed=42, household_id=np.arange(200))
    assert same.digest() == geography.digest()
    assert assign_random_geography(200, 3, 43).digest() != geography.digest()
    assert assign_random_geography(5).n_clones == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_records": 0}, "n_records: is too small"),
        ({"n_records": 2, "n_clones": 0}, "n_clones: is too small"),
        ({"n_records": 2, "household_id": [4, 4]}, "household_id: are not 2 different ids"),
        ({"n_records": 2, "crosswalk_path": "x.csv"}, "needs blocks"),
    ],
)
def test_calls_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        assign_random_geography(**arguments)
