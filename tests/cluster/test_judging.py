"""Fits of folds and trials on the workers of a scheduler that somebody else started."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_command_line import LOOPBACK, WORKER, held, wait_for, where
from click.testing import CliRunner
from distributed import Client
from judged_run import write_run

from distcalib.cli import main
from distcalib.runs import spread

# A worker of another version: what it says of itself is not what the coordinator is.
OTHER_VERSION = """
from distcalib.runs import workers
workers._version = lambda package, real=workers._version: "0.0.1" if package == "numba" else real(package)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def scheduler(start, tmp_path_factory) -> Path:
    """The file of a scheduler, with one worker; beside it is a cluster file."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    start("scheduler", *LOOPBACK, "--scheduler-file", file)
    start("worker", "--scheduler-file", file, *WORKER)
    (file.parent / "cluster.yaml").write_text(
        "kind: address\nscheduler: {scheduler_file: scheduler.json, wait: 60}\n"
    )
    return wait_for(file)


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["fit", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_clusters_workers_share_the_fits_and_give_the_same_bytes(
    run, scheduler, start, tmp_path, monkeypatch
):
    shared = ["--cluster", scheduler.parent / "cluster.yaml"]
    with Client(scheduler_file=str(scheduler), set_as_default=False) as client:
        for end, how in (("here", []), ("there", shared)):
            if how:  # in this process: the workers know nothing of it
                monkeypatch.setattr("distcalib.fit.folds.fit_weights", None)
            call("robustness", run, "--folds", 2, *how, "--output", tmp_path / f"{end}.csv")
            asked = ["--folds", 2, "--trials", 2, "--batch", 2, *how]
            call("tune", run, *asked, "--output", tmp_path / f"{end}-trials.csv")
        for name in ("{}.csv", "{}-trials.csv"):
            here, there = ((tmp_path / name.format(end)).read_bytes() for end in ("here", "there"))
            assert here == there
        # The scheduler is somebody else's: it is there after it was left, and its workers hold nothing.
        assert list(client.run(held).values()) == [([], False)]
        # Who joins while the fits go on gets the matrix, too.
        with spread._held_by(client) as hold:
            name = hold(where)
            start("worker", "--scheduler-file", scheduler, *WORKER)
            client.wait_for_workers(2, timeout=60)
            assert list(client.run(held).values()) == [([name], False)] * 2
        assert list(client.run(held).values()) == [([], False)] * 2


def test_a_worker_of_other_packages_is_refused_before_any_fit(run, scheduler, start, tmp_path):
    (tmp_path / "other_version.py").write_text(OTHER_VERSION)
    start("worker", "--scheduler-file", scheduler, *WORKER, "--preload", tmp_path / "other_version.py")
    with Client(scheduler_file=str(scheduler), set_as_default=False) as client:
        client.wait_for_workers(3, timeout=60)
    shared = ["--cluster", scheduler.parent / "cluster.yaml", "--output", tmp_path / "folds.csv"]
    assert "numba is 0.0.1 there" in call("robustness", run, "--folds", 2, *shared, code=1)
    assert not (tmp_path / "folds.csv").exists()


def test_a_cluster_file_that_is_none_is_named(run, tmp_path):
    (tmp_path / "cluster.yaml").write_text("kind: slrm\n")
    shared = ["--cluster", tmp_path / "cluster.yaml", "--output", tmp_path / "folds.csv"]
    assert "did you mean 'slurm'" in call("robustness", run, *shared, code=2)
