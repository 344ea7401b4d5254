"""A whole run of the preset tiny through the templates, whose walltime ends in the middle of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from real_slurm import Slurm, until

from distcalib import ClusterConfig, Run, RunConfig

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1800)]

DEPLOY = Path(__file__).parents[2] / "deploy"
# The same slices whatever the memory of workers; a short fit, for the fit is not what is tried here.
SETTINGS = """
name: tiny
households: 300
geography: {districts: [AK-01, DC-01, HI-01, HI-02, MT-01, MT-02, VT-01, WY-01]}
simulation: {slice_households: 50}
fit: {epochs: 50, refit_epochs: 500}
"""


def outputs(folder: Path) -> dict[str, dict[str, str]]:
    """Return the digest of every file of a run, by stage and path."""
    found: dict[str, dict[str, str]] = {}
    for path in folder.glob("receipts/*/*.json"):
        receipt = json.loads(path.read_text())
        found.setdefault(receipt["stage"], {}).update(receipt["outputs"])
    return found


def events(folder: Path, name: str) -> list[dict[str, object]]:
    file = folder / "events.ndjson"
    lines = file.read_text().splitlines() if file.exists() else []
    return [one for one in map(json.loads, lines) if one["event"] == name]


def test_a_run_whose_walltime_ends_is_finished_by_the_next_with_the_digests_of_one_machine(
    slurm: Slurm, tmp_path: Path
) -> None:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(SETTINGS)
    cluster, run = tmp_path / "cluster", tmp_path / "run"

    def logs() -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(cluster.glob("logs/*")))

    job = slurm.say(
        str(DEPLOY / "slurm/submit.sh"), "distcalib", "run", str(settings), "--output", str(run),
        "--cluster", str(cluster / "cluster.yaml"),
        **{
            "DISTCALIB_CLUSTER": str(cluster),
            "DISTCALIB_SIM_JOBS": "1",
            "DISTCALIB_SIM_OPTIONS": "--cpus-per-task 1 --mem 6G --time 30",
            "DISTCALIB_FIT_OPTIONS": "--cpus-per-task 1 --mem 6G --time 30 --gres gpu:1",
            "DISTCALIB_RUN_OPTIONS": "--cpus-per-task 1 --mem 6G --time 30",
            "DISTCALIB_REPLACE_SECONDS": "1",
            # The first life waits for both workers, so that it knows of the GPU.
            "DASK_DISTCALIB__SIM__WORKERS": "2",
        },
    )  # fmt: skip
    over = ("COMPLETED", "FAILED")
    until(lambda: events(run, "task") or slurm.state(job) in over, "a first task is done", 600, logs)
    # The end of the walltime is brought near: SLURM gives its signal two minutes before.
    begun = slurm.say("squeue", "-h", "-j", job, "-o", "%M").split(":")
    slurm.say("scontrol", "update", f"JobId={job}", f"TimeLimit={int(begun[-2]) + 2}")
    until(lambda: slurm.state(job) == "PENDING", "interrupted, and queued again", 150, logs)
    assert not (run / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in run.glob("receipts/*/*.json")}
    slurm.begin_again(job, TimeLimit="60")
    until(lambda: slurm.state(job) in over, "the second life has ended", 900, logs)
    assert slurm.state(job) == "COMPLETED", logs()

    # What the first life finished was not done again, and nothing was done twice.
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ids = [one["id"] for one in events(run, "task")]
    assert len(ids) == len(set(ids))
    assert (run / "manifest.json").exists()

    here = tmp_path / "here"
    Run(RunConfig.load(settings), here, ClusterConfig(workers=min(2, os.cpu_count() or 1))).execute()
    assert outputs(run) == outputs(here)
    assert {"simulate", "assemble", "fit", "areas"} <= set(outputs(run))
