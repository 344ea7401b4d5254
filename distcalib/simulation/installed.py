"""What the installed rules engine is, to the byte, without importing it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from distcalib.errors import RunError

# What decides a value: formulas and parameters, the engine that evaluates them, and the poverty thresholds.
PACKAGES = ("policyengine_us", "policyengine_core", "spm_calculator")
#: How plans and workers name the digest of these.
RULES = "formulas and parameters"
_READ = (".py", ".yaml", ".csv", ".json", ".gz")
_NOT_READ = {"__pycache__", "tests"}


@cache
def rules_digest() -> str:
    """Return sha256 over the files of formulas, parameters and tables of the installed rules engine.

    Contents are read, not the package's record of them, so an edited installation is another one. Once a
    process, and in the fork server before it forks: 14,000 files take half a second.

    Raises
    ------
    RunError
        When a package of the rules engine is not installed.
    """
    total = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RunError(f"{package} is not installed: install policyengine-us with what it needs")
        total.update(f"{package}:{folder_digest(spec.submodule_search_locations[0])}\n".encode())
    return total.hexdigest()


def folder_digest(folder: str | Path) -> str:
    """Return sha256 over path and content of what the rules engine reads in a folder, whatever lists it."""
    total = hashlib.sha256()
    for name in sorted(_files(str(folder), "")):
        with open(os.path.join(folder, name), "rb") as file:
            total.update(f"{name}\0{hashlib.sha256(file.read()).hexdigest()}\n".encode())
    return total.hexdigest()


def _files(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name not in _NOT_READ:
                    yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(_READ):
                yield prefix + entry.name
