"""`CalibrationMatrix`: what it says of itself, and the folders that it reads and writes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from distcalib import CalibrationMatrix
from distcalib.errors import DistcalibError, InputError
from distcalib.matrix.calibration import Origin


@pytest.fixture
def matrix():
    """Five targets over two clones of three households; a negative amount, an empty row, a zero target."""
    X = sparse.csr_array(
        np.array(
            [
                [1, 1, 1, 1, 1, 1],
                [0, -5, 0, 0, -7, 0],
                [0, 0, 0, 0, 0, 0],
                [2, 0, 0, 4, 0, 0],
                [0, 0, 3, 0, 0, 0],
            ],
            dtype=np.float32,
        )
    )
    targets = pd.DataFrame(
        {
            "name": [
                "national/<b>&households",
                "state_30/loss",
                "state_2/snap",
                "cd_3001/snap",
                "cd_201/snap",
            ],
            "variable": ["household_count", "loss", "snap", "snap", "snap"],
            "geo_level": ["national", "state", "state", "district", "district"],
            "geographic_id": ["US", "30", "2", "3001", "201"],
            "value": [600.0, -24.0, 5.0, 12.0, 0.0],
        }
    )
    columns = pd.DataFrame(
        {
            "column": range(6),
            "clone": [0, 0, 0, 1, 1, 1],
            "record": [0, 1, 2] * 2,
            "household_id": [7, 8, 9] * 2,
            "state_fips": [30, 30, 2, 30, 30, 30],
            "cd_geoid": [3001, 3002, 201, 3001, 3002, 3002],
            "county_fips": 0,
            "block_geoid": 0,
        }
    )
    return CalibrationMatrix(X, targets, columns)


def test_a_negative_amount_makes_a_target_achievable(matrix):
    assert matrix.achievable.tolist() == [True, True, False, True, True]
    assert matrix.impossible().index.tolist() == [2]
    assert matrix.impossible()["name"].tolist() == ["state_2/snap"]


def test_the_hardest_targets_have_the_smallest_sum_for_their_value(matrix):
    hardest = matrix.hardest(2)
    assert hardest.index.tolist() == [0, 1]
    assert hardest["row_sum"].tolist() == [6, -12]
    assert hardest["ratio"].tolist() == [0.01, 0.5]
    # Neither the impossible one nor the target of 0 has a ratio.
    assert matrix.hardest(10).index.tolist() == [0, 1, 3]


def test_sparsity_is_counted_by_level_and_by_clone(matrix):
    levels = matrix.sparsity()
    assert levels.index.tolist() == ["national", "state", "district"]
    assert levels["nonzeros"].tolist() == [6, 2, 3]
    assert levels["rows"].tolist() == [1, 2, 2]
    assert levels.loc["state", ["least", "median", "most"]].tolist() == [0, 1, 2]
    assert levels["density"].tolist() == [1, 2 / 12, 3 / 12]
    clones = matrix.sparsity(by="clone")
    assert clones["nonzeros"].tolist() == [6, 5]
    assert clones["states"].tolist() == [2, 1]
    assert clones["density"].tolist() == [6 / 15, 5 / 15]
    with pytest.raises(InputError, match="cannot be counted by this"):
        matrix.sparsity("county")


def test_what_is_saved_is_loaded_equal(matrix, tmp_path):
    origin = Origin("donors.h5", "ab12", 2024, 3, True)
    whole = CalibrationMatrix(matrix.X, matrix.targets, matrix.columns, origin)
    whole.save(tmp_path / "deep" / "saved")
    again = CalibrationMatrix.load(tmp_path / "deep" / "saved")
    assert again.digest() == matrix.digest()
    assert again.origin == origin
    pd.testing.assert_frame_equal(again.targets, matrix.targets)
    pd.testing.assert_frame_equal(again.columns, matrix.columns)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["saved"]
    with pytest.raises(InputError, match="is there already"):
        matrix.save(tmp_path / "deep" / "saved")


def test_a_save_that_fails_leaves_nothing(matrix, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("distcalib.matrix.calibration.write_block", full)
    with pytest.raises(OSError, match="disk full"):
        matrix.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no matrix"):
        CalibrationMatrix.load(tmp_path)
    (tmp_path / "matrix.json").write_text(json.dumps({"origin": None}))
    with pytest.raises(InputError, match=r"targets\.parquet"):
        CalibrationMatrix.load(tmp_path)


def test_why_needs_to_know_what_was_simulated(matrix):
    with pytest.raises(InputError, match="does not say what it was simulated from"):
        matrix.why(0, 0)
    with pytest.raises(InputError, match="no such column"):
        matrix.why(0, 6)


def test_the_notebook_view_escapes_its_texts(matrix):
    words = matrix._repr_html_()
    assert "national/&lt;b&gt;&amp;households" in words
    assert "<b>&" not in words
    assert "5 (4 achievable)" in words
    assert "3 households x 2 clones" in words
    assert "3 districts of AK, MT" in words


def test_scipy_and_anndata_views_hold_the_same_numbers(matrix, monkeypatch):
    X = matrix.to_scipy()
    assert isinstance(X, sparse.csr_matrix)
    assert X[3, :].shape == (1, 6)
    assert np.shares_memory(X.data, matrix.X.data)
    parts = matrix.to_anndata_dict()
    assert parts["obs"].index.tolist() == ["0", "1", "2", "3", "4"]
    assert parts["var"]["household_id"].tolist() == [7, 8, 9] * 2
    assert (parts["X"] != X).nnz == 0
    assert parts["uns"] == {"origin": {}}
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(InputError, match="needs the package anndata"):
        matrix.to_anndata()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("matrix.json", "{"),
        ("matrix.json", '{"origin": {"moon": 1}}'),
        ("targets.parquet", "nothing"),
        ("matrix.zarr/X/zarr.json", "{"),
    ],
)
def test_a_damaged_folder_is_refused(matrix, tmp_path, name, content):
    matrix.save(tmp_path / "saved")
    assert (tmp_path / "saved" / name).exists()
    (tmp_path / "saved" / name).write_text(content)
    with pytest.raises(DistcalibError, match="cannot be read"):
        CalibrationMatrix.load(tmp_path / "saved")
