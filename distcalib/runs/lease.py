"""The lease of a run in an object store: one coordinator at a time, also where no lock of a file reaches."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import psutil

from distcalib.errors import RunError
from distcalib.runs.remote import THEN, steadily
from distcalib.storage import parse_json
from distcalib.storage.objects import ObjectStore

#: Where it lies in the run folder.
LEASE = ".lease.json"
#: Seconds without renewal after which another may take it; between two renewals; between two beats.
ENDS, RENEWED, BEAT = 60.0, 10.0, 2.0


@dataclass(frozen=True)
class Holder:
    """Who has a lease.

    Attributes
    ----------
    id
        Of this very holding.
    host, process
        Where it runs.
    machine
        The host's boot and namespace of processes, within which `process` means something; may be empty.
    time
        Unix seconds of the last renewal, by the holder's clock.
    released
        Whether it was given back.
    """

    id: str
    host: str
    process: int
    machine: str
    time: float
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        return cls(uuid4().hex, socket.gethostname(), os.getpid(), _machine(), time.time())

    def gone(self) -> bool:
        """Return whether it gave the lease back, or its process, of this machine, has ended."""
        dead = bool(self.machine) and self.machine == _machine() and not psutil.pid_exists(self.process)
        return self.released or dead

    def __str__(self) -> str:
        return f"process {self.process} of {self.host}"


class Lease:
    """Hold a run against other coordinators while the block lasts.

    The holder renews it by conditional puts. One that was not renewed for `ENDS` seconds, by the watch of who
    waits for it, is taken over; so no clocks are compared. A holder that cannot renew it in time, or finds
    that another took it, has to stop: `check` raises.

    Parameters
    ----------
    store
        Of the run.
    beat
        Called every `BEAT` seconds from a thread of its own, and once at the end; what it raises is told at
        the end.
    """

    def __init__(self, store: ObjectStore, beat: Callable[[], None]) -> None:
        self._store, self._beat = store, beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._token: object = None
        self._lost = self._why = ""
        self._renewed = time.monotonic()
        self._me = Holder.here()

    def __enter__(self) -> Lease:
        steadily(self._store, "taking the lease", self._take)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            if not self._lost:
                steadily(self._store, "writing events", self._beat)
                steadily(self._store, "giving the lease back", partial(self._write, released=True))
        except RunError:
            if error is None:
                raise

    def check(self) -> None:
        """Raise `RunError` when the run is no longer this process's to carry out."""
        if not self._lost and time.monotonic() - self._renewed > ENDS:
            self._lost = f"the lease could not be renewed in time{self._why}"
        if self._lost:
            raise RunError(f"{self._store.shown}: {self._lost}; {THEN}")

    def _take(self) -> None:
        seen: object = None
        since, looked = 0.0, False
        while True:
            data, token = self._store.held(LEASE)
            holder = _read(data)
            now = time.monotonic()
            if not looked or token != seen:
                if looked and holder is not None and not holder.gone():
                    raise RunError(
                        f"{self._store.shown}: another process is carrying this run out ({holder})"
                    )
                seen, since, looked = token, now, True
            if holder is None or holder.gone() or now - since >= ENDS:
                self._token = token
                if self._write():
                    return
                continue
            time.sleep(0.5)

    def _write(self, released: bool = False) -> bool:
        """Put the lease in place of the one that is known, or of one's own; False when it is another's."""
        me = asdict(self._me) | {"time": time.time(), "released": released}
        for _ in range(2):
            done = self._store.swap(LEASE, json.dumps(me).encode(), self._token)
            data, self._token = self._store.held(LEASE)
            holder = _read(data)
            if holder is None or holder.id != self._me.id:
                return False
            if done:
                self._renewed = time.monotonic()
                return True
        return False

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            if time.monotonic() - self._renewed >= RENEWED and not self._renew():
                return
            with suppress(Exception):  # events are no truth; the call at the end tells
                self._beat()

    def _renew(self) -> bool:
        """Return whether the lease is still this process's."""
        try:
            if not self._write():
                self._lost = f"another process took this run over ({_read(self._store.held(LEASE)[0])})"
        except Exception as error:
            self._why = f" ({error})"
        with suppress(RunError):
            self.check()
        return not self._lost


def taken(data: bytes | None) -> float | None:
    """Return when a lease was last renewed, by its holder's clock; None where nobody seems to have it."""
    holder = _read(data)
    fresh = holder is not None and not holder.gone() and time.time() - holder.time < ENDS
    return holder.time if holder is not None and fresh else None


def _read(data: bytes | None) -> Holder | None:
    """Return who holds a lease; None where there is none, or something that is none."""
    try:
        return None if data is None else Holder(**parse_json(data))
    except (ValueError, TypeError):
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
