"""Object stores: S3 with conditional puts, and the memory of this process."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from distcalib.errors import InputError
from distcalib.storage.stores import PROBE, explained

# Uploads of twice this and more go in parts of this size, two at a time: so much memory a file under way.
_PART = 8 * 2**20
_NOTHING = "nothing was replaced"


class ObjectStore(ABC):
    """What stores behind fsspec share; `fs` is the file system, `root` bucket and prefix."""

    transfers = 1
    fs: Any

    def __init__(self, root: str, shown: str) -> None:
        self.root, self.shown = root, shown

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def staging(self, version: str) -> AbstractContextManager[object]:
        """Hold nothing: equal versions have equal files, and each is put whole."""
        return nullcontext()

    def read(self, path: str) -> bytes | None:
        """Return the bytes of an object, or None."""
        try:
            data: bytes = self.fs.cat_file(self._at(path))
        except FileNotFoundError:
            return None
        return data

    def write(self, path: str, data: bytes) -> None:
        """Put an object."""
        self.fs.pipe_file(self._at(path), data)

    def put(self, file: Path, path: str) -> None:
        """Put a file as an object."""
        self.fs.put_file(str(file), self._at(path))

    def get(self, path: str, file: Path) -> None:
        """Put an object into a file of this machine, in constant memory."""
        self.fs.get_file(self._at(path), str(file))

    def delete(self, path: str) -> None:
        """Remove an object; none is fine."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self._at(path))

    def stat(self, path: str) -> tuple[int, str] | None:
        """Return size and mark of an object, or None."""
        try:
            info = self.fs.info(self._at(path))
        except FileNotFoundError:
            return None
        return (info["size"], _plain_mark(info)) if info["type"] == "file" else None

    def sizes(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """Return size and mark of each object below a folder."""
        base = self._at(folder).rstrip("/")
        found = self.fs.find(base, detail=True)
        skip = len(self.fs._strip_protocol(base)) + 1
        return {name[skip:]: (info["size"], _plain_mark(info)) for name, info in found.items()}

    def mark(self, file: Path, digest: str) -> str:
        """Return that there is none."""
        return ""

    def sha256(self, path: str) -> str:
        """Return the sha256 of an object, read in blocks."""
        total = sha256()
        with self.fs.open(self._at(path), "rb", block_size=_PART, cache_type="readahead") as handle:
            while block := handle.read(_PART):
                total.update(block)
        return total.hexdigest()

    def settle(self, folder: str) -> None:  # noqa: B027
        """Do nothing: an object that was put is kept."""

    @abstractmethod
    def prepare(self) -> None:
        """Raise unless one may write here and `swap` is one act."""

    @abstractmethod
    def held(self, path: str) -> tuple[bytes | None, object]:
        """Return the bytes of a small object, or None, and the token that `swap` compares."""

    @abstractmethod
    def swap(self, path: str, data: bytes, token: object) -> bool:
        """Replace a small object if it is still the one of `token`; in one act. False: it is not."""


def _plain_mark(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or "").strip('"')


class MemoryStore(ObjectStore):
    """The memory of this process: for trying things out, and for tests."""

    _lock = threading.Lock()

    def __init__(self, root: str) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        super().__init__(root, f"memory://{root}")
        self.fs = MemoryFileSystem()

    def prepare(self) -> None:
        """Raise never."""

    def held(self, path: str) -> tuple[bytes | None, object]:
        """Return the bytes of an object, which are their own token."""
        data = self.read(path)
        return data, data

    def swap(self, path: str, data: bytes, token: object) -> bool:
        """Compare and replace under a lock of this process."""
        with self._lock:
            if self.read(path) != token:
                return False
            self.write(path, data)
        return True


class S3Store(ObjectStore):
    """S3, or a server that speaks it and honours conditional puts; credentials as botocore finds them."""

    transfers = 8

    def __init__(self, root: str) -> None:
        try:
            from s3fs import S3FileSystem
        except ImportError:
            raise InputError(
                "needs the package s3fs", place=f"s3://{root}", expected="pip install 'distcalib[s3]'"
            ) from None
        super().__init__(root, f"s3://{root}")
        # No cache: what others put meanwhile must be seen. Parts of one size: then their mark is known.
        self.fs = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, fixed_upload_size=True)

    def prepare(self) -> None:
        """Raise unless one may write, and the server refuses a put whose condition does not hold.

        There are servers that ignore conditions; with them the last of two writers would win unseen.
        """
        with explained(self, "writing", _NOTHING):
            try:
                self.write(PROBE, b"A writer tried here whether conditions of puts are honoured.\n")
            except FileNotFoundError:
                raise InputError("has no such bucket", place=self.shown, expected="a bucket") from None
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'}):
            if self._put_if(PROBE, b"The condition was ignored.\n", condition) is None:
                raise InputError(
                    f"ignores the condition {next(iter(condition))} of a put, so two writers could not be "
                    "kept apart", place=self.shown, expected="a server with S3's conditional writes",
                )  # fmt: skip

    def _put_if(self, path: str, data: bytes, condition: dict[str, str]) -> OSError | None:
        """Put an object on a condition; return the error when it was not put."""
        with explained(self, f"writing {path}", _NOTHING):
            try:
                self.fs.pipe_file(self._at(path), data, **condition)
            except PermissionError:
                raise
            except OSError as error:
                return error
        return None

    def put(self, file: Path, path: str) -> None:
        """Put a file, in parts when it is large."""
        self.fs.put_file(str(file), self._at(path), chunksize=_PART, max_concurrency=2)

    def mark(self, file: Path, digest: str) -> str:
        """Return the ETag that S3 makes of a file put in such parts, unless it encrypts with own keys.

        The sha256 is taken over the very bytes of the ETag: equal ETags then mean the file of the manifest.
        """
        total, parts, size = sha256(), [], 0
        whole = md5(usedforsecurity=False)
        with open(file, "rb") as handle:
            while block := handle.read(_PART):
                total.update(block)
                whole.update(block)
                parts.append(md5(block, usedforsecurity=False).digest())
                size += len(block)
        if total.hexdigest() != digest:
            raise OSError(f"{file} changed while it was put")
        if size < 2 * _PART:
            return whole.hexdigest()
        return f"{md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"

    def held(self, path: str) -> tuple[bytes | None, object]:
        """Return an object and its ETag, read before it: a change between them makes a swap fail."""
        try:
            tag = self.fs.info(self._at(path))["ETag"]
        except FileNotFoundError:
            return None, None
        return self.read(path), tag

    def swap(self, path: str, data: bytes, token: object) -> bool:
        """Put on the condition that the object is still that of `token`, or still missing."""
        condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": str(token)}
        error = self._put_if(path, data, condition)
        if error is None:
            return True
        now, now_token = self.held(path)
        if now_token == token:
            raise error
        # An answer may be lost on its way: the client tries again and is refused by its own success.
        return now == data
