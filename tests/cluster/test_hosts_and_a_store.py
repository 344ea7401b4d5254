"""Two hosts that share nothing but an object store carry `tiny` out: the digests are those of one machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from by_command_line import CLOSED, WORKER, Hosts, cluster_file, on, tls, wait_for
from s3_server import s3_at, s3_variables

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.runs.doctor import FAILS, examine
from distcalib.runs.manifest import read_manifest
from distcalib.runs.remote import object_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

URL = "s3://districts/runs/tiny"
EQUAL = ("areas/", "matrix.zarr/", "verify/", "fit/weights.npy", "columns.parquet", "targets.parquet")


@pytest.fixture
def variables(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What clients of a server at this host's address on the bridge need in their environment; set here."""
    with s3_at("10.213.77.1") as url:
        for name, value in s3_variables(url).items():
            monkeypatch.setenv(name, value)
        object_store(URL).fs.makedirs("districts", exist_ok=True)
        yield s3_variables(url)


def test_tiny_on_hosts_that_share_nothing_but_a_store(
    start: Callable[..., object], hosts: Hosts, variables, certificates: Path, tmp_path, monkeypatch
):
    here = tmp_path / "here"  # all that the coordinator has; the hosts see an empty folder in its place
    (here / "temporary").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(here / "temporary"))
    file, secure = tmp_path / "scheduler.json", tls(certificates)
    start(
        "scheduler", "--host", "10.213.77.2", "--port", 0, "--protocol", "tls", "--no-dashboard",
        "--scheduler-file", file, *secure, before=on(hosts[0]), **CLOSED,
    )  # fmt: skip
    blind = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {here} && exec "$@"', "sh")
    for host in hosts:
        own = ("--local-directory", tmp_path / host, "--resources", "FIT=1")
        start(
            "worker", "--scheduler-file", file, *WORKER, *own, *secure,
            before=(*on(host), *blind), **CLOSED, **variables,
        )  # fmt: skip
    wait_for(file)
    cluster = cluster_file(
        tmp_path, f"workers: 2\nscheduler: {{scheduler_file: {file}, wait: 300}}", certificates
    )
    assert [c for c in examine(cluster, folder=URL) if c.status == FAILS] == []
    assert object_store(URL).sizes() == {}

    config = RunConfig.load("tiny")
    config = config.changed(fit=replace(config.fit, epochs=50, refit_epochs=500))
    seen: list[dict] = []
    there = Run(config, URL, cluster, [seen.append]).execute()
    (workers,) = [e["addresses"] for e in seen if e["event"] == "workers"]
    assert {a.rsplit(":", 1)[0] for a in workers} == {"tls://10.213.77.2", "tls://10.213.77.3"}
    processes = {
        json.loads(object_store(URL).read(path))["process"]
        for path in there["files"]
        if path.startswith("receipts/simulate/")
    }
    assert len(processes) == 2

    alone = tmp_path / "alone"
    Run(config, alone, ClusterConfig(workers=2)).execute()
    one = read_manifest(alone)
    assert (there["matrix"], there["weights"]) == (one["matrix"], one["weights"])
    digests = [
        {path: facts["sha256"] for path, facts in m["files"].items() if path.startswith(EQUAL)}
        for m in (there, one)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) > 60
