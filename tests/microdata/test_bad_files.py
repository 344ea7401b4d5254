"""Microdata that cannot be used: each gets an error that names the place, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcalib.errors import InputError
from distcalib.microdata import Microdata


@pytest.fixture
def file(small_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(small_file, tmp_path / "data.h5"))


def change(path: Path, name: str, function) -> None:
    with h5py.File(path, "r+") as h5:
        values = np.asarray(h5[name])
        del h5[name]
        h5[name] = function(values.copy())


def refused(path: Path, *words: str, period: int | None = None) -> None:
    with pytest.raises(InputError) as error:
        Microdata.read(path, period)
    for word in (path.name, *words):
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    assert error.value.exit_code == 2


def set_first(value):
    def function(array):
        array = array.astype(np.result_type(array, type(value)))
        array[0] = value
        return array

    return function


def test_missing_file_names_its_neighbours(file):
    with pytest.raises(InputError, match=r"did you mean 'data\.h5'"):
        Microdata.read(file.with_name("dat.h5"))


def test_truncated_file(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(file, "truncated", "complete PolicyEngine HDF5")


def test_not_hdf5(file):
    file.write_text("household_id,weight\n1,2\n")
    refused(file, "cannot be read as HDF5")


@pytest.mark.parametrize("name", ["person_household_id", "tax_unit_id", "person_marital_unit_id"])
def test_missing_entity_link(file, name):
    with h5py.File(file, "r+") as h5:
        del h5[name]
    refused(file, "lacks an entity id or link", name)


def test_nan(file):
    change(file, "employment_income_before_lsr/2024", set_first(np.nan))
    refused(file, "employment_income_before_lsr/2024", "NaN", "person id")


def test_negative_weight(file):
    change(file, "household_weight/2024", set_first(-3.5))
    refused(file, "household_weight/2024", "negative", "-3.5")


def test_weights_of_zero(file):
    change(file, "household_weight/2024", lambda a: a * 0)
    refused(file, "all household weights are zero")


@pytest.mark.parametrize("entity", ["household", "tax_unit", "person"])
def test_duplicate_ids(file, entity):
    def repeat(ids):
        ids[1] = ids[0]
        return ids

    change(file, f"{entity}_id/2024", repeat)
    refused(file, f"{entity}_id", "more than once")


def test_person_without_household(file):
    change(file, "person_household_id/2024", set_first(987654))
    refused(file, "persons without a household", "person_household_id", "987654")


def test_unit_across_households(file):
    with h5py.File(file, "r") as h5:
        household = np.asarray(h5["person_household_id/2024"])
        units = np.asarray(h5["person_spm_unit_id/2024"])
    # Somebody of a household of two or more moves to the SPM unit of another household.
    counts = dict(zip(*np.unique(units, return_counts=True), strict=True))
    mover = next(i for i in range(1, len(units)) if counts[units[i]] > 1)
    other = next(i for i in range(len(units)) if household[i] != household[mover])

    def move(ids):
        ids[mover] = units[other]
        return ids

    change(file, "person_spm_unit_id/2024", move)
    refused(file, "spm_unit has members in two households")


def test_column_of_the_wrong_length(file):
    change(file, "age/2024", lambda a: a[:-1])
    refused(file, "age/2024", "values for")


def test_column_of_another_type(file):
    change(file, "age/2024", lambda a: a.astype("S5"))
    refused(file, "age/2024", "another type")


def test_another_year_than_the_file_has(file):
    refused(file, "2023", "2024", period=2023)


def test_no_weights(file):
    with h5py.File(file, "r+") as h5:
        del h5["household_weight"]
    refused(file, "has no household weights")
