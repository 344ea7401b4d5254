"""The settings that a run folder was begun with, read back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distcalib.config import RunConfig
from distcalib.config.schema import read_settings
from distcalib.config.settings import CHANGES, merged, nested, of_file
from distcalib.errors import InputError, RunError
from distcalib.runs.home import open_home
from distcalib.runs.manifest import MANIFEST, damaged, read_manifest


def stored_config(folder: str | Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """Return the settings that a folder was begun with; `changes` as `RunConfig.load` takes them."""
    home = open_home(folder)
    stored = home.plan()
    if stored is None:
        raise InputError("holds no plan.json", place=folder, expected="the folder of a run")
    own = nested(changes or {}, CHANGES)
    read_settings(RunConfig, own, CHANGES)
    place = f"{home.shown}/plan.json"
    return of_file(read_settings(RunConfig, merged(stored["run"], own), place), place)


def finished_config(folder: Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """Return the settings of a finished run, to prove its files again; arguments as `stored_config`.

    Raises
    ------
    InputError
        When the folder is none of a run, or the run is not finished.
    RunError
        When files are missing or differ from the manifest; names the first ones.
    """
    config, manifest = stored_config(folder, changes), read_manifest(folder)
    if manifest is None:
        raise InputError(
            "is not finished: it has no manifest that can be read",
            place=folder,
            expected="`distcalib run` to finish it",
        )
    wrong = damaged(folder, manifest)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RunError(f"{folder}: missing, or not as the manifest says: {', '.join(wrong[:5])}{more}")
    # The last call may have been for a part of the areas, and their names stand in the manifest.
    try:
        proven = tuple(Path(str(file)).stem for file in manifest["areas"]["proven"])
    except (KeyError, TypeError):
        raise InputError(
            "does not say which areas are proven", place=folder / MANIFEST, expected="as a run writes it"
        ) from None
    return config.changed(areas=replace(config.areas, only=proven))
