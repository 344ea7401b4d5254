"""The run folder: its plan and tables, its lock, and what does not belong in it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distcalib.errors import InputError, RunError
from distcalib.runs.plan import INCIDENTAL, Plan, Prepared
from distcalib.storage import publish, write_json, write_text

#: Households that a trial drew of its microdata.
SAMPLE = "microdata.h5"


def write_plan(folder: Path, prepared: Prepared, accept_code: bool) -> None:
    """Write the plan, unless it is there, and its tables."""
    # The plan first: a folder with a plan can be taken up whatever else is missing. The tables are
    # written anew each time, since equal plans give equal tables and a damaged one is mended so.
    if stored_plan(folder) is None or accept_code:
        write_json(folder / "plan.json", prepared.plan.to_json())
    for name, table in (
        ("targets.parquet", prepared.targets.rows),
        ("excluded.parquet", prepared.targets.excluded),
        ("columns.parquet", prepared.columns),
    ):
        publish(folder / name, lambda p, t=table: t.to_parquet(p, index=False))  # type: ignore[misc]
    if prepared.sample is not None:
        publish(folder / SAMPLE, prepared.sample.write)
    if prepared.rates is not None:
        write_text(folder / "take_up.csv", prepared.rates.to_csv(index=False, lineterminator="\n"))


def stored_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan that a folder was begun with, as JSON values, or None."""
    path = folder / "plan.json"
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for part in ("slices", "digest", "code", "run", "inputs", "versions", "engines"):
            stored[part]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "is not the plan of a run", place=path, expected="a plan.json that distcalib wrote"
        ) from None
    return stored


def require_same_plan(folder: Path, stored: dict[str, Any], plan: Plan, accept_code: bool) -> None:
    """Raise unless `plan` is the plan that the folder was begun with.

    Raises
    ------
    InputError
        When settings or inputs differ; names each.
    RunError
        When the code differs and that was not accepted.
    """
    new = plan.to_json()
    if stored["digest"] == new["digest"]:
        return
    parts = ("inputs", "versions", "engines")
    other = [p for p in parts if stored[p] != new[p]]
    settings = _differences(stored["run"], new["run"])
    for incidental in INCIDENTAL:
        settings.pop(incidental, None)
    if other or settings:
        what = [f"{k}: {a!r} there, {b!r} now" for k, (a, b) in settings.items()]
        for part in other:
            what += [f"{part}.{k}" for k in _differences({"": stored[part]}, {"": new[part]})]
        ids = f"{stored['digest'][:12]}, now {new['digest'][:12]}"
        raise InputError(
            f"the output folder belongs to another plan ({ids}); different: {'; '.join(what)}",
            place=folder,
            expected="another --output, or the settings that the folder was begun with",
        )
    if not accept_code:
        changed = [
            f"{s}: {stored['code'][s][:12]} there, {c[:12]} now"
            for s, c in new["code"].items()
            if stored["code"].get(s) != c
        ]
        raise RunError(
            f"{folder} was begun by other code ({'; '.join(changed)}); "
            "use --accept-code to go on: what that code changed is done again"
        )


def keep_only(folder: Path, used: set[str]) -> None:
    """Remove blocks, area files and receipts of an earlier attempt that this plan does not use."""
    for receipt in folder.glob("receipts/*/*.json"):
        if receipt.relative_to(folder).as_posix() not in used:
            receipt.unlink()
    for block in folder.glob("matrix.zarr/blocks/*"):
        if block.relative_to(folder).as_posix() not in used:
            shutil.rmtree(block)
    for file in folder.glob("areas/*/*"):
        if file.relative_to(folder).as_posix() not in used:
            file.unlink()


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; no such name is ever read."""
    for leftover in [*folder.rglob(".*.tmp.*"), *folder.rglob(".*.tmp")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    out: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        name = f"{prefix}{key}" if key else prefix.rstrip(".")
        if isinstance(left, dict) and isinstance(right, dict):
            out |= _differences(left, right, f"{name}." if name else "")
        elif left != right:
            out[name] = (left, right)
    return out


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: two coordinators in one folder would undo each other."""
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is carrying this run out") from None
        yield
