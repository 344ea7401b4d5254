"""The seam to the rules engine: give it placed households, ask it for variables."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import RunError
from distcalib.microdata.hdf5_slice import layout_of, read_slice
from distcalib.microdata.model import Microdata
from distcalib.simulation.missing import refuse_empty_scales
from distcalib.simulation.reforms import reform_of, struck_out
from distcalib.simulation.speed import kept_systems, repeats_spared
from distcalib.simulation.weights import weights_spared


class RulesSimulation:
    """Microdata under the rules: gives variables, or an error that names the place.

    Parameters
    ----------
    engine
        A simulation of policyengine-us over `data`.
    data
        The microdata that it holds.
    place
        Words for errors: which task or file this is.
    """

    def __init__(self, engine: Any, data: Microdata, place: str) -> None:
        self._engine, self.data, self.place = engine, data, place

    def calculate(self, variable: str, reform_id: int = 0) -> np.ndarray:
        """Return a variable at its own entity, shape (n of the entity,), for the period of the data.

        Text and Enum variables come back as str arrays of names.

        Parameters
        ----------
        variable
            A variable of policyengine-us.
        reform_id
            0, or a key of `distcalib.targets.reforms.REFORMS`: the value under that reform.

        Raises
        ------
        InputError
            For an unknown variable or reform.
        RunError
            When the rules engine cannot compute it, or gives NaN or infinity; never a zero instead.
        """
        entity = catalogue().get(variable, place=self.place).entity
        name = f"{variable} under the reform of the {reform_of(reform_id).label}" if reform_id else variable
        try:
            # Formulas divide by zero where a later `where` discards the result; what reaches us is checked.
            with np.errstate(all="ignore"), self._under(reform_id) as engine:
                values = engine.calculate(variable, self.data.period)
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise RunError(f"{self.place}: policyengine-us failed on {name}: {words}") from error
        return checked(values, name, self.data.count(entity), self.place)

    def close(self) -> None:
        """Let go of the rules engine's simulation, whoever still holds this; it answers no more."""
        self._engine = None

    def _under(self, reform_id: int) -> AbstractContextManager[Any]:
        if reform_id:
            return struck_out(self._engine, reform_id, self.data.period)
        return nullcontext(self._engine)


def checked(values: Any, variable: str, count: int, place: str) -> np.ndarray:
    """Return the plain array of what the rules engine gave; raise `RunError` unless finite and complete."""
    # Microsimulation wraps what it gives in a weighted series, which warns when it is unwrapped its own way.
    plain = pd.Series.to_numpy(values) if isinstance(values, pd.Series) else values
    array = np.asarray(plain.decode_to_str() if hasattr(plain, "decode_to_str") else plain)
    if array.shape != (count,):
        raise RunError(f"{place}: {variable} has shape {array.shape}, expected ({count},)")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RunError(f"{place}: {variable} is not finite for {int((~np.isfinite(array)).sum())} units")
    return array


def _rules_engine() -> ModuleType:
    check_version()
    import policyengine_us

    refuse_empty_scales()
    return policyengine_us


_aside = False
# Tax systems kept for later simulations that are set aside, too.
_systems = 0


def set_aside() -> None:
    """Keep what this process holds now out of every later collection: its pages stay shared by its forks."""
    global _aside
    gc.collect()
    gc.freeze()
    _aside = True


@contextmanager
def _collected() -> Iterator[None]:
    """Collect what was made inside, and only that: simulations are full of cycles and hold tens of MB.

    The rules engine's three million objects are set aside meanwhile, or each collection walks them (2 s).
    Warm workers have set them aside for good, and so they do with a tax system that a simulation left to
    later ones; there nothing is taken back.
    """
    global _systems
    # Counting the frozen walks them all (0.3 s).
    mine = not _aside and gc.get_freeze_count() == 0
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if mine:
            gc.unfreeze()
        elif _aside and kept_systems() > _systems:
            gc.freeze()
            _systems = kept_systems()


@contextmanager
def simulate(data: Microdata, place: str = "simulation") -> Iterator[RulesSimulation]:
    """Simulate placed households of one state, and give the memory back afterwards.

    Mixing states is slow, because every state's formulas then run. `Simulation` gives the same values as
    `Microsimulation`, bit for bit, without a weighted series around every intermediate array.
    """
    rules = _rules_engine()
    with _collected(), repeats_spared():
        simulation = RulesSimulation(rules.Simulation(dataset=_InMemoryDataset(data)), data, place)
        try:
            yield simulation
        finally:
            simulation.close()


@contextmanager
def _spared() -> Iterator[None]:
    """Spare repeats, and look for cycles more rarely: nearly no weighted series has one."""
    often = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        with repeats_spared(), weights_spared():
            yield
    finally:
        gc.set_threshold(*often)


@contextmanager
def open_slice(
    path: str | Path, period: int, households: tuple[int, int] | None = None, *, spared: bool = False
) -> Iterator[RulesSimulation]:
    """Open neighbouring households of a file with `Microsimulation`, and give the memory back afterwards.

    Parameters
    ----------
    path
        A published dataset.
    period
        Its year.
    households
        Position of the first, and behind the last; None, or all of them: the file itself is opened, as its
        user does. Values do not depend on who else is in a file, and memory would grow with its size.
    spared
        Let the rules engine do once what it repeats; see `distcalib.simulation.speed.repeats_spared` and
        `distcalib.simulation.weights.weights_spared`.
    """
    rules = _rules_engine()
    dataset: Any = str(path)
    if households is None or households == (0, layout_of(path, period).households):
        data = Microdata.read(path, period)
    else:
        data = read_slice(path, period, *households)
        dataset = _InMemoryDataset(data)
    with _collected(), _spared() if spared else nullcontext():
        simulation = RulesSimulation(rules.Microsimulation(dataset=dataset), data, str(path))
        try:
            yield simulation
        finally:
            simulation.close()


def open_published(path: str | Path, period: int, at_most: int | None = None) -> Iterator[RulesSimulation]:
    """Open a file as its user does, with `Microsimulation`, in parts of at most `at_most` households.

    Parameters
    ----------
    path, period
        As for `open_slice`.
    at_most
        None: the whole file at once.

    Yields
    ------
    RulesSimulation
        One a part, in the order of the file. Only one is open at a time.
    """
    if at_most is None:
        with open_slice(path, period) as simulation:
            yield simulation
        return
    n = layout_of(path, period).households
    edges = np.linspace(0, n, -(-n // at_most) + 1).round().astype(int).tolist()
    for part in pairwise(edges):
        with open_slice(path, period, part) as simulation:
            yield simulation


def engine_version() -> str:
    """Return the version of the installed policyengine-us, without importing it."""
    return metadata.version("policyengine-us")


def check_version() -> None:
    """Raise `RunError` unless the installed policyengine-us is the one that the catalogue describes."""
    if engine_version() != catalogue().version:
        raise RunError(
            f"policyengine-us {engine_version()} is installed, but the bundled catalogue describes "
            f"{catalogue().version}: install that version, or rewrite the catalogue"
        )


class _InMemoryDataset:
    """Placed microdata in the form that PolicyEngine's loader takes, equal to what a file would give it."""

    data_format = "time_period_arrays"
    name = "placed"
    label = "placed households"

    def __init__(self, data: Microdata) -> None:
        self.time_period = str(data.period)
        self._data = data

    def load(self) -> dict[str, dict[str, np.ndarray]]:
        data, out = self._data, {}
        period = str(data.period)
        for entity in ENTITIES:
            out[f"{entity}_id"] = {period: data.ids[entity]}
        for entity in GROUP_ENTITIES:
            out[f"person_{entity}_id"] = {period: data.ids[entity][data.links[entity]]}
        for table in data.values.values():
            for path, array in table.items():
                name, when = path.split("/")
                out.setdefault(name, {})[when] = array
        # A file is read in name order; the same order here makes the two paths one.
        return dict(sorted(out.items()))
