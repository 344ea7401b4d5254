"""A report of a run of the nation's size is small enough to send; its speed is in `benchmarks/report.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_tables import write_made_run

from distcalib.report.run_report import write_report

LARGEST = 10_000_000  # bytes


@pytest.mark.slow
def test_the_report_of_a_national_run_stays_below_ten_megabytes(tmp_path: Path) -> None:
    run = write_made_run(tmp_path / "run", households=12_000, clones=430, kept=0.194, slices=6)
    facts = json.loads((run / "plan.json").read_text())["facts"]
    assert (facts["columns"], facts["districts"]) == (5_160_000, 436)
    assert facts["targets_fit"] > 10_000
    assert 100_000 < write_report(run).stat().st_size < LARGEST
