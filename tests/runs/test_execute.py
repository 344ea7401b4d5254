"""Executors: what is run again and how often, where storage fails and where workers die among many tasks."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from distcalib import ClusterConfig
from distcalib.cluster.local import local_client
from distcalib.errors import RunError, StorageError
from distcalib.runs import execute
from distcalib.runs.events import deaths_of
from distcalib.runs.execute import DaskExecutor, SerialExecutor
from distcalib.runs.saying import say
from distcalib.runs.tasks import finished

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Small:
    """A task of no time; its number is its id."""

    inputs: SimpleNamespace
    id: str
    stage: str = "simulate"
    place: str = "WY"


def some(folder: Path, n: int) -> list[Small]:
    return [Small(SimpleNamespace(run=str(folder)), str(number)) for number in range(n)]


def log(task: Small) -> None:
    with open(f"{task.inputs.run}/begun.txt", "a", encoding="utf-8") as file:
        file.write(f"{task.id}\n")


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun.txt").read_text(encoding="utf-8").split())


def works(fates: dict[str, Exception | int]):
    """Return a task's work that writes a file, but meets a fate: an error, always, or a signal."""

    @finished
    def work(task):
        log(task)
        run = Path(task.inputs.run)
        fate = fates.get(task.id)
        if isinstance(fate, int):
            os.kill(os.getpid(), fate)
        if fate is not None and (str(fate) != "twice" or begun(run)[task.id] < execute.TRIES):
            raise fate
        (run / f"{task.id}.txt").write_text(task.id)
        return [f"{task.id}.txt"], {}

    return work


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), StorageError("f: EIO")])
def test_a_task_that_storage_fails_is_run_three_times_and_last(tmp_path, error):
    order = []

    def work(task):
        order.append(task.id)
        if task.id == "0" and order.count("0") < 3:
            raise error
        return {"id": task.id}

    assert [r["id"] for r in SerialExecutor().run(work, some(tmp_path, 3))] == ["1", "2", "0"]
    assert order == ["0", "1", "2", "0", "0"]
    with pytest.raises(RunError, match=r"simulate 0 \(WY\): .*(EIO|Input/output)") as caught:
        list(SerialExecutor().run(works({"0": error}), some(tmp_path, 1)))
    assert caught.value.exit_code == 1
    assert begun(tmp_path) == {"0": execute.TRIES}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("odd")])
def test_what_does_not_pass_is_run_once(tmp_path, error):
    with pytest.raises(RunError, match=r"simulate 0 \(WY\): OSError: .*(No space left|odd)"):
        list(SerialExecutor().run(works({"0": error}), some(tmp_path, 2)))
    assert begun(tmp_path) == {"0": 1}


@pytest.fixture(scope="module")
def client():
    with local_client(ClusterConfig(workers=2, warm=False)) as client:
        yield client


def test_small_tasks_go_together_and_what_kills_or_fails_among_them_is_found_out(
    client, tmp_path, monkeypatch
):
    # However slow the machine, packs grow; `test_split` has a task that kills its workers alone.
    monkeypatch.setattr(execute, "PACK_SECONDS", 1e9)
    tasks = some(tmp_path, 200)
    fates = {
        "0": signal.SIGKILL,
        "60": signal.SIGKILL,
        "90": MemoryError("9 GiB"),
        "120": StorageError("twice"),
    }
    sizes, real = [], execute._pack

    def packed(*args):
        pack = real(*args)
        sizes.append(len(pack))
        return pack

    monkeypatch.setattr(execute, "_pack", packed)
    replaced: dict[str, str] = {}

    def instead(task, why):
        replaced[task.id] = why
        return [Small(task.inputs, f"{task.id}-instead")]

    results = list(DaskExecutor(client).run(works(fates), tasks, None, instead))
    assert max(sizes) > 4
    assert sizes[0] == 1
    counts = begun(tmp_path)
    # Once with others, which nobody is blamed for, and twice alone.
    assert counts.pop("60") == 1 + execute.DEATHS_INSTEAD
    # The first task goes alone, and after a death always.
    assert counts.pop("0") == execute.DEATHS_INSTEAD
    assert counts.pop("120") == execute.TRIES
    assert "2 workers that ran it died" in replaced["60"]
    assert "9 GiB" in replaced["90"]
    assert set(replaced) == {"0", "60", "90"}
    assert set(counts.values()) == {1}, "innocent tasks are done once, whoever dies beside them"
    ids = {task.id for task in tasks} - {*replaced} | {f"{one}-instead" for one in replaced}
    assert sorted(r["id"] for r in results) == sorted(ids)
    assert {path.stem for path in tmp_path.glob("receipts/simulate/*")} == ids


def speaks(task: Small) -> dict[str, str]:
    say(epoch=1, loss=0.5)
    say(epoch=2, loss=float("nan"))
    return {"id": task.id}


WORDS = {(i, e, loss) for i in ("0", "1") for e, loss in ((1, 0.5), (2, None))}


def test_what_tasks_say_is_heard_and_a_listener_that_fails_ends_nothing(tmp_path, client):
    heard, all_of_it = set(), threading.Event()

    def hear(task: Small, facts: dict) -> None:
        heard.add((task.id, facts["epoch"], facts["loss"]))
        if heard == WORDS:
            all_of_it.set()
        raise OSError("no space left")

    executor = DaskExecutor(client, said=hear)
    for result in executor.run(speaks, some(tmp_path, 2)):
        assert result["id"] in ("0", "1")
        if result["id"] == "1":
            assert all_of_it.wait(20)  # words may come after what was done
    assert heard == WORDS


def test_a_task_is_heard_in_this_process_too_and_elsewhere_speaks_to_nobody(tmp_path):
    heard = set()
    executor = SerialExecutor(lambda task, facts: heard.add((task.id, facts["epoch"], facts["loss"])))
    assert [r["id"] for r in executor.run(speaks, some(tmp_path, 2))] == ["0", "1"]
    assert heard == WORDS
    speaks(some(tmp_path, 1)[0])
    assert heard == WORDS


def test_deaths_of_tasks_that_were_finished_all_the_same_are_held_against_nobody():
    executor = DaskExecutor(None)
    assert executor._too_many() == execute.DEATHS
    executor._begun, executor._died = 1000, 10
    assert executor._too_many() == execute.DEATHS
    executor._begun, executor._died = 1000, 300
    assert executor._too_many() == 10
    executor._died = 1000
    assert executor._too_many() == 17


def test_a_coordinator_that_takes_a_run_up_knows_of_the_deaths_before_it():
    told = [("retry", "a"), ("retry", "a"), ("task", "a"), ("retry", "b"), ("task", "c"), ("alive", None)]
    events = [{"event": event, "id": task} for event, task in told]
    # Two tasks were finished, one of them at the third time; that b is no task that kills is not known.
    assert deaths_of(events) == (4, 2)
    assert DaskExecutor(None, known=(1000, 300))._too_many() == 10
