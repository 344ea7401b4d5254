"""What microdata give before any calibration: each household at home, with its own weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import DistcalibError, InputError, RunError
from distcalib.geography.assign import GeographyAssignment, own_state_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.geography.states import STATE_CODES
from distcalib.matrix.measures import Measure, evaluate
from distcalib.microdata.model import Array, Microdata
from distcalib.simulation.engine import RulesSimulation, simulate
from distcalib.simulation.place import place

TakeUp = Literal["drawn", "stored"]

# Bounds the memory of one simulation at about 2 GB; values do not depend on who else is in it.
_HOUSEHOLDS_AT_ONCE = 12_000


@dataclass(frozen=True)
class Simulated:
    """Households at home, under the rules of their own state.

    Attributes
    ----------
    state_fips
        int32, shape (n households,).
    weights
        Design weights, float64, shape (n households,).
    table
        float32, shape (n households, n measures): counts, or sums in the unit of the variable.
    columns
        Variable -> values at its own entity, shape (n of the entity,), in the order of the microdata.
    failed
        Variable -> what the rules engine said, of optional measures that it could not compute somewhere.
    """

    state_fips: Array
    weights: Array
    table: Array
    columns: dict[str, Array]
    failed: dict[str, str]


def weighted_by_state(simulated: Simulated, measures: Sequence[Measure]) -> pd.DataFrame:
    """Return the weighted totals of measures by state.

    Parameters
    ----------
    simulated
        What `simulate_at_home` gave for `measures`.
    measures
        What was counted or summed.

    Returns
    -------
    DataFrame
        float64; index state_fips (int64, sorted, the states of the microdata), one column a measure, named
        ``str(measure)``.
    """
    fips, at = np.unique(simulated.state_fips, return_inverse=True)
    out = np.zeros((len(fips), len(measures)))
    for i in range(len(fips)):
        mine = at == i
        # A sum and no matrix product: the order of the latter depends on the number of threads.
        out[i] = (simulated.weights[mine, None] * simulated.table[mine]).sum(axis=0)
    index = pd.Index(fips.astype(np.int64), name="state_fips")
    return pd.DataFrame(out, index=index, columns=[str(m) for m in measures])


def donors_by_state(simulated: Simulated, measures: Sequence[Measure]) -> pd.DataFrame:
    """Return, in the form of `weighted_by_state`, how many households with a weight are not zero (int64)."""
    counted = (simulated.table != 0) & (simulated.weights > 0)[:, None]
    index = pd.Index(simulated.state_fips.astype(np.int64), name="state_fips")
    frame = pd.DataFrame(counted, index=index, columns=[str(m) for m in measures])
    return frame.groupby(level=0).sum().astype(np.int64)


def simulate_at_home(
    microdata: Microdata,
    measures: Sequence[Measure],
    variables: Iterable[str] = (),
    *,
    take_up: TakeUp = "drawn",
    seed: int = 0,
    optional: Collection[Measure] = (),
    claiming: Collection[str] = (),
    report: Callable[[dict[str, Any]], object] = lambda event: None,
    name: str = "simulate",
) -> Simulated:
    """Simulate every household in its own state, state by state.

    Parameters
    ----------
    microdata
        Households with ``state_fips`` and ``household_weight``.
    measures
        What to evaluate for each household.
    variables
        Variables to give unit by unit as well.
    take_up
        ``drawn``: flags drawn as a run draws them; ``stored``: those of the microdata (or the rules'
        defaults).
    seed
        Seed of the take-up draws, and of district and county within the state.
    optional
        Measures that may fail: NaN for the households of that simulation, and listed in `Simulated.failed`.
    claiming
        Take-up flags that are True for everybody, whatever `take_up` says.
    report
        Takes the events stage, task (one a simulation) and stage_done.
    name
        Name of the stage in the events and in errors.

    Raises
    ------
    InputError
        For microdata without states, or in a state that is none of the 50 and DC.
    RunError
        When the rules engine fails; the message names the state and the variable.
    """
    if take_up not in get_args(TakeUp):
        raise InputError("unknown way of take-up", place="take_up", value=take_up, choices=get_args(TakeUp))
    assignment = at_home(microdata, seed)
    variables = list(variables)
    table = np.zeros((microdata.count(), len(measures)), dtype=np.float32)
    columns: dict[str, Array] = {}
    failed: dict[str, str] = {}
    parts = [
        part
        for fips in np.unique(assignment.state_fips)
        for part in _parts(np.flatnonzero(assignment.state_fips == fips))
    ]
    began = perf_counter()
    report({"event": "stage", "stage": name, "tasks": len(parts), "reused": 0})
    for part in parts:
        where = f"{name}: state {STATE_CODES[int(assignment.state_fips[part[0]])]}"
        data = place(
            microdata,
            assignment,
            part,
            weights=microdata.weights[part],
            seed=seed,
            take_up=take_up != "stored",
        )
        everybody = {f: np.ones(data.count(catalogue().get(f).entity), dtype=bool) for f in claiming}
        data = data.with_columns(everybody)
        try:
            with simulate(data, where) as simulation:
                table[part] = _evaluate(list(measures), set(optional), simulation, failed)
                given = {v: simulation.calculate(v) for v in variables}
                del simulation  # else it would outlive the collection at the end of this block
        except DistcalibError:
            report({"event": "stage_failed", "stage": name})
            raise
        except Exception as error:
            report({"event": "stage_failed", "stage": name})
            words = f"{type(error).__name__}: {error}"
            raise RunError(f"{where}: policyengine-us does not take these households: {words}") from error
        for variable, values in given.items():
            entity = catalogue().get(variable).entity
            if variable not in columns:
                # Names of an Enum differ in width from state to state.
                kind = object if values.dtype.kind in "UOT" else values.dtype
                columns[variable] = np.empty(microdata.count(entity), dtype=kind)
            columns[variable][microdata.rows_of(entity, part)[0]] = values
        report({"event": "task", "stage": name})
    report({"event": "stage_done", "stage": name, "seconds": perf_counter() - began})
    return Simulated(assignment.state_fips, microdata.weights, table, columns, failed)


def _evaluate(
    measures: list[Measure], optional: set[Measure], simulation: RulesSimulation, failed: dict[str, str]
) -> Array:
    """Evaluate measures; columns of optional ones that the rules cannot compute here are NaN."""
    try:
        return evaluate(measures, simulation.data, simulation.calculate)
    except RunError:
        if not optional:
            raise
    here: dict[str, str] = {}
    for variable in sorted(set().union(*(m.needs for m in optional))):
        try:
            simulation.calculate(variable)
        except RunError as error:
            here[variable] = str(error)
    possible = [i for i, m in enumerate(measures) if m not in optional or not m.needs & here.keys()]
    table = np.full((simulation.data.count(), len(measures)), np.nan, dtype=np.float32)
    # A measure that is not optional fails again here, for good.
    chosen = [measures[i] for i in possible]
    table[:, possible] = evaluate(chosen, simulation.data, simulation.calculate)
    failed |= {v: words for v, words in here.items() if v not in failed}
    return table


def at_home(microdata: Microdata, seed: int) -> GeographyAssignment:
    """Leave every household in its own state, in a district and county drawn by population.

    Raises
    ------
    InputError
        For microdata without states, or in a state that is none of the 50 and DC.
    """
    fips = microdata.column("state_fips").astype(np.int64)
    strange = np.setdiff1d(fips, list(STATE_CODES))
    if strange.size:
        raise InputError(
            f"{int(np.isin(fips, strange).sum())} households outside the 50 states and DC",
            place=f"microdata: state_fips/{microdata.period}",
            value=int(strange[0]),
            expected="the FIPS code of a state",
        )
    return own_state_geography(microdata.ids["household"], fips, districts(), county_shares(), seed)


def _parts(rows: Array) -> list[Array]:
    return np.array_split(rows, -(-len(rows) // _HOUSEHOLDS_AT_ONCE))
