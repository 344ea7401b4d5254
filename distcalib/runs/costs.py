"""What simulations cost: a model fitted to measurements, by which a plan cuts its columns into tasks."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.states import STATE_CODES, STATE_FIPS
from distcalib.microdata.model import Microdata
from distcalib.simulation.engine import RulesSimulation, engine_version, open_published, simulate
from distcalib.simulation.place import place
from distcalib.targets.reforms import REFORMS

#: What a task should take at most: so that a lost one is little, and many workers find work.
SECONDS, BYTES = 30.0, 3.3 * 2**30
#: Sizes that are measured.
SIZES = (300, 1_500, 4_000)
#: What reforms are measured by.
REFORMED = "income_tax"


@dataclass(frozen=True)
class Costs:
    """CPU seconds and peak bytes of one simulation of n households that is asked for v computed variables.

    Attributes
    ----------
    policyengine_us
        Version that was measured.
    measured
        When and where, for people.
    simulate_seconds, verify_seconds
        a, b, c, d of ``a + b v + (c + d v) n``: in a task, and through a file opened with `Microsimulation`.
    simulate_bytes, verify_bytes
        Memory of a worker that has been in every state (the rules engine keeps the parameters of each), and
        of each household on top.
    reform_seconds
        a, b of ``a + b n``: of each reform.
    states
        Postal code -> factors of the seconds of a simulation there and of those of each household in it, for
        rules are longer or shorter than in the state that was measured; 1 and 1 where it is not named.
    """

    policyengine_us: str
    measured: str
    simulate_seconds: tuple[float, float, float, float]
    verify_seconds: tuple[float, float, float, float]
    simulate_bytes: tuple[float, float]
    verify_bytes: tuple[float, float]
    reform_seconds: tuple[float, float]
    states: dict[str, tuple[float, float]] = field(default_factory=dict)

    def seconds(
        self,
        households: int,
        variables: int,
        reforms: int = 0,
        *,
        verify: bool = False,
        state: int | None = None,
    ) -> float:
        """Return CPU seconds; `state` is a FIPS code, None: of the state that was measured."""
        a, b, c, d = self.verify_seconds if verify else self.simulate_seconds
        once, each = self.reform_seconds
        first, more = (1.0, 1.0) if state is None else self.states.get(STATE_CODES[state], (1.0, 1.0))
        fixed = a + b * variables + reforms * once
        return first * fixed + more * (c + d * variables + reforms * each) * households

    def bytes(self, households: int, *, verify: bool = False) -> int:
        """Return the peak memory of the worker."""
        fixed, each = self.verify_bytes if verify else self.simulate_bytes
        return int(fixed + each * households)

    def largest(self, variables: int, reforms: int = 0, held: int = 0, *, state: int | None = None) -> int:
        """Return the most households, in hundreds, that keep to `SECONDS` and `BYTES`; at least 100.

        `held` bytes are of the run's own placement.
        """
        fixed = self.seconds(0, variables, reforms, state=state)
        each = self.seconds(1, variables, reforms, state=state) - fixed
        by_time = (SECONDS - fixed) / each if each > 0 else np.inf
        by_memory = (BYTES - held - self.simulate_bytes[0]) / self.simulate_bytes[1]
        return max(100, int(min(by_time, by_memory, 100_000) // 100 * 100))


def bundled_costs() -> Costs:
    """Return the costs that the package ships: two shared cores, all bundled targets."""
    with resources.as_file(resources.files("distcalib.simulation") / "bundled/costs.json") as path:
        return read_costs(path)


def read_costs(path: str | Path) -> Costs:
    """Read costs that `measure_costs` found.

    Raises
    ------
    InputError
        Names file, field and value.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", place=path, expected="a file of `distcalib data costs`"
        ) from None
    names = [f.name for f in fields(Costs)]
    if isinstance(raw, dict):
        raw = {"states": {}} | raw
    wrong = sorted(set(raw) ^ set(names)) if isinstance(raw, dict) else ["not a table"]
    if wrong:
        raise InputError("has a field too many or too few", place=path, value=wrong[0], choices=names)
    seconds = {"simulate_seconds": 4, "verify_seconds": 4, "reform_seconds": 2}
    for name, length in {**seconds, "simulate_bytes": 2, "verify_bytes": 2}.items():
        _require_numbers(raw[name], length, f"{path}: {name}")
        raw[name] = tuple(raw[name])
    if raw["simulate_bytes"][1] <= 0:
        raise InputError("is no cost", place=f"{path}: simulate_bytes", value=0, expected="bytes a household")
    if not isinstance(raw["states"], dict):
        raise InputError(
            "is no table", place=f"{path}: states", value=raw["states"], expected="state: factor"
        )
    for state, value in raw["states"].items():
        if state not in STATE_FIPS:
            raise InputError("is no state", place=f"{path}: states", value=state, choices=STATE_FIPS)
        _require_numbers(value, 2, f"{path}: states.{state}")
    raw["states"] = {state: tuple(factors) for state, factors in raw["states"].items()}
    return Costs(**raw)


def _require_numbers(value: object, length: int, place: str) -> None:
    numbers = isinstance(value, list) and all(
        type(v) in (int, float) and np.isfinite(v) and v >= 0 for v in value
    )
    if not numbers or len(value) != length:  # type: ignore[arg-type]
        raise InputError("is no cost", place=place, value=value, expected=f"{length} numbers of 0 or more")


def measure_costs(
    source: Microdata,
    assignment: GeographyAssignment,
    variables: Iterable[str],
    report: Callable[[str], object] = lambda words: None,
    by_state: bool = False,
) -> Costs:
    """Measure what simulations cost on this machine, in this process.

    Simulates the first columns of the state with the most of them: 300, 1,500 and 4,000 households, for one,
    half and all of the variables, each in a task's way and through a file, and fits the model by non-negative
    least squares; then some households of every state, for the memory. Five minutes.

    Parameters
    ----------
    source, assignment
        Donors and the placement of their columns.
    variables
        Computed variables that the plan asks for.
    report
        Told of each measurement.
    by_state
        Measure the first and the last of the sizes in every state too, for its factors; five minutes more.
    """
    states, counts = np.unique(assignment.state_fips, return_counts=True)
    columns = np.flatnonzero(assignment.state_fips == states[np.argmax(counts)])
    asked = sorted(set(variables))
    sets = [asked[:1], asked[::2], asked] if len(asked) > 2 else [asked]
    sizes = sorted({min(n, len(columns)) for n in SIZES})
    found: dict[str, Any] = {}
    with _tasks_way(place(source, assignment, columns[:100])) as warm:
        for variable in asked:
            warm.calculate(variable)
    for name, way in (("simulate", _tasks_way), ("verify", _through_a_file)):
        rows, seconds, each = [], [], 0.0
        # The largest first: what it frees serves the others, so they show no growth.
        for size in reversed(sizes):
            data = place(source, assignment, columns[:size])
            before = _memory(reset=True)
            for some in sets:
                began = time.process_time()
                with way(data) as simulation:
                    for variable in some:
                        simulation.calculate(variable)
                seconds.append(time.process_time() - began)
                each = max(each, (_memory() - before) / size) if size == sizes[-1] else each
                rows.append([1, len(some), size, size * len(some)])
                report(f"{name}: {size} households, {len(some)} variables: {seconds[-1]:.2f} CPU seconds")
        found[f"{name}_seconds"] = _solved(rows, seconds)
        found[f"{name}_bytes"] = (each,)
    rows, seconds = [], []
    for size in sizes:
        with _tasks_way(place(source, assignment, columns[:size])) as simulation:
            simulation.calculate(REFORMED)
            for reform in REFORMS:
                began = time.process_time()
                simulation.calculate(REFORMED, reform)
                seconds.append(time.process_time() - began)
                rows.append([1, size])
        report(f"a reform: {size} households: {np.mean(seconds[-len(REFORMS) :]):.2f} CPU seconds")
    found["reform_seconds"] = _solved(rows, seconds)
    for state in states:
        home = np.flatnonzero(assignment.state_fips == state)[:50]
        with _tasks_way(place(source, assignment, home)) as simulation:
            for variable in asked:
                simulation.calculate(variable)
    everywhere = _memory(reset=True)
    report(f"a worker that has been in {len(states)} states holds {everywhere / 2**30:.2f} GiB")
    for name in ("simulate_bytes", "verify_bytes"):
        # The second way reuses what the first has freed, and needs no less.
        found[name] = (
            float(everywhere),
            float(round(max(1_000, found[name][-1], found["simulate_bytes"][-1]))),
        )
    costs = Costs(
        policyengine_us=engine_version(),
        measured=f"{len(asked)} variables, {sizes} households of state {int(states[np.argmax(counts)])}",
        **found,
    )
    return replace(costs, states=_factors(costs, source, assignment, asked, report)) if by_state else costs


def _factors(
    costs: Costs,
    source: Microdata,
    assignment: GeographyAssignment,
    asked: list[str],
    report: Callable[[str], object],
) -> dict[str, tuple[float, float]]:
    """Return the factors of each state; one for both where it has too few columns to tell them apart."""
    out = {}
    fixed = costs.seconds(0, len(asked))
    each = costs.seconds(1, len(asked)) - fixed
    for state in np.unique(assignment.state_fips).tolist():
        columns, rows, seconds = np.flatnonzero(assignment.state_fips == state), [], []
        for size in sorted({min(n, len(columns)) for n in (SIZES[0], SIZES[-1])}):
            data = place(source, assignment, columns[:size])
            began = time.process_time()
            with _tasks_way(data) as simulation:
                for variable in asked:
                    simulation.calculate(variable)
            seconds.append(time.process_time() - began)
            rows.append([fixed, each * size])
            report(f"{STATE_CODES[state]}: {size} households: {seconds[-1]:.2f} CPU seconds")
        one = float(f"{seconds[0] / sum(rows[0]):.4g}")
        first, more = _solved(rows, seconds) if len(rows) > 1 else (one, one)
        out[STATE_CODES[state]] = first, more
    return out


def _solved(rows: Sequence[Sequence[float]], seconds: list[float]) -> tuple[float, ...]:
    """Return non-negative coefficients of least squares of relative errors, so that small tasks count."""
    from scipy.optimize import nnls

    scale = 1 / np.array(seconds)
    solved, _ = nnls(np.array(rows, dtype=np.float64) * scale[:, None], np.ones(len(rows)))
    return tuple(float(f"{x:.4g}") for x in solved)


def write_costs(costs: Costs, path: str | Path) -> None:
    """Write costs where a run's ``simulation.costs`` names them."""
    from distcalib.storage import write_json

    write_json(Path(path), asdict(costs))


@contextmanager
def _tasks_way(data: Microdata) -> Iterator[RulesSimulation]:
    with simulate(data) as simulation:
        yield simulation


@contextmanager
def _through_a_file(data: Microdata) -> Iterator[RulesSimulation]:
    with tempfile.TemporaryDirectory(prefix="distcalib-") as folder:
        path = Path(folder) / "area.h5"
        data.write(path)
        opened = open_published(path, data.period)
        yield next(opened)
        next(opened, None)


def _memory(reset: bool = False) -> int:
    """Return the peak of resident memory since the last reset, which makes it that of now; bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
