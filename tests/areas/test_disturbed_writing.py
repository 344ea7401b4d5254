"""Writers that are killed or find no room, files that change afterwards: nothing wrong stands or passes."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from every_file import carried_out, sums, with_areas, work_of

from distcalib.areas.area import Area
from distcalib.errors import RunError
from distcalib.runs.area_stage import files_of
from distcalib.runs.folder import sweep
from distcalib.runs.tasks import AreaTask, write_areas
from distcalib.runs.verify import check_files
from distcalib.runs.verify_stage import proof_of
from distcalib.storage import sha256_file

DISTRICT = Area("districts", "NY-12", 3612)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "mapping", "receipt"])
def test_what_is_damaged_is_found_and_written_alone(finished, how):
    made, inputs = finished
    folder = Path(inputs.run)
    before = sums(folder)
    times = {path: (folder / path).stat().st_mtime_ns for path in before}
    if how == "receipt":
        work = work_of(made, inputs)
        (folder / "receipts/areas" / f"{work.ids[DISTRICT]}.json").write_text("{}")
    else:
        damage(folder / (DISTRICT.mapping if how == "mapping" else DISTRICT.file), how)
    work = carried_out(made, inputs)
    assert [a.name for task in work.tasks for a in task.areas] == ["NY-12"]
    assert sums(folder) == before
    again = {path for path in before if (folder / path).stat().st_mtime_ns != times[path]}
    assert again == set(DISTRICT.outputs)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_what_is_damaged_after_writing_does_not_pass_the_proof(finished, how):
    made, inputs = finished
    work = work_of(made, inputs)
    written = {path: digest for r in work.receipts() for path, digest in r.outputs.items()}
    files = files_of(made.plan.run, made.assignment)
    checks = proof_of(made.plan, inputs, files, written, made.assignment).checks
    damage(Path(inputs.run) / DISTRICT.file, how)
    failed = []
    for task in checks:
        try:
            check_files(task)
        except RunError as error:
            failed.append(str(error))
    said = "is gone since" if how == "gone" else "changed since"
    # The state's task, and the nation's where it is held against the districts.
    assert failed
    assert set(failed) == {f"{DISTRICT.file} {said} it was written; run again, then it is written anew"}


# Where a writer dies: the function, words of its arguments, which call of those, and on which side of it.
STEPS = {
    "first column": ("distcalib.microdata.hdf5_stream._Column.append", "", 1, "before"),
    "in the midst of a file": ("distcalib.microdata.hdf5_stream._Column.append", "", 100, "before"),
    "temporary written": ("os.fsync", "NH-02.h5", 1, "before"),
    "synced": ("os.fsync", "NH-02.h5", 1, "after"),
    "reopened": ("distcalib.microdata.hdf5.count_columns", "NH-02.h5", 1, "after"),
    "before the rename": ("os.replace", "NH-02.h5", 1, "before"),
    "renamed": ("os.replace", "NH-02.h5", 1, "after"),
    "between the mappings": ("os.replace", "NH-02.csv", 1, "after"),
    "before the receipt": ("distcalib.runs.tasks.write_receipt", "NH-02", 1, "before"),
    "receipt written": ("os.replace", ".json", 2, "before"),
    "receipt there": ("os.replace", ".json", 2, "after"),
}

KILLED = """
import os, pickle, signal, sys
from importlib import import_module
from distcalib.runs import tasks
def shown(given):
    return os.readlink(f"/proc/self/fd/{given}") if type(given) is int else str(given)
def die_at(name, words, nth, side):
    owner, attribute = name.rsplit(".", 1)
    try:
        owner = import_module(owner)
    except ImportError:
        module, kind = owner.rsplit(".", 1)
        owner = getattr(import_module(module), kind)
    real, calls = getattr(owner, attribute), 0
    def dies(*args, **kwargs):
        nonlocal calls
        calls += not words or words in " ".join(map(shown, args))
        mine = calls == nth
        if mine and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, attribute, dies)
for task, step in pickle.loads(bytes.fromhex(sys.argv[1])):
    writer = os.fork()  # the package is imported once for all of them
    if not writer:
        die_at(*step)
        tasks.write_areas(task)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(planned, tmp_path_factory):
    """Step -> the run, with areas of New Hampshire and New York City, whose writer died there."""
    made, inputs = planned
    made = replace(made, plan=with_areas(made.plan, only=("NH", "NYC")))
    home, runs, tasks = tmp_path_factory.mktemp("killed"), {}, []
    for number, (step, where) in enumerate(STEPS.items()):
        mine = replace(inputs, run=str(shutil.copytree(inputs.run, home / str(number))))
        work = work_of(made, mine)
        tasks.append((AreaTask(mine, "all", tuple(work.ids), tuple(work.ids.values())), where))
        runs[step] = made, mine
    argument = pickle.dumps(tasks).hex()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, argument], timeout=300, capture_output=True, text=True
    )
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * len(STEPS), ended.stdout + ended.stderr
    return runs


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_no_file_is_half_there_and_the_next_start_finishes(killed, carried, step):
    made, inputs = killed[step]
    folder, whole = Path(inputs.run), sums(Path(carried[1].run))
    there = set()
    for path in folder.glob("areas/*/*"):
        name = path.relative_to(folder).as_posix()
        half = path.name.startswith(".") and ".tmp." in path.name
        assert half or sha256_file(path) == whole[name], name
        there |= set() if half else {path.name}
    steps, receipts = list(STEPS), folder / "receipts/areas"
    done = {p.stem: p.stat().st_mtime_ns for p in receipts.glob("[!.]*.json")}
    # NH-01 is whole when NH-02 is begun, which is there from its rename on, and done with its receipt.
    at = steps.index(step)
    assert len(done) == (at > 0) + (step == "receipt there")
    assert ("NH-02.h5" in there) == (at >= steps.index("renamed"))
    assert ("NH-02.parquet" in there) == (at >= steps.index("before the receipt"))
    sweep(folder)
    work = carried_out(made, inputs)
    assert set(work.standing) == set(done)
    assert len(work.receipts()) == len(work.ids) == 4
    assert sums(folder) == {path: whole[path] for area in work.ids for path in area.outputs}
    assert {one: (receipts / f"{one}.json").stat().st_mtime_ns for one in done} == done


FULL = """
import pickle, resource, signal, sys
task, most = pickle.loads(bytes.fromhex(sys.argv[1]))
from distcalib.runs.execute import SerialExecutor
from distcalib.runs.tasks import load_inputs, write_areas
load_inputs(task.inputs)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    list(SerialExecutor().run(write_areas, [task]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("most", [5_000, 60_000])
def test_a_file_that_finds_no_room_is_an_error_and_no_file(prepared, most):
    """A limit on the size of files stops the writer in the middle of one, as a full disk does."""
    made, inputs = prepared
    folder, work = Path(inputs.run), work_of(made, inputs)
    nation = Area("national", "US")
    task = AreaTask(inputs, work.ids[nation], (nation,), (work.ids[nation],))
    argument = pickle.dumps((task, most)).hex()
    ended = subprocess.run(
        [sys.executable, "-c", FULL, argument], timeout=120, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("RunError areas "), ended.stdout + ended.stderr
    assert "(US): " in ended.stdout
    assert re.search("File too large|errno = 27", ended.stdout), ended.stdout
    assert [p for p in folder.rglob("*") if "US.h5" in p.name] == []
    assert not (folder / "receipts/areas").exists()
    write_areas(task)
    assert (folder / nation.file).is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_stage_and_with_room_it_goes_on(prepared, carried):
    made, inputs = prepared
    folder, whole = Path(inputs.run), sums(Path(carried[1].run))
    (folder / "areas").mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder / "areas")]
    if subprocess.run(disk, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        work = work_of(made, inputs)
        task = AreaTask(inputs, "all", tuple(work.ids), tuple(work.ids.values()))
        with pytest.raises((OSError, RuntimeError), match=r"No space left|errno = 28"):
            write_areas(task)
        there = sums(folder)
        assert 0 < len(there) < len(whole)
        assert {path: whole[path] for path in there} == there
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder / "areas")], check=True)
        work = carried_out(made, inputs)
        assert work.standing
        assert sums(folder) == whole
    finally:
        subprocess.run(["umount", str(folder / "areas")], check=True)


def test_a_full_disk_at_the_sync_leaves_the_old_file(prepared, monkeypatch):
    made, inputs = prepared
    work = work_of(made, inputs)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_areas(work.tasks[0])
    assert not list(Path(inputs.run).glob("areas/*/.*"))
    assert not (Path(inputs.run) / "receipts/areas").exists()
