"""``geography_assignment.npz``: written and read exactly, whoever wrote it, and nothing unpickled."""

from __future__ import annotations

import numpy as np
import pytest
from example_places import CROSSWALK, placed

from distcalib.errors import InputError
from distcalib.geography import GeographyAssignment, assign_random_geography
from distcalib.geography.crosswalk import derive


def test_what_is_saved_is_read_back_exactly(tmp_path):
    (tmp_path / "x.csv").write_text(CROSSWALK)
    for assignment in (placed(), derive(placed(), tmp_path / "x.csv")[0], assign_random_geography(50, 4)):
        assignment.save(tmp_path / "geography_assignment.npz")
        first = (tmp_path / "geography_assignment.npz").read_bytes()
        back = GeographyAssignment.load(tmp_path / "geography_assignment.npz")
        assert back.digest() == assignment.digest()
        assert back.cd_geoid.dtype == np.int32
        back.save(tmp_path / "geography_assignment.npz")
        assert (tmp_path / "geography_assignment.npz").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_the_file_has_the_arrays_and_types_that_others_read(tmp_path):
    placed().save(tmp_path / "geography_assignment.npz")
    with np.load(tmp_path / "geography_assignment.npz", allow_pickle=False) as held:
        assert {k: (held[k].dtype.str, held[k].shape) for k in held} == {
            "block_geoid": ("<U15", (4,)),
            "county_fips": ("<U5", (4,)),
            "cd_geoid": ("<U4", (4,)),
            "state_fips": ("<i8", (4,)),
            "n_records": ("<i8", (1,)),
            "n_clones": ("<i8", (1,)),
        }
        assert held["block_geoid"].tolist()[:2] == ["010010201001000", "060371234001005"]
        assert held["county_fips"][0] == "01001"
        assert held["cd_geoid"].tolist() == ["101", "601", "3601", "601"]


def arrays(**changed):
    base = {
        "block_geoid": np.array(["060371234001005", "360610001001000"]),
        "cd_geoid": np.array(["601", "3612"]),
        "county_fips": np.array(["06037", "36061"]),
        "state_fips": np.array([6, 36]),
        "n_records": np.array([1]),
        "n_clones": np.array([2]),
    }
    return {k: v for k, v in (base | changed).items() if v is not None}


def test_blocks_that_were_pickled_as_objects_are_read(tmp_path):
    # PolicyEngine's pipeline takes its blocks from a pandas column, so they come out as an object array.
    given = arrays()
    np.savez_compressed(tmp_path / "a.npz", **given | {"block_geoid": given["block_geoid"].astype(object)})
    found = GeographyAssignment.load(tmp_path / "a.npz")
    assert found.block_geoid.tolist() == [60371234001005, 360610001001000]
    assert (found.n_records, found.n_clones) == (1, 2)
    assert found.county_fips.tolist() == [6037, 36061]


@pytest.mark.parametrize("number", ["00", "01", "98"])
def test_at_large_districts_are_known_by_any_number(number, tmp_path):
    changed = {
        "block_geoid": np.array(["", ""]),
        "county_fips": np.array(["", ""]),
        "cd_geoid": np.array([f"2{number}", f"11{number}"]),
        "state_fips": np.array([2, 11]),
    }
    np.savez(tmp_path / "a.npz", **arrays(**changed))
    assert GeographyAssignment.load(tmp_path / "a.npz").cd_geoid.tolist() == [201, 1101]


class Harm:
    def __reduce__(self):
        return (open, ("harmed.txt", "w"))


@pytest.mark.parametrize("harm", [Harm(), 5, None])
def test_a_pickle_of_anything_but_text_is_refused_and_not_run(harm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array(["060371234001005", harm], dtype=object)
    np.savez(tmp_path / "a.npz", **arrays(block_geoid=objects))
    with pytest.raises(InputError, match=r"a\.npz: block_geoid.*holds objects that are not text"):
        GeographyAssignment.load("a.npz")
    assert not (tmp_path / "harmed.txt").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cd_geoid": None}, r"a\.npz: lacks an array; got 'cd_geoid'"),
        ({"n_records": np.array([], dtype=int)}, r"a\.npz: n_records: is not a count; got \[\]"),
        ({"n_clones": np.array([1, 2])}, r"a\.npz: n_clones: is not a count"),
        ({"n_records": np.array([-1]), "n_clones": np.array([-2])}, r"a\.npz: n_records: is not a count"),
        (
            {"block_geoid": np.array(["060371234001005" + "0" * 10, ""])},
            r"a\.npz: block_geoid: is not a code of digits; got '06037",
        ),
        ({"n_clones": None}, r"a\.npz: lacks an array; got 'n_clones'"),
        (
            {"n_clones": np.array([3])},
            r"a\.npz: state_fips: has the wrong shape; got \(2,\); expected \(3,\)",
        ),
        (
            {"county_fips": np.array(["06037", "36059"])},
            r"a\.npz: block_geoid: 1 are not in its county; got 3606",
        ),
        ({"county_fips": np.array(["", "36061"])}, r"a\.npz: block_geoid: 1 are not in its county"),
        ({"state_fips": np.array([6, 37])}, r"a\.npz: county_fips: 1 are not in its state; got 36061"),
        (
            {"cd_geoid": np.array(["699", "3612"])},
            r"a\.npz: cd_geoid: no such district in the 119th Congress; got '0699'",
        ),
        (
            {"cd_geoid": np.array(["600", "3612"])},
            r"a\.npz: cd_geoid: CA has no at-large district; got '0600'",
        ),
        ({"cd_geoid": np.array(["601", "3712"])}, r"a\.npz: cd_geoid: 1 are not in its state; got 3712"),
        ({"cd_geoid": np.array(["CA-1", "3712"])}, r"a\.npz: cd_geoid: is not a code of digits; got 'CA-1'"),
        ({"state_fips": np.array([6.0, 36.0])}, r"a\.npz: state_fips: is not of numbers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(changed, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(**changed))
    with pytest.raises(InputError, match=words):
        GeographyAssignment.load(tmp_path / "a.npz")


def test_codes_of_another_number_of_places_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text(CROSSWALK)
    derive(placed(), tmp_path / "x.csv")[0].save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as held:
        given = dict(held)
    np.savez(tmp_path / "a.npz", **given | {"derived_puma": given["derived_puma"][:-1]})
    with pytest.raises(InputError, match=r"a\.npz: derived_puma: has the wrong shape; got"):
        GeographyAssignment.load(tmp_path / "a.npz")


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.npz: no such file"):
        GeographyAssignment.load(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"a\.npz: is not an \.npz file"):
        GeographyAssignment.load(tmp_path / "a.npz")
    placed().save(tmp_path / "b.npz")
    whole = bytearray((tmp_path / "b.npz").read_bytes())
    whole[60:90] = b"\xff" * 30
    (tmp_path / "b.npz").write_bytes(whole)
    with pytest.raises(InputError, match=r"b\.npz: is not an \.npz file"):
        GeographyAssignment.load(tmp_path / "b.npz")
