"""Runs under chaos: workers lost at random, the scheduler and the coordinator killed, storage that fails.

    python tests/runs/chaos.py [SETTINGS] [--seeds 20] [--first 0] [--workers 2] [--keep FOLDER]

`SETTINGS` is a preset or file, by default `tiny`. One undisturbed run gives the digests; then there is one
run a seed. In each, 30 % of the times that a task is handed out its worker is lost by SIGKILL, at a random
moment of the task or when it is done; 2 % of distcalib's writes fail with EIO, in workers and coordinator;
the coordinator and the scheduler are each killed once, when some random number of tasks was begun. What was
killed is started again. A run has to end with the digests of the undisturbed one, without a task that was
worked on after its receipt was written. A line of a table says what happened; the exit code is 1 where a
run fails. With `--keep` the undisturbed run of an earlier call is used again, so seeds can be done in parts.

The scheduler is a process of its own (`dask scheduler`) and the coordinator is `distcalib run` with `kind:
address`; workers come from a fork server of this process, so the rules engine is loaded once for all seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
from distributed import Nanny
from distributed.utils import get_mp_context
from faults import Fates, Home, preload

from distcalib.cluster.local import PRELOAD
from distcalib.cluster.settings import ONE_THREAD, dask_settings
from distcalib.config import ClusterConfig, memory_bytes
from distcalib.runs.events import read_events
from distcalib.runs.manifest import damaged, read_manifest

LOST, WRITES = 0.3, 0.02
# A run that is not done after so many seconds has failed.
AT_MOST = 1800.0


class Cluster:
    """A scheduler of its own process, and workers of this one's fork server."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.home = folder, Home(folder)
        self.file, self.settings = folder / "scheduler.json", folder / "cluster.yaml"
        self.settings.write_text(f"kind: address\nscheduler: {{scheduler_file: {self.file}, wait: 120}}\n")
        self.workers = workers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._nannies: list[Nanny] = []

    def start(self) -> None:
        self.file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        with open(self.folder / "scheduler.log", "a") as log:
            self.scheduler = subprocess.Popen(
                [*command, "--no-dashboard", "--scheduler-file", str(self.file)], stdout=log, stderr=log,
                env=os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
            )  # fmt: skip
        until = time.monotonic() + 60
        while not (self.file.is_file() and self.file.stat().st_size):
            assert time.monotonic() < until, "no scheduler"
            time.sleep(0.05)
        address = json.loads(self.file.read_text())["address"]
        asyncio.run_coroutine_threadsafe(self._join(address), self._loop).result(300)

    async def _join(self, address: str) -> None:
        options: dict[str, Any] = {
            "nthreads": 1, "memory_limit": memory_bytes("3.3GiB"), "resources": {"FIT": 1},
            "preload": [preload(self.folder)], "local_directory": str(self.folder), "silence_logs": 50,
        }  # fmt: skip
        self._nannies = [Nanny(address, **options) for _ in range(self.workers)]
        await asyncio.gather(*self._nannies)

    def kill(self) -> None:
        """Kill the scheduler; workers do without it what they do, until their supervisor takes them down."""
        self.scheduler.kill()
        self.scheduler.wait()
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(120)

    async def _leave(self) -> None:
        for nanny in self._nannies:
            # It would tell the scheduler, and wait for an answer; or for a worker that is only just starting.
            nanny.auto_restart = False
            worker = nanny.process.process if nanny.process is not None else None
            if worker is not None and worker.pid:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            for end in (nanny.kill(timeout=2), nanny.close(timeout=2)):
                left = asyncio.ensure_future(end)
                await asyncio.wait({left}, timeout=15)
                if left.done() and not left.cancelled():
                    left.exception()  # taken: whatever it says, the worker is gone


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Start a cluster whose workers meet the fates of `folder`."""
    settings = dask_settings(ClusterConfig(kind="local")) | {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.comm.timeouts.connect": "60s",
    }
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)
    Home(folder).meet()
    try:
        with patch.dict(os.environ, ONE_THREAD), dask.config.set(settings):
            get_mp_context().set_forkserver_preload(PRELOAD)
            mine = Cluster(folder, workers)
            mine.start()
            try:
                yield mine
            finally:
                mine.kill()
    finally:
        log.setLevel(level)


@dataclass
class Story:
    """What happened in a run.

    Attributes
    ----------
    starts
        How often the coordinator was started.
    ended
        Last words of coordinators that nobody killed and that did not finish.
    wrong
        What must not be; empty for a run that passed.
    """

    seed: int
    starts: int = 0
    seconds: float = 0.0
    begun: int = 0
    lost: int = 0
    writes: int = 0
    splits: int = 0
    ended: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def coordinator(mine: Cluster, settings: str, folder: Path) -> subprocess.Popen[bytes]:
    faults = str(Path(__file__).with_name("faults.py"))
    command = [sys.executable, faults, str(mine.folder), "run", settings, "--output", str(folder)]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([*command, "--cluster", str(mine.settings)], stdout=log, stderr=log)


def undisturbed(mine: Cluster, settings: str, folder: Path) -> Path:
    """Carry a run out that nothing befalls."""
    mine.home.meet()
    code = coordinator(mine, settings, folder).wait(AT_MOST)
    assert code == 0, folder.with_suffix(".log").read_text()
    return folder


def chaos(mine: Cluster, settings: str, folder: Path, reference: Path, seed: int) -> Story:
    """Carry a run out in chaos, and say what happened."""
    story, draw, began = Story(seed), random.Random(f"chaos {seed}"), time.monotonic()
    receipts = [json.loads(path.read_text()) for path in reference.glob("receipts/*/*.json")]
    tasks = sum(event["event"] == "task" for event in read_events(reference))
    seconds = {one["id"]: one["seconds"] for one in receipts}
    mine.home.meet(Fates(lost=LOST, writes=WRITES, seed=seed, seconds=seconds))
    # More are begun than there are tasks, so both moments come.
    left = {"coordinator": draw.randrange(1, tasks), "scheduler": draw.randrange(1, tasks)}
    process = None
    try:
        while process is None or process.poll() != 0:
            if process is None or process.poll() is not None:
                if process is not None and process.poll() != -9:
                    story.ended.append(folder.with_suffix(".log").read_text().strip().splitlines()[-1])
                process = coordinator(mine, settings, folder)
                story.starts += 1
            begun = len(mine.home.said("begun"))
            for who in [who for who, at in left.items() if begun >= at]:
                del left[who]
                if who == "coordinator":
                    process.kill()
                    process.wait()
                else:
                    mine.kill()
                    mine.start()
            if time.monotonic() - began > AT_MOST or len(story.ended) > 5:
                story.wrong.append(f"not done after {time.monotonic() - began:.0f} s: {story.ended}")
                break
            time.sleep(0.02)
    finally:
        if process is not None:
            process.kill()
    process.wait()
    story.seconds = time.monotonic() - began
    story.begun, story.writes = (len(mine.home.said(word)) for word in ("begun", "failed"))
    story.lost = len(mine.home.said("struck"))
    story.wrong += [f"the {who} was never killed" for who in left]
    # A coordinator may end for the scheduler that was killed; for anything else the run did not survive.
    story.wrong += [f"ended by itself: {words}" for words in story.ended if "is gone: what was" not in words]
    if process.returncode == 0:
        story.splits = sum(event["event"] == "split" for event in read_events(folder))
        story.wrong += different(reference, folder) + done_again(mine.home)
    return story


def different(reference: Path, folder: Path) -> list[str]:
    """Return where two finished runs differ in what they computed."""
    one, other = read_manifest(reference), read_manifest(folder)
    if one is None or other is None:
        return ["there is no manifest"]
    wrong = [f"another {name}" for name in ("plan", "matrix", "weights") if one[name] != other[name]]
    computed = ("areas/", "fit/", "fits/", "verify/")
    a, b = (
        {path: facts["sha256"] for path, facts in run["files"].items() if path.startswith(computed)}
        for run in (one, other)
    )
    wrong += [f"{path} differs" for path in sorted(a.keys() | b.keys()) if a.get(path) != b.get(path)]
    wrong += [f"{path} is damaged" for path in damaged(folder, other)]
    return wrong + [f"{path} is left" for path in folder.rglob("*") if ".tmp" in path.name]


def done_again(home: Home) -> list[str]:
    """Return which tasks were worked on after their receipt was written."""
    finished, again = set(), []
    for line in home.lines():
        word, one, *_ = line.split()
        if word == "receipt":
            finished.add(one)
        elif word == "work" and one in finished:
            again.append(f"{one[:12]} was done again after its receipt")
    return again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="?", default="tiny")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for runs and logs; default: a temporary one")
    options = parser.parse_args()
    failed = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing of the cluster is left behind
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        home = options.keep or Path(scratch)
        (home / "cluster").mkdir(parents=True, exist_ok=True)
        with cluster(home / "cluster", options.workers) as mine:
            began = time.monotonic()
            reference = undisturbed(mine, options.settings, home / "undisturbed")
            print(f"undisturbed: {time.monotonic() - began:.0f} s, {len(mine.home.said('begun'))} tasks")
            heads = (
                "seed",
                "seconds",
                "starts",
                "handed out",
                "workers lost",
                "failed writes",
                "split",
                "result",
            )
            print("".join(f"{head:>14}" for head in heads), flush=True)
            for seed in range(options.first, options.first + options.seeds):
                one = chaos(mine, options.settings, home / f"seed-{seed}", reference, seed)
                failed += bool(one.wrong)
                told = (
                    one.seed,
                    f"{one.seconds:.0f}",
                    one.starts,
                    one.begun,
                    one.lost,
                    one.writes,
                    one.splits,
                )
                print("".join(f"{x!s:>14}" for x in (*told, "FAILED" if one.wrong else "equal")), flush=True)
                for words in (*one.ended, *one.wrong):
                    print(f"{'':16}{words}", flush=True)
    print(f"{options.seeds - failed} of {options.seeds} runs ended with the digests of the undisturbed one")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
