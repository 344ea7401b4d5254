"""What the rules engine repeats for nothing, done once. No value changes: the tests compare bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# The menu of a year's areas, by forecast, year, scenario and information date.
_menus: dict[tuple[Any, ...], dict[str, Any]] = {}

Look = Callable[[Any, Any], Any]
# Of a node of parameters: what each child's name gives, and the number of each name. None: has no such table.
_tables: WeakKeyDictionary[Any, tuple[Any, dict[str, int], bool] | None] = WeakKeyDictionary()

# How many simulations are inside, and the engine's own lookup meanwhile.
_inside = 0
_original: Look | None = None
_lock = Lock()


def read_menus_once() -> None:
    """Let the poverty thresholds' calculator read its menu of areas once, and not for every threshold.

    ``spm_calculator`` asks 'is this area in the year's menu?' for each distinct pair of household size and
    county, and parses 345 JSON texts for the answer, 5 to 8 ms each time. The forecast is immutable and known
    by its digest, so its menu is too.
    """
    from spm_calculator.rolling_forecast import SPMForecast

    original: Callable[..., dict[str, Any]] = SPMForecast.areas_for_year
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def areas_for_year(self: Any, year: int, *, scenario: Any = None, as_of: Any = None) -> dict[str, Any]:
        key = (self.content_sha256, year, scenario, as_of)
        if key not in _menus:
            _menus[key] = original(self, year, scenario=scenario, as_of=as_of)
        return dict(_menus[key])

    SPMForecast.areas_for_year = areas_for_year


@contextmanager
def tables_of_parameters() -> Iterator[None]:
    """Look parameters up by vectors of names in tables that are kept, while inside.

    For ``parameters.rate[county]`` the rules engine stacks the children of the node anew at every call (a
    hundred counties, for each month and branch) and sorts the vector's texts: half of the fixed cost of a
    simulation. Here the engine itself looks up every name once, and rows of that answer are taken.
    """
    from policyengine_core.parameters import VectorialParameterNodeAtInstant as Node

    global _inside, _original
    with _lock:
        _inside += 1
        if _inside == 1:
            _original = Node.__getitem__
            Node.__getitem__ = _patched(Node, _original)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                Node.__getitem__ = _original


def _patched(node: Any, original: Look) -> Look:
    def look_up(self: Any, key: Any) -> Any:
        found = _numbers(original, self, key)
        if found is None:
            return original(self, key)
        table, numbers = found
        if isinstance(table, node):
            return node(self._name, table.vector[numbers], self._instant_str)
        return table[numbers]

    return look_up


def _numbers(original: Look, node: Any, key: Any) -> tuple[Any, NDArray[np.intp]] | None:
    """Return the table of a node and the row of each key, or None where the engine must look itself."""
    # Rows of a node that was indexed before are no table of its children; one key is quick anyway.
    if not isinstance(key, np.ndarray) or key.ndim != 1 or len(key) < 2 or len(node.vector) != 1:
        return None
    if node not in _tables:
        _tables[node] = _table(original, node)
    known = _tables[node]
    if known is None:
        return None
    table, number, whole = known
    enum = getattr(key, "possible_values", None)
    if enum is not None:
        if not whole:
            return None  # where a parameter is not a number, the engine refuses codes of names
        items = list(enum)
        of_code = np.full(max(item.index for item in items) + 1, -1, dtype=np.intp)
        of_code[[item.index for item in items]] = [number.get(item.name, -1) for item in items]
        rows = of_code[np.asarray(key)]
    elif key.dtype.kind in "OUiub":
        codes, distinct = pd.factorize(key, use_na_sentinel=False)
        if not all(isinstance(one, (str, np.integer, np.bool_)) for one in distinct):
            return None
        rows = np.array([number.get(str(one), -1) for one in distinct], dtype=np.intp)[codes]
    else:
        return None
    # The engine has words for a name that is no child.
    return None if (rows < 0).any() else (table, rows)


def _table(original: Look, node: Any) -> tuple[Any, dict[str, int], bool] | None:
    from policyengine_core.parameters.helpers import contains_nan

    names = node.vector.dtype.names
    if names is None or len(names) < 2:
        return None
    table = original(node, np.array(names))
    vector = table if isinstance(table, np.ndarray) else table.vector
    return table, {name: row for row, name in enumerate(names)}, not contains_nan(vector)
