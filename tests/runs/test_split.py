"""A slice that dies of memory is split in two, down to one column, and the halves' receipts stand for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from faults import Fates, Home

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cluster.local import local_client
from distcalib.errors import InputError, RunError
from distcalib.report.console import Progressing, make_console
from distcalib.runs import run as run_module
from distcalib.runs.events import Events
from distcalib.runs.execute import DaskExecutor, SerialExecutor
from distcalib.runs.manifest import damaged, read_manifest
from distcalib.runs.plan import make_plan
from distcalib.runs.receipts import Receipt, output_digest, write_receipt
from distcalib.runs.split import halves, splitting, standing_tasks
from distcalib.runs.tasks import Inputs, SimulateTask, finished


@pytest.fixture(scope="module")
def plan(small_settings):
    return make_plan(RunConfig.load(small_settings)).plan


@pytest.fixture
def inputs(tmp_path):
    return Inputs(str(tmp_path), "", "", "", "", 2024, 0, True)


class Work:
    """Stands for a simulation that needs memory by column, and remembers what was begun."""

    def __init__(self, run: Path, most: int) -> None:
        self.run, self.most, self.begun = run, most, []

    def __call__(self, task):
        self.begun.append((task.state_fips, task.start, task.stop))
        if task.stop - task.start > self.most:
            raise MemoryError("unable to allocate 9 GiB")
        return finish(self.run, task)


def finish(run: Path, task) -> dict:
    path = f"{task.id}.txt"
    (run / path).write_text(f"{task.state_fips} {task.start} {task.stop}")
    where = {"state_fips": task.state_fips, "start": task.start, "stop": task.stop}
    receipt = Receipt("simulate", task.id, {path: str(output_digest(run, path))}, where)
    write_receipt(run, receipt)
    return asdict(receipt)


def run_serial(plan, work, tasks, seen):
    events = Events(subscribers=[seen.append])
    instead = splitting(plan, ClusterConfig(kind="serial"), events)
    return list(SerialExecutor().run(work, tasks, None, instead))


def covers(plan, tasks) -> bool:
    """Whether tasks are each column of the plan's slices once."""
    columns = [(t.state_fips, c) for t in tasks for c in range(t.start, t.stop)]
    planned = {(s.state_fips, c) for s in plan.slices for c in range(s.start, s.stop)}
    return len(columns) == len(planned) and set(columns) == planned


def test_halves_are_cut_until_they_fit_and_each_is_begun_once(plan, inputs, tmp_path):
    seen: list[dict] = []
    work = Work(tmp_path, 30)
    whole = standing_tasks(plan, inputs, tmp_path)
    assert [t.id for t in whole] == [s.id for s in plan.slices]
    results = run_serial(plan, work, whole, seen)
    assert max(Counter(work.begun).values()) == 1
    sizes = [r["facts"]["stop"] - r["facts"]["start"] for r in results]
    assert max(sizes) <= 30 < max(t.stop - t.start for t in whole)
    # Two halves for each split, so one more result.
    assert len(results) == len(whole) + len(seen)
    assert {e["event"] for e in seen} == {"split"}
    first = seen[0]
    assert (first["state"], first["id"]) == ("NH" if whole[0].state_fips == 33 else "WY", whole[0].id)
    middle = (whole[0].start + whole[0].stop) // 2
    assert first["into"] == [[whole[0].start, middle], [middle, whole[0].stop]]
    assert "9 GiB" in first["why"]
    # Depth first: what is too large for any split is found before the other slices are tried.
    assert work.begun[1] == (whole[0].state_fips, whole[0].start, middle)


def test_a_split_slice_is_taken_up_from_its_parts(plan, inputs, tmp_path):
    work = Work(tmp_path, 30)
    run_serial(plan, work, standing_tasks(plan, inputs, tmp_path), [])
    again = standing_tasks(plan, inputs, tmp_path)
    assert covers(plan, again)
    assert {(t.state_fips, t.start, t.stop) for t in again} == {b for b in work.begun if b[2] - b[1] <= 30}
    # One part lost: it alone is open, and nothing larger is tried.
    lost = again[1]
    (tmp_path / f"receipts/simulate/{lost.id}.json").unlink()
    assert lost in standing_tasks(plan, inputs, tmp_path)


def test_one_deep_part_is_enough_to_know_of_every_split_above_it(plan, inputs, tmp_path):
    whole = standing_tasks(plan, inputs, tmp_path)[0]
    left, right = halves(plan, whole)
    deep, beside = halves(plan, right)
    finish(tmp_path, deep)
    mine = [t for t in standing_tasks(plan, inputs, tmp_path) if t.state_fips == whole.state_fips]
    assert mine[:3] == [left, deep, beside]
    # A receipt of the whole goes before its parts; they are no part of the run then.
    finish(tmp_path, whole)
    assert standing_tasks(plan, inputs, tmp_path)[0] == whole


def test_a_split_is_remembered_before_any_part_is_done(plan, inputs, tmp_path):
    whole, seen = standing_tasks(plan, inputs, tmp_path), []
    instead = splitting(plan, ClusterConfig(), Events(subscribers=[seen.append]))
    first, _ = instead(whole[0], "2 workers that ran it died")
    deep = instead(first, "2 workers that ran it died")
    again = standing_tasks(plan, inputs, tmp_path)
    assert tuple(again[:2]) == deep
    assert again[3:] == whole[1:]
    assert covers(plan, again)
    # What was done whole all the same goes before its parts.
    finish(tmp_path, whole[0])
    assert standing_tasks(plan, inputs, tmp_path) == whole


def test_parts_that_other_code_made_say_nothing(plan, inputs, tmp_path):
    whole = standing_tasks(plan, inputs, tmp_path)
    part = {"state_fips": whole[0].state_fips, "start": whole[0].start, "stop": whole[0].start + 1}
    write_receipt(tmp_path, Receipt("simulate", "f" * 64, {}, part))
    assert standing_tasks(plan, inputs, tmp_path) == whole


def test_one_column_that_is_too_large_ends_the_run_and_is_named(plan, inputs, tmp_path):
    seen: list[dict] = []
    whole = standing_tasks(plan, inputs, tmp_path)
    work = Work(tmp_path, 0)
    with pytest.raises(RunError, match=r"one household of (NH|WY) \(slice 0 to 1\).*this process.*9 GiB"):
        run_serial(plan, work, whole, seen)
    # One path down to one column, not all slices.
    assert len(work.begun) == len(seen) + 1 == int(np.log2(whole[0].stop - whole[0].start)) + 1


def test_other_stages_say_that_memory_failed_them(plan, inputs, tmp_path):
    task = standing_tasks(plan, inputs, tmp_path)[0]
    with pytest.raises(RunError, match=rf"simulate {task.id[:12]} \({task.place}\): MemoryError: unable"):
        list(SerialExecutor().run(Work(tmp_path, 1), [task]))


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (KeyError("rate"), RunError, "KeyError: 'rate'"),
        (RunError("policyengine-us failed on snap"), RunError, "policyengine-us failed on snap"),
        (InputError("was changed", place="cps.h5"), InputError, "cps.h5: was changed"),
    ],
)
def test_an_error_names_task_state_columns_and_cause(inputs, error, kind, cause):
    def work(task):
        raise error

    task = SimulateTask(inputs, "ab" * 32, 56, 40, 80)
    with pytest.raises(kind) as caught:
        list(SerialExecutor().run(work, [task]))
    assert str(caught.value) == f"simulate abababababab (WY, columns 40 to 80 of the state): {cause}"
    assert caught.value.__cause__ is error


def test_a_failed_allocation_is_recognised_inside_other_errors(plan, inputs, tmp_path):
    task = standing_tasks(plan, inputs, tmp_path)[0]

    @finished
    def fails(_):
        try:
            np.empty(2**50)
        except MemoryError as error:
            raise RunError("policyengine-us failed on snap") from error

    with pytest.raises(MemoryError, match=r"simulate .*Unable to allocate") as caught:
        fails(task)
    assert caught.value.__context__ is None, "the first error holds the arrays of the task"

    @finished
    def wrong(_):
        raise RunError("policyengine-us failed on snap")

    with pytest.raises(RunError, match="failed on snap"):
        wrong(task)


def test_progress_says_what_was_split(capsys):
    progress = Progressing(make_console())
    progress({"event": "stage", "stage": "simulate", "tasks": 3, "reused": 0})
    progress({"event": "split", "state": "WY", "into": [[0, 40], [40, 80]], "why": "MemoryError: big"})
    words = " ".join(capsys.readouterr().out.split())
    assert "columns 0 to 80 of WY" in words
    assert "at 40" in words


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_kills_its_workers_is_replaced_and_no_other_is_blamed(plan, inputs, tmp_path, workers):
    whole = standing_tasks(plan, inputs, tmp_path)
    worst = max(whole, key=lambda t: t.stop - t.start)
    # Many tasks for few workers, as in a real run: the others would wait where the worst one kills.
    others = [
        part for t in whole if t is not worst for half in halves(plan, t) for part in halves(plan, half)
    ]
    log, deadly, raising = str(tmp_path / "begun.txt"), worst.id, others[0].id

    @finished
    def work(task):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{task.id}\n")
        if task.id == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if task.id == raising:
            raise MemoryError("unable to allocate 9 GiB")
        (Path(task.inputs.run) / f"{task.id}.txt").write_text(task.place)
        return [f"{task.id}.txt"], {}

    seen: list[dict] = []
    instead = splitting(plan, ClusterConfig(), Events(subscribers=[seen.append]))
    with local_client(ClusterConfig(workers=workers, warm=False)) as client:
        results = list(DaskExecutor(client).run(work, [worst, *others], None, instead))
    # A result that dies with its worker before it was fetched is asked for again; its receipt answers.
    begun = Counter(Path(log).read_text(encoding="utf-8").split())
    once = [*others, *halves(plan, worst), *halves(plan, others[0])]
    assert begun == {worst.id: 2} | dict.fromkeys((t.id for t in once), 1)
    assert {p.stem for p in tmp_path.glob("receipts/simulate/*")} == set(begun) - {deadly, raising}
    assert sorted(r["id"] for r in results) == sorted(set(begun) - {deadly, raising})
    assert {e["event"] for e in seen} == {"split"}
    why = {e["id"]: e["why"] for e in seen}
    assert len(why) == len(seen) == 2
    assert "2 workers that ran it died" in why[deadly]
    assert "9 GiB" in why[raising]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_outgrow_their_limit_come_back_however_often(plan, inputs, tmp_path):
    whole = standing_tasks(plan, inputs, tmp_path)[0]

    def work(task):
        import time

        held = []
        for _ in range((task.stop - task.start) // 2):  # a thousand megabytes for all columns
            held.append(np.ones(20 * 2**17))
            time.sleep(0.05)  # as a simulation would, it grows while the limit is watched
        return {"id": task.id, "size": task.stop - task.start}

    seen: list[dict] = []
    instead = splitting(plan, ClusterConfig(), Events(subscribers=[seen.append]))
    with local_client(ClusterConfig(workers=2, memory_limit="500MiB", warm=False)) as client:
        results = list(DaskExecutor(client).run(work, [whole], None, instead))
        client.wait_for_workers(2, timeout=60)
    assert sum(r["size"] for r in results) == whole.stop - whole.start
    assert len(seen) == len(results) - 1 >= 1


def start(home: Home, settings: Path, folder: Path, workers: int) -> tuple[int, str]:
    script = str(Path(__file__).with_name("faults.py"))
    command = [sys.executable, script, str(home.folder), "run", str(settings), "--output", str(folder)]
    done = subprocess.run(
        [*command, "--workers", str(workers)], capture_output=True, text=True, timeout=400, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_with_a_slice_too_large_ends_where_one_with_memory_does(
    small_run, small_settings, plan, tmp_path
):
    folder, home = tmp_path / "split", Home(tmp_path)
    sizes = Counter((s.state_fips, s.size) for s in plan.slices)
    (state, largest), _ = max(sizes.items(), key=lambda item: item[0][1])
    assert [size for _, size in sizes.elements()].count(largest) == 1, "the test wants one largest slice"
    # The coordinator dies when the first half is done: one worker, so that nothing else was under way.
    home.meet(Fates(larger=largest - 1, dies=["split", "task"]))
    code, said = start(home, small_settings, folder, 1)
    assert code == -signal.SIGKILL, said
    begun = [tuple(map(int, line.split())) for line in home.said("slice")]
    assert begun == [(state, largest)] * 2 + [(state, largest // 2)]
    receipts = {p: p.stat().st_mtime_ns for p in folder.glob("receipts/simulate/[!.]*.json")}
    assert len(receipts) == 1
    # It goes on from the half: the whole is not tried again, although it would still be too large.
    home.meet(Fates(larger=largest - 1))
    code, said = start(home, small_settings, folder, 2)
    assert code == 0, said
    begun = [tuple(map(int, line.split())) for line in home.said("slice")]
    expected = sizes - Counter({(state, largest): 1}) + Counter({(state, largest - largest // 2): 1})
    assert Counter(begun) == expected
    assert all(p.stat().st_mtime_ns == t for p, t in receipts.items())
    one, other = read_manifest(folder), read_manifest(small_run)
    assert one is not None
    assert other is not None
    assert (one["matrix"], one["weights"]) == (other["matrix"], other["weights"])
    assert damaged(folder, one) == []
    assert len(list(folder.glob("matrix.zarr/blocks/*"))) == len(plan.slices) + 1
    events = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    assert sum(e["event"] == "split" for e in events) == 1
    # And once more: nothing is left to do.
    seen: list[dict] = []
    Run(RunConfig.load(small_settings), folder, ClusterConfig(workers=1), [seen.append]).execute()
    assert [e["event"] for e in seen] == ["nothing_to_do"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_serial_run_splits_too_and_a_rerun_of_lost_output_uses_the_halves(
    small_run, small_settings, plan, tmp_path, monkeypatch
):
    from distcalib.runs import tasks

    folder, begun = tmp_path / "serial", []
    real, most = tasks.simulate_columns, max(s.size for s in plan.slices) - 1

    def scarce(source, assignment, columns, *args, **kwargs):
        begun.append(len(columns))
        if len(columns) > most:
            raise MemoryError("unable to allocate 9 GiB")
        return real(source, assignment, columns, *args, **kwargs)

    monkeypatch.setattr(tasks, "simulate_columns", scarce)
    run = Run(RunConfig.load(small_settings), folder, ClusterConfig(kind="serial"))
    blocks = {}

    def keep_blocks(self, receipts, code):
        blocks.update({path: digest for r in receipts for path, digest in r.outputs.items()})
        return assembled(self, receipts, code)

    assembled = run_module.Run._assemble
    monkeypatch.setattr(run_module.Run, "_assemble", keep_blocks)
    assert run.execute()["matrix"] == (read_manifest(small_run) or {})["matrix"]
    assert len(begun) == len(plan.slices) + 2
    assert len(blocks) == len(plan.slices) + 1
    # A damaged half is made again, alone.
    half = max(p for p in blocks if Path(p).name not in {s.id for s in plan.slices})
    next(p for p in (folder / half).rglob("*") if p.is_file() and p.name != "zarr.json").unlink()
    begun.clear()
    run.execute()
    assert len(begun) == 1
    assert begun[0] in {(most + 1) // 2, most + 1 - (most + 1) // 2}
