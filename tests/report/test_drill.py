"""From a target to the records that carry it, on a made run with a matrix."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import write_made_matrix, write_made_run
from scipy import sparse

from distcalib.errors import InputError
from distcalib.matrix.blocks import write_block
from distcalib.report.drill import by_donor, records_of_district, records_of_target, target_list
from distcalib.report.run_tables import RunTables

GEOIDS = [201, 3301, 3302, 5601]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_made_run(tmp_path_factory.mktemp("made") / "run", GEOIDS, households=60, clones=4)
    write_made_matrix(folder, 0.3)
    return folder


@pytest.fixture(scope="module")
def matrix(made: Path) -> sparse.csr_array:
    from distcalib.matrix.calibration import read_block

    return read_block(made / "matrix.zarr/X")


def test_the_records_of_a_target_sum_up_to_its_estimate(made, matrix):
    tables = RunTables.read(made)
    weights, columns = np.load(made / "fit/weights.npy"), pd.read_parquet(made / "columns.parquet")
    for row in (0, 40, matrix.shape[0] - 1):
        found = records_of_target(tables, row)
        at = matrix[[row]].indices
        assert sorted(found["column"]) == sorted(at[weights[at] > 0])
        assert found["contribution"].sum() == pytest.approx((matrix[[row]].astype(float) @ weights)[0])
        assert found["share"].sum() == pytest.approx(1.0)
        assert found["share"].is_monotonic_decreasing
        held = columns.iloc[found["column"].to_numpy()]
        for name in ("household_id", "clone"):
            assert found[name].tolist() == held[name].tolist()
        donors = by_donor(found)
        first = donors.iloc[0]
        own = found[found["household_id"] == first["household_id"]]
        assert first[["records", "share"]].tolist() == [len(own), pytest.approx(own["share"].sum())]
        assert donors["contribution"].sum() == pytest.approx(found["contribution"].sum())


def test_negative_cells_have_shares_too(made, matrix, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.rmtree(folder / "matrix.zarr")
    signs = matrix.copy()
    signs.data[::2] = -1
    write_block(folder / "matrix.zarr/X", signs)
    found = records_of_target(RunTables.read(folder), 3)
    assert (found["contribution"] < 0).any()
    assert found["share"].sum() == pytest.approx(1.0)
    assert (found["share"] >= 0).all()


def test_the_records_of_a_district_carry_its_weight(made):
    tables = RunTables.read(made)
    areas = tables.areas.set_index("area")
    for geoid in GEOIDS:
        found = records_of_district(tables, geoid)
        assert len(found) == areas.loc[str(geoid), "records"]
        assert found["weight"].sum() == pytest.approx(areas.loc[str(geoid), "weight"])
        donors = by_donor(found)
        assert len(donors) == areas.loc[str(geoid), "donors"]
        assert donors["share"].iloc[0] == pytest.approx(areas.loc[str(geoid), "largest_donor_share"])


def test_targets_have_words_and_the_row_of_the_matrix(made, tmp_path):
    found = target_list(RunTables.read(made))
    assert found.index.tolist() == list(range(len(found)))
    snap = found[found["name"] == "cd_201/household_count/[snap>0]"].iloc[0]
    assert snap[["area", "what"]].tolist() == ["AK-01", "household count, snap > 0"]
    half = write_made_run(tmp_path / "half", GEOIDS, failed=("fit", "no memory"))
    early = target_list(RunTables.read(half))
    assert early["target"].tolist() == found["target"].tolist()
    assert "estimate" not in early


def test_what_a_run_lacks_is_named(made, tmp_path):
    half = RunTables.read(write_made_run(tmp_path / "half", GEOIDS, failed=("fit", "no memory")))
    with pytest.raises(InputError, match=r"matrix\.zarr/X.*not there"):
        records_of_target(half, 0)
    with pytest.raises(InputError, match=r"weights\.npy.*not there"):
        records_of_district(half, 201)
    with pytest.raises(InputError, match="no such row"):
        records_of_target(RunTables.read(made), 10_000)
    other = Path(shutil.copytree(made, tmp_path / "other"))
    shutil.rmtree(other / "matrix.zarr")
    write_block(other / "matrix.zarr/X", sparse.csr_array((500, 7), dtype=np.float32))
    with pytest.raises(InputError, match="other columns than the weights"):
        records_of_target(RunTables.read(other), 0)
