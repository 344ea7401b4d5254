"""Both sides of a comparison with policyengine_us_data's builder; runs in distcalib's environment.

A case is a dict: `name`, `database` (SQLite file), `geography` (a `GeographyAssignment`), `target_filter`,
`hierarchical_domains`. Both sides get the same PolicyEngine file, database and assignment; take-up is as the
file has it unless the case says `take_up`, which lets both draw it. The peer gets no counties.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.geography import GeographyAssignment

PERIOD = 2024
SCRIPT = Path(__file__).with_name("build_matrices.py")
# One thread a side, so that CPU seconds are those of the work.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")} | {
    "NUMEXPR_MAX_THREADS": "1"
}


@dataclass(frozen=True)
class Built:
    """What one side built: targets with the column name, matrix, and the report of the case."""

    targets: pd.DataFrame
    matrix: sparse.csr_array
    report: dict[str, Any]


def write_geography(geography: GeographyAssignment, path: Path) -> None:
    """Write an assignment as the peer reads it: text GEOIDs, county SS000 (of the state, unset), no block."""
    state = np.char.zfill(geography.state_fips.astype(str), 2)
    np.savez(
        path,
        block_geoid=np.full(geography.n_columns, "", dtype="U15"),
        cd_geoid=geography.cd_geoid.astype(str),
        county_fips=np.char.add(state, "000"),
        state_fips=geography.state_fips,
        n_records=geography.n_records,
        n_clones=geography.n_clones,
    )


def run_peer(python: str, dataset: Path, cases: list[dict[str, Any]], work: Path) -> dict[str, Path]:
    """Run the cases in one process of the peer's environment; return the folder of each case.

    A case that `work` already holds, of equal file, database, geography and options, is not run again.
    """
    folders, missing = {}, []
    for case in cases:
        geography = work / f"{case['name']}.geography.npz"
        write_geography(case["geography"], geography)
        options = {k: case.get(k) for k in ("name", "target_filter", "hierarchical_domains", "take_up")}
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for file in (dataset, Path(case["database"]), geography, SCRIPT):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        folder = work / f"{case['name']}-{digest.hexdigest()[:16]}"
        folders[case["name"]] = folder
        if not (folder / "report.json").is_file():
            # Its builder writes to the database (it re-creates the views), so it gets a copy.
            copy = work / f"{case['name']}.peer.db"
            shutil.copy(case["database"], copy)
            missing.append(options | {"database": str(copy), "geography": str(geography)})
    if missing:
        spec, together = work / "spec.json", work / "together"
        spec.write_text(json.dumps({"dataset": str(dataset), "period": PERIOD, "cases": missing}))
        subprocess.run(
            [python, str(SCRIPT), str(spec), str(together)], check=True, env=os.environ | ONE_THREAD
        )
        report = json.loads((together / "report.json").read_text())
        for case in missing:
            folder = folders[case["name"]]
            folder.mkdir(exist_ok=True)
            for file in together.glob(f"{case['name']}.*"):
                shutil.move(file, folder / file.name)
            one = report["cases"][case["name"]] | {"start": report["start"]}
            (folder / "report.json").write_text(json.dumps(one, indent=1))
    return folders


def read_peer(name: str, folder: Path) -> Built:
    """Read what the peer built; a case that it raised on has its error in the report and no matrix."""
    report = json.loads((folder / "report.json").read_text())
    if report["error"]:
        raise AssertionError(f"the peer raised on {name}: {report['error']}")
    targets = pd.read_csv(folder / f"{name}.csv.gz", dtype={"geographic_id": str}, keep_default_na=False)
    return Built(targets, sparse.csr_array(sparse.load_npz(folder / f"{name}.npz")), report)


def build_ours(dataset: Path, case: dict[str, Any]) -> tuple[pd.DataFrame, sparse.csr_array]:
    """Build the matrix of a case with distcalib, in this process."""
    from policyengine_us import Microsimulation

    from distcalib.documents.builders import UnifiedMatrixBuilder

    builder = UnifiedMatrixBuilder(
        f"sqlite:///{case['database']}",
        PERIOD,
        str(dataset),
        rerandomize_takeup=bool(case.get("take_up")),
        county_level=bool(case["geography"].county_fips.any()),
    )
    targets, matrix, names = builder.build_matrix(
        case["geography"],
        Microsimulation(dataset=str(dataset)),
        target_filter=case["target_filter"],
        hierarchical_domains=case.get("hierarchical_domains"),
    )
    return targets.assign(name=list(names)), sparse.csr_array(matrix)


def target_differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """Return in words where two tables of targets differ: rows, order, names, and values to 1e-12."""
    # It prints `in` without the blanks around it.
    names = ours["name"].str.replace(" in ", "in")
    if names.tolist() != theirs["name"].tolist():
        here, there = set(names), set(theirs["name"])
        return [
            f"names: {len(ours)} rows against {len(theirs)}, only ours {sorted(here - there)[:5]}, "
            f"only theirs {sorted(there - here)[:5]}"
        ]
    found = []
    for column in (
        "target_id",
        "stratum_id",
        "variable",
        "reform_id",
        "period",
        "geo_level",
        "geographic_id",
    ):
        if (wrong := ours[column].astype(str).to_numpy() != theirs[column].astype(str).to_numpy()).any():
            found.append(f"{column}: {wrong.sum()} rows, first {ours['name'][wrong.argmax()]}")
    if (wrong := ours["domain_variable"].fillna("").to_numpy() != theirs["domain_variable"].to_numpy()).any():
        found.append(f"domain_variable: {wrong.sum()} rows")
    for column in ("value", "original_value", "uprating_factor", "hif", "state_uprating_factor"):
        if column in theirs:
            a, b = (pd.to_numeric(t[column]).to_numpy(float) for t in (ours, theirs))
            wrong = ~np.isclose(a, b, rtol=1e-12, atol=0, equal_nan=True)
            if wrong.any():
                i = wrong.argmax()
                found.append(f"{column}: {wrong.sum()} rows, first {ours['name'][i]}: {a[i]} against {b[i]}")
    return found


def matrix_differences(
    ours: sparse.csr_array, theirs: sparse.csr_array, names: pd.Series, tolerance: float = 1e-5
) -> tuple[list[str], float]:
    """Return in words the rows that differ in pattern or value, and the largest relative difference."""
    if ours.shape != theirs.shape:
        return [f"shape {ours.shape} against {theirs.shape}"], np.inf
    a, b = ours.tocsr().copy(), theirs.tocsr().copy()
    for matrix in (a, b):
        matrix.eliminate_zeros()
        matrix.sort_indices()
    here, there = (set(zip(*m.nonzero(), strict=True)) for m in (a, b))
    if here != there:
        rows = sorted({int(i) for i, _ in here ^ there})
        words = [f"{names[i]}: pattern, {a[[i]].nnz} cells against {b[[i]].nnz}" for i in rows]
        return words, np.inf
    relative = np.abs(a.data.astype(float) - b.data) / np.abs(b.data)
    row = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    words = [
        f"{names[i]}: value, largest relative difference {relative[row == i].max():.1e}"
        for i in np.unique(row[relative > tolerance]).tolist()
    ]
    return words, float(relative.max(initial=0.0))
