"""Seconds, memory and bytes of the report of a run folder, national by default.

    python benchmarks/report.py [--households 12000] [--clones 430] [--records 1000000] [--slices 6]
    python benchmarks/report.py --run runs/demo

The folder is made in a temporary one: the bundled targets of all districts, columns and weights of the size
asked for, with invented estimates, and as many receipts and events as such a run has. `--run` takes a folder
that is there. The report is written by a process of its own; its peak memory counts the imports. Every one is
held to the goals, less than 30 s of wall time and 10 MB: exit code 1 where one is missed. The size is also
held by `tests/report/test_report_size.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS_GOAL, BYTES_GOAL = 30.0, 10_000_000
MADE = Path(__file__).parent.parent / "tests"

_WRITE = """
import json, resource, sys, time
from distcalib.report.run_report import write_report
began = time.perf_counter()
file = write_report(sys.argv[1], sys.argv[2])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime,
                  "peak": used.ru_maxrss * 1024, "bytes": file.stat().st_size}))
"""


def main() -> int:
    """Write the reports, print the table and whether the goals are met."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--households", type=int, default=12_000)
    options.add_argument("--clones", type=int, default=430)
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--slices", type=int, default=6, help="simulation tasks of a state")
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--run", type=Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = asked.run
        if run is None:
            sys.path.insert(0, str(MADE))
            from made_tables import write_made_run

            run = Path(temporary) / "run"
            kept = asked.records / (asked.households * asked.clones)
            write_made_run(
                run, households=asked.households, clones=asked.clones, kept=kept, slices=asked.slices
            )
        plan = json.loads((run / "plan.json").read_text())["facts"]
        receipts = len(list(run.glob("receipts/*/*.json")))
        print(
            f"{plan['columns']:,} columns, {plan['targets_fit'] + plan['targets_check']:,} targets, "
            f"{plan['districts']} districts, {receipts:,} receipts; load {os.getloadavg()[0]:.1f}"
        )
        print(f"{'':6}{'wall s':>8}{'CPU s':>8}{'peak GiB':>10}{'MB':>7}")
        reports = []
        for i in range(asked.times):
            file = Path(temporary) / f"report{i}.html"
            command = [sys.executable, "-c", _WRITE, str(run), str(file)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{i + 1:<6}{found['wall']:8.1f}{found['cpu']:8.1f}{found['peak'] / 2**30:10.2f}"
                f"{found['bytes'] / 1e6:7.2f}"
            )
            reports.append(found)
    slowest, largest = (max(found[key] for found in reports) for key in ("wall", "bytes"))
    goals = (
        (f"wall below {SECONDS_GOAL:.0f} s", f"{slowest:.1f} s", slowest < SECONDS_GOAL),
        (f"below {BYTES_GOAL / 1e6:.0f} MB", f"{largest / 1e6:.2f} MB", largest < BYTES_GOAL),
    )
    for goal, found, met in goals:
        print(f"goal, {goal}: {'met' if met else 'MISSED'} ({found} at most)")
    return 0 if all(met for _, _, met in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
