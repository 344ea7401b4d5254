"""`RunConfig`: every setting with its default, meaning and allowed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from distcalib.config.schema import read_settings, section, sections, setting, table
from distcalib.config.yaml_text import parse_yaml
from distcalib.errors import InputError

T = TypeVar("T")

# What analysts look at in every area. Poverty is that of the SPM, counted in persons.
TOTALS = (
    "person_in_poverty",
    "household_net_income",
    "household_market_income",
    "household_benefits",
    "household_tax",
    "income_tax",
    "state_income_tax",
)

# Settings of geography that name files.
GEOGRAPHY_FILES = ("blocks", "block_population", "crosswalk", "cbsa", "pinned")
# All settings that name files.
PATHS = (
    "microdata", "targets.database", "targets.rules", "targets.aca_multipliers",
    "simulation.costs", "simulation.take_up_rates", *(f"geography.{name}" for name in GEOGRAPHY_FILES),
)  # fmt: skip
#: Stages of a run, in their order.
STAGES = ("simulate", "assemble", "fit", "areas", "verify")
# What settings that a caller gives beside a file are called in errors.
CHANGES = "--set"


class FromFile:
    """Settings that know the file they were read from, for errors; it is no part of what they say."""

    file: ClassVar[str] = "settings"

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, of the same file."""
        return of_file(replace(self, **values), self.file)  # type: ignore[type-var]


def of_file(settings: T, file: str) -> T:
    """Let settings know their file."""
    object.__setattr__(settings, "file", file)
    return settings


@dataclass(frozen=True)
class TargetsConfig:
    """Which official statistics to fit."""

    database: str = setting("bundled", "'bundled', a SQLite file, or a SQLAlchemy URL")
    variables: tuple[str, ...] | None = setting(None, "keep only targets of these variables")
    rules: str | None = setting(None, "YAML file of include, exclude, fit and check rules")
    idle_rules: str = setting(
        "error",
        "rules that match no target: error, or warn, for a file that was written for another database",
        choices=("error", "warn"),
    )
    uprate: bool = setting(
        False, "carry values of other years by CPI-U or population; bundled statuses are of published ones"
    )
    hierarchical_domains: tuple[str, ...] = setting(
        (), "domains whose districts are scaled to the figures of their states"
    )
    aca_multipliers: str | None = setting(
        None, "CSV ..._FROM_TO.csv of state, vol_mult, val_mult for the domain aca_ptc; null: bundled"
    )


@dataclass(frozen=True)
class GeographyConfig:
    """How clones are placed."""

    congress: int = setting(119, "Congress whose districts are meant", least=119, most=119)
    districts: tuple[str | int, ...] | None = setting(
        None, "only these districts (any spelling); null: all of them"
    )
    agi_conditioning: bool = setting(
        False, "the top tenth of incomes draws districts by the adjusted gross income there"
    )
    blocks: str | None = setting(None, "file or folder of the census blocks of each district")
    block_population: str | None = setting(None, "file of residents by block, where `blocks` has none")
    crosswalk: str | None = setting(None, "file of the place, PUMA, ZCTA ... of each block")
    cbsa: str | None = setting(None, "file of the metropolitan area (CBSA) of each county")
    pinned: str | None = setting(None, "CSV of household_id, state: households whose clones stay there")


@dataclass(frozen=True)
class SimulationConfig:
    """How columns are simulated."""

    slice_households: int | None = setting(
        None, "most columns simulated by one task; null: by the costs", least=1
    )
    costs: str | None = setting(
        None, "JSON of measured costs (`distcalib data costs`); null: the bundled ones"
    )
    take_up: bool = setting(True, "draw take-up of programs; false: flags as stored in the microdata")
    take_up_rates: str | None = setting(None, "CSV of take-up rates; null: the bundled ones")


@dataclass(frozen=True)
class FitConfig:
    """Sparse weights: a selection of records, and a refit of the chosen ones."""

    preset: str | None = setting(
        None,
        "penalty of the gates: local (1e-8, nearly all stay) or national (1e-4, few stay)",
        choices=("local", "national"),
    )
    selector: str = setting(
        "auto",
        "what chooses: gates (L0), or reweighted (L1 down to `records`); auto: the latter with `records`",
        choices=("auto", "gates", "reweighted"),
    )
    engine: str = setting("auto", "fit engine", choices=("auto", "cpu", "cuda", "torch", "l0"))
    records: int | float | None = setting(
        None,
        "keep exactly so many columns, or a share of those with a weight; null: those whose gate is open",
        least=1,
        share=True,
    )
    lambda_l0: float | None = setting(
        None, "loss per expected open gate; null: the preset's, else the engine's default", least=0
    )
    lambda_l2: float = setting(0.0, "loss per squared weight over design weight, of the gates", least=0)
    initial_keep: float = setting(0.999, "probability with which a gate starts open", above=0, most=0.999999)
    beta: float = setting(0.35, "temperature of the gates", above=0)
    learning_rate: float = setting(0.15, "step of the gates", above=0)
    loss: str = setting("squared", "of a relative error", choices=("squared", "huber", "capped_mape"))
    loss_knee: float | None = setting(
        None, "where huber turns into a line (0.1), or where capped_mape is capped (1)", above=0
    )
    tolerance_bands: bool = setting(False, "errors within a target's tolerance cost nothing")
    multipliers: dict[str, float] = table(
        "factors of the loss of a variable's targets, or of VARIABLE@LEVEL", least=0
    )
    epochs: int = setting(200, "epochs of the gates; 0 selects nothing and refits all columns", least=0)
    group_power: float = setting(0.0, "a group of n targets has n^power of the loss", least=0, most=1)
    refit_epochs: int = setting(2000, "the most steps of the refit", least=0)
    ridge: float = setting(0.001, "pull of the refit toward the design weights", least=0)
    lower_bound: float = setting(0.02, "least final weight over design weight", least=0, most=1)
    upper_bound: float = setting(50.0, "largest final weight over design weight", least=1)
    weight_ratio: float | None = setting(
        None, "largest final weight over design weight before that is scaled to the mass of all", above=0
    )
    share_cap: float | None = setting(None, "largest share of a column in any fitted target", above=0)
    effective_share: float | None = setting(
        None, "least effective sample size of a district, as a share of its records", above=0, most=0.95
    )
    conserve_mass: bool = setting(False, "the weights sum to the design weights")
    holdout: float | None = setting(None, "share of targets held out to stop the refit", above=0, most=0.5)
    holdout_by: str = setting(
        "place",
        "held out together: target; place (variable in a state and its districts); family (variable)",
        choices=("target", "place", "family"),
    )
    few_donors: float = setting(
        10.0, "a target of fewer effective donors is listed as weakly supported", least=0
    )


@dataclass(frozen=True)
class AreasConfig:
    """Which files to write."""

    districts: bool = setting(True, "one file a district")
    states: bool = setting(True, "one file a state; verification opens these")
    national: bool = setting(True, "one file for the nation, and one for each further fit")
    others: dict[str, str | None] = table(
        "more areas by name: a filter such as 'county_fips in 36005 36047'; null: the built-in one (NYC)"
    )
    ids: str = setting(
        "compact",
        "of units: compact (of the column), or ranges of 25,000 a district",
        choices=("compact", "ranges"),
    )
    only: tuple[str, ...] | None = setting(
        None, "write and prove only these now: [MN, CA-12, NYC, US]; null: all"
    )


@dataclass(frozen=True)
class VerifyConfig:
    """What the files are held to."""

    tolerance: float = setting(1e-6, "largest |file - X.w| / sum(|x| w) of a fitted target", above=0)
    slice_households: int = setting(
        12_000, "most households of a file that are opened at once", least=400, most=24_000
    )
    plain: int = setting(
        2,
        "slices that are opened again with nothing of the rules engine spared; values must be equal",
        least=0,
    )
    totals: tuple[str, ...] = setting(
        TOTALS, "variables summed for every area besides those of the targets (verify/areas.csv)"
    )
    accept: tuple[str, ...] = setting(
        (),
        "findings of the gates that are known: 'VARIABLE: why', 'VARIABLE@AREA: why', '*@AREA: why'; and "
        "warnings of the plan, by words of them: 'plan@WORDS: why'",
    )
    population: float = setting(0.05, "a district further from its population target is listed", above=0)


@dataclass(frozen=True)
class RunConfig(FromFile):
    """Everything that decides what a run produces; equal settings and inputs give equal outputs.

    Read one with `RunConfig.load`. The fields are the settings of a run; ``distcalib config show demo
    --docs`` prints each with its default and meaning.
    """

    name: str = setting("run", "name of the run, for people")
    microdata: str = setting("bundled", "'bundled', a PolicyEngine HDF5 file, or hf://OWNER/REPO/PATH")
    households: int | None = setting(
        None, "draw so many households of the microdata, for trials; null: all of them", least=1
    )
    design_weights: str = setting(
        "microdata",
        "of the households: those of the microdata, or equal, for the population of the districts",
        choices=("microdata", "equal"),
    )
    period: int = setting(2024, "calendar year", least=2015, most=2035)
    n_clones: int = setting(3, "clones of each household", least=1, most=2000)
    seed: int = setting(0, "seed of every draw", least=0)
    targets: TargetsConfig = section(TargetsConfig, "official statistics")
    geography: GeographyConfig = section(GeographyConfig, "placement of clones")
    simulation: SimulationConfig = section(SimulationConfig, "simulation tasks")
    fit: FitConfig = section(FitConfig, "weights")
    fits: dict[str, FitConfig] = sections(
        FitConfig, "further fits of the same matrix by name, what they do not say as in `fit`"
    )
    areas: AreasConfig = section(AreasConfig, "files")
    verify: VerifyConfig = section(VerifyConfig, "proof")

    @classmethod
    def load(cls, name_or_path: str | Path | None, changes: Mapping[str, object] | None = None) -> RunConfig:
        """Read a preset of the package (``demo``) or a YAML file.

        Parameters
        ----------
        name_or_path
            The preset or file; None: every setting has its default.
        changes
            Settings in place of what the file says, by dotted name: ``{"fit.records": 5000}``. Paths among
            them are relative to the current folder, those in a file to that file.

        Raises
        ------
        InputError
            Names the file, the field, the value and the nearest valid choice.
        """
        raw, place = read_run_settings(name_or_path)
        own = nested(changes or {}, CHANGES)
        read_settings(cls, own, CHANGES)  # an error in them names them, not the file
        return of_file(read_settings(cls, _inherited(merged(raw, own)), place), place)


def read_run_settings(name_or_path: str | Path | None) -> tuple[object, str]:
    """Return what a preset or a file says, its paths from the current folder, and its name for errors."""
    if name_or_path is None:
        return {}, "settings"
    raw, place = read_yaml(name_or_path, presets())
    # A path in a file is relative to that file, so a run does not depend on where it is started.
    base = Path() if str(name_or_path) in presets() else Path(name_or_path).parent
    return _located(raw, base), place


def nested(changes: Mapping[str, object], place: str) -> dict[str, Any]:
    """Return settings by dotted name as a file would say them.

    >>> nested({"seed": 1, "fit.beta": 0.5}, "--set")
    {'seed': 1, 'fit': {'beta': 0.5}}
    """
    out: dict[str, Any] = {}
    for name, value in changes.items():
        *sections, key = name.split(".")
        here = out
        for name_of in sections:
            here = here.setdefault(name_of, {})
            if not isinstance(here, dict):
                raise InputError("is given twice", place=place, value=name, expected="each setting once")
        if key in here:
            raise InputError("is given twice", place=place, value=name, expected="each setting once")
        here[key] = value
    return out


def merged(raw: object, changes: Mapping[str, Any]) -> object:
    """Return what a file says with `changes` in the places of theirs, section by section."""
    if not isinstance(raw, Mapping):
        return changes if raw is None else raw
    both = {k: merged(raw[k], v) for k, v in changes.items() if k in raw and isinstance(v, Mapping)}
    return {**raw, **changes, **both}


def _located(raw: object, base: Path) -> object:
    """Return settings whose paths lead from the current folder."""
    if not isinstance(raw, Mapping):
        return raw
    found: dict[str, Any] = dict(raw)
    for name in PATHS:
        section, _, key = name.rpartition(".")
        held = found.get(section) if section else found
        value = held.get(key) if isinstance(held, Mapping) else None
        if isinstance(value, str) and value != "bundled" and "://" not in value:
            if section:
                found[section] = {**found[section], key: str(base / value)}
            else:
                found[key] = str(base / value)
    return found


def _inherited(raw: object) -> object:
    """Give each further fit the settings of `fit` that it does not name."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("fits"), Mapping):
        return raw
    said = raw.get("fit")
    base = said if isinstance(said, Mapping) else {}
    fits = {
        name: {**base, **(own or {})} if own is None or isinstance(own, Mapping) else own
        for name, own in raw["fits"].items()
    }
    return {**raw, "fits": fits}


def memory_bytes(text: str, place: object = None) -> int:
    """Return the bytes that ``4GiB``, ``800 MB`` ... stand for.

    >>> memory_bytes("4GiB")
    4294967296
    """
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    words = str(text).strip().upper().replace(" ", "")
    number = words.rstrip("BGIKM")
    unit = words[len(number) :] or "B"
    try:
        amount = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise InputError(
            "is not an amount of memory", place=place, value=text, expected="such as 4GiB"
        ) from None
    if amount <= 0:
        raise InputError("is not an amount of memory", place=place, value=text, expected="more than 0")
    return amount


def presets() -> dict[str, str]:
    """Return the texts of the run presets in the package, by name."""
    folder = resources.files("distcalib.config").joinpath("presets")
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and entry.name != "cluster.yaml"
    }


def starting_text(preset: str) -> str:
    """Return the text of a preset, or of the cluster file that lists every setting of clusters."""
    folder = resources.files("distcalib.config").joinpath("presets")
    known = {**presets(), "cluster": folder.joinpath("cluster.yaml").read_text(encoding="utf-8")}
    if preset not in known:
        raise InputError(
            "no such preset", place="--preset", value=preset, choices=known,
            expected=f"one of {', '.join(sorted(known))}",
        )  # fmt: skip
    return known[preset]


def read_yaml(name_or_path: str | Path, named: dict[str, str]) -> tuple[object, str]:
    """Return what a preset or a YAML file says, and what to call it in errors."""
    text = str(name_or_path)
    if text in named:
        source, place = named[text], f"preset {text}"
    else:
        path = Path(text)
        if not path.is_file():
            raise InputError(
                "no such preset or file",
                value=text,
                expected="a YAML file" + (f" or a preset ({', '.join(sorted(named))})" if named else ""),
                choices=[*named, *(str(p) for p in Path().glob("*.yaml"))],
            )
        try:
            source, place = path.read_text(encoding="utf-8"), text
        except UnicodeDecodeError:
            raise InputError("is not text in UTF-8", place=text) from None
    return parse_yaml(source, place), place
