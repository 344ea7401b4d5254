"""Placement of clones: without replacement, by population, each household on its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError
from distcalib.geography import assign_geography, initial_weights
from distcalib.geography.assign import draw_counties, draw_districts, inclusion
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


@pytest.mark.parametrize("clones", [1, 3, 40, 436])
def test_initial_weights_keep_mass_and_population_shares(clones):
    table = districts()
    households = 120_000 // clones
    weight = np.random.default_rng(1).uniform(500, 3000, households)
    assignment = assign_geography(np.arange(households), clones, table, county_shares(), 0)
    w = initial_weights(assignment, weight, table)
    assert abs(w.sum() / weight.sum() - 1) < 0.005
    share = table.set_index("cd_geoid")["population"] / table["population"].sum()
    by_district = pd.Series(w).groupby(assignment.cd_geoid).sum() / weight.sum()
    assert abs(by_district.reindex(share.index) / share - 1).mean() < 0.06


@pytest.mark.parametrize("clones", [1, 2, 5, 11, 12, 30])
def test_expected_inclusion_is_what_the_draw_does(clones):
    shares = np.array([0.2, 0.15, 0.15, 0.1, 0.1, 0.08, 0.06, 0.05, 0.05, 0.03, 0.02, 0.01])
    drawn = draw_districts(np.arange(40_000), clones, shares, 0)
    seen = np.bincount(drawn.ravel(), minlength=len(shares)) / 40_000
    expected = inclusion(shares, clones)
    assert abs(expected.sum() - clones) < 1e-6
    # Exact for one clone and for all; else within a few percent even for twelve very unequal districts.
    error = np.sqrt((1 - shares) / (40_000 * shares)) * 4.5 if clones == 1 else 0.12
    assert (abs(seen / expected - 1) < error).all()


def test_a_part_of_the_nation_keeps_its_part_of_the_weight():
    table = districts()
    part = table[table["state"] == "NC"]
    assignment = assign_geography(np.arange(5000), 2, part, county_shares(), 0)
    w = initial_weights(assignment, np.full(5000, 1000.0), part, float(table["population"].sum()))
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
