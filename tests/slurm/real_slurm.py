"""A SLURM of one machine for the tests: munged, slurmctld and slurmd in a temporary folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
DAEMONS = ("munged", "slurmctld", "slurmd")

# More processors and memory than this machine has: the jobs of these tests hardly use any.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,requeue_delay=0
SchedulerType=sched/backfill
ReturnToService=2
KillWait=5
MinJobAge=300
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=65536 Gres=gpu:1
PartitionName=all Nodes=node1 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running SLURM: its folder and the environment in which its commands find it."""

    folder: Path
    environment: dict[str, str]

    def say(self, *command: str, **environment: str) -> str:
        """Run one of SLURM's commands, or a script that calls them; return what it prints."""
        done = subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self, name: str, states: str = "RUNNING") -> dict[str, str]:
        """Return the jobs of that name: the id that a job sees as its own, and that for commands.

        They differ for an element of an array, one of which has the id of the whole array as its own.
        """
        lines = self.say("squeue", "-h", "-r", "-n", name, "-t", states, "-o", "%A %i").splitlines()
        return dict(line.split() for line in lines)

    def begin_again(self, job: str, **settings: str) -> None:
        """Let a job that was queued again begin in some seconds, and not in SLURM's two minutes.

        Not at once: a node refuses a credential of the second in which it killed the job's first life
        ("already killed, do not launch batch job"), and SLURM then takes the job for failed.
        """
        changed = settings | {"StartTime": "now+5"}
        self.say("scontrol", "update", f"JobId={job}", *(f"{k}={v}" for k, v in changed.items()))

    def state(self, job: str) -> str:
        """Return the state of a job, ended ones too."""
        words = self.say("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.removeprefix("JobState=") for word in words if word.startswith("JobState="))


def until(condition: Callable[[], object], what: str, seconds: float, logs: Callable[[], str]) -> None:
    """Wait until the condition holds; what did not happen in time is an error with the logs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{logs()}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@contextmanager
def real_slurm() -> Iterator[Slurm]:
    """Start the daemons and give a SLURM whose node is idle; skip with words where that cannot be."""
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [name for name in DAEMONS if shutil.which(name, path=search) is None]:
        pytest.skip(f"{' and '.join(missing)} not here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as their users, which takes root")
    # Not below pytest's folder: munged refuses a socket whose folders others cannot enter.
    folder = Path("/tmp") / f"slurm-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(
        CONFIG.format(host=socket.gethostname(), user="root", folder=folder, ports=_free_ports(2))
    )
    (folder / "gres.conf").write_text("NodeName=node1 Name=gpu File=/dev/null\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "DASK"))}
    binaries = Path(sys.executable).parent
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{binaries}:{search}"}
    commands = {
        "munged": ["--foreground", "--key-file", str(key), "--socket", str(folder / "munge.socket"),
                   "--pid-file", str(folder / "munged.pid"), "--log-file", str(folder / "munged.log"),
                   "--seed-file", str(folder / "munged.seed"), "--num-threads", "2"],
        "slurmctld": ["-D", "-i", "-f", str(folder / "slurm.conf")],
        "slurmd": ["-D", "-N", "node1", "-f", str(folder / "slurm.conf")],
    }  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    here = Slurm(folder, environment)

    def logs() -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(folder.glob("*.log")))

    def up() -> bool:
        dead = [p.args for p in running if p.poll() is not None]
        assert not dead, f"{dead} ended\n{logs()}"
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, timeout=60
        )
        return asked.stdout.strip() == "idle"

    try:
        for name in DAEMONS:
            with (folder / f"{name}.out.log").open("wb") as out:
                running.append(
                    subprocess.Popen(
                        [name, *commands[name]], env=environment, stdout=out, stderr=subprocess.STDOUT
                    )
                )
            if name == "munged":
                until((folder / "munge.socket").exists, "munged listens", 20, logs)
        until(up, "the node of SLURM is idle", 60, logs)
        yield here
        ids = here.say("squeue", "-h", "-o", "%A").split()
        if ids:
            here.say("scancel", *ids)
            until(lambda: not here.say("squeue", "-h"), "all jobs have ended", 60, logs)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)
