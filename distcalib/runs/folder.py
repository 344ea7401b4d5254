"""The run folder: its plan and tables, its lock, and what does not belong in it."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from distcalib.config.settings import STAGES as STAGES
from distcalib.errors import InputError, RunError
from distcalib.geography.states import STATE_CODES
from distcalib.runs.manifest import MANIFEST, REPORT, SUMS, TRACE
from distcalib.runs.plan import INCIDENTAL, WITHIN, Plan, Prepared, microdata_path
from distcalib.runs.tasks import MICRODATA
from distcalib.storage import parse_json, publish, write_json, write_text

#: Folders of what tasks leave, where attempts with other settings leave other files.
CUT_BY_TASKS = ("receipts", "matrix.zarr/blocks", "areas", "fit", "fits")
#: What users put among them, and no task writes.
OF_USERS = ("fit/frontier.csv",)
#: Held by the coordinator of a run, and says who it is.
LOCK = ".lock"
# How often the lock is asked for, within a fifth of a second.
_TRIES = 20
#: What a proof writes anew, the manifest last.
PROOF = ("plan.json", "receipts/verify", "verify", REPORT, TRACE, SUMS, MANIFEST)
# Every folder that a run writes to, and the files that are not replaced as a whole.
_WRITTEN = ("receipts", "matrix.zarr", "fit", "fits", "areas", "verify")
_IN_PLACE = (LOCK, "events.ndjson")


def write_plan(folder: Path, prepared: Prepared, replace: bool, alone: bool = False) -> list[str]:
    """Write the plan, unless one is there and not to be replaced, and its tables; return their paths.

    Parameters
    ----------
    folder, prepared
        The run folder, and what was prepared.
    replace
        Whether to write another plan in place of the one that is there.
    alone
        Whether workers see nothing but the run folder: then it holds the microdata, also when it is no trial.
    """
    # The plan first: a folder with a plan can be taken up whatever else is missing. The tables are
    # written anew each time, since equal plans give equal tables and a damaged one is mended so.
    stored = stored_plan(folder)
    if replace or stored is None:
        made = prepared.plan.to_json()
        if stored is not None and stored["digest"] == made["digest"]:
            # Which areas a call asks for is no part of the plan: they stay those that the run was begun with.
            made["run"]["areas"]["only"] = stored["run"]["areas"]["only"]
        write_json(folder / "plan.json", made)
    for name, table in (
        ("targets.parquet", prepared.targets.rows),
        ("excluded.parquet", prepared.targets.excluded),
        ("columns.parquet", prepared.columns),
    ):
        publish(folder / name, lambda p, t=table: t.to_parquet(p, index=False))  # type: ignore[misc]
    if prepared.sample is not None:
        publish(folder / MICRODATA, prepared.sample.write)
    elif alone:
        publish(folder / MICRODATA, lambda p: shutil.copyfile(microdata_path(prepared.plan.run), p))
    else:
        (folder / MICRODATA).unlink(missing_ok=True)  # of an attempt whose workers were elsewhere
    if prepared.rates is not None:
        write_text(folder / "take_up.csv", prepared.rates.to_csv(index=False, lineterminator="\n"))
    names = ["plan.json", "targets.parquet", "excluded.parquet", "columns.parquet"]
    names += [MICRODATA] if alone or prepared.sample is not None else []
    return [*names, *(["take_up.csv"] if prepared.rates is not None else [])]


def stored_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan that a folder was begun with, as JSON values, or None."""
    path = folder / "plan.json"
    return parse_plan(path.read_bytes(), path) if path.is_file() else None


def parse_plan(data: bytes, place: object) -> dict[str, Any]:
    """Return the JSON values of a plan; `InputError` when it is none."""
    try:
        stored: dict[str, Any] = parse_json(data)
        _require_plan(stored)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "is not the plan of a run", place=place, expected="a plan.json that distcalib wrote"
        ) from None
    return stored


def _require_plan(stored: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless JSON values have the form of a plan."""
    tables = [stored[part] for part in ("code", "run", "inputs", "versions", "engines")]
    texts = [stored["digest"], stored["run"]["name"]]
    if not all(isinstance(one, dict) for one in tables) or not all(isinstance(one, str) for one in texts):
        raise TypeError
    if not isinstance(stored["slices"], list):
        raise TypeError
    for one in stored["slices"]:
        numbers = one["state_fips"], one["start"], one["stop"]
        if not isinstance(one["id"], str) or not all(type(number) is int for number in numbers):
            raise TypeError
        if one["state_fips"] not in STATE_CODES or not 0 <= one["start"] < one["stop"]:
            raise ValueError


def require_same_plan(
    folder: object, stored: dict[str, Any], plan: Plan, accept_code: bool, force: str | None = None
) -> None:
    """Raise unless `plan` is the plan that the folder was begun with.

    Parameters
    ----------
    folder, stored, plan
        The run folder as errors call it, the plan in it as JSON values, and the plan now.
    accept_code
        Whether other code may have begun it.
    force
        A stage that is to be done anew with all that follow: what only they depend on may differ.

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
    changed_parts = [f"{p}.{k}" for p in other for k in _differences({"": stored[p]}, {"": new[p]})]
    # A version of this program is code, whose digests tell what it changed.
    own = "versions.distcalib" in changed_parts
    changed_parts = [name for name in changed_parts if name != "versions.distcalib"]
    first = min((_stage_of(k) for k in [*settings, *changed_parts]), key=STAGES.index, default=None)
    if first is not None and (force is None or STAGES.index(first) < STAGES.index(force)):
        # An update may have brought a setting.
        newer = any(stored[part] != new[part] for part in ("code", "versions"))
        same = "the program and environment that it was begun with, " if newer else ""
        what = [f"{k}: {a!r} there, {b!r} now" for k, (a, b) in settings.items()] + changed_parts
        ids = f"{stored['digest'][:12]}, now {new['digest'][:12]}"
        raise InputError(
            f"the output folder belongs to another plan ({ids}); different: {'; '.join(what)}",
            place=folder,
            expected=f"{same}another --output, the settings that the folder was begun with, or `distcalib "
            f"run` with --force {first}: that stage and what follows is done anew with the new settings, in "
            "place of the old",
        )
    standing = STAGES if force is None else STAGES[: STAGES.index(force)]
    changed = [
        f"{s}: {stored['code'].get(s, 'none')[:12]} there, {now[:12]} now"
        for s, now in new["code"].items()
        if WITHIN.get(s, s) in standing and stored["code"].get(s) != now
    ]
    if own and standing:
        there, now = (plan["versions"].get("distcalib", "none") for plan in (stored, new))
        changed.insert(0, f"distcalib {there} there, {now} now")
    if changed and not accept_code:
        # Without settings the command takes those of the folder; a stage done anew may have others.
        whole = f"distcalib run --output {shlex.quote(str(folder))} --accept-code"
        how = f"go on with `{whole}`" if force is None else "give --accept-code too to go on"
        if force == "verify":
            how = f"prove it with the program that it was made with, or go on with `{whole}`"
        raise RunError(
            f"{folder} was begun by other code ({'; '.join(changed)}); {how}: "
            "what that code changed is done again"
        )


def _stage_of(name: str) -> str:
    """Return the first stage that depends on a setting or input."""
    section = name.split(".")[0]
    if name in ("inputs.values", "inputs.labels", "inputs.initial_weights"):
        return "fit"
    if name == "inputs.excluded":
        return "verify"
    # Rows and values of the targets have digests of their own among the inputs; no cell is weighted.
    if section in ("fit", "fits", "engines", "targets", "design_weights"):
        return "fit"
    return section if section in ("areas", "verify") else "simulate"


def forget(folder: Path, stage: str) -> None:
    """Remove the receipts of a stage and of all that follow, so that they are done again."""
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / "receipts" / later, ignore_errors=True)


def keep_only(folder: Path, used: set[str]) -> None:
    """Remove what tasks of an earlier attempt left and this plan does not use: blocks, files and receipts.

    Nothing is removed through a link that leads out of the folder.
    """
    inside, used = folder.resolve(), used.union(OF_USERS)

    def old(pattern: str) -> list[Path]:
        return [path for path in folder.glob(pattern) if path.parent.resolve().is_relative_to(inside)]

    for receipt in old("receipts/*/*.json"):
        if receipt.relative_to(folder).as_posix() not in used:
            receipt.unlink()
    for block in old("matrix.zarr/blocks/*"):
        if block.relative_to(folder).as_posix() not in used:
            shutil.rmtree(block)
    for file in (path for place in ("areas", "fit", "fits") for path in old(f"{place}/**/*")):
        if not file.is_dir() and file.relative_to(folder).as_posix() not in used:
            file.unlink()


@contextmanager
def aside(folder: Path, paths: Sequence[str], back: Callable[[BaseException], bool]) -> Iterator[None]:
    """Copy files and folders below a folder, and put them back where the block ends in some errors.

    Parameters
    ----------
    folder, paths
        Where, and what of it; those that are not there are fine. The last one comes back last.
    back
        Whether they are put back after an error. A process that is killed puts nothing back.
    """
    copies = folder / ".before.tmp"
    there = [path for path in paths if (folder / path).exists()]
    try:
        for path in there:
            _copy(folder / path, copies / path)
        try:
            yield
        except BaseException as error:
            if back(error):
                for path in there:
                    _copy(copies / path, folder / path)
            raise
    finally:
        shutil.rmtree(copies, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder in place of another."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        publish(target, lambda path: shutil.copyfile(source, path))


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; no such name is ever read."""
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if name.startswith(".") and (".tmp." in name or name.endswith(".tmp")):
                leftover = Path(at, name)
                if name in folders:
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


def _require_all_inside(folder: Path) -> None:
    """Raise `InputError` where a link leads out of what a run writes to or removes from.

    Links to single files do no harm, for a file is replaced as a whole; but two are written in place.
    """
    inside = folder.resolve()
    places = [folder / name for name in _WRITTEN]
    places += [Path(at, name) for top in places for at, names, _ in os.walk(top) for name in names]
    for place in (*places, *(folder / name for name in _IN_PLACE)):
        if place.is_symlink() and not place.resolve().is_relative_to(inside):
            raise InputError(
                "is a link that leads out of the run folder, where a run would write and remove",
                place=place, value=os.readlink(place), expected="a folder or file of the run folder itself",
            )  # fmt: skip


def locked_since(folder: Path) -> float | None:
    """Return when the process that holds a run folder took it (Unix seconds); None where none holds it."""
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return (folder / LOCK).stat().st_mtime
    except OSError:
        pass
    return None


def _take(file: IO[str]) -> None:
    """Take the lock. Who only looks (`locked_since`) has it for an instant, so one refusal says nothing."""
    for _ in range(_TRIES - 1):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.2 / _TRIES)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: two coordinators in one folder would undo each other.

    Raises
    ------
    InputError
        When something in it would be written or removed outside of it.
    RunError
        When another process holds it: names the process, its machine, and since when.
    """
    _require_all_inside(folder)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            _take(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise RunError(f"{folder}: {owner} is carrying this run out") from None
        except OSError as error:
            raise InputError(
                f"its file system cannot keep two coordinators apart ({error.strerror})", place=folder,
                expected="a file system with flock (Lustre: mounted with -o flock), or an object store",
            ) from None  # fmt: skip
        file.truncate(0)
        since = datetime.now(UTC).isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since},")
        file.flush()
        # By the clock that the events have: a file system's own goes in steps, and a server's may be another.
        now = time.time()
        with suppress(PermissionError):  # another user of a shared folder made the file
            os.utime(file.fileno(), (now, now))
        yield
