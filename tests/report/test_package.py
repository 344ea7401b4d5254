"""Calibration packages of PolicyEngine's pipeline beside a run: read without unpickling, matched by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from make_package import NAMES, package
from scipy import sparse
from test_comparison import write_run

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.report.package import compare_with_package, read_package, same_name

DATA = Path(__file__).parent


def dump(path: Path, protocol: int = pickle.HIGHEST_PROTOCOL, **changes: object) -> Path:
    path.write_bytes(pickle.dumps({**package(), **changes}, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [None, 3, 4, 5])
def test_a_package_is_read_as_it_was_written(protocol, tmp_path):
    # None: the file that pandas 2 wrote; else one that the pandas of this environment writes.
    file = DATA / "calibration_package.pkl" if protocol is None else dump(tmp_path / "p.pkl", protocol)
    found, expected = read_package(file), package()
    assert isinstance(found.X, sparse.csr_matrix)
    np.testing.assert_array_equal(found.X.toarray(), expected["X_sparse"].toarray())
    assert found.X.dtype == np.float32
    assert found.targets["name"].tolist() == NAMES
    pd.testing.assert_frame_equal(
        found.targets.drop(columns="name"), expected["targets_df"], check_dtype=False
    )
    np.testing.assert_array_equal(found.initial_weights, expected["initial_weights"])
    assert found.cd_geoid.tolist() == expected["cd_geoid"].tolist()
    assert found.block_geoid.tolist() == expected["block_geoid"].tolist()
    assert found.metadata == {
        "seed": 42, "n_clones": 2, "created_at": "2026-05-01T00:00:00", "base_n_records": 2,
    }  # fmt: skip


def test_texts_of_a_pandas_without_pyarrow_are_read(tmp_path):
    with pd.option_context("mode.string_storage", "python"):
        file = dump(tmp_path / "p.pkl")
    assert b"NDArrayBacked" in file.read_bytes()
    assert b"pyarrow" not in file.read_bytes()
    expected = package()["targets_df"]
    found = read_package(file).targets.drop(columns="name")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


class Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("where", ["X_sparse", "targets_df", "target_names", "metadata", "initial_weights"])
def test_nothing_that_a_package_names_is_called(where, tmp_path):
    harm = Harm(tmp_path / "harm")
    file = dump(tmp_path / "p.pkl", **{where: [harm] if where == "target_names" else harm})
    with pytest.raises(InputError, match=r"p\.pkl.*mkdir"):
        read_package(file)
    assert not (tmp_path / "harm").exists()


def test_functions_of_packages_that_are_expected_are_not_called_either(tmp_path):
    class Sly:
        def __reduce__(self):
            return np.save, (str(tmp_path / "harm.npy"), [1])

    with pytest.raises(InputError, match=r"initial_weights.*is not an array"):
        read_package(dump(tmp_path / "p.pkl", initial_weights=Sly()))
    assert not (tmp_path / "harm.npy").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"X_sparse": sparse.coo_matrix(np.ones((3, 4)))}, "X_sparse: is not a CSR matrix"),
        ({"target_names": ["a"]}, "target_names.*3 names"),
        ({"targets_df": pd.DataFrame({"variable": ["a", "b", "c"]})}, "targets_df: lacks a column.*value"),
        ({"targets_df": [1, 2, 3]}, "targets_df: is not a table"),
        ({"initial_weights": np.ones(3)}, r"initial_weights: has another shape.*\(4,\)"),
        ({"cd_geoid": np.array([{}, 1, 2, 3], dtype=object)}, "cd_geoid.*no text and no number"),
    ],
)
def test_a_package_whose_pieces_do_not_fit_is_refused(changes, told, tmp_path):
    with pytest.raises(InputError, match=told):
        read_package(dump(tmp_path / "p.pkl", **changes))


def test_a_matrix_with_indices_out_of_range_is_refused(tmp_path):
    wrong = package()["X_sparse"]
    wrong.indices[0] = 77
    with pytest.raises(InputError, match="X_sparse: is not a CSR matrix"):
        read_package(dump(tmp_path / "p.pkl", X_sparse=wrong))


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(3), pickle.dumps({"a": 1})])
def test_what_is_no_package_is_refused(data, tmp_path):
    (tmp_path / "p.pkl").write_bytes(data)
    with pytest.raises(InputError, match=r"p\.pkl"):
        read_package(tmp_path / "p.pkl")


def test_half_a_file_is_refused(tmp_path):
    whole = (DATA / "calibration_package.pkl").read_bytes()
    for size in range(0, len(whole) - 1, 97):
        (tmp_path / "p.pkl").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_package(tmp_path / "p.pkl")


def test_targets_are_matched_whatever_the_order_of_their_constraints():
    assert (
        same_name("cd_1/x/[b>=1.0,a==y]")
        == same_name("cd_1/x/[a==y,b>=1]")
        != same_name("cd_1/x/[b>=2,a==y]")
    )
    assert same_name("national/snap") == "national/snap"
    assert same_name("national/x/[tenure_type in RENTED|OWNED]") == same_name(
        "national/x/[tenure_typeinRENTED|OWNED]"
    )


def test_a_run_and_a_package_are_set_beside_each_other(tmp_path):
    run = write_run(tmp_path / "run")
    table = compare_with_package(run, read_package(DATA / "calibration_package.pkl")).set_index("name")
    snap = table.loc["state_6/snap"]
    assert (snap["in"], snap["status"]) == ("both", "fit")
    assert snap["estimate_package"] == 20 * 15
    assert snap["rel_error_package"] == pytest.approx(-0.25)
    assert snap["rel_error_run"] == pytest.approx(0.02)
    assert table.loc[NAMES[2], "in"] == "only package"
    assert np.isnan(table.loc[NAMES[2], "estimate_run"])
    assert (table["in"] == "only run").sum() == 14


def test_the_command_writes_the_table_and_says_how_both_do(tmp_path):
    run, output = write_run(tmp_path / "run"), tmp_path / "difference"
    weights = tmp_path / "calibration_weights.npy"
    np.save(weights, np.array([40.0, 0, 0, 30]))
    words = ["compare", str(run), str(DATA / "calibration_package.pkl"), "--output", str(output)]
    done = CliRunner().invoke(main, [*words, "--weights", str(weights)])
    assert done.exit_code == 0, done.output
    assert "2 both, 14 only run, 1 only package" in done.output
    assert "package: 3 targets x 4 columns; created_at 2026-05-01" in done.output
    table = pd.read_csv(output / "targets.csv").set_index("name")
    assert table.loc["national/snap", "estimate_package"] == 1000
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, "exists" in again.output) == (2, True)


def test_weights_of_another_package_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    words = ["compare", str(run), str(DATA / "calibration_package.pkl"), "--output", str(tmp_path / "out")]
    for values in (np.ones(3), np.array(["a"] * 4), np.array([1, np.nan, 1, 1])):
        np.save(tmp_path / "w.npy", values)
        done = CliRunner().invoke(main, [*words, "--weights", str(tmp_path / "w.npy")])
        assert done.exit_code == 2, done.output
    (tmp_path / "w.npy").write_bytes(pickle.dumps([1]))
    assert CliRunner().invoke(main, [*words, "--weights", str(tmp_path / "w.npy")]).exit_code == 2
    assert not (tmp_path / "out").exists()
