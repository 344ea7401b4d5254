"""The preset `tiny`, six states, with twenty clones: one X however it is cut, and files that give X.w."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError
from distcalib.matrix.blocks import read_block
from distcalib.microdata import Microdata
from distcalib.runs.manifest import read_manifest
from distcalib.runs.plan import make_plan


def tiny(households: int = 300, clones: int = 20, size: int | None = None) -> RunConfig:
    config = RunConfig.load("tiny").changed(households=households, n_clones=clones)
    fit = replace(config.fit, epochs=50, refit_epochs=500)
    return config.changed(simulation=replace(config.simulation, slice_households=size), fit=fit)


def digests(folder: Path) -> tuple[set[str], str]:
    receipts = [json.loads(p.read_text()) for p in folder.glob("receipts/*/*.json")]
    blocks = {d for r in receipts if r["stage"] == "simulate" for d in r["outputs"].values()}
    return blocks, next(d for r in receipts if r["stage"] == "assemble" for d in r["outputs"].values())


def test_a_sample_is_nested_keeps_ids_and_the_sum_of_weights(bundled):
    some, more = bundled.sample(50, seed=1), bundled.sample(80, seed=1)
    assert set(some.ids["household"]) < set(more.ids["household"]) < set(bundled.ids["household"])
    assert set(bundled.sample(50, seed=2).ids["household"]) != set(some.ids["household"])
    assert some.weights.sum() == pytest.approx(bundled.weights.sum(), rel=1e-6)
    donor = pd.Index(bundled.ids["household"]).get_indexer(some.ids["household"])
    assert (donor >= 0).all()
    persons = np.bincount(some.household_of["person"])
    assert np.array_equal(persons, np.bincount(bundled.household_of["person"])[donor])


def test_a_plan_of_a_sample_says_so_and_more_than_there_are_is_refused(bundled):
    prepared = make_plan(tiny(30, 2))
    assert prepared.plan.facts["columns"] == 60
    assert prepared.sample is not None
    assert prepared.plan.inputs["microdata"] == prepared.sample.digest() != bundled.digest()
    with pytest.raises(InputError, match=r"households.*12001"):
        make_plan(tiny(12_001))


@pytest.mark.slow
def test_the_matrix_is_the_same_with_one_worker_and_two_and_in_slices_of_three_sizes(tmp_path):
    two = tmp_path / "two"
    Run(tiny(), two, ClusterConfig(workers=2)).execute()
    blocks, X = digests(two)
    one = tmp_path / "one"
    stopped = Run(tiny(), one, ClusterConfig(workers=1)).execute(until="assemble")
    assert stopped["until"] == "assemble"
    assert digests(one) == (blocks, X)
    assert not (one / "manifest.json").exists()
    assert not (one / "fit").exists()
    # In this process, one slice after the other.
    for size in (170, 420):
        cut = tmp_path / str(size)
        Run(tiny(size=size), cut, ClusterConfig(kind="serial")).execute(until="assemble")
        assert digests(cut)[1] == X
        assert len(digests(cut)[0]) > len(blocks)

    # Counties and take-up are drawn, and the files of nation, states and districts give X.w.
    columns = pd.read_parquet(two / "columns.parquet")
    assert len(columns) == 6_000
    assert columns["state_fips"].nunique() == 6
    assert columns.groupby("state_fips")["county_fips"].nunique().loc[30] > 20
    table = pd.read_csv(two / "verify/targets.csv")
    targets = pd.read_parquet(two / "targets.parquet")
    assert table["ok"].all()
    assert len(table) == len(targets)
    fitted = targets[targets["status"] == "fit"]
    # National targets are not of six states.
    assert set(fitted["geo_level"]) == {"state", "district"}
    weights = np.load(two / "fit/weights.npy")
    promised = read_block(two / "matrix.zarr/X") @ weights
    for variable in ("assigned_aca_ptc", "snap"):
        at = np.flatnonzero((targets["variable"] == variable).to_numpy())
        assert (promised[at] > 0).any(), variable
    assert read_manifest(two)["verification"]["largest_difference"] <= 1e-6
    drawn = Microdata.read(two / "microdata.h5", 2024)
    assert set(columns["household_id"]) == set(drawn.ids["household"])
