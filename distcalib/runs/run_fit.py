"""The fit of a run folder as it is called: what those who judge it or search better settings start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from distcalib.config import FitConfig
from distcalib.config.schema import read_settings
from distcalib.errors import InputError
from distcalib.runs.fits import counted
from distcalib.runs.fitting import LABELS, fit_arguments, told_of
from distcalib.runs.folder import stored_plan
from distcalib.runs.reading import read_matrix

if TYPE_CHECKING:
    from distcalib.fit.problem import FitProblem
    from distcalib.fit.spec import FitSpec

Float = NDArray[np.float64]

# What the judgement needs of a run's tables; more is written by runs.
_NEEDED = {
    "targets.parquet": (*LABELS, "value", "tolerance"),
    "columns.parquet": ("household_id", "initial_weight", "cd_geoid"),
}
# Arguments of a fit with a value a target or a column; the others are settings.
_ARRAYS = ("target_weights", "tolerance", "holdout", "initial_weights", "areas", "names", "group_labels")


@dataclass(frozen=True)
class RunFit:
    """The fit of a run as it is called, read from the run folder alone.

    Attributes
    ----------
    folder
        Of the run.
    X
        csr_array, float64, (n fitted targets, n columns).
    fitted
        The targets of status fit, one row a row of `X`.
    columns
        The run's columns, one row a column of `X`.
    config
        The settings of the fit.
    how
        Arguments of `distcalib.fit.fit_weights` beside X and the targets' values.
    """

    folder: Path
    X: sparse.csr_array
    fitted: pd.DataFrame
    columns: pd.DataFrame
    config: FitConfig
    how: dict[str, Any]

    @classmethod
    def read(cls, run: str | Path, name: str = "", changes: Mapping[str, Any] | None = None) -> RunFit:
        """Read a run folder whose matrix is assembled.

        Parameters
        ----------
        run
            The folder.
        name
            Of one of the run's further fits; empty: that of ``fit``.
        changes
            Settings of `distcalib.config.FitConfig` in place of the run's own.

        Raises
        ------
        InputError
            When the folder is none of a run, has no matrix yet or lacks a column; for an unknown fit or
            setting; when the run has no target of status fit. Names file, field and value.
        """
        folder = Path(run)
        plan = stored_plan(folder)
        if plan is None:
            raise InputError("holds no plan.json", place=folder, expected="the folder of a run")
        stored = {"": plan["run"]["fit"], **plan["run"].get("fits", {})}
        if name not in stored:
            known = [fit for fit in stored if fit]
            words = ", ".join(known) if known else "none, for the run has no further fits"
            raise InputError(
                "no such fit", place=folder / "plan.json", value=name, expected=words, choices=known
            )
        own = read_settings(FitConfig, dict(changes or {}), "--set")
        place = f"{folder / 'plan.json'}: run"
        section = f"fits.{name}" if name else "fit"
        config = read_settings(FitConfig, {**stored[name], **(changes or {})}, place, section)
        matrix = read_matrix(folder)
        for file, table in (("targets.parquet", matrix.targets), ("columns.parquet", matrix.columns)):
            lacks = [column for column in _NEEDED[file] if column not in table]
            if lacks:
                expected = "the table that a run writes"
                raise InputError("lacks a column", place=folder / file, value=lacks[0], expected=expected)
        chosen = np.flatnonzero((matrix.targets["status"] == "fit").to_numpy())
        if not len(chosen):
            place = f"{folder / 'targets.parquet'}: status"
            raise InputError("no target is fitted", place=place, expected="fit in some rows")
        fitted = matrix.targets.iloc[chosen]
        for file, table, column in (
            ("targets.parquet", fitted, "value"),
            ("targets.parquet", fitted, "tolerance"),
            ("columns.parquet", matrix.columns, "initial_weight"),
        ):
            numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
            bad = np.flatnonzero(~np.isfinite(numbers) | ((numbers < 0) & (column != "value")))
            if len(bad):
                expected = "a number" if column == "value" else "a number of 0 or more"
                place = f"{folder / file}: {column}, row {table.index[bad[0]]}"
                raise InputError("is no number of a fit", place=place, value=table[column].iloc[bad[0]],
                                 expected=expected)  # fmt: skip
        initial = matrix.columns["initial_weight"].to_numpy(np.float64)
        config = counted(config, int(np.count_nonzero(initial)), f"{place}.{section}.records")
        engine = plan["engines"][name]
        if "engine" in (changes or {}):
            from distcalib.fit import resolve_engine

            engine = resolve_engine(own.engine)
        seed = plan["run"]["seed"]
        how = fit_arguments(fitted, asdict(config), seed)
        how |= {"engine": engine, "seed": seed, **told_of(fitted)}
        how["initial_weights"] = initial
        how["areas"] = matrix.columns["cd_geoid"].to_numpy()
        X = sparse.csr_array(matrix.X[chosen], dtype=np.float64)
        return cls(folder, X, fitted.reset_index(drop=True), matrix.columns, config, how)

    @property
    def values(self) -> Float:
        """Official values of the fitted targets, float64 (n_targets,)."""
        return self.fitted["value"].to_numpy(np.float64)

    @property
    def tolerance(self) -> Float:
        """Relative tolerance of each fitted target, float64 (n_targets,)."""
        return self.fitted["tolerance"].to_numpy(np.float64)

    @property
    def initial(self) -> Float:
        """Design weights, float64 (n_columns,)."""
        return self.how["initial_weights"]

    @property
    def usable(self) -> int:
        """How many columns have a design weight."""
        return int(np.count_nonzero(self.initial))

    def spec(self) -> FitSpec:
        """Return the settings in the terms of the fit, the selector resolved."""
        from distcalib.fit.spec import FitSpec

        plain = {key: value for key, value in self.how.items() if key not in _ARRAYS}
        return FitSpec.of(**plain).resolved(plain="tolerance" not in self.how)

    def problem(self) -> FitProblem:
        """Return what the run's fit solves."""
        from distcalib.fit.problem import build_problem

        arrays = {key: self.how[key] for key in _ARRAYS if key != "areas" and self.how.get(key) is not None}
        return build_problem(self.X, self.values, self.spec(), **arrays)

    def within(self, estimate: Float, gross: Float) -> NDArray[np.bool_]:
        """Say which targets an estimate (n_targets,) meets; `gross` is the sum of ``|x| w`` of each."""
        from distcalib.fit.diagnostics import relative_error

        return np.asarray(np.abs(relative_error(estimate, self.values, gross)) <= self.tolerance)

    def folds(self, k: int, by: str, seed: int) -> NDArray[np.int64]:
        """Divide the targets into `k` blocked folds; return the fold of each, int64 (n_targets,).

        `by` (place or family) and `seed` are those of `distcalib.fit.folds.blocked_folds`.

        Raises
        ------
        InputError
            When there are fewer blocks than folds, and for settings that cannot be divided with the targets.
        """
        from distcalib.fit.folds import WithoutFold, blocked_folds

        for setting, argument in (("tolerance_bands", "tolerance"), ("holdout", "holdout")):
            if isinstance(self.how.get(argument), np.ndarray) and argument not in WithoutFold.PER_TARGET:
                raise InputError(
                    "is not divided among folds yet",
                    place=f"{self.folder / 'plan.json'}: run.fit.{setting}",
                    value=getattr(self.config, setting),
                    expected=f"--set {setting}={'false' if setting == 'tolerance_bands' else 'null'}",
                )
        return blocked_folds(self.fitted, k, seed, by=by)

    def budgets(self, records: Sequence[str | int | float]) -> list[int]:
        """Return numbers of records: whole numbers are such, others shares of the columns with a weight.

        Raises
        ------
        InputError
            For anything else, for a budget of more columns than have a design weight, and for one that the
            fit has no epochs to select.
        """
        found: list[int] = []
        for given in records:
            try:
                share = not isinstance(given, int) and not str(given).strip().isdigit()
                number = round(float(given) * self.usable) if share else int(given)
            except (ValueError, OverflowError):
                number, share = 0, False
            if number < 1 or number > self.usable:
                raise InputError(
                    "is no number of records",
                    place="--records",
                    value=given,
                    expected=f"a whole number from 1 to {self.usable}, or a share such as 0.25",
                )
            if number < self.usable and self.config.epochs == 0:
                words = "needs epochs to choose the records"
                expected = "--set epochs=200, or more than 0 in the run"
                raise InputError(words, place="fit.epochs", value=0, expected=expected)
            found += [] if number in found else [number]
        return found


def fit_space(fit: RunFit) -> dict[str, tuple[float, float] | None]:
    """Return the settings that a search of this fit can move: those of its selection, and the ridge."""
    from distcalib.fit.tune import SPACE

    config = fit.config
    gates = fit.spec().selector == "gates" and config.epochs > 0 and config.records != fit.usable
    # A number of records finds its own penalty.
    out = [] if not gates else ["initial_keep", "beta", "learning_rate"]
    out += ["lambda_l0"] if gates and config.records is None else []
    out += ["ridge"] if config.refit_epochs > 0 else []
    if not out:
        raise InputError("selects nothing and refits nothing", place=f"{fit.folder}: fit", expected="epochs")
    return dict.fromkeys(key for key in SPACE if key in out)
