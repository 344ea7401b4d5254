"""Two hosts, as network namespaces: scheduler on one, workers on both, the client on a third, all TLS."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from by_command_line import CLOSED, WORKER, Hosts, Task, cluster_file, on, tls, wait_for, where

from distcalib.cluster import open_client
from distcalib.cluster.security import make_certificates
from distcalib.errors import InputError, RunError
from distcalib.runs.doctor import FAILS, NOTE, examine
from distcalib.runs.execute import DaskExecutor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(start: Callable[..., object], hosts: Hosts, certificates: Path, tmp_path_factory) -> Path:
    """The scheduler file of the first host; a worker on each."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    secure = tls(certificates)
    start(
        "scheduler", "--host", "10.213.77.2", "--port", 0, "--protocol", "tls", "--no-dashboard",
        "--scheduler-file", file, *secure, before=on(hosts[0]), **CLOSED,
    )  # fmt: skip
    for host in hosts:
        options = (*WORKER, "--resources", "FIT=1", *secure)
        start("worker", "--scheduler-file", file, *options, before=on(host), **CLOSED)
    return wait_for(file)


def test_a_run_reaches_workers_of_two_hosts_by_tls(cluster, certificates, tmp_path):
    text = f"workers: 2\nscheduler: {{scheduler_file: {cluster}, wait: 60}}"
    config = cluster_file(tmp_path, text, certificates)
    with open_client(config) as client:
        addresses = client.scheduler_info(n_workers=-1)["workers"]
        assert {a.rsplit(":", 1)[0] for a in addresses} == {"tls://10.213.77.2", "tls://10.213.77.3"}
        tasks = [Task(str(n)) for n in range(20)]
        results = list(DaskExecutor(client).run(where, tasks))
        assert len({r["pid"] for r in results}) == 2
    assert [c for c in examine(config) if c.status == FAILS] == []


def test_clients_without_these_certificates_are_refused(cluster, tmp_path):
    text = f"scheduler: {{scheduler_file: {cluster}, wait: 3}}"
    with pytest.raises(InputError, match="no certificates are given"):
        opened(cluster_file(tmp_path, text))
    make_certificates(tmp_path)
    with pytest.raises(RunError, match="no scheduler can be joined"):
        opened(cluster_file(tmp_path, text, tmp_path))


def test_a_worker_without_a_certificate_never_joins(start, cluster, hosts, certificates, tmp_path):
    address = cluster.read_text().split('"address": "')[1].split('"')[0]
    own = tmp_path / "own"
    own.mkdir()
    make_certificates(own)
    intruder = start("worker", address, *WORKER, "--death-timeout", 5, *tls(own), before=on(hosts[1]))
    assert intruder.wait(timeout=60) != 0
    with open_client(
        cluster_file(tmp_path, f"scheduler: {{address: '{address}', wait: 30}}", certificates)
    ) as c:
        assert len(c.scheduler_info(n_workers=-1)["workers"]) == 2


def test_nothing_but_the_two_ports_of_tls_answers(cluster, hosts):
    """Dashboards and HTTP servers of the hosts: on the loopback interface, or silent."""
    for host, number in zip(hosts, (2, 3), strict=True):
        listening = subprocess.run(
            ["ip", "netns", "exec", host, sys.executable, "-c", LISTENING], capture_output=True, text=True
        ).stdout.split()
        ports = [int(port) for port in listening]
        assert ports
        for port in ports:
            with socket.create_connection((f"10.213.77.{number}", port), timeout=5) as plain:
                plain.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                plain.settimeout(5)
                try:
                    answer = plain.recv(64)
                except OSError:
                    answer = b""
            assert not answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")), port


LISTENING = """
import psutil
print(*{c.laddr.port for c in psutil.net_connections("inet") if c.status == "LISTEN"
        and not c.laddr.ip.startswith("127.")})
"""


def test_a_plain_scheduler_of_another_host_is_refused(start, hosts, tmp_path):
    file = tmp_path / "scheduler.json"
    start(
        "scheduler", "--host", "10.213.77.3", "--port", 0, "--no-dashboard", "--scheduler-file", file,
        before=on(hosts[1]),
    )  # fmt: skip
    wait_for(file)
    text = f"scheduler: {{scheduler_file: {file}, wait: 20}}"
    with pytest.raises(InputError, match="is refused: neither encrypted nor authenticated"):
        opened(cluster_file(tmp_path, text))
    start("worker", "--scheduler-file", file, *WORKER, before=on(hosts[1]))
    said = f"{text}\nsecurity: {{allow_unencrypted_and_unauthenticated: true}}"
    config = cluster_file(tmp_path, said)
    with open_client(config) as client:
        assert client.scheduler.address.startswith("tcp://10.213.77.3:")
    # Dask's own settings show tasks and logs to everybody who asks.
    checks = examine(config)
    assert {c.place.split()[0] for c in checks if c.name == "pages" and c.status == FAILS} == {
        "scheduler", "worker",
    }  # fmt: skip
    assert any("HTTP__ROUTES" in c.mend for c in checks)
    assert [c.status for c in checks if c.name == "TLS"] == [NOTE, NOTE]


def opened(config) -> None:
    with open_client(config):
        pass
