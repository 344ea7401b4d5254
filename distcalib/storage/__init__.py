"""The one way to put a small file on storage: complete, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from distcalib.errors import InputError, StorageError

T = TypeVar("T")

#: How often a write is tried in all, and the seconds before its second try; each wait is four times the last.
TRIES, FIRST_WAIT = 4, 0.2
# What an operating system says of a disk or a file server that may answer a moment later.
_PASSING = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ESTALE, errno.EREMOTEIO,
    errno.ETIMEDOUT, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
}  # fmt: skip


def passing(error: BaseException) -> bool:
    """Return whether an error is one of storage that may be gone a moment later; a full disk is none."""
    return isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _PASSING)


def persistently(act: Callable[[], T], place: object, tries: int = TRIES) -> T:
    """Let `act` begin anew where storage fails it for a reason that may pass, and return what it returns.

    It writes everything again each time: after a failed flush an operating system may take what it lost for
    written, so a second flush alone would prove nothing.

    Raises
    ------
    StorageError
        When the last try fails too.
    OSError
        At once, for what does not pass, such as a full disk.
    """
    for tried in range(1, tries + 1):
        try:
            return act()
        except OSError as error:
            if not passing(error) or isinstance(error, StorageError):
                raise
            if tried == tries:
                often = f", {tries} times in a row" if tries > 1 else ""
                words = error.strerror or str(error)
                raise StorageError(f"{place}: could not be written ({words}{often})") from error
        time.sleep(FIRST_WAIT * 4 ** (tried - 1))
    raise ValueError("tries: at least 1")


def temporary_beside(final: Path) -> Path:
    """Return a name of nobody else's, in the same folder, for what is being written.

    The suffix stays last: writers choose their format by it (numpy, pandas). Workers in containers may have
    one process id, and one that was taken for dead may still write. The next start sweeps what was left.
    """
    return final.with_name(f".{uuid4().hex[:12]}.tmp.{final.name}")


def publish(
    path: str | Path,
    write: Callable[[Path], object],
    check: Callable[[Path], object] = lambda _: None,
    tries: int = TRIES,
) -> None:
    """Let `write` fill a temporary file, flush it to disk, let `check` open it, and rename it to `path`.

    Parameters
    ----------
    path, write, check
        The file, and what is called with the temporary one.
    tries
        How often all of it is done where storage fails for a reason that may pass; 1 for a `write` that
        cannot be called twice.

    Raises
    ------
    InputError
        When no file can be put there; see `writable`.
    StorageError
        When the last try fails too.
    """
    final = Path(path)
    temporary = temporary_beside(final)

    def put() -> None:
        try:
            write(temporary)
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            check(temporary)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)

    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        persistently(put, final, tries)
    except OSError:
        writable(final)
        raise  # not for its place: a full disk, or a file that `write` reads


def writable(path: str | Path) -> None:
    """Raise `InputError` unless a file can be put at `path`; one that is there may be replaced.

    Folders above it that are missing are made by `publish`. Call this before a long computation.
    """
    file = Path(path)
    if os.path.isdir(file):
        raise InputError("is a folder", place=file, expected="a file")
    folder = file.absolute().parent
    # lexists: a link to nowhere is there, and no folder can be made in its place.
    while not os.path.lexists(folder):
        folder = folder.parent
    if not os.path.isdir(folder):
        words = "cannot be written, for what should be its folder is a file"
        raise InputError(words, place=file, value=str(folder), expected="a path in a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        words = "cannot be written, for there is no permission"
        raise InputError(words, place=file, value=str(folder), expected="a folder that you may write in")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all."""
    publish(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write readable JSON with sorted keys, complete or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; `ValueError` where it is none, also one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, or of a folder's names and files."""
    target = Path(path)
    if target.is_dir():
        total = hashlib.sha256()
        for file in sorted(p for p in target.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(target).as_posix()}:{sha256_file(file)}\n".encode())
        return total.hexdigest()
    with open(target, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_bytes(folder: str | Path) -> int:
    """Return the bytes of all files below a folder; 0 when there is none."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a link to nothing, or a temporary file that is there no more
                total += os.path.getsize(os.path.join(at, name))
    return total


def need_space(folder: str | Path, needed: int) -> None:
    """Raise `InputError` unless the disk of `folder` has `needed` bytes free."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            "not enough disk space for the run folder",
            place=folder,
            value=f"{free / 1e6:,.0f} MB free",
            expected=f"at least {needed / 1e6:,.0f} MB",
        )
