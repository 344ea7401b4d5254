"""The files of a run: which there are, which stand already, and the tasks that write the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.areas.area import PRESETS, Area, in_order, nobody
from distcalib.areas.filters import inside, read_filter
from distcalib.areas.ids import LARGEST_PERSON
from distcalib.config import RunConfig
from distcalib.digest import digest_arrays, digest_of
from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES
from distcalib.microdata.model import Microdata
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt, Verifier, read_receipt, verified
from distcalib.runs.tasks import AreaTask, Inputs
from distcalib.simulation.installed import RULES

# A file costs as much as so many households in it (measured with 151 columns), whatever their number.
FILE_HOUSEHOLDS = 700
# A task has about this part of the work, so that many workers end together; one file is never parted.
TASKS = 32


@dataclass(frozen=True)
class AreaFiles:
    """The files that a run writes and proves now.

    Attributes
    ----------
    states
        Each state that has a file, with its districts.
    nation
        The file of all households, if there is one.
    nations
        The national files of further fits.
    others
        Named areas.
    alone
        Districts that have a file though their state has none.
    with_districts
        Whether the districts of `states` have files.
    """

    states: tuple[tuple[Area, tuple[Area, ...]], ...]
    nation: Area | None
    nations: tuple[Area, ...] = ()
    others: tuple[Area, ...] = ()
    alone: tuple[Area, ...] = ()
    with_districts: bool = True

    @property
    def written(self) -> tuple[Area, ...]:
        """Every area that has a file: nations, states each with its districts, others."""
        first = () if self.nation is None else (self.nation,)
        states = [a for s, parts in self.states for a in (s, *(parts if self.with_districts else ()))]
        return (*first, *self.nations, *states, *self.alone, *self.others)


def files_of(run: RunConfig, assignment: GeographyAssignment) -> AreaFiles:
    """Return the files of a run that places its households so.

    Raises
    ------
    InputError
        For a filter that cannot be read, or an ``areas.only`` that names no area of the run.
    """
    files = _all_files(run, assignment)
    if run.areas.only is None:
        return files
    place = f"{run.file}: areas.only"
    return _chosen(files, run.areas.only, assignment, place)


def states_of(assignment: GeographyAssignment) -> tuple[tuple[Area, tuple[Area, ...]], ...]:
    """Return every state of a run with its districts, whether or not they have files; in order."""
    geoids = np.unique(assignment.cd_geoid).tolist()
    return tuple(
        (
            Area("states", STATE_CODES[fips], fips),
            tuple(Area("districts", District(g).name, g) for g in geoids if g // 100 == fips),
        )
        for fips in sorted({g // 100 for g in geoids})
    )


def _all_files(run: RunConfig, assignment: GeographyAssignment) -> AreaFiles:
    asked, states = run.areas, states_of(assignment)
    others = []
    for name, text in asked.others.items():
        place = f"{run.file}: areas.others.{name}"
        if text is None and name not in PRESETS:
            raise InputError(
                "has no filter, and there is none of that name", place=place, value=name, choices=PRESETS,
                expected="a filter such as county_fips in 36005 36047",
            )  # fmt: skip
        where = read_filter(PRESETS[name] if text is None else text, assignment, place)
        others.append(Area("others", name, where=where))
    return AreaFiles(
        states=states if asked.states else (),
        nation=Area("national", "US") if asked.national else None,
        nations=tuple(Area("national", name, fit=name) for name in run.fits if asked.national),
        others=tuple(others),
        alone=() if asked.states or not asked.districts else tuple(d for _, ds in states for d in ds),
        with_districts=asked.districts,
    )


def parse_only(text: str) -> tuple[str, ...]:
    """Return the names in a list such as ``MN,CA-12,NYC,US``; `files_of` finds them among a run's areas.

    >>> parse_only("MN, CA-12")
    ('MN', 'CA-12')
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise InputError("names no area", place="--only", value=text, expected="such as MN,CA-12,US")
    return names


def _chosen(
    files: AreaFiles, only: tuple[str, ...], assignment: GeographyAssignment, place: str
) -> AreaFiles:
    """Return the part of the files that is named; a state stands for itself and its districts."""
    named = {area.name: area for area in files.written}
    geoids = [a.code for a in named.values() if a.kind == "districts"]
    found: set[Area] = set()
    others = list(files.others)
    for text in only:
        name = text if text in named else text.upper()
        preset = None if name in named else _preset(name, assignment)
        if preset is not None:
            named[name] = preset
            others.append(preset)
        if name not in named:
            try:
                name = District.parse(text, known=geoids).name
            except InputError:
                raise InputError(
                    "is no area that this run has a file of", place=place, value=text, choices=named,
                    expected="a state, a district, US, or a name of areas.others or fits",
                ) from None  # fmt: skip
        if name not in named:
            raise InputError("has no file in this run", place=place, value=text, choices=named)
        found.add(named[name])
    states = tuple((s, parts) for s, parts in files.states if s in found)
    within = {d for _, parts in states for d in parts}
    return replace(
        files,
        states=states,
        nation=files.nation if files.nation in found else None,
        nations=tuple(a for a in files.nations if a in found),
        others=tuple(a for a in others if a in found),
        alone=tuple(a for a in named.values() if a.kind == "districts" and a in found - within),
    )


def _preset(name: str, assignment: GeographyAssignment) -> Area | None:
    """Return a built-in area that need not be among the settings'; None where there is no such one here."""
    if name not in PRESETS or not assignment.county_fips.any():
        return None
    return Area("others", name, where=read_filter(PRESETS[name], assignment, name))


def check_areas(config: RunConfig, assignment: GeographyAssignment, source: Microdata) -> list[str]:
    """Refuse now what the writing of the files would refuse after all simulation; return warnings.

    Parameters
    ----------
    config, assignment, source
        Settings, placement and donors of the run.

    Raises
    ------
    InputError
        For filters and lists that `files_of` refuses, an area where no household is placed, two areas of one
        name, and compact ids that are too large for the rules engine.
    """
    files = files_of(config, assignment)
    columns = np.arange(assignment.n_columns)
    taken = {*STATE_CODES.values(), *(District(int(g)).name for g in np.unique(assignment.cd_geoid)), "US"}
    warnings = []
    names = [("areas.others", name) for name in config.areas.others]
    names += [("fits", name) for name in config.fits if config.areas.national]
    for section, name in names:
        if name in taken:
            raise InputError(
                "is the name of another area", place=f"{config.file}: {section}", value=name,
                expected="a name of its own, for it names files",
            )  # fmt: skip
        taken.add(name)
    for area in files.others:
        place = f"{config.file}: areas.others.{area.name}"
        if not inside(area.conditions, assignment, columns).any():
            words = " and ".join(map(str, area.conditions))
            raise InputError("holds no household of this run", place=place, value=words)
        for each in area.conditions:
            if each.field == "county_fips" and each.operator == "in":
                absent = sorted(set(map(int, each.values)) - set(np.unique(assignment.county_fips).tolist()))
                if absent:
                    codes = ", ".join(f"{c:05d}" for c in absent[:8])
                    warnings.append(f"{place}: no household is placed in {len(absent)} counties: {codes}")
    largest = assignment.n_clones * source.count("person")
    if config.areas.ids == "compact" and largest > LARGEST_PERSON:
        raise InputError(
            f"gives person ids of up to {largest:,}, and the rules engine has room for {LARGEST_PERSON:,}",
            place=f"{config.file}: areas.ids", value="compact", expected="ranges, or fewer clones",
        )  # fmt: skip
    return warnings


@dataclass
class AreaWork:
    """What is there of a run's files, and what is to be done.

    Attributes
    ----------
    ids
        Of every file that is written now: its receipt's id.
    standing
        Verified receipts of the fitted weights by id, of files that are written now and of others.
    tasks
        They write what has no verified receipt; largest first.
    """

    folder: Path
    ids: dict[Area, str]
    standing: dict[str, Receipt] = field(default_factory=dict)
    tasks: list[AreaTask] = field(default_factory=list)

    @property
    def reused(self) -> int:
        """How many files need not be written."""
        return sum(one in self.standing for one in self.ids.values())

    def receipts(self) -> list[Receipt]:
        """Return the receipt of every file, once the tasks are done."""
        now = (self.standing.get(one) or read_receipt(self.folder, "areas", one) for one in self.ids.values())
        return [receipt for receipt in now if receipt is not None]

    def used(self) -> set[str]:
        """Return the paths that belong to the run: files of the fitted weights, and their receipts."""
        receipts = {r.id: r for r in (*self.standing.values(), *self.receipts())}
        paths = {path for r in receipts.values() for path in r.outputs}
        return paths | {f"receipts/areas/{one}.json" for one in receipts}

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of the files: how many of each kind, their bytes, and which."""
        kinds = Counter(area.kind for area in self.ids)
        facts = [facts for r in self.receipts() for facts in r.facts["areas"].values()]
        return {
            **{kind: kinds[kind] for kind in ("districts", "states", "national", "others")},
            "bytes": sum(one["bytes"] for one in facts),
            "proven": sorted(area.file for area in self.ids),
        }


def area_work(
    plan: Plan,
    inputs: Inputs,
    files: AreaFiles,
    assignment: GeographyAssignment,
    done: Verifier = verified,
) -> AreaWork:
    """Return what is to be written, given the fitted weights and the receipts of the run folder.

    `done` gives the receipt of an area that verifies.

    Raises
    ------
    RunError
        When an area has no household with weight.
    """
    folder = Path(inputs.run)
    settings = plan.run.areas
    everything = _all_files(plan.run.changed(areas=replace(settings, only=None)), assignment)
    presets = [a for name in PRESETS if (a := _preset(name, assignment)) and name not in settings.others]
    possible = dict.fromkeys((*files.written, *everything.written, *presets))
    columns: dict[Area, NDArray[np.int64]] = {}
    ids: dict[Area, str] = {}
    depends = {
        "stage": "areas",
        "code": plan.code["areas"],
        "inputs": {k: plan.inputs[k] for k in ("microdata", "assignment")},
        "rules": plan.versions[RULES],
        "period": plan.run.period,
        "seed": plan.run.seed,
        "take_up": plan.inputs.get("take_up", plan.run.simulation.take_up),
        "ids": settings.ids,
    }
    for path in sorted({area.weights for area in possible}):
        weights = np.load(folder / path)
        mine = [area for area in possible if area.weights == path]
        whole = in_order(assignment, np.flatnonzero(weights > 0))
        for area, some in zip(mine, _columns(mine, assignment, whole), strict=True):
            columns[area] = some
            # Ranges number the households of a district that are not in the area too.
            all_of_them = settings.ids == "ranges" and area.kind == "others"
            held = whole if all_of_them else some
            share = digest_arrays({"columns": held, "weights": weights[held]})
            told = {"kind": area.kind, "name": area.name, "where": [str(c) for c in area.conditions]}
            ids[area] = digest_of({**depends, "weights": share, "area": told})
    if empty := [area.name for area in files.written if not columns[area].size]:
        raise nobody(*empty)
    work = AreaWork(folder, {area: ids[area] for area in files.written})
    for one in ids.values():
        receipt = done(folder, "areas", one)
        if receipt is not None:
            work.standing[one] = receipt
    open_files = {a: len(columns[a]) for a, one in work.ids.items() if one not in work.standing}
    for areas in pack(open_files):
        named = tuple(work.ids[area] for area in areas)
        work.tasks.append(AreaTask(inputs, digest_of(named), areas, named, settings.ids))
    return work


def _columns(
    areas: Iterable[Area], assignment: GeographyAssignment, whole: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Give the columns of each area among those with weight, which are in the order of files."""
    geoid = assignment.cd_geoid[whole]
    scale = {"districts": 1, "states": 100}
    for area in areas:
        if area.kind in scale:
            ends = np.array([area.code, area.code + 1]) * scale[area.kind]
            start, stop = np.searchsorted(geoid, ends)
            yield whole[start:stop]
        else:
            yield whole[inside(area.conditions, assignment, whole)] if area.where else whole


def pack(households: dict[Area, int]) -> list[tuple[Area, ...]]:
    """Return areas in packs of even duration, the longest first.

    A state and its districts are together, so that each household is placed once; a large state's districts
    are parted from it, small states share a pack.

    Parameters
    ----------
    households
        Of each area.
    """
    cost = {area: FILE_HOUSEHOLDS + n for area, n in households.items()}
    share = sum(cost.values()) / TASKS
    groups: dict[Any, list[Area]] = {}
    for area in households:
        key = {"states": area.code, "districts": area.code // 100}.get(area.kind, area)
        groups.setdefault(key, []).append(area)
    pieces: list[list[Area]] = []
    for group in groups.values():
        group.sort(key=lambda area: (area.kind != "states", area.code))
        if sum(cost[area] for area in group) <= 2 * share:
            pieces.append(group)
            continue
        some: list[Area] = []
        for area in group:
            if some and (some[0].kind == "states" or sum(cost[a] for a in (*some, area)) > share):
                pieces.append(some)
                some = []
            some.append(area)
        pieces.append(some)
    size = {id(piece): sum(cost[area] for area in piece) for piece in pieces}
    packs: list[tuple[float, list[Area]]] = []
    for piece in sorted(pieces, key=lambda p: -size[id(p)]):
        at = next((i for i, (n, _) in enumerate(packs) if n + size[id(piece)] <= share), None)
        if at is None:
            packs.append((size[id(piece)], list(piece)))
        else:
            packs[at] = packs[at][0] + size[id(piece)], packs[at][1] + piece
    packs.sort(key=lambda one: -one[0])
    return [tuple(areas) for _, areas in packs]
