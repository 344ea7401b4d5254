"""What a long task says of itself while it runs, to whoever carries it out; where nobody listens, to nobody.

It is for people alone: no result depends on it, and a word that is lost is not said again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: Takes what a task says: a dict of JSON values.
Listener = Callable[[dict[str, Any]], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def say(**facts: Any) -> None:
    """Tell the listener of this thread, if there is one; numbers that are not finite become None."""
    listener = _listener.get()
    if listener is not None:
        listener({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()})


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let a listener hear what the tasks of this block say."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
