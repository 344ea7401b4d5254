"""A placed household carries the codes of its block, the same in a task and in a file, never a donor's."""

from __future__ import annotations

import numpy as np
import pytest

from distcalib.geography import GeographyAssignment
from distcalib.simulation.engine import open_published, simulate
from distcalib.simulation.place import GEOGRAPHY, place

# Two blocks of Minneapolis and one outside every place: Minnesota's local sales tax rates are official.
BLOCKS = np.array([270531044001000, 270530027001003, 270530269061000])
CODES = {"place_fips": ["43000", "43000", ""], "zcta": ["55401", "55407", ""], "vtd": ["", "", ""]}


def minnesota(small, blocks=BLOCKS, codes=CODES) -> GeographyAssignment:
    n = small.count()
    block = np.resize(np.asarray(blocks), n)
    bare = GeographyAssignment(
        block_geoid=block,
        cd_geoid=np.full(n, 2705, np.int32),
        county_fips=np.full(n, 27053, np.int32),
        state_fips=np.full(n, 27, np.int32),
        n_records=n,
        n_clones=1,
    )
    if codes is None:
        return bare
    order = np.argsort(blocks)
    return bare.with_derived(blocks[order], {k: np.array(v)[order] for k, v in codes.items()})


def test_codes_of_the_block_are_set_as_text_where_known(small):
    columns = np.array([5, 0, 3, 1])
    placed = place(small, minnesota(small), columns)
    assert placed.column("block_geoid").tolist() == [str(b).encode() for b in BLOCKS[columns % 3]]
    assert placed.column("tract_geoid").tolist() == [str(b // 10**4).encode() for b in BLOCKS[columns % 3]]
    assert placed.column("place_fips").tolist() == [b"", b"43000", b"43000", b"43000"]
    assert placed.column("zcta").tolist() == [b"", b"55401", b"55401", b"55407"]
    held = placed.variables()
    assert held["place_fips"] == held["tract_geoid"] == "household"
    # Nobody has a voting district, and the crosswalk has no PUMA: nothing is invented.
    assert not {"vtd", "puma", "sldu", "sldl", "cbsa_code"} & set(held)


def test_without_a_block_nothing_below_the_county_is_set(small):
    placed = place(small, minnesota(small, BLOCKS * 0, None), np.arange(9))
    held = set(placed.variables())
    assert placed.column("county_fips").tolist() == [b"27053"] * 9
    assert held & set(GEOGRAPHY) == {"state_fips", "congressional_district_geoid", "county_fips"}


def test_codes_that_the_donors_held_are_lost(small):
    moved = small.with_columns(
        {name: np.full(small.count(), "99999") for name in ("place_fips", "puma", "tract_geoid", "cbsa_code")}
    )
    placed = place(moved, minnesota(small, codes={"place_fips": ["43000", "43000", ""]}), np.arange(6))
    held = set(placed.variables())
    assert not {"puma", "cbsa_code"} & held
    assert set(placed.column("place_fips").tolist()) == {b"43000", b""}
    assert b"99999" not in placed.column("tract_geoid").tolist()


@pytest.mark.parametrize("with_codes", [True, False])
def test_a_task_and_a_file_see_the_same_place(small, with_codes, tmp_path):
    assignment = minnesota(small, codes=CODES if with_codes else None)
    placed = place(small, assignment, np.arange(0, 60), seed=1)
    wanted = ("combined_sales_tax_rate", "county", "state_income_tax", "place_fips", "tract_geoid")
    with simulate(placed) as simulation:
        values = {v: simulation.calculate(v) for v in wanted}
    placed.write(tmp_path / "MN-05.h5")
    (found,) = [{v: f.calculate(v) for v in wanted} for f in open_published(tmp_path / "MN-05.h5", 2024)]
    for name in wanted:
        np.testing.assert_array_equal(found[name], values[name], err_msg=name)
    assert set(values["county"]) == {"HENNEPIN_COUNTY_MN"}
    city = BLOCKS[np.arange(60) % 3] != BLOCKS[2]
    rate = values["combined_sales_tax_rate"]
    # Minneapolis has a rate of its own; without place codes the engine takes everyone to live outside it.
    assert len(set(rate[city])) == len(set(rate[~city])) == 1
    assert (rate[city][0] > rate[~city][0]) == with_codes
