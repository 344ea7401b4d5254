"""The bundled districts and county shares."""

import os
from importlib import resources

import numpy as np
import pytest

from distcalib.errors import InputError
from distcalib.geography import sources
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES

RAW = os.environ.get("DISTCALIB_RAW")
AT_LARGE = {201, 1001, 1101, 3801, 4601, 5001, 5601}


def test_there_are_436_districts_in_51_states():
    table = sources.districts()
    assert len(table) == table["cd_geoid"].nunique() == 436
    assert table["cd_geoid"].is_monotonic_increasing
    assert (table["cd_geoid"] // 100 == table["state_fips"]).all()
    assert dict(zip(table["state_fips"], table["state"], strict=True)) == STATE_CODES
    sizes = table.groupby("state_fips").size()
    assert set(table.loc[table["state_fips"].map(sizes) == 1, "cd_geoid"]) == AT_LARGE
    assert (sizes[6], sizes[48], sizes[36], sizes[12]) == (52, 38, 26, 28)


def test_numbers_run_from_one_without_gaps():
    table = sources.districts()
    number = table["cd_geoid"] % 100
    assert (number == table.groupby("state_fips").cumcount() + 1).all()


def test_names_and_census_ids_are_read_as_the_same_district():
    table = sources.districts()
    assert [District.parse(t).geoid for t in table["ucgid"]] == list(table["cd_geoid"])
    assert [District.parse(t).geoid for t in table["name"]] == list(table["cd_geoid"])
    assert table.set_index("cd_geoid")["name"][[201, 601, 1101]].tolist() == ["AK-01", "CA-01", "DC-01"]


def test_populations_add_up_to_the_nation_of_2024():
    population = sources.districts()["population"]
    assert population.sum() == 340_110_990
    assert population.between(500_000, 1_300_000).all()


def test_county_shares_of_a_district_sum_to_one():
    table = sources.county_shares()
    assert (table.groupby("cd_geoid")["share"].sum() - 1).abs().max() < 1e-9
    assert (table["share"] > 0).all()
    assert not table.duplicated(["cd_geoid", "county_fips"]).any()
    assert set(table["cd_geoid"]) == set(sources.districts()["cd_geoid"])


def test_counties_lie_in_the_state_of_their_district_and_the_rules_engine_maps_them():
    table = sources.county_shares()
    assert (table["county_fips"] // 1000 == table["cd_geoid"] // 100).all()
    known = sources.county_fips_of_rules_engine()["county_fips"]
    assert set(table["county_fips"]) == set(known)
    assert table["county_fips"].nunique() == 3143
    assert set(table.loc[table["county_fips"] // 1000 == 9, "county_fips"]) == set(range(9001, 9016, 2))


def test_counties_that_the_source_lost_are_back():
    table = sources.county_shares().set_index(["cd_geoid", "county_fips"])["share"]
    assert table[2404, 24033] == pytest.approx(0.954, abs=0.01)  # Prince George's, MD
    # Whole counties of the 2020 census in districts of the state's mean population.
    assert table[3502, 35013] == pytest.approx(219_561 / 705_841, rel=1e-4)
    assert table[1301, 13029] == pytest.approx(44_738 / 765_136, rel=1e-4)


def test_district_lines_are_those_of_2020_census_populations():
    # In a state without a split county the shares alone give the districts' relative populations: Iowa's law
    # keeps counties whole, and its districts differ by fewer than 100 persons.
    table = sources.county_shares()
    iowa = table[table["cd_geoid"] // 100 == 19]
    assert len(iowa) == iowa["county_fips"].nunique() == 99
    share = table.set_index(["cd_geoid", "county_fips"])["share"]
    polk, linn = 492_401, 230_299  # 2020 census
    assert polk / share[1903, 19153] == pytest.approx(797_551, abs=5)
    assert linn / share[1902, 19113] == pytest.approx(797_589, abs=5)


def test_a_missing_raw_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such raw file"):
        sources.write_bundled(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_types_are_the_stated_ones():
    assert sources.districts()[["cd_geoid", "state_fips", "population"]].dtypes.eq(np.int64).all()
    shares = sources.county_shares().dtypes
    assert (shares["cd_geoid"], shares["county_fips"], shares["share"]) == (np.int64, np.int64, np.float64)


@pytest.mark.skipif(RAW is None, reason="needs the raw public files: set DISTCALIB_RAW to their folder")
def test_the_raw_files_give_the_bundled_tables_byte_for_byte(tmp_path):
    sources.write_bundled(RAW, tmp_path)
    folder = resources.files("distcalib.geography").joinpath("bundled")
    for name in ("districts_119.csv", "county_shares.csv"):
        assert (tmp_path / name).read_bytes() == folder.joinpath(name).read_bytes()
