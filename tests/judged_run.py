"""The folder of a run of two states with two districts each, up to its matrix, for what judges fits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.config import FitConfig
from distcalib.matrix.blocks import write_block

COLUMNS, DISTRICTS = 240, [2501, 2502, 3301, 3302]
FIT = FitConfig(group_power=0.5, epochs=30, refit_epochs=60, ridge=0.02, engine="cpu")


def write_run(folder: Path) -> Path:
    """Write the folder of a run of two states with two districts each, with drawn cells."""
    rng = np.random.default_rng(5)
    donor = np.arange(COLUMNS) % 120
    district = np.array(DISTRICTS)[np.arange(COLUMNS) % 4]
    persons, snap = rng.poisson(0.8, (120, 3)) * 1.0, rng.random(120) < 0.3
    income = rng.lognormal(10, 0.8, 120)
    bracket = np.searchsorted(np.quantile(income, [0.33, 0.67]), income)
    measures = {
        **{("person_count", "age", f"age=={j}"): persons[:, j] for j in range(3)},
        ("household_count", "snap", "snap>0"): snap * 1.0,
        ("snap", "", ""): snap * rng.gamma(3, 900, 120),
        **{("agi", "agi", f"agi=={j}"): income * (bracket == j) for j in range(3)},
    }
    cells, rows = [], []
    for level, places in (("national", ["US"]), ("state", [25, 33]), ("district", DISTRICTS)):
        for group, ((variable, domain, constraints), value) in enumerate(measures.items()):
            if level == "district" and variable in ("snap", "agi"):
                continue
            for place in places:
                here = (
                    np.full(COLUMNS, True)
                    if place == "US"
                    else (district == place) | (district // 100 == place)
                )
                cells.append(value[donor] * here)
                words = (level, str(place), variable, domain, constraints, f"{level} {group}")
                rows.append((*words, "check" if level == "national" and variable == "agi" else "fit"))
    X = sparse.csr_array(np.array(cells, dtype=np.float32))
    initial = 1000 * rng.lognormal(0, 0.4, COLUMNS)
    truth = initial * np.exp(rng.normal(0, 0.5, COLUMNS) + (district == 2501) * 0.4)
    labels = ["geo_level", "geographic_id", "variable", "domain_variable", "constraints", "group", "status"]
    targets = pd.DataFrame(rows, columns=labels)
    targets["group_id"] = targets.groupby("group", sort=True).ngroup()
    targets["target_id"] = np.arange(len(targets)) + 1
    targets["name"] = targets[["geo_level", "geographic_id", "variable", "constraints"]].agg("/".join, axis=1)
    targets["value"] = X.astype(np.float64) @ truth * rng.normal(1, 0.03, len(targets))
    targets["tolerance"], targets["reform_id"] = 0.05, 0
    targets.to_parquet(folder / "targets.parquet")
    columns = {
        "column": np.arange(COLUMNS),
        "household_id": donor,
        "cd_geoid": district,
        "initial_weight": initial,
    }
    pd.DataFrame(columns).to_parquet(folder / "columns.parquet")
    write_block(folder / "matrix.zarr" / "X", X)
    run = {
        "name": "judged",
        "fit": asdict(FIT),
        "fits": {"few": {**asdict(FIT), "records": 60}},
        "seed": 3,
        "microdata": "none.h5",
        "period": 2024,
        "simulation": {"take_up": True},
    }
    plan = {"slices": [], "digest": "", "code": {}, "run": run, "inputs": {"microdata": ""}, "versions": {}}
    (folder / "plan.json").write_text(json.dumps({**plan, "engines": {"": "cpu", "few": "cpu"}}))
    return folder
