"""Uprating: the rules engine's indices, and no factor for want of one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.targets.uprating import factor, index_of

YEARS = st.integers(2015, 2036)
VARIABLES = st.sampled_from(["snap", "person_count", "tax_unit_count", "rent+snap", "medicaid_enrolled"])


@settings(deadline=None)
@given(VARIABLES, YEARS, YEARS, YEARS)
def test_factors_compose(variable, a, b, c):
    assert factor(variable, a, a) == 1
    np.testing.assert_allclose(factor(variable, a, b) * factor(variable, b, c), factor(variable, a, c))
    np.testing.assert_allclose(factor(variable, a, b) * factor(variable, b, a), 1)


@settings(deadline=None)
@given(st.lists(st.tuples(VARIABLES, YEARS), min_size=1), YEARS)
def test_rows_are_carried_one_by_one(rows, year):
    names, years = (np.array(column) for column in zip(*rows, strict=True))
    expected = [float(factor(name, int(y), year)) for name, y in rows]
    assert factor(names, years, year).tolist() == expected


def test_units_follow_the_population_and_amounts_the_prices():
    indices = catalogue().indices
    people = indices["population"][2024] / indices["population"][2022]
    prices = indices["cpi_u"][2024] / indices["cpi_u"][2022]
    assert 1.0 < people < prices < 1.2
    found = factor(["household_count", "snap", "a+b", "medicaid_enrolled", "snap"], [2022] * 4 + [2024], 2024)
    np.testing.assert_allclose(found, [people, prices, prices, people, 1.0])
    assert index_of("some_users_count") == "population"


@pytest.mark.parametrize(("variable", "year"), [("person_count", 2010), ("snap", 1999), ("snap", 2056)])
def test_a_year_that_an_index_lacks_is_named_and_never_one(variable, year):
    for a, b in ((year, 2024), (2024, year)):
        with pytest.raises(InputError, match=f"has no year {year}"):
            factor(np.array(["snap", variable]), np.array([2024, a]), b)
    assert factor(variable, year, year) == 1


@pytest.mark.slow
def test_the_indices_are_those_of_the_rules_engine():
    from policyengine_us.system import system

    from distcalib.simulation.catalogue import INDEX_YEARS, engine_indices

    bundled = {k: {str(y): v for y, v in index.items()} for k, index in catalogue().indices.items()}
    assert bundled == engine_indices()
    cpi = system.parameters.gov.bls.cpi.cpi_u
    people = system.parameters.calibration.gov.census.populations.total
    for year in INDEX_YEARS:
        assert catalogue().indices["cpi_u"][year] == cpi(year)
        assert catalogue().indices["population"].get(year) == people(year)
