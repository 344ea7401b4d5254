"""What a crosswalk adds to the blocks in use, and the table and file that carry it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from example_places import BLOCKS, CROSSWALK, placed

from distcalib.errors import InputError
from distcalib.geography import GeographyAssignment, assign_geography, assign_random_geography
from distcalib.geography.crosswalk import derive
from distcalib.geography.sources import county_shares, districts


@pytest.fixture
def crosswalk(tmp_path):
    path = tmp_path / "block_crosswalk.csv"
    path.write_text(CROSSWALK)
    return path


def words(assignment: GeographyAssignment, name: str) -> list[str]:
    return [str(word) for word in assignment.fields()[name]]


def test_codes_of_the_blocks_in_use_are_joined_as_text(crosswalk):
    found, notes = derive(placed(), crosswalk)
    assert notes == []
    assert words(found, "place_fips") == ["", "44000", "51000", "44000"]
    assert words(found, "vtd") == ["00A-1", "VTD", "", "VTD"]
    assert words(found, "puma") == ["02100", "03701", "04103", "03701"]
    assert words(found, "sldl") == ["088", "046", "065", "046"]
    assert list(found.derived) == ["place_fips", "puma", "zcta", "sldu", "sldl", "vtd"]
    assert found.derived.index.tolist() == sorted(set(BLOCKS.tolist()))
    assert found.digest() != placed().digest()
    assert [str(v) for v in found.fields([2])["zcta"]] == ["10004"]


def test_a_large_crosswalk_is_joined_as_pandas_would(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(1001, 56045, 60_000) * 10**10 + rng.integers(0, 10**9, 60_000))
    table = pd.DataFrame({"block_geoid": ids, "puma": rng.integers(100, 9999, len(ids))})
    text = table.astype(str)
    text["block_geoid"] = text["block_geoid"].str.zfill(15)
    text["puma"] = text["puma"].str.zfill(5)
    text.sample(frac=1, random_state=0).to_csv(tmp_path / "x.csv.gz", index=False)
    blocks = rng.choice(ids, 40_000)
    many = GeographyAssignment(blocks, *(blocks // 10**k for k in (11, 10, 13)), n_records=4000, n_clones=10)
    found, _ = derive(many, tmp_path / "x.csv.gz")
    expected = text.set_index(text["block_geoid"].astype(np.int64))["puma"].reindex(blocks)
    assert words(found, "puma") == expected.tolist()


def test_codes_of_other_places_are_never_taken(crosswalk):
    found, _ = derive(placed(), crosswalk)
    with pytest.raises(ValueError, match="derived lacks a place in use"):
        placed(BLOCKS + 1).with_derived(found.derived.index, dict(found.derived)).fields()


def test_columns_that_the_file_lacks_are_left_out(crosswalk, tmp_path):
    pd.read_csv(crosswalk, dtype=str)[["block_geoid", "zcta"]].to_csv(tmp_path / "own.csv", index=False)
    found, notes = derive(placed(), tmp_path / "own.csv")
    assert list(found.derived) == ["zcta"]
    assert len(notes) == 1
    assert "blocks without place_fips" in notes[0]


def test_blocks_that_the_crosswalk_lacks_are_counted(crosswalk):
    lines = CROSSWALK.splitlines(keepends=True)
    crosswalk.write_text("".join([*lines[:2], *lines[3:]]))
    found, notes = derive(placed(), crosswalk)
    assert words(found, "puma") == ["", "03701", "04103", "03701"]
    assert len(notes) == 1
    assert "lacks 1 of the 3 blocks in use" in notes[0]
    crosswalk.write_text("".join([lines[0], lines[3]]))
    with pytest.raises(InputError, match=r"block_crosswalk\.csv: has none of the blocks in use"):
        derive(placed(), crosswalk)


def test_metropolitan_areas_by_county_need_no_blocks(tmp_path):
    (tmp_path / "cbsa.csv").write_text(
        'cbsacode,cbsatitle,fipsstatecode,fipscountycode\n33860,"Montgomery, AL",01,001\n31080,LA,06,037\n'
    )
    found, _ = derive(placed(), cbsa=tmp_path / "cbsa.csv")
    assert words(found, "cbsa_code") == ["33860", "31080", "", "31080"]
    bare, notes = derive(placed(BLOCKS * 0, BLOCKS // 10**10), cbsa=tmp_path / "cbsa.csv")
    assert words(bare, "cbsa_code") == ["33860", "31080", "", "31080"]
    assert notes == []
    assert bare.derived.index.tolist() == [1001 * 10**10, 6037 * 10**10, 36061 * 10**10]
    (tmp_path / "own.csv").write_text("county_fips,cbsa_code\n01001,33860\n01001,33861\n")
    with pytest.raises(InputError, match=r"own\.csv: has a county twice; got '01001'"):
        derive(placed(), cbsa=tmp_path / "own.csv")
    (tmp_path / "own.csv").write_text("county_fips,cbsa_code\n48001,33860\n")
    with pytest.raises(InputError, match=r"own\.csv: has none of the counties in use"):
        derive(placed(), cbsa=tmp_path / "own.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block_geoid,county\n010010201001000,1\n", "lacks a column.*one of place_fips"),
        ("block,zcta\n010010201001000,1\n", "lacks a column; expected one of block_geoid"),
        (CROSSWALK + "010010201001000,1,1,1,1,1,1\n", "has a block twice; got '010010201001000'"),
        (CROSSWALK.replace("36067", "36067.0"), "zcta: is not a code; got '36067.0'"),
        ("block_geoid,zcta\n", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_crosswalk_is_said(text, message, crosswalk):
    crosswalk.write_text(text)
    with pytest.raises(InputError, match=rf"block_crosswalk\.csv.*{message}"):
        derive(placed(), crosswalk)


def test_a_crosswalk_without_blocks_is_refused(crosswalk):
    with pytest.raises(InputError, match="needs blocks"):
        derive(placed(BLOCKS * 0, BLOCKS // 10**10), crosswalk)


def test_the_documents_call_with_files(tmp_path):
    shares = county_shares()
    ids = (shares["county_fips"] * 10**10 + 1_001_000 + shares.groupby("county_fips").cumcount()).astype(str)
    table = shares.assign(block_geoid=ids.str.zfill(15), population=shares["share"] * 1000 + 1)
    table.to_csv(tmp_path / "blocks.csv.gz", index=False)
    table[["block_geoid"]].assign(puma="00100").iloc[5:].to_csv(tmp_path / "x.csv", index=False)
    with (
        pytest.warns(UserWarning, match=r"without place_fips"),
        pytest.warns(UserWarning, match=r"lacks 1 of the \d+ blocks in use"),
    ):
        found = assign_random_geography(
            300, 3, block_path=tmp_path / "blocks.csv.gz", crosswalk_path=tmp_path / "x.csv"
        )
    assert set(words(found, "puma")) <= {"00100", ""}
    np.testing.assert_array_equal(found.county_fips, found.block_geoid // 10**10)
    np.testing.assert_array_equal(found.cd_geoid, assign_random_geography(300, 3).cd_geoid)


def test_the_table_of_columns_gives_the_assignment_back(crosswalk, tmp_path):
    for assignment in (
        derive(placed(), crosswalk)[0],
        placed(),
        assign_geography(np.arange(90), 3, districts(), county_shares(), 0),
    ):
        frame = assignment.frame(np.arange(assignment.n_records))
        frame.assign(initial_weight=1.0).to_parquet(tmp_path / "columns.parquet")
        back = GeographyAssignment.from_frame(pd.read_parquet(tmp_path / "columns.parquet"))
        assert back.digest() == assignment.digest()
        assert (back.derived is None) == (assignment.derived is None)
        shuffled = frame.sample(frac=1, random_state=3)
        assert GeographyAssignment.from_frame(shuffled).digest() == assignment.digest()
    assert list(frame)[:8] == [
        "column", "clone", "record", "household_id", "state_fips", "cd_geoid", "county_fips", "block_geoid",
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 3, 3]])
def test_a_table_that_does_not_name_every_column_once_is_refused(rows):
    frame = placed().frame(np.arange(2))
    with pytest.raises(InputError, match=r"columns: clone and record: do not name every column once"):
        GeographyAssignment.from_frame(frame.iloc[rows])


def test_the_digest_does_not_depend_on_how_codes_are_held(crosswalk):
    found, _ = derive(placed(), crosswalk)
    other = found.derived.assign(puma=found.derived["puma"].cat.add_categories(["a longer code"]))
    turned = other.assign(zcta=other["zcta"].cat.reorder_categories(list(other["zcta"].cat.categories)[::-1]))
    again = GeographyAssignment(
        found.block_geoid, found.cd_geoid, found.county_fips, found.state_fips, 2, 2, turned
    )
    assert again.digest() == found.digest()
