"""The preset `tiny`, six states, with twenty clones: one X however it is cut, and files that give X.w."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.matrix.blocks import read_block
from distcalib.microdata import Microdata
from distcalib.runs import plan
from distcalib.runs.manifest import read_manifest
from distcalib.runs.plan import make_plan
from distcalib.targets.choose import Targets, load_targets
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets

AMOUNTS = ("assigned_aca_ptc", "snap")


def tiny(households: int = 300, clones: int = 20) -> RunConfig:
    config = RunConfig.load("tiny").changed(households=households, n_clones=clones)
    fit = replace(config.fit, epochs=50, refit_epochs=500)
    return config.changed(fit=fit)


def targets_of_six_states(path: Path) -> Path:
    """Write a database of the preset's districts and states, and of the six together as the nation.

    A target of the nation is the sum of its states' where there are such, else what falls to its residents;
    the ACA credit and SNAP of a district are what falls to its residents of the state's.
    """
    everywhere = districts()
    own = everywhere[everywhere["name"].isin(RunConfig.load("tiny").geography.districts)]
    table = bundled_targets()
    table = table[table["status"] != "excluded"]
    codes = {
        "national": ["US"],
        "state": own["state_fips"].astype(str),
        "district": own["cd_geoid"].astype(str),
    }
    nation, states, parts = (
        table[(table["geo_level"] == level) & table["geographic_id"].isin(here)]
        for level, here in codes.items()
    )
    key = ["variable", "reform_id", "period", "constraints"]
    sums = states.groupby(key)["value"].agg(["sum", "size"]).query("size == 6")["sum"]
    falls = nation["value"] * own["population"].sum() / everywhere["population"].sum()
    summed = sums.reindex(pd.MultiIndex.from_frame(nation[key])).set_axis(nation.index)
    nation = nation.assign(value=summed.fillna(falls), moe=np.nan)
    share = own["population"] / own.groupby("state_fips")["population"].transform("sum")
    places = pd.DataFrame({"geographic_id": codes["state"], "cd": codes["district"], "share": share})
    more = states[states["variable"].isin(AMOUNTS) & (states["constraints"] == "")].merge(places)
    more = more.assign(geo_level="district", geographic_id=more["cd"], value=more["value"] * more["share"])
    write_database_file(pd.concat([nation, states, parts, more])[list(table)], path)
    return path


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


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The preset with `targets_of_six_states`, of which those of the nation are not left out."""
    everywhere = set(districts()["cd_geoid"])

    def of_the_nation(database: str, period: int, _: set[int], *args: Any, **named: Any) -> Targets:
        return load_targets(database, period, everywhere, *args, **named)

    monkeypatch.setattr(plan, "load_targets", of_the_nation)
    database = targets_of_six_states(tmp_path / "targets.db")
    config = tiny()
    return config.changed(targets=replace(config.targets, database=str(database)))


@pytest.mark.slow
def test_the_matrix_is_the_same_with_one_worker_and_two_and_in_slices_of_three_sizes(six, tmp_path):
    two = tmp_path / "two"
    Run(six, two, ClusterConfig(workers=2)).execute()
    blocks, X = digests(two)
    one = tmp_path / "one"
    stopped = Run(six, one, ClusterConfig(workers=1)).execute(until="assemble")
    assert stopped["until"] == "assemble"
    assert digests(one) == (blocks, X)
    assert not (one / "manifest.json").exists()
    assert not (one / "fit").exists()
    # In this process, one slice after the other.
    for size in (170, 420):
        cut = tmp_path / str(size)
        sliced = six.changed(simulation=replace(six.simulation, slice_households=size))
        Run(sliced, cut, ClusterConfig(kind="serial")).execute(until="assemble")
        assert digests(cut)[1] == X
        assert len(digests(cut)[0]) > len(blocks)

    # Counties and take-up are drawn.
    columns = pd.read_parquet(two / "columns.parquet")
    assert len(columns) == 6_000
    assert columns["state_fips"].nunique() == 6
    assert columns.groupby("state_fips")["county_fips"].nunique().loc[30] > 20
    drawn = Microdata.read(two / "microdata.h5", 2024)
    assert set(columns["household_id"]) == set(drawn.ids["household"])

    # The files of nation, states and districts give X.w, for all that is fitted.
    table = pd.read_csv(two / "verify/targets.csv")
    targets = pd.read_parquet(two / "targets.parquet")
    assert table["name"].tolist() == targets["name"].tolist()
    weights = np.load(two / "fit/weights.npy")
    matrix = read_block(two / "matrix.zarr/X").astype(np.float64)
    apart = np.abs(table["from_files"].to_numpy() - matrix @ weights)
    assert (apart <= 1e-6 * (abs(matrix) @ weights)).all()
    assert (table["proven"] & table["ok"]).all()
    fitted = targets["status"] == "fit"
    assert targets.loc[fitted & (targets["geo_level"] == "national"), "variable"].nunique() > 20
    amounts = fitted & targets["variable"].isin(AMOUNTS) & (targets["constraints"] == "")
    count = targets[amounts].groupby("geo_level").size().to_dict()
    assert count == {"national": 2, "state": 12, "district": 16}
    assert (table.loc[amounts, "from_files"] > 0).all()
    assert read_manifest(two)["verification"]["largest_difference"] <= 1e-6
