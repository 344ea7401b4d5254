"""Events of a run: one stream, kept in ``events.ndjson`` and handed to subscribers such as a progress bar."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

from distcalib.storage import parse_json, persistently

Subscriber = Callable[[dict[str, Any]], None]

#: Seconds between two signs of life.
BEAT = 15.0
#: Events that say nothing of what was done.
SIGNS_OF_LIFE = ("alive", "progress")
#: The cause that is told of what was ended from the keyboard or by SIGTERM: nothing is wrong with it.
INTERRUPTED = "interrupted"


def _one_at_a_time(emit: Callable[..., None]) -> Callable[..., None]:
    """Let no other thread emit meanwhile: a line is written whole, and subscribers need no locks."""

    @wraps(emit)
    def locked(events: Events, event: str, **facts: Any) -> None:
        with events._lock:
            emit(events, event, **facts)

    return locked


@dataclass
class Events:
    """Where a run says what happens.

    Attributes
    ----------
    path
        ``events.ndjson``: one JSON object a line, appended to; None keeps no file.
    subscribers
        Called with every event.
    """

    path: Path | None = None
    subscribers: list[Subscriber] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def beating(self, every: float | None = None) -> Iterator[None]:
        """Emit ``alive`` every so many seconds (None: `BEAT`) while the block runs: a long task says nothing.

        Who reads the events elsewhere can tell so that the coordinator lives.
        """
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(every or BEAT):
                # What stays wrong (a full disk, a lease that is lost) fails the next event of the run itself.
                with suppress(Exception):
                    self.emit("alive")

        thread = threading.Thread(target=beat, name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @_one_at_a_time
    def emit(self, event: str, **facts: Any) -> None:
        """Record an event: its name, the time (Unix seconds), and facts (JSON values)."""
        record = {"event": event, "time": round(time.time(), 3), **facts}
        if self.path is not None:
            line = (json.dumps(record) + "\n").encode()
            persistently(partial(_append, self.path, line), self.path)
        for subscriber in self.subscribers:
            subscriber(record)


def deaths_of(events: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Return how often tasks that were finished were begun, and how often their worker died."""
    finished: set[str] = set()
    retried: Counter[str] = Counter()
    for event in events:
        if event["event"] == "task":
            finished.add(str(event.get("id", "")))
        elif event["event"] == "retry":
            retried[str(event.get("id", ""))] += 1
    died = sum(number for task, number in retried.items() if task in finished)
    return len(finished) + died, died


def read_events(run: Path) -> list[dict[str, Any]]:
    """Return what ``events.ndjson`` of a run folder holds, in order; empty where there is none.

    A line that a killed process left half-written carries no truth and is left out, as is one that is none
    of an event.
    """
    found = []
    try:
        lines = (run / "events.ndjson").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            event = parse_json(line)
            event["event"], float(event["time"])
        except (ValueError, KeyError, TypeError):
            continue
        found.append(event)
    return found


def _append(path: Path, line: bytes) -> None:
    with open(path, "a+b") as file:
        # A process that was killed may have left half a line; this one is not to be lost with it.
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            line = b"\n" + line
        file.write(line)
