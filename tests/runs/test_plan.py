"""Plans are values: equal inputs give equal digests, and what cannot work is refused before it starts."""

from __future__ import annotations

import json
import os
import subprocess
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError, RunError
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES
from distcalib.microdata import Microdata
from distcalib.runs.costs import bundled_costs
from distcalib.runs.folder import write_plan
from distcalib.runs.plan import Plan, Slice, make_plan, read_source
from distcalib.runs.receipts import Receipt
from distcalib.runs.sizes import check_resources, facts_of, fit_bytes
from distcalib.runs.tasks import take_up_of
from distcalib.simulation.takeup import rates
from distcalib.targets.choose import load_targets

SERIAL = ClusterConfig(kind="serial")


@pytest.fixture
def config(settings: Path) -> RunConfig:
    return RunConfig.load(settings)


def slices(config: RunConfig, size: int) -> RunConfig:
    return replace(config, simulation=replace(config.simulation, slice_households=size))


def test_the_slices_cover_every_column_once(config):
    prepared = make_plan(config)
    covered = []
    for s in prepared.plan.slices:
        columns = np.flatnonzero(prepared.assignment.state_fips == s.state_fips)
        covered += columns[s.start : s.stop].tolist()
        assert s.size <= 120
    assert sorted(covered) == list(range(prepared.assignment.n_columns))
    assert len({s.id for s in prepared.plan.slices}) == len(prepared.plan.slices)


def test_what_does_not_change_the_outputs_does_not_change_the_digest(config, small_file, tmp_path):
    digest = make_plan(config).plan.digest()
    assert make_plan(config).plan.digest() == digest
    assert make_plan(replace(config, name="other")).plan.digest() == digest
    assert make_plan(slices(config, 50)).plan.digest() == digest
    copy = tmp_path / "copy.h5"
    copy.write_bytes(small_file.read_bytes())
    assert make_plan(replace(config, microdata=str(copy))).plan.digest() == digest


def test_what_changes_the_outputs_changes_the_digest(config):
    digests = {make_plan(config).plan.digest()}
    for other in (
        replace(config, seed=4),
        replace(config, n_clones=2),
        replace(config, fit=replace(config.fit, ridge=0.1)),
        replace(config, simulation=replace(config.simulation, take_up=False)),
        replace(config, geography=replace(config.geography, districts=("WY-01",))),
    ):
        digests.add(make_plan(other).plan.digest())
    assert len(digests) == 6


def test_a_changed_fit_keeps_the_simulation_tasks(config):
    first, second = (
        make_plan(config).plan,
        make_plan(replace(config, fit=replace(config.fit, ridge=0.1))).plan,
    )
    assert [s.id for s in first.slices] == [s.id for s in second.slices]
    third = make_plan(replace(config, seed=4)).plan
    assert not {s.id for s in first.slices} & {s.id for s in third.slices}


def test_take_up_rates_of_ones_own_are_part_of_the_plan_and_of_the_run_folder(config, tmp_path):
    file = tmp_path / "rates.csv"
    table = rates()
    table = table.assign(rate=table["rate"].where(table["by"] == "rules", 0.25))
    table.to_csv(file, index=False)
    own = replace(config, simulation=replace(config.simulation, take_up_rates=str(file)))
    bundled, prepared = make_plan(config).plan, make_plan(own)
    assert prepared.plan.digest() != bundled.digest()
    assert not {s.id for s in prepared.plan.slices} & {s.id for s in bundled.slices}
    # The same rates from another place are the same plan, the bundled ones among them.
    shipped = tmp_path / "shipped.csv"
    rates().to_csv(shipped, index=False)
    same = replace(config, simulation=replace(config.simulation, take_up_rates=str(shipped)))
    assert make_plan(same).plan.digest() == bundled.digest()
    copy = tmp_path / "copy.csv"
    copy.write_bytes(file.read_bytes())
    moved = replace(config, simulation=replace(config.simulation, take_up_rates=str(copy)))
    assert make_plan(moved).plan.digest() == prepared.plan.digest()

    run = Run(own, tmp_path / "out", SERIAL)
    (tmp_path / "out").mkdir()
    write_plan(run.folder, prepared, replace=False)
    inputs = run._inputs(prepared.plan)
    pd.testing.assert_frame_equal(take_up_of(inputs), table)
    assert take_up_of(replace(inputs, take_up=False)) is False
    rates().to_csv(run.folder / "take_up.csv", index=False)
    with pytest.raises(RunError, match=r"take_up.csv is not the plan's"):
        take_up_of(inputs)


def test_a_run_keeps_the_bundled_rates_too_so_that_a_later_package_draws_as_it_did(config, tmp_path):
    prepared = make_plan(config)
    run = Run(config, tmp_path / "out", SERIAL)
    run.folder.mkdir()
    assert "take_up.csv" in write_plan(run.folder, prepared, replace=False)
    pd.testing.assert_frame_equal(take_up_of(run._inputs(prepared.plan)), rates())
    stored = replace(config, simulation=replace(config.simulation, take_up=False))
    assert make_plan(stored).rates is None


def test_microdata_without_incomes_are_refused_before_anything_is_simulated(config, small, tmp_path):
    from distcalib.simulation.place import _without
    from distcalib.simulation.takeup import _INCOME

    names = tuple({*_INCOME, *(part for parts in _INCOME.values() for part in parts)})
    file = tmp_path / "poor.h5"
    _without(small, names).write(file)
    with pytest.raises(InputError, match="the microdata hold no income, by which take-up rates go"):
        make_plan(replace(config, microdata=str(file)))


def test_pinned_households_stay_in_their_state(config, tmp_path):
    free = make_plan(config)
    homes = free.columns.drop_duplicates("household_id")["household_id"].to_numpy()[:5]
    file = tmp_path / "pinned.csv"

    def pinned(words: str) -> RunConfig:
        file.write_text(words, encoding="utf-8")
        return replace(config, geography=replace(config.geography, pinned=str(file)))

    fips = int(free.columns["state_fips"].min())
    rows = [f"{h},{STATE_CODES[fips] if k % 2 else fips}" for k, h in enumerate(homes)]
    prepared = make_plan(pinned("\n".join(["household_id,state", *rows]) + "\n"))
    stay = prepared.columns["household_id"].isin(homes)
    assert set(prepared.columns.loc[stay, "state_fips"]) == {fips}
    assert prepared.columns.loc[~stay, "cd_geoid"].equals(free.columns.loc[~stay, "cd_geoid"])
    assert prepared.plan.digest() != free.plan.digest()
    assert any(words.startswith("5 of") and "stay in one state" in words for words in prepared.plan.warnings)
    for line, wrong in (
        ("99999999,WY", r"line 3: household_id.*is no household.*'99999999'"),
        (f"{homes[0]},WY", "line 3: household_id: is named twice"),
        (f"{homes[1]},ZZ", "line 3: state: is no state.*'ZZ'"),
        (f"{homes[1]},", "line 3: state: is no state"),
        (",WY", "line 3: household_id: is no household"),
    ):
        with pytest.raises(InputError, match=wrong):
            make_plan(pinned(f"household_id,state\n{homes[0]},WY\n{line}\n"))
    with pytest.raises(InputError, match=r"lacks a column.*state"):
        make_plan(pinned(f"household_id,fips\n{homes[0]},56\n"))


def test_the_number_of_few_donors_changes_the_fit_task_and_no_simulation(config):
    plan = make_plan(config).plan
    other = make_plan(replace(config, fit=replace(config.fit, few_donors=3.0))).plan
    assert [s.id for s in plan.slices] == [s.id for s in other.slices]
    assert plan.digest() != other.digest()


def test_a_task_that_outgrows_a_worker_is_refused_with_both_numbers(config):
    plan = make_plan(config).plan
    check_resources(plan, ClusterConfig(memory_limit="4GiB"))
    with pytest.raises(InputError, match=r"stage simulate.*got '1GiB'.*at least 2\.\d GiB"):
        check_resources(plan, ClusterConfig(memory_limit="1GiB"))


def test_a_fit_that_outgrows_its_worker_is_refused_before_anything_is_simulated(config):
    """The nation's fit was measured at 4.2 GiB in a process of its own; workers of 7 GiB do it all."""
    plan = make_plan(config).plan
    national = replace(slices(config, 20_000), n_clones=17_200)  # of 300 households
    facts = facts_of(
        replace(plan, run=national, slices=(Slice("", 56, 0, 20_000),)),
        load_targets("bundled", 2024, set(districts()["cd_geoid"])),
        SimpleNamespace(n_columns=5_160_000, state_fips=np.array([56]), cd_geoid=np.array([5601])),  # type: ignore[arg-type]
        read_source(config),
        bundled_costs(),
    )
    needed = {stage: n / 2**30 for stage, n in facts["task_bytes"].items()}
    assert needed["simulate"] < 4.1 < 6.5 < needed["fit"] < 7
    assert needed["fit"] - needed["fixed"] == pytest.approx(4.2 - 0.4, abs=0.3)
    assert fit_bytes(288_000, 518) / 2**30 == pytest.approx(1.66, abs=0.1)  # eight times the demo, measured
    large = replace(plan, facts=facts)
    check_resources(large, ClusterConfig(memory_limit="7GiB"))
    with pytest.raises(
        InputError, match=r"memory_limit: the fit needs more.*got '4200MiB'.*at least 6\.\d GiB$"
    ):
        check_resources(large, ClusterConfig(memory_limit="4200MiB"))
    apart = ClusterConfig.load(None, {"kind": "slurm", "workers": 2, "memory_limit": "4200MiB"})
    with pytest.raises(InputError, match=r"at least 6\.\d GiB, or a worker of its own"):
        check_resources(large, apart)
    own = replace(apart.fit, workers=1, memory_limit="7GiB")
    check_resources(large, apart.changed(fit=own))
    with pytest.raises(InputError, match=r"fit\.memory_limit: the fit needs more"):
        check_resources(large, apart.changed(fit=replace(own, memory_limit="5GiB")))


def test_one_state_of_many_households_fits_a_worker(config):
    plan = make_plan(replace(slices(config, 3000), n_clones=40)).plan
    assert plan.facts["columns"] == 12_000
    check_resources(plan, ClusterConfig(memory_limit="3GiB"))
    whole = replace(config, n_clones=40, verify=replace(config.verify, slice_households=12_000))
    plan = make_plan(slices(whole, 3000)).plan
    with pytest.raises(InputError, match=r"stage verify.*at least 2\.\d GiB, or a smaller verify\.slice_h"):
        check_resources(plan, ClusterConfig(memory_limit="2700MiB"))


def test_counts_of_entities_are_not_taken_for_inputs_that_the_microdata_lack(config):
    assert not [w for w in make_plan(config).plan.warnings if "inputs that the microdata lack" in w]


def test_no_disk_space_is_refused_and_nothing_is_written(config, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match="not enough disk space"):
        Run(config, tmp_path / "out", SERIAL).execute()
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_refused(config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(InputError, match=r"not enough disk space.*1 MB free"):
            Run(config, disk / "out", SERIAL).execute()
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_of_another_plan_is_refused_and_left_alone(config, tmp_path):
    folder = tmp_path / "out"
    run = Run(config, folder, SERIAL)
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="is not the plan of a run"):
        run.prepare()
    (folder / "plan.json").unlink()
    plan = run.prepare().plan
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    assert run.prepare().plan.digest() == plan.digest()
    with pytest.raises(InputError, match="belongs to another plan") as error:
        Run(replace(config, seed=8), folder, SERIAL).execute()
    assert "seed: 3 there, 8 now" in str(error.value)
    assert [p.name for p in folder.iterdir()] == ["plan.json"]


def test_a_run_killed_while_its_tables_are_written_can_be_taken_up(config, tmp_path, monkeypatch):
    from distcalib.runs import folder as module

    folder = tmp_path / "out"

    def die(path, write):
        (folder / ".99.tmp.targets.parquet").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            Run(config, folder, SERIAL).execute()
    assert (folder / "plan.json").exists()
    assert Run(config, folder, SERIAL).prepare().plan.digest() == make_plan(config).plan.digest()
    (folder / "plan.json").unlink()
    for name in ("events.ndjson",):
        (folder / name).unlink(missing_ok=True)
    Run(config, folder, SERIAL).prepare()


def test_take_up_rates_are_part_of_the_plan(config, monkeypatch):
    from distcalib.runs import plan as module

    first = make_plan(config).plan
    changed = {**module._stage_code(), "simulate": "1" * 64}
    monkeypatch.setattr(module, "_stage_code", lambda: changed)
    assert not {s.id for s in first.slices} & {s.id for s in make_plan(config).plan.slices}
    for stage in ("simulate", "areas", "verify"):
        assert "simulation/bundled/take_up.csv" in module.ROOMS[stage]


def test_microdata_without_ages_are_refused_and_absent_inputs_are_said(config, small, tmp_path):
    values = {e: dict(t) for e, t in small.values.items()}
    del values["household"]["state_fips/2024"]
    del values["person"]["age/2024"]
    Microdata(2024, small.ids, small.links, values).write(tmp_path / "own.h5")
    other = replace(config, microdata=str(tmp_path / "own.h5"))
    with pytest.raises(InputError, match=r"own\.h5: lacks a column that every rule needs.*'age'"):
        make_plan(other)
    values["person"]["age/2024"] = small.column("age")
    del values["person"]["unemployment_compensation/2024"]
    del values["tax_unit" if "real_estate_taxes/2024" in values["tax_unit"] else "person"][
        "real_estate_taxes/2024"
    ]
    Microdata(2024, small.ids, small.links, values).write(tmp_path / "own.h5")
    words = " ".join(make_plan(other).plan.warnings)
    assert "inputs that the microdata lack" in words
    assert "real_estate_taxes" in words


@pytest.mark.parametrize(
    ("name", "first", "words"),
    [
        ("age", 131, r"age/2024: 1 values cannot be; got '131(\.0)? for person \d+'.*0 to 130: nobody"),
        ("pre_subsidy_rent", -1.0, r"pre_subsidy_rent/2024: .*got '-1\.0 for"),
        ("tenure_type", b"CAVE", r"tenure_type/2024: .*got 'CAVE for household \d+'.*one of "),
        ("state_fips", 72, ""),  # of the file, and no file takes it over
    ],
)
def test_values_that_no_file_may_hold_are_refused_by_the_plan(config, small, tmp_path, name, first, words):
    column = small.column(name).copy()
    column[0] = first
    small.with_columns({name: column}).write(tmp_path / "own.h5")
    other = replace(config, microdata=str(tmp_path / "own.h5"), households=250)
    if not words:
        assert read_source(other).count() == 250
        return
    with pytest.raises(InputError, match=rf"own\.h5: {words}"):
        make_plan(other)


@pytest.mark.parametrize(("records", "epochs", "words"), [(301, 20, "at most 300"), (10, 0, "needs epochs")])
def test_a_record_budget_that_cannot_be_is_refused_before_anything_is_simulated(
    config, records, epochs, words
):
    with pytest.raises(InputError, match=words):
        make_plan(replace(config, fit=replace(config.fit, records=records, epochs=epochs)))


def test_districts_of_another_congress_are_refused(config):
    other = replace(config, geography=replace(config.geography, districts=("5001800US3706",)))
    with pytest.raises(InputError, match="118th Congress"):
        make_plan(other)


def test_an_output_that_is_a_file_is_refused(config, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="the output folder is a file"):
        Run(config, tmp_path / "out", SERIAL).execute()


def test_a_resumed_run_keeps_the_slices_of_its_plan(config, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    plan = make_plan(slices(config, 30)).plan
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    resumed = Run(slices(config, 200), folder, SERIAL).prepare().plan
    assert resumed.slices == plan.slices


def test_a_folder_with_other_things_in_it_is_refused(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious")
    with pytest.raises(InputError, match="not empty and holds no plan"):
        Run(config, tmp_path / "out", SERIAL).execute()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.doc"]


def test_a_run_of_other_code_is_refused_with_both_digests_unless_accepted(config, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    stored = make_plan(config).plan
    other = replace(stored, code={**stored.code, "fit": "0" * 64})
    (folder / "plan.json").write_text(json.dumps(other.to_json()))
    with pytest.raises(
        RunError, match=r"begun by other code \(fit: 000000000000 there, \w{12} now\)"
    ) as told:
        Run(config, folder, SERIAL).prepare()
    assert f"go on with `distcalib run --output {folder} --accept-code`" in str(told.value)
    stale = replace(stored, code={**stored.code, "simulate": "0" * 64})
    (folder / "plan.json").write_text(json.dumps(stale.to_json()))
    with pytest.raises(RunError, match="give --accept-code too to go on"):
        Run(config, folder, SERIAL, force="fit").prepare()
    (folder / "plan.json").write_text(json.dumps(other.to_json()))
    assert Run(config, folder, SERIAL, accept_code=True).prepare().plan.digest() == stored.digest()
    judged = replace(stored, code={**stored.code, "judge": "0" * 64})
    (folder / "plan.json").write_text(json.dumps(judged.to_json()))
    with pytest.raises(RunError, match=r"begun by other code \(judge: 000000000000 there, \w{12} now\)"):
        Run(config, folder, SERIAL).prepare()
    Run(config, folder, SERIAL, force="verify").prepare()  # which is done anew
    other = replace(stored, versions={**stored.versions, "distcalib": "0.0.1"})
    (folder / "plan.json").write_text(json.dumps(other.to_json()))
    with pytest.raises(RunError, match=r"begun by other code \(distcalib 0\.0\.1 there, \S+ now\)"):
        Run(config, folder, SERIAL).prepare()
    assert Run(config, folder, SERIAL, accept_code=True).prepare().plan.digest() == stored.digest()


def test_other_design_weights_change_the_fit_alone(config, tmp_path):
    folder, prepared = tmp_path / "out", make_plan(config)
    folder.mkdir()
    write_plan(folder, prepared, replace=False)
    with pytest.raises(InputError, match=r"design_weights.*--force fit"):
        Run(config.changed(design_weights="equal"), folder, SERIAL).prepare()
    (folder / "gone.tmp").symlink_to(folder / "nothing")
    found = Run(config.changed(design_weights="equal"), folder, SERIAL, force="fit").prepare().plan
    assert found.slices == prepared.plan.slices


def test_margins_and_reasons_that_changed_are_another_plan(config, tmp_path, monkeypatch):
    """What the tables of a fit show of targets is redone with it; what is excluded touches no fit."""

    def fits_of(run: Run, plan: Plan) -> list[str]:
        ids: list[str] = []

        def stage(name: str, function: object, tasks: list[Any], **_: object) -> list[Receipt]:
            ids.extend(task.id for task in tasks)
            return [Receipt(name, task.id, {}, {"summary": {}}) for task in tasks]

        monkeypatch.setattr(run, "_stage", stage)
        run._fit(plan, run._inputs(plan), "0" * 64)
        return ids

    folder, prepared = tmp_path / "out", make_plan(config)
    folder.mkdir()
    write_plan(folder, prepared, replace=False)
    rows, excluded = prepared.targets.rows, prepared.targets.excluded
    first = fits_of(Run(config, folder, SERIAL), prepared.plan)
    for part, table, stage in (
        ("labels", {"rows": rows.assign(moe=rows["moe"].fillna(0) + 1)}, "fit"),
        ("labels", {"rows": rows.assign(reason="far")}, "fit"),
        ("excluded", {"excluded": excluded.assign(reason="far")}, "verify"),
    ):
        changed = replace(prepared.targets, **table)
        monkeypatch.setattr("distcalib.runs.plan.read_run_targets", lambda _, found=changed: found)
        with pytest.raises(InputError, match=rf"different: inputs\.{part};.*--force {stage}"):
            Run(config, folder, SERIAL).prepare()
        run = Run(config, folder, SERIAL, force=stage)
        plan = run.prepare().plan
        assert plan.slices == prepared.plan.slices
        assert (fits_of(run, plan) == first) == (part == "excluded")


def test_the_plan_warns_of_what_the_rules_engine_would_ignore_or_skip(config, small, tmp_path):
    import h5py

    path = tmp_path / "own.h5"
    small.with_columns({"snap": np.ones(small.count("spm_unit"))}).write(path)
    with h5py.File(path, "r+") as h5:
        h5["favourite_colour/2024"] = np.ones(3)
    words = " ".join(make_plan(replace(config, microdata=str(path))).plan.warnings)
    assert "favourite_colour" in words
    assert "stored values replace the rules for 1 variables: snap" in words


def test_the_plan_says_when_no_file_proves_anything(config):
    def told(**kinds: bool) -> bool:
        areas = replace(config.areas, others={"North": "state == NH"}, **kinds)
        return any("nothing is proven" in w for w in make_plan(config.changed(areas=areas)).plan.warnings)

    assert not told(states=False, districts=False)
    assert not told(states=False, national=False)
    assert told(states=False, districts=False, national=False)


def test_what_a_forced_stage_depends_on_may_not_differ(config, tmp_path):
    """A new fit in an old folder: settings of later stages may differ, and what they rest on stands."""
    folder, prepared = tmp_path / "out", make_plan(config)
    folder.mkdir()
    write_plan(folder, prepared, replace=False)
    other = config.changed(fit=replace(config.fit, ridge=0.3))
    with pytest.raises(InputError, match=r"fit\.ridge.*--force fit"):
        Run(other, folder, SERIAL).prepare()
    for late in ("areas", "verify"):
        with pytest.raises(InputError, match="--force fit"):
            Run(other, folder, SERIAL, force=late).prepare()
    found = [Run(other, folder, SERIAL, force=stage).prepare().plan for stage in ("fit", "assemble")]
    assert [p.slices for p in found] == [prepared.plan.slices] * 2
    placed = config.changed(seed=config.seed + 1)
    with pytest.raises(InputError, match="--force simulate"):
        Run(placed, folder, SERIAL, force="fit").prepare()
    assert Run(placed, folder, SERIAL, force="simulate").prepare().plan.digest() != prepared.plan.digest()
    with pytest.raises(InputError, match="did you mean 'simulate'"):
        Run(other, folder, SERIAL, force="simulat").prepare()
