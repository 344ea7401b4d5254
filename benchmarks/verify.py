"""Seconds of the proof of a run: its files checked, opened with Microsimulation and held against X.w.

    python benchmarks/verify.py RUN SCRATCH [--records 1000000] [--workers 2] [--memory 4GiB] [--slice 9000]

RUN is the folder of a run that has its matrix. Without --records its fitted weights are taken; with it, that
many columns drawn at random get a weight (a synthetic fit: the proof compares the files with X.w, whatever w
is). The files are written to SCRATCH, then proven there as a run does it. RUN stays as it is.

Reported: wall and CPU seconds and the largest worker of each stage, households a second, targets proven.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.config.schema import read_settings
from distcalib.runs.area_stage import area_work, files_of
from distcalib.runs.plan import Prepared, make_plan
from distcalib.runs.tasks import write_areas


class Proven(Run):
    """A run whose matrix and weights are there: its files are written and proven."""

    source: Path

    def prepare(self) -> Prepared:
        stored = json.loads((self.source / "plan.json").read_text())
        cuts = [(s["state_fips"], s["start"], s["stop"]) for s in stored["slices"]]
        return make_plan(self.config, cuts)

    def _stages(self, prepared: Prepared, until: str | None) -> dict[str, Any] | None:
        inputs = self._inputs(prepared.plan)
        files = files_of(prepared.plan.run, prepared.assignment)
        work = area_work(prepared.plan, inputs, files, prepared.assignment)
        self._stage("areas", write_areas, work.tasks, reused=work.reused)
        began = time.perf_counter()
        found = self._verify(prepared, inputs, files, work.receipts())
        print(json.dumps({k: v for k, v in found.items() if k != "population_listed"}), flush=True)
        print(f"the proof took {time.perf_counter() - began:.1f} s", flush=True)
        return None


def settings(folder: Path) -> RunConfig:
    """Return the settings of a run, those that later versions have not left out."""
    raw = json.loads((folder / "plan.json").read_text())["run"]
    raw.pop("fits", None)
    raw["fit"].pop("engine", None)
    return read_settings(RunConfig, {**raw, "verify": {}}, str(folder))


def main() -> None:
    """Write files, prove them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--records", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--slice", type=int)
    parser.add_argument("--plain", type=int)
    parser.add_argument("--only")
    given = parser.parse_args()
    config = settings(given.run)
    verify = config.verify
    if given.slice:
        verify = replace(verify, slice_households=given.slice)
    if given.plain is not None:
        verify = replace(verify, plain=given.plain)
    areas = replace(config.areas, only=tuple(given.only.split(","))) if given.only else config.areas
    config = config.changed(verify=verify, areas=areas)
    fresh = not given.scratch.exists()
    if fresh:
        (given.scratch / "fit").mkdir(parents=True)
        (given.scratch / "matrix.zarr").mkdir()
        os.symlink((given.run / "matrix.zarr/X").resolve(), given.scratch / "matrix.zarr/X")
    run = Proven(
        config,
        given.scratch,
        ClusterConfig(workers=given.workers, memory_limit=given.memory),
        accept_code=True,
    )
    run.source = given.run
    prepared = run.prepare()
    if fresh and given.records:
        n = prepared.assignment.n_columns
        rng = np.random.default_rng(7)
        weights = np.zeros(n, dtype=np.float32)
        weights[rng.choice(n, given.records, replace=False)] = rng.uniform(20, 250, given.records)
        np.save(given.scratch / "fit/weights.npy", weights.astype(np.float64))
    elif fresh:
        shutil.copy(given.run / "fit/weights.npy", given.scratch / "fit/weights.npy")
    events: list[dict[str, Any]] = []
    run.subscribers = [events.append]
    run.execute(prepared, until="verify")
    load = os.getloadavg()
    print(f"{'stage':<14}{'tasks':>7}{'wall s':>9}{'CPU s':>9}{'largest GiB':>13}")
    receipts = {path.stem: json.loads(path.read_text()) for path in given.scratch.glob("receipts/*/*.json")}
    for stage in ("areas", "verify files", "verify"):
        done = [e for e in events if e["event"] == "stage_done" and e["stage"] == stage]
        tasks = [e for e in events if e["event"] == "task" and e["stage"] == stage]
        # A task of the areas leaves a receipt for each of its files instead, which have no seconds.
        some = [receipts[e["id"]] for e in tasks if e["id"] in receipts]
        cpu = f"{sum(r['cpu_seconds'] for r in some):.1f}" if some else "-"
        peak = max((e["peak_bytes"] for e in tasks), default=0) / 2**30
        print(f"{stage:<14}{len(tasks):>7}{done[0]['seconds']:>9.1f}{cpu:>9}{peak:>13.2f}")
        if stage == "verify" and some:
            households = sum(r["facts"]["households"] for r in some)
            print(f"{households:,} households, {households / done[0]['seconds']:,.0f} a second of wall time")
    print(f"load averages of this machine meanwhile: {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}")


if __name__ == "__main__":
    main()
