"""Targets against the files, with margins of error and notes on definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from distcalib.errors import InputError
from distcalib.runs import verdict
from distcalib.runs.checks import COLUMNS, checks, write_checks
from distcalib.targets.sources import bundled_targets


@pytest.fixture(scope="module")
def targets() -> pd.DataFrame:
    """Some of the register's targets in the form of a run's: median, poverty, programmes, ages."""
    rows = bundled_targets().query("status != 'excluded'")
    concepts = ("households below the median household income", "households below the official poverty line",
                "SNAP benefits", "residents by age", "state individual income tax")  # fmt: skip
    rows = rows[rows["concept"].isin(concepts)].groupby(["concept", "geo_level"]).head(3)
    rows = rows.assign(name=[f"target {i}" for i in range(len(rows))]).reset_index(drop=True)
    return rows.drop(columns=["concept", "source", "table", "vintage", "note"])


def verified(targets: pd.DataFrame, factor: float = 1.1) -> pd.DataFrame:
    table = targets[["name", "geo_level", "geographic_id", "status", "value"]].reset_index(drop=True)
    return table.assign(row=np.arange(len(table)), from_files=table["value"] * factor)


def test_every_target_has_its_concept_source_and_note(targets):
    table = checks(targets, verified(targets))
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(targets)
    assert (table["concept"] != "").all()
    assert (table["source"] != "").all()
    assert table["status"].is_monotonic_increasing  # check before fit
    poor = table[table["concept"].str.contains("poverty")]
    assert poor["note"].str.contains("supplemental measure").all()
    assert {"national", "state", "district"} <= set(poor["geo_level"])
    middle = table[table["concept"].str.contains("median")]
    assert middle["note"].str.contains(r"median of \d+ dollars, 90 % margin \d+").all()
    assert middle["note"].str.contains("half of the households by definition").all()
    assert (middle["within_moe"] == "").all()
    assert table.loc[table["geo_level"] == "district", "area"].str.fullmatch(r"[A-Z]{2}-\d\d").all()


def test_z_is_in_standard_errors_of_a_90_percent_margin(targets):
    one = targets[targets["moe"] > 0].head(3)
    table = checks(
        one, verified(one).assign(from_files=one["value"].to_numpy() + [0.5, 1, -1.5] * one["moe"])
    )
    table = table.set_index("name").loc[one["name"]]
    assert table["z"].to_numpy() == pytest.approx([0.8225, 1.645, -2.4675])
    assert table["within_moe"].tolist() == ["yes", "yes", "no"]
    assert table["difference"].to_numpy() == pytest.approx(one["moe"].to_numpy() * [0.5, 1, -1.5])


def test_what_no_file_proves_has_no_difference(targets):
    found = verified(targets)
    found.loc[0, "from_files"] = np.nan
    table = checks(targets, found).set_index("name").loc["target 0"]
    assert np.isnan(table["difference"])
    assert table["within_moe"] == ""


def test_a_target_that_the_register_does_not_hold_has_no_concept(targets):
    own = targets.head(1).assign(constraints="age>=21", reason="mine")
    table = checks(own, verified(own))
    assert table[["concept", "source", "note"]].to_numpy().tolist() == [["", "", "mine"]]


def test_tables_of_two_runs_are_refused(targets):
    with pytest.raises(InputError, match="other targets"):
        checks(targets, verified(targets).assign(name="another"))
    with pytest.raises(InputError, match="other targets"):
        checks(targets.head(2), verified(targets))


def test_the_table_is_written_beside_the_proof(targets, tmp_path: Path):
    (tmp_path / "verify").mkdir()
    targets.to_parquet(tmp_path / "targets.parquet", index=False)
    verified(targets).to_csv(tmp_path / "verify/targets.csv", index=False)
    table = write_checks(tmp_path)
    back = pd.read_csv(tmp_path / "verify/checks.csv", keep_default_na=False, na_values={"z": [""]})
    assert back["name"].tolist() == table["name"].tolist()
    assert back["z"].to_numpy() == pytest.approx(table["z"].to_numpy(), nan_ok=True)


@pytest.mark.parametrize("piece", [1, 7, 1 << 22])
def test_the_sums_of_the_proof_need_no_copy_of_the_matrix_and_lose_no_bit(monkeypatch, piece):
    draw = np.random.default_rng(0)
    X = sparse.random_array((9, 40), density=0.3, random_state=draw, dtype=np.float32, format="csr")
    X.data *= np.float32(1e9) * draw.choice([-1, 1], X.nnz).astype(np.float32)
    X = sparse.vstack([X[:4], sparse.csr_array((2, 40), dtype=np.float32), X[4:]], format="csr")
    weights = draw.random(40)
    monkeypatch.setattr(verdict, "_PIECE", piece)
    promised, scale = verdict._sums(X, weights)
    whole = X.astype(np.float64)
    np.testing.assert_array_equal(promised, whole @ weights)
    np.testing.assert_array_equal(scale, abs(whole) @ weights)
