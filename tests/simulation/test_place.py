"""A placed household carries the codes of its block, the same in a task and in a file, never a donor's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib.geography import GeographyAssignment
from distcalib.simulation.engine import open_published, simulate
from distcalib.simulation.place import GEOGRAPHY, place, place_once

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


def of_one_county(small, n_clones: int) -> GeographyAssignment:
    n = small.count() * n_clones
    county = np.where(np.arange(n) % 7 == 0, 56021, 56025).astype(np.int32)
    return GeographyAssignment(
        block_geoid=np.zeros(n, np.int64),
        cd_geoid=np.full(n, 5601, np.int32),
        county_fips=county,
        state_fips=np.full(n, 56, np.int32),
        n_records=small.count(),
        n_clones=n_clones,
    )


@pytest.mark.parametrize("take_up", [True, False])
def test_households_that_are_equal_in_every_input_are_placed_once(small, take_up):
    assignment = of_one_county(small, 40)
    columns = np.random.default_rng(5).permutation(assignment.n_columns)[:6_000]
    every = place(small, assignment, columns, seed=8, take_up=take_up)
    once, which = place_once(small, assignment, columns, seed=8, take_up=take_up)
    # The household of a column has what the column has, to the last flag of the last person.
    expanded = once.take(which)
    for entity, table in every.values.items():
        assert expanded.count(entity) == every.count(entity)
        assert set(expanded.values[entity]) == set(table)
        for name, values in table.items():
            np.testing.assert_array_equal(expanded.values[entity][name], values, err_msg=name)
    # No two that are left are the same: signed by everything but the ids.
    names = [(n, e) for n, e in once.variables().items() if n.startswith(("takes_up", "would_file"))]
    signs = {
        (
            column % small.count(),
            once.column("county_fips")[i],
            *(once.column(n)[once.rows_of(e, [i])[0]].tobytes() for n, e in names if take_up),
        )
        for i, column in enumerate(once.ids["household"])
    }
    assert len(signs) == once.count() == len(set(which)) < len(columns)
    # Flags of every member make nearly every clone another household; without draws the county alone does.
    assert take_up or once.count() <= 2 * small.count()


def test_where_no_donor_is_twice_in_a_place_every_column_is_placed(small):
    assignment = of_one_county(small, 1)
    columns = np.arange(50, 90)
    once, which = place_once(small, assignment, columns, seed=8)
    assert which.tolist() == list(range(40))
    assert once.digest() == place(small, assignment, columns, seed=8).digest()


def test_cells_are_the_same_whether_equal_households_are_simulated_once_or_each(small):
    from distcalib.matrix.cells import household_values
    from distcalib.matrix.measures import Rows, evaluate

    rows = Rows.of(
        pd.DataFrame(
            {
                "variable": ["snap", "aca_ptc", "person_count", "income_tax"],
                "reform_id": 0,
                "constraints": ["", "", "age>=65", ""],
                "geo_level": "state",
                "geographic_id": "56",
            }
        )
    )
    assignment = of_one_county(small, 8)
    columns = np.arange(200, 1_400)
    found = household_values(small, assignment, columns, rows, seed=8, take_up=True)
    every = place(small, assignment, columns, seed=8)
    with simulate(every) as simulation:
        wanted = evaluate([rows.measures[m] for m in rows.within(56)], every, simulation.calculate)
    np.testing.assert_array_equal(found, wanted)
    assert (found != 0).any(axis=0).all()
