"""The proof of a run: which files cover it, and the tasks that check and recompute them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from distcalib.areas.area import Area, kept
from distcalib.digest import digest_of
from distcalib.geography.assignment import GeographyAssignment
from distcalib.runs.area_stage import AreaFiles, states_of
from distcalib.runs.plan import Plan
from distcalib.runs.tasks import Inputs
from distcalib.runs.verify import TOGETHER, CheckTask, Held, ProveTask, Slice
from distcalib.simulation.installed import RULES

#: What opening a slice costs apart from its households, in households.
FIXED = 1_500
#: A task has about this part of the work, so that many workers end together; one slice is never parted.
TASKS = 32


@dataclass
class Cover:
    """What the files of one fit prove.

    Attributes
    ----------
    states, districts
        FIPS codes of states and GEOIDs of districts whose households are all in files.
    files
        District -> the file that its households are opened in.
    nation
        Whether all households are in files.
    """

    states: set[int] = field(default_factory=set)
    districts: set[int] = field(default_factory=set)
    files: dict[int, str] = field(default_factory=dict)
    nation: bool = False


@dataclass
class Proof:
    """The proof of a run.

    Attributes
    ----------
    checks, tasks
        The tasks of the two stages: each file by itself and beside the others, then recomputing.
    covers
        Name of a fit (the first: '') -> what its files prove.
    others
        Named areas that get totals.
    names
        Code of a state or district -> its name.
    """

    checks: list[CheckTask]
    tasks: list[ProveTask]
    covers: dict[str, Cover]
    others: tuple[Area, ...]
    names: dict[int, str]


def proof_of(
    plan: Plan,
    inputs: Inputs,
    files: AreaFiles,
    written: dict[str, str],
    assignment: GeographyAssignment,
) -> Proof:
    """Say how the files that are written prove the run.

    States' files are opened where they are written, else the nation's, else the districts'. National files of
    further fits are opened state range by state range.

    Parameters
    ----------
    plan, inputs, files, assignment
        Of the run.
    written
        Path -> sha256 of each output of the areas' tasks.
    """
    same_ids = plan.run.areas.ids == "compact"
    run = Path(inputs.run)
    there = {area for area in files.written if area.file in written}
    everywhere = states_of(assignment)
    names = {area.code: area.name for state, districts in everywhere for area in (state, *districts)}
    held: list[list[Held]] = []
    slices: list[Slice] = []
    covers: dict[str, Cover] = {}
    nations = {area.fit: area for area in there if area.kind == "national"}
    others = tuple(sorted((a for a in there if a.kind == "others"), key=lambda a: a.name))
    for fit in sorted({"", *nations}):
        weights = np.load(run / (nations[fit].weights if fit else "fit/weights.npy"))
        has = weights > 0
        count = _counts(assignment.cd_geoid[has])
        cover, nation, begin = covers.setdefault(fit, Cover()), nations.get(fit), 0
        parts: list[tuple[Area, int, tuple[int, int]]] = []
        for state, districts in everywhere:
            places = _places(districts, count)
            n = sum(count.get(d.code, 0) for d in districts)
            opened = _opened(fit, state, districts, places, nation, begin, n, there)
            if not fit:
                files_here = _held(state, districts, places, n, there, written, same_ids)
                held += [files_here] if files_here else []
                parts += _beside(files_here, begin, places)
            slices += [cut for one in opened for cut in _cut(one, plan.run.verify.slice_households)]
            # A state without a record is held by the nation's file, which has none of it.
            whole = bool(opened or nation) and sum(s.last - s.first for s in opened) == n
            cover.states |= {state.code} if whole else set()
            within = {d.code for d in districts if whole or d in there}
            cover.districts |= within
            cover.files |= {d: _file(opened, d, places) for d in within if opened}
            begin += n
        cover.nation = len(cover.states) == len(everywhere)
        if nation is not None:
            held.append([Held(nation, written[nation.file], begin, tuple(parts), same_ids)])
    wholes = [a for a in there if a.kind == "states"]
    held += [[_other(a, wholes, nations.get(""), assignment, run, written, same_ids)] for a in others]
    return Proof(
        _checks(held, plan, inputs, written),
        _tasks(_some_plain(slices, plan, written), plan, inputs, written, others),
        covers,
        others,
        names,
    )


def _counts(codes: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(codes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _places(districts: Iterable[Area], count: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Return where the households of each district stand in those of their state."""
    places, at = {}, 0
    for one in sorted(districts, key=lambda d: d.code):
        places[one.code] = at, at + count.get(one.code, 0)
        at = places[one.code][1]
    return places


def _opened(
    fit: str,
    state: Area,
    districts: tuple[Area, ...],
    places: dict[int, tuple[int, int]],
    nation: Area | None,
    begin: int,
    n: int,
    there: set[Area],
) -> list[Slice]:
    """Return what is opened for a state, not yet cut: its file, else the nation's, else the districts'."""
    if not n:
        return []
    if not fit and state in there:
        return [Slice(state.file, fit, state.code, 0, 0, n)]
    if nation is not None:
        return [Slice(nation.file, fit, state.code, begin, 0, n)]
    return [
        Slice(d.file, fit, state.code, -places[d.code][0], *places[d.code]) for d in districts if d in there
    ]


def _held(
    state: Area,
    districts: tuple[Area, ...],
    places: dict[int, tuple[int, int]],
    n: int,
    there: set[Area],
    written: dict[str, str],
    same_ids: bool,
) -> list[Held]:
    """Return a state's files that are checked; the districts' are held against the state's."""
    out = [Held(state, written[state.file], n)] if state in there else []
    for one in districts:
        if one in there:
            a, b = places[one.code]
            within = ((state, 0, (a, b)),) if state in there else ()
            out.append(Held(one, written[one.file], b - a, within, same_ids))
    return out


def _beside(
    held: list[Held], begin: int, places: dict[int, tuple[int, int]]
) -> list[tuple[Area, int, tuple[int, int]]]:
    """Return a state's files that the nation's is held against, with their place in it."""
    if held and held[0].area.kind == "states":
        return [(held[0].area, begin, (0, held[0].households))]
    return [(h.area, begin + places[h.area.code][0], (0, h.households)) for h in held]


def _file(opened: list[Slice], district: int, places: dict[int, tuple[int, int]]) -> str:
    at = places[district][0]
    return next((s.file for s in opened if s.first <= at < s.last), "")


def _other(
    area: Area,
    states: list[Area],
    nation: Area | None,
    assignment: GeographyAssignment,
    run: Path,
    written: dict[str, str],
    same_ids: bool,
) -> Held:
    columns = kept(area, assignment, np.load(run / area.weights))
    if nation is not None:
        return Held(area, written[area.file], len(columns), ((nation, 0, None),), same_ids)
    count, at = _counts(assignment.state_fips[columns]), 0
    within: list[tuple[Area, int, None]] = []
    for code in sorted(count):
        within += [(state, at, None) for state in states if state.code == code]
        at += count[code]
    return Held(area, written[area.file], len(columns), tuple(within), same_ids)


def _cut(one: Slice, size: int) -> list[Slice]:
    """Cut what is opened into near-equal slices of at most `size`, at multiples of `TOGETHER`."""
    n = one.last - one.first
    k = 1 if n <= size else -(-n // max(size - TOGETHER, TOGETHER))
    inner = np.linspace(one.first, one.last, k + 1)[1:-1] / TOGETHER
    edges = sorted({one.first, one.last, *(int(e) * TOGETHER for e in inner.round())})
    edges = [e for e in edges if one.first <= e <= one.last]
    return [Slice(one.file, one.fit, one.state, one.begin, a, b) for a, b in pairwise(edges)]


def _some_plain(slices: list[Slice], plan: Plan, written: dict[str, str]) -> list[Slice]:
    """Mark the slices that are opened a second time; which they are differs from run to run."""
    order = sorted(slices, key=lambda s: digest_of([written[s.file], asdict(s)]))
    chosen = set(order[: plan.run.verify.plain])
    return [replace(s, plain=s in chosen) for s in slices]


def _cost(one: Slice) -> int:
    return (FIXED + one.last - one.first) * (1 + 2 * one.plain)


def _tasks(
    slices: list[Slice], plan: Plan, inputs: Inputs, written: dict[str, str], others: tuple[Area, ...]
) -> list[ProveTask]:
    """Pack slices into tasks, small states together; the longest first."""
    room = min(FIXED + plan.run.verify.slice_households, sum(map(_cost, slices)) // TASKS)
    packs: list[list[Slice]] = []
    for one in sorted(slices, key=lambda s: (s.fit, s.state, s.first)):
        if packs and sum(map(_cost, packs[-1])) + _cost(one) <= room:
            packs[-1].append(one)
        else:
            packs.append([one])
    packs.sort(key=lambda pack: -sum(map(_cost, pack)))
    tasks = []
    for pack in packs:
        said = {
            **_depends(plan),
            "files": {s.file: written[s.file] for s in pack},
            "slices": [asdict(s) for s in pack],
            "totals": list(plan.run.verify.totals),
            "others": {a.name: [str(c) for c in a.where] for a in others},
        }
        tasks.append(ProveTask(inputs, digest_of(said), tuple(pack), plan.run.verify.totals, others))
    return tasks


def _checks(held: list[list[Held]], plan: Plan, inputs: Inputs, written: dict[str, str]) -> list[CheckTask]:
    tasks = []
    for some in sorted(held, key=lambda some: -sum(h.households for h in some)):
        said = {
            **_depends(plan),
            "files": {h.area.file: h.sha256 for h in some},
            "within": [[[a.file, written[a.file], at, there] for a, at, there in h.within] for h in some],
            "ids": [h.same_ids for h in some],
            "households": [h.households for h in some],
        }
        known = [replace(h, beside=tuple(written[a.file] for a, _, _ in h.within)) for h in some]
        tasks.append(CheckTask(inputs, digest_of(said), tuple(known)))
    return tasks


def _depends(plan: Plan) -> dict[str, str]:
    return {
        "stage": "verify",
        "code": plan.code["verify"],
        "rows": plan.inputs["rows"],
        "rules": plan.versions[RULES],
    }
