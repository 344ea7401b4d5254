"""A whole run in an S3 store that fails 2 % of writes, its coordinator terminated and killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from s3_server import s3_at, s3_variables

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cli import main
from distcalib.publication.publishing import publish
from distcalib.runs.manifest import read_manifest
from distcalib.runs.remote import object_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

URL = "s3://counties/runs/small"
# What decides what a user gets; receipts and logs tell times, the plan where its microdata lie.
EQUAL = ("areas/", "matrix.zarr/", "verify/", "targets.parquet", "columns.parquet", "excluded.parquet")


@pytest.fixture
def s3(monkeypatch):
    with s3_at("127.0.0.1", failing=0.02) as url:
        for name, value in s3_variables(url).items():
            monkeypatch.setenv(name, value)
        yield


def start(settings: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distcalib.cli", "run", str(settings), "--output", URL, "--workers", "2"]
    with open(log, "a") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def test_a_run_in_a_store_ends_where_one_in_a_folder_does(small_run, small_settings, s3, tmp_path):
    store = object_store(URL)
    store.fs.makedirs("counties", exist_ok=True)
    log = tmp_path / "log"
    finished: dict[str, tuple[int, str]] = {}
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        process = start(small_settings, log)
        until = time.monotonic() + 600
        # Of whatever stage: the tasks that ran beside the first one may all have ended with it.
        while len(store.sizes("receipts")) <= len(finished):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        assert process.wait(timeout=120) == code, log.read_text()
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        assert finished.items() <= store.sizes("receipts").items(), "a finished task was done again"
        finished = store.sizes("receipts")
        assert json.loads(store.read(".lease.json"))["released"] == (number == signal.SIGTERM)
    assert f"interrupted; what is finished stays in {URL}" in log.read_text()
    assert store.stat("manifest.json") is None

    config, seen = RunConfig.load(small_settings), []
    manifest = Run(config, URL, ClusterConfig(workers=2), [seen.append]).execute()
    whole = read_manifest(small_run)
    assert (manifest["matrix"], manifest["weights"]) == (whole["matrix"], whole["weights"])
    here, there = (
        {path: facts["sha256"] for path, facts in m["files"].items() if path.startswith(EQUAL)}
        for m in (whole, manifest)
    )
    assert there == here
    assert len(here) > 20
    assert finished.items() <= store.sizes("receipts").items(), "a finished task was done again"
    for path, facts in manifest["files"].items():
        assert store.sha256(path) == facts["sha256"], path
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in log.read_bytes()
    for path in store.sizes():
        data = store.read(path)
        assert secret not in data, path
        assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in data, path

    # Another host, with nothing of it: nothing is done, and the store alone says how it stands.
    names = store.sizes()
    Run(config, URL, ClusterConfig(workers=2), [seen.append]).execute()
    assert seen[-1]["event"] == "nothing_to_do"
    changed = {p for p, facts in store.sizes().items() if names.get(p) != facts}
    assert changed == {"events.ndjson", ".lease.json"}
    told = CliRunner().invoke(main, ["status", URL, "--json"])
    assert json.loads(told.output)["state"] == "done"
    # Nor by the command, which shows the run from what the store has, with a report that is made once.
    for _ in range(2):
        ended = CliRunner().invoke(main, ["run", str(small_settings), "--output", URL, "--workers", "2"])
        assert ended.exit_code == 0, ended.output
        assert "nothing to do" in ended.output
        assert f"{URL}/report.html: the report" in ended.output
    report = store.read("report.html")
    assert b"The run has no fit yet" not in report
    assert b"the proof is not done" not in report
    assert publish(URL, tmp_path / "public").moved

    # A lost file is written again, by its task alone.
    store.delete("areas/states/WY.h5")
    seen.clear()
    again = Run(config, URL, ClusterConfig(kind="serial"), [seen.append]).execute()
    assert [e["place"] for e in seen if e["event"] == "task"] == ["WY"]
    assert again["files"]["areas/states/WY.h5"] == manifest["files"]["areas/states/WY.h5"]
