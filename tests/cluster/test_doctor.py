"""`distcalib doctor`: what it finds on real workers, and that each failure says its mend."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from by_command_line import LOOPBACK, WORKER, cluster_file, tls
from click.testing import CliRunner, Result

from distcalib import ClusterConfig
from distcalib.cli.doctor import doctor
from distcalib.cluster.security import make_certificates
from distcalib.runs.capacity import unmet
from distcalib.runs.doctor import FAILS, FINE, NOTE, Check, _of_clock, _of_pages, examine
from distcalib.runs.plan import Plan

# A worker that loads this says that it has another rules engine.
OTHER_VERSION = """
from distcalib.runs import workers
said = workers.identity() | {"policyengine-us": "2.0.0"}
workers.identity = lambda: said
from distcalib.runs import doctor
doctor.identity = workers.identity
"""


def asked(*arguments: object) -> Result:
    return CliRunner().invoke(doctor, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def healthy(start, certificates, tmp_path_factory) -> Path:
    """The cluster file of a scheduler with TLS and one worker for everything."""
    folder = tmp_path_factory.mktemp("healthy")
    file = folder / "scheduler.json"
    start("scheduler", *LOOPBACK, "--protocol", "tls", "--scheduler-file", file, *tls(certificates))
    start("worker", "--scheduler-file", file, *WORKER, "--resources", "FIT=1", *tls(certificates))
    cluster_file(folder, "scheduler: {scheduler_file: scheduler.json, wait: 60}", certificates)
    return folder / "cluster.yaml"


def of(checks: list[Check], name: str, place: str = "worker") -> Check:
    (check,) = [c for c in checks if c.name == name and c.place.startswith(place)]
    return check


def plan_of(task_bytes: int, engine: str = "cpu") -> Plan:
    facts = {"task_bytes": {"fixed": 1, "simulate": task_bytes, "verify": 2}}
    return SimpleNamespace(facts=facts, engines={"": engine})  # type: ignore[return-value]


def test_a_healthy_cluster_passes_and_nothing_stays_in_the_run_folder(healthy, tmp_path):
    folder = tmp_path / "new" / "run"
    result = asked("--cluster", healthy, "--output", folder)
    assert result.exit_code == 0, result.output
    for word in (
        "versions",
        "storage",
        "memory",
        "threads",
        "clock",
        "TLS",
        "encrypted, certificates on both",
    ):
        assert word in result.output
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    assert asked("--cluster", healthy, "--output", folder).exit_code == 0
    assert list(folder.iterdir()) == []


def test_workers_that_have_not_joined_are_told(healthy):
    config = ClusterConfig.load(healthy)
    assert of(examine(config), "workers", "scheduler").found == "1 workers"
    more = config.changed(workers=3, scheduler=dataclasses.replace(config.scheduler, wait=1.0))
    # Joined all the same, and looked at.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distcalib.cluster.address.wait_for_workers", lambda *_: None)
        checks = examine(more)
    missing = of(checks, "workers", "scheduler")
    assert missing.status == FAILS
    assert "1 of 3 workers joined within 1 s" in missing.found
    assert "`dask worker`" in missing.mend
    assert of(checks, "versions").status == FINE


def test_one_process_is_held_to_the_memory_of_the_machine():
    serial = ClusterConfig(kind="serial")
    assert of(examine(serial, plan_of(2**20)), "memory", "here").status == FINE
    assert of(examine(serial, plan_of(2**50)), "memory", "here").status == FAILS


class Page(BaseHTTPRequestHandler):
    """Has the pages of Bokeh and none of Dask's own routes; or speaks something that is no HTTP."""

    words = b"HTTP/1.1"

    def do_GET(self) -> None:
        found = self.path == "/status"
        self.wfile.write(self.words + b" 200 OK\r\n\r\n" if found else self.words + b" 404 No\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("words", "shown"), [(b"HTTP/1.1", True), (b"SSH-2.0", False)])
def test_pages_are_asked_directly_and_every_kind_of_them(words, shown, monkeypatch):
    # A proxy that answers nothing, as login nodes have for the world outside.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    handler = type("Mine", (Page,), {"words": words})
    with ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (check,) = _of_pages("scheduler", "tls://127.0.0.1:1", {"dashboard": server.server_port})
        assert ("shows tasks and logs" in check.found) == shown
        every = [one for card in psutil.net_if_addrs().values() for one in card]
        open_ones = [a.address for a in every if a.family == socket.AF_INET and a.address[:4] != "127."]
        for here in open_ones[:1]:  # a machine without a network has none
            (check,) = _of_pages("scheduler", f"tls://{here}:1", {"dashboard": server.server_port})
            assert check.status == (FAILS if shown else FINE)
            assert not shown or "--no-dashboard" in check.mend
        server.shutdown()


def test_memory_is_held_to_the_plan(healthy):
    config = ClusterConfig.load(healthy)
    (check,) = [c for c in examine(config, plan_of(2**20)) if c.name == "memory"]
    assert check.status in (FINE, NOTE)
    (check,) = [c for c in examine(config, plan_of(2**50)) if c.name == "memory"]
    assert check.status == FAILS
    assert "the largest task (simulate) needs 1048576.0 GiB" in check.found
    assert "memory_limit" in check.mend
    large = plan_of(2**20)
    large.facts["task_bytes"]["fit"] = 2**50
    (check,) = [c for c in examine(config, large) if c.name == "memory"]
    assert (check.status, "the largest task (fit) needs" in check.found) == (FAILS, True)


def test_an_engine_that_needs_a_gpu_fails_where_there_is_none(healthy):
    config = ClusterConfig.load(healthy)
    failing = [c for c in examine(config, plan_of(1, "cuda")) if c.status == FAILS]
    assert [c.name for c in failing] == ["GPU"]
    assert "fit.engine: cpu" in failing[0].mend


def test_what_is_wrong_with_a_worker_is_named_with_its_mend(start, tmp_path):
    file, preload = tmp_path / "scheduler.json", tmp_path / "other_version.py"
    preload.write_text(OTHER_VERSION)
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    options = ("--nthreads", 2, "--no-nanny", "--no-dashboard", "--resources", "GPU=1", "--preload", preload)
    start("worker", "--scheduler-file", file, *options)
    config = cluster_file(tmp_path, "scheduler: {scheduler_file: scheduler.json, wait: 60}")
    checks = examine(config)
    failing = {c.name for c in checks if c.status == FAILS}
    assert failing == {"versions", "threads"} | ({"GPU"} if shutil.which("nvidia-smi") is None else set())
    assert all(c.mend for c in checks if c.status != FINE)
    assert "policyengine-us is 2.0.0 there" in of(checks, "versions").found
    assert "--nthreads 1" in of(checks, "threads").mend
    assert of(checks, "deaths", "scheduler").status == NOTE
    result = asked("--cluster", tmp_path / "cluster.yaml")
    assert result.exit_code == 1
    assert f"{len(failing)} of {len(checks)} checks fail" in result.output


@pytest.mark.slow
def test_a_run_folder_that_a_worker_does_not_have_is_found(start, tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a worker with a file system of its own takes root and unshare")
    run, file = tmp_path / "run", tmp_path / "scheduler.json"
    run.mkdir()
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    own = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{run}" && exec "$@"', "sh")
    process = start("worker", "--scheduler-file", file, *WORKER, "--resources", "FIT=1", before=own)
    config = cluster_file(tmp_path, "scheduler: {scheduler_file: scheduler.json, wait: 30}")
    checks = examine(config, folder=run)
    if process.poll() is not None:
        pytest.skip("mounting is not permitted here")
    check = of(checks, "storage")
    assert check.status == FAILS
    assert "is not the folder of this machine" in check.found
    assert "same file system" in check.mend
    assert of(checks, "storage", "here").status == FINE
    assert list(run.iterdir()) == []


def test_a_run_folder_below_a_file_is_found(tmp_path):
    (tmp_path / "file").touch()
    (check,) = [
        c
        for c in examine(ClusterConfig(kind="serial"), folder=tmp_path / "file" / "run")
        if c.name == "storage"
    ]
    assert check.status == FAILS
    assert check.mend


def test_a_cluster_that_cannot_be_joined_is_a_check_that_fails(tmp_path):
    cluster_file(tmp_path, "scheduler: {scheduler_file: none.json, wait: 0.3}")
    result = asked("--cluster", tmp_path / "cluster.yaml")
    assert result.exit_code == 1
    assert "dask scheduler" in result.output


def test_a_clock_that_is_off_fails():
    assert _of_clock("worker x", 0.4).status == FINE
    late = _of_clock("worker x", -60.0)
    assert (late.status, late.found) == (FAILS, "60.0 s behind")


def test_a_key_that_others_can_read_is_told(tmp_path):
    make_certificates(tmp_path)
    config = cluster_file(tmp_path, "scheduler: {address: 'tls://127.0.0.1:1', wait: 0.5}", tmp_path)
    assert not [c for c in examine(config) if c.name == "security.key"]
    (tmp_path / "key.pem").chmod(0o644)
    (check,) = [c for c in examine(config) if c.name == "security.key"]
    assert check.status == NOTE
    assert check.mend.startswith("chmod 600")


@pytest.mark.slow
def test_a_local_cluster_and_a_plan_of_the_package_pass(tmp_path):
    (tmp_path / "cluster.yaml").write_text("workers: 2\nmemory_limit: 3GiB")
    result = asked("tiny", "--cluster", tmp_path / "cluster.yaml", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "the largest task" in result.output
    assert not (tmp_path / "run").exists()


def test_the_plan_says_what_no_worker_can_do():
    slurm = ClusterConfig.load(None, {"kind": "slurm", "workers": 2})
    assert unmet(plan_of(1), ClusterConfig()) == []
    (wait,) = unmet(plan_of(1), slurm)
    assert "ends the run after 300 s" in wait
    words = " ".join(unmet(plan_of(1, "cuda"), slurm))
    assert "no worker of the fit has a GPU" in words
    assert "fit.engine: cpu" in words
    own = dataclasses.replace(slurm.fit, workers=1, gpu=1, memory_limit="1GiB")
    gpu = slurm.changed(fit=own)
    assert "no worker of the fit has a GPU" not in " ".join(unmet(plan_of(1, "cuda"), gpu))
    assert "does not use it" in " ".join(unmet(plan_of(1, "cpu"), gpu))
    short = slurm.changed(sim=dataclasses.replace(slurm.sim, walltime="00:05:00"))
    slow = plan_of(1)
    assert "walltime" not in " ".join(unmet(slow, short))
    slow.facts["task_seconds"] = {"simulate": 30, "verify": 300}
    assert "verify takes about 5 min, and a worker leaves after 4 (" in " ".join(unmet(slow, short))
    assert "walltime" not in " ".join(unmet(slow, slurm))
    address = ClusterConfig.load(None, {"kind": "address", "scheduler": {"address": "tls://h:1"}})
    assert "distcalib doctor" in " ".join(unmet(plan_of(1), address))
