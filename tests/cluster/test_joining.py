"""A scheduler that somebody else started: joined, refused, or given up in seconds, with words."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from by_command_line import LOOPBACK, WORKER, Task, cluster_file, tls, wait_for, where
from distributed import Client

from distcalib.cluster import open_client
from distcalib.cluster.security import certificates as certificates_of
from distcalib.cluster.security import given_security, make_certificates
from distcalib.config import ClusterConfig
from distcalib.errors import InputError, RunError
from distcalib.runs import execute
from distcalib.runs.capacity import fit_resource, require_memory
from distcalib.runs.events import Events
from distcalib.runs.execute import DaskExecutor
from distcalib.runs.run import Run


@pytest.fixture(scope="module")
def scheduler(start, certificates, tmp_path_factory) -> Path:
    """The file of a scheduler with TLS, and one worker of no resource."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    start("scheduler", *LOOPBACK, "--protocol", "tls", "--scheduler-file", file, *tls(certificates))
    start(
        "worker",
        "--scheduler-file",
        file,
        "--nthreads",
        1,
        "--no-nanny",
        "--no-dashboard",
        *tls(certificates),
    )
    return file


def test_a_scheduler_file_is_enough_to_join(scheduler, certificates, tmp_path):
    config = cluster_file(tmp_path, f"scheduler: {{scheduler_file: {scheduler}, wait: 60}}", certificates)
    with open_client(config) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert all(a.startswith("tls://") for a in client.scheduler_info(n_workers=-1)["workers"])
        results = DaskExecutor(client).run(where, [Task(str(n)) for n in range(5)])
        assert {r["id"] for r in results} == {"0", "1", "2", "3", "4"}
    # The cluster is somebody else's: it is there after it was left.
    with open_client(config) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1


def test_an_address_is_enough_to_join(scheduler, certificates, tmp_path):
    address = json.loads(wait_for(scheduler).read_text())["address"]
    config = cluster_file(tmp_path, f"scheduler: {{address: '{address}', wait: 60}}", certificates)
    with open_client(config) as client:
        assert client.scheduler.address == address


def test_a_client_without_a_certificate_is_refused(scheduler, certificates, tmp_path):
    address = json.loads(wait_for(scheduler).read_text())["address"]
    with pytest.raises(InputError, match="speaks TLS, and no certificates are given"):
        opened(cluster_file(tmp_path, f"scheduler: {{address: '{address}', wait: 5}}"))
    # Nor by the door of the protocol itself: encrypted, but nobody known.
    host, port = address.removeprefix("tls://").split(":")
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.check_hostname = False
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain) as connection,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        connection.recv(1)
    with pytest.raises((OSError, TimeoutError)):
        Client(f"tcp://{host}:{port}", timeout=3, set_as_default=False)


def test_a_client_with_a_certificate_of_its_own_is_refused(scheduler, tmp_path):
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    config = cluster_file(
        tmp_path, f"scheduler: {{scheduler_file: {scheduler}, wait: 3}}", tmp_path / "other"
    )
    began = time.monotonic()
    with pytest.raises(RunError, match=r"no scheduler can be joined .* the same certificates"):
        opened(config)
    assert time.monotonic() - began < 20


def open_address() -> str:
    every = [a.address for at in psutil.net_if_addrs().values() for a in at if a.family == socket.AF_INET]
    for address in every:
        if not address.startswith("127."):
            return address
    pytest.skip("this machine has no address but the loopback one")


def opened(config: ClusterConfig) -> None:
    with open_client(config):
        pass


def test_too_few_workers_are_said_with_how_many_there_are(scheduler, certificates, tmp_path):
    text = f"workers: 3\nscheduler: {{scheduler_file: {scheduler}, wait: 3}}"
    with pytest.raises(RunError, match=r"1 of 3 workers joined within 3 s .*dask worker"):
        opened(cluster_file(tmp_path, text, certificates))


def test_a_resource_that_nobody_has_is_said_and_never_waited_for(scheduler, certificates, tmp_path):
    config = cluster_file(tmp_path, f"scheduler: {{scheduler_file: {scheduler}, wait: 60}}", certificates)
    with open_client(config) as client:
        resource, words = fit_resource(client, ["cpu"])
        assert resource is None
        assert "no worker has the resource GPU or FIT" in words
        assert "--resources FIT=1" in words
        (done,) = DaskExecutor(client).run(where, [Task("fit")], resource)
        assert done["id"] == "fit"


def test_a_fit_with_a_worker_of_its_own_waits_for_it_in_the_queue(start, tmp_path):
    def fit(task):
        import os

        return {"stage": task.stage, "id": task.id, "outputs": {}, "process": os.getpid()}

    file = tmp_path / "scheduler.json"
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, *WORKER)
    own: list[int] = []
    slurm = {"kind": "slurm", "workers": 1, "fit": {"workers": 1}}
    run = Run(SimpleNamespace(), tmp_path / "run", ClusterConfig.load(None, slurm))  # type: ignore[arg-type]
    with open_client(cluster_file(tmp_path, f"scheduler: {{scheduler_file: {file}, wait: 60}}")) as client:

        def job(event: dict) -> None:
            if event["event"] == "stage":
                own.append(
                    start("worker", "--scheduler-file", file, *WORKER, "--resources", "FIT=1,GPU=1").pid
                )

        run.events, run._executor = Events(None, [job]), DaskExecutor(client)
        (receipt,) = run._stage("fit", fit, [Task("fit")], fit_resource=True)
    assert [receipt.process] == own


def test_tasks_of_a_resource_go_to_its_holder_one_by_one_and_one_that_kills_it_is_held_against_no_other(
    start, tmp_path
):
    def deadly(task):
        import os

        if task.id == "deadly":
            os.kill(os.getpid(), 9)
        return {"id": task.id}

    file = tmp_path / "scheduler.json"
    failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    start("scheduler", *LOOPBACK, "--scheduler-file", file, **failures)
    start("worker", "--scheduler-file", file, "--nthreads", 3, "--no-dashboard", "--resources", "FIT=1")
    retried: list[tuple[str, int]] = []
    with open_client(cluster_file(tmp_path, f"scheduler: {{scheduler_file: {file}, wait: 60}}")) as client:
        executor = DaskExecutor(client, retried=lambda task, deaths: retried.append((task.id, deaths)))
        tasks = [Task("deadly"), Task("a"), Task("b")]
        results = executor.run(deadly, tasks, "FIT", lambda task, why: [Task(f"in place of {task.id}")])
        assert [r["id"] for r in results] == ["in place of deadly", "a", "b"]
    assert retried == [("deadly", 1)]


def test_a_task_that_nobody_can_take_ends_within_seconds(start, tmp_path):
    # A scheduler whose own settings would let it wait for ever.
    file = tmp_path / "scheduler.json"
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, *WORKER)
    # Both have started before the short wait; not `open_client`, for the first one to join sets the limit.
    with Client(scheduler_file=str(wait_for(file)), timeout=60, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    with open_client(cluster_file(tmp_path, f"scheduler: {{scheduler_file: {file}, wait: 5}}")) as client:
        began = time.monotonic()
        with pytest.raises(RunError, match=r"simulate gpu \(WY\): NoValidWorker"):
            list(DaskExecutor(client).run(where, [Task("gpu")], "GPU"))
        assert 3 < time.monotonic() - began < 40


def test_a_scheduler_that_goes_ends_the_run_at_once_and_is_named(start, tmp_path):
    def endless(task):
        import time

        (tmp_path / "begun").touch()
        time.sleep(600)

    file = tmp_path / "scheduler.json"
    scheduler = start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, *WORKER)
    with open_client(cluster_file(tmp_path, f"scheduler: {{scheduler_file: {file}, wait: 120}}")) as client:

        def kill_it() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.05)
            scheduler.kill()

        killer = threading.Thread(target=kill_it, daemon=True)
        killer.start()
        with pytest.raises(
            RunError, match=r"the scheduler tcp://127\.0\.0\.1:\d+ is gone: what was finished"
        ):
            list(DaskExecutor(client).run(endless, [Task("a"), Task("b")]))
        killer.join()
        began = time.monotonic()
    # Nor is it waited for when the client is closed.
    assert time.monotonic() - began < 60


def test_a_task_that_takes_longer_than_workers_stay_is_begun_so_often_and_named(start, tmp_path, monkeypatch):
    def endless(task):
        import time

        from distributed import get_worker

        with open(tmp_path / "begun.txt", "a") as file:
            file.write(f"{get_worker().address}\n")
        time.sleep(600)

    monkeypatch.setattr(execute, "BEGINS", 2)
    file = tmp_path / "scheduler.json"
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    for _ in range(3):
        start("worker", "--scheduler-file", file, *WORKER)
    with open_client(
        cluster_file(tmp_path, f"workers: 3\nscheduler: {{scheduler_file: {file}, wait: 60}}")
    ) as client:

        def leave() -> None:
            # As a worker does whose lifetime ends.
            for number in range(2):
                while len(begun := (tmp_path / "begun.txt").read_text().split()) <= number:
                    time.sleep(0.05)
                client.retire_workers([begun[number]])

        (tmp_path / "begun.txt").touch()
        leaving = threading.Thread(target=leave, daemon=True)
        leaving.start()
        with pytest.raises(
            RunError, match=r"simulate long \(WY\): was begun 3 times and never done.*walltime"
        ):
            list(DaskExecutor(client).run(endless, [Task("long")]))
        leaving.join()
    assert len(set((tmp_path / "begun.txt").read_text().split())) == 3


def test_a_scheduler_that_hangs_ends_the_run_and_is_named(start, tmp_path, monkeypatch):
    def endless(task):
        import time

        (tmp_path / "begun").touch()
        time.sleep(600)

    monkeypatch.setattr(execute, "ANSWER", 1)
    file = tmp_path / "scheduler.json"
    scheduler = start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, *WORKER)
    with open_client(cluster_file(tmp_path, f"scheduler: {{scheduler_file: {file}, wait: 20}}")) as client:

        def stop_it() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.05)
            scheduler.send_signal(signal.SIGSTOP)

        stopper = threading.Thread(target=stop_it, daemon=True)
        stopper.start()
        began = time.monotonic()
        with pytest.raises(RunError, match=r"127\.0\.0\.1:\d+ said nothing for \d s: what was finished"):
            list(DaskExecutor(client, wait=3).run(endless, [Task("a"), Task("b")]))
        stopper.join()
    assert time.monotonic() - began < 60
    scheduler.kill()


def test_workers_with_too_little_memory_are_told_of_or_refused(scheduler, certificates, tmp_path):
    config = cluster_file(tmp_path, f"scheduler: {{scheduler_file: {scheduler}, wait: 60}}", certificates)
    with open_client(config) as client:
        assert require_memory(client, {"simulate": 2**20}, "c.yaml") == []
        (limit,) = [w["memory_limit"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
        with pytest.raises(
            RunError, match=r"c\.yaml: the largest task of the stage verify .* 1 workers have"
        ):
            require_memory(client, {"simulate": 1, "verify": limit + 1}, "c.yaml")


def test_the_fit_is_held_to_the_workers_that_may_be_given_it():
    def client(**workers: tuple[int, dict[str, float]]) -> SimpleNamespace:
        known = {name: {"memory_limit": n, "resources": held} for name, (n, held) in workers.items()}
        return SimpleNamespace(scheduler_info=lambda n_workers: {"workers": known})

    needs = {"simulate": 4, "fit": 7}
    assert require_memory(client(a=(4, {}), b=(8, {"FIT": 1})), needs, "c.yaml") == []
    with pytest.raises(RunError, match=r"stage fit needs .* 1 workers have less \(worker b"):
        require_memory(client(a=(9, {}), b=(5, {"GPU": 1})), needs, "c.yaml")
    (told,) = require_memory(client(a=(4, {}), b=(8, {})), needs, "c.yaml")
    assert "such a task dies there, and is done by another" in told
    assert "halves" not in told
    with pytest.raises(RunError, match="stage simulate"):
        require_memory(client(a=(3, {"FIT": 1})), needs, "c.yaml")


def test_a_scheduler_that_is_not_there_is_given_up(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = cluster_file(tmp_path, f"scheduler: {{address: 'tcp://127.0.0.1:{port}', wait: 2}}")
    began = time.monotonic()
    with pytest.raises(RunError, match=rf"can be joined at tcp://127\.0\.0\.1:{port} within 2 s"):
        opened(config)
    assert time.monotonic() - began < 15


def test_a_scheduler_file_that_nobody_writes_is_given_up(tmp_path):
    config = cluster_file(tmp_path, "scheduler: {scheduler_file: none.json, wait: 0.5}")
    with pytest.raises(RunError, match=r"no scheduler wrote .*none\.json within 0\.5 s: .*dask scheduler"):
        opened(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"address": "tcp://10.0.0.7:8786"}', "is refused: neither encrypted nor authenticated"),
        ('{"address": "tls://10.0.0.7"}', "is not an address of a scheduler"),
        ('{"address": 3}', "is not a scheduler file"),
        ("[]", "is not a scheduler file"),
        ("no json", "is not a scheduler file"),
    ],
)
def test_what_a_scheduler_file_says_is_not_believed(tmp_path, text, words):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=words):
        opened(cluster_file(tmp_path, "scheduler: {scheduler_file: s.json, wait: 1}"))


def test_an_open_scheduler_of_another_address_is_refused_by_its_file(start, tmp_path):
    own = open_address()
    file = tmp_path / "scheduler.json"
    start("scheduler", "--host", own, "--port", 0, "--no-dashboard", "--scheduler-file", file)
    wait_for(file)
    with pytest.raises(InputError, match="is refused: neither encrypted nor authenticated"):
        opened(cluster_file(tmp_path, "scheduler: {scheduler_file: scheduler.json, wait: 20}"))


def test_an_open_scheduler_is_refused_also_by_its_loopback_address(start, tmp_path):
    file = tmp_path / "scheduler.json"
    start("scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file)
    port = json.loads(wait_for(file).read_text())["address"].rpartition(":")[2]
    text = f"scheduler: {{address: 'tcp://127.0.0.1:{port}', wait: 20}}"
    with pytest.raises(
        InputError, match=rf"tcp://127\.0\.0\.1:{port} listens on.*: is refused.*0\.0\.0\.0"
    ) as told:
        opened(cluster_file(tmp_path, text))
    assert "--host 127.0.0.1" in str(told.value)


def test_made_certificates_are_for_this_user_alone_and_go_with_the_run(tmp_path):
    config = ClusterConfig.load(None, {"kind": "slurm", "workers": 1, "security": {"folder": str(tmp_path)}})
    with certificates_of(config) as (security, folder):
        assert security is not None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(f.stat().st_mode) for f in folder.glob("*.pem")} == {0o600}
        assert security.get_connection_args("worker")["require_encryption"]
        assert "PRIVATE KEY" not in repr(security)
        first = (folder / "key.pem").read_text()
    assert not folder.exists()
    with certificates_of(config) as (_, folder):
        assert (folder / "key.pem").read_text() != first


def test_files_that_are_no_certificates_are_named(tmp_path, certificates):
    for name in ("ca", "cert", "key"):
        own = tmp_path / name
        own.mkdir()
        for file in certificates.iterdir():
            (own / file.name).write_bytes(file.read_bytes())
        (own / f"{name}.pem").write_text("no certificate")
        config = cluster_file(own, "scheduler: {address: 'tls://127.0.0.1:1'}", own)
        with pytest.raises(InputError, match=rf"security\.{'ca' if name == 'ca' else 'cert and key'}"):
            given_security(config)


def test_a_key_of_another_certificate_is_refused(tmp_path, certificates):
    make_certificates(tmp_path)
    (tmp_path / "cert.pem").write_bytes((certificates / "cert.pem").read_bytes())
    config = cluster_file(tmp_path, "scheduler: {address: 'tls://127.0.0.1:1'}", tmp_path)
    with pytest.raises(InputError, match="belong together"):
        given_security(config)


def test_nothing_is_imported_of_dask_by_the_package_and_its_settings():
    program = "import sys, distcalib.cluster; print('distributed' in sys.modules, 'dask' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_worker_of_an_open_address_is_refused_though_the_scheduler_is_not(start, tmp_path):
    own = open_address()
    file = tmp_path / "scheduler.json"
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, "--host", own, *WORKER)
    with pytest.raises(InputError, match=rf"worker {own}:\d+ of .* is refused: neither encrypted"):
        opened(cluster_file(tmp_path, "scheduler: {scheduler_file: scheduler.json, wait: 60}"))
