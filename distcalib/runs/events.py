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
