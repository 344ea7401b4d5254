"""The filter language, and which columns it means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distcalib.areas.area import PRESETS, Area, kept
from distcalib.areas.filters import inside, read_filter
from distcalib.errors import InputError
from distcalib.microdata import Microdata
from distcalib.runs.verify import holds_in


@pytest.fixture(scope="module")
def nation(files) -> Microdata:
    return Microdata.read(files[0] / "areas/national/US.h5")


def held(text: str, assignment) -> np.ndarray:
    return inside(read_filter(text, assignment, "here"), assignment, np.arange(assignment.n_columns))


MEANINGS = [
    ("state == CA", lambda a, f: a.state_fips == 6),
    ("state_fips != 06", lambda a, f: a.state_fips != 6),
    ("state in CA, ny", lambda a, f: np.isin(a.state_fips, [6, 36])),
    ("state_fips in [6, 36]", lambda a, f: np.isin(a.state_fips, [6, 36])),
    ("district == CA-06", lambda a, f: a.cd_geoid == 606),
    ("cd_geoid in 5001900US0606 '0607' AK-00", lambda a, f: np.isin(a.cd_geoid, [606, 607, 201])),
    ("cd_geoid < 606", lambda a, f: a.cd_geoid < 606),
    ("district not in CA-06 CA-07", lambda a, f: ~np.isin(a.cd_geoid, [606, 607])),
    ("county_fips == 06037", lambda a, f: a.county_fips == 6037),
    ("county_fips>=6037 AND county_fips<=6059", lambda a, f: abs(a.county_fips - 6048) <= 11),
    ("place_fips == 51000", lambda a, f: f("place_fips") == "51000"),
    ("place_fips != 51000", lambda a, f: f("place_fips") != "51000"),
    ("place_fips not in 51000 and state == NJ", lambda a, f: a.state_fips == 34),
    ("vtd in 1 9 and state == NY", lambda a, f: np.isin(f("vtd"), ["1", "9"]) & (a.state_fips == 36)),
    ("vtd < 2", lambda a, f: f("vtd") < "2"),
    (PRESETS["NYC"], lambda a, f: np.isin(a.county_fips, [36005, 36047, 36061, 36081, 36085])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MEANINGS)
def test_a_filter_means_what_it_says(assignment, text, expected):
    def field(name: str) -> np.ndarray:
        return np.asarray(assignment.fields()[name]).astype(str)

    here = held(text, assignment)
    np.testing.assert_array_equal(here, expected(assignment, field))
    assert 0 < here.sum() < len(here)


@pytest.mark.parametrize("text", [text for text, _ in MEANINGS])
def test_a_file_says_of_its_households_what_the_placement_does(files, assignment, weights, nation, text):
    """The proof asks the file itself who is in an area; the writer asked the placement."""
    conditions = read_filter(text, assignment, "here")
    columns = kept(Area("national", "US"), assignment, weights)
    np.testing.assert_array_equal(holds_in(conditions, nation), inside(conditions, assignment, columns))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("county = 36061", ["here: is no condition", "'county = 36061'", "county_fips in 36005"]),
        ("", ["is no condition"]),
        ("state == CA and", ["has 2 values for state ==", "'state == CA and'"]),
        ("countyfips == 36061", ["is no field", "'countyfips'", "did you mean 'county_fips'"]),
        ("state == CL", ["here: state: ", "'CL'", "did you mean"]),
        ("state < CA", ["has no order", "state_fips"]),
        ("state_fips == 3", ["is a state where no household is placed", "'3'"]),
        ("state_fips == x", ["is not a number", "'x'"]),
        ("state_fips == 1 2", ["has 2 values", "one; several with in"]),
        ("state_fips in", ["has 0 values", "at least one"]),
        ("county_fips in 36061 36063 36062", ["here: county_fips: is no county", "'36062'", "'36065'"]),
        ("district == CA-53", ["here: district: ", "no such district", "'CA-53'", "CA-52"]),
        ("district == XX-01", ["unknown state"]),
        ("place_fips == 5100", ["here: place_fips", "'5100'", "did you mean '51000'"]),
        ("sldu == 026", ["is a field that this placement lacks", "'sldu'", "geography.crosswalk"]),
    ],
)
def test_what_cannot_be_read_is_named_with_the_nearest(assignment, text, words):
    with pytest.raises(InputError) as error:
        read_filter(text, assignment, "here")
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_placement_without_counties_or_codes_has_no_such_fields(assignment):
    bare = replace(assignment, derived=None, county_fips=np.zeros_like(assignment.county_fips))
    for text in ("county_fips == 36061", "place_fips == 51000"):
        with pytest.raises(InputError, match="is a field that this placement lacks"):
            read_filter(text, bare, "here")


def test_columns_are_kept_in_the_order_of_files(assignment, weights):
    columns = kept(Area("national", "US"), assignment, weights)
    np.testing.assert_array_equal(np.sort(columns), np.flatnonzero(weights))
    keys = np.stack([assignment.state_fips[columns], assignment.cd_geoid[columns], columns], axis=1)
    np.testing.assert_array_equal(keys, keys[np.lexsort(keys.T[::-1])])
    york = kept(Area("states", "NY", 36), assignment, weights)
    np.testing.assert_array_equal(york, columns[assignment.state_fips[columns] == 36])
