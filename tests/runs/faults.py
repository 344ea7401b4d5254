"""What goes wrong inside workers, for `test_faults`: each fault strikes one slice, once.

``preload(folder)`` is what the workers of a cluster, and those that replace them, load when they start. From
then on ``fates.json`` in the folder says which task id meets which fault; ``log.txt`` has a line for every
task that was begun, fault that struck and receipt that was written.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The slice's worker dies by SIGKILL: with the donors read and the placement not; between two variables; with
# one of a block's three arrays written; with the block there and its receipt not.
PHASES = ("loading", "simulating", "writing", "before the receipt")

MISSING = "gov.usda.snap.income.deductions.earned_income"


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

    from distcalib.runs import tasks, workers
    from distcalib.simulation.engine import RulesSimulation

    home = Path(folder)
    now = ""  # id of the task that this process works at

    def write(line: str) -> None:
        with open(home / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def strikes(fault: str) -> bool:
        fates = json.loads((home / "fates.json").read_text(encoding="utf-8"))
        if fates.get(now) != fault:
            return False
        try:
            (home / f"struck {fault} {now[:12]}").touch(exist_ok=False)
        except FileExistsError:
            return False
        write(f"struck {now} {fault}")
        return True

    def kill_when(phase: str) -> None:
        if strikes(phase):
            os.kill(os.getpid(), signal.SIGKILL)

    def put(owner: object, name: str, wrap) -> None:
        setattr(owner, name, wrap(getattr(owner, name)))

    def begin(real):
        def verified(run, stage, task_id):
            nonlocal now
            now = task_id
            write(f"begun {task_id} {os.getpid()}")
            return real(run, stage, task_id)

        return verified

    def load(real):
        def read_assignment(run):
            kill_when("loading")
            return real(run)

        return read_assignment

    def calculate(real):
        def calculate(self, variable, reform_id=0):
            values = real(self, variable, reform_id)
            kill_when("simulating")
            if strikes("memory"):
                raise MemoryError("unable to allocate 9 GiB")
            if strikes("raises"):
                raise ZeroDivisionError("a fault of the test")
            return values

        return calculate

    def simulate(real):
        def simulate_columns(*args, **kwargs):
            if strikes("parameter"):
                with without(MISSING):
                    return real(*args, **kwargs)
            return real(*args, **kwargs)

        return simulate_columns

    def create(real):
        def create_array(self, name, *args, **kwargs):
            if name == "indices":
                kill_when("writing")
            return real(self, name, *args, **kwargs)

        return create_array

    def receipt(real):
        def write_receipt(run, done):
            kill_when("before the receipt")
            real(run, done)
            write(f"receipt {done.id}")

        return write_receipt

    put(tasks, "verified", begin)
    put(tasks, "read_assignment", load)
    put(tasks, "simulate_columns", simulate)
    put(tasks, "write_receipt", receipt)
    put(RulesSimulation, "calculate", calculate)
    put(zarr.Group, "create_array", create)

    if (home / "another version").exists():
        put(workers, "identity", lambda real: lambda: {**real(), "policyengine-us": "2.0.0"})


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
