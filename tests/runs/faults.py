"""What goes wrong in a run: one table of faults by stage and step, and what strikes at random.

``preload(folder)`` is what workers, and those that replace them, load when they start; a coordinator with
faults of its own is ``python faults.py FOLDER run SETTINGS ...``, which is the command line ``distcalib run
...`` after that, and whose local workers load the same. ``fates.json`` in the folder says what strikes from
then on (`Fates`); ``log.txt`` has a line for

    begun ID STAGE PID     every task that was handed to a worker
    work ID                every task (of areas: every file) without a verified receipt: it is done now
    done ID                every task that returned a receipt
    raised ID              every task that ended in an error
    struck ID STEP FAULT   every fault, just before it
    receipt ID             every receipt that was written
    slice STATE SIZE       every simulation that was begun
    started coordinator    every coordinator with faults of its own
    failed ID CALL         every write that was failed
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Stage -> the steps of a task at which a fault can strike, in their order. "begun" is the first act of the
# work of any task, and the last two come before and after its receipt.
EVERY = ("begun", "before the receipt", "after the receipt")
STEPS = {
    # With the donors read and the placement not; between two variables; with one of a block's arrays written.
    "simulate": ("begun", "loading", "simulating", "writing", *EVERY[1:]),
    # Between two epochs; with some of the tables written.
    "fit": ("begun", "selecting", "writing", *EVERY[1:]),
    # With a file half written; with the file there and its mapping not.
    "areas": ("begun", "placing", "writing", "mapping", *EVERY[1:]),
    # The check of a file's structure; between a file's values and their sums.
    "verify": ("begun", "checking", "recomputing", "writing", *EVERY[1:]),
}
TABLE = tuple((stage, step) for stage, steps in STEPS.items() for step in steps)

MISSING = "gov.usda.snap.income.deductions.earned_income"


@dataclass
class Fates:
    """What strikes whom.

    Attributes
    ----------
    tasks
        Task id -> step and fault, once: kill, memory, raise, or parameter (a rules engine without one).
    table
        Stages, steps and faults, each once: it strikes the first task that comes there and was struck less
        than `most` times. `most` is by stage.
    larger
        Simulations of more columns die, always.
    lost
        Share of the times that a task is handed out in which its worker is lost.
    in_a_row
        How often at most a task's worker is lost at random one time after the other: a coordinator that has
        seen no other death takes the fourth for the task's own fault, as it is meant to.
    seconds
        Task id -> what it takes; a worker is lost at a random moment of it, or when it is done.
    writes
        Share of writes of distcalib that fail with EIO.
    seed
        Of what is random: decided by stage and place of a task, not by its id, which another code changes, by
        how often it was handed out, and for a write by how many came before it there.
    dies
        The coordinator dies of these events, when they came in this order, once.
    """

    tasks: dict[str, tuple[str, str]] = field(default_factory=dict)
    table: list[tuple[str, str, str]] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)
    larger: int | None = None
    lost: float = 0.0
    in_a_row: int = 3
    seconds: dict[str, float] = field(default_factory=dict)
    writes: float = 0.0
    seed: int = 0
    dies: list[str] = field(default_factory=list)


class Home:
    """A folder of fates and of what was said; see the module."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def meet(self, fates: Fates | None = None) -> None:
        """Say what strikes from now on, and forget what happened before."""
        for old in self.folder.glob("struck *"):
            old.unlink()
        (self.folder / "log.txt").write_text("")
        temporary = self.folder / "fates.part"
        temporary.write_text(json.dumps(asdict(fates or Fates())))
        temporary.replace(self.folder / "fates.json")

    def fates(self) -> Fates:
        return Fates(**json.loads((self.folder / "fates.json").read_text(encoding="utf-8")))

    def say(self, line: str) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def lines(self) -> list[str]:
        return (self.folder / "log.txt").read_text(encoding="utf-8").splitlines()

    def said(self, word: str) -> list[str]:
        """Return what was written after a word, in order."""
        return [line.removeprefix(f"{word} ") for line in self.lines() if line.startswith(f"{word} ")]

    def ids(self, word: str) -> list[str]:
        """Return the ids after a word, in order."""
        return [line.split()[0] for line in self.said(word)]

    def once(self, name: str) -> bool:
        """Return whether nobody did this before."""
        try:
            (self.folder / f"struck {name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def preload(folder: Path) -> str:
    """Return the text that a worker loads when it starts."""
    here = str(Path(__file__).parent)
    return f"import sys; sys.path.insert(0, {here!r}); import faults; faults.arm({str(folder)!r})"


_armed = False


def arm(folder: str) -> None:
    """Put the faults of a folder where they can strike. Dask loads a preloaded text twice; once is enough."""
    global _armed
    if _armed:
        return
    _armed = True
    import zarr

    from distcalib.areas import stack
    from distcalib.fit.checkpoint import Checkpoint
    from distcalib.microdata.hdf5_stream import HDF5Stream
    from distcalib.runs import fitting, tasks, verify, workers
    from distcalib.simulation.engine import RulesSimulation

    home = Home(folder)
    stage = now = turn = ""  # of the task that this process works at; turn has no digest in it

    def strikes(step: str) -> str:
        """Return the fault that strikes the task here, or ''."""
        fates = home.fates()
        at, fault = fates.tasks.get(now, ("", ""))
        if at == step and home.once(now[:12]):
            home.say(f"struck {now} {step}: {fault}")
            return fault
        for *place, fault in fates.table:
            struck = home.ids("struck").count(now) if place == [stage, step] else 0
            if place == [stage, step] and struck < fates.most.get(stage, 1) and home.once(f"{stage} {step}"):
                home.say(f"struck {now} {step}: {fault}")
                return fault
        return ""

    def meet(step: str) -> None:
        fault = strikes(step)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "memory":
            raise MemoryError("unable to allocate 9 GiB")
        if fault == "raise":
            raise ZeroDivisionError("a fault of the test")

    def put(owner: object, name: str, wrap) -> None:
        setattr(owner, name, wrap(getattr(owner, name)))

    def before(owner: object, name: str, step: str) -> None:
        def wrap(real):
            def function(*args, **kwargs):
                meet(step)
                return real(*args, **kwargs)

            return function

        put(owner, name, wrap)

    def handed_out(real):
        def admitted(function, task):
            nonlocal now, stage, turn
            now, stage = task.id, task.stage
            times = home.ids("begun").count(now)
            what = f"{stage} {getattr(task, 'place', '') or getattr(task, 'name', '')}"
            turn = f"{what} {times}"
            home.say(f"begun {now} {stage} {os.getpid()}")
            fates = home.fates()
            draws = [random.Random(f"{fates.seed} {what} {t}") for t in range(times + 1)]
            fell = [one.random() < fates.lost for one in draws]
            draw, before = draws[-1], fell[:-1][-fates.in_a_row :]
            lost = fell[-1] and not (len(before) == fates.in_a_row and all(before))
            clock = threading.Timer(draw.random() * fates.seconds.get(now, 1.0), lose)
            clock.daemon = True
            if lost:
                clock.start()
            try:
                result = real(function, task)
            except Exception:
                clock.cancel()  # else it strikes the next task, which is not to be lost
                home.say(f"raised {now}")
                raise
            if lost:
                lose()
            home.say(f"done {now}")
            return result

        return admitted

    def lose() -> None:
        home.say(f"struck {now} at random: kill")
        os.kill(os.getpid(), signal.SIGKILL)

    def begin(real):
        def verified(run, of, task_id):
            found = real(run, of, task_id)
            if found is None:
                home.say(f"work {task_id}")
                meet("begun")
            return found

        return verified

    def simulate(real):
        def simulate_columns(source, assignment, columns, *args, **kwargs):
            home.say(f"slice {int(assignment.state_fips[columns[0]])} {len(columns)}")
            larger = home.fates().larger
            if larger is not None and len(columns) > larger:
                os.kill(os.getpid(), signal.SIGKILL)
            if home.fates().tasks.get(now, ("",))[0] == "parameter" and strikes("parameter"):
                with without(MISSING):
                    return real(source, assignment, columns, *args, **kwargs)
            return real(source, assignment, columns, *args, **kwargs)

        return simulate_columns

    def create(real):
        def create_array(self, name, *args, **kwargs):
            if name == "indices":
                meet("writing")
            return real(self, name, *args, **kwargs)

        return create_array

    def receipt(real):
        def write_receipt(run, done):
            meet("before the receipt")
            real(run, done)
            home.say(f"receipt {done.id}")
            meet("after the receipt")

        return write_receipt

    put(workers, "admitted", handed_out)
    put(tasks, "verified", begin)
    put(tasks, "write_receipt", receipt)
    before(tasks, "read_assignment", "loading")
    put(tasks, "simulate_columns", simulate)
    before(RulesSimulation, "calculate", "simulating")
    put(zarr.Group, "create_array", create)
    before(Checkpoint, "offer", "selecting")
    before(fitting, "_publish_table", "writing")
    before(stack, "place", "placing")
    before(HDF5Stream, "close", "writing")
    before(stack, "write_mapping", "mapping")
    before(verify, "_check", "checking")
    before(verify, "evaluate", "recomputing")
    before(verify, "publish", "writing")
    fail_writes(home, lambda: now, lambda: turn)

    if (home.folder / "another version").exists():
        put(workers, "identity", lambda real: lambda: {**real(), "policyengine-us": "2.0.0"})


def fail_writes(home: Home, now: Callable[[], str], turn: Callable[[], str]) -> None:
    """Let writes of distcalib fail now and then, where they meet the operating system, zarr and HDF5.

    `now` says for the log whose they are, `turn` for the draw: words that are the same in every run.
    """
    import zarr.storage._local

    from distcalib import storage
    from distcalib.matrix import blocks
    from distcalib.microdata.hdf5_stream import HDF5Stream
    from distcalib.runs import events

    came: Counter[str] = Counter()

    def failing(name: str, real):
        def call(*args, **kwargs):
            fates, mine = home.fates(), turn()
            came[mine] += 1
            if random.Random(f"{fates.seed} {mine} {came[mine]}").random() < fates.writes:
                home.say(f"failed {now() or 'coordinator'} {name}")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return call

    class FailingOs:
        """The module os, for those who put files in their place."""

        fsync, replace, rename = (
            staticmethod(failing(name, getattr(os, name))) for name in ("fsync", "replace", "rename")
        )

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    storage.os = blocks.os = FailingOs()
    events._append = failing("event", events._append)
    zarr.storage._local._put = failing("zarr", zarr.storage._local._put)
    HDF5Stream.append = failing("HDF5", HDF5Stream.append)


def arm_coordinator(folder: str) -> None:
    """Let the writes of this process fail too, and let it die of events."""
    from distcalib.runs.events import Events

    home = Home(folder)
    home.say("started coordinator")
    start = len(home.said("started"))
    fail_writes(home, lambda: "", lambda: f"coordinator {start}")
    seen: list[str] = []
    real = Events.emit

    def emit(self, event: str, **facts) -> None:
        real(self, event, **facts)
        dies = home.fates().dies
        if dies[len(seen) : len(seen) + 1] == [event]:
            seen.append(event)
            if seen == dies and home.once("coordinator"):
                os.kill(os.getpid(), signal.SIGKILL)

    Events.emit = emit


@contextmanager
def without(name: str) -> Iterator[None]:
    """Take the values of a parameter before 2030 out of this process's rules, and give them back."""
    from policyengine_us.system import system

    parameter = system.parameters.get_child(name)
    whole = parameter.values_list

    def now_has(values) -> None:
        parameter.values_list = values
        # What was looked up of its parents at some instant has the old values.
        parameter.parent.clear_parent_cache()
        system._parameters_at_instant_cache.clear()

    now_has([value for value in whole if value.instant_str > "2030"])
    try:
        yield
    finally:
        now_has(whole)


if __name__ == "__main__":
    # Before Dask is imported, for it reads the environment then.
    os.environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = repr([preload(Path(sys.argv[1]))])
    from distcalib.cli import main

    arm_coordinator(sys.argv[1])
    main(sys.argv[2:])
