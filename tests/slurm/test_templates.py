"""The batch templates of deploy/slurm on a real SLURM: who joins, what is replaced, what walltimes do."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_slurm import DEPLOY, Slurm, until

pytestmark = pytest.mark.slurm

# What a run asks of a cluster, without the rules engine: tasks for all workers and for the one with a GPU.
COORDINATOR = """
import os, signal, sys, time
from pathlib import Path
from distributed import Client, get_worker
from distributed.security import Security

folder, mode = Path(os.environ["DISTCALIB_CLUSTER"]), sys.argv[1]
pem = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
security = Security(
    tls_ca_file=pem["ca"], tls_client_cert=pem["cert"], tls_client_key=pem["key"], require_encryption=True
)

def where(_, dask_worker=None):
    worker = dask_worker or get_worker()
    return os.environ["SLURM_JOB_ID"], os.environ["SLURM_JOB_NAME"].split("-")[1], worker.address

def say(name, text):
    (folder / "part").write_text(text)
    (folder / "part").rename(folder / name)

with Client(scheduler_file=str(folder / "scheduler.json"), security=security) as client:
    client.wait_for_workers(3, timeout=120)
    if mode == "walltime" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        say("first", "the first life")
        try:
            while True:
                time.sleep(0.2)
        except KeyboardInterrupt:
            say("interrupted", "by Ctrl-C")
            sys.exit(130)
    gpu = client.gather(client.map(where, range(6), resources={"GPU": 1}, pure=False))
    say("gpu", "\\n".join(sorted({" ".join(w) for w in gpu})))
    if mode == "killed":
        while not (folder / "go").exists():
            time.sleep(0.2)
    client.wait_for_workers(3, timeout=120)
    every = client.run(where, None)
    say("every", "\\n".join(sorted(" ".join(w) for w in every.values())))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    (tmp_path / "coordinator.py").write_text(COORDINATOR)
    return tmp_path


def submit(slurm: Slurm, folder: Path, mode: str, **environment: str) -> str:
    return slurm.say(
        str(DEPLOY / "slurm/submit.sh"),
        "python",
        str(folder / "coordinator.py"),
        mode,
        **{
            "DISTCALIB_CLUSTER": str(folder),
            "DISTCALIB_SIM_JOBS": "2",
            "DISTCALIB_SIM_OPTIONS": "--cpus-per-task 1 --mem 1G --time 10",
            "DISTCALIB_FIT_OPTIONS": "--cpus-per-task 1 --mem 1G --time 10 --gres gpu:1",
            "DISTCALIB_RUN_OPTIONS": "--cpus-per-task 1 --mem 1G --time 10",
            "DISTCALIB_COLD": "1",
            "DISTCALIB_REPLACE_SECONDS": "1",
        }
        | environment,
    )


def workers(slurm: Slurm, job: str) -> dict[str, str]:
    """Return the jobs of workers of a run that are not over."""
    states = "PENDING,RUNNING,COMPLETING"
    return {k: v for kind in ("sim", "fit") for k, v in slurm.jobs(f"distcalib-{kind}-{job}", states).items()}


def logs(folder: Path) -> str:
    return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(folder.glob("logs/*")))


def test_an_array_and_a_gpu_worker_join_one_scheduler_and_a_killed_job_is_replaced(
    slurm: Slurm, cluster: Path
) -> None:
    job = submit(slurm, cluster, "killed")
    until((cluster / "gpu").exists, "tasks ran where a GPU is", 120, lambda: logs(cluster))
    # Tasks that need a GPU ran in the job that has one, and nowhere else.
    (gpu,) = (line.split() for line in (cluster / "gpu").read_text().splitlines())
    assert gpu[1] == "fit"
    assert gpu[2].startswith("tls://")
    assert list(slurm.jobs(f"distcalib-fit-{job}")) == [gpu[0]]
    assert "gpu:1" in slurm.say("squeue", "-h", "-j", gpu[0], "-o", "%b")
    # Certificates are this user's alone.
    assert {p.stat().st_mode & 0o777 for p in cluster.glob("*.pem")} == {0o600}

    first = slurm.jobs(f"distcalib-sim-{job}")
    killed, kept = first
    slurm.say("scancel", first[killed])

    def replaced() -> bool:
        there = slurm.jobs(f"distcalib-sim-{job}")
        return len(there) == 2 and killed not in there

    until(replaced, "another job in place of the killed one", 60, lambda: logs(cluster))
    second = slurm.jobs(f"distcalib-sim-{job}")
    assert kept in second  # the other one was left alone
    (cluster / "go").touch()
    until((cluster / "every").exists, "all workers answered", 120, lambda: logs(cluster))
    every = [line.split() for line in (cluster / "every").read_text().splitlines()]
    assert sorted(w[0] for w in every if w[1] == "sim") == sorted(second)
    assert [w[0] for w in every if w[1] == "fit"] == [gpu[0]]

    until(lambda: slurm.state(job) == "COMPLETED", "the job has ended", 60, lambda: logs(cluster))
    until(lambda: not workers(slurm, job), "workers were taken down", 60, lambda: logs(cluster))
    assert not (cluster / "scheduler.json").exists()


def test_a_run_that_is_cancelled_takes_its_workers_with_it(slurm: Slurm, cluster: Path) -> None:
    job = submit(slurm, cluster, "walltime")
    until((cluster / "first").exists, "workers are there", 120, lambda: logs(cluster))
    assert len(workers(slurm, job)) == 3
    slurm.say("scancel", job)
    until(lambda: not workers(slurm, job), "workers were taken down", 60, lambda: logs(cluster))
    assert slurm.state(job) == "CANCELLED"


def test_a_walltime_that_ends_interrupts_the_command_and_queues_the_job_again(
    slurm: Slurm, cluster: Path
) -> None:
    # SLURM counts walltimes in minutes, and gives the signal up to a minute early.
    job = submit(
        slurm, cluster, "walltime",
        DISTCALIB_RUN_OPTIONS="--cpus-per-task 1 --mem 1G --time 3 --signal B:USR1@60",
    )  # fmt: skip
    until((cluster / "first").exists, "the first life", 100, lambda: logs(cluster))
    until((cluster / "interrupted").exists, "an interrupt before the end", 210, lambda: logs(cluster))
    # SLURM lets a job wait two minutes before its next life.
    until(lambda: slurm.state(job) == "PENDING", "queued again", 60, lambda: logs(cluster))
    slurm.begin_again(job)
    until((cluster / "every").exists, "the second life did the work", 120, lambda: logs(cluster))
    until(lambda: slurm.state(job) == "COMPLETED", "the job has ended", 60, lambda: logs(cluster))
    text = (cluster / "logs" / f"run-{job}.log").read_text()
    assert "queued again" in text
    assert "the command ended with code 0" in text


def test_a_command_that_fails_fails_the_job_and_is_not_queued_again(slurm: Slurm, cluster: Path) -> None:
    (cluster / "coordinator.py").write_text("raise SystemExit(3)")
    job = submit(slurm, cluster, "")
    until(lambda: slurm.state(job) == "FAILED", "the job failed", 60, lambda: logs(cluster))
    assert "ended with code 3" in (cluster / "logs" / f"run-{job}.log").read_text()
    assert "ExitCode=3:0" in slurm.say("scontrol", "show", "job", job)


def test_workers_that_end_at_once_are_not_submitted_for_ever(slurm: Slurm, cluster: Path) -> None:
    (cluster / "coordinator.py").write_text(
        "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.1)"
    )
    job = submit(
        slurm, cluster, str(cluster / "go"), DISTCALIB_SIM_OPTIONS="--no-such-option",
        DISTCALIB_FIT_RESOURCES="", DISTCALIB_JOBS_AT_MOST="2",
    )  # fmt: skip
    log = cluster / "logs" / f"run-{job}.log"
    until(lambda: log.exists() and "No more are" in log.read_text(), "it gave up", 60, lambda: logs(cluster))
    (cluster / "go").touch()
    until(lambda: slurm.state(job) == "COMPLETED", "the job has ended", 60, lambda: logs(cluster))


def test_a_fit_worker_that_slurm_refuses_takes_nothing_from_the_others(slurm: Slurm, cluster: Path) -> None:
    (cluster / "coordinator.py").write_text(
        "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.1)"
    )
    job = submit(
        slurm, cluster, str(cluster / "go"), DISTCALIB_FIT_OPTIONS="--gres gpu:9", DISTCALIB_JOBS_AT_MOST="2"
    )
    log = cluster / "logs" / f"run-{job}.log"
    said = "set DISTCALIB_FIT_OPTIONS, or DISTCALIB_FIT_RESOURCES=FIT=1"
    until(lambda: log.exists() and said in log.read_text(), "it gave up", 60, lambda: logs(cluster))
    first = slurm.jobs(f"distcalib-sim-{job}", "PENDING,RUNNING")
    killed = next(iter(first))
    slurm.say("scancel", first[killed])

    def replaced() -> bool:
        there = slurm.jobs(f"distcalib-sim-{job}", "PENDING,RUNNING")
        return len(there) == 2 and killed not in there

    until(replaced, "another job in place of the killed one", 60, lambda: logs(cluster))
    (cluster / "go").touch()
    until(lambda: slurm.state(job) == "COMPLETED", "the job has ended", 60, lambda: logs(cluster))
    assert log.read_text().count(said) == 1
    assert "No more are" not in log.read_text()
