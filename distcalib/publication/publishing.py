"""Publish runs: stage, verify, then move one pointer; promote and roll back what is there.

The order of the acts is the guarantee. The files of a version are put first; what stands there is compared
with the manifest; the manifest is put; and last the pointer moves, in one act, from exactly what was read at
the beginning. So the pointer names a complete and verified version at every moment, whatever fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from distcalib.errors import InputError, RunError
from distcalib.publication.finished import VERSION, FinishedRun, finished_run, parse_manifest
from distcalib.publication.pointer import POINTER, Entry, new_entry, read_pointer, standing, write_pointer
from distcalib.runs.home import fetched
from distcalib.runs.manifest import MANIFEST
from distcalib.runs.remote import shown_as
from distcalib.storage import parse_json
from distcalib.storage.stores import LocalStore, Store, agrees, explained, open_store, spread

Progress = Callable[[int, int], None]
_STANDS = "the pointer has not moved, and what was put is used by the next attempt"


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes
    ----------
    version
        Which version it is about.
    latest
        The version that the pointer names now, or None.
    moved
        Whether this command moved the pointer.
    sent, kept, bytes
        Files put by this command, files found there, bytes put.
    targets, proven
        Of a run that was published: its targets, and how many of them were recomputed from its files.
    """

    version: str
    latest: str | None
    moved: bool
    sent: int = 0
    kept: int = 0
    bytes: int = 0
    targets: int = 0
    proven: int = 0


@dataclass(frozen=True)
class Publications:
    """What is at a place.

    Attributes
    ----------
    latest
        The last move of the pointer, or None.
    history
        All its moves, oldest first.
    versions
        Version -> its manifest, or None of one that is incomplete or whose manifest is damaged; by name.
    """

    latest: Entry | None
    history: tuple[Entry, ...]
    versions: dict[str, dict[str, Any] | None]


def publish(
    run: str | Path,
    to: str | Path | Store,
    *,
    stage_only: bool = False,
    full: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Put a finished run at a place as a new version, verify it there, and point at it.

    Files that an interrupted attempt put are not sent again; where the pointer names this version already,
    nothing is done.

    Parameters
    ----------
    run
        The run folder, a path or ``s3://bucket/prefix``.
    to
        A folder, a URL (``s3://bucket/prefix``) or an open store.
    stage_only
        Leave the pointer; `promote` moves it later.
    full
        Read every file back and compare its sha256, also where the store gives a checksum of its own, and
        where the pointer names this version already: what is damaged there is put anew.
    progress
        Called with files done and files in all.

    Raises
    ------
    InputError
        When the run may not be published or the place cannot be used. Nothing was put.
    RunError
        When putting or verifying failed, or another publisher moved the pointer meanwhile. It stands where
        it stood, or where that publisher moved it.
    """
    with fetched(run) as folder, shown_as(folder, str(run)):
        return _publish(finished_run(folder), _opened(to), stage_only, full, progress)


def _publish(
    finished: FinishedRun, store: Store, stage_only: bool, full: bool, progress: Progress | None
) -> Outcome:
    if isinstance(store, LocalStore) and store.root.resolve().is_relative_to(finished.folder.resolve()):
        raise InputError(
            "is in the run folder", place="TO", value=store.shown, expected="a folder outside it"
        )
    store.prepare()
    version, proof = finished.version, {"targets": finished.targets, "proven": finished.proven}
    with explained(store, "reading the pointer", _STANDS):
        data, token = store.held(POINTER)
    history = read_pointer(data, store.shown)
    latest = history[-1].version if history else None
    if latest == version and not full:
        return Outcome(version, latest, moved=False, kept=len(finished.files), **proof)
    sent = _stage(finished, store, full, progress or (lambda done, total: None))
    put = sum(finished.files[path]["bytes"] for path in sent)
    outcome = Outcome(version, latest, False, len(sent), len(finished.files) - len(sent), put, **proof)
    if stage_only or latest == version:
        return outcome
    moved = _move(store, history, token, new_entry("publish", version, sha256(finished.manifest).hexdigest()))
    return replace(outcome, latest=version, moved=moved)


def promote(to: str | Path | Store, version: str, *, full: bool = False) -> Outcome:
    """Point at a version that is complete at a place, after comparing its files with its manifest.

    Raises
    ------
    InputError
        When there is no such version.
    RunError
        When it is incomplete or damaged, or another publisher moved the pointer meanwhile.
    """
    store = _opened(to)
    store.prepare()
    with explained(store, "reading the pointer", _STANDS):
        data, token = store.held(POINTER)
    history = read_pointer(data, store.shown)
    return _point(store, history, token, "promote", version, full)


def rollback(to: str | Path | Store, *, full: bool = False) -> Outcome:
    """Point at the version before; said twice, at the one before that. See `promote` for errors."""
    store = _opened(to)
    store.prepare()
    with explained(store, "reading the pointer", _STANDS):
        data, token = store.held(POINTER)
    history = read_pointer(data, store.shown)
    before = standing(history)[:-1]
    if not before:
        raise InputError("has no version before the latest", place=store.shown, expected="two publications")
    return _point(store, history, token, "rollback", before[-1].version, full)


def publications(to: str | Path | Store) -> Publications:
    """Return what is at a place; nothing is written and no file of a version is read but its manifest."""
    store = _opened(to)
    with explained(store, "reading", _STANDS):
        history = read_pointer(store.held(POINTER)[0], store.shown)
        names = {path.split("/")[0] for path in store.sizes("versions")}
        versions = {}
        for name in sorted(names):
            if VERSION.fullmatch(name):
                data = store.read(f"versions/{name}/{MANIFEST}") or b""
                whole = name.endswith(sha256(data).hexdigest()[:8])
                versions[name] = parse_manifest(data, f"{store.shown}: {name}") if whole else None
    return Publications(history[-1] if history else None, tuple(history), versions)


def _opened(to: str | Path | Store) -> Store:
    return open_store(to) if isinstance(to, str | Path) else to


def _stage(run: FinishedRun, store: Store, full: bool, progress: Progress) -> list[str]:
    """Put what is not there yet, verify, and put the manifest; return the files that were put."""
    base = f"versions/{run.version}"
    with explained(store, f"putting {run.version} there", _STANDS), store.staging(run.version):
        there = store.sizes(base)

        def bring(path: str) -> tuple[str, str, bool]:
            file, facts = run.folder / path, run.files[path]
            mark = store.mark(file, facts["sha256"])
            at = f"{base}/{path}"
            if agrees(store, at, there.get(path), (facts["bytes"], facts["sha256"], mark), full):
                return path, mark, False
            store.put(file, at)
            return path, mark, True

        marks, sent = {}, []
        for done, (path, mark, new) in enumerate(spread(store, bring, run.files), start=1):
            marks[path] = mark
            sent += [path] if new else []
            progress(done, len(run.files))
        _require_whole(store, run.version, {path: run.files[path] for path in sent}, marks, full)
        # Marks let a promotion compare without reading everything back.
        if any(marks.values()):
            store.write(f"marks/{run.version}.json", json.dumps(marks, sort_keys=True).encode())
        store.settle(base)
        store.write(f"{base}/{MANIFEST}", run.manifest)
        if store.read(f"{base}/{MANIFEST}") != run.manifest:
            raise RunError(f"{store.shown}: the manifest of {run.version} does not read back as it was put")
    return sent


def _require_whole(
    store: Store, version: str, files: dict[str, dict[str, Any]], marks: dict[str, str], full: bool
) -> None:
    base = f"versions/{version}"
    there = store.sizes(base)

    def right(path: str) -> bool:
        known = (files[path]["bytes"], files[path]["sha256"], marks.get(path, ""))
        return agrees(store, f"{base}/{path}", there.get(path), known, full)

    wrong = [path for path, is_right in zip(files, spread(store, right, files), strict=True) if not is_right]
    if wrong:
        raise RunError(
            f"{store.shown}: {len(wrong)} of the files of {version} are missing or are not what its manifest "
            f"says ({', '.join(wrong[:3])}); the pointer has not moved. `distcalib publish RUN {store.shown} "
            "--verify full` puts them right"
        )


def _point(store: Store, history: list[Entry], token: object, act: str, version: str, full: bool) -> Outcome:
    with explained(store, f"reading {version}", _STANDS):
        data = store.read(f"versions/{version}/{MANIFEST}") if VERSION.fullmatch(version) else None
        if data is None:
            known = publications(store).versions
            said = "is incomplete" if version in known else "is not there"
            choices = [name for name, manifest in known.items() if manifest]
            raise InputError(said, place=store.shown, value=version, expected="a version", choices=choices)
        digest = sha256(data).hexdigest()
        if not version.endswith(digest[:8]):
            raise RunError(f"{store.shown}: the manifest of {version} is damaged; the pointer has not moved")
        files = parse_manifest(data, f"{store.shown}: {version}")["files"]
        if history and history[-1].version == version:
            return Outcome(version, version, moved=False, kept=len(files))
        marks = parse_json(store.read(f"marks/{version}.json") or b"{}")
        _require_whole(store, version, files, marks, full)
    moved = _move(store, history, token, new_entry(act, version, digest))
    return Outcome(version, version, moved, kept=len(files))


def _move(store: Store, history: list[Entry], token: object, entry: Entry) -> bool:
    """Move the pointer; False when another publisher pointed at the same version meanwhile."""
    with explained(store, "moving the pointer", _STANDS):
        if store.swap(POINTER, write_pointer([*history, entry]), token):
            return True
        now = read_pointer(store.held(POINTER)[0], store.shown)
    if now and now[-1].version == entry.version:
        return False
    winner = f"was moved to {now[-1]}" if now else "is gone"
    raise RunError(
        f"{store.shown}: the pointer {winner} while this was under way, and was left so. {entry.version} is "
        "complete and verified; `distcalib promote` points at it"
    )
