"""Stores for tests: at a prefix of their own, and ones that fail at a step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from distcalib.publication.pointer import POINTER, read_pointer
from distcalib.publication.publishing import publications
from distcalib.storage.objects import S3Store
from distcalib.storage.stores import Store


def s3_at(s3: S3Store, root: str) -> S3Store:
    """Return a store of the same client elsewhere; a client takes a second to make."""
    store = object.__new__(S3Store)
    store.root, store.shown, store.fs = root, f"s3://{root}", s3.fs
    return store


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Faulty:
    """A store whose step `at` is not taken, or is taken and never answered."""

    transfers = 1  # the steps have an order

    def __init__(self, store: Store, at: int, after: bool, error: BaseException | None = None) -> None:
        self.store, self.at, self.after, self.error = store, at, after, error or Killed()
        self.steps: list[str] = []

    def __getattr__(self, name: str) -> object:
        found = getattr(self.store, name)
        if name not in ("put", "write", "swap"):
            return found

        def step(*given: object) -> object:
            self.steps.append(f"{name} {given[-1] if name == 'put' else given[0]}")
            fails = len(self.steps) == self.at
            if fails and not self.after:
                raise self.error
            result = found(*given)
            if fails:
                raise self.error
            return result

        return step


def latest_of(store: Store) -> str | None:
    """Return the version at the pointer, after reading every file of it back and comparing."""
    history = read_pointer(store.held(POINTER)[0], store.shown)
    if not history:
        return None
    version = history[-1].version
    base = f"versions/{version}"
    manifest = publications(store).versions[version]
    assert manifest is not None, "the pointer names an incomplete version"
    for path, facts in manifest["files"].items():
        data = store.read(f"{base}/{path}")
        assert data is not None, path
        assert hashlib.sha256(data).hexdigest() == facts["sha256"], path
    assert json.loads(store.held(POINTER)[0] or b"")["version"] == version
    return version


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
