"""The state of a fit on storage, so that a killed one goes on where it was, to the same bits."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.digest import digest_of
from distcalib.errors import InputError
from distcalib.storage import publish, writable

#: Of the file's layout.
VERSION = 1


class Checkpoint:
    """One file, ``gates.npz``: every array of the gate stage, where it stands, and what it belongs to.

    Parameters
    ----------
    folder
        Where the file is; made if it is missing.
    identity
        Digest of matrix, targets and settings; a file that has another one is refused.
    log
        Rows of the fit's log, kept with the state and put back with it.
    seconds
        Least time between two writes. 0: every epoch. Has no influence on the result.
    """

    def __init__(
        self, folder: str | Path, identity: str, log: list[dict[str, Any]], seconds: float = 60.0
    ) -> None:
        self.path = Path(folder) / "gates.npz"
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
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError("damaged checkpoint", place=self.path, expected="remove it") from error
        if head["identity"] != self.identity:
            raise InputError(
                "the checkpoint is of another matrix, other targets or other settings",
                place=self.path,
                value=head["identity"][:12],
                expected=f"{self.identity[:12]}, or another folder",
            )
        self.log[:] = head["log"]
        at: dict[str, Any] = head["at"]
        return at

    def offer(self, at: dict[str, Any], state: dict[str, NDArray[np.float64]]) -> None:
        """Write the state when it is time to, and always when the gates have ended."""
        if not at["ended"] and time.monotonic() - self._written < self.seconds:
            return
        head = json.dumps({"identity": self.identity, "at": at, "log": self.log})
        arrays: dict[str, Any] = {"head": head, **state}
        publish(self.path, lambda path: np.savez(path, **arrays))
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the fit has ended, and its weights are what is kept."""
        self.path.unlink(missing_ok=True)


def identity(problem_digest: str, settings: dict[str, Any]) -> str:
    """Return the digest of what a checkpoint belongs to."""
    plain = {k: repr(v) if isinstance(v, float) else v for k, v in settings.items()}
    return digest_of({"version": VERSION, "problem": problem_digest, "settings": plain})
