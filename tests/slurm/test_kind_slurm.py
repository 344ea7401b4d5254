"""`kind: slurm` on a real SLURM: jobs join by TLS, a killed one is replaced, and none is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_slurm import Slurm, until

from distcalib.cluster import load_cluster, open_client
from distcalib.errors import RunError
from distcalib.runs.capacity import fit_resource

pytestmark = pytest.mark.slurm

SETTINGS = """
kind: slurm
sim: {{workers: 2, memory_limit: 1GiB, walltime: "00:20:00", environment: {{FLAVOUR: "it's mine"}}}}
fit: {{workers: 1, memory_limit: 1GiB, gpu: 1, threads: 2, directives: ["--comment=fit"]}}
scheduler: {{interface: lo, wait: {wait}}}
security: {{folder: {folder}}}
"""


@pytest.fixture(autouse=True)
def commands(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find the commands of that SLURM, and no other's jobs."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)


def settings(folder: Path, wait: int = 120, more: str = "") -> Path:
    path = folder / "cluster.yaml"
    path.write_text(SETTINGS.format(folder=folder / "shared", wait=wait) + more)
    return path


def without_fit(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("fit:"))


def test_two_groups_on_one_scheduler_and_a_killed_job_is_replaced(slurm, tmp_path):
    def look() -> tuple[str, str, str, str]:
        import os

        name = os.environ["SLURM_JOB_NAME"]
        threads = os.environ["OMP_NUM_THREADS"]
        return os.environ["SLURM_JOB_ID"], name, threads, os.environ.get("FLAVOUR", "")

    with open_client(load_cluster(settings(tmp_path))) as client:
        client.wait_for_workers(3, timeout=120)
        said = sorted(client.run(look).values(), key=lambda one: one[1])
        assert [one[1] for one in said] == ["distcalib", "distcalib", "distcalib-fit"]
        assert [one[2] for one in said] == ["1", "1", "2"]
        assert [one[3] for one in said] == ["it's mine", "it's mine", ""]
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert all(address.startswith("tls://") for address in client.run(look))

        # A task of the fit goes to the job that has the GPU, which is that of the fit in any case.
        assert fit_resource(client, ["cuda"]) == ("GPU", "")
        assert fit_resource(client, ["cpu"]) == ("FIT", "")
        fit = said[2][0]
        assert client.submit(look, resources={"GPU": 1}, pure=False).result(timeout=60)[0] == fit
        assert "gpu:1" in slurm.say("squeue", "-h", "-j", fit, "-o", "%b")

        # Certificates lie where workers can read them, for this user alone.
        (folder,) = (tmp_path / "shared").glob("run-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in folder.glob("*.pem")} == {0o600}

        first = set(slurm.jobs("distcalib"))
        killed = min(first)
        slurm.say("scancel", killed)

        def replaced() -> bool:
            there = set(slurm.jobs("distcalib"))
            return len(there) == 2 and killed not in there

        until(replaced, "another job in place of the killed one", 90, str)
        until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 3, "its worker", 60, str)
        assert killed not in {one[0] for one in client.run(look).values()}
    alive = ("distcalib,distcalib-fit", "RUNNING,PENDING")
    until(lambda: not slurm.jobs(*alive), "all jobs gone", 60, str)
    assert list((tmp_path / "shared").iterdir()) == []


def test_jobs_that_wait_in_the_queue_are_said_and_taken_back(slurm, tmp_path):
    path = settings(tmp_path, 4)
    path.write_text(path.read_text().replace('walltime: "00:20:00"', 'directives: ["--begin=now+1hour"]'))
    path.write_text(without_fit(path.read_text()))
    with pytest.raises(RunError, match=r"0 of 1 workers joined within 4 s .*squeue"):  # noqa: SIM117
        with open_client(load_cluster(path)):
            pass
    until(lambda: not slurm.jobs("distcalib", "RUNNING,PENDING"), "no job left", 30, str)


def test_what_jobs_print_that_end_at_once_stays_and_is_named(slurm, tmp_path):
    path = settings(tmp_path, 12)
    text = without_fit(path.read_text())
    path.write_text(text.replace("environment: {", "environment: {PYTHONHOME: /nowhere, "))
    with pytest.raises(RunError, match=r"0 of 1 workers joined .* jobs that ended says why, in (.*)") as told:  # noqa: SIM117
        with open_client(load_cluster(path)):
            pass
    (log,) = (tmp_path / "shared").iterdir()
    assert str(told.value).endswith(f"in {log}")
    assert any("encodings" in file.read_text() for file in log.iterdir()), list(log.iterdir())
    alive = ("distcalib,distcalib-fit", "RUNNING,PENDING")
    until(lambda: not slurm.jobs(*alive), "no job left", 30, str)


def test_a_partition_that_is_not_there_is_said_in_the_words_of_slurm(slurm, tmp_path):
    path = settings(tmp_path, 60)
    path.write_text(path.read_text().replace("gpu: 1, ", "gpu: 1, queue: nowhere, "))
    with pytest.raises(RunError, match=r"SLURM refused the fit's job: .*partition"):  # noqa: SIM117
        with open_client(load_cluster(path)):
            pass
    until(lambda: not slurm.jobs("distcalib", "RUNNING,PENDING"), "no job left", 30, str)
