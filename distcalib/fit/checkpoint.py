"""The state of a fit on storage, so that a killed one goes on where it was, to the same bits."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distcalib.digest import code_digest, digest_of
from distcalib.errors import InputError, warn
from distcalib.storage import passing, publish, writable

#: Of the file's layout.
VERSION = 2


class Log(Protocol):
    """What a fit observes: a row each time, and now and then (epoch, loss, estimate of every target)."""

    rows: list[dict[str, Any]]
    estimates: list[tuple[int, float, NDArray[np.float64]]]


class Checkpoint:
    """One file, ``selection.npz``: every array of the selection, where it stands, and what it belongs to.

    Parameters
    ----------
    folder
        Where the file is; made if it is missing.
    identity
        Digest of matrix, targets and settings; a file that has another one is refused.
    log
        What was observed so far, kept with the state and put back with it.
    seconds
        Least time between two writes. 0: every epoch. Has no influence on the result.
    """

    def __init__(self, folder: str | Path, identity: str, log: Log, seconds: float = 60.0) -> None:
        self.path = Path(folder) / "selection.npz"
        self.identity, self.log, self.seconds = identity, log, seconds
        writable(self.path)
        self._written = time.monotonic()

    def load(self, state: dict[str, NDArray[np.float64]]) -> dict[str, Any] | None:
        """Fill the arrays of `state` from the file; return where the fit stood, or None without a file.

        Raises
        ------
        InputError
            The file belongs to another matrix, other targets or other settings, or is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as handle, np.load(handle) as file:
                head = json.loads(str(file["head"]))
                if head["identity"] == self.identity:
                    for name, values in state.items():
                        values[:] = file[name]
                    self.log.estimates[:] = [
                        (epoch, loss, estimate)
                        for (epoch, loss), estimate in zip(head["logged"], file["estimates"], strict=True)
                    ]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            if passing(error):
                raise
            raise InputError("damaged checkpoint", place=self.path, expected="remove it") from error
        if head["identity"] != self.identity:
            raise InputError(
                "the checkpoint is of another matrix, other targets or other settings",
                place=self.path,
                value=head["identity"][:12],
                expected=f"{self.identity[:12]}, or another folder",
            )
        self.log.rows[:] = head["log"]
        at: dict[str, Any] = head["at"]
        return at

    def due(self, ended: bool) -> bool:
        """Return whether `offer` would write: for those who have to bring the state here first."""
        return ended or time.monotonic() - self._written >= self.seconds

    def offer(self, at: dict[str, Any], state: dict[str, NDArray[np.float64]]) -> None:
        """Write the state when it is time to, and always when the selection has ended."""
        if not self.due(at["ended"]):
            return
        logged = [(epoch, loss) for epoch, loss, _ in self.log.estimates]
        head = json.dumps({"identity": self.identity, "at": at, "log": self.log.rows, "logged": logged})
        estimates = np.array([estimate for _, _, estimate in self.log.estimates])
        arrays: dict[str, Any] = {"head": head, "estimates": estimates, **state}
        try:
            publish(self.path, lambda path: np.savez(path, **arrays))
        except OSError as error:  # a full disk: the fit itself needs none
            warn(f"no checkpoint could be written to {self.path} ({error.strerror or error})")
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the fit has ended, and its weights are what is kept."""
        self.path.unlink(missing_ok=True)


def identity(problem_digest: str, settings: dict[str, Any]) -> str:
    """Return the digest of what a checkpoint belongs to: the code of the fit is part of it."""
    plain = {k: repr(v) if isinstance(v, float) else v for k, v in settings.items()}
    code = code_digest("fit")
    return digest_of({"version": VERSION, "code": code, "problem": problem_digest, "settings": plain})
