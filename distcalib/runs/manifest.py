"""The manifest: the list of every file of a finished run with its sha256. It is written last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distcalib.storage import sha256_file, write_json

# Not part of what a run publishes: the log of events, the lock, and the manifest itself.
_OUTSIDE = {"events.ndjson", "manifest.json", ".lock"}


def write_manifest(run: Path, facts: dict[str, Any]) -> None:
    """Write ``manifest.json``: facts, and path -> {sha256, bytes} of every file below the run folder."""
    write_json(run / "manifest.json", {**facts, "files": _files(run)})


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Return the manifest, or None when there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        found["plan"], found["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def damaged(run: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files of a manifest that are missing or differ, sorted."""
    present = _files(run)
    return sorted(path for path, facts in manifest["files"].items() if present.get(path) != facts)


def _files(run: Path) -> dict[str, dict[str, Any]]:
    out = {}
    for file in sorted(p for p in run.rglob("*") if p.is_file()):
        path = file.relative_to(run).as_posix()
        if path not in _OUTSIDE and ".tmp" not in path:
            out[path] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return out
