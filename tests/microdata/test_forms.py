"""Forms in which PolicyEngine stores datasets: equal microdata, or an error that explains."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from distcalib.errors import InputError
from distcalib.microdata import Microdata


@pytest.fixture
def arrays(small_file: Path) -> dict[str, np.ndarray]:
    with h5py.File(small_file, "r") as h5:
        return {f"{name}/{when}": np.asarray(h5[name][when]) for name in h5 for when in h5[name]}


def written(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    with h5py.File(path, "w") as h5:
        for name, values in arrays.items():
            h5.create_dataset(name, data=values, **options)
    return path


def test_flat_arrays_are_of_the_period_asked_for(arrays, small, tmp_path):
    flat = written(tmp_path / "flat.h5", {name.split("/")[0]: v for name, v in arrays.items()})
    assert Microdata.read(flat, 2024).digest() == small.digest()
    with pytest.raises(InputError, match=r"flat\.h5: holds arrays without a period.*expected a period"):
        Microdata.read(flat)


def test_words_as_bytes_or_text_of_any_length_are_the_same(arrays, small, tmp_path):
    role = arrays.pop("tax_unit_role_input/2024")
    assert role.dtype.kind == "S"
    path = written(tmp_path / "text.h5", arrays)
    with h5py.File(path, "r+") as h5:
        h5.create_dataset("tax_unit_role_input/2024", data=role.astype(object), dtype=h5py.string_dtype())
    assert Microdata.read(path).digest() == small.digest()
    with h5py.File(path, "r+") as h5:
        del h5["tax_unit_role_input"]
        h5["tax_unit_role_input/2024"] = role.astype("S40")
    column = Microdata.read(path).column("tax_unit_role_input")
    np.testing.assert_array_equal(column, small.column("tax_unit_role_input"))


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32"])
def test_flags_as_numbers_are_flags(arrays, small, tmp_path, kind):
    flags = [name for name, values in arrays.items() if values.dtype == bool]
    assert flags
    arrays |= {name: arrays[name].astype(kind) for name in flags}
    assert Microdata.read(written(tmp_path / "flags.h5", arrays)).digest() == small.digest()


def test_a_flag_of_2_is_an_error(arrays, tmp_path):
    arrays["is_disabled/2024"] = arrays["is_disabled/2024"].astype(np.uint8) + 1
    path = written(tmp_path / "flags.h5", arrays)
    with pytest.raises(InputError, match=r"flags\.h5: is_disabled/2024: is no flag; got '2'"):
        Microdata.read(path)


def test_ids_as_floats_are_ids(arrays, small, tmp_path):
    arrays |= {n: v.astype(np.float64) for n, v in arrays.items() if n.split("/")[0].endswith("_id")}
    assert Microdata.read(written(tmp_path / "ids.h5", arrays)).digest() == small.digest()


def test_columns_of_months_are_carried_and_belong_to_no_year(arrays, small, tmp_path):
    months = {f"rent/2024-{m:02d}": np.full(small.count("person"), 100.0 * m) for m in range(1, 13)}
    data = Microdata.read(written(tmp_path / "months.h5", arrays | months))
    assert "rent" not in data.variables()
    assert data.values["person"]["rent/2024-03"][0] == 300
    data.write(tmp_path / "again.h5")
    assert Microdata.read(tmp_path / "again.h5").digest() == data.digest()


@pytest.mark.filterwarnings("ignore::tables.NaturalNameWarning")
@pytest.mark.parametrize("layout", ["{table}", "{table}/2024"])
@pytest.mark.parametrize("form", ["fixed", "table"])
def test_a_pandas_store_is_named_for_what_it_is(tmp_path, layout, form):
    path = tmp_path / "store.h5"
    with pd.HDFStore(path, mode="w") as store:
        for table in ("person", "household"):
            frame = pd.DataFrame({f"{table}_id": [1, 2], "age": [30.0, 40.0]})
            store.put(layout.format(table=table), frame, format=form, track_times=False)
    with pytest.raises(InputError) as error:
        Microdata.read(path, 2024)
    for word in ("store.h5", "pandas HDFStore", "household, person", "{variable}/{year}", "h5py"):
        assert word in str(error.value)


def test_a_folder_names_its_files(small_file):
    with pytest.raises(InputError, match=r"is a folder; expected a file in it \(small\.h5\)"):
        Microdata.read(small_file.parent)


@pytest.mark.parametrize("within", [True, False])
def test_counties_as_numbers_are_fips_codes(arrays, tmp_path, within):
    """Of the state, as the CPS numbers them, or of the nation; 0 is not known."""
    state = arrays["state_fips/2024"].astype(np.int32)
    number = np.arange(len(state), dtype=np.int32) % 3
    arrays["county_fips/2024"] = number if within else np.where(number > 0, state * 1000 + number, 0)
    column = Microdata.read(written(tmp_path / "counties.h5", arrays)).column("county_fips")
    expected = [f"{s:02d}{n:03d}" if n else "00000" for s, n in zip(state, number, strict=True)]
    assert column.astype(str).tolist() == expected


def test_what_never_changes_may_be_stored_without_a_year(arrays, small, tmp_path):
    arrays["is_household_head/ETERNITY"] = arrays.pop("is_household_head/2024")
    assert Microdata.read(written(tmp_path / "eternity.h5", arrays)).digest() == small.digest()
    arrays["is_household_head/2024"] = arrays["is_household_head/ETERNITY"]
    arrays["is_household_head/ETERNITY"] = ~arrays["is_household_head/ETERNITY"]
    assert Microdata.read(written(tmp_path / "both.h5", arrays)).digest() == small.digest()


def test_counties_are_of_the_state_whatever_its_period_is_called(arrays, tmp_path):
    state = arrays["state_fips/2024"].astype(np.int32)
    arrays["state_fips/ETERNITY"] = arrays.pop("state_fips/2024")
    arrays["county_fips/2024"] = np.full(len(state), 37, dtype=np.int32)
    column = Microdata.read(written(tmp_path / "counties.h5", arrays)).column("county_fips")
    assert column.astype(str).tolist() == [f"{s:02d}037" for s in state]


@pytest.mark.parametrize("code", [-1, 360_610])
def test_a_number_that_is_no_county_is_refused(arrays, tmp_path, code):
    arrays["county_fips/2024"] = np.full(len(arrays["state_fips/2024"]), code, dtype=np.int32)
    with pytest.raises(InputError, match=rf"counties\.h5: county_fips/2024: is no county; got {code}"):
        Microdata.read(written(tmp_path / "counties.h5", arrays))
