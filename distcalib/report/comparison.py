"""Two finished runs beside each other: settings, targets, totals, weights, files and findings."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.report.pages import area_name
from distcalib.report.run_tables import read_table
from distcalib.runs.folder import stored_plan
from distcalib.runs.gates import TOTALS, sentence
from distcalib.runs.manifest import read_manifest
from distcalib.storage import parse_json, temporary_beside, writable, write_text

#: Tables of a comparison, in the order of its page.
TABLES = ("settings", "summary", "groups", "targets", "totals", "weights", "findings", "files")

_TARGET = ["name", "variable", "geo_level", "geographic_id", "domain_variable"]
_OF_TARGET = ["status", "target", "estimate", "rel_error", "within_tolerance"]
_OF_WEIGHTS = ["columns", "records", "donors", "weight", "effective_sample_size"]
# Part of a plan whose values are compared; facts and slices follow from them.
_SETTINGS = ("run", "inputs", "versions", "engines", "code")


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison reads of a run folder.

    Attributes
    ----------
    folder
        Of the run.
    manifest, plan, summary
        ``manifest.json``, ``plan.json`` and ``fit/summary.json``.
    targets, weights
        ``fit/diagnostics.csv`` and ``fit/areas.csv``.
    totals, gates
        ``verify/areas.csv`` and ``verify/gates.csv``; None where the run wrote none.
    """

    folder: Path
    manifest: dict[str, Any]
    plan: dict[str, Any]
    summary: dict[str, Any]
    targets: pd.DataFrame
    weights: pd.DataFrame
    totals: pd.DataFrame | None
    gates: pd.DataFrame | None

    @classmethod
    def read(cls, folder: str | Path) -> FinishedRun:
        """Read a run folder.

        Raises
        ------
        InputError
            When the folder is none of a run, when the run is not finished, or when a table of it is gone or
            lacks a column.
        """
        run = Path(folder)
        plan = stored_plan(run) if run.is_dir() else None
        if plan is None:
            raise InputError("holds no plan.json", place=run, expected="the folder of a run")
        manifest = read_manifest(run)
        if manifest is None:
            expected = "a run that is finished: run it again to go on"
            raise InputError("holds no manifest.json that can be read", place=run, expected=expected)
        try:
            summary = parse_json((run / "fit/summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            expected = "the summary of a fit"
            raise InputError("cannot be read", place=run / "fit/summary.json", expected=expected) from None
        return cls(
            run,
            manifest,
            plan,
            summary,
            read_table(run / "fit/diagnostics.csv", [*_TARGET, *_OF_TARGET]),
            read_table(run / "fit/areas.csv", ["geo_level", "area", *_OF_WEIGHTS]),
            read_table(run / "verify/areas.csv", list(TOTALS), optional=True),
            read_table(run / "verify/gates.csv", ["severity", "kind", "area", "variable"], optional=True),
        )


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other; in every table ``in`` says ``both``, ``only A`` or ``only B``.

    Attributes
    ----------
    a, b
        The runs.
    settings
        setting, a, b: what differs in settings, input digests, versions, engines and code.
    summary
        figure, a, b, difference: the numbers of ``fit/summary.json``.
    targets
        One row a target of either run: its labels, status, target, estimate, rel_error and within_tolerance
        of each run (``_a``, ``_b``), fitted (in either), difference and relative (change of the estimate).
    groups
        Of targets that both fit: geo_level, variable, domain, targets, and the shares within 5 percent and
        within tolerance and the median absolute relative error of each run.
    totals
        One row an area and variable: total, households and nonzero of each run, difference, relative, and
        share (difference as a share of the nation's total in A).
    weights
        One row an area: columns, records, donors, weight and effective_sample_size of each run.
    files
        path, in, a, b (sha256): what differs.
    findings
        kind, text, in: warnings of the plan, gates, and districts far from their population.
    notes
        What could not be compared, and why.
    """

    a: FinishedRun
    b: FinishedRun
    settings: pd.DataFrame
    summary: pd.DataFrame
    targets: pd.DataFrame
    groups: pd.DataFrame
    totals: pd.DataFrame
    weights: pd.DataFrame
    files: pd.DataFrame
    findings: pd.DataFrame
    notes: tuple[str, ...]

    def largest_change(self) -> pd.Series | None:
        """Return the row of the fitted target whose estimate changed most; None where none is shared."""
        shared = self.targets[(self.targets["in"] == "both") & self.targets["fitted"]]
        return None if shared.empty else shared.loc[shared["relative"].abs().idxmax()]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name, in the order of the page."""
        return {name: getattr(self, name) for name in TABLES}


def compare_runs(run_a: str | Path, run_b: str | Path) -> Comparison:
    """Compare two finished runs; areas, targets and variables that one lacks are said to be in the other.

    Parameters
    ----------
    run_a, run_b
        Run folders with a manifest. A change is B less A, as a share of A.

    Returns
    -------
    Comparison
        A DataFrame for each kind of difference.

    Raises
    ------
    InputError
        As `FinishedRun.read`; when both are one folder.
    """
    if Path(run_a).resolve() == Path(run_b).resolve():
        raise InputError("is the same folder twice", place=run_b, expected="two runs")
    a, b = FinishedRun.read(run_a), FinishedRun.read(run_b)
    notes: list[str] = []
    targets = _targets(a, b)
    totals = _totals(a, b, notes)
    for words, table in (("targets", targets), ("areas and variables of the totals", totals)):
        for one in ("A", "B"):
            count = int((table["in"] == f"only {one}").sum())
            if count:
                notes.append(f"{count:,} {words} are in {one} only, and are not compared")
    return Comparison(
        a, b,
        _settings(a, b),
        _summary(a, b),
        targets,
        _groups(targets),
        totals,
        _weights(a, b),
        _files(a, b),
        _findings(a, b, notes),
        tuple(notes),
    )  # fmt: skip


def write_comparison(found: Comparison, output: Path, force: bool = False) -> None:
    """Write a CSV of each table and ``comparison.html`` to a folder, all of them or none.

    Raises
    ------
    InputError
        As `need_output`.
    """
    from distcalib.report.comparison_page import page

    need_output(output, force, (found.a.folder, found.b.folder))
    temporary = temporary_beside(output)
    try:
        for name, table in found.tables().items():
            write_text(temporary / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
        write_text(temporary / "comparison.html", page(found))
        if output.exists():
            shutil.rmtree(output)
        temporary.replace(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def need_output(output: Path, force: bool, runs: tuple[Path, ...]) -> None:
    """Raise `InputError` unless a comparison can be written there; before any work."""
    where = output.resolve()
    for run in runs:
        if where == run.resolve() or run.resolve() in where.parents:
            raise InputError("is in a run that is compared", place=output, expected="another folder")
    writable(output / "comparison.html")
    if not output.exists():
        return
    if not force:
        raise InputError("exists", place=output, expected="a new folder, or --force")
    strange = sorted(set(os.listdir(output)) - {"comparison.html", *(f"{name}.csv" for name in TABLES)})
    if strange:
        expected = "a folder that a comparison wrote, or a new one"
        raise InputError("holds other files", place=output, value=strange[0], expected=expected)


def _beside(a: pd.DataFrame, b: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Join two tables by key; where the key stands several times, by its occurrence."""
    a, b = (t.assign(occurrence=t.groupby(key, dropna=False).cumcount()) for t in (a, b))
    out = a.merge(b, on=[*key, "occurrence"], how="outer", suffixes=("_a", "_b"), indicator="in")
    out["in"] = out["in"].astype(str).map({"both": "both", "left_only": "only A", "right_only": "only B"})
    return out.drop(columns="occurrence")


def _change(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Add difference and relative: the change as a share of A's figure, infinite where that is zero."""
    a, b = (table[f"{name}_{run}"].to_numpy(np.float64) for run in "ab")
    difference = b - a
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / np.abs(a))
    return table.assign(difference=difference, relative=np.where(np.isnan(difference), np.nan, relative))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key in value for k, v in _flat(value[key], f"{prefix}.{key}" if prefix else key).items()}


def _settings(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    left, right = (
        {k: json.dumps(v) for k, v in _flat({p: r.plan[p] for p in _SETTINGS}).items()} for r in (a, b)
    )
    rows = [(key, left.get(key, ""), right.get(key, "")) for key in sorted({*left, *right})]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["setting", "a", "b"], dtype=str)


def _summary(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    def figures(run: FinishedRun) -> pd.Series:
        flat = _flat({k: v for k, v in run.summary.items() if k != "settings"})
        numbers = {k: float(v) for k, v in flat.items() if isinstance(v, int | float)}
        return pd.Series(numbers, dtype=np.float64)

    table = pd.DataFrame({"a": figures(a), "b": figures(b)}).rename_axis("figure").reset_index()
    return table.assign(difference=table["b"] - table["a"])


def _targets(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    left, right = (run.targets[[*_TARGET, *_OF_TARGET]] for run in (a, b))
    table = _beside(left, right, _TARGET)
    table["area"] = table["geographic_id"].map(area_name)
    table["fitted"] = (table["status_a"] == "fit") | (table["status_b"] == "fit")
    return _change(table, "estimate")


def _groups(targets: pd.DataFrame) -> pd.DataFrame:
    both = targets[(targets["status_a"] == "fit") & (targets["status_b"] == "fit")]
    parts: dict[str, pd.Series] = {}
    for run in "ab":
        error = both[f"rel_error_{run}"].abs()
        parts |= {f"within_5_{run}": (error <= 0.05).astype(float), f"median_{run}": error}
        parts[f"within_tolerance_{run}"] = both[f"within_tolerance_{run}"].astype(float)
    groups = both.assign(**parts).groupby(["geo_level", "variable", "domain_variable"], sort=True)
    how = {name: (name, "median" if "median" in name else "mean") for name in sorted(parts)}
    return (
        groups.agg(targets=("name", "size"), **how)
        .reset_index()
        .rename(columns={"domain_variable": "domain"})
    )


def _totals(a: FinishedRun, b: FinishedRun, notes: list[str]) -> pd.DataFrame:
    key, empty = ["area", "geo_level", "variable"], pd.DataFrame(columns=list(TOTALS))
    for name, run in (("A", a), ("B", b)):
        if run.totals is None:
            notes.append(f"{name} has no verify/areas.csv, for it wrote no files: totals are not compared")
    both = a.totals is not None and b.totals is not None
    left, right = (run.totals[list(TOTALS)] if both and run.totals is not None else empty for run in (a, b))
    table = _change(_beside(left, right, key), "total")
    nation = table[table["area"] == "US"].set_index("variable")["total_a"].abs()
    # Without a national file the states stand for it.
    states = table[table["geo_level"] == "state"].groupby("variable")["total_a"].sum().abs()
    whole = table["variable"].map(nation).fillna(table["variable"].map(states)).astype(np.float64)
    return table.assign(share=table["difference"] / whole.where(whole > 0))


def _weights(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    left, right = (run.weights[["geo_level", "area", *_OF_WEIGHTS]] for run in (a, b))
    table = _beside(left, right, ["geo_level", "area"])
    table["area"] = table["area"].map(area_name).where(table["geo_level"] != "national", "US")
    return _change(table, "effective_sample_size")


def _files(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    left, right = (
        pd.DataFrame({"path": list(files), "sha256": [str(f["sha256"]) for f in files.values()]}, dtype=str)
        for files in (run.manifest["files"] for run in (a, b))
    )
    table = _beside(left, right, ["path"]).rename(columns={"sha256_a": "a", "sha256_b": "b"})
    return table.loc[table["a"] != table["b"], ["path", "in", "a", "b"]].reset_index(drop=True)


def _findings(a: FinishedRun, b: FinishedRun, notes: list[str]) -> pd.DataFrame:
    def found(run: FinishedRun) -> pd.DataFrame:
        rows = [("warning", text, text) for text in run.manifest.get("warnings", [])]
        listed = run.manifest.get("verification", {}).get("population_listed", [])
        rows += [
            ("population", d["district"], f"{d['district']} is {d['relative']:+.1%} off its population")
            for d in listed
        ]
        if gates:
            assert run.gates is not None
            # A finding is the same one whatever its figure.
            rows += [
                (f"gate, {row['severity']}", f"{row['kind']} {row['variable']} {row['area']}", sentence(row))
                for _, row in run.gates.iterrows()
            ]
        return pd.DataFrame(rows, columns=["kind", "finding", "text"], dtype=str)

    gates = a.gates is not None and b.gates is not None
    for name, run in (("A", a), ("B", b)):
        if run.gates is None:
            notes.append(f"{name} has no verify/gates.csv: findings of the gates are not compared")
    table = _beside(found(a), found(b), ["kind", "finding"])
    table["text"] = table["text_a"].fillna(table["text_b"])
    return table[["kind", "finding", "in", "text"]]
