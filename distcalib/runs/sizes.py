"""How large a run is: what its plan says of memory, storage and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from distcalib.config import ClusterConfig, RunConfig, memory_bytes
from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.microdata.model import Microdata
from distcalib.runs.asked import asked_variables, reform_count
from distcalib.runs.costs import Costs
from distcalib.runs.fits import fits_of
from distcalib.targets.choose import Targets

if TYPE_CHECKING:
    from distcalib.runs.plan import Plan

# Bytes of one kept household in one file, and of one cell of the matrix on storage; cells of a column, with
# room (32 were measured, with 518 measures).
FILE_BYTES_HOUSEHOLD, CELL_BYTES, CELLS_COLUMN = 420, 8, 60
# Bytes that a fit stores of each column: its weights, and its checkpoint, of which there are two for a while.
FIT_BYTES = 8 + 2 * 48
# Bytes that a worker holds of each column's placement (567 MB were measured for 5.16 million).
COLUMN_BYTES = 110
# What a fit holds of a cell of the matrix (read, cut to the fitted rows, and by columns) and of a column; and
# before and after it, where linear programmes say what an area's targets can meet at once: of a cell and a
# column of the matrix, and of a cell of the programme.
FIT_CELL, FIT_COLUMN = 20, 160
READ_CELL, READ_COLUMN, PROGRAMME_CELL = 8, 112, 440
# What the coordinator holds: of a cell (X, once), of a column (placement, tables), and of all else.
HERE_CELL, HERE_COLUMN, HERE = 8, 190, 600_000_000


def check_resources(plan: Plan, cluster: ClusterConfig) -> None:
    """Raise `InputError` when a task needs more memory than a worker has, with both numbers."""
    if cluster.kind in ("serial", "address"):  # `distcalib.runs.capacity` asks workers that run already
        return
    limit = memory_bytes(cluster.worker_memory)
    largest = max(s.size for s in plan.slices)
    settings = {"simulate": ("simulation", largest), "verify": ("verify", plan.run.verify.slice_households)}
    for stage, (section, households) in settings.items():
        needed = plan.facts["task_bytes"][stage]
        # Smaller slices help only where the worker itself fits.
        smaller = ""
        if plan.facts["task_bytes"]["fixed"] < limit:
            smaller = f", or a smaller {section}.slice_households than {households}"
        if needed > limit:
            raise InputError(
                f"the largest task of the stage {stage} needs more memory than a worker has",
                place=f"{cluster.file}: memory_limit",
                value=cluster.worker_memory,
                expected=f"at least {needed / 2**30:.1f} GiB{smaller}",
            )
    own = bool(cluster.fit.workers)
    memory, place = (
        (cluster.fit.memory_limit, "fit.memory_limit") if own else (cluster.worker_memory, "memory_limit")
    )
    if (needed := plan.facts["task_bytes"]["fit"]) > memory_bytes(memory):
        apart = ", or a worker of its own for the fit (fit.workers, fit.memory_limit)"
        raise InputError(
            "the fit needs more memory than its worker has",
            place=f"{cluster.file}: {place}",
            value=memory,
            expected=f"at least {needed / 2**30:.1f} GiB"
            + (apart if not own and cluster.kind in ("slurm", "kubernetes") else ""),
        )


def cells_of_column(measures: int) -> float:
    """Return about how many cells a column has: a measure gives one at each of three levels, or nothing.

    Of the 518 bundled measures a column has 31.5 cells (36,000 columns and 5.16 million).
    """
    return min(measures * 3, max(32, measures / 16))


def fit_bytes(columns: int, measures: int) -> int:
    """Return the memory that a fit takes beside its process: that of the weights, or of what is said of them.

    Measured: 3.8 GiB for 5.16 million columns; 1.7 GiB for 288,000, nearly all of it a linear programme of
    the nation's rows, which have two fifths of the cells.
    """
    from distcalib.fit.feasible import LARGEST

    cells = columns * cells_of_column(measures)
    programme = PROGRAMME_CELL * min(0.4 * cells, LARGEST)
    weights = FIT_CELL * cells + FIT_COLUMN * columns
    return int(max(weights, READ_CELL * cells + READ_COLUMN * columns + programme))


def facts_of(
    plan: Plan, targets: Targets, assignment: GeographyAssignment, source: Microdata, costs: Costs
) -> dict[str, Any]:
    """Return the sizes of a run: rows, tasks, memory, seconds and bytes, for people and for the checks."""
    n = assignment.n_columns
    variables, reforms = len(asked_variables(targets)), reform_count(targets)
    at_once = plan.run.verify.slice_households
    in_state = np.unique(assignment.state_fips, return_counts=True)
    opened = [min(k, at_once) for k in in_state[1].tolist()]
    measures = targets.rows[["variable", "reform_id", "constraints"]].drop_duplicates()
    check = targets.rows[targets.rows["status"] == "check"]
    from distcalib.runs.area_stage import files_of

    districts = len(np.unique(assignment.cd_geoid))
    states = len(np.unique(assignment.state_fips))
    states_again = [
        k / part * costs.seconds(part, variables, reforms, verify=True, state=state)
        for state, k, part in zip(in_state[0].tolist(), in_state[1].tolist(), opened, strict=True)
    ]
    # Every measure gives at most one cell at each of three levels; nearly all of them are zero.
    matrix_bytes = n * min(len(measures) * 3, CELLS_COLUMN) * CELL_BYTES
    cells = cells_of_column(len(measures))
    return {
        "households": source.count(),
        "persons": source.count("person"),
        "columns": n,
        "targets_fit": int((targets.rows["status"] == "fit").sum()),
        "targets_check": len(check),
        "targets_excluded": len(targets.excluded),
        "measures": len(measures),
        "districts": districts,
        "states": states,
        "tasks": {
            "simulate": len(plan.slices),
            "fit": len(fits_of(plan.run)),
            "areas": len(files_of(plan.run, assignment).written),
            "verify": states,
        },
        "task_bytes": {
            "fixed": costs.bytes(0) + COLUMN_BYTES * n,
            "simulate": costs.bytes(max(s.size for s in plan.slices)) + COLUMN_BYTES * n,
            "verify": costs.bytes(max(opened), verify=True) + COLUMN_BYTES * n,
            "fit": costs.bytes(0) + COLUMN_BYTES * n + fit_bytes(n, len(measures)),
        },
        "coordinator_bytes": HERE + int((HERE_COLUMN + HERE_CELL * cells) * n),
        "task_seconds": {
            "simulate": round(max(s.seconds for s in plan.slices)),
            "verify": round(max(states_again)),
        },
        "cpu_seconds": round(sum(s.seconds for s in plan.slices) + sum(states_again)),
        "matrix_bytes": matrix_bytes * 2,
        "bytes": matrix_bytes * 2
        + n * (3 * FILE_BYTES_HOUSEHOLD + FIT_BYTES * len(fits_of(plan.run)))
        + 10_000_000,
        "far": [
            {"measure": v + (f" by {d}" if d else ""), "targets": int(k), "reason": r}
            for (v, d, r), k in check.groupby(["variable", "domain_variable", "reason"]).size().items()
        ],
    }


def told_of(run: RunConfig, facts: dict[str, Any]) -> dict[str, str]:
    """Return what `facts_of` says in words: columns, targets, work, memory and disk."""
    names = {
        "simulate": "slice{} to simulate",
        "fit": "fit{}",
        "areas": "file{}",
        "verify": "state{} to verify",
    }
    work = [f"{n:,} " + names[stage].format("" if n == 1 else "s") for stage, n in facts["tasks"].items()]
    return {
        "columns": f"{facts['households']:,} households ({facts['persons']:,} persons) x {run.n_clones} "
        f"clones = {facts['columns']:,}, in {facts['districts']} districts of {facts['states']} states",
        "targets": f"{facts['targets_fit']:,} to fit, {facts['targets_check']:,} to check, "
        f"{facts['targets_excluded']:,} excluded; {facts['measures']} measures",
        "work": ", ".join(work),
        "memory": f"up to {max(facts['task_bytes'].values()) / 2**30:.1f} GiB a worker, "
        f"{facts['coordinator_bytes'] / 2**30:.1f} GiB in the process that leads the run",
        "disk": f"up to {facts['bytes'] / 1e6:,.0f} MB",
    }
