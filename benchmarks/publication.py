"""Seconds and memory of a publication: to a folder and to an S3 server on loopback, first and again.

    python benchmarks/publication.py [--files 2000] [--megabytes 500] [--bucket URL]

A run folder of that many files is made in a temporary folder, one of them a tenth of the bytes. The server is
moto's, a process of its own; it keeps what it gets in memory and computes in Python, so its figure is of the
server more than of the publisher. `--bucket s3://bucket/prefix` takes the server of the environment instead.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from distcalib.publication.publishing import promote, publish
from distcalib.runs.manifest import write_manifest
from distcalib.storage import write_json

SERVER = Path(__file__).parent.parent / "tests" / "s3_server.py"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--files", type=int, default=2000)
    options.add_argument("--megabytes", type=int, default=500)
    options.add_argument("--bucket", default=None)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        timed("write_manifest, all files hashed", lambda: make_run(run, asked.files, asked.megabytes * 10**6))
        measure(run, str(Path(folder) / "public"))
        if asked.bucket:
            measure(run, asked.bucket)
            return
        command = [sys.executable, str(SERVER)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            assert server.stdout is not None
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            from s3fs import S3FileSystem

            S3FileSystem(skip_instance_cache=True).mkdir("calibrated")
            measure(run, "s3://calibrated/us")
            server.terminate()


def make_run(run: Path, files: int, total: int) -> None:
    """Write files of random bytes, and time the manifest over them."""
    rng = np.random.default_rng(0)
    large = total // 10
    sizes = [large] + [(total - large) // (files - 1)] * (files - 1)
    for number, size in enumerate(sizes):
        path = run / "areas" / f"{number % 7}" / f"{number}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for start in range(0, size, 2**20):
                file.write(rng.bytes(min(2**20, size - start)))
    write_json(run / "plan.json", {"inputs": {}})
    digest = sha256(b"").hexdigest()
    proof = {"targets": 1, "proven": 1, "largest_difference": 0.0}
    facts = {"name": "made", "plan": digest, "weights": digest, "versions": {"distcalib": "0.1.0"}}
    began = time.perf_counter()
    write_manifest(run, {**facts, "verification": proof})
    print(f"{'manifest over the files':42} {time.perf_counter() - began:7.2f} s")


def measure(run: Path, to: str) -> None:
    place = to.split("://")[0] if "://" in to else "folder"
    outcome = timed(f"{place}: stage", lambda: publish(run, to, stage_only=True))
    timed(f"{place}: promote", lambda: promote(to, outcome.version))
    timed(f"{place}: publish the same again", lambda: publish(run, to))
    timed(f"{place}: again, all read back", lambda: publish(run, to, full=True))
    print(f"{'peak memory so far':42} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MiB")


def timed(name: str, act: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    print(
        f"{name:42} {time.perf_counter() - wall:7.2f} s wall {time.process_time() - cpu:7.2f} s CPU",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
