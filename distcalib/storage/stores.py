"""What a store of whole files must offer; local folders. `objects` has the others.

It is small: whole files by relative path, their sizes, and `swap`, which replaces one small file only if it
is still what its caller read. A store that cannot compare and replace in one act could not keep two writers
apart, so it is refused.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Protocol, TypeVar

from distcalib.errors import DistcalibError, InputError, RunError
from distcalib.storage import publish, writable

#: Where a store is tried.
PROBE = ".conditional"
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
SUPPORTED = "a local folder, file:///folder or s3://bucket/prefix"


class Store(Protocol):
    """A place of files. Paths are relative, with ``/``; `shown` is its name without secrets.

    A file is there whole or not at all. `transfers` is how many files should be under way at a time.
    """

    shown: str
    transfers: int

    def prepare(self) -> None:
        """Raise unless one may write here and `swap` is one act."""

    def staging(self, version: str) -> AbstractContextManager[object]:
        """Hold a version while files are put into it."""

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a small file, or None."""

    def write(self, path: str, data: bytes) -> None:
        """Put a small file."""

    def put(self, file: Path, path: str) -> None:
        """Put a file of this machine, in constant memory."""

    def sizes(self, folder: str) -> dict[str, tuple[int, str]]:
        """Return size and mark of each file below a folder, by its path below that folder.

        A mark is a checksum that the store itself made of what it holds; empty where it makes none.
        """

    def mark(self, file: Path, digest: str) -> str:
        """Return the mark that the store should make of a file of this machine with this sha256."""

    def sha256(self, path: str) -> str:
        """Return the sha256 of what the store gives back, read in constant memory."""

    def settle(self, folder: str) -> None:
        """Make what was put below a folder survive a loss of power."""

    def held(self, path: str) -> tuple[bytes | None, object]:
        """Return the bytes of a small file, or None, and the token that `swap` compares."""

    def swap(self, path: str, data: bytes, token: object) -> bool:
        """Replace a small file if it is still the one of `token`; in one act. False: it is not."""


def open_store(to: str | Path, place: str = "TO") -> Store:
    """Return the store of a folder or URL, without touching it.

    Parameters
    ----------
    to
        Folder or URL.
    place
        What errors call it.

    Raises
    ------
    InputError
        For a URL that is malformed, carries credentials, or names a store without an atomic pointer.
    """
    words = str(to)
    if not words.strip():
        raise InputError("is empty", place=place, expected=SUPPORTED)
    scheme, separator, rest = words.partition("://")
    if not separator:
        if re.match(r"(s3a?|gs|gcs|file|memory|https?|az|abfs):", words):
            raise InputError("is no URL", place=place, value=without_credentials(words), expected=SUPPORTED)
        return LocalStore(Path(words))
    if scheme in ("file", "local"):
        if not rest.startswith("/") or rest.strip("/") == "":
            raise InputError("is no folder", place=place, value=words, expected="file:///folder")
        return LocalStore(Path(rest))
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise InputError(
            "holds credentials; give them in the environment", place=place, value=without_credentials(words),
            expected="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or a profile, and a URL without them",
        )  # fmt: skip
    if scheme not in ("s3", "memory"):
        raise InputError(
            "names a store where distcalib cannot compare and replace in one act, so writers could not be "
            "kept apart", place=place, value=f"{scheme}://...", expected=SUPPORTED,
        )  # fmt: skip
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    plain = all(re.fullmatch(r"[A-Za-z0-9=._-]+", part) and part.strip(".") for part in parts)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or not plain:
        shown = words.partition("?")[0]  # what follows may be a signature
        raise InputError("is no URL of a store", place=place, value=shown, expected=SUPPORTED)
    from distcalib.storage.objects import MemoryStore, S3Store

    root = "/".join([bucket, *parts])
    return S3Store(root) if scheme == "s3" else MemoryStore(root)


@contextmanager
def explained(store: Store, what: str, then: str) -> Iterator[None]:
    """Turn what a store or its network raises into a `RunError`: what failed, and what `then` stands."""
    try:
        yield
    except DistcalibError:
        raise
    except Exception as error:
        if not of_store(error):
            raise
        words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise RunError(f"{store.shown}: {what} failed ({without_credentials(words)}); {then}") from None


#: Of an object: bytes, sha256, and the mark that its store makes of it.
Known = tuple[int, str, str]


def agrees(store: Store, path: str, there: tuple[int, str] | None, known: Known, full: bool = False) -> bool:
    """Compare size and the store's own mark; where it has none, or another, or `full`, what it gives back."""
    size, digest, mark = known
    if there is None or there[0] != size:
        return False
    if mark and mark == there[1] and not full:
        return True
    return store.sha256(path) == digest


def spread(store: Store, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield results in order; a few at a time, so that a failure stops what is not begun."""
    if store.transfers == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(store.transfers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def of_store(error: Exception) -> bool:
    """Return whether an error is one of a file system, an object store or the network to it."""
    # The clients of object stores have errors of their own for credentials and connections.
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


_CLIENTS = {"botocore", "aiobotocore", "aiohttp"}


def without_credentials(words: str) -> str:
    """Return words without the user and password of any URL in them."""
    return re.sub(r"(:/{1,2})[^/\s\"']*@", r"\1***@", words)


class LocalStore:
    """A folder of this machine or of a network file system with locks."""

    def __init__(self, root: Path) -> None:
        self.root, self.shown, self.transfers = root, str(root), 2

    def prepare(self) -> None:
        """Raise unless a file can be written in the folder."""
        writable(self.root / PROBE)

    @contextmanager
    def staging(self, version: str) -> Iterator[None]:
        """Hold a version against other processes, and remove what killed ones left half-written."""
        folder = self.root / "versions" / version
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(f".{version}.lock"), "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.root}: another process is putting {version} there") from None
            for leftover in folder.rglob(".*.tmp.*"):
                leftover.unlink()
            yield

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a file, or None."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file under a temporary name, flush and rename it."""
        publish(self.root / path, lambda temporary: temporary.write_bytes(data))

    def put(self, file: Path, path: str) -> None:
        """Copy a file under a temporary name, flush and rename it."""
        publish(self.root / path, lambda temporary: shutil.copyfile(file, temporary))

    def sizes(self, folder: str) -> dict[str, tuple[int, str]]:
        """Return the size of each file; a file system makes no mark."""
        base = self.root / folder
        files = (p for p in base.rglob("*") if p.is_file() and not p.is_symlink())
        return {p.relative_to(base).as_posix(): (p.stat().st_size, "") for p in files}

    def mark(self, file: Path, digest: str) -> str:
        """Return that there is none."""
        return ""

    def sha256(self, path: str) -> str:
        """Return the sha256 of a file."""
        with open(self.root / path, "rb") as handle:
            return file_digest(handle, "sha256").hexdigest()

    def settle(self, folder: str) -> None:
        """Flush the folders, which hold the names; the files were flushed when they were put."""
        base = self.root / folder
        for one in [p for p in base.rglob("*") if p.is_dir()] + [base, *list(base.parents)[:2], self.root]:
            _flush(one)

    def held(self, path: str) -> tuple[bytes | None, object]:
        """Return the bytes of a file, which are their own token."""
        data = self.read(path)
        return data, data

    def swap(self, path: str, data: bytes, token: object) -> bool:
        """Compare and rename under a lock."""
        with open(self.root / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read(path) != token:
                return False
            self.write(path, data)
            _flush(self.root)
        return True


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
