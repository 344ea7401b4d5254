"""Receipts: what a finished task wrote, with digests. A task whose receipt verifies is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from distcalib.errors import RunError
from distcalib.matrix.blocks import block_digest, read_block
from distcalib.storage import parse_json, passing, sha256_file, write_json
from distcalib.storage.stores import Known


@dataclass(frozen=True)
class Receipt:
    """Proof of one finished task.

    Attributes
    ----------
    stage, id
        Which task: the id is the digest of everything its output depends on.
    outputs
        Path below the run folder -> digest. Paths under ``matrix.zarr`` carry the content digest of their
        arrays, all others the sha256 of the file.
    facts
        What the task found (JSON values), for later stages and for the report.
    seconds, cpu_seconds, peak_bytes, process
        Cost of the task: wall and CPU seconds, peak resident memory of its process, process id. No truth
        depends on these.
    objects
        What is known of each file: of the outputs that are folders, in an object store of all outputs.
    """

    stage: str
    id: str
    outputs: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    process: int = 0
    cpu_seconds: float = 0.0
    objects: dict[str, Known] = field(default_factory=dict)


def receipt_path(run: Path, stage: str, task_id: str) -> Path:
    """Return where the receipt of a task lies."""
    return run / "receipts" / stage / f"{task_id}.json"


def write_receipt(run: Path, receipt: Receipt) -> None:
    """Write a receipt; the last act of a task. It adds what is known of the files of folders."""
    if not receipt.objects:
        files = (file for path in receipt.outputs for file in files_below(run / path))
        known = {f.relative_to(run).as_posix(): (f.stat().st_size, sha256_file(f), "") for f in files}
        receipt = replace(receipt, objects=known)
    write_json(receipt_path(run, receipt.stage, receipt.id), asdict(receipt))


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder; none of what is a file, or is not there."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def read_receipt(run: Path, stage: str, task_id: str) -> Receipt | None:
    """Return the receipt of a task, or None when there is none that can be read.

    One that names an output outside of the run folder is none: no task of ours wrote it.
    """
    try:
        found = Receipt(**parse_json(receipt_path(run, stage, task_id).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(found.outputs, dict) or not all(inside(path) for path in found.outputs):
        return None
    try:
        objects = {
            path: (int(n), str(digest), str(mark)) for path, (n, digest, mark) in found.objects.items()
        }
    except (ValueError, TypeError, AttributeError):
        return None
    if not all(inside(path) and used_by(found.outputs, path) for path in objects):
        return None
    found = replace(found, objects=objects)
    return found if (found.stage, found.id) == (stage, task_id) else None


def used_by(used: Container[str], path: str) -> bool:
    """Return whether a path, or a folder that it is in, is among some."""
    parts = path.split("/")
    return any("/".join(parts[:n]) in used for n in range(1, len(parts) + 1))


def inside(path: str) -> bool:
    """Return whether a path leads to something below the run folder."""
    try:
        nameable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
    parts = PurePosixPath(path)
    return nameable and bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts


def output_digest(run: Path, path: str) -> str | None:
    """Return the digest of an output as receipts carry it, or None when it is missing or damaged."""
    target = run / path
    if not target.exists():
        return None
    if path.startswith("matrix.zarr/"):
        try:
            return block_digest(read_block(target))
        except RunError:
            return None
    return sha256_file(target)


#: As `verified`, wherever the run is kept.
Verifier = Callable[[Path, str, str], "Receipt | None"]


def verified(run: Path, stage: str, task_id: str) -> Receipt | None:
    """Return the receipt of a task if every output that it names is there and has its digest, else None."""
    receipt = read_receipt(run, stage, task_id)
    try:
        whole = receipt is not None and all(_as_it_was(run, receipt, path) for path in receipt.outputs)
    except OSError as error:
        if passing(error):
            raise
        return None  # a link to nowhere, a folder in place of a file
    return receipt if whole else None


def _as_it_was(run: Path, receipt: Receipt, path: str) -> bool:
    """Compare an output with its receipt: the bytes of a folder's files, where they are known."""
    known = {p: k for p, k in receipt.objects.items() if p.startswith(f"{path}/")}
    if not known:
        return output_digest(run, path) == receipt.outputs[path]
    if {file.relative_to(run).as_posix() for file in files_below(run / path)} != known.keys():
        return False
    return all(sha256_file(run / p) == digest for p, (_, digest, _) in known.items())
