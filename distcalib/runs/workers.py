"""What every worker says it is before its first task; one that is not what the plan needs gets none."""

from __future__ import annotations

import asyncio
import importlib
import platform
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import psutil
from distributed import WorkerPlugin

from distcalib.digest import code_digest
from distcalib.errors import RunError
from distcalib.runs.execute import Result
from distcalib.runs.plan import ROOMS
from distcalib.simulation.installed import RULES, rules_digest

VERSIONS = (
    "dask", "distcalib", "distributed", "h5py", "numba", "numpy", "pandas", "policyengine-core",
    "policyengine-us", "scipy", "spm-calculator", "zarr",
)  # fmt: skip
_WARM = "distcalib.simulation.warm"

# Of this process as a worker: None before it was asked, "" when it may compute, else why not.
_refusal: str | None = None


@cache
def identity() -> dict[str, str]:
    """Return what this process would compute with, by name. Nothing of the rules engine is imported.

    Returns
    -------
    dict
        Versions of Python and of the packages that decide values; the digest of the rules engine's files
        (`rules_digest`); for each stage the digest of its code (`code_digest`). Once a process; about 0.6 s
        in a worker whose fork server has read the rules engine's files, else 1.2 s.
    """
    said = {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS}
    said[RULES] = rules_digest()
    return said | _code({stage: code_digest(*rooms) for stage, rooms in ROOMS.items()})


def difference(place: str, found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return what differs from `expected` at `place`, with both values and the mend; empty if equal."""
    other = [name for name in expected if found.get(name) != expected[name]]
    if not other:
        return ""
    words = "; ".join(
        f"{name} is {_short(found.get(name, 'unknown'))} there, {_short(expected[name])} in the plan"
        for name in other
    )
    if set(other) == {RULES}:
        mend = "the versions are equal, so files of one installation were edited: install it anew"
    else:
        mend = "install the same packages for all workers (one environment or one image)"
    return f"{place}: {words}. No task was given to it; {mend}, or leave that worker out, and start again"


class Admission(WorkerPlugin):
    """Asks a worker what it is, whenever it joins, and loads the rules engine where no fork server did.

    Dask starts no task on a worker that joins before the setup of its plugins has ended, but it only logs
    a setup that fails; so the answer is kept in the process, and `admitted` holds each task to it.

    Parameters
    ----------
    expected
        What a worker has to be: `identity` where the plan was made.
    rules
        Whether tasks need the rules engine; else it is not loaded.
    """

    name = "distcalib-admission"

    def __init__(self, expected: Mapping[str, str], rules: bool = True) -> None:
        self.expected, self.rules = dict(expected), rules

    async def setup(self, worker: Any) -> None:
        """Ask the worker, in a thread: loading the rules engine takes half a minute of its event loop."""
        global _refusal
        _refusal = await asyncio.to_thread(_ask, f"worker {worker.address}", self.expected, self.rules)


def _ask(place: str, expected: Mapping[str, str], rules: bool) -> str:
    try:
        refusal = difference(place, identity(), expected)
        if rules and not refusal and _WARM not in sys.modules:
            importlib.import_module(_WARM)
    except Exception as error:
        return f"{place} cannot say what it is: {type(error).__name__}: {error}"
    return refusal


def admitted(function: Callable[[Any], Result], task: Any) -> Result:
    """Run a task on a worker that may compute; raise `RunError` on any other."""
    if _refusal is None:
        raise RunError("a worker was given a task before it was asked what it is")
    if _refusal:
        raise RunError(_refusal)
    return function(task)


def check(client: Any, plan: Mapping[str, Any], rules: bool = True) -> dict[str, Any]:
    """Hold this process and all workers, present and future, to the plan, and say what memory they take.

    Parameters
    ----------
    client
        A `distributed.Client`.
    plan
        ``versions`` and ``code``, as ``plan.json`` holds them.
    rules
        Whether tasks need the rules engine: then workers load it before their first.

    Returns
    -------
    dict
        addresses; own_bytes and shared_bytes, the largest of any worker: what ends with it (USS), and what
        it has in common with others (resident less own), such as the rules engine of its fork server.

    Raises
    ------
    RunError
        When this process or a worker differs: names it, what differs, both values, and the mend.
    """
    expected = identity() | dict(plan["versions"]) | _code(plan["code"])
    if refusal := difference("this process", identity(), expected):
        raise RunError(refusal)
    client.register_plugin(Admission(expected, rules))
    said = client.run(_report)
    if refusals := [answer["refusal"] for _, answer in sorted(said.items()) if answer["refusal"]]:
        more = f" ({len(refusals) - 1} more workers differ)" if len(refusals) > 1 else ""
        raise RunError(f"{refusals[0]}{more}")
    return {
        "addresses": sorted(said),
        "own_bytes": max((answer["own"] for answer in said.values()), default=0),
        "shared_bytes": max((answer["shared"] for answer in said.values()), default=0),
    }


def _report() -> dict[str, Any]:
    memory = psutil.Process().memory_full_info()
    return {"refusal": _refusal, "own": memory.uss, "shared": memory.rss - memory.uss}


def _code(stages: Mapping[str, str]) -> dict[str, str]:
    return {f"code of {stage}": digest for stage, digest in stages.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
