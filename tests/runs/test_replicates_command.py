"""The command that writes replicate weights of a run folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy import sparse

import distcalib.runs.replicates as replicates
from distcalib import RunConfig
from distcalib.cli import main
from distcalib.config import FitConfig
from distcalib.errors import InputError
from distcalib.matrix.blocks import write_block
from distcalib.microdata import bundled_microdata
from distcalib.runs import make_plan
from distcalib.runs.fitting import FitTask, fit
from distcalib.runs.folder import write_plan
from distcalib.runs.replicates import write_replicates
from distcalib.runs.tasks import Inputs


@pytest.fixture(scope="module")
def run(small_settings, tmp_path_factory) -> Path:
    """A real plan and a real fit, with drawn cells in place of simulated ones."""
    folder = tmp_path_factory.mktemp("fitted")
    prepared = make_plan(RunConfig.load(small_settings))
    write_plan(folder, prepared, replace=False)
    rows, columns = prepared.targets.rows, prepared.columns
    area = rows["geographic_id"].astype(int).to_numpy()[:, None]
    inside = (area == columns["cd_geoid"].to_numpy()) | (area == columns["state_fips"].to_numpy())
    rng = np.random.default_rng(1)
    cells = inside * (rng.random(inside.shape) < 0.4) * rng.lognormal(0, 1, inside.shape)
    write_block(folder / "matrix.zarr" / "X", sparse.csr_array(cells.astype(np.float32)))
    nowhere = Inputs(str(folder), "", "", "", "", 2024, 3, True)
    settings = asdict(FitConfig(epochs=0, refit_epochs=50, ridge=0.1))
    fit(FitTask(nowhere, "0", "torch", settings))
    return folder


def test_the_fit_says_why_targets_are_missed_by_target_and_by_group(run):
    targets = pd.read_csv(run / "fit" / "diagnostics.csv", keep_default_na=False)
    groups = pd.read_csv(run / "fit" / "groups.csv", keep_default_na=False)
    fitted = targets[targets["status"] == "fit"]
    missed = fitted["within_tolerance"].astype(str) == "False"
    assert missed.any()
    assert (fitted.loc[missed, "cause"] != "").all()
    assert (targets.drop(fitted.index[missed])["cause"] == "").all()
    assert groups["missed"].sum() == missed.sum()
    assert groups["targets"].sum() == len(fitted)
    assert ((groups["causes"] != "") == (groups["within_tolerance"] < 0.95)).all()
    receipt = json.loads(next((run / "receipts" / "fit").glob("*.json")).read_text())
    assert "fit/groups.csv" in receipt["outputs"]


def test_what_stands_against_targets_is_listed_before_the_fit(run):
    table = pd.read_csv(run / "fit" / "consistency.csv", keep_default_na=False)
    assert table["name"].tolist() == pd.read_parquet(run / "targets.parquet")["name"].tolist()
    found = table.loc[table["problem"] != "", "problem"].value_counts().to_dict()
    assert found
    summary = json.loads((run / "fit" / "summary.json").read_text())
    assert summary["problems"] == found
    receipt = json.loads(next((run / "receipts" / "fit").glob("*.json")).read_text())
    assert "fit/consistency.csv" in receipt["outputs"]


def read(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "replicates.parquet")


def test_one_row_a_column_with_its_replicates(run, tmp_path):
    result = CliRunner().invoke(
        main, ["replicates", str(run), "--number", "3", "--output", str(tmp_path), "--no-refit"]
    )
    assert result.exit_code == 0, result.output
    assert "sampling of donors alone" in result.output
    assert result.output.startswith("replicates")
    table, columns = read(tmp_path), pd.read_parquet(run / "columns.parquet")
    assert table.columns.tolist() == [
        *("column", "household_id", "cd_geoid", "state_fips", "weight"),
        *("r001", "r002", "r003"),
    ]
    pd.testing.assert_frame_equal(table.iloc[:, :4], columns[table.columns[:4]])
    np.testing.assert_array_equal(table["weight"], np.load(run / "fit" / "weights.npy"))
    stored = json.loads(pq.read_schema(tmp_path / "replicates.parquet").metadata[b"distcalib"])
    assert stored["number"] == 3
    assert stored["perturbation"] == 1
    assert stored["donors"] == 300
    assert "donors alone" in stored["note"]
    # A factor is n / (n - 1) times a whole number, with the n of a state: the same for all of a donor.
    factor = (table["r001"] / table["weight"]).fillna(0)
    assert factor.groupby(table["household_id"]).nunique().max() == 1
    assert 0.2 < (factor == 0).mean() < 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["replicates.parquet"]


def test_what_is_done_is_not_done_again(run, tmp_path, monkeypatch):
    made = []
    real = replicates.refitted_weights

    def counted(*args, **kwargs):
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(replicates, "refitted_weights", counted)

    def stop(replicate: int) -> None:
        if replicate == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_replicates(run, tmp_path / "a", number=3, progress=stop)
    assert len(made) == 2
    write_replicates(run, tmp_path / "a", number=3)
    assert len(made) == 3
    write_replicates(run, tmp_path / "a", number=5)
    assert len(made) == 5
    write_replicates(run, tmp_path / "b", number=5)
    both = [(tmp_path / name / "replicates.parquet").read_bytes() for name in "ab"]
    assert both[0] == both[1]
    # Lowering each donor by its factor alone would not be a fit: the replicates keep the mass that they fit.
    assert read(tmp_path / "a")["r004"].sum() == pytest.approx(read(tmp_path / "a")["weight"].sum(), rel=0.1)
    with pytest.raises(InputError, match="other inputs"):
        write_replicates(run, tmp_path / "a", number=3, seed=1)


def test_certain_donors_are_fixed(run, tmp_path):
    donors = pd.read_parquet(run / "columns.parquet")["household_id"].unique()
    listed = donors[:40]
    file = tmp_path / "certain.csv"
    pd.DataFrame({"household_id": donors, "certain": np.isin(donors, listed)}).to_csv(file, index=False)
    facts = write_replicates(run, tmp_path / "out", number=2, calibrate=False, certain=file)
    assert facts["donors_certain"] == 40
    table = read(tmp_path / "out")
    fixed = table["household_id"].isin(listed)
    assert (table.loc[fixed, "r002"] == table.loc[fixed, "weight"]).all()
    assert (table.loc[~fixed, "r002"] != table.loc[~fixed, "weight"]).any()


def test_the_table_beside_the_microdata_says_who_is_certain(run, tmp_path):
    plan = json.loads((run / "plan.json").read_text())
    microdata = Path(plan["run"]["microdata"])
    beside = microdata.with_name(f"{microdata.stem}_households.csv.gz")
    assert not beside.exists()
    donors = pd.read_parquet(run / "columns.parquet")["household_id"].unique()
    try:
        pd.DataFrame({"household_id": donors, "certain": donors % 2 == 0}).to_csv(beside, index=False)
        facts = write_replicates(run, tmp_path / "out", number=2, calibrate=False)
    finally:
        beside.unlink()
    assert facts["donors_certain"] == (donors % 2 == 0).sum()


def test_the_bundled_microdata_come_with_their_certain_donors(tmp_path):
    settings = asdict(RunConfig.load("demo"))
    plan = {"digest": "0" * 64, "run": settings, "slices": []}
    plan |= {part: {} for part in ("code", "inputs", "versions", "engines")}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    donors, facts = replicates._donors(tmp_path, bundled_microdata().digest(), None)
    assert facts["donors"] == len(donors) == 12_000
    assert 1_000 < facts["donors_certain"] < 3_000


def test_bad_lists_and_folders_are_named(run, tmp_path):
    file = tmp_path / "certain.csv"
    file.write_text("household_id,certain\n-7,True\n-8,False\n")
    with pytest.raises(InputError, match=r"certain\.csv: lists 1 households.*-7"):
        write_replicates(run, tmp_path / "out", certain=file)
    file.write_text("id\n1\n")
    with pytest.raises(InputError, match=r"certain\.csv: cannot be read"):
        write_replicates(run, tmp_path / "out", certain=file)
    with pytest.raises(InputError, match="has no weights"):
        write_replicates(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
