"""The proof: X.w is what the files give, whatever is opened and however it is cut; faults are named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.catalogue import catalogue
from distcalib.errors import InputError, RunError
from distcalib.microdata import Microdata
from distcalib.runs import verify, verify_stage
from distcalib.runs.area_stage import area_work, files_of
from distcalib.runs.plan import Prepared, make_plan
from distcalib.runs.receipts import Receipt
from distcalib.runs.tasks import write_areas
from distcalib.runs.verdict import judge, not_proven
from distcalib.runs.verify import TOGETHER, Slice, check_files, check_totals, prove
from distcalib.runs.verify_stage import _cut, proof_of
from distcalib.storage import sha256_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(small_settings: Path) -> RunConfig:
    found = RunConfig.load(small_settings)
    return found.changed(areas=replace(found.areas, others={"coast": "county_fips in 33015 33017"}))


@pytest.fixture(scope="module")
def prepared(config) -> Prepared:
    return make_plan(config)


@pytest.fixture(scope="module")
def done(small_run, config, prepared, tmp_path_factory) -> Path:
    """The small run with a named area; every file is there, nothing is proven yet."""
    folder = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("proof") / "run"))
    shutil.rmtree(folder / "verify")
    shutil.rmtree(folder / "receipts/verify")
    inputs = Run(config, folder)._inputs(prepared.plan)
    for task in area_work(
        prepared.plan, inputs, files_of(config, prepared.assignment), prepared.assignment
    ).tasks:
        write_areas(task)
    return folder


@pytest.fixture(scope="module")
def proven(done, prepared) -> dict:
    return prove_all(done, prepared)


@pytest.fixture
def copy(done, proven, tmp_path) -> Path:
    """What is proven in it already need not be opened again where its files stay."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


def prove_all(folder: Path, prepared: Prepared, **settings: object) -> dict:
    """Prove the files that lie in the folder as if they had been written so."""
    plan = prepared.plan
    if settings:
        plan = replace(plan, run=replace(plan.run, verify=replace(plan.run.verify, **settings)))
    inputs = Run(plan.run, folder)._inputs(plan)
    files = files_of(plan.run, prepared.assignment)
    there = [area.file for area in files.written if (folder / area.file).is_file()]
    written = {file: sha256_file(folder / file) for file in there}
    proof = proof_of(plan, inputs, files, written, prepared.assignment)
    checks = [Receipt(**check_files(task)) for task in proof.checks]
    receipts = [Receipt(**prove(task)) for task in proof.tasks]
    return judge(folder, plan, proof, checks, receipts, prepared.assignment)


def change(path: Path, name: str, at: int, value: object) -> None:
    with h5py.File(path, "r+") as h5:
        h5[f"{name}/2024"][at] = value


def test_every_target_is_proven_and_areas_have_totals(done, proven, prepared):
    table = pd.read_csv(done / "verify/targets.csv")
    assert proven["proven"] == proven["targets"] == len(table) == len(prepared.targets.rows)
    assert table["ok"].all()
    assert table["proven"].all()
    assert proven["largest_difference"] < 1e-9
    assert proven["districts_checked"] == 3
    assert set(proven["fits"]) == {"few"}
    assert proven["fits"]["few"]["proven"] == len(table)
    totals = pd.read_csv(done / "verify/areas.csv")
    assert list(totals) == ["area", "geo_level", "variable", "total", "households", "nonzero"]
    assert set(totals["geo_level"]) == {"national", "state", "district", "other"}
    assert set(totals["area"]) == {"US", "NH", "WY", "NH-01", "NH-02", "WY-01", "coast"}
    assert set(prepared.plan.run.verify.totals) <= set(totals["variable"])
    at = totals.set_index(["area", "variable"])
    for variable in ("snap", "person_in_poverty", "income_tax"):
        own, whole = at.loc[(["NH", "WY"], variable), "total"].sum(), at.loc[("US", variable), "total"]
        assert own == pytest.approx(whole, rel=1e-12)
    assert 0 < at.loc[("US", "person_in_poverty"), "total"] < at.loc[("US", "person_count"), "total"] / 2
    coast = Microdata.read(done / "areas/others/coast.h5")
    assert at.loc[("coast", "household_count"), "households"] == coast.count() > 5
    assert at.loc[("coast", "household_count"), "total"] == pytest.approx(coast.weights.sum())
    persons = np.bincount(coast.links["household"])
    assert at.loc[("coast", "person_count"), "total"] == pytest.approx(persons @ coast.weights)


def test_figures_are_those_of_microsimulation_on_the_file(done, proven):
    from policyengine_us import Microsimulation

    totals = pd.read_csv(done / "verify/areas.csv").set_index(["area", "variable"])
    opened = Microsimulation(dataset=str(done / "areas/others/coast.h5"))
    with np.errstate(all="ignore"):
        for variable in ("person_in_poverty", "household_net_income", "snap", "state_income_tax"):
            found = float(opened.calculate(variable, 2024).sum())
            assert found == pytest.approx(totals.loc[("coast", variable), "total"], rel=1e-5), variable


def test_nothing_depends_on_what_is_opened(done, proven, prepared, tmp_path):
    tables = ("targets.csv", "areas.csv", "population.csv")
    first = {name: (done / "verify" / name).read_bytes() for name in tables}
    for name, gone in (("nation", ["states"]), ("districts", ["states", "national"])):
        folder = Path(shutil.copytree(done, tmp_path / name))
        for kind in gone:
            shutil.rmtree(folder / "areas" / kind)
        found = prove_all(folder, prepared, plain=0)
        assert found["proven"] == found["targets"]
        assert {n: (folder / "verify" / n).read_bytes() for n in tables} == first, name


def test_nothing_depends_on_how_files_are_cut(done, prepared, tmp_path, monkeypatch):
    for module in (verify, verify_stage):
        monkeypatch.setattr(module, "TOGETHER", 20)
    tables = ("targets.csv", "areas.csv", "population.csv", "fits/few/targets.csv")
    found = []
    for size in (60, 4_500):
        folder = Path(shutil.copytree(done, tmp_path / f"cut-{size}"))
        shutil.rmtree(folder / "receipts/verify", ignore_errors=True)
        prove_all(folder, prepared, slice_households=size, plain=0)
        found.append({name: (folder / "verify" / name).read_bytes() for name in tables})
        # Cut in pieces of sixty there are more simulations.
        parts = [pd.read_parquet(p) for p in (folder / "verify/parts").glob("*.parquet")]
        assert max(t["part"].max() for t in parts) > 4
    assert found[0] == found[1]


def test_what_has_no_file_is_not_proven_and_never_ok(copy, prepared):
    for path in ("states/WY.h5", "districts/WY-01.h5", "national/US.h5"):
        (copy / "areas" / path).unlink()
    found = prove_all(copy, prepared)
    table = pd.read_csv(copy / "verify/targets.csv", dtype={"geographic_id": str})
    held = table["geographic_id"].isin(["33", "3301", "3302"])
    assert (table["proven"] == held).all()
    assert not table.loc[~held, "ok"].any()
    assert table.loc[~held, "from_files"].isna().all()
    assert found["proven"] == held.sum() < found["targets"]
    assert "not proven" in not_proven(found)[0]
    assert set(pd.read_csv(copy / "verify/areas.csv")["area"]) == {"NH", "NH-01", "NH-02", "coast"}
    shutil.rmtree(copy / "areas")
    nothing = prove_all(copy, prepared)
    assert nothing["proven"] == 0
    assert nothing["files"] == 0
    assert len(not_proven(nothing)) == 1


def only_states(folder: Path) -> None:
    for kind in ("districts", "national", "others"):
        shutil.rmtree(folder / "areas" / kind)


def test_a_wrong_weight_fails_and_the_cause_is_the_weights(copy, prepared):
    only_states(copy)
    path = copy / "areas/states/NH.h5"
    with h5py.File(path) as h5:
        weight = float(h5["household_weight/2024"][4])
        district = int(h5["congressional_district_geoid/2024"][4])
    change(path, "household_weight", 4, weight * 1.5)
    with pytest.raises(RunError, match="do not give what the matrix promised") as error:
        prove_all(copy, prepared)
    for words in (
        "from X.w",
        "areas/states/NH.h5 are not those of the fit",
        f"NH-0{district % 100}",
        "weights.npy",
    ):
        assert words in str(error.value)
    table = pd.read_csv(copy / "verify/targets.csv")
    assert not table["ok"].all()


def test_a_flag_flipped_in_a_states_file_fails_and_names_what_differs(copy, prepared):
    only_states(copy)
    path = copy / "areas/states/NH.h5"
    with h5py.File(path, "r+") as h5:
        flags = h5["takes_up_snap_if_eligible/2024"]
        flags[:] = ~flags[:]
    with pytest.raises(RunError, match="households and weights agree, but") as error:
        prove_all(copy, prepared)
    assert "snap" in str(error.value)
    assert "areas/states/NH.h5" in str(error.value)


def test_a_flag_flipped_in_a_districts_file_is_named_before_anything_is_opened(copy, prepared):
    path = copy / "areas/districts/NH-02.h5"
    with h5py.File(path) as h5:
        flag, unit = h5["takes_up_snap_if_eligible/2024"][5], int(h5["spm_unit_id/2024"][5])
    change(path, "takes_up_snap_if_eligible", 5, not flag)
    with pytest.raises(RunError) as error:
        prove_all(copy, prepared)
    for words in ("districts/NH-02.h5", "takes_up_snap_if_eligible", f"spm_unit {unit}", "states/NH.h5"):
        assert words in str(error.value)


def test_a_value_that_differs_where_repeats_are_spared_ends_the_run(copy, prepared, monkeypatch):
    """What is spared could be wrong in simulation and proof alike, so some slices are opened without."""
    given = verify.evaluate
    calls: list[int] = []

    def spared_is_wrong(measures, data, calculate):
        table = given(measures, data, calculate)
        calls.append(len(table))
        if len(calls) == 1:
            table[3, 2] += 1
        return table

    monkeypatch.setattr(verify, "evaluate", spared_is_wrong)
    for kind in ("districts", "national", "others"):
        shutil.rmtree(copy / "areas" / kind)
    (copy / "areas/states/NH.h5").unlink()
    shutil.rmtree(copy / "receipts/verify")
    with pytest.raises(RunError, match="differs where the rules engine is spared"):
        prove_all(copy, prepared)
    assert len(calls) == 2


def test_a_nation_that_is_not_its_states_is_named(copy, prepared):
    change(copy / "areas/national/US.h5", "household_weight", -1, 1.0)
    with pytest.raises(RunError, match=r"US\.h5: household_weight"):
        prove_all(copy, prepared)


def test_sums_of_files_are_judged_though_no_file_is_held_against_another(copy, prepared, monkeypatch):
    """A fault: what compares files value by value lets all pass; only the states' files are opened again."""
    monkeypatch.setattr(verify, "require_part", lambda *_: None)
    path = copy / "areas/districts/NH-02.h5"
    with h5py.File(path) as h5:
        weight = float(h5["household_weight/2024"][4])
    change(path, "household_weight", 4, weight * 1.5)
    with pytest.raises(RunError, match=r"sums: weight of US is .*the files of its districts hold other"):
        prove_all(copy, prepared)
    found = pd.read_csv(copy / "verify/gates.csv")
    own = found[found["kind"] == "sums"]
    assert set(zip(own["area"], own["variable"], strict=True)) == {("NH", "weight"), ("US", "weight")}


def test_a_state_without_a_record_is_held_by_the_nations_file(copy, prepared):
    path = copy / "fits/few/weights.npy"
    weights = np.load(path)
    weights[prepared.assignment.state_fips == 56] = 0
    np.save(path, weights)
    inputs = Run(prepared.plan.run, copy)._inputs(prepared.plan)
    files = files_of(prepared.plan.run, prepared.assignment)
    written = {area.file: "" for area in files.nations}
    cover = proof_of(prepared.plan, inputs, files, written, prepared.assignment).covers["few"]
    assert cover.nation
    assert cover.states == {33, 56}
    assert cover.districts == {3301, 3302, 5601}


def test_a_household_outside_of_a_named_area_is_named(copy, prepared):
    change(copy / "areas/others/coast.h5", "county_fips", 0, b"33001")
    with pytest.raises(RunError, match=r"others/coast\.h5.*not in the area"):
        prove_all(copy, prepared)


def test_a_missing_household_and_a_file_of_another_run_are_named(copy, prepared):
    path = copy / "areas/states/NH.h5"
    data = Microdata.read(path)
    rest = np.arange(data.count() - 1)
    ids = {e: data.ids[e][data.rows_of(e, rest)[0]] for e in data.ids}
    data.take(rest, ids).write(path)
    with pytest.raises(RunError, match=r"NH\.h5 has \d+ households, but \d+ have weight there.*another plan"):
        prove_all(copy, prepared)
    shutil.copy(copy / "areas/states/WY.h5", path)
    with pytest.raises(RunError, match=r"NH\.h5"):
        prove_all(copy, prepared)


def test_a_byte_flipped_after_writing_is_found(copy, prepared):
    path = copy / "areas/districts/WY-01.h5"
    inputs = Run(prepared.plan.run, copy)._inputs(prepared.plan)
    files = files_of(prepared.plan.run, prepared.assignment)
    written = {area.file: sha256_file(copy / area.file) for area in files.written}
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    shutil.rmtree(copy / "receipts/verify")
    proof = proof_of(prepared.plan, inputs, files, written, prepared.assignment)
    with pytest.raises(RunError, match=r"WY-01\.h5 changed since it was written"):
        [check_files(task) for task in proof.checks]


def test_a_run_is_the_same_for_one_worker_and_two(small_run, config, prepared, done, proven, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "serial"))
    shutil.rmtree(folder / "verify")
    shutil.rmtree(folder / "receipts/verify")
    (folder / "manifest.json").unlink(missing_ok=True)
    prove_all(folder, prepared)
    for name in ("targets.csv", "population.csv", "fits/few/targets.csv"):
        assert (folder / "verify" / name).read_bytes() == (small_run / "verify" / name).read_bytes(), name


@pytest.mark.parametrize("n", [1, 199, 200, 4_500, 4_501, 12_345, 120_001])
def test_slices_cover_a_state_in_whole_multiples(n):
    cut = _cut(Slice("f", "", 6, -7, 130, 130 + n), 4_500)
    assert cut[0].first == 130
    assert cut[-1].last == 130 + n
    assert [a.last for a in cut[:-1]] == [b.first for b in cut[1:]]
    assert all(0 < s.last - s.first <= 4_500 for s in cut)
    assert all(s.first % TOGETHER == 0 for s in cut[1:])


def test_totals_that_cannot_be_summed_are_refused(config):
    def asking(name: str) -> RunConfig:
        return config.changed(verify=replace(config.verify, totals=(name,)))

    check_totals(config)
    whole = "household_net_income_including_health_benefits"
    assert whole in catalogue()
    for name, words in (("snapp", "snap"), ("state_name", "numeric"), (whole, "everybody else")):
        with pytest.raises(InputError, match=words):
            check_totals(asking(name))
    with pytest.raises(InputError, match=r"verify\.totals"):
        make_plan(asking("snapp"))


def test_a_serial_run_proves_what_is_asked_for(small_settings, small_run, tmp_path):
    """`areas.only` in a whole run: the rest is said not to be proven."""
    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    config = RunConfig.load(small_settings)
    config = config.changed(areas=replace(config.areas, only=("WY",)))
    seen: list[dict] = []
    shutil.rmtree(folder / "receipts/verify")
    (folder / "manifest.json").unlink()
    Run(config, folder, ClusterConfig(kind="serial"), [seen.append]).execute()
    assert any("not proven" in e.get("text", "") for e in seen)
    table = pd.read_csv(folder / "verify/targets.csv", dtype={"geographic_id": str})
    assert set(table.loc[table["proven"], "geographic_id"]) == {"56", "5601"}
