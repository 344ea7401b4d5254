"""Cost of a matrix, side by side with policyengine_us_data's own builder, and that both matrices are equal.

    python benchmarks/peer_matrix.py --peer .peer/env/bin/python --database .peer/policy_data.db [--take-up]

Each side runs in a process of its own, one after the other, serial and with one thread: the bundled 12,000
households x 3 clones over all districts, the domains snap, age, medicaid_enrolled and aca_ptc, take-up as
stored, counties off. Start-up of the rules engine (import) is reported apart. About 20 minutes, nearly all of
it the peer's; ``--keep FOLDER`` keeps what it built for the next time.

With ``--take-up`` both sides draw take-up, and ours simulates every household in its county with its own
flags; the peer simulates a state with everybody taking up and with nobody, so the two matrices are not equal,
and only costs are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1] / "peer"))

from build_matrices import clocks, since
from sides import (
    ONE_THREAD,
    build_ours,
    matrix_differences,
    read_peer,
    run_peer,
    target_differences,
)

DOMAINS = ["snap", "age", "medicaid_enrolled", "aca_ptc"]
# The goals: a quarter of the CPU seconds, an eighth where take-up is drawn; half of the memory.
CPU_GOAL, CPU_GOAL_TAKE_UP, MEMORY_GOAL = 1 / 4, 1 / 8, 1 / 2


def ours(folder: Path) -> None:
    """Build our side of the case that lies in the folder; write matrix, targets and costs there."""
    dataset, case = pickle.loads((folder / "case.pickle").read_bytes())
    start = clocks()
    import policyengine_us  # noqa: F401

    import distcalib.documents.builders  # noqa: F401

    started, begin = since(start), clocks()
    targets, matrix = build_ours(dataset, case)
    report = since(begin) | {"start": started}
    sparse.save_npz(folder / "ours.npz", sparse.csr_matrix(matrix))
    targets.to_pickle(folder / "ours.targets")
    (folder / "ours.json").write_text(json.dumps(report))


def main() -> int:
    """Run both sides, print the table; exit 1 when the matrices differ or a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter of the peer's environment")
    parser.add_argument("--database", type=Path, help="the peer's target database")
    parser.add_argument("--households", type=int, help="a part of the bundled file, to try the script")
    parser.add_argument("--clones", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for what both sides built")
    parser.add_argument(
        "--take-up", action="store_true", help="both sides draw take-up; ours places counties"
    )
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        ours(asked.ours)
        return 0
    if not (asked.peer and asked.database):
        parser.error("--peer and --database are needed: make peer makes them")

    from distcalib.geography import assign_geography
    from distcalib.geography.sources import county_shares, districts
    from distcalib.microdata import bundled_microdata

    work = asked.keep or Path(tempfile.mkdtemp(prefix="peer-matrix-"))
    work.mkdir(parents=True, exist_ok=True)
    data, dataset = bundled_microdata(), work / "households.h5"
    if asked.households:
        chosen = np.linspace(0, data.count() - 1, asked.households).astype(int)
        data = data.take(chosen, {e: data.ids[e][data.rows_of(e, chosen)[0]] for e in data.ids})
    data.write(dataset)
    household_id = data.ids["household"]
    placed = assign_geography(household_id, asked.clones, districts(), county_shares(), seed=0)
    case = {
        "name": "cost",
        "database": asked.database.resolve(),
        "geography": placed
        if asked.take_up
        else replace(placed, county_fips=np.zeros_like(placed.county_fips)),
        "take_up": asked.take_up,
        "target_filter": {"domain_variables": DOMAINS},
    }
    (work / "case.pickle").write_bytes(pickle.dumps((dataset, case)))
    itself = [sys.executable, str(Path(__file__).resolve()), "--ours", str(work)]
    subprocess.run(itself, check=True, env=os.environ | ONE_THREAD)
    theirs = read_peer("cost", run_peer(asked.peer, dataset, [case], work)["cost"])

    targets = pd.read_pickle(work / "ours.targets")
    matrix = sparse.csr_array(sparse.load_npz(work / "ours.npz"))
    words = target_differences(targets, theirs.targets)
    if not words and not asked.take_up:
        words, largest = matrix_differences(matrix, theirs.matrix, targets["name"])
    costs = {"distcalib": json.loads((work / "ours.json").read_text()), "policyengine_us_data": theirs.report}
    print(
        f"{data.count():,} households x {asked.clones} clones, {len(targets):,} targets, {matrix.nnz:,} cells"
    )
    print(f"{'':22}{'start-up':>22}{'matrix':>22}{'peak memory':>14}")
    for name, cost in costs.items():
        spent = [f"{part['cpu']:8.0f} s CPU {part['wall']:5.0f} s" for part in (cost["start"], cost)]
        print(f"{name:22}{''.join(spent)}{cost['peak'] / 2**30:10.2f} GiB")
    ratio = {k: costs["distcalib"][k] / costs["policyengine_us_data"][k] for k in ("cpu", "wall", "peak")}
    print(f"ratio: CPU {ratio['cpu']:.3f}, wall {ratio['wall']:.3f}, peak memory {ratio['peak']:.3f}")
    if words:
        print("\n".join(["DIFFERENT", *words]))
    elif not asked.take_up:
        print(f"equal: largest relative difference {largest:.1e}")
    cpu_goal = CPU_GOAL_TAKE_UP if asked.take_up else CPU_GOAL
    met = ratio["cpu"] <= cpu_goal and ratio["peak"] <= MEMORY_GOAL
    print(f"goal (CPU {cpu_goal:.3f}, memory {MEMORY_GOAL}): " + ("met" if met else "MISSED"))
    return 0 if met and not words else 1


if __name__ == "__main__":
    sys.exit(main())
