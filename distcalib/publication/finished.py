"""What may be published: a run folder with a sound manifest, files that agree and a proof that passed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from distcalib.errors import InputError
from distcalib.runs.manifest import MANIFEST, damaged

#: The most by which files of a publication differ from X.w, of the gross sum: guarantee 1, whatever
#: ``verify.tolerance`` a run was held to.
LARGEST_DIFFERENCE = 1e-6
_DIGEST = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}")


@dataclass(frozen=True)
class FinishedRun:
    """A run that may be published.

    Attributes
    ----------
    folder
        The run folder.
    version
        Its name among the versions of a publication: run, plan, weights and manifest, each digest by its
        first eight characters. So equal names have equal files, and a rerun is a version of its own.
    manifest
        The bytes of ``manifest.json``.
    files
        Path -> sha256 and bytes of each file.
    targets, proven
        How many targets it has, and how many of them were recomputed from its files.
    """

    folder: Path
    version: str
    manifest: bytes
    files: dict[str, dict[str, Any]]
    targets: int
    proven: int


def finished_run(folder: str | Path) -> FinishedRun:
    """Check a run folder, file by file, and return what to publish.

    Raises
    ------
    InputError
        When it is no finished run, its manifest is malformed, a file is not what the manifest says, or its
        verification is missing or did not pass.
    """
    run = Path(folder)
    place = run / MANIFEST
    if not run.is_dir():
        raise InputError("is no run folder", place=run, expected="the folder of a finished run")
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        raise InputError(
            "has no manifest.json, so the run is not finished",
            place=run,
            expected="`distcalib run` to the end",
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", place=place) from None
    manifest = parse_manifest(data, place)
    _require_proof(manifest, place)
    changed = damaged(run, manifest)
    if changed:
        words = (
            f"{len(changed)} of its {len(manifest['files'])} files are missing or changed after its manifest"
        )
        raise InputError(words, place=run, value=changed[:3], expected="the run carried out again")
    name = re.sub(r"[^A-Za-z0-9._]+", "-", manifest["name"])[:80].strip("-._") or "run"
    digests = (manifest["plan"], manifest["weights"], sha256(data).hexdigest())
    version, proof = "-".join([name, *(d[:8] for d in digests)]), manifest["verification"]
    return FinishedRun(run, version, data, manifest["files"], proof["targets"], proof["proven"])


def parse_manifest(data: bytes, place: object) -> dict[str, Any]:
    """Return a manifest of which name, plan, weights and files are as distcalib writes them.

    Raises
    ------
    InputError
        Names the first thing that is not.
    """
    try:
        found = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({error})", place=place) from None
    if not isinstance(found, dict):
        raise InputError("is not a manifest", place=place, expected="a JSON object")
    if not isinstance(found.get("name"), str):
        raise InputError("is no name", place=f"{place}: name", value=found.get("name"), expected="a text")
    for key in ("plan", "weights"):
        _require_digest(found.get(key), f"{place}: {key}")
    files = found.get("files")
    if not isinstance(files, dict) or not files:
        raise InputError("lists no files", place=f"{place}: files", expected="path -> sha256 and bytes")
    for path, facts in files.items():
        at = f"{place}: files: {path!r}"
        _require_plain(path, at)
        if not isinstance(facts, dict):
            raise InputError("has no sha256 and bytes", place=at, value=facts)
        _require_digest(facts.get("sha256"), f"{at}: sha256")
        size = facts.get("bytes")
        if type(size) is not int or size < 0:
            raise InputError("is no size", place=f"{at}: bytes", value=size, expected="bytes, 0 or more")
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    for path in sorted(folders & files.keys()):
        raise InputError("is both a file and a folder", place=f"{place}: files: {path!r}")
    return found


def _require_plain(path: str, at: str) -> None:
    """Refuse every path that could lead out of a folder, hide in it, or mean two things."""
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or not path.isprintable()
        or path == MANIFEST
        or ".tmp" in path
    ):
        raise InputError("is not a path of a run's file", place=at, expected="areas/districts/CA-06.h5, say")


def _require_digest(value: object, at: str) -> None:
    if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise InputError("is no sha256", place=at, value=value, expected="64 hexadecimal digits")


def _require_proof(manifest: dict[str, Any], place: object) -> None:
    """Refuse a run whose files were not shown to give X.w; a run that failed has no manifest at all."""
    proof, at = manifest.get("verification"), f"{place}: verification"
    if not isinstance(proof, dict) or type(proof.get("proven")) is not int:
        raise InputError("is missing", place=at, expected="the proof that `distcalib run` writes")
    if proof["proven"] < 1:
        words = "no target was recomputed from the files, for no file holds its area"
        raise InputError(words, place=at, expected="a run that writes area files and verifies them")
    if type(proof.get("targets")) is not int or proof["targets"] < proof["proven"]:
        said = f"a number of at least {proof['proven']}, which are proven"
        raise InputError(
            "is no number of targets", place=f"{at}: targets", value=proof.get("targets"), expected=said
        )
    further = proof.get("fits", {})
    if not isinstance(further, dict) or not all(isinstance(facts, dict) for facts in further.values()):
        raise InputError("is no table of further fits", place=f"{at}: fits", value=further)
    for name, facts in {"": proof, **further}.items():
        _require_exact(facts.get("largest_difference"), f"{at}: {f'fits: {name}: ' if name else ''}")
    # A run for some areas leaves the files of others standing, which it does not prove.
    areas = manifest.get("areas")
    files = areas.get("proven") if isinstance(areas, dict) else None
    written = {path for path in manifest["files"] if path.startswith("areas/") and path.endswith(".h5")}
    if isinstance(files, list) and (left := sorted(written.difference(map(str, files)))):
        words = f"{len(left)} of its {len(written)} area files were not verified by its last command"
        raise InputError(words, place=place, value=left[:3], expected="`distcalib run` for all its areas")


def _require_exact(largest: object, at: str) -> None:
    place = f"{at}largest_difference"
    if isinstance(largest, bool) or not isinstance(largest, int | float) or not math.isfinite(largest):
        raise InputError("is no figure", place=place, value=largest)
    if largest > LARGEST_DIFFERENCE:
        raise InputError(
            "the files differ from X.w by more than a publication may",
            place=place,
            value=largest,
            expected=f"at most {LARGEST_DIFFERENCE:g} of the gross sum, whatever verify.tolerance says",
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice")
    return out


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")
