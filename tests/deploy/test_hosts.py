"""The scripts of deploy/hosts: a client with the certificate can use what they start, and nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client

from distcalib.cluster import load_cluster, open_client
from distcalib.errors import RunError

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextmanager
def started(script: str, *options: str, folder: Path) -> Iterator[None]:
    """Run a script until the end of the block."""
    environment = os.environ | {
        "DISTCALIB_CLUSTER": str(folder),
        "DISTCALIB_COLD": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (folder / f"{script}.log").open("ab") as log:
        process = subprocess.Popen(
            [DEPLOY / "hosts" / script, *options], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a cluster of two workers, one of which has a GPU, on the loopback address."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([sys.executable, DEPLOY / "certificates.py", folder], check=True)
    shutil.copy(DEPLOY / "hosts/cluster.yaml", folder)
    work = ("--memory-limit", "1GiB", "--host", "127.0.0.1", "--local-directory", str(folder / "scratch"))
    with ExitStack() as stack:
        stack.enter_context(started("scheduler.sh", "--host", "127.0.0.1", "--port", "0", folder=folder))
        stack.enter_context(started("worker.sh", *work, "--resources", "FIT=1,GPU=1", folder=folder))
        stack.enter_context(started("worker.sh", *work, "--nworkers", "1", folder=folder))
        yield folder


def test_the_cluster_file_joins_what_the_scripts_started(folder: Path) -> None:
    with open_client(load_cluster(folder / "cluster.yaml")) as client:
        client.wait_for_workers(2, timeout=60)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert all(address.startswith("tls://127.0.0.1:") for address in workers)
        with_gpu = {address for address, one in workers.items() if one["resources"].get("GPU")}
        assert len(with_gpu) == 1
        tasks = client.map(abs, range(-4, 0), resources={"GPU": 1}, pure=False)
        assert client.gather(tasks) == [4, 3, 2, 1]
        assert {where for found in client.who_has(tasks).values() for where in found} == with_gpu


def test_workers_and_scheduler_behave_as_dask_yaml_says(folder: Path) -> None:
    def settings() -> tuple[object, ...]:
        import dask

        return tuple(
            dask.config.get(f"distributed.{name}")
            for name in ("scheduler.allowed-failures", "worker.memory.spill", "worker.http.routes")
        )

    with open_client(load_cluster(folder / "cluster.yaml")) as client:
        assert all(list(said) == [0, False, []] for said in client.run(settings).values())
        assert list(client.run_on_scheduler(settings)) == [0, False, []]


def test_a_client_without_the_certificate_is_refused(folder: Path, tmp_path: Path) -> None:
    config = load_cluster(folder / "cluster.yaml")
    with open_client(config) as client:
        address = client.scheduler.address
    with pytest.raises((OSError, TimeoutError)):
        Client(address.replace("tls://", "tcp://"), timeout=3)
    with pytest.raises(TypeError, match="TLS"):
        Client(address, timeout=3)
    # Nor does another certificate do, made in the same way.
    subprocess.run([sys.executable, DEPLOY / "certificates.py", tmp_path], check=True)
    for name in ("cluster.yaml", "scheduler.json"):
        shutil.copy(folder / name, tmp_path)
    other = load_cluster(tmp_path / "cluster.yaml")
    with (
        pytest.raises(RunError, match="same certificates"),
        open_client(other.changed(scheduler=replace(other.scheduler, wait=3))),
    ):
        pass


def test_certificates_are_this_users_alone_and_are_not_written_over(folder: Path) -> None:
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.pem")} == {0o600}
    again = subprocess.run(
        [sys.executable, DEPLOY / "certificates.py", folder], capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "is there" in again.stderr


def test_a_script_that_is_not_told_the_folder_says_so(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "DISTCALIB_CLUSTER"}
    for script in ("scheduler.sh", "worker.sh"):
        done = subprocess.run(
            [DEPLOY / "hosts" / script], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode != 0
        assert "DISTCALIB_CLUSTER" in done.stderr
