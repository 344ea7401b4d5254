"""Schedulers and workers as users start them: by command line, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distcalib.cluster.security import make_certificates

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Start]:
    """Start `dask scheduler` or `dask worker` with options; all are ended afterwards."""
    running: list[subprocess.Popen[bytes]] = []
    folder = tmp_path_factory.mktemp("processes")
    found = {"PYTHONPATH": str(Path(__file__).parent)}

    def begin(
        what: str, *options: object, before: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{what}", *map(str, options)]
        with open(folder / f"{len(running)}-{what}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env=os.environ | found | environment
            )
        running.append(process)
        return process

    yield begin
    for process in reversed(running):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder
