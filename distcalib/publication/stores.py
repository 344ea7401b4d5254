"""Where publications stand, and what a store must offer; local folders. `objects` has the others.

What a store must offer is small: whole files by relative path, their sizes, and `swap`, which replaces one
small file only if it is still what its caller read. A store that cannot compare and replace in one act could
not keep two publishers apart, so it is refused.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Protocol

from distcalib.errors import DistcalibError, InputError, RunError
from distcalib.storage import publish, writable

POINTER = "latest.json"
SUPPORTED = "a local folder, file:///folder or s3://bucket/prefix"


class Store(Protocol):
    """A place of publications. Paths are relative, with ``/``; `shown` is its name without secrets.

    A file is there whole or not at all. `transfers` is how many files should be under way at a time.
    """

    shown: str
    transfers: int

    def prepare(self) -> None:
        """Raise unless one may write here and the pointer can be moved atomically."""

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

    def pointer(self) -> tuple[bytes | None, object]:
        """Return the pointer, or None, and the token that `swap` compares."""

    def swap(self, data: bytes, token: object) -> bool:
        """Replace the pointer if it is still the one of `token`; in one act. False: it is not."""


def open_store(to: str | Path) -> Store:
    """Return the store of a folder or URL, without touching it.

    Raises
    ------
    InputError
        For a URL that is malformed, carries credentials, or names a store without an atomic pointer.
    """
    words = str(to)
    if not words.strip():
        raise InputError("is empty", place="TO", expected=SUPPORTED)
    scheme, separator, rest = words.partition("://")
    if not separator:
        if re.match(r"(s3a?|gs|gcs|file|memory|https?|az|abfs):", words):
            raise InputError("is no URL", place="TO", value=_safe(words), expected=SUPPORTED)
        return LocalStore(Path(words))
    if scheme in ("file", "local"):
        if not rest.startswith("/") or rest.strip("/") == "":
            raise InputError("is no folder", place="TO", value=words, expected="file:///folder")
        return LocalStore(Path(rest))
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise InputError(
            "holds credentials; give them in the environment", place="TO", value=_safe(words),
            expected="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or a profile, and a URL without them",
        )  # fmt: skip
    if scheme not in ("s3", "memory"):
        words = f"{scheme}://..."
        raise InputError("has no pointer that moves atomically", place="TO", value=words, expected=SUPPORTED)
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    plain = all(re.fullmatch(r"[A-Za-z0-9=._-]+", part) and part.strip(".") for part in parts)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or not plain:
        raise InputError("is no URL of a store", place="TO", value=words, expected=SUPPORTED)
    from distcalib.publication.objects import MemoryStore, S3Store

    root = "/".join([bucket, *parts])
    return S3Store(root) if scheme == "s3" else MemoryStore(root)


@contextmanager
def explained(store: Store, what: str) -> Iterator[None]:
    """Turn what a store or its network raises into a `RunError` that says what could not be done."""
    try:
        yield
    except DistcalibError:
        raise
    except Exception as error:
        # The clients of object stores have errors of their own for credentials and connections.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise RunError(
            f"{store.shown}: {what} failed ({_safe(words)}); the pointer has not moved, and what was put "
            "is used by the next attempt"
        ) from None


_CLIENTS = {"botocore", "aiobotocore", "aiohttp"}


def _safe(words: str) -> str:
    """Return words without the user and password of any URL in them."""
    return re.sub(r"(:/{1,2})[^/\s\"']*@", r"\1***@", words)


class LocalStore:
    """A folder of this machine or of a network file system with locks."""

    def __init__(self, root: Path) -> None:
        self.root, self.shown, self.transfers = root, str(root), 2

    def prepare(self) -> None:
        """Raise unless a pointer can be written in the folder."""
        writable(self.root / POINTER)

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

    def pointer(self) -> tuple[bytes | None, object]:
        """Return the pointer, which is its own token."""
        data = self.read(POINTER)
        return data, data

    def swap(self, data: bytes, token: object) -> bool:
        """Compare and rename under a lock."""
        with open(self.root / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read(POINTER) != token:
                return False
            self.write(POINTER, data)
            _flush(self.root)
        return True


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
