"""``distcalib stack weights``: area files of weights that were fitted elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from distcalib import assign_random_geography
from distcalib.cli import main
from distcalib.microdata import Microdata


def said(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["stack", "weights", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def elsewhere(small, small_file, tmp_path_factory) -> dict[str, Path]:
    """Return weights, geography and dataset as PolicyEngine's pipeline leaves them."""
    home = tmp_path_factory.mktemp("elsewhere")
    assignment = assign_random_geography(small.count(), 4, 5, household_id=small.ids["household"])
    assignment.save(home / "geography_assignment.npz")
    draw = np.random.default_rng(0)
    weights = np.where(draw.random(assignment.n_columns) < 0.7, draw.random(assignment.n_columns) * 1000, 0)
    weights[assignment.state_fips == 56] = 77.0
    np.save(home / "calibration_weights.npy", weights)
    return {
        "weights": home / "calibration_weights.npy",
        "geography": home / "geography_assignment.npz",
        "dataset": small_file,
    }


def of(elsewhere: dict[str, Path], output: Path, *more: object) -> list[object]:
    words = [elsewhere["weights"], "--dataset", elsewhere["dataset"], "--geography", elsewhere["geography"]]
    return [*words, "--output", output, *more]


def test_files_hold_the_columns_that_have_weight_in_the_area(elsewhere, small, tmp_path):
    weights = np.load(elsewhere["weights"])
    assignment = assign_random_geography(small.count(), 4, 5, household_id=small.ids["household"])
    mine = np.flatnonzero((assignment.state_fips == 6) & (weights > 0))
    text = said(*of(elsewhere, tmp_path, "--only", "WHOLE,WY", "--area", "WHOLE=state == CA"))
    assert "3 datasets" in text
    held = Microdata.read(tmp_path / "areas/others/WHOLE.h5", 2024)
    np.testing.assert_array_equal(np.sort(held.ids["household"]), mine)
    np.testing.assert_array_equal(held.weights, weights[held.ids["household"]].astype(np.float32))
    assert len(pd.read_csv(tmp_path / "areas/mappings/WHOLE.csv")) == len(mine) > 50
    for file in ("areas/states/WY.h5", "areas/districts/WY-01.h5"):
        assert (Microdata.read(tmp_path / file, 2024).weights == 77).all()
    assert "exists" in said(*of(elsewhere, tmp_path, "--only", "WY"), code=2)


def test_an_area_without_households_is_an_error_before_the_first_file(elsewhere, tmp_path):
    text = said(*of(elsewhere, tmp_path / "out"), code=1)
    assert "no household has weight there" in text
    assert not (tmp_path / "out").exists()


def test_every_household_in_every_district_is_written_to_one_file(elsewhere, small, tmp_path):
    weights = np.zeros((2, small.count()))
    weights[0, :5], weights[1, 3:9] = 10.0, 20.0
    np.save(tmp_path / "w.npy", weights.reshape(-1))
    text = said(
        tmp_path / "w.npy",
        "--dataset",
        elsewhere["dataset"],
        "--districts",
        "NC-01,HI-02",
        "--file",
        tmp_path / "two.h5",
    )
    assert "Final households: 11" in text
    held = Microdata.read(tmp_path / "two.h5", 2024)
    assert held.weights.sum() == pytest.approx(170.0)
    assert (tmp_path / "mappings" / "two_household_mapping.csv").is_file()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--only", "XX-01"], "no area"),
        (["--area", "state"], "NAME=FILTER"),
        (["--area", "state == CA"], "FIELD OPERATOR VALUE"),
        (["--area", "a/b=state == CA"], "is not a name"),
        (["--area", "Cook=county == 17031"], "county_fips"),
        (["--districts", "NC-01"], "--geography NPZ with --output FOLDER"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(elsewhere, more, told, tmp_path):
    assert told in said(*of(elsewhere, tmp_path / "out", *more), code=2)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused(elsewhere, tmp_path):
    for values in (np.ones(7), -np.ones(1200), np.full(1200, np.nan)):
        np.save(tmp_path / "w.npy", values)
        words = of({**elsewhere, "weights": tmp_path / "w.npy"}, tmp_path / "out", "--only", "CA")
        assert "weights" in said(*words, code=2)
    (tmp_path / "w.npy").write_bytes(b"\x80\x04K\x01.")
    words = of({**elsewhere, "weights": tmp_path / "w.npy"}, tmp_path / "out")
    assert "a .npy file of numbers" in said(*words, code=2)
