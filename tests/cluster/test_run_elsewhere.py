"""A whole run on a cluster that somebody else started gives the digests of one in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from by_command_line import LOOPBACK, WORKER, tls

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cluster.security import FILES

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    receipts = [json.loads(f.read_text()) for f in folder.glob("receipts/*/*.json")]
    return {path: digest for r in receipts for path, digest in r["outputs"].items()}


def test_a_run_by_tls_equals_one_in_this_process_and_keeps_no_secret(
    start, certificates, small_settings, tmp_path
):
    file = tmp_path / "scheduler.json"
    secure = tls(certificates)
    start("scheduler", *LOOPBACK, "--protocol", "tls", "--scheduler-file", file, *secure)
    start("worker", "--scheduler-file", file, *WORKER, *secure)
    config = RunConfig.load(small_settings)
    cluster = tmp_path / "cluster.yaml"
    files = ", ".join(f"{name}: {certificates / file}" for name, file in FILES.items())
    cluster.write_text(
        f"kind: address\nscheduler: {{scheduler_file: scheduler.json, wait: 120}}\nsecurity: {{{files}}}\n"
    )
    seen: list[dict] = []
    there = Run(config, tmp_path / "there", ClusterConfig.load(cluster), [seen.append])
    there.execute(until="fit")
    # Nobody said who does the fit: anybody does, with words.
    (told,) = [e["text"] for e in seen if e["event"] == "warning" and "resource GPU or FIT" in e["text"]]
    assert "--resources FIT=1" in told
    Run(config, tmp_path / "here", ClusterConfig(kind="serial")).execute(until="fit")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert len(digests(tmp_path / "here")) > 5
    # Workers of elsewhere share nothing but the run folder, so it has the microdata.
    assert (tmp_path / "there/microdata.h5").read_bytes() == Path(str(config.microdata)).read_bytes()
    assert not (tmp_path / "here/microdata.h5").exists()
    assert there._inputs(there.prepare().plan).microdata == str(tmp_path / "there/microdata.h5")
    for text in (tmp_path / "there").rglob("*.*json"):
        words = text.read_text()
        assert "PRIVATE KEY" not in words
        assert str(certificates) not in words
