"""Events of a run: one stream, kept in ``events.ndjson`` and handed to subscribers such as a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Subscriber = Callable[[dict[str, Any]], None]


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

    def emit(self, event: str, **facts: Any) -> None:
        """Record an event: its name, the time (Unix seconds), and facts (JSON values)."""
        record = {"event": event, "time": round(time.time(), 3), **facts}
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        for subscriber in self.subscribers:
            subscriber(record)


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
            event = json.loads(line)
            event["event"], float(event["time"])
        except (ValueError, KeyError, TypeError):
            continue
        found.append(event)
    return found
