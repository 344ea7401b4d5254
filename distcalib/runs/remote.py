"""A run folder in an object store: working copies of parts of it, and tasks that work on one.

Stages know local paths alone. Before a task what it needs is fetched, object by object, and held to the
sha256 that is known of each; afterwards its outputs are put, and its receipt last. An object is there whole
or not at all, a group of them is not: only the receipt says that they are.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from distcalib.errors import DistcalibError, InputError, RunError, StorageError
from distcalib.runs.receipts import Receipt, inside, read_receipt, receipt_path, write_receipt
from distcalib.runs.tasks import MICRODATA
from distcalib.storage import sha256_file, temporary_beside
from distcalib.storage.objects import ObjectStore
from distcalib.storage.stores import Known, agrees, explained, of_store, open_store, spread

#: What stands when something fails.
THEN = "what is finished stays, and the same command goes on from it"
#: Seconds before each further attempt.
PAUSES = (0.2, 1.0, 4.0)
# What a worker drops after each task: the tables stay, for the next one.
_HEAVY = ("areas/", "matrix.zarr/", "verify/")
_Result = TypeVar("_Result")


def object_store(url: str) -> ObjectStore:
    """Return the object store of a URL, without touching it.

    Raises
    ------
    InputError
        For a URL that is malformed, carries credentials, or names no store that can keep writers apart.
    """
    store = open_store(url, "--output")
    if not isinstance(store, ObjectStore):
        raise InputError("is no object store", place="--output", value=url, expected="s3://bucket/prefix")
    return store


def steadily(store: ObjectStore, what: str, act: Callable[[], _Result]) -> _Result:
    """Do what may fail for a moment: again after each of `PAUSES`; then it is a `RunError` that says what."""
    with explained(store, what, THEN):
        for pause in PAUSES:
            try:
                return act()
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:
                if not of_store(error):
                    raise
            time.sleep(pause)
        return act()


class Copy:
    """Files of a run folder that are here, and the way to and fro.

    Parameters
    ----------
    store
        Of the run.
    folder
        Where the files are here: at the same paths.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._have: dict[str, str] = {}

    def fetch(self, objects: Mapping[str, Known]) -> None:
        """Bring objects here; what is here with the right sha256 stays.

        Raises
        ------
        RunError
            When one cannot be read, or is not what was put there: names it.
        """
        missing = [
            path for path, known in objects.items()
            if self._have.get(path) != known[1] or not (self.folder / path).is_file()
        ]  # fmt: skip

        def bring(path: str) -> tuple[str, str]:
            self._get(path, objects[path][1])
            return path, objects[path][1]

        self._have.update(spread(self.store, bring, missing))

    def put(self, paths: Iterable[str]) -> dict[str, Known]:
        """Put files and folders, and return what is known of each object; each is compared once it is there.

        Objects below such a folder that are not here are removed.

        Raises
        ------
        RunError
            When one cannot be written, or does not read back: names it.
        """
        files: list[str] = []
        folders: list[str] = []
        for path in paths:
            target = self.folder / path
            if target.is_dir():
                folders.append(path)
                found = sorted(p for p in target.rglob("*") if p.is_file())
                files += [p.relative_to(self.folder).as_posix() for p in found]
            else:
                files.append(path)
        known = dict(spread(self.store, self._put, files))
        for folder in folders:
            there = steadily(self.store, f"listing {folder}", partial(self.store.sizes, folder))
            for name in there:
                if f"{folder}/{name}" not in known:
                    self.delete(f"{folder}/{name}")
        self._have.update({path: facts[1] for path, facts in known.items()})
        return known

    def delete(self, path: str) -> None:
        """Remove an object, and its file here."""
        steadily(self.store, f"removing {path}", partial(self.store.delete, path))
        self.drop([path])

    def write(self, path: str, data: bytes) -> None:
        """Write what was read of an object."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data)

    def drop(self, paths: Iterable[str]) -> None:
        """Remove files and folders here; names that lead out of the folder, as keys may, mean none."""
        for path in filter(inside, paths):
            target = self.folder / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def keep(self, receipt: Receipt) -> Receipt:
        """Put the outputs of a receipt that was written here, then the receipt with what is known of each."""
        whole = replace(receipt, objects=self.put(receipt.outputs))
        write_receipt(self.folder, whole)
        self.put([receipt_path(Path(), receipt.stage, receipt.id).as_posix()])
        return whole

    def _get(self, path: str, digest: str) -> None:
        if not inside(path):
            raise RunError(f"{self.store.shown}: {path} is no path below a run folder")
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(file)

        def act() -> None:
            self.store.get(path, temporary)
            if sha256_file(temporary) != digest:
                raise OSError("what it gives is not what was put there")

        try:
            steadily(self.store, f"reading {path}", act)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def _put(self, path: str) -> tuple[str, Known]:
        file = self.folder / path
        digest, size = sha256_file(file), file.stat().st_size

        def act() -> str:
            known = (size, digest, self.store.mark(file, digest))
            there = self.store.stat(path)
            if not agrees(self.store, path, there, known):
                self.store.put(file, path)
                there = self.store.stat(path)
                if not agrees(self.store, path, there, known):
                    raise OSError("what was put does not read back")
            return "" if there is None else there[1]

        return path, (size, digest, steadily(self.store, f"writing {path}", act))


@dataclass(frozen=True)
class RemoteTask:
    """A task of a run in an object store.

    Attributes
    ----------
    store
        URL of the run.
    function, task
        What is done, and on what; the task's paths are those of the worker's own copy.
    needs
        Objects that it reads.
    """

    store: str
    function: Callable[[Any], dict[str, Any]]
    task: Any
    needs: dict[str, Known]

    @property
    def id(self) -> str:
        """That of the task."""
        return str(self.task.id)

    @property
    def stage(self) -> str:
        """That of the task."""
        return str(self.task.stage)

    @property
    def place(self) -> str:
        """Words for errors."""
        return str(getattr(self.task, "place", ""))


def receipts_of(task: Any) -> tuple[str, ...]:
    """Return the ids of the receipts that a task leaves."""
    return tuple(getattr(task, "receipts", (task.id,)))


def on_copy(remote: RemoteTask) -> dict[str, Any]:
    """Carry a task out on the copy of this process: fetch, do, put, and the receipts last."""
    copy = _copy(remote.store)
    with shown_as(copy.folder, remote.store):
        inputs = replace(remote.task.inputs, run=str(copy.folder), microdata=str(copy.folder / MICRODATA))
        task = replace(remote.task, inputs=inputs)
        for one in receipts_of(task):
            _take_receipt(copy, task.stage, one)
        copy.fetch(remote.needs)
        outputs: dict[str, str] = {}
        kept: dict[str, Receipt] = {}

        def keep_finished() -> None:
            for one in receipts_of(task):
                receipt = None if one in kept else read_receipt(copy.folder, task.stage, one)
                if receipt is not None:
                    kept[one] = copy.keep(receipt)

        try:
            # A task of many areas has a receipt of each: what is finished of one that is lost stands.
            with _kept_meanwhile(copy, getattr(task, "unfinished", "")), _meanwhile(keep_finished):
                done = Receipt(**remote.function(task))
            outputs = done.outputs
            keep_finished()
            if len(kept) < len(receipts_of(task)):
                raise RunError(f"{task.stage} {task.id[:12]}: it left no receipt")
            objects = {path: known for r in kept.values() for path, known in r.objects.items()}
            if folder := getattr(task, "unfinished", ""):
                # Not before its outputs are there: until then a task that is lost goes on from these.
                for name in steadily(copy.store, f"listing {folder}", partial(copy.store.sizes, folder)):
                    copy.delete(f"{folder}/{name}")
            return asdict(replace(done, objects=objects))
        finally:
            copy.drop(path for path in {*remote.needs, *outputs} if path.startswith(_HEAVY))


def _take_receipt(copy: Copy, stage: str, task_id: str) -> None:
    """Bring a task's receipt here with what it names, if the store has it.

    Whether a task is done is the store's to say: a receipt here may be of one that was taken back.
    """
    path = receipt_path(Path(), stage, task_id).as_posix()
    copy.drop([path])
    data = steadily(copy.store, f"reading {path}", partial(copy.store.read, path))
    if data is None:
        return
    copy.write(path, data)
    receipt = read_receipt(copy.folder, stage, task_id)
    try:
        copy.fetch({} if receipt is None else receipt.objects)
    except RunError:
        copy.drop([path])  # its outputs are not as it says: it is done anew


@contextmanager
def _kept_meanwhile(copy: Copy, folder: str) -> Iterator[None]:
    """Keep what a task leaves in a folder to go on from, while it goes on; begin with what is there."""
    if not folder:
        yield
        return
    store, here = copy.store, copy.folder / folder
    for name in steadily(store, f"listing {folder}", lambda: store.sizes(folder)):
        if inside(name):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            steadily(store, f"reading {folder}/{name}", partial(store.get, f"{folder}/{name}", here / name))
    kept: dict[Path, int] = {}

    def keep() -> None:
        for file in here.rglob("[!.]*"):
            with suppress(Exception):  # it may be gone meanwhile
                changed = file.stat().st_mtime_ns
                if file.is_file() and kept.get(file) != changed:
                    store.put(file, file.relative_to(copy.folder).as_posix())
                    kept[file] = changed

    with _meanwhile(keep):
        yield


@contextmanager
def _meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something every few seconds in a thread of its own; where it fails, the next look tries again."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK):
            with suppress(Exception):
                act()

    thread = threading.Thread(target=look, name="keeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


#: Seconds between two looks for what a task has made meanwhile.
_LOOK = 5.0


@contextmanager
def shown_as(folder: Path, url: str) -> Iterator[None]:
    """Let errors name the run folder that the user knows, not its copy."""
    try:
        yield
    except DistcalibError as error:
        words = str(error).replace(str(folder), url)
        if words == str(error):
            raise
        # The kind says whether it is bad input, and whether the task is worth another try.
        kinds = (InputError, StorageError, RunError)
        raise next(k for k in kinds if k is RunError or isinstance(error, k))(words) from error


_mine: list[Copy] = []


def _copy(url: str) -> Copy:
    """Return the copy of this process; one of another run is removed."""
    if not _mine or _mine[0].store.shown != url:
        for old in _mine:
            shutil.rmtree(old.folder, ignore_errors=True)
        _mine[:] = [Copy(object_store(url), scratch_folder())]
    return _mine[0]


def scratch_folder() -> Path:
    """Make a private folder that goes with this process; on a worker of Dask below the worker's own."""
    base = None
    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # the coordinator, or a task in this process
            base = get_worker().local_directory
    folder = Path(tempfile.mkdtemp(prefix="distcalib-", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
