"""The plan of a run: a value that says every task before the first one starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import distcalib
from distcalib.config import RunConfig
from distcalib.config.settings import GEOGRAPHY_FILES
from distcalib.digest import code_digest, digest_arrays, digest_of
from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.microdata.bundled_data import bundled_path
from distcalib.microdata.hdf5 import unknown_columns
from distcalib.microdata.model import Microdata
from distcalib.microdata.plausible import require_plausible_source
from distcalib.microdata.validate import overridden_variables
from distcalib.notebook import facts_html
from distcalib.runs.asked import absent_inputs, asked_variables, reform_count
from distcalib.runs.costs import bundled_costs, read_costs
from distcalib.runs.fits import check_fits, fits_of, little_room, with_numbers
from distcalib.runs.placement import chosen_districts, place_clones
from distcalib.runs.sizes import COLUMN_BYTES, facts_of, told_of
from distcalib.runs.verify import check_totals
from distcalib.simulation.engine import check_version, engine_version
from distcalib.simulation.installed import RULES, rules_digest
from distcalib.simulation.place import GEOGRAPHY, STALE_WEIGHTS
from distcalib.simulation.takeup import drawn_variables, rates_digest, read_rates, require_known
from distcalib.simulation.takeup import rates as bundled_rates
from distcalib.targets.choose import Targets, load_targets
from distcalib.targets.database import without_password
from distcalib.targets.rules import read_rules

# Settings that say where inputs are or how work is cut; contents have digests of their own.
INCIDENTAL = (
    "name", "microdata", "targets.database", "targets.rules", "targets.idle_rules", "targets.aca_multipliers",
    "simulation.slice_households", "simulation.costs", "simulation.take_up_rates", "verify.slice_households",
    "verify.plain", "areas.only",
    *(f"geography.{name}" for name in GEOGRAPHY_FILES),
)  # fmt: skip

# What each stage's output depends on, by room; a change there makes its old outputs another task's.
_TABLES = ("simulation/bundled/catalogue.json.gz", "simulation/bundled/take_up.csv")
_PLACED = ("catalogue", "geography", "microdata", "random", "runs/tasks", "simulation", *_TABLES)
ROOMS = {
    "simulate": (*_PLACED, "matrix", "targets/constraints", "targets/reforms"),
    "assemble": ("matrix/blocks",),
    "fit": ("fit", "random", "runs/fitting", "targets/families"),
    "areas": (*_PLACED, "areas", "runs/area_stage"),
    "verify": (
        *_PLACED,
        "areas",
        "matrix",
        "runs/verify",
        "runs/verify_stage",
        "targets/constraints",
        "targets/reforms",
    ),
    # What is made of the receipts of the proof in this process, each time: in the plan, in no task's id.
    "judge": (
        "runs/checks",
        "runs/gates",
        "runs/verdict",
        "runs/zero_gate",
        "targets/bundled/targets_2024.csv.gz",
    ),
}
#: The stage that is done anew for what is no stage of its own.
WITHIN = {"judge": "verify"}


@dataclass(frozen=True)
class Slice:
    """The columns of one simulation task: a part of one state's columns.

    Attributes
    ----------
    id
        Digest of everything that the block depends on.
    state_fips
        The state.
    start, stop
        Range among the state's columns in ascending order.
    seconds
        CPU seconds that it is expected to take.
    """

    id: str
    state_fips: int
    start: int
    stop: int
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What a run will do, as a value; equal plans give equal outputs.

    Attributes
    ----------
    run
        The settings.
    inputs
        Content digests of microdata, targets (rows, values, labels, excluded), placement and design weights.
    versions
        Versions of policyengine-us and distcalib, and the digest of the rules engine's files.
    code
        Stage, and what is `WITHIN` one -> digest of the rooms that it uses.
    engines
        The engine of each fit, resolved: of ``fit`` (by the name '') and of the further ones.
    slices
        The simulation tasks.
    facts
        Sizes, for people.
    warnings
        What an analyst should know before the run.
    """

    run: RunConfig
    inputs: dict[str, str]
    versions: dict[str, str]
    code: dict[str, str]
    engines: dict[str, str]
    slices: tuple[Slice, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def digest(self) -> str:
        """Digest of what decides the outputs: not the name, and not how they are cut into tasks."""
        run = asdict(self.run)
        for incidental in INCIDENTAL:
            section, _, key = incidental.rpartition(".")
            (run[section] if section else run).pop(key)
        return digest_of([run, self.inputs, self.versions, self.code, self.engines])

    def slice_id(self, state_fips: int, start: int, stop: int) -> str:
        """Return the id of the task that simulates a range of a state's columns, planned or split off."""
        return _slice_id(self.run, self.inputs, self.versions, state_fips, start, stop)

    def told(self) -> dict[str, str]:
        """Return its sizes in words: columns, targets, work, memory and disk."""
        return told_of(self.run, self.facts)

    def _repr_html_(self) -> str:
        cpu = self.facts["cpu_seconds"]
        long = f"{cpu / 3600:.1f} hours" if cpu >= 3600 else f"{cpu / 60:.0f} minutes"
        time = {"processors": f"about {long} of one, without the fit"}
        table = pd.DataFrame({"warnings": list(self.warnings)}) if self.warnings else None
        return facts_html(f"Plan {self.digest()[:12]}: {self.run.name}", {**self.told(), **time}, table)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, with its digest."""
        plain = json.loads(json.dumps(asdict(self)))
        plain["run"]["targets"]["database"] = without_password(self.run.targets.database)
        return {**plain, "digest": self.digest()}


@dataclass(frozen=True)
class Prepared:
    """A plan with the tables that it was made from."""

    plan: Plan
    targets: Targets
    columns: pd.DataFrame
    assignment: GeographyAssignment
    rates: pd.DataFrame | None = None
    sample: Microdata | None = None

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()


@cache
def _stage_code() -> dict[str, str]:
    return {stage: code_digest(*rooms) for stage, rooms in ROOMS.items()}


def microdata_path(config: RunConfig) -> Path:
    """Return the file that the settings mean."""
    return bundled_path() if config.microdata == "bundled" else Path(config.microdata)


def read_source(config: RunConfig) -> Microdata:
    """Read the microdata that the settings mean, check all of them, and draw the households of a trial."""
    file = microdata_path(config)
    source = Microdata.read(file, config.period)
    # Places are drawn anew, and so are weights, but what they begin with is held to a range too.
    require_plausible_source(source, file, but=(*GEOGRAPHY, *STALE_WEIGHTS))
    if config.households is None:
        return source
    if config.households > source.count():
        raise InputError(
            "is more than the microdata hold",
            place=f"{config.file}: households",
            value=config.households,
            expected=f"at most {source.count()}",
        )
    return source.sample(config.households, config.seed)


def read_run_targets(config: RunConfig) -> Targets:
    """Read the targets that the settings mean, for the districts that they mean; see `load_targets`."""
    from distcalib.geography.sources import districts

    chosen = config.targets
    return load_targets(
        chosen.database,
        config.period,
        set(chosen_districts(config, districts())["cd_geoid"]),
        chosen.variables,
        rules=None if chosen.rules is None else read_rules(chosen.rules),
        idle_rules=chosen.idle_rules,
        uprate=chosen.uprate,
        hierarchical_domains=chosen.hierarchical_domains,
        aca_multipliers=chosen.aca_multipliers,
    )


def make_plan(config: RunConfig, slices: list[tuple[int, int, int]] | None = None) -> Prepared:
    """Read all inputs, place the clones, choose the targets, and say every task.

    Parameters
    ----------
    config
        Settings of the run.
    slices
        (state FIPS, start, stop) of a stored plan that is resumed; without them they follow from
        ``simulation.slice_households``, or from the costs of what the targets ask for.

    Raises
    ------
    InputError
        For anything wrong with microdata, targets, districts or settings.
    """
    from distcalib.fit import resolve_engine
    from distcalib.geography.sources import districts
    from distcalib.runs.area_stage import check_areas

    file = microdata_path(config)
    source = read_source(config)
    if "age" not in source.variables():
        raise InputError(
            f"lacks a column that every rule needs, for {config.period}",
            place=file,
            value="age",
            expected="age",
        )
    table = chosen_districts(config, districts())
    assignment, weights, notes = place_clones(config, source, table)
    targets = read_run_targets(config)
    columns = assignment.frame(source.ids["household"])
    columns["initial_weight"] = weights
    config = with_numbers(config, weights)

    check_fits(config, targets, columns["initial_weight"].to_numpy(np.float64))
    check_totals(config)
    warnings = [*targets.warnings, *notes, *little_room(config, weights)]
    warnings += check_areas(config, assignment, source)
    rates = config.simulation.take_up_rates
    table_of_rates = None
    if config.simulation.take_up:
        table_of_rates = bundled_rates() if rates is None else read_rates(rates)
        require_known(source, table_of_rates)
    costs = bundled_costs() if config.simulation.costs is None else read_costs(config.simulation.costs)
    if costs.policyengine_us != engine_version():
        warnings.append(f"the costs were measured with policyengine-us {costs.policyengine_us}")
    drawn = () if table_of_rates is None else drawn_variables(table_of_rates)
    absent = absent_inputs(targets, source, drawn)
    if absent:
        warnings.append(
            f"targets ask for {len(absent)} inputs that the microdata lack, so every unit has the rules "
            f"engine's default: {_some(absent)}"
        )
    warnings += _foresight(config, targets, source, assignment, weights, drawn)
    ignored = unknown_columns(file)
    if ignored:
        warnings.append(f"policyengine-us ignores {len(ignored)} columns of the microdata: {_some(ignored)}")
    stored = overridden_variables(source)
    if stored:
        warnings.append(f"stored values replace the rules for {len(stored)} variables: {_some(stored)}")
    other_years = sorted(
        {p for t in source.values.values() for p in t if not p.endswith(f"/{source.period}")}
    )
    if other_years:
        warnings.append(
            f"{len(other_years)} columns of other periods are carried along: {_some(other_years)}"
        )
    written = config.areas
    if not (written.states or written.national or written.districts):
        warnings.append(
            "areas.districts, areas.states and areas.national are false: no target is recomputed from files, "
            "so nothing is proven"
        )
    if config.microdata != "bundled" and config.targets.database == "bundled":
        warnings.append("the bundled targets' statuses (fit, check) were decided with the bundled microdata")
    if config.microdata != "bundled" and config.simulation.take_up and rates is None:
        warnings.append(
            "take-up of SNAP, Medicaid, the ACA credit, WIC and filing is drawn at rates solved on the "
            "bundled source: `distcalib data take-up --dataset` solves them on these microdata"
        )
    if config.n_clones > len(table):
        warnings.append(f"{config.n_clones} clones over {len(table)} districts: households repeat a district")

    inputs = {
        "microdata": source.digest(),
        "rows": targets.rows_digest(),
        "values": targets.values_digest(),
        "labels": targets.labels_digest(),
        "excluded": targets.excluded_digest(),
        "assignment": assignment.digest(),
        "initial_weights": digest_arrays({"w": columns["initial_weight"].to_numpy()}),
    }
    if table_of_rates is not None:
        inputs["take_up"] = rates_digest(table_of_rates)
    versions = {
        "policyengine-us": engine_version(),
        "distcalib": distcalib.__version__,
        RULES: rules_digest(),
    }
    check_version()
    asked, reforms = len(asked_variables(targets)), reform_count(targets)

    def most(state: int) -> int:
        held = COLUMN_BYTES * assignment.n_columns
        return config.simulation.slice_households or costs.largest(asked, reforms, held, state=state)

    def one(state: int, start: int, stop: int) -> Slice:
        seconds = round(costs.seconds(stop - start, asked, reforms, state=state), 3)
        return Slice(_slice_id(config, inputs, versions, state, start, stop), state, start, stop, seconds)

    cuts = slices if slices is not None else _cut(assignment, most)
    plan = Plan(
        run=config,
        inputs=inputs,
        versions=versions,
        code=_stage_code(),
        engines={name: resolve_engine(one.engine) for name, one in fits_of(config).items()},
        slices=tuple(one(*cut) for cut in cuts),
        warnings=tuple(warnings),
    )
    return Prepared(
        replace(plan, facts=facts_of(plan, targets, assignment, source, costs)),
        targets,
        columns,
        assignment,
        table_of_rates,
        None if config.households is None else source,
    )


def _foresight(
    config: RunConfig,
    targets: Targets,
    source: Microdata,
    assignment: GeographyAssignment,
    weights: np.ndarray,
    drawn: tuple[str, ...],
) -> list[str]:
    """Return what stands against the targets, as far as it is known before any simulation."""
    from distcalib.fit.feasible import limits_before
    from distcalib.runs.foresight import apart, known_problems, warnings_of

    fit = config.fit
    limits = limits_before(
        weights,
        fit.lower_bound,
        fit.upper_bound,
        None if fit.records is None else int(fit.records),
        bool(fit.lambda_l0 or fit.preset),
        fit.weight_ratio,
    )
    found = known_problems(targets.rows, source, assignment, weights, limits, fit.few_donors, drawn)
    return apart(targets.rows, assignment.cd_geoid) + warnings_of(found)


def _cut(assignment: GeographyAssignment, most: Callable[[int], int]) -> list[tuple[int, int, int]]:
    """Cut every state's columns into near-equal slices of at most `most` of the state."""
    cuts = []
    states, counts = np.unique(assignment.state_fips, return_counts=True)
    for state, count in zip(states.tolist(), counts.tolist(), strict=True):
        edges = np.linspace(0, count, -(-count // most(state)) + 1).round().astype(int).tolist()
        cuts += [(state, a, b) for a, b in pairwise(edges)]
    return cuts


def _slice_id(
    config: RunConfig, inputs: dict[str, str], versions: dict[str, str], state: int, start: int, stop: int
) -> str:
    return digest_of(
        {
            "stage": "simulate",
            "code": _stage_code()["simulate"],
            "rules": versions[RULES],
            "inputs": {name: inputs[name] for name in ("microdata", "rows", "assignment")},
            "period": config.period,
            "seed": config.seed,
            "take_up": inputs.get("take_up", config.simulation.take_up),
            "slice": [state, start, stop],
        }
    )


def _some(names: list[str], n: int = 8) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
