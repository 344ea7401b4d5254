"""Schedulers and workers as users start them: by command line, in processes of their own; two hosts."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from by_command_line import Hosts

from distcalib.cluster.security import make_certificates

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Start]:
    """Start `dask scheduler` or `dask worker` with options; all are ended afterwards."""
    running: list[subprocess.Popen[bytes]] = []
    folder = tmp_path_factory.mktemp("processes")
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

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


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


def left_by_killed_tests(mine: str) -> None:
    """Remove bridges and namespaces, all but mine, of tests that could not: they keep the addresses."""
    for bridge in re.findall(r"^\d+: (dc[0-9a-f]{6}):", ip("-o", "link", "show", "type", "bridge"), re.M):
        ip("link", "del", bridge)
    for name in re.findall(r"^dc[0-9a-f]{6}[ab]\b", ip("netns", "list"), re.M):
        if name != mine:
            ip("netns", "del", name)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two network namespaces on one bridge with this host: 10.213.77.1 (here), .2 and .3."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces take root and iproute2")
    # One pair of addresses a machine: files of tests that run beside each other take turns.
    lock = os.open(Path(tempfile.gettempdir()) / "distcalib-hosts.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    tag = uuid4().hex[:6]
    names, bridge = (f"dc{tag}a", f"dc{tag}b"), f"dc{tag}"
    try:
        try:
            ip("netns", "add", names[0])
        except AssertionError as error:
            if "not permitted" not in str(error):
                raise
            pytest.skip(str(error))
        left_by_killed_tests(names[0])
        ip("netns", "add", names[1])
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", "10.213.77.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 2):
            ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}v", "master", bridge, "up")
            ip("-n", name, "addr", "add", f"10.213.77.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        os.close(lock)
