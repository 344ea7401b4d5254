"""The pointer of a place: which version is the latest, and who pointed where and when before."""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from distcalib.errors import RunError
from distcalib.publication.finished import VERSION
from distcalib.storage import parse_json

POINTER = "latest.json"


@dataclass(frozen=True)
class Entry:
    """One move of the pointer.

    Attributes
    ----------
    act
        ``publish``, ``promote`` or ``rollback``.
    version, manifest_sha256
        What it points at since.
    time, by
        When (UTC, ISO 8601) and who (user@machine).
    id
        Of this very act, so that a publisher knows its own.
    """

    act: str
    version: str
    manifest_sha256: str
    time: str
    by: str
    id: str

    def __str__(self) -> str:
        return f"{self.version} by {self.by} at {self.time}"


def new_entry(act: str, version: str, manifest_sha256: str) -> Entry:
    """Return an entry of this moment and user."""
    time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return Entry(act, version, manifest_sha256, time, f"{user}@{socket.gethostname()}", uuid.uuid4().hex)


def write_pointer(history: list[Entry]) -> bytes:
    """Return the text of ``latest.json``: the last entry, where its manifest is, and all entries."""
    last = history[-1]
    previous = standing(history)[-2:-1]
    value = {
        **asdict(last),
        "manifest": f"versions/{last.version}/manifest.json",
        "previous": previous[0].version if previous else None,
        "history": [asdict(entry) for entry in history],
    }
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def read_pointer(data: bytes | None, place: object) -> list[Entry]:
    """Return the history of a pointer, oldest first; empty where there is none.

    Raises
    ------
    RunError
        When it is not one that `write_pointer` wrote.
    """
    if data is None:
        return []
    try:
        history = [Entry(**entry) for entry in parse_json(data)["history"]]
        whole = write_pointer(history) == data and all(VERSION.fullmatch(e.version) for e in history)
    except (ValueError, KeyError, TypeError, IndexError):
        whole = False
    if not whole:
        raise RunError(f"{place}/{POINTER} is not a pointer that distcalib wrote; nothing was changed")
    return history


def standing(history: list[Entry]) -> list[Entry]:
    """Return the moves that no rollback took back; the last is where the pointer is, before it the previous.

    >>> a, b = (Entry("publish", v, "", "", "", v) for v in "ab")
    >>> [e.version for e in standing([a, b, Entry("rollback", "a", "", "", "", "c")])]
    ['a']
    """
    stack: list[Entry] = []
    for entry in history:
        if entry.act == "rollback":
            stack.pop()
        else:
            stack.append(entry)
    return stack
