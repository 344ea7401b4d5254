"""A run in an object store, with a working copy here of what its coordinator needs."""

from __future__ import annotations

import re
import shutil
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distcalib.errors import RunError
from distcalib.runs.execute import Executor, Instead
from distcalib.runs.folder import CUT_BY_TASKS, OF_USERS, STAGES
from distcalib.runs.home import EVENTS, Home
from distcalib.runs.lease import LEASE, Lease, taken
from distcalib.runs.manifest import MANIFEST, OUTSIDE, read_manifest
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt, read_receipt, used_by
from distcalib.runs.remote import (
    THEN,
    Copy,
    RemoteTask,
    object_store,
    on_copy,
    receipts_of,
    scratch_folder,
    shown_as,
    steadily,
)
from distcalib.storage import need_space, sha256_file
from distcalib.storage.stores import Known, agrees, explained, spread

_RECEIPT = re.compile(r"receipts/[a-z]+/[0-9a-f]+\.json")
_SMALL = ("plan.json", MANIFEST)


class StoreHome(Home):
    """A run in an object store. What this process needs of it is in a copy, which goes with the process.

    What stands is what the store lists: an object is as a receipt or manifest says when its size and the mark
    that the store made of it are those that were noted after it was put.
    """

    alone = True

    def __init__(self, url: str) -> None:
        self.store = object_store(url)
        super().__init__(scratch_folder())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.shown = self.store.shown
        self._copy = Copy(self.store, self.folder)
        self._there: dict[str, tuple[int, str]] = {}
        self._known: dict[str, Known] = {}
        self._sound: set[tuple[str, str]] = set()
        self._lease: Lease | None = None
        self._told = 0

    def look(self) -> None:
        """Learn what is there: list all objects, and read plan, manifest and receipts."""
        before, self._there = self._there, steadily(self.store, "listing", self._list)
        self._known, self._sound = {}, set()
        self._copy.drop(path for path in {*before, *_SMALL} if path not in self._there)
        read = [path for path in self._there if path in _SMALL or _RECEIPT.fullmatch(path)]
        changed = [
            path for path in read
            if before.get(path) != self._there[path] or not self._there[path][1]
            or not (self.folder / path).is_file()
        ]  # fmt: skip
        for path, data in zip(changed, spread(self.store, self.read, changed), strict=True):
            if data is not None:
                self._copy.write(path, data)
        with explained(self.store, "reading", THEN):
            for path in read:
                if path not in _SMALL:
                    self._note(path)

    def _list(self) -> dict[str, tuple[int, str]]:
        try:
            return self.store.sizes()
        except FileNotFoundError:  # no such bucket; who writes is told so
            return {}

    def read(self, path: str, offset: int = 0) -> bytes | None:
        """Return the bytes of a small object from `offset` on, or None."""
        data = steadily(self.store, f"reading {path}", lambda: self.store.read(path))
        return None if data is None else data[offset:]

    def need_space(self, plan: Plan) -> None:
        """Raise `InputError` when the disk here has too little room for the blocks and the matrix."""
        need_space(self.folder, plan.facts["matrix_bytes"])

    def begun(self) -> bool:
        """Return whether a coordinator was here before."""
        return self.read(LEASE) is not None

    def taken(self) -> float | None:
        """Return when the coordinator that holds the run now last said so (Unix seconds), or None."""
        return taken(self.read(LEASE))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease of the run; events go to the store every few seconds and at the end."""
        with shown_as(self.folder, self.shown):
            with explained(self.store, "writing", THEN):
                self.store.prepare()
            self.folder.mkdir(parents=True, exist_ok=True)
            with Lease(self.store, self._put_events) as self._lease:
                self.look()
                events = self.read(EVENTS)
                if events is not None:
                    (self.folder / EVENTS).write_bytes(events)
                    self._told = len(events)
                yield

    def heard(self, event: Mapping[str, Any]) -> None:
        """Raise `RunError` when another process took the run over."""
        if self._lease is not None:
            self._lease.check()

    def _put_events(self) -> None:
        with suppress(FileNotFoundError):
            data = (self.folder / EVENTS).read_bytes()
            if len(data) != self._told:
                self.store.write(EVENTS, data)
                self._told = len(data)

    def _read_here(self, path: str) -> Receipt | None:
        _, stage, name = path.split("/")
        return read_receipt(self.folder, stage, name.removesuffix(".json"))

    def _note(self, path: str) -> None:
        """Take in a receipt that is here: what it says of objects is known where the store lists them so."""
        receipt = self._read_here(path)
        if receipt is None:
            return
        objects = receipt.objects
        whole = all(any(used_by({output}, p) for p in objects) for output in receipt.outputs)
        if whole and all(agrees(self.store, p, self._there.get(p), k) for p, k in objects.items()):
            self._sound.add((receipt.stage, receipt.id))
            self._known |= objects
        file = self.folder / path
        digest = sha256_file(file)
        known = file.stat().st_size, digest, self.store.mark(file, digest)
        self._known[path] = known
        self._there.setdefault(path, (known[0], known[2]))

    def verified(self, run: Path, stage: str, task_id: str) -> Receipt | None:
        """Return the receipt of a task if the store lists its outputs as they were when they were put."""
        return read_receipt(run, stage, task_id) if (stage, task_id) in self._sound else None

    def run(
        self,
        executor: Executor,
        function: Callable[[Any], dict[str, Any]],
        tasks: Sequence[Any],
        resource: str | None,
        instead: Instead | None,
    ) -> Iterator[dict[str, Any]]:
        """Carry tasks out on copies of the workers; their receipts are then read from the store."""
        given: dict[str, Any] = {}

        def away(task: Any) -> RemoteTask:
            given[task.id] = task
            return RemoteTask(self.shown, function, task, self._objects(task.needs))

        def parts(remote: RemoteTask, why: str) -> list[RemoteTask]:
            assert instead is not None
            found = list(instead(remote.task, why))
            self.keep([f"receipts/split/{remote.id}.json"])
            return [away(task) for task in found]

        remote = [away(task) for task in tasks]
        for result in executor.run(on_copy, remote, resource, None if instead is None else parts):
            task = given[result["id"]]
            for one in receipts_of(task):
                self._learn(f"receipts/{task.stage}/{one}.json")
            yield result

    def _learn(self, path: str) -> None:
        data = self.read(path)
        if data is None:
            raise RunError(f"{self.shown}: {path} is not there, though its task ended; {THEN}")
        self._copy.write(path, data)
        receipt = self._read_here(path)
        if receipt is not None:  # the worker compared them when they were put
            self._there |= {p: (n, mark) for p, (n, _, mark) in receipt.objects.items()}
        self._note(path)

    def _objects(self, paths: Iterable[str]) -> dict[str, Known]:
        """Return what is known of files and of all objects below folders."""
        out: dict[str, Known] = {}
        names: list[str] = []
        for path in paths:
            if path in self._known:
                out[path] = self._known[path]
                continue
            names = names or sorted(self._known)
            first, last = (bisect_left(names, f"{path}{end}") for end in "/0")  # "0" follows "/"
            if first == last:
                raise RunError(f"{self.shown}: {path} is not there; {THEN}")
            out |= {name: self._known[name] for name in names[first:last]}
        return out

    def fetch(self, paths: Iterable[str]) -> None:
        """Bring files and folders into the copy here."""
        self._copy.fetch(self._objects(paths))

    def keep(self, paths: Iterable[str]) -> None:
        """Put files and folders of the copy here."""
        known = self._copy.put(paths)
        self._known |= known
        self._there |= {path: (n, mark) for path, (n, _, mark) in known.items()}

    def finish(self, receipt: Receipt) -> None:
        """Put the outputs of a receipt, and the receipt last."""
        whole = self._copy.keep(receipt)
        self._copy.drop(["matrix.zarr/blocks"])  # they are in X now
        self._there |= {path: (n, mark) for path, (n, _, mark) in whole.objects.items()}
        self._note(f"receipts/{receipt.stage}/{receipt.id}.json")

    def remove(self, paths: Iterable[str]) -> None:
        """Remove objects, and their files here."""
        paths = list(paths)
        for _ in spread(self.store, self._copy.delete, [p for p in paths if p in self._there]):
            pass
        for path in paths:
            self._there.pop(path, None)
            self._known.pop(path, None)
        self._copy.drop(paths)  # also what was written here and never put

    def forget(self, stage: str) -> None:
        """Remove the receipts of a stage and of all that follow."""
        later = STAGES[STAGES.index(stage) :]
        folders = tuple(f"receipts/{name}/" for name in later)
        self.remove([path for path in self._there if path.startswith(folders)])
        self._sound = {one for one in self._sound if one[0] not in later}

    @contextmanager
    def aside(self, paths: Sequence[str], back: Callable[[BaseException], bool]) -> Iterator[None]:
        """Put nothing back: in a store the same command goes on with a proof that was interrupted."""
        yield

    def keep_only(self, used: set[str]) -> None:
        """Remove blocks, files and receipts of earlier attempts that are not used."""
        for folder in CUT_BY_TASKS:
            self.clear(folder, used.union(OF_USERS))

    def clear(self, folder: str, used: set[str]) -> None:
        """Remove the objects below a folder that are not used."""
        below = [path for path in self._there if path.startswith(f"{folder}/")]
        self.remove([path for path in below if not used_by(used, path)])
        super().clear(folder, {path for path in below if used_by(used, path)})

    def files(self) -> list[str]:
        """Return the paths of everything that a manifest lists, but what is written with it; sorted."""
        return sorted(path for path in self._known if path not in {*OUTSIDE, LEASE})

    def facts(self, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return sha256, bytes and mark of objects; files that are only here are put first."""
        paths = list(paths)
        self.keep([path for path in paths if path not in self._known])
        found = {path: self._known[path] for path in paths}
        return {path: {"sha256": k[1], "bytes": k[0], "mark": k[2]} for path, k in found.items()}

    def damaged(self, manifest: dict[str, Any]) -> list[str]:
        """Return the files of a manifest that are missing or differ, sorted."""

        def differs(path: str) -> bool:
            facts = manifest["files"][path]
            known = (facts["bytes"], facts["sha256"], facts.get("mark", ""))
            return not agrees(self.store, path, self._there.get(path), known)

        listed = sorted(manifest["files"])
        with explained(self.store, "reading", THEN):
            wrong = [p for p, bad in zip(listed, spread(self.store, differs, listed), strict=True) if bad]
        if (
            not wrong
        ):  # what the manifest lists and no receipt tells, such as tables of the proof, is known too
            facts = manifest["files"].items()
            self._known |= {path: (f["bytes"], f["sha256"], f.get("mark", "")) for path, f in facts}
        return wrong

    def whole(self) -> None:
        """Bring every file of a finished run here, each held to its sha256."""
        self.look()
        manifest = read_manifest(self.folder)
        # One that is malformed is left to those who read it.
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            files = manifest["files"] if manifest is not None else {}
            known = {path: (int(f["bytes"]), str(f["sha256"]), "") for path, f in files.items()}
            need_space(self.folder, sum(size for size, _, _ in known.values()))
            self._copy.fetch(known)

    def _names(self) -> list[str]:
        return [path for path in self._there if not path.startswith(".")]
