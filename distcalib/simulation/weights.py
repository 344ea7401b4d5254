"""What `Microsimulation` repeats for nothing with weights, done once. No value changes.

It wraps every intermediate array, 20,000 in a state, in a series with weights: each time it projects the
households' weights to the entity anew, and makes two or three more series of them. Most of the fixed cost of
opening a file goes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

# Weights of an entity by the identity of their array, with a series of them; series of ones by length.
_series: dict[int, tuple[Any, pd.Series]] = {}
_ones: dict[int, pd.Series] = {}
_inside = 0
_before: list[tuple[Any, str, Any]] = []
_lock = Lock()


@contextmanager
def weights_spared() -> Iterator[None]:
    """Let weighted series share their weights, while inside.

    Nobody writes into weights meanwhile: formulas do not know them, and verification does not change them.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _install()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                while _before:
                    owner, name, value = _before.pop()
                    setattr(owner, name, value)
                _series.clear()
                _ones.clear()


def _install() -> None:
    from microdf import MicroSeries, _weights, microseries  # type: ignore[import-untyped]
    from policyengine_core.simulations.microsimulation import Microsimulation

    for owner, name, replacement in (
        (Microsimulation, "get_weights", _get_weights),
        (MicroSeries, "set_weights", _set_weights),
        (_weights, "weight_series", _weight_series),
        (microseries, "weight_series", _weight_series),
    ):
        original = getattr(owner, name)
        _before.append((owner, name, original))
        setattr(owner, name, replacement(original))


def _get_weights(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def get_weights(self: Any, variable_name: str, period: Any, map_to: str | None = None) -> Any:
        variable = self.tax_benefit_system.get_variable(variable_name, check_existence=True)
        # Branches are copies of the simulation and share this; they have the same households.
        known = self.__dict__.setdefault("_weights_by_entity", {})
        key = map_to or variable.entity.key, str(period)
        if key not in known:
            known[key] = original(self, variable_name, period, map_to)
        return known[key]

    return get_weights


def _plain_index(index: Any) -> bool:
    return type(index) is pd.RangeIndex and index.start == 0 and index.step == 1


def _set_weights(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def set_weights(self: Any, weights: Any, preserve_old: bool | None = False) -> None:
        n = len(self)
        if preserve_old or not _plain_index(self.index):
            return original(self, weights, preserve_old)
        if weights is None:
            if n not in _ones:
                _ones[n] = pd.Series(np.ones(n))
            self.weights = _ones[n]
            return None
        known = _series.get(id(weights))
        if known is None and type(weights) is np.ndarray and weights.ndim == 1 and len(weights) == n:
            # The array is kept, so that its number stays its own.
            known = _series[id(weights)] = weights, pd.Series(np.array(weights, dtype=float))
        if known is None or len(known[1]) != n:
            return original(self, weights, preserve_old)
        self.weights = known[1]
        return None

    return set_weights


def _weight_series(original: Callable[..., pd.Series]) -> Callable[..., pd.Series]:
    @wraps(original)
    def weight_series(values: Any, index: Any) -> pd.Series:
        if (
            type(values) is pd.Series
            and values.dtype == np.float64
            and len(values) == len(index)
            and _plain_index(index)
            and _plain_index(values.index)
        ):
            return values
        return original(values, index)

    return weight_series
