"""Files that commands write: new ones, or replaced where that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distcalib.errors import InputError
from distcalib.storage import writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

force_option = click.option("--force", is_flag=True, help="Replace a file that exists.")


def need_new(files: list[Path], force: bool, expected: str = "a new file, or --force") -> None:
    """Raise `InputError` unless files can be written, and are new or may be replaced; before any work."""
    for file in files:
        writable(file)
        if file.exists() and not force:
            raise InputError("exists", place=file, expected=expected)


def read_numbers(path: Path) -> NDArray[Any]:
    """Read a .npy file of numbers; nothing is unpickled."""
    import numpy as np

    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception as error:  # a header is read by Python's own parser, which raises all kinds of errors
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise InputError(
            f"is no file of numbers{why}", place=path, expected="a .npy file of numbers"
        ) from None
