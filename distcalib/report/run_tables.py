"""What a report reads of a run folder: the tables that are there and belong to the run as it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.report.timeline import Attempt, attempts_of
from distcalib.runs.events import SIGNS_OF_LIFE, read_events
from distcalib.runs.folder import stored_plan
from distcalib.runs.manifest import FRONTIER, read_manifest
from distcalib.runs.reading import read_weights
from distcalib.runs.receipts import Receipt, read_receipt
from distcalib.storage import parse_json, sha256_file

Float = NDArray[np.float64]

#: Columns of texts; what is empty there is empty text, and no code of an area loses its zeros.
TEXTS = (
    "name", "variable", "geo_level", "geographic_id", "domain_variable", "area", "kind", "cause", "accepted",
    "constraints", "status", "concept", "source", "table", "vintage", "note", "district", "group", "causes",
    "worst", "within_moe",
)  # fmt: skip
_DIAGNOSTICS = [
    "name", "variable", "geo_level", "geographic_id", "domain_variable", "group_id", "status", "target",
    "estimate", "rel_error", "abs_rel_error", "achievable", "within_tolerance", "donors", "effective_donors",
    "margins", "cause",
]  # fmt: skip
_AREAS = [
    "geo_level", "area", "records", "donors", "weight", "effective_sample_size", "effective_share",
    "effective_sample_size_by_donor", "at_lower", "at_upper", "largest_donor_share",
]  # fmt: skip
_CHECKS = [
    "name", "area", "geo_level", "status", "variable", "constraints", "value", "from_files", "relative",
    "within_moe", "source", "table", "vintage", "note",
]  # fmt: skip


def read_table(path: Path, columns: list[str], optional: bool = False) -> pd.DataFrame | None:
    """Read a CSV table of a run.

    Parameters
    ----------
    path
        The file.
    columns
        What it has to have.
    optional
        Return None where there is no file.

    Raises
    ------
    InputError
        When the file is not there or is no table, or lacks a column.
    """
    if not path.is_file():
        if optional:
            return None
        raise InputError("is not there", place=path, expected="the table that a run writes")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:
        raise InputError(f"cannot be read ({error})", place=path, expected="a CSV table") from None
    words = [name for name in TEXTS if name in table]
    table[words] = table[words].fillna("")
    lacks = [name for name in columns if name not in table]
    if lacks:
        expected = "the table that this version writes: run it again"
        raise InputError("lacks a column", place=path, value=lacks[0], expected=expected)
    return table


@dataclass(frozen=True)
class RunTables:
    """A run folder, finished or not.

    A table of the fit belongs to the run where a receipt vouches for its content, tables of the proof where
    the last attempt came so far; what an earlier attempt with other settings left is not read.

    Attributes
    ----------
    folder, plan, manifest
        Of the run; ``plan.json``, and ``manifest.json`` (None: not finished).
    attempts, receipts, state
        What the events and the receipts say; one of planned, unfinished, stopped, failed, done.
    cause
        Why the last attempt failed, where that was in no stage.
    missing
        In words, what is not there.
    """

    folder: Path
    plan: dict[str, Any]
    manifest: dict[str, Any] | None
    attempts: list[Attempt]
    receipts: list[Receipt]
    state: str
    cause: str = ""
    missing: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> RunTables:
        """Read what says how far a run is; tables are read when they are asked for.

        Raises
        ------
        InputError
            When the folder is none of a run.
        """
        run = Path(folder)
        plan = stored_plan(run) if run.is_dir() else None
        if plan is None:
            raise InputError("holds no plan.json", place=run, expected="the folder of a run")
        # Signs of life say nothing of when an attempt began or ended.
        events = [event for event in read_events(run) if event["event"] not in SIGNS_OF_LIFE]
        paths = sorted(run.glob("receipts/*/[!.]*.json"))
        found = [read_receipt(run, path.parent.name, path.stem) for path in paths]
        receipts = [r for r in found if r is not None]
        attempts = attempts_of(events, receipts)
        manifest = read_manifest(run)
        state = "planned" if not attempts else "unfinished"
        if manifest is not None:
            state = "done"
        elif attempts and any(stage[3] is not None for stage in attempts[-1].stages):
            state = "failed"
        elif events and events[-1]["event"] in ("stopped", "failed"):
            state = events[-1]["event"]
        cause = str(events[-1].get("cause", "")) if state == "failed" else ""
        return cls(run, plan, manifest, attempts, receipts, state, cause)

    @property
    def failure(self) -> tuple[str, str]:
        """The stage in which the last attempt failed, and why; empty where it did not."""
        if self.state != "failed":
            return "", ""
        failed = [(name, cause) for name, _, _, cause in self._stages() if cause is not None]
        return failed[-1] if failed else ("", self.cause)

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """``fit/summary.json``."""
        if not self._of_fit("fit/summary.json", "the fit"):
            return None
        path = self.folder / "fit/summary.json"
        try:
            return dict(parse_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise InputError("cannot be read", place=path, expected="the summary of a fit") from None

    @cached_property
    def targets(self) -> pd.DataFrame | None:
        """``targets.parquet``, and beside it ``fit/diagnostics.csv`` where the fit is done."""
        targets = self._parquet("targets.parquet", ["name", "constraints", "status", "value", "reason"])
        if targets is None or not self._of_fit("fit/diagnostics.csv", "the fit of the targets"):
            return targets
        path = self.folder / "fit/diagnostics.csv"
        judged = read_table(path, _DIAGNOSTICS)
        assert judged is not None
        if judged["name"].tolist() != targets["name"].tolist():
            raise InputError("is of other targets than targets.parquet", place=path)
        more = targets[["constraints", "tolerance", "reason", "moe", "reform_id"]].reset_index(drop=True)
        return judged.drop(columns=[c for c in more if c in judged]).join(more)

    @property
    def fitted(self) -> bool:
        """Whether the targets have estimates."""
        return self.targets is not None and "estimate" in self.targets

    @cached_property
    def excluded(self) -> pd.DataFrame | None:
        """``excluded.parquet``."""
        return self._parquet("excluded.parquet", ["name", "variable", "geo_level", "reason"])

    @cached_property
    def groups(self) -> pd.DataFrame | None:
        """``fit/groups.csv``."""
        columns = ["group_id", "group", "geo_level", "missed", "causes", "worst", "worst_error"]
        return self._fit_table("fit/groups.csv", columns, "causes of misses by group")

    @cached_property
    def epochs(self) -> pd.DataFrame | None:
        """``fit/epochs.csv``."""
        return self._fit_table("fit/epochs.csv", ["stage", "epoch", "loss", "active"], "the way of the fit")

    @cached_property
    def areas(self) -> pd.DataFrame | None:
        """``fit/areas.csv``."""
        return self._fit_table("fit/areas.csv", _AREAS, "what carries the weights of each area")

    @cached_property
    def districts(self) -> list[int]:
        """GEOIDs of the run's districts."""
        columns = self._parquet("columns.parquet", ["cd_geoid"], only=["cd_geoid"])
        return [] if columns is None else np.unique(columns["cd_geoid"].to_numpy()).tolist()

    @cached_property
    def weights(self) -> tuple[Float, Float] | None:
        """``fit/weights.npy`` and the design weights, float64 (n columns,) each."""
        columns = self._parquet("columns.parquet", ["initial_weight"], only=["initial_weight"])
        if columns is None or not self._of_fit("fit/weights.npy", "the weights"):
            return None
        weights = read_weights(self.folder / "fit/weights.npy", len(columns))
        return weights, columns["initial_weight"].to_numpy(np.float64)

    @cached_property
    def frontier(self) -> pd.DataFrame | None:
        """``fit/frontier.csv``: what `distcalib fit frontier` wrote there, if it did."""
        columns = ["records", "loss", "attainable_loss", "effective_sample_size", "held_out_error",
                   "effective_sample_size_by_donor", "held_out_std_error", "note"]  # fmt: skip
        return read_table(self.folder / FRONTIER, columns, optional=True)

    @cached_property
    def checks(self) -> pd.DataFrame | None:
        """``verify/checks.csv``."""
        return self._proof_table("verify/checks.csv", _CHECKS, "figures of the files beside official ones")

    @cached_property
    def population(self) -> pd.DataFrame | None:
        """``verify/population.csv``."""
        columns = ["district", "population", "from_file", "relative"]
        return self._proof_table("verify/population.csv", columns, "the population of each district's file")

    @cached_property
    def totals(self) -> pd.DataFrame | None:
        """``verify/areas.csv``."""
        columns = ["area", "geo_level", "variable", "total", "households", "nonzero"]
        return self._proof_table("verify/areas.csv", columns, "totals of each area's file")

    @cached_property
    def gates(self) -> pd.DataFrame | None:
        """``verify/gates.csv``."""
        columns = ["severity", "kind", "area", "variable", "figure", "low", "high", "cause", "accepted"]
        return self._proof_table("verify/gates.csv", columns, "what looks wrong in the totals")

    def _parquet(self, name: str, columns: list[str], only: list[str] | None = None) -> pd.DataFrame | None:
        path = self.folder / name
        if not path.is_file():
            self._say(f"{name} is not there")
            return None
        try:
            table = pd.read_parquet(path, columns=only)
        except Exception as error:  # pyarrow has many
            raise InputError(f"cannot be read ({error})", place=path, expected="a Parquet table") from None
        lacks = [column for column in columns if column not in table]
        if lacks:
            raise InputError("lacks a column", place=path, value=lacks[0], expected=", ".join(columns))
        return table

    def _of_fit(self, name: str, what: str) -> bool:
        """Say whether a file of the fit is there and a receipt vouches for it."""
        path = self.folder / name
        digests = {r.outputs[name] for r in self.receipts if r.stage == "fit" and name in r.outputs}
        if not path.is_file():
            self._say(f"{what} ({name}): not done")
        elif sha256_file(path) not in digests:
            self._say(f"{what} ({name}): left by an earlier fit, and not shown")
        else:
            return True
        return False

    def _fit_table(self, name: str, columns: list[str], what: str) -> pd.DataFrame | None:
        return read_table(self.folder / name, columns) if self._of_fit(name, what) else None

    def _proof_table(self, name: str, columns: list[str], what: str) -> pd.DataFrame | None:
        done = any(stage == "verify" and cause is None for stage, _, _, cause in self._stages())
        proven = done or self.manifest is not None
        table = read_table(self.folder / name, columns, optional=True) if proven else None
        if table is None:
            self._say(f"{what} ({name}): not done")
        return table

    def _stages(self) -> list[tuple[str, float, float, str | None]]:
        """Return the stages of the last attempt."""
        return self.attempts[-1].stages if self.attempts else []

    def _say(self, words: str) -> None:
        if words not in self.missing:
            self.missing.append(words)
