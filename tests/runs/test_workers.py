"""Before the first task every worker says what it is; one that differs from the plan computes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import metadata

import dask
import pytest

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cluster.local import local_client
from distcalib.errors import RunError
from distcalib.runs import workers
from distcalib.runs.execute import DaskExecutor
from distcalib.runs.workers import admitted, check, difference, identity
from distcalib.simulation.installed import folder_digest

PLAN = {"versions": {"policyengine-us": metadata.version("policyengine-us")}, "code": {}}

# The fault: a worker of this process would say so if another version were installed beside it.
OTHER_VERSION = """
from distcalib.runs import workers
true = workers.identity()
workers.identity = lambda: {**true, "policyengine-us": "2.0.0"}
"""


class Echo:
    """The smallest task."""

    stage = "echo"

    def __init__(self, number: int) -> None:
        self.id = f"{number:064d}"


def echo(task: Echo) -> dict:
    return {"id": task.id}


def pretend_another_version() -> None:
    exec(OTHER_VERSION, {})


@pytest.fixture
def client():
    with local_client(ClusterConfig(workers=2)) as client:
        yield client


def test_the_coordinator_knows_what_it_is_without_the_rules_engine():
    code = (
        "import sys; from distcalib.runs.workers import identity; print(identity()['policyengine-us']);"
        "assert not {'policyengine_us', 'policyengine_core'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == identity()["policyengine-us"]


def test_an_edited_parameter_is_another_rules_engine(tmp_path):
    for name, text in (("parameters/rate.yaml", "0.1"), ("variables/tax.py", "a = 1"), ("tests/a.py", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = folder_digest(tmp_path)
    (tmp_path / "tests" / "a.py").write_text("b = 1")
    assert folder_digest(tmp_path) == before
    (tmp_path / "parameters" / "rate.yaml").write_text("0.2")
    edited = folder_digest(tmp_path)
    assert edited != before
    (tmp_path / "parameters" / "rate.yaml").rename(tmp_path / "parameters" / "other.yaml")
    assert folder_digest(tmp_path) not in (before, edited)


def test_the_error_names_worker_values_and_mend():
    there, here = {"numpy": "2.0.0", workers.RULES: "a" * 64}, {"numpy": "2.4.6", workers.RULES: "b" * 64}
    both = difference("worker tcp://here:1", there, here)
    assert both.startswith("worker tcp://here:1: numpy is 2.0.0 there, 2.4.6 in the plan; ")
    assert "install the same packages" in both
    rules = difference("worker tcp://here:1", {**there, "numpy": "2.4.6"}, here)
    assert "aaaaaaaaaaaa there, bbbbbbbbbbbb in the plan" in rules
    assert "were edited" in rules
    assert difference("worker tcp://here:1", here, here) == ""
    assert "numpy is unknown there" in difference("x", {}, here)


def test_a_process_that_was_never_asked_runs_no_task():
    with pytest.raises(RunError, match="before it was asked"):
        admitted(echo, Echo(1))


def test_this_process_is_held_to_the_plan_too():
    plan = {**PLAN, "versions": {"policyengine-us": "1.0.0"}}
    with pytest.raises(RunError, match=r"this process: policyengine-us is .* there, 1\.0\.0 in the plan"):
        check(None, plan)


def test_equal_workers_are_taken_and_say_what_memory_they_have(client):
    said = check(client, PLAN)
    assert said["addresses"] == sorted(client.scheduler_info(n_workers=-1)["workers"])
    assert 0 < said["own_bytes"] < 0.35e9
    assert said["shared_bytes"] > 0.5e9
    results = DaskExecutor(client, admitted).run(echo, [Echo(n) for n in range(6)])
    assert sorted(r["id"] for r in results) == [Echo(n).id for n in range(6)]


def test_one_worker_with_another_version_ends_the_run_before_its_first_task(
    client, settings, tmp_path, monkeypatch
):
    odd = min(client.scheduler_info(n_workers=-1)["workers"])
    client.run(pretend_another_version, workers=[odd])

    @contextmanager
    def started(config):
        yield client

    monkeypatch.setattr("distcalib.cluster.local.local_client", started)
    run = Run(RunConfig.load(settings), tmp_path / "out", ClusterConfig(workers=2))
    version = identity()["policyengine-us"]
    with pytest.raises(RunError, match=rf"worker {odd}: policyengine-us is 2\.0\.0 there, {version} in the"):
        run.execute()
    made = {p.relative_to(run.folder).parts[0] for p in run.folder.rglob("*") if p.is_file()}
    plan = {"plan.json", "targets.parquet", "excluded.parquet", "columns.parquet", "take_up.csv"}
    assert made == {*plan, "events.ndjson", ".lock"}


def test_a_late_worker_with_another_version_computes_nothing(client):
    check(client, PLAN)
    first = set(client.scheduler_info(n_workers=-1)["workers"])
    with dask.config.set({"distributed.worker.preload": [OTHER_VERSION]}):
        client.cluster.scale(3)
        client.wait_for_workers(3, timeout=60)
    (late,) = set(client.scheduler_info(n_workers=-1)["workers"]) - first
    honest = client.submit(admitted, echo, Echo(1), workers=[*first], pure=False)
    assert honest.result(timeout=60) == {"id": Echo(1).id}
    # With the others gone, every task of the executor would have to run on the late one.
    client.retire_workers([*first])
    with pytest.raises(RunError, match=rf"worker {late}: policyengine-us is 2\.0\.0 there"):
        list(DaskExecutor(client, admitted).run(echo, [Echo(2)]))


def test_a_late_worker_of_the_same_kind_computes(client):
    check(client, PLAN)
    first = set(client.scheduler_info(n_workers=-1)["workers"])
    client.cluster.scale(3)
    client.wait_for_workers(3, timeout=60)
    client.retire_workers([*first])
    assert list(DaskExecutor(client, admitted).run(echo, [Echo(3)])) == [{"id": Echo(3).id}]


def test_a_worker_that_replaces_a_killed_one_is_asked_too(client):
    said = check(client, PLAN)
    pids = client.run(os.getpid)
    os.kill(pids[said["addresses"][0]], signal.SIGKILL)
    until = time.monotonic() + 60
    while not (new := {*client.scheduler_info(n_workers=-1)["workers"]} - {*said["addresses"]}):
        assert time.monotonic() < until, "no worker replaced the killed one"
        time.sleep(0.05)
    future = client.submit(admitted, echo, Echo(5), workers=[*new], pure=False)
    assert future.result(timeout=60) == {"id": Echo(5).id}


def engine_state() -> tuple[bool, str | None]:
    from distcalib.simulation import warm

    return "policyengine_us" in sys.modules, warm.ERROR


@pytest.mark.slow
def test_a_worker_that_no_fork_server_made_warms_up_when_it_joins():
    with local_client(ClusterConfig(workers=1, warm=False)) as client:
        assert not any(client.run(lambda: "policyengine_us" in sys.modules).values())
        check(client, PLAN)
        ((loaded, error),) = client.run(engine_state).values()
        assert loaded
        assert error is None
        assert list(DaskExecutor(client, admitted).run(echo, [Echo(4)])) == [{"id": Echo(4).id}]
