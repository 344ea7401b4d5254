"""The judgement of a proof: what the files give against X.w, totals of areas, population, likely causes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import RunError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.blocks import read_block
from distcalib.matrix.measures import Measure, Rows
from distcalib.runs.checks import write_checks
from distcalib.runs.gates import accepted_warnings, gates, refuse, sentence
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt
from distcalib.runs.verify import measures_of
from distcalib.runs.verify_stage import Cover, Proof
from distcalib.storage import publish

_AREAS = 10_000  # as in `Rows.key`
#: Cells of X that are turned to float64 at once.
_PIECE = 1 << 22
PARTS = ["fit", "state_fips", "cd_geoid", "part", "area", "measure", "total", "nonzero", "households"]
FILES = ["file", "households", "persons", "weight", "bytes"]


def judge(
    folder: Path,
    plan: Plan,
    proof: Proof,
    checks: list[Receipt],
    receipts: list[Receipt],
    assignment: GeographyAssignment,
) -> dict[str, Any]:
    """Compare files with X.w and districts with their population, and write the tables of ``verify/``.

    Parameters
    ----------
    folder, plan, proof, assignment
        The run, and how it is proven.
    checks, receipts
        Of the proof's two stages.

    Returns
    -------
    dict
        What the manifest says of the proof.

    Raises
    ------
    RunError
        When guarantee 1 is broken: names the worst target, the figures and the likely cause.
    """
    targets, accept = pd.read_parquet(folder / "targets.parquet"), plan.run.verify.accept
    rows = Rows.of(targets)
    measures = measures_of(rows, plan.run.verify.totals)
    tables = [pd.read_parquet(folder / path) for r in receipts for path in r.outputs]
    parts = pd.concat(tables) if tables else pd.DataFrame(columns=PARTS)
    # In one order whatever the tasks were, so that every sum is the same.
    order = ["fit", "area", "state_fips", "part", "cd_geoid", "measure"]
    parts = parts.sort_values(order, kind="stable", ignore_index=True)
    matrix = read_block(folder / "matrix.zarr" / "X")
    checked = [{"file": file, **facts} for r in checks for file, facts in r.facts["files"].items()]
    files = pd.DataFrame(checked, columns=FILES).sort_values("file")
    publish(folder / "verify/files.csv", lambda p: files.to_csv(p, index=False))
    found: dict[str, dict[str, Any]] = {}
    warned: list[str] = []
    for fit, cover in proof.covers.items():
        if not cover.districts:
            continue
        place = folder / "verify" / (f"fits/{fit}" if fit else "")
        weights = np.load(folder / (f"fits/{fit}" if fit else "fit") / "weights.npy")
        own = parts[parts["fit"] == fit]
        table = compare(
            targets, rows, own[own["area"] == ""], matrix, weights, cover, plan.run.verify.tolerance
        )
        publish(place / "targets.csv", lambda p, t=table: t.to_csv(p, index=False))  # type: ignore[misc]
        totals = totals_of(own, measures, cover, proof.names)
        publish(place / "areas.csv", lambda p, t=totals: t.to_csv(p, index=False))  # type: ignore[misc]
        wrong = table[table["proven"] & ~table["ok"]]
        if len(wrong):
            worst = wrong.sort_values("difference", ascending=False).iloc[0]
            cause = likely_cause(
                int(worst["row"]),
                rows,
                measures,
                own[own["area"] == ""],
                matrix,
                weights,
                assignment,
                cover,
                proof,
            )
            raise RunError(
                f"the files do not give what the matrix promised for {len(wrong)} of {len(table)} targets"
                f"{f' of the fit {fit}' if fit else ''}; the worst is {worst['name']}: "
                f"{worst['from_files']:,.3f} from the files, {worst['promised']:,.3f} from X.w; {cause} "
                f"(see {place / 'targets.csv'})"
            )
        if not fit:
            write_checks(folder)
            due = [proof.names[code] for code in sorted(cover.states | cover.districts)]
            areas = {held.area.file: held.area for task in proof.checks for held in task.files}
            each = files.assign(
                area=[areas[file].name for file in files["file"]],
                geo_level=[areas[file].kind.removesuffix("s") for file in files["file"]],
            )
            findings = gates(totals, accept, areas=due, files=each, warnings=plan.warnings)
            publish(place / "gates.csv", lambda p, t=findings: t.to_csv(p, index=False))  # type: ignore[misc]
            refuse(findings, place / "gates.csv")
            known = (findings["accepted"] != "") & (findings["kind"] != "accept")
            warned = [sentence(row) for _, row in findings[~known].iterrows()]
        proven = int(table["proven"].sum())
        found[fit] = {
            "targets": len(table),
            "proven": proven,
            # Files may hold areas of which there is no target.
            "largest_difference": float(table.loc[table["proven"], "difference"].max()) if proven else 0.0,
        }
    people = population_of(parts, measures, proof)
    people["listed"] = people["relative"].abs() > plan.run.verify.population
    publish(folder / "verify/population.csv", lambda p: people.to_csv(p, index=False))
    first = found.get("", {"targets": len(targets), "proven": 0, "largest_difference": 0.0})
    return {
        **first,
        "districts_checked": len(people),
        "population_listed": people.loc[people["listed"], ["district", "relative"]].to_dict("records"),
        "files": len(files),
        "gates": warned,
        "accepted": accepted_warnings(plan.warnings, accept),
        "fits": {name: facts for name, facts in found.items() if name},
    }


def not_proven(found: dict[str, Any]) -> list[str]:
    """Return warnings of targets that no file proves, from what `judge` gave."""
    out = []
    for name, facts in {"": found, **found["fits"]}.items():
        missing = facts["targets"] - facts["proven"]
        if missing:
            of = f" of the fit {name}" if name else ""
            out.append(
                f"{missing} of {facts['targets']} targets{of} are not proven: no file holds their area"
            )
    return out


def compare(
    targets: pd.DataFrame,
    rows: Rows,
    parts: pd.DataFrame,
    matrix: Any,
    weights: np.ndarray,
    cover: Cover,
    tolerance: float,
) -> pd.DataFrame:
    """Add up what the files gave for each target and compare it with X.w.

    Parameters
    ----------
    targets, rows
        The run's targets and their index.
    parts
        Of one fit, from ``verify/parts``: cd_geoid, state_fips, measure, total.
    matrix
        X, csr_array of float32, shape (n targets, n columns).
    weights
        Fitted weights, float64, shape (n columns,).
    cover
        What the files prove.
    tolerance
        Largest allowed |from files - X.w| / sum(|x| w).

    Returns
    -------
    DataFrame
        One row a target: row, target_id, name, geo_level, geographic_id, status, value, promised (X.w),
        from_files, scale (sum(|x| w)), difference (relative to scale), ok, proven. What no file proves has
        neither from_files nor difference, and is not ok.
    """
    out = targets[["target_id", "name", "geo_level", "geographic_id", "status", "value"]].reset_index(
        drop=True
    )
    out.insert(0, "row", np.arange(len(out)))
    promised, scale = _sums(matrix, weights)
    out["promised"] = promised
    area = rows.key % _AREAS
    keys, sums = [], []
    for code in (0, parts["state_fips"], parts["cd_geoid"]):
        added = parts["total"].groupby(parts["measure"].to_numpy() * _AREAS + np.asarray(code)).sum()
        keys.append(added.index.to_numpy())
        sums.append(added.to_numpy())
    found = pd.Series(np.concatenate(sums), index=np.concatenate(keys))
    proven = (
        np.where(area == 0, cover.nation, False)
        | np.isin(area, sorted(cover.states))
        | np.isin(area, sorted(cover.districts))
    )
    values = np.full(len(out), np.nan)
    # A covered place without a household gives nothing.
    values[rows.row] = np.where(proven, found.reindex(rows.key).fillna(0.0).to_numpy(), np.nan)
    is_proven = np.zeros(len(out), dtype=bool)
    is_proven[rows.row] = proven
    out["from_files"] = values
    out["scale"] = scale
    gap = (out["from_files"] - out["promised"]).abs()
    out["difference"] = gap / out["scale"].where(out["scale"] > 0, 1.0)
    out["ok"] = gap <= tolerance * out["scale"]
    out["proven"] = is_proven
    return out


def _sums(matrix: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return X.w and sum(|x| w) in float64, some rows at a time: a copy of X may not fit beside it."""
    at = np.searchsorted(matrix.indptr, np.arange(_PIECE, matrix.nnz, _PIECE))
    edges = np.unique([0, *at.tolist(), matrix.shape[0]]).tolist()
    pieces = (matrix[a:b].astype(np.float64) for a, b in pairwise(edges))
    promised, scale = zip(*((piece @ weights, abs(piece) @ weights) for piece in pieces), strict=True)
    return np.concatenate(promised), np.concatenate(scale)


def totals_of(
    parts: pd.DataFrame, measures: list[Measure], cover: Cover, names: dict[int, str]
) -> pd.DataFrame:
    """Return weighted totals by area, long form.

    Returns
    -------
    DataFrame
        area, geo_level (national, state, district, other), variable, total (weighted), households (records
        in the area's file), nonzero (of them, those with a value other than 0).
    """
    plain = {i: m.variable for i, m in enumerate(measures) if not m.constraints and not m.reform_id}
    shown = parts[parts["measure"].isin(plain)]
    here, named = shown[shown["area"] == ""], shown[shown["area"] != ""]
    tables = []
    for level, table, by in (
        ("national", here[[cover.nation] * len(here)], None),
        ("state", here[here["state_fips"].isin(cover.states)], "state_fips"),
        ("district", here[here["cd_geoid"].isin(cover.districts)], "cd_geoid"),
        ("other", named, "area"),
    ):
        if table.empty:
            continue
        place = np.zeros(len(table), dtype=int) if by is None else table[by].to_numpy()
        added = table.groupby([place, table["measure"].to_numpy()])[["total", "households", "nonzero"]].sum()
        added = added.rename_axis(["area", "measure"]).reset_index()
        if by != "area":
            added["area"] = added["area"].map({**names, 0: "US"})
        tables.append(added.assign(geo_level=level, variable=added["measure"].map(plain)))
    columns = ["area", "geo_level", "variable", "total", "households", "nonzero"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def population_of(parts: pd.DataFrame, measures: list[Measure], proof: Proof) -> pd.DataFrame:
    """Return the persons of each covered district beside the official population."""
    from distcalib.geography.sources import districts

    number = measures.index(Measure("person_count"))
    own = parts[(parts["fit"] == "") & (parts["area"] == "") & (parts["measure"] == number)]
    found = own.groupby("cd_geoid")["total"].sum()
    official = districts().set_index("cd_geoid")["population"]
    codes = sorted(set(found.index) & proof.covers[""].districts)
    people = pd.DataFrame(
        {
            "district": [proof.names[c] for c in codes],
            "population": official.loc[codes].to_numpy(np.float64),
            "from_file": found.loc[codes].to_numpy(np.float64),
        }
    ).sort_values("district", ignore_index=True)
    people["relative"] = people["from_file"] / people["population"] - 1
    return people


def likely_cause(
    row: int,
    rows: Rows,
    measures: list[Measure],
    parts: pd.DataFrame,
    matrix: Any,
    weights: np.ndarray,
    assignment: GeographyAssignment,
    cover: Cover,
    proof: Proof,
) -> str:
    """Say in words where a target's files and X.w part, and what that points to."""
    key = int(rows.key[np.flatnonzero(rows.row == row)[0]])
    measure, area = measures[key // _AREAS], key % _AREAS
    own = parts
    if area:
        own = parts[parts["state_fips" if area < 100 else "cd_geoid"] == area]
    codes = np.unique(own["cd_geoid"].to_numpy())
    counted = own[own["measure"] == measures.index(Measure("household_count"))].groupby("cd_geoid")
    here = np.isin(assignment.cd_geoid, codes)
    places = np.searchsorted(codes, assignment.cd_geoid[here])
    due = np.bincount(places, weights[here], minlength=len(codes))
    records = np.bincount(places, weights[here] > 0, minlength=len(codes)).astype(int)
    has = counted["total"].sum().reindex(codes).fillna(0).to_numpy()
    found = counted["households"].sum().reindex(codes).fillna(0).to_numpy(int)
    apart = np.abs(has - due) / np.where(due > 0, due, 1)
    if (apart > 1e-9).any() or (found != records).any():
        at = int(np.argmax(apart + (found != records)))
        return (
            f"likely cause: the weights in {cover.files[int(codes[at])]} are not those of the fit; in "
            f"{proof.names[int(codes[at])]} {found[at]} households weigh {has[at]:,.1f} there, and "
            f"{records[at]} weigh {due[at]:,.1f} in weights.npy: weights changed after the files were "
            "written, or a file of another run"
        )
    one = matrix[[row]].tocoo()
    share = np.zeros(len(codes))
    inside = np.isin(assignment.cd_geoid[one.col], codes)
    at_code = np.searchsorted(codes, assignment.cd_geoid[one.col[inside]])
    np.add.at(share, at_code, (one.data * weights[one.col])[inside])
    mine = own[own["measure"] == key // _AREAS].groupby("cd_geoid")["total"].sum()
    has = mine.reindex(codes).fillna(0).to_numpy()
    at = int(np.argmax(np.abs(has - share)))
    asked = ", ".join(sorted(measure.needs)) or measure.variable
    state = STATE_CODES[int(codes[at]) // 100]
    return (
        f"likely cause: households and weights agree, but {asked} of households in "
        f"{cover.files[int(codes[at])]} ({state}) differ, most in {proof.names[int(codes[at])]}: "
        f"{has[at]:,.1f} from the file, {share[at]:,.1f} from the matrix: inputs changed, or "
        "another version of policyengine-us or of this program made the matrix"
    )


def remarks(summary: dict[str, Any]) -> list[str]:
    """Return what is warned of in a finished run, of its plan and of its proof, from what its manifest says.

    What ``verify.accept`` names as known is not among it; an entry of it that meets nothing is.
    """
    proof = summary["verification"]
    known = proof.get("accepted", ())
    far = [
        f"the population of {one['district']} is {one['relative']:+.1%} off the official one"
        for one in proof["population_listed"]
    ]
    own = [text for text in summary["warnings"] if text not in known]
    return [*own, *not_proven(proof), *proof["gates"], *far]
