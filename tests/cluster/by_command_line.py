"""What tests and the processes that they start have in common: a task, options, and a cluster file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from distcalib import ClusterConfig
from distcalib.cluster.security import FILES

LOOPBACK = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
WORKER = ("--nthreads", 1, "--no-nanny", "--no-dashboard")
# The Dask settings that deploy/ starts everything with.
CLOSED = {"DASK_CONFIG": str(Path(__file__).parents[2] / "deploy" / "dask.yaml")}
# Network namespaces: 10.213.77.2 and .3 on a bridge with this host, 10.213.77.1.
Hosts = tuple[str, str]


class Task:
    """A task that says where it was done."""

    stage, place = "simulate", "WY"

    def __init__(self, id: str) -> None:
        self.id = id


def where(task: Task) -> dict:
    return {"id": task.id, "pid": os.getpid()}


def held() -> tuple[list[str], bool]:
    """Return which functions of fits a worker holds, and whether it has loaded the rules engine."""
    from distcalib.runs import spread

    return list(spread._held), "policyengine_us" in sys.modules


def tls(folder: Path) -> list[str]:
    ca, cert, key = (str(folder / FILES[name]) for name in ("ca", "cert", "key"))
    return ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]


def wait_for(file: Path, seconds: float = 60) -> Path:
    until = time.monotonic() + seconds
    while not (file.is_file() and file.stat().st_size):
        assert time.monotonic() < until, f"{file} was not written"
        time.sleep(0.05)
    return file


def cluster_file(folder: Path, text: str, certificates: Path | None = None) -> ClusterConfig:
    """Read a cluster file of kind address."""
    security = ""
    if certificates is not None:
        files = ", ".join(f"{name}: {certificates / file}" for name, file in FILES.items())
        security = f"security: {{{files}}}\n"
    path = folder / "cluster.yaml"
    path.write_text(f"kind: address\n{security}{text}\n")
    return ClusterConfig.load(path)


def on(host: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", host)
