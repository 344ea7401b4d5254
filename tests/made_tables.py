"""A run folder whose tables are made, of any size: real targets and districts, invented estimates."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.config import RunConfig
from distcalib.fit.diagnostics import CAUSES, group_causes
from distcalib.fit.support_by_area import support_by_area
from distcalib.geography.district import District
from distcalib.geography.sources import districts as all_districts
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.blocks import write_block
from distcalib.runs.checks import write_checks
from distcalib.runs.gates import COLUMNS
from distcalib.runs.manifest import write_manifest
from distcalib.runs.receipts import Receipt, write_receipt
from distcalib.storage import sha256_file, write_json
from distcalib.targets.choose import load_targets

BEGAN = 1_790_000_000.0
WORKERS = 4
#: What `write_made_run` makes: the proof is the last of it.
STAGES = ("simulate", "assemble", "fit", "areas", "verify files", "verify", "judge")


def write_made_run(
    folder: Path,
    geoids: list[int] | None = None,
    *,
    households: int = 40,
    clones: int = 3,
    kept: float = 0.5,
    slices: int = 1,
    failed: tuple[str, str] | None = None,
    name: str = "made",
) -> Path:
    """Write a run folder, finished, or failed in a stage with a cause: then nothing of that stage is there.

    Parameters
    ----------
    geoids
        Of its districts; None: all.
    households, clones, kept
        Columns are households x clones; `kept` of them have weight.
    slices
        Simulation tasks of a state.
    """
    rng = np.random.default_rng(7)
    table = all_districts()
    table = table if geoids is None else table[table["cd_geoid"].isin(geoids)]
    stages = STAGES if failed is None else STAGES[: STAGES.index(failed[0])]
    targets = load_targets("bundled", 2024, set(table["cd_geoid"]))
    rows = targets.rows.reset_index(drop=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "targets.parquet", index=False)
    targets.excluded.to_parquet(folder / "excluded.parquet", index=False)
    n = households * clones
    people = table["population"].to_numpy(np.float64)
    columns = pd.DataFrame({"column": np.arange(n), "household_id": np.arange(n) % households})
    columns["clone"] = columns["column"] // households
    columns["cd_geoid"] = rng.choice(table["cd_geoid"].to_numpy(), n, p=people / people.sum())
    columns["state_fips"] = columns["cd_geoid"] // 100
    columns["initial_weight"] = people.sum() / 2.5 / n * rng.lognormal(0, 0.8, n)
    columns.to_parquet(folder / "columns.parquet", index=False)
    tasks = _tasks(table, slices, stages)
    plan = _plan(name, households, clones, table, rows, targets.excluded, tasks)
    write_json(folder / "plan.json", plan)
    _events(folder, tasks, plan, failed)
    outputs: dict[str, list[str]] = {"fit": _fit(folder, rows, columns, kept, rng) if "fit" in stages else []}
    for i, (stage, key, _, seconds) in enumerate(tasks):
        made = {path: sha256_file(folder / path) for path in outputs.get(stage, [])}
        peak, process = (1 + i % 3) * 2**30, 4000 + i % WORKERS
        facts: dict[str, Any] = {"areas": {}} if stage == "areas" else {}
        receipt = Receipt(stage.split()[0], key, made, facts, seconds, peak, process, 0.9 * seconds)
        write_receipt(folder, receipt)
    if failed is None:
        _proof(folder, rows, table, rng)
        write_manifest(folder, _facts(folder, plan, rows))
    return folder


def write_made_frontier(folder: Path) -> None:
    """Write what records cost, as `distcalib fit frontier` does, of a made run."""
    table = pd.DataFrame({"records": [50, 100], "loss": [0.4, 0.2], "attainable_loss": 0.1, "note": ""})
    for name in ("effective_sample_size", "effective_sample_size_by_donor"):
        table[name] = [30.0, 60.0]
    table = table.assign(held_out_error=[0.3, 0.25], held_out_std_error=0.01)
    table.to_csv(folder / "fit/frontier.csv", index=False)


def write_made_matrix(folder: Path, share: float = 0.1) -> sparse.csr_array:
    """Write X of a made run: each target has ones in a share of the columns of its area."""
    rng = np.random.default_rng(11)
    rows = pd.read_parquet(folder / "targets.parquet", columns=["geo_level", "geographic_id"])
    district = pd.read_parquet(folder / "columns.parquet", columns=["cd_geoid"])["cd_geoid"].to_numpy()
    order = np.argsort(district, kind="stable").astype(np.int32)
    ordered = district[order]
    parts = []
    for level, area in rows.itertuples(index=False, name=None):
        code = 0 if level == "national" else int(area)
        ends = {"national": (0, 10_000), "state": (code * 100, code * 100 + 99), "district": (code, code)}
        start = np.searchsorted(ordered, ends[level][0])
        stop = np.searchsorted(ordered, ends[level][1], side="right")
        own = order[start:stop]
        parts.append(np.sort(own[rng.random(len(own), dtype=np.float32) < share]))
    ends_of_rows = np.cumsum([0, *map(len, parts)])
    indices = np.concatenate(parts)
    shape = (len(rows), len(district))
    matrix = sparse.csr_array((np.ones(len(indices), np.float32), indices, ends_of_rows), shape=shape)
    write_block(folder / "matrix.zarr" / "X", matrix)
    return matrix


def _tasks(table: pd.DataFrame, slices: int, stages: tuple[str, ...]) -> list[tuple[str, str, str, float]]:
    states = [STATE_CODES[s] for s in sorted(set(table["state_fips"]))]
    places = {
        "simulate": [
            f"{s}, columns {i * 100} to {i * 100 + 99} of the state" for s in states for i in range(slices)
        ],
        "assemble": [""],
        "fit": [""],
        "areas": [f"areas/districts/{name}.h5" for name in table["name"]],
        "verify files": states,
        "verify": [f"{s} in areas/states/{s}.h5" for s in states],
    }
    seconds = {
        "simulate": 8.0,
        "assemble": 4.0,
        "fit": 180.0,
        "areas": 0.2,
        "verify files": 0.4,
        "verify": 9.0,
    }
    return [
        (stage, f"{STAGES.index(stage):02x}{i:062x}", place, seconds[stage] * (1 + (i * 7 % 10) / 10))
        for stage in places
        if stage in stages
        for i, place in enumerate(places[stage])
    ]


def _plan(
    name: str, households: int, clones: int, table: pd.DataFrame, rows: pd.DataFrame, excluded: pd.DataFrame,
    tasks: list[tuple[str, str, str, float]],
) -> dict[str, Any]:  # fmt: skip
    run = json.loads(json.dumps(asdict(RunConfig())))
    run |= {"name": name, "n_clones": clones, "seed": 3}
    status = rows["status"].value_counts()
    facts = {
        "households": households, "persons": households * 2, "columns": households * clones,
        "districts": len(table), "states": table["state_fips"].nunique(),
        "targets_fit": int(status.get("fit", 0)), "targets_check": int(status.get("check", 0)),
        "targets_excluded": len(excluded), "measures": 500,
        "far": [{"measure": "eitc", "targets": 52, "reason": "uncalibrated total is 0.68 x the target"}],
    }  # fmt: skip
    inputs = {part: f"{i}a" * 32 for i, part in enumerate(("microdata", "rows", "values", "assignment"))}
    return {
        "run": run,
        "facts": facts,
        "inputs": inputs,
        "versions": {"distcalib": "0.1.0", "policyengine-us": "2.68.0"},
        "code": dict.fromkeys(("simulate", "assemble", "fit", "areas", "verify"), "c" * 64),
        "engines": {"": "cpu"},
        "slices": [
            {"id": key, "state_fips": 1, "start": 0, "stop": 1}
            for stage, key, *_ in tasks
            if stage == "simulate"
        ],
        "warnings": ["1065 targets are of other years (2022, 2023) and used as published"],
        "digest": "d" * 64,
    }


def _events(
    folder: Path,
    tasks: list[tuple[str, str, str, float]],
    plan: dict[str, Any],
    failed: tuple[str, str] | None,
) -> None:
    now, lines = BEGAN, []

    def say(event: str, when: float, **facts: Any) -> None:
        lines.append({"event": event, "time": round(when, 3), **facts})

    say("start", now, plan=plan["digest"], columns=plan["facts"]["columns"])
    say("stage", now, stage="start workers", tasks=WORKERS, reused=0)
    now += 31.0
    say("stage_done", now, stage="start workers", seconds=31.0)
    say("workers", now, count=WORKERS, addresses=[], own_bytes=2**25, shared_bytes=2**30)
    for stage in STAGES if failed is None else STAGES[: STAGES.index(failed[0])]:
        own = [task for task in tasks if task[0] == stage]
        say("stage", now, stage=stage, tasks=max(len(own), 1), reused=0)
        began, free = now, [now] * WORKERS
        for i, (_, key, place, seconds) in enumerate(own):
            # The receipts go round the workers in the same order.
            at = (tasks.index(own[0]) + i) % WORKERS
            free[at] += seconds
            say(
                "task",
                free[at],
                stage=stage,
                id=key,
                seconds=seconds,
                peak_bytes=2**30,
                place=place,
                cpu_seconds=0.9 * seconds,
                process=4000 + at,
            )
        now = max(*free, now + 1.0)
        say("stage_done", now, stage=stage, seconds=round(now - began, 2))
    if failed is None:
        say("done", now + 1.0, seconds=now - BEGAN)
    else:
        say("stage", now, stage=failed[0], tasks=1, reused=0)
        say("stage_failed", now + 5.0, stage=failed[0], seconds=5.0, cause=failed[1])
    ordered = sorted(lines, key=lambda line: line["time"])
    (folder / "events.ndjson").write_text("".join(json.dumps(line) + "\n" for line in ordered))


def _fit(
    folder: Path, rows: pd.DataFrame, columns: pd.DataFrame, kept: float, rng: np.random.Generator
) -> list[str]:
    n = len(columns)
    design = columns["initial_weight"].to_numpy()
    ratio = np.clip(rng.lognormal(0.5, 0.6, n), 0.02, 10.0)
    weights = np.where(rng.random(n) < kept, np.float32(design * ratio).astype(np.float64), 0.0)
    areas, donors = columns["cd_geoid"].to_numpy(), columns["household_id"].to_numpy()
    levels = {"national": np.zeros(n, dtype=np.int64), "state": areas // 100, "district": areas}
    carried = support_by_area(weights, levels, donors, (0.0, design * 10.0))
    labels = [
        "target_id",
        "name",
        "variable",
        "geo_level",
        "geographic_id",
        "domain_variable",
        "group_id",
        "status",
    ]
    table = rows[labels].copy()
    value = rows["value"].to_numpy(np.float64)
    wide = np.where(rows["geo_level"] == "district", 0.03, 0.01) * np.where(rows["status"] == "fit", 1.0, 9.0)
    error = rng.standard_t(3, len(rows)) * wide
    table["target"], table["estimate"] = value, value * (1 + error)
    table["error"], table["rel_error"], table["abs_rel_error"] = value * error, error, np.abs(error)
    table["achievable"] = True
    table["within_tolerance"] = np.abs(error) <= rows["tolerance"].to_numpy()
    table["donors"] = rng.integers(2, 400, len(rows))
    table["effective_donors"] = table["donors"] * 0.6
    table["margins"] = np.abs(value * error) / rows["moe"].to_numpy(np.float64)
    missed = (table["status"] == "fit") & ~table["within_tolerance"]
    table["cause"] = np.where(missed, rng.choice(CAUSES, len(rows)), "")
    (folder / "fit").mkdir(exist_ok=True)
    np.save(folder / "fit/weights.npy", weights)
    for name, frame in {"diagnostics": table, "groups": group_causes(table), "areas": carried}.items():
        frame.to_csv(folder / f"fit/{name}.csv", index=False)
    way = [("gates", 1, epoch, 900.0 / epoch, n - epoch) for epoch in (1, 10, 20)]
    way += [("refit", 1, step, 40.0 / step, n // 2) for step in (1, 5, 25)]
    epochs = pd.DataFrame(way, columns=["stage", "attempt", "epoch", "loss", "active"])
    epochs.to_csv(folder / "fit/epochs.csv", index=False)
    nation = carried.iloc[0]
    size = float(nation["effective_sample_size_by_donor"])
    write_json(
        folder / "fit/summary.json",
        {"records_kept": int((weights > 0).sum()), "columns": n, "effective_sample_size_by_donor": size,
         "weights_sha256": "e" * 64},
    )  # fmt: skip
    return [
        f"fit/{name}"
        for name in (
            "weights.npy",
            "epochs.csv",
            "diagnostics.csv",
            "groups.csv",
            "areas.csv",
            "summary.json",
        )
    ]


def _proof(folder: Path, rows: pd.DataFrame, table: pd.DataFrame, rng: np.random.Generator) -> None:
    (folder / "verify").mkdir()
    fitted = pd.read_csv(folder / "fit/diagnostics.csv", dtype={"geographic_id": str})
    proven = pd.DataFrame(
        {"row": np.arange(len(rows)), "name": rows["name"], "geographic_id": rows["geographic_id"],
         "from_files": fitted["estimate"]}
    )  # fmt: skip
    proven.to_csv(folder / "verify/targets.csv", index=False)
    write_checks(folder)
    people = table["population"].to_numpy(np.float64)
    error = rng.normal(0, 0.015, len(table))
    population = pd.DataFrame(
        {
            "district": table["name"],
            "population": people,
            "from_file": people * (1 + error),
            "relative": error,
        }
    )
    population["listed"] = population["relative"].abs() > 0.05
    population.to_csv(folder / "verify/population.csv", index=False)
    totals = [
        (District(g).name, "district", variable, p * factor * rng.lognormal(0, 0.2), 40, 20)
        for g, p in zip(table["cd_geoid"], people, strict=True)
        for variable, factor in (("person_in_poverty", 0.12), ("household_net_income", 4e4), ("snap", 290.0))
    ]
    totals += [(District(g).name, "district", "person_count", p, 40, 40)
               for g, p in zip(table["cd_geoid"], people, strict=True)]  # fmt: skip
    names = ["area", "geo_level", "variable", "total", "households", "nonzero"]
    pd.DataFrame(totals, columns=names).to_csv(folder / "verify/areas.csv", index=False)
    gate = ["warning", "zero", table["name"].iloc[0], "district", "ssi", 0.0, 8.0, np.nan, "few records", ""]
    pd.DataFrame([gate], columns=list(COLUMNS)).to_csv(folder / "verify/gates.csv", index=False)


def _facts(folder: Path, plan: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    proof = {
        "targets": len(rows),
        "proven": len(rows),
        "largest_difference": 3.1e-15,
        "population_listed": [],
    }
    return {
        "name": plan["run"]["name"], "plan": plan["digest"], "matrix": "b" * 64, "weights": "e" * 64,
        "versions": plan["versions"], "verification": proof, "warnings": plan["warnings"], "seconds": 100.0,
    }  # fmt: skip
