"""A run in an object store: copies, receipts, faults of the store, and the lease."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError, RunError
from distcalib.runs import lease, remote
from distcalib.runs.doctor import FAILS, FINE, examine
from distcalib.runs.events import Events
from distcalib.runs.execute import SerialExecutor
from distcalib.runs.home import Home, open_home
from distcalib.runs.lease import LEASE, Holder, Lease
from distcalib.runs.receipts import Receipt, output_digest, verified, write_receipt
from distcalib.runs.remote import Copy, object_store
from distcalib.runs.status import Watch
from distcalib.runs.tasks import Inputs, finished
from distcalib.storage.objects import MemoryStore, ObjectStore

INPUTS = Inputs("", "", "", "", "", 2024, 0, True)


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://runs/{uuid4().hex}"
    request.getfixturevalue("s3_environment")
    store = object_store("s3://runs/x")
    store.fs.makedirs("runs", exist_ok=True)
    return f"s3://runs/{uuid4().hex}"


@pytest.fixture
def memory() -> str:
    return f"memory://runs/{uuid4().hex}"


@pytest.fixture
def copies(url: str, tmp_path: Path) -> tuple[Copy, Copy]:
    store = object_store(url)
    return Copy(store, tmp_path / "a"), Copy(store, tmp_path / "b")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


# -- copies ------------------------------------------------------------------------------------------------


def test_files_and_folders_go_to_a_store_and_come_from_it(copies):
    here, there = copies
    files = {"a.csv": b"1,2\n", "matrix.zarr/X/zarr.json": b"{}", "matrix.zarr/X/data/c/0": b"\0" * 1000}
    write(here.folder, files)
    known = here.put(["a.csv", "matrix.zarr/X"])
    assert known.keys() == files.keys()
    there.fetch(known)
    assert {p: (there.folder / p).read_bytes() for p in files} == files
    # A group that is written anew has no object of the old one.
    (here.folder / "matrix.zarr/X/data/c/0").unlink()
    here.put(["matrix.zarr/X"])
    assert set(here.store.sizes("matrix.zarr/X")) == {"zarr.json"}
    assert list(there.folder.rglob(".*")) == []


def test_what_is_there_is_not_sent_again_and_what_is_here_is_not_fetched(copies, monkeypatch):
    here, there = copies
    write(here.folder, {"a.csv": b"1,2\n"})
    known = here.put(["a.csv"])
    there.fetch(known)
    monkeypatch.setattr(here.store, "put", lambda *_: pytest.fail("sent again"))
    monkeypatch.setattr(here.store, "get", lambda *_: pytest.fail("fetched again"))
    assert here.put(["a.csv"]) == known
    there.fetch(known)
    monkeypatch.undo()
    write(here.folder, {"a.csv": b"3,4\n"})
    there.fetch(here.put(["a.csv"]))
    assert (there.folder / "a.csv").read_bytes() == b"3,4\n"


def test_an_object_that_is_another_now_is_no_input(copies):
    here, there = copies
    write(here.folder, {"a.csv": b"1,2\n"})
    known = here.put(["a.csv"])
    here.store.write("a.csv", b"9,9\n")
    with pytest.raises(RunError, match=r"reading a.csv failed \(what it gives is not what was put there\)"):
        there.fetch(known)
    here.store.delete("a.csv")
    with pytest.raises(RunError, match=r"reading a\.csv failed"):
        there.fetch(known)
    assert not (there.folder / "a.csv").exists()
    with pytest.raises(RunError, match="is no path below"):
        there.fetch({"../a.csv": known["a.csv"]})


# -- faults ------------------------------------------------------------------------------------------------


class Failing:
    """Puts of a store fail now and then, some of them after half of the file was put."""

    def __init__(self, store: ObjectStore, share: float, seed: int = 1) -> None:
        self.put, self.write, self.share = store.put, store.write, share
        self.draws, self.failed = random.Random(seed), 0
        store.put = self  # type: ignore[method-assign]

    def __call__(self, file: Path, path: str) -> None:
        if self.draws.random() >= self.share:
            return self.put(file, path)
        self.failed += 1
        if self.failed % 3:
            raise OSError(5, "Input/output error")
        return self.write(path, file.read_bytes()[: file.stat().st_size // 2])  # torn, and nobody says so


def test_two_percent_of_writes_failing_are_tried_again(memory, tmp_path):
    copy = Copy(object_store(memory), tmp_path)
    write(tmp_path, {f"areas/districts/{n}.h5": str(n).encode() * 50 for n in range(400)})
    failing = Failing(copy.store, 0.02)
    known = copy.put(["areas/districts"])
    assert failing.failed > 3
    again = Copy(copy.store, tmp_path / "again")
    again.fetch(known)
    assert len(known) == 400


@pytest.mark.parametrize("torn", [False, True])
def test_a_write_that_always_fails_is_an_error_that_names_the_object(memory, tmp_path, torn):
    copy = Copy(object_store(memory), tmp_path)
    write(tmp_path, {"fit/weights.npy": b"x" * 100})
    failing = Failing(copy.store, 1.1)
    failing.failed = 2 if torn else 0
    words = "does not read back|Input/output error"
    with pytest.raises(RunError, match=rf"writing fit/weights.npy failed \(.*({words})\); what is finished"):
        copy.put(["fit/weights.npy"])


@dataclass(frozen=True)
class Small:
    """A task that writes one file."""

    inputs: Inputs
    id: str
    stage: str = "simulate"
    needs: tuple[str, ...] = ("plan.json",)
    place: str = "WY"


done: list[str] = []


@finished
def write_one(task: Small):
    done.append(task.id)
    run = Path(task.inputs.run)
    write(run, {f"areas/states/{task.id}.h5": (run / "plan.json").read_bytes() + task.id.encode()})
    return [f"areas/states/{task.id}.h5"], {}


def begun(url: str) -> Home:
    home = open_home(url)
    home.look()
    write(home.folder, {"plan.json": b"{}"})
    home.keep(["plan.json"])
    return home


def carry_out(home: Home, ids: str) -> list[str]:
    """Return which tasks were done now, as a run does."""
    tasks = [Small(INPUTS, id) for id in ids]
    tasks = [t for t in tasks if home.verified(home.folder, t.stage, t.id) is None]
    done.clear()
    for _ in home.run(SerialExecutor(), write_one, tasks, None, None):
        pass
    return list(done)


def test_what_has_a_receipt_is_not_done_again_by_another_coordinator(url):
    home = begun(url)
    assert carry_out(home, "abc") == ["a", "b", "c"]
    assert home.verified(home.folder, "simulate", "a").outputs.keys() == {"areas/states/a.h5"}
    other = begun(url)
    assert carry_out(other, "abcd") == ["d"]
    # Damage, loss and a strange object in its place are seen in the listing.
    store = object_store(url)
    store.write("areas/states/a.h5", b"{}z")
    store.delete("areas/states/b.h5")
    assert carry_out(begun(url), "abcd") == ["a", "b"]
    assert carry_out(begun(url), "abcd") == []
    # No worker keeps area files; they are in the store.
    assert not list(remote._mine[0].folder.rglob("*.h5"))


def test_a_crash_between_outputs_and_receipt_leaves_a_task_that_is_done_again(url, monkeypatch):
    real = Copy.put

    def put(self: Copy, paths):
        paths = list(paths)
        if any(path.startswith("receipts/") for path in paths):
            raise KeyboardInterrupt
        return real(self, paths)

    home = begun(url)
    assert carry_out(home, "a") == ["a"]
    monkeypatch.setattr(Copy, "put", put)
    with pytest.raises(KeyboardInterrupt):
        carry_out(home, "b")
    monkeypatch.undo()
    assert object_store(url).stat("areas/states/b.h5") is not None
    assert carry_out(begun(url), "ab") == ["b"]


def test_a_receipt_that_was_taken_back_is_done_again_though_the_worker_has_its_files(memory):
    home = begun(memory)
    assert carry_out(home, "a") == ["a"]
    home.forget("simulate")
    assert carry_out(home, "a") == ["a"]


def test_errors_of_a_task_name_the_run_and_not_its_copy(memory):
    @finished
    def fails(task):
        raise RunError(f"{task.inputs.run}/fit/weights.npy cannot be read")

    home = begun(memory)
    with pytest.raises(RunError, match=rf"\(WY\): {memory}/fit/weights.npy cannot be read"):
        list(home.run(SerialExecutor(), fails, [Small(INPUTS, "a")], None, None))
    with pytest.raises(RunError, match=r"columns\.parquet is not there"):
        list(home.run(SerialExecutor(), fails, [Small(INPUTS, "a", needs=("columns.parquet",))], None, None))


def test_checkpoints_outlive_their_worker(memory, monkeypatch):
    monkeypatch.setattr(remote, "_LOOK", 0.01)
    store, path = object_store(memory), "fit/checkpoints/x/selection.npz"

    @dataclass(frozen=True)
    class Long(Small):
        unfinished: str = "fit/checkpoints"

    found: list[bytes] = []

    @finished
    def fit(task):
        file = Path(task.inputs.run) / path
        if file.exists():
            found.append(file.read_bytes())
            return [], {}
        write(file.parents[3], {path: b"epoch 7"})
        until = time.monotonic() + 20
        while store.stat(path) is None and time.monotonic() < until:
            time.sleep(0.01)
        raise KeyboardInterrupt

    home = begun(memory)
    with pytest.raises(KeyboardInterrupt):
        list(home.run(SerialExecutor(), fit, [Long(INPUTS, "a")], None, None))
    remote._mine.clear()  # another host
    list(home.run(SerialExecutor(), fit, [Long(INPUTS, "a")], None, None))
    assert found == [b"epoch 7"]
    assert store.sizes("fit") == {}


def test_areas_that_a_lost_task_had_finished_are_not_written_again(url, monkeypatch):
    monkeypatch.setattr(remote, "_LOOK", 0.01)
    store, wrote = object_store(url), []

    @dataclass(frozen=True)
    class Pack(Small):
        receipts: tuple[str, ...] = ("wy", "mt", "vt")

    def write_all(task, lost: bool):
        run = Path(task.inputs.run)
        for one in task.receipts:
            if verified(run, task.stage, one) is None:
                wrote.append(one)
                path = f"areas/states/{one}.h5"
                write(run, {path: one.encode()})
                write_receipt(run, Receipt(task.stage, one, {path: str(output_digest(run, path))}))
            if lost and one == "mt":
                until = time.monotonic() + 20
                while len(store.sizes("receipts")) < 2 and time.monotonic() < until:
                    time.sleep(0.01)
                raise KeyboardInterrupt
        return asdict(Receipt(task.stage, task.id, {f"areas/states/{one}.h5": "" for one in task.receipts}))

    home = begun(url)
    with pytest.raises(KeyboardInterrupt):
        list(home.run(SerialExecutor(), partial(write_all, lost=True), [Pack(INPUTS, "a")], None, None))
    assert wrote == ["wy", "mt"]
    shutil.rmtree(remote._mine.pop().folder)  # another host
    list(home.run(SerialExecutor(), partial(write_all, lost=False), [Pack(INPUTS, "a")], None, None))
    assert wrote == ["wy", "mt", "vt"]
    assert {path: store.read(f"areas/states/{path}") for path in store.sizes("areas/states")} == {
        f"{one}.h5": one.encode() for one in wrote
    }
    assert home.verified(home.folder, "simulate", "wy").outputs.keys() == {"areas/states/wy.h5"}


def test_receipts_in_a_store_lead_nowhere_else(memory):
    home = begun(memory)
    carry_out(home, "a")
    store = object_store(memory)
    whole = json.loads(store.read("receipts/simulate/a.json"))
    (known,) = whole["objects"].values()
    for objects in ({"../../x": known}, {"/etc/x": known}, {"plan.json": known}, {"a": 3}, [1], "x", {}):
        store.write("receipts/simulate/a.json", json.dumps(whole | {"objects": objects}).encode())
        again = begun(memory)
        assert again.verified(again.folder, "simulate", "a") is None, objects


def test_keys_that_would_lead_out_of_the_copy_remove_nothing(memory):
    home = begun(memory)
    outside = home.folder.parent / f"{home.folder.name}-outside"
    outside.write_text("mine")
    key = f"areas/../../{outside.name}"
    home._there[key] = (4, "x")
    home.keep_only(set())
    home._there[key] = (4, "x")
    home.look()
    assert outside.read_text() == "mine"
    outside.unlink()


@pytest.mark.parametrize("stored", [False, True])
def test_what_an_earlier_fit_left_goes_and_what_users_put_there_stays(memory, tmp_path, stored):
    home = begun(memory) if stored else Home(tmp_path)
    theirs = ["fit/frontier.csv", "fit/weights.npy", "fits/few/weights.npy"]
    old = ["fit/old.csv", "fits/more/weights.npy", "fits/more/checkpoints/a/0.npy"]
    write(home.folder, dict.fromkeys([*theirs, *old], b"1"))
    home.keep([*theirs, *old])
    home.keep_only(set(theirs[1:]))
    # The frontier is the user's: it stays, and no manifest vouches for it.
    assert [path for path in home.files() if path != "plan.json"] == theirs[1:]
    there = home.store.sizes() if stored else [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.csv")]
    assert theirs[0] in there
    assert old[0] not in there


# -- the lease ---------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "ENDS", 3.0)
    monkeypatch.setattr(lease, "RENEWED", 0.1)
    monkeypatch.setattr(lease, "BEAT", 0.02)


def nothing() -> None:
    pass


def check_for_long(mine: Lease) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        mine.check()
        time.sleep(0.02)


def test_one_coordinator_at_a_time(url, short):
    store = object_store(url)
    beats: list[float] = []
    with Lease(store, lambda: beats.append(1)) as mine:
        with pytest.raises(
            RunError, match=rf"another process is carrying this run out \(process {os.getpid()}"
        ):
            Lease(store, nothing).__enter__()
        time.sleep(4)
        mine.check()
    assert len(beats) > 3
    began = time.monotonic()
    with Lease(store, nothing):
        assert time.monotonic() - began < 2.7  # it was given back
    words = store.read(LEASE).decode()
    assert json.loads(words)["released"]
    assert "hunter2" not in words


@pytest.mark.parametrize("machine", ["another machine", ""])
def test_a_lease_that_is_not_renewed_is_taken_over(url, short, machine):
    store = object_store(url)
    left = replace(Holder.here(), machine=machine, process=1)
    store.write(LEASE, json.dumps(left.__dict__).encode())
    began = time.monotonic()
    with Lease(store, nothing) as mine:
        assert time.monotonic() - began >= 3.0
        mine.check()


@pytest.mark.timeout(60)
def test_a_lease_of_a_process_of_this_machine_that_ended_is_taken_at_once(memory, monkeypatch):
    monkeypatch.setattr(lease, "ENDS", 1e9)  # it is not waited for
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store = object_store(memory)
    store.write(LEASE, json.dumps(replace(Holder.here(), process=ended.pid).__dict__).encode())
    with Lease(store, nothing):
        pass


def test_who_lost_the_lease_stops(url, short):
    store = object_store(url)
    with Lease(store, nothing) as mine:
        store.write(LEASE, json.dumps(replace(Holder.here(), host="elsewhere").__dict__).encode())
        with pytest.raises(RunError, match=r"another process took this run over \(process .* of elsewhere\)"):
            check_for_long(mine)
    # And leaves it to who has it.
    assert json.loads(store.read(LEASE))["host"] == "elsewhere"


def test_who_cannot_renew_the_lease_stops(memory, short, monkeypatch):
    store = object_store(memory)
    with Lease(store, nothing) as mine:
        monkeypatch.setattr(store, "swap", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
        with pytest.raises(RunError, match=r"could not be renewed in time \(no route to host\)"):
            check_for_long(mine)


def test_of_two_that_wait_for_a_lease_one_gets_it(url, short):
    store = object_store(url)
    store.write(LEASE, json.dumps(replace(Holder.here(), machine="").__dict__).encode())
    got: list[str] = []

    def wait(name: str) -> None:
        try:
            with Lease(object_store(url) if isinstance(store, MemoryStore) else store, nothing):
                got.append(name)
                time.sleep(4)
        except RunError as error:
            got.append(str(error))

    threads = [threading.Thread(target=wait, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(words.partition(": ")[2][:15] for words in got) == ["", "another process"]


# -- what a run refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("s3://user:hunter2@bucket/run", "holds credentials"),
        ("s3://bucket/run?secret=hunter2", "is no URL of a store"),
        ("s3://bucket/../run", "is no URL of a store"),
        ("s3:/bucket/run", "is no URL"),
        ("gs://bucket/run", "cannot compare and replace"),
        ("https://user:hunter2@host/run", "holds credentials"),
        ("https://host/run", "cannot compare and replace"),
        ("file://run", "is no folder"),
    ],
)
def test_urls_that_are_refused(settings, folder, words):
    with pytest.raises(InputError, match=words) as raised:
        Run(RunConfig.load(settings), folder)
    assert "--output" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_store_with_other_things_is_refused_and_nothing_is_written(settings, memory):
    store = object_store(memory)
    store.write("precious.txt", b"mine")
    with pytest.raises(InputError, match=rf"{memory}: the output folder is not empty"):
        Run(RunConfig.load(settings), memory).prepare()
    assert list(store.sizes()) == ["precious.txt"]


# -- what looks at a run from elsewhere ----------------------------------------------------------------------


def test_the_status_of_a_run_comes_from_its_store(url, monkeypatch):
    home = begun(url)
    plan = {"slices": []} | {part: {} for part in ("code", "inputs", "versions", "engines")}
    write(home.folder, {"plan.json": json.dumps(plan | {"digest": "abc", "run": {"name": "far"}}).encode()})
    home.keep(["plan.json"])
    with pytest.raises(InputError, match="holds no plan"):
        Watch(f"{url}/elsewhere")
    watch = Watch(url)
    assert watch.read().state(0.0) == "planned"
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with home.held():
        events = Events(home.folder / "events.ndjson", [home.heard])
        events.emit("start", plan="abc", columns=5)
        events.emit("stage", stage="simulate", tasks=3, reused=1)
        until = time.monotonic() + 20
        while not watch.read().stages and time.monotonic() < until:
            time.sleep(0.05)
        assert watch.status.stages[0].done == 1
        events.emit("task", stage="simulate", id="x", seconds=1.0, peak_bytes=5, place="WY")
    assert watch.read().stages[0].done == 2  # the last events are there when the run has ended
    with home.held():
        events.emit("done", seconds=2.0)
    assert Watch(url).read().state(0.0) == "done"


def test_doctor_tries_a_store_and_leaves_nothing(url):
    checks = examine(ClusterConfig(kind="serial"), folder=url)
    assert [c.status for c in checks if c.name == "storage"] == [FINE]
    assert object_store(url).sizes() == {}


def test_doctor_says_that_a_bucket_is_missing(s3_environment):
    checks = examine(ClusterConfig(kind="serial"), folder="s3://none-such/run")
    (storage,) = [c for c in checks if c.name == "storage"]
    assert storage.status == FAILS
    assert "has no such bucket" in storage.found
