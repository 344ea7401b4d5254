"""Files are checked before they are opened: what is wrong in one is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcalib.errors import InputError
from distcalib.geography.assign import assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.microdata import Microdata
from distcalib.microdata.hdf5_slice import Layout, read_slice, require_part
from distcalib.microdata.plausible import require_plausible
from distcalib.simulation.place import place

YEAR = 2024


@pytest.fixture(scope="module")
def written(small, tmp_path_factory) -> Path:
    """Three hundred households in the two districts of New Hampshire: a state's file and its districts'."""
    folder = tmp_path_factory.mktemp("areas")
    table = districts()
    table = table[table["state"] == "NH"]
    assignment = assign_geography(small.ids["household"], 1, table, county_shares(), 1)
    order = np.argsort(assignment.cd_geoid, kind="stable")
    weights = np.linspace(1, 60, 300)
    for name, columns in (
        ("NH", order),
        ("NH-01", order[assignment.cd_geoid[order] == 3301]),
        ("NH-02", order[assignment.cd_geoid[order] == 3302]),
    ):
        placed = place(small, assignment, columns, weights=weights[columns], seed=4)
        placed.write(folder / f"{name}.h5")
    return folder


@pytest.fixture
def files(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "areas"))


def change(path: Path, name: str, at: int, value: object) -> None:
    with h5py.File(path, "r+") as h5:
        h5[f"{name}/{YEAR}"][at] = value


def replaced(path: Path, name: str, array: np.ndarray) -> None:
    with h5py.File(path, "r+") as h5:
        del h5[f"{name}/{YEAR}"]
        h5.create_dataset(f"{name}/{YEAR}", data=array)


def check(path: Path) -> None:
    require_plausible(Layout.of(path, YEAR))


def test_slices_of_a_file_are_the_file(files):
    whole = Microdata.read(files / "NH.h5", YEAR)
    parts = [read_slice(files / "NH.h5", YEAR, a, b) for a, b in ((0, 7), (7, 200), (200, 300))]
    for entity in whole.ids:
        np.testing.assert_array_equal(np.concatenate([p.ids[entity] for p in parts]), whole.ids[entity])
        for path, array in whole.values[entity].items():
            together = np.concatenate([p.values[entity][path] for p in parts])
            np.testing.assert_array_equal(together, array, err_msg=path)
            assert together.dtype == array.dtype
    inside = np.arange(7, 200)
    ids = {e: whole.ids[e][whole.rows_of(e, inside)[0]] for e in whole.ids}
    assert parts[1].digest() == whole.take(inside, ids).digest()


def test_a_sound_file_and_its_districts_pass(files):
    check(files / "NH.h5")
    whole = Layout.of(files / "NH.h5", YEAR)
    at = 0
    for name in ("NH-01", "NH-02"):
        part = Layout.of(files / f"{name}.h5", YEAR)
        assert part.households > 50
        require_part(whole, np.arange(at, at + part.households), part)
        # The other way round, as the nation is held against its states.
        require_part(part, np.arange(part.households), whole, at)
        at += part.households
    assert at == whole.households


def test_scattered_households_are_found_in_another_file(files, tmp_path):
    whole = Microdata.read(files / "NH.h5", YEAR)
    some = np.r_[3, 10:20, 250]
    ids = {e: whole.ids[e][whole.rows_of(e, some)[0]] for e in whole.ids}
    whole.take(some, ids).write(tmp_path / "some.h5")
    layouts = Layout.of(files / "NH.h5", YEAR), Layout.of(tmp_path / "some.h5", YEAR)
    require_part(layouts[0], some, layouts[1])
    with pytest.raises(InputError, match=r"some\.h5"):
        require_part(layouts[0], some + 1, layouts[1])
    # Other numbers of the same units: links agree by position.
    whole.take(some).write(tmp_path / "some.h5")
    other = Layout.of(tmp_path / "some.h5", YEAR)
    require_part(layouts[0], some, other, same_ids=False)
    with pytest.raises(InputError, match="_id"):
        require_part(layouts[0], some, other)


def test_one_flipped_flag_of_a_district_is_named(files):
    with h5py.File(files / "NH-02.h5") as h5:
        flag = bool(h5[f"takes_up_snap_if_eligible/{YEAR}"][5])
        unit = int(h5[f"spm_unit_id/{YEAR}"][5])
    change(files / "NH-02.h5", "takes_up_snap_if_eligible", 5, not flag)
    whole, part = (Layout.of(files / f"{name}.h5", YEAR) for name in ("NH", "NH-02"))
    with pytest.raises(InputError) as error:
        require_part(whole, np.arange(whole.households - part.households, whole.households), part)
    for words in ("NH-02.h5", "takes_up_snap_if_eligible", f"{not flag} for spm_unit {unit}", "NH.h5"):
        assert words in str(error.value)


def test_a_household_that_is_missing_is_noticed(files):
    data = Microdata.read(files / "NH-01.h5", YEAR)
    rest = np.delete(np.arange(data.count()), 4)
    ids = {e: data.ids[e][data.rows_of(e, rest)[0]] for e in data.ids}
    data.take(rest, ids).write(files / "NH-01.h5")
    whole, part = (Layout.of(files / f"{name}.h5", YEAR) for name in ("NH", "NH-01"))
    with pytest.raises(InputError, match=r"NH-01\.h5"):
        require_part(whole, np.arange(part.households), part)


@pytest.mark.parametrize(
    ("name", "at", "value", "words"),
    [
        ("age", 3, 140.0, "140"),
        ("age", 3, np.nan, "nan"),
        ("household_weight", 2, -1.0, "-1"),
        ("household_weight", 2, np.inf, "inf"),
        ("employment_income_before_lsr", 9, 1e13, "1e13"),
        ("tenure_type", 1, b"CAVE", "CAVE"),
        ("county_fips", 6, b"06037", "06037"),
        ("congressional_district_geoid", 6, 601, "601"),
        ("person_tax_unit_id", 8, 999_999_999, "999999999"),
        ("household_id", 8, 999_999_999, "person_household_id"),
        ("spm_unit_id", 1, None, "more than once"),
    ],
)
def test_what_cannot_be_is_named_with_file_variable_and_value(files, name, at, value, words):
    path = files / "NH.h5"
    if value is None:
        with h5py.File(path) as h5:
            value = h5[f"{name}/{YEAR}"][at - 1]
    change(path, name, at, value)
    with pytest.raises(InputError) as error:
        check(path)
    assert "NH.h5" in str(error.value)
    assert name in str(error.value)
    number = str(error.value).replace("e+", "e").replace("9999999827968.0", "1e13").lower()
    assert words.lower() in number


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("takes_up_snap_if_eligible", lambda a: a.astype(np.int32), "true and false"),
        ("age", lambda a: a[:-1], "one value for each"),
        ("county_fips", lambda a: a.astype("S5").astype(object), "fixed byte strings"),
        ("person_id", lambda a: a.astype(np.int64) + 2**31, "32-bit"),
        ("person_family_id", lambda a: a[:-1], "links"),
        ("household_weight", lambda a: a.astype(np.float64), "float64"),
    ],
)
def test_a_column_of_another_form_is_named(files, name, make, words):
    path = files / "NH.h5"
    with h5py.File(path) as h5:
        array = h5[f"{name}/{YEAR}"][:]
    replaced(path, name, make(array))
    with pytest.raises(InputError) as error:
        check(path)
    assert name in str(error.value)
    assert words in str(error.value)


def test_units_out_of_order_and_units_of_nobody_are_refused(files):
    data = Microdata.read(files / "NH.h5", YEAR)
    turned = data.take(np.arange(data.count())[::-1])
    turned.write(files / "turned.h5")
    check(files / "turned.h5")
    with h5py.File(files / "turned.h5", "r+") as h5:
        ids = h5[f"household_id/{YEAR}"][:]
        h5[f"household_id/{YEAR}"][:] = ids[::-1]
    with pytest.raises(InputError, match="out of order"):
        check(files / "turned.h5")
    with h5py.File(files / "NH.h5", "r+") as h5:
        units, links = h5[f"family_id/{YEAR}"][:], h5[f"person_family_id/{YEAR}"]
        alone = int(np.flatnonzero(np.bincount(np.searchsorted(np.sort(units), links[:])) == 1)[0])
        persons = np.flatnonzero(links[:] == np.sort(units)[alone])
        links[int(persons[0])] = int(links[int(persons[0]) - 1])
    with pytest.raises(InputError, match="without a person"):
        check(files / "NH.h5")


def test_a_truncated_file_is_named(files):
    path = files / "NH.h5"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"NH\.h5"):
        check(path)
