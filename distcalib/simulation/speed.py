"""What the rules engine repeats for nothing, done once. No value changes: the tests compare bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# The menu of a year's areas, by forecast, year, scenario and information date.
_menus: dict[tuple[Any, ...], dict[str, Any]] = {}

# Poverty thresholds: by forecast, place and composition of the household.
_thresholds: dict[tuple[Any, ...], tuple[float, ...]] = {}

# Arrays of texts of the simulation at hand: a copy, the number of each among the distinct ones, and those.
_seen: dict[tuple[int, ...], tuple[NDArray[Any], NDArray[np.intp], NDArray[Any]]] = {}

# Tax systems of earlier years by name: the tree of parameters that each was cloned from, and the clone.
_pins: dict[str, tuple[ref[Any], Any]] = {}

Look = Callable[[Any, Any], Any]
# Of a node of parameters: what each child's name gives, and the number of each name. None: has no such table.
_tables: WeakKeyDictionary[Any, tuple[Any, dict[str, int], bool] | None] = WeakKeyDictionary()

# How many simulations are inside, and what was there before them: owner, name, value.
_inside = 0
_before: list[tuple[Any, str, Any]] = []
_lock = Lock()


@contextmanager
def repeats_spared() -> Iterator[None]:
    """Let the rules engine do what it repeats once, while inside.

    - Parameters are looked up by vectors of names in tables that are kept (`_look_up`).
    - A poverty threshold is computed once for each household composition, tenure and county, not in every
      simulation: it depends on nothing else. Its provenance is not recorded.
    - The calculator of these thresholds reads its menu of a year's areas once, not for each threshold (345
      JSON texts, 4 to 8 ms). The forecast is immutable and known by its digest, so its menu is too.
    - A tax system with credits of an earlier year, which New York's child credit asks for, is cloned once for
      a tree of parameters, not in every simulation (10 s or more, and more than 1 GiB).
    - Whether SNAP's time limit is waived is looked up once for each county, not for each person in each
      state's list.
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
                _seen.clear()
                for _, system in _pins.values():
                    # A system names its last simulation, with all of its arrays.
                    system.__dict__.pop("simulation", None)
                while _before:
                    owner, name, value = _before.pop()
                    _put(owner, name, value)


def kept_systems() -> int:
    """Return how many cloned tax systems this process keeps for later simulations, about 2 s of `gc` each."""
    return len(_pins)


def _install() -> None:
    from policyengine_core.parameters import VectorialParameterNodeAtInstant as Node
    from policyengine_us.system import system
    from policyengine_us.tools import pinned_tbs
    from spm_calculator.policyengine_adapter import PolicyEngineSPMProvider as Provider
    from spm_calculator.rolling_forecast import SPMForecast

    waived = system.variables["is_in_snap_abawd_waived_area"].formulas.peekitem()[1].__globals__
    for owner, name, replacement in (
        (Node, "__getitem__", _look_up),
        (Provider, "_amounts", _amounts),
        (SPMForecast, "areas_for_year", _menu_of),
        (pinned_tbs, "_get_pinned_tbs", _pinned),
        (waived, "in_listed_abawd_waiver_area", _by_county),
    ):
        original = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        _before.append((owner, name, original))
        _put(owner, name, replacement(original))


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, name, value)


def _amounts(original: Callable[..., tuple[float, ...]]) -> Callable[..., tuple[float, ...]]:
    def amounts(self: Any, *unit: Any) -> tuple[float, ...]:
        place = (self.scenario, self.as_of, self.geography_kind, self.geography_id, self.county_vintage)
        key = (self.forecast.content_sha256, *place, *unit)
        if key not in _thresholds:
            _thresholds[key] = original(self, *unit)
        return _thresholds[key]

    return amounts


def _menu_of(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def areas_for_year(self: Any, year: int, *, scenario: Any = None, as_of: Any = None) -> dict[str, Any]:
        key = (self.content_sha256, year, scenario, as_of)
        if key not in _menus:
            _menus[key] = original(self, year, scenario=scenario, as_of=as_of)
        return dict(_menus[key])

    return areas_for_year


def _pinned(original: Callable[..., Any]) -> Callable[..., Any]:
    def pinned(base: Any, name: str, pin: Any) -> Any:
        # Every simulation has a system of its own around the one tree of parameters. The engine's own store
        # is not used: a reform of variables alone, by whoever else works in this process, keeps the tree too.
        tree = base.parameters
        known = _pins.get(name)
        if known is None or known[0]() is not tree:
            known = _pins[name] = ref(tree), original(base, name, pin)
        return known[1]

    return pinned


def _by_county(original: Callable[..., NDArray[np.bool_]]) -> Callable[..., NDArray[np.bool_]]:
    def in_listed_area(lists: Any, state: Any, county: Any) -> NDArray[np.bool_]:
        (of_state, states), (of_county, counties) = distinct(np.asarray(state)), distinct(np.asarray(county))
        pair, pairs = pd.factorize(of_state * len(counties) + of_county)
        return original(lists, states[pairs // len(counties)], counties[pairs % len(counties)])[pair]

    return in_listed_area


def distinct(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return the number of each value among the distinct ones, and those.

    An array of texts that was seen before in this simulation, object by object, is not read again.
    """
    if values.dtype != object or not values.flags.c_contiguous or len(values) < 2:
        return _factorized(values)
    pointers = np.frombuffer(values, dtype=np.intp)
    mark = len(pointers), int(pointers[0]), int(pointers[len(pointers) // 2]), int(pointers[-1])
    known = _seen.get(mark)
    # Equal pointers are the same texts, for the copy keeps each of them alive.
    if known is None or not np.array_equal(np.frombuffer(known[0], dtype=np.intp), pointers):
        known = _seen[mark] = (values.copy(), *_factorized(values))
    return known[1:]


def _factorized(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    codes, found = pd.factorize(values, use_na_sentinel=False)
    return codes, np.asarray(found)


def _look_up(original: Look) -> Look:
    """Return a lookup in tables of a node's children.

    For ``parameters.rate[county]`` the rules engine stacks the children of the node anew at every call (a
    hundred counties, for each month and branch) and sorts the vector's texts: half of the fixed cost of a
    simulation. Here the engine itself looks up every name once, and rows of that answer are taken. For a
    second vector, as in ``parameters.rate[county][size]``, each row takes its own child.
    """
    from policyengine_core.parameters import VectorialParameterNodeAtInstant as Node

    def look_up(self: Any, key: Any) -> Any:
        if not isinstance(key, np.ndarray) or key.ndim != 1 or len(key) < 2:
            return original(self, key)
        if len(self.vector) == len(key):
            chosen = _own_child(self.vector, key)
            return original(self, key) if chosen is None else chosen
        found = _numbers(original, self, key)
        if found is None:
            return original(self, key)
        table, numbers = found
        if isinstance(table, Node):
            return Node(self._name, table.vector[numbers], self._instant_str)
        return table[numbers]

    return look_up


def _own_child(vector: Any, key: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return of each row the child that its key names; None where the engine must look itself."""
    names = vector.dtype.names
    if (
        names is None
        or key.dtype.kind not in "iu"
        or hasattr(key, "possible_values")
        or any(vector.dtype[name].kind != "f" for name in names)
    ):
        return None
    codes, numbers = pd.factorize(key)
    words = [str(number) for number in numbers]
    if not set(words) <= set(names):
        return None
    chosen = np.empty(len(key))
    for code, word in enumerate(words):
        rows = np.flatnonzero(codes == code)
        chosen[rows] = vector[word][rows]
    # The engine has words for a name that is no child.
    return None if np.isnan(chosen).any() else chosen


def _numbers(original: Look, node: Any, key: NDArray[Any]) -> tuple[Any, NDArray[np.intp]] | None:
    """Return the table of a node and the row of each key, or None where the engine must look itself."""
    # Rows of a node that was indexed before are no table of its children; one key is quick anyway.
    if len(node.vector) != 1:
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
        codes, values = distinct(key)
        if not all(isinstance(one, (str, np.integer, np.bool_)) for one in values):
            return None
        rows = np.array([number.get(str(one), -1) for one in values], dtype=np.intp)[codes]
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
