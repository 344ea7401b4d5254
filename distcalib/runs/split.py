"""A slice that dies of memory is split in two, recursively; the receipts of its halves stand for it."""

from __future__ import annotations

from pathlib import Path

from distcalib.config import ClusterConfig
from distcalib.errors import RunError
from distcalib.geography.states import STATE_CODES
from distcalib.runs.events import Events
from distcalib.runs.execute import Instead
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt, Verifier, read_receipt, receipt_path, verified, write_receipt
from distcalib.runs.tasks import Inputs, SimulateTask

Range = tuple[int, int, int]


def standing_tasks(plan: Plan, inputs: Inputs, run: Path, done: Verifier = verified) -> list[SimulateTask]:
    """Return the tasks that make up the slices of a plan, as the receipts of a run folder have them.

    A slice without a receipt that verifies was split when a receipt says so (`splitting`), or when parts of
    it have receipts: its halves stand for it, each of which may have been split again. All others are tasks
    as planned. `done` gives the receipt of a task that verifies.
    """
    planned = {s.id for s in plan.slices}
    parts: set[Range] = set()
    for path in sorted(run.glob("receipts/simulate/*.json")):
        receipt = None if path.stem in planned else read_receipt(run, "simulate", path.stem)
        if receipt is not None and {"state_fips", "start", "stop"} <= set(receipt.facts):
            found = (receipt.facts["state_fips"], receipt.facts["start"], receipt.facts["stop"])
            # Receipts that other code or inputs left have other ids, and say nothing of this plan's slices.
            if plan.slice_id(*found) == receipt.id:
                parts.add(found)

    def stand_for(task: SimulateTask) -> list[SimulateTask]:
        inside = [
            part
            for part in parts
            if part[0] == task.state_fips
            and task.start <= part[1]
            and part[2] <= task.stop
            and part[2] - part[1] < task.stop - task.start
        ]
        known = bool(inside) or receipt_path(run, "split", task.id).is_file()
        if not known or done(run, task.stage, task.id) is not None:
            return [task]
        return [leaf for half in halves(plan, task) for leaf in stand_for(half)]

    whole = [SimulateTask(inputs, s.id, s.state_fips, s.start, s.stop) for s in plan.slices]
    return [leaf for task in whole for leaf in stand_for(task)]


def longest_first(plan: Plan, tasks: list[SimulateTask]) -> list[SimulateTask]:
    """Return tasks by the seconds that are expected: what is begun last is short, so workers end together."""
    known = {s.id: s.seconds for s in plan.slices}
    rate = {s.state_fips: s.seconds / s.size for s in plan.slices}  # of halves

    def order(task: SimulateTask) -> tuple[float, int, int, int]:
        size = task.stop - task.start
        seconds = known.get(task.id, size * rate[task.state_fips])
        return -seconds, -size, task.state_fips, task.start

    return sorted(tasks, key=order)


def halves(plan: Plan, task: SimulateTask) -> tuple[SimulateTask, SimulateTask]:
    """Return the two halves of a task of two columns or more, with the ids that a plan would give them."""
    middle = (task.start + task.stop) // 2
    first, second = (
        SimulateTask(task.inputs, plan.slice_id(task.state_fips, a, b), task.state_fips, a, b)
        for a, b in ((task.start, middle), (middle, task.stop))
    )
    return first, second


def splitting(plan: Plan, cluster: ClusterConfig, events: Events) -> Instead:
    """Return what an executor calls for a task that died of memory: it says so, and gives the halves.

    A receipt of the stage ``split`` remembers it, or a run that was stopped before any part of the slice is
    done would let the whole die again. The function raises `RunError` for a slice of one column, and names
    state, slice, cause and memory.
    """
    limit = "of this process" if cluster.kind == "serial" else f"of a worker, {cluster.worker_memory}"

    def in_two(task: SimulateTask, why: str) -> tuple[SimulateTask, SimulateTask]:
        state = STATE_CODES[task.state_fips]
        if task.stop - task.start < 2:
            raise RunError(
                f"simulate {task.id[:12]}: one household of {state} (slice {task.start} to {task.stop}) "
                f"needs more than the memory {limit}, and no slice is smaller: {why}"
            )
        parts = halves(plan, task)
        ranges = [[part.start, part.stop] for part in parts]
        where = {"state_fips": task.state_fips, "start": task.start, "stop": task.stop}
        write_receipt(Path(task.inputs.run), Receipt("split", task.id, {}, {**where, "why": why}))
        events.emit("split", stage="simulate", id=task.id, state=state, into=ranges, why=why)
        return parts

    return in_two
