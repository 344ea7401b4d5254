"""Fetch the public statistics that the bundled targets are built from, once, into the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from distcalib.errors import InputError
from distcalib.storage import sha256_file, writable

# A wheel that carries the agencies' files as published; none of its code is used.
PACKAGE = "policyengine_us_data"
VERSION = "1.115.4"
SHA256 = "293546a4b462192332b1d2a12c358de1fbef65c3d0c9f48ab9cb4f384364ad76"
_FOLDER = f"{PACKAGE}/storage/"
_SECONDS = 600


def cache_folder() -> Path:
    """Return where downloads are kept: ``$XDG_CACHE_HOME/distcalib``, else ``~/.cache/distcalib``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification says that a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "distcalib"


def public_statistics() -> Path:
    """Return the folder of raw public files; download it through pip where the cache has none.

    The wheel has to have the sha256 `SHA256`. The folder appears complete or not at all; once it is there no
    network is needed.

    Raises
    ------
    InputError
        When the cache cannot be written, pip cannot fetch the wheel, or the file is another one.
    """
    cache = cache_folder()
    folder = cache / f"{PACKAGE}-{VERSION}-{SHA256[:12]}"
    if folder.is_dir():
        return folder
    writable(folder / "any")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
        wheel = _fetched(Path(temporary))
        found = sha256_file(wheel)
        if found != SHA256:
            raise InputError(
                "is not the known file", place=wheel.name, value=found, expected=f"sha256 {SHA256}"
            )
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(temporary, [name for name in packed.namelist() if name.startswith(_FOLDER)])
        try:
            os.rename(Path(temporary) / _FOLDER, folder)
        except OSError:
            # Another process was first.
            if not folder.is_dir():
                raise
    return folder


def _fetched(into: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--python-version", "3.12",
        "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(into), f"{PACKAGE}=={VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        said, failed = done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer in {_SECONDS} seconds", True
    wheels = list(into.glob("*.whl"))
    if failed or len(wheels) != 1:
        lines = [line for line in said.strip().splitlines() if line.strip()] or ["pip says nothing"]
        raise InputError(
            f"cannot be downloaded ({lines[-1].strip()})",
            place=f"{PACKAGE} {VERSION}",
            expected="a package index that pip reaches, or --raw FOLDER with the files",
        )
    return wheels[0]
