"""The manifest: every file of a finished run with its sha256; written last, beside two for other readers.

`trace.jsonld` declares the files as a Transparent Research Object, `SHA256SUMS` lists them with the
declaration for ``sha256sum -c``, `manifest.json` lists them with both: it vouches for all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from distcalib.errors import RunError
from distcalib.runs.receipts import inside
from distcalib.runs.trace import declaration
from distcalib.storage import parse_json, sha256_file, write_json, write_text

#: Gives sha256 and bytes, and maybe more, of files.
Told = Callable[[Iterable[str]], dict[str, dict[str, Any]]]
MANIFEST, SUMS, TRACE = "manifest.json", "SHA256SUMS", "trace.jsonld"
#: The report that is made of a run folder. It tells how long the run took, and can be written anew.
REPORT = "report.html"
#: What a number of records costs, where `distcalib fit frontier` was told to write it: asked for later.
FRONTIER = "fit/frontier.csv"

# Not part of what a run computes: log of events, report, lock, and what this module itself writes.
OUTSIDE = {"events.ndjson", REPORT, FRONTIER, ".lock", ".lease.json", ".conditional", MANIFEST, SUMS, TRACE}
_COUNTS = {"households": int, "persons": int, "weight": float}


def write_manifest(
    run: Path, facts: dict[str, Any], paths: Sequence[str] | None = None, told: Told | None = None
) -> None:
    """Write ``trace.jsonld``, ``SHA256SUMS`` and, last, ``manifest.json`` of a run folder.

    Parameters
    ----------
    run
        The run folder; holds ``plan.json``.
    facts
        What the manifest says of the run, its keys ``name``, ``plan`` and ``versions`` among them. Added are
        ``inputs`` (name -> content digest, from the plan), ``totals`` (files and bytes; by kind of area also
        households, persons and weight) and ``files`` (path -> sha256, bytes; of area files also households,
        persons and weight, from the receipts).
    paths, told
        Files to list, and what gives sha256 and bytes of some; None: those of the run folder.

    Raises
    ------
    RunError
        When a file is not what the receipt of its task says: it changed since, and was not proven so.
    """
    inputs = json.loads((run / "plan.json").read_text(encoding="utf-8"))["inputs"]
    told = told or partial(facts_of, run)
    files = told(run_files(run) if paths is None else paths)
    receipts = [json.loads(file.read_text(encoding="utf-8")) for file in run.glob("receipts/*/[!.]*.json")]
    _require_as_written(run, files, receipts)
    for path, counts in _area_counts(receipts).items():
        files[path] |= counts
    write_json(run / TRACE, declaration(facts, inputs, files))
    files |= told([TRACE])
    write_text(run / SUMS, "".join(f"{files[path]['sha256']}  {path}\n" for path in sorted(files)))
    files |= told([SUMS])
    write_json(run / MANIFEST, {"inputs": inputs, **facts, "totals": _totals(files), "files": files})


def run_files(run: Path) -> list[str]:
    """Return the paths of the files of a run folder that a manifest lists, but what is written with it."""
    paths = (p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    return sorted(p for p in paths if p not in OUTSIDE and ".tmp" not in p)


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Return the manifest of a run folder, or None when there is none that can be read.

    Returns
    -------
    dict
        plan, matrix and weights (digests), versions, inputs, code, fit and fits (summaries), verification,
        warnings, areas, totals, seconds, and files: path -> sha256 and bytes.
    """
    try:
        found: dict[str, Any] = parse_json((run / MANIFEST).read_text(encoding="utf-8"))
        whole = all(inside(path) and facts.keys() for path, facts in found["files"].items())
        if not (found["plan"] and whole and isinstance(found.get("areas", {}).get("proven", []), list)):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def damaged(run: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files of a manifest that are missing or differ, sorted."""
    listed = manifest["files"]
    present = facts_of(run, [path for path in listed if (run / path).is_file()])
    return sorted(
        path
        for path, facts in listed.items()
        if path not in present or any(facts.get(k) != v for k, v in present[path].items())
    )


def facts_of(run: Path, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return sha256 and bytes of files of a run folder."""

    def facts(path: str) -> tuple[str, dict[str, Any]]:
        file = run / path
        return path, {"sha256": sha256_file(file), "bytes": file.stat().st_size}

    with ThreadPoolExecutor(4) as pool:  # hashing leaves the interpreter lock alone
        return dict(pool.map(facts, paths))


def _require_as_written(
    run: Path, files: dict[str, dict[str, Any]], receipts: Iterable[dict[str, Any]]
) -> None:
    written = {path: digest for receipt in receipts for path, digest in receipt["outputs"].items()}
    # Blocks of the matrix are folders, with content digests of their own.
    changed = [
        path
        for path, digest in sorted(written.items())
        if not path.startswith("matrix.zarr/") and (path not in files or files[path]["sha256"] != digest)
    ]
    if changed:
        raise RunError(
            f"{run}: {len(changed)} files changed or are gone since they were written "
            f"({', '.join(changed[:3])}); run again, then they are written anew"
        )


def _area_counts(receipts: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return households, persons and weight of each area file, as the receipts of the writing say."""
    return {
        path: {name: kind(facts[name]) for name, kind in _COUNTS.items()}
        for receipt in receipts
        if receipt["stage"] == "areas"
        for facts in receipt["facts"]["areas"].values()
        for path in receipt["outputs"]
        if path.endswith(".h5")
    }


def _totals(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def total(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        held = [name for name in ("bytes", *_COUNTS) if any(name in facts for facts in chosen)]
        return {"files": len(chosen)} | {name: sum(f.get(name, 0) for f in chosen) for name in held}

    # areas/districts/CA-06.h5: one total a kind, as a household stands in files of several kinds.
    kinds: dict[str, list[dict[str, Any]]] = {}
    for path, facts in sorted(files.items()):
        if path.startswith("areas/") and path.endswith(".h5"):
            kinds.setdefault(path.split("/")[1], []).append(facts)
    everything = [{"bytes": facts["bytes"]} for facts in files.values()]
    return {**total(everything), "areas": {kind: total(chosen) for kind, chosen in kinds.items()}}
