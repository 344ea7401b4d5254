"""Where a run is kept: a folder that all workers see; `store_home` has the other, an object store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distcalib.errors import InputError
from distcalib.runs.execute import Executor, Instead
from distcalib.runs.folder import LOCK, aside, forget, keep_only, locked, locked_since, parse_plan
from distcalib.runs.manifest import damaged, facts_of, run_files
from distcalib.runs.plan import Plan
from distcalib.runs.receipts import Receipt, verified
from distcalib.storage import folder_bytes, need_space

EVENTS = "events.ndjson"


class Home:
    """A run folder of a file system that all workers see: work goes on in it, and nothing is copied.

    Parameters
    ----------
    folder
        The run folder.

    Attributes
    ----------
    folder
        Where this process reads and writes.
    shown
        What the user calls the run folder.
    alone
        Whether workers see nothing else of this machine, so that the run has to hold the microdata too.
    """

    alone = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.shown = folder, str(folder)

    def look(self) -> None:
        """Learn what is there."""

    def read(self, path: str, offset: int = 0) -> bytes | None:
        """Return the bytes of a small file from `offset` on, or None."""
        try:
            with open(self.folder / path, "rb") as file:
                file.seek(offset)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def plan(self) -> dict[str, Any] | None:
        """Return the plan that the run was begun with, as JSON values, or None."""
        data = self.read("plan.json")
        return None if data is None else parse_plan(data, f"{self.shown}/plan.json")

    def require_empty(self) -> None:
        """Raise `InputError` unless a run can be begun here."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("the output folder is a file", place=self.folder, expected="a folder")
        if self._names():
            raise InputError(
                "the output folder is not empty and holds no plan",
                place=self.shown,
                expected="a new folder, or the folder of an earlier run",
            )

    def need_space(self, plan: Plan) -> None:
        """Raise `InputError` when the disk has too little room for the run."""
        need_space(self.folder, plan.facts["bytes"] - folder_bytes(self.folder))

    def begun(self) -> bool:
        """Return whether a coordinator was here before."""
        return (self.folder / LOCK).is_file()

    def taken(self) -> float | None:
        """Return when the coordinator that holds the run now took it (Unix seconds), or None."""
        return locked_since(self.folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run: two coordinators of one run would undo each other."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            words = error.strerror or str(error)
            raise InputError(
                f"cannot be made ({words})", place=self.folder, expected="a folder to write in"
            ) from None
        with locked(self.folder):
            yield

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take notice of an event."""

    def verified(self, run: Path, stage: str, task_id: str) -> Receipt | None:
        """Return the receipt of a task if its outputs are there as it says; see `receipts.verified`."""
        return verified(run, stage, task_id)

    def run(
        self,
        executor: Executor,
        function: Callable[[Any], dict[str, Any]],
        tasks: Sequence[Any],
        resource: str | None,
        instead: Instead | None,
    ) -> Iterator[dict[str, Any]]:
        """Carry tasks out; see `Executor.run`."""
        return executor.run(function, tasks, resource, instead)

    def fetch(self, paths: Iterable[str]) -> None:
        """Bring files and folders into `folder`."""

    def keep(self, paths: Iterable[str]) -> None:
        """Keep what this process wrote in `folder`."""

    def finish(self, receipt: Receipt) -> None:
        """Keep the outputs of a receipt that this process wrote, and the receipt last."""

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; those that are not there are fine."""
        for path in paths:
            (self.folder / path).unlink(missing_ok=True)

    @contextmanager
    def aside(self, paths: Sequence[str], back: Callable[[BaseException], bool]) -> Iterator[None]:
        """Copy files and folders; put them back where the block ends in an error that `back` says so of."""
        with aside(self.folder, paths, back):
            yield

    def forget(self, stage: str) -> None:
        """Remove the receipts of a stage and of all that follow."""
        forget(self.folder, stage)

    def keep_only(self, used: set[str]) -> None:
        """Remove blocks, files and receipts of earlier attempts that are not used."""
        keep_only(self.folder, used)

    def clear(self, folder: str, used: set[str]) -> None:
        """Remove the files below a folder that are not used."""
        for old in (self.folder / folder).rglob("*"):
            if old.is_file() and old.relative_to(self.folder).as_posix() not in used:
                old.unlink()

    def files(self) -> list[str]:
        """Return the paths of everything that a manifest lists, but what is written with it; sorted."""
        return run_files(self.folder)

    def facts(self, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return sha256 and bytes of files."""
        return facts_of(self.folder, paths)

    def damaged(self, manifest: dict[str, Any]) -> list[str]:
        """Return the files of a manifest that are missing or differ, sorted."""
        return damaged(self.folder, manifest)

    def whole(self) -> None:
        """Bring every file of a finished run into `folder`."""

    def _names(self) -> list[str]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [path.name for path in found if not path.name.startswith(".")]


def open_home(folder: str | Path) -> Home:
    """Return where a run is kept, without touching it: a path, file:///path or s3://bucket/prefix.

    Raises
    ------
    InputError
        For a URL that is malformed, carries credentials, or names no store that can keep writers apart.
    """
    words = str(folder)
    if words.startswith("file://"):
        folder = words.removeprefix("file://")
        if not folder.startswith("/"):
            raise InputError("is no folder", place="--output", value=words, expected="file:///folder")
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", words):
        from distcalib.runs.store_home import StoreHome

        return StoreHome(words)
    return Home(Path(folder))


@contextmanager
def fetched(run: str | Path) -> Iterator[Path]:
    """Give a finished run as a folder: itself, or a copy of one in an object store."""
    home = open_home(run)
    home.whole()
    yield home.folder
