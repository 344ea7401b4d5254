"""Blocks from users' files: every layout, what is wrong with a file, and the draw within a district."""

from __future__ import annotations

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest

from distcalib.errors import InputError
from distcalib.geography import assign_geography, assign_random_geography
from distcalib.geography.blocks import read_blocks
from distcalib.geography.draw import draw_blocks
from distcalib.geography.sources import county_shares, districts

SHARES = county_shares()


def blocks_of(table: pd.DataFrame = SHARES, each: int = 3) -> pd.DataFrame:
    """Make `each` blocks in every county of every district, with populations that follow the shares."""
    rows = table.loc[table.index.repeat(each)].reset_index(drop=True)
    k = rows.groupby("county_fips").cumcount()
    ids = rows["county_fips"] * 10**10 + (100 + k // 40) * 10_000 + 1000 + k % 40
    population = (rows["share"] * 760_000 / each).round().astype(int) + 1 + k % 5
    text = ids.astype(str).str.zfill(15)
    return pd.DataFrame({"cd_geoid": rows["cd_geoid"], "block_geoid": text, "population": population})


ALL = blocks_of()


@pytest.fixture(scope="session")
def block_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "block_cd_distributions.csv.gz"
    share = ALL["population"] / ALL.groupby("cd_geoid")["population"].transform("sum")
    ALL.assign(probability=share).to_csv(path, index=False)
    return path


def bef(table: pd.DataFrame = ALL, block: str = "GEOID", district: str = "CDFP") -> str:
    """Write blocks as the Census Bureau does: two digits, at-large 00, DC 98, water ZZ, the territories."""
    state, number = table["cd_geoid"] // 100, table["cd_geoid"] % 100
    alone = state.isin([2, 10, 38, 46, 50, 56])
    words = number.where(~alone, 0).where(state != 11, 98).astype(str).str.zfill(2)
    lines = (table["block_geoid"] + "," + words).tolist()
    more = ["060379900000001,ZZ", "720019601001000,98"]
    return "\n".join([f"{block},{district}", *lines, *more]) + "\n"


def same(found, expected) -> None:
    for name in ("districts", "part", "upper"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_order_of_the_rows_and_the_kind_of_share_do_not_matter(block_file, tmp_path):
    expected, notes = read_blocks(block_file)
    assert notes == []
    assert len(expected.part) == len(ALL)
    shuffled = ALL.sample(frac=1, random_state=1)
    shuffled.to_csv(tmp_path / "own.csv", index=False)
    same(read_blocks(tmp_path / "own.csv")[0], expected)
    # Normalised over the nation, or over each district: the same within a district.
    whole = ALL.drop(columns="population").assign(probability=ALL["population"] / ALL["population"].sum())
    whole.to_csv(tmp_path / "nation.csv", index=False)
    found = read_blocks(tmp_path / "nation.csv")[0]
    np.testing.assert_array_equal(found.part, expected.part)
    np.testing.assert_allclose(found.upper, expected.upper, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spelling", ["0601", "CA-01", "5001900US0601"])
def test_districts_in_any_spelling(spelling, tmp_path):
    table = ALL.assign(cd_geoid=ALL["cd_geoid"].map(lambda g: f"{g:04d}"))
    if spelling != "0601":
        names = districts().set_index("cd_geoid")["name" if spelling == "CA-01" else "ucgid"]
        table["cd_geoid"] = ALL["cd_geoid"].map(names)
    else:
        table["cd_geoid"] = table["cd_geoid"].replace({"0201": "0200", "1101": "1198", "5601": "5600"})
    table.to_csv(tmp_path / "own.csv", index=False)
    assert set(read_blocks(tmp_path / "own.csv")[0].districts) == set(districts()["cd_geoid"])


def test_equivalency_files_with_population_from_a_second_file(block_file, tmp_path):
    expected, _ = read_blocks(block_file)
    (tmp_path / "NationalCD119.txt").write_text(bef())
    with zipfile.ZipFile(tmp_path / "cd119.zip", "w") as archive:
        archive.writestr("NationalCD119.txt", bef(block="BLOCKID"))
    people = ALL.rename(columns={"block_geoid": "GEOID20", "population": "POP20"})[["GEOID20", "POP20"]]
    people.to_csv(tmp_path / "people.csv", index=False)
    for name in ("NationalCD119.txt", "cd119.zip"):
        found, notes = read_blocks(tmp_path / name, tmp_path / "people.csv")
        same(found, expected)
        assert notes == []
    found, notes = read_blocks(tmp_path / "NationalCD119.txt")
    assert len(notes) == 1
    assert "no population: the blocks of a district are equally likely" in notes[0]
    step = np.diff(found.upper)[np.floor(found.upper[1:] - 1e-9) == np.floor(found.upper[:-1] - 1e-9)]
    assert step.max() / step.min() < 400  # equal within each district, whose numbers of blocks differ
    first = found.upper[: (ALL["cd_geoid"] == 101).sum()]
    np.testing.assert_allclose(np.diff(first), first[0])
    people.iloc[10:].to_csv(tmp_path / "fewer.csv", index=False)
    found, notes = read_blocks(tmp_path / "cd119.zip", tmp_path / "fewer.csv")
    assert len(found.part) == len(ALL) - 10
    assert "10 of" in notes[0]


@pytest.mark.parametrize(("first", "second"), [("02_AK", "56_WY"), ("56_WY", "02_AK")])
def test_population_in_some_of_several_files_is_refused(first, second, tmp_path):
    for state, more in ((first, ",population"), (second, "")):
        fips = int(state[:2])
        rows = ALL[ALL["cd_geoid"] // 100 == fips]
        lines = [
            f"{b},01" + (f",{n}" if more else "")
            for b, n in zip(rows.iloc[:, 1], rows.iloc[:, 2], strict=True)
        ]
        (tmp_path / f"BlockAssign_ST{state}_CD.txt").write_text("\n".join([f"BLOCKID,CDFP{more}", *lines]))
    words = rf"ST{second}_CD\.txt: lacks a column that another file has.*one of population.*ST{first}_CD\.txt"
    with pytest.raises(InputError, match=words):
        read_blocks(tmp_path)
    # Residents from a file of their own stand for both.
    ALL[["block_geoid", "population"]].to_csv(tmp_path / "people.csv", index=False)
    assert read_blocks(tmp_path, tmp_path / "people.csv")[0].districts.tolist() == [201, 5601]


def test_block_assignment_files_of_states_alone_zipped_or_in_a_folder(tmp_path):
    folder = tmp_path / "baf"
    folder.mkdir()
    for state, code, zipped in ((50, "VT", True), (33, "NH", False)):
        part = ALL[ALL["cd_geoid"] // 100 == state]
        text = bef(part, "BLOCKID", "DISTRICT").replace(",", "|").split("\n060379")[0] + "\n"
        name = f"BlockAssign_ST{state}_{code}"
        if zipped:
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                archive.writestr(f"{name}_CD.txt", text)
                archive.writestr(f"{name}_SLDU.txt", "BLOCKID|DISTRICT\n500010001001000|ADD\n")
        else:
            (folder / f"{name}_CD.txt").write_text(text)
    found, notes = read_blocks(folder)
    assert found.districts.tolist() == [3301, 3302, 5001]
    assert any("does not say of which Congress" in note for note in notes)
    alone, _ = read_blocks(folder / "BlockAssign_ST50_VT.zip")
    assert alone.districts.tolist() == [5001]
    assert (alone.part // 10**13 == 50).all()


GOOD = "cd_geoid,block_geoid,population\n601,060010001001000,5\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "cd,block_geoid\n1,2\n",
            r"own\.csv: lacks a column; got 'cd block_geoid'; expected one of cd_geoid",
        ),
        ("cd_geoid,block\n601,060010001001000\n", r"lacks a column.*one of block_geoid"),
        (GOOD + "601,06001X001001000,5\n", r"own\.csv: block_geoid: is not a number; got '06001X001001000'"),
        (
            GOOD + "601,6001,5\n",
            r"own\.csv: block_geoid: is not a census block; got 6001; expected 15 digits",
        ),
        (GOOD + "601,,5\n", r"own\.csv: block_geoid: is not a census block"),
        (GOOD + "699,060010001001001,5\n", r"own\.csv: cd_geoid: no such district.*'699'"),
        (GOOD + ",060010001001001,5\n", r"own\.csv: cd_geoid: not a congressional district; got ''"),
        (GOOD + "3701,060010001001001,5\n", r"own\.csv: cd_geoid: has a block of state 06 in a district of"),
        (GOOD + "5001800US0601,060010001001001,5\n", "another state or Congress; got '5001800US0601'"),
        (GOOD + "601,060010001001001,-1\n", r"own\.csv: population: is not a share; got -1"),
        (GOOD + "601,060010001001001,\n", r"own\.csv: population: is not a share; got nan"),
        (GOOD + "601,060010001001001,many\n", r"own\.csv: population: is not a number; got 'many'"),
        (GOOD + "602,060010001001000,5\n", r"own\.csv: has 1 blocks twice; got '060010001001000'"),
        (GOOD.replace(",5", ",0"), "has no block with population"),
        (GOOD + "601,060010001001001\n", r"own\.csv: cannot be read \(.*Expected 3 columns, got 2"),
        ("", "lacks a column"),
        (GOOD.splitlines()[0] + "\n", r"own\.csv: has no rows"),
        ("GEOID,CDFP\n060379900000001,ZZ\n", "has no block with population"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, words, tmp_path):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_blocks(tmp_path / "own.csv")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "blocks.csv").write_text(GOOD)
    with pytest.raises(InputError, match=r"block\.csv: no such file.*blocks\.csv"):
        read_blocks(tmp_path / "block.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(GOOD.encode() * 50)[:-20])
    with pytest.raises(InputError, match=r"cut\.csv\.gz: cannot be read"):
        read_blocks(tmp_path / "cut.csv.gz")
    (tmp_path / "plain.csv.gz").write_text(GOOD)
    with pytest.raises(InputError, match=r"plain\.csv\.gz: cannot be read"):
        read_blocks(tmp_path / "plain.csv.gz")
    (tmp_path / "plain.zip").write_text(GOOD)
    with pytest.raises(InputError, match=r"plain\.zip: cannot be read"):
        read_blocks(tmp_path / "plain.zip")
    (tmp_path / "NationalCD118.txt").write_text(bef())
    with pytest.raises(InputError, match="another Congress than the 119th"):
        read_blocks(tmp_path / "NationalCD118.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no file of blocks and districts"):
        read_blocks(tmp_path / "empty")
    (tmp_path / "people.csv").write_text("GEOID,POP\n480010001001000,4\n")
    with pytest.raises(InputError, match=r"people\.csv: has none of the blocks"):
        read_blocks(tmp_path / "blocks.csv", tmp_path / "people.csv")


def test_blocks_lie_in_their_districts_and_follow_the_population(block_file):
    blocks, _ = read_blocks(block_file)
    district = ALL.set_index(ALL["block_geoid"].astype(np.int64))["cd_geoid"]
    cds = np.repeat(districts()["cd_geoid"].to_numpy(), 400)
    ids = np.tile(np.arange(400), 436)
    drawn = draw_blocks(ids, cds, blocks, 0)
    np.testing.assert_array_equal(district[drawn], cds)
    people = ALL.set_index(ALL["block_geoid"].astype(np.int64))["population"]
    share = people / people.groupby(district).transform("sum")
    seen = pd.Series(1 / 400, index=drawn).groupby(level=0).sum().reindex(share.index, fill_value=0)
    z = (seen - share) / np.sqrt(share * (1 - share) / 400 + 1e-12)
    assert abs(z[share * 400 > 5]).max() < 5
    np.testing.assert_array_equal(drawn[::7], draw_blocks(ids[::7], cds[::7], blocks, 0))


def test_the_county_is_the_blocks_and_a_district_that_comes_again_has_another_block(block_file):
    blocks, _ = read_blocks(block_file)
    table = districts()
    part = table[table["state"].isin(["NH", "VT"])]
    found = assign_geography(np.arange(300), 6, part, SHARES, 0, blocks=blocks)
    bare = assign_geography(np.arange(300), 6, part, SHARES, 0)
    np.testing.assert_array_equal(found.cd_geoid, bare.cd_geoid)
    np.testing.assert_array_equal(found.county_fips, found.block_geoid // 10**10)
    np.testing.assert_array_equal(found.state_fips, found.block_geoid // 10**13)
    again = found.block_geoid.reshape(6, 300)
    rounds = np.sort(found.cd_geoid.reshape(6, 300)[:3], axis=0)
    assert (np.diff(rounds, axis=0) > 0).all()
    first, second = (pd.Series(again[r : r + 3].ravel()).groupby(found.cd_geoid[:900]) for r in (0, 3))
    assert first.ngroups == second.ngroups == 3
    assert (again[:3] != again[3:]).mean() > 0.5


def test_a_district_without_blocks_is_an_error(tmp_path):
    ALL[ALL["cd_geoid"] != 3702].to_csv(tmp_path / "own.csv", index=False)
    blocks, _ = read_blocks(tmp_path / "own.csv")
    with pytest.raises(InputError, match="1 districts have no blocks in the table of blocks; got 3702"):
        assign_geography(np.arange(2000), 3, districts(), SHARES, 0, blocks=blocks)


def test_counties_that_the_rules_engine_does_not_map_are_an_error(tmp_path):
    # Connecticut's planning regions took the place of its counties in files of 2022 and later.
    ids = ALL["block_geoid"].str.replace(r"^09001", "09190", regex=True)
    ALL.assign(block_geoid=ids).to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(InputError, match=r"own\.csv: 1 unknown county FIPS codes; got '09190'"):
        assign_random_geography(2000, 3, block_path=tmp_path / "own.csv")
