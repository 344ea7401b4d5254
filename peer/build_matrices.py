"""Build matrices with policyengine_us_data's own builder; runs in its environment, not in distcalib's.

    python build_matrices.py SPEC.json FOLDER

SPEC holds `dataset`, `period` and `cases`, each with `name`, `database` (SQLite file; opened for writing, as
its builder re-creates the views), `geography` (npz with its five arrays), `target_filter`,
`hierarchical_domains` and `take_up` (its builder draws take-up). FOLDER gets of each case `NAME.npz` (the
matrix) and `NAME.csv.gz` (the targets, with their names), and `report.json`: CPU and wall seconds and peak
memory, start-up apart, and what a case raised or warned.
"""

import json
import logging
import resource
import sys
import time
from pathlib import Path

import numpy as np
from scipy import sparse


def clocks():
    """Return wall and CPU seconds, children included, and peak memory in bytes (Linux counts kibibytes)."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return {"wall": time.time(), "cpu": cpu, "peak": 1024 * max(own.ru_maxrss, children.ru_maxrss)}


def since(start):
    """Return what was used since, and the peak so far."""
    now = clocks()
    return {k: now[k] - start[k] for k in ("wall", "cpu")} | {"peak": now["peak"]}


class Heard(logging.Handler):
    """Keep the distinct warnings of the builder."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        """Keep a warning's text once."""
        if record.getMessage() not in self.texts:
            self.texts.append(record.getMessage())


def build(case, spec, folder):
    """Run one case; return its costs, and the error where the builder raised."""
    from policyengine_us import Microsimulation
    from policyengine_us_data.calibration.clone_and_assign import GeographyAssignment
    from policyengine_us_data.calibration.unified_matrix_builder import UnifiedMatrixBuilder

    heard = Heard()
    logging.getLogger("policyengine_us_data").addHandler(heard)
    start = clocks()
    try:
        with np.load(case["geography"]) as stored:
            geography = GeographyAssignment(
                block_geoid=stored["block_geoid"],
                cd_geoid=stored["cd_geoid"],
                county_fips=stored["county_fips"],
                state_fips=stored["state_fips"],
                n_records=int(stored["n_records"]),
                n_clones=int(stored["n_clones"]),
            )
        builder = UnifiedMatrixBuilder(
            db_uri=f"sqlite:///{case['database']}", time_period=spec["period"], dataset_path=spec["dataset"]
        )
        targets, matrix, names = builder.build_matrix(
            geography,
            Microsimulation(dataset=spec["dataset"]),
            target_filter=case["target_filter"],
            hierarchical_domains=case.get("hierarchical_domains"),
            rerandomize_takeup=bool(case.get("take_up")),
            county_level=False,
        )
        cost = since(start)
        sparse.save_npz(folder / f"{case['name']}.npz", matrix.tocsr())
        targets.assign(name=names).to_csv(folder / f"{case['name']}.csv.gz", index=False)
        return cost | {"error": None, "warnings": heard.texts, "shape": matrix.shape, "nnz": int(matrix.nnz)}
    except Exception as error:  # A case may show that the builder raises: the comparison judges which.
        return since(start) | {"error": f"{type(error).__name__}: {error}", "warnings": heard.texts}
    finally:
        logging.getLogger("policyengine_us_data").removeHandler(heard)


def main():
    """Start the rules engine, run the cases in order, write the report after each."""
    spec, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    start = clocks()
    import policyengine_us  # noqa: F401
    import policyengine_us_data.calibration.unified_matrix_builder  # noqa: F401

    report = {"start": since(start), "cases": {}}
    for case in spec["cases"]:
        report["cases"][case["name"]] = build(case, spec, folder)
        print(case["name"], report["cases"][case["name"]], flush=True)
        (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
