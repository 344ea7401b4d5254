"""Replicate weights of a finished run: one parquet file, made one replicate at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from distcalib.digest import code_digest, digest_arrays, digest_of
from distcalib.errors import DistcalibError, InputError
from distcalib.fit.replicates import (
    CALIBRATED_PERTURBATION,
    bootstrap_factors,
    refitted_weights,
    scaled_weights,
)
from distcalib.fit.spec import FitSpec
from distcalib.runs.fitting import fit_arguments
from distcalib.runs.folder import stored_plan
from distcalib.runs.plan import microdata_path, read_source
from distcalib.runs.reading import read_matrix, read_weights
from distcalib.runs.stored import stored_config
from distcalib.storage import parse_json, publish, writable

NOTE = (
    "Replicate weights of a rescaled bootstrap of donor households within their home states (Rao, Wu and Yue "
    "1992). They give the standard error from the sampling of donors alone: "
    "sqrt(mean((replicate - estimate)^2)) / perturbation. Imputation, ageing, take-up draws, placement of "
    "clones, choice of records and errors of the targets themselves are not in it."
)


def write_replicates(
    run: str | Path,
    folder: str | Path,
    *,
    number: int = 40,
    seed: int = 0,
    calibrate: bool = True,
    certain: str | Path | None = None,
    progress: Callable[[int], object] = lambda replicate: None,
) -> dict[str, Any]:
    """Write ``replicates.parquet``: one row a column of the run, its weight and its replicate weights.

    Columns: column, household_id, cd_geoid, state_fips, weight, r001, r002 ... (float32). The metadata entry
    ``distcalib`` says in JSON what they are. One replicate is in memory at a time and is on storage when it
    is done: another call with the same inputs makes only those that are missing, also with a larger `number`.

    Parameters
    ----------
    run
        Folder of a run that has its weights.
    folder
        Where to write.
    number, seed
        How many replicates, and the seed of their draws.
    calibrate
        Fit each replicate to the run's targets. False: the run's weights times the bootstrap factors.
    certain
        CSV with the columns household_id and certain: donors that the design of the microdata drew with
        certainty are fixed. None: ``<microdata>_households.csv.gz`` where that lies beside the file
        (``distcalib data cps`` writes it); else no donor is fixed.
    progress
        Called with 0 when all input has been checked, then with the number of each replicate that is done.

    Returns
    -------
    dict
        The metadata: note, donors, donors_certain, donors_alone, number, seed, calibrated,
        perturbation, key.

    Raises
    ------
    InputError
        When `folder` cannot be written in, the run holds no weights, or the microdata are not those of the
        run or lack state_fips.
    """
    source, target = Path(run), Path(folder)
    writable(target / "replicates.parquet")
    plan = stored_plan(source)
    if plan is None or not (source / "fit" / "weights.npy").is_file():
        raise InputError("has no weights", place=source, expected="the folder of a run that has been fitted")
    matrix = read_matrix(source)
    columns = matrix.columns
    weights = read_weights(source / "fit" / "weights.npy", len(columns))
    spec = _spec(source / "fit" / "summary.json")
    donors, facts = _donors(source, plan["inputs"]["microdata"], certain)
    perturbation = CALIBRATED_PERTURBATION if calibrate else 1.0
    facts = {"note": NOTE, **facts, "seed": seed, "calibrated": calibrate, "perturbation": perturbation}
    position = pd.Index(donors["household_id"]).get_indexer(columns["household_id"])

    chosen = np.flatnonzero((matrix.targets["status"] == "fit").to_numpy())
    fitted = matrix.targets.iloc[chosen]
    rows = matrix.X[chosen]
    values = fitted["value"].to_numpy(np.float64)
    told = fit_arguments(fitted, plan["run"]["fit"], plan["run"]["seed"])
    share = told["target_weights"]
    key = digest_of(
        {
            **facts,
            "code": code_digest("fit", "random", "runs/fitting", "runs/replicates", "targets/families"),
            "matrix": matrix.digest(),
            "arrays": digest_arrays({"w": weights, "values": values, "share": share, "position": position}),
            "donors": digest_arrays({c: donors[c].to_numpy() for c in donors}),
            "spec": spec.as_dict(),
        }
    )
    parts = target / f".replicates-{key[:16]}"
    _unpack(target / "replicates.parquet", key, parts)
    progress(0)
    for replicate in range(1, number + 1):
        file = parts / f"r{replicate:03d}.npy"
        if not file.is_file():
            factors = bootstrap_factors(
                donors["household_id"],
                donors["state_fips"],
                replicate,
                seed=seed,
                certain=donors["certain"],
                perturbation=perturbation,
            )[position]
            made = (
                refitted_weights(
                    rows,
                    values,
                    columns["initial_weight"].to_numpy(np.float64),
                    weights > 0,
                    factors,
                    spec,
                    target_weights=share,
                    tolerance=told.get("tolerance", 0.0),
                    holdout=told["holdout"],
                    areas=columns["cd_geoid"].to_numpy(),
                )
                if calibrate
                else scaled_weights(weights, factors)
            )
            publish(file, lambda p, w=made: np.save(p, w.astype(np.float32)))  # type: ignore[misc]
        progress(replicate)
    facts |= {"number": number, "key": key}
    named = columns[["column", "household_id", "cd_geoid", "state_fips"]]
    table = pa.Table.from_pandas(named.assign(weight=weights.astype(np.float32)), preserve_index=False)
    for replicate in range(1, number + 1):
        name = f"r{replicate:03d}"
        table = table.append_column(name, pa.array(np.load(parts / f"{name}.npy")))
    table = table.replace_schema_metadata({"distcalib": json.dumps(facts, sort_keys=True)})
    publish(target / "replicates.parquet", lambda path: pq.write_table(table, path))
    for file in parts.iterdir():
        file.unlink()
    parts.rmdir()
    return facts


def _spec(summary: Path) -> FitSpec:
    """Return the settings that a fit was made with.

    Raises
    ------
    InputError
        When there is no summary, as of a fit that was stopped at its end, or none of a fit.
    """
    try:
        return FitSpec(**parse_json(summary.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, TypeError, KeyError, DistcalibError) as error:
        raise InputError(
            f"is no summary of a fit ({type(error).__name__}: {error})",
            place=summary,
            expected="a run whose fit is finished; the same `run` command goes on",
        ) from None


def _donors(run: Path, digest: str, certain: str | Path | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return household_id, state_fips (home) and certain of every donor of a run, and their counts."""
    config = stored_config(run)
    path, source = microdata_path(config), read_source(config)
    if source.digest() != digest:
        raise InputError("is not the microdata that the run was made from", place=path)
    donors = pd.DataFrame(
        {"household_id": source.ids["household"], "state_fips": source.column("state_fips").astype(np.int64)}
    )
    beside = path.with_name(f"{path.stem}_households.csv.gz")
    file = Path(certain) if certain is not None else beside
    listed: set[int] = set()
    if certain is not None or beside.is_file():
        try:
            table = pd.read_csv(file, dtype={"household_id": np.int64, "certain": bool})
            listed = set(table.loc[table["certain"], "household_id"])
        except (OSError, ValueError, KeyError) as error:
            words = f"cannot be read as a list of donors ({error})"
            raise InputError(
                words, place=file, expected="CSV with the columns household_id and certain"
            ) from None
        strange = listed - set(donors["household_id"])
        if config.households is not None:
            listed -= strange  # a trial drew only some of them
        elif strange:
            words = f"lists {len(strange)} households that the microdata do not hold"
            raise InputError(words, place=file, value=min(strange))
    donors["certain"] = donors["household_id"].isin(listed)
    by_state = donors.loc[~donors["certain"], "state_fips"].value_counts()
    alone = int((by_state == 1).sum())
    return donors, {"donors": len(donors), "donors_certain": len(listed), "donors_alone": alone}


def _unpack(file: Path, key: str, parts: Path) -> None:
    """Take the replicates of an earlier call with the same inputs back into the work folder."""
    if not file.is_file():
        return
    stored = pq.ParquetFile(file)
    metadata = (stored.schema_arrow.metadata or {}).get(b"distcalib")
    if metadata is None or json.loads(metadata).get("key") != key:
        words = "holds replicates of other inputs, settings or code"
        raise InputError(words, place=file, expected="another --output, or remove the file")
    for name in stored.schema_arrow.names:
        if name.startswith("r") and name[1:].isdigit() and not (parts / f"{name}.npy").is_file():
            values = stored.read([name]).column(0).to_numpy()
            publish(parts / f"{name}.npy", lambda p, v=values: np.save(p, v))  # type: ignore[misc]
