"""The data check: what microdata give under the rules, before any calibration, against official figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.microdata.bundled_data import BUNDLED_PERIOD, bundled_path
from distcalib.microdata.model import Array, Microdata
from distcalib.microdata.remote import local_file
from distcalib.microdata.validate import overridden_variables
from distcalib.report import data_tables as tables
from distcalib.report.data_page import page
from distcalib.report.totals import TakeUp, donors_by_state, simulate_at_home, weighted_by_state
from distcalib.simulation.engine import engine_version
from distcalib.storage import publish, write_text
from distcalib.targets.sources import bundled_targets

Report = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes
    ----------
    table
        The rows of ``check.csv``, with the columns `distcalib.report.data_tables.COLUMNS`.
    facts
        What was checked: dataset, digest, households, persons, states, period, take_up, seed, rules, bundled,
        before, notes.
    """

    table: pd.DataFrame
    facts: dict[str, Any]

    def starting_totals(self) -> pd.DataFrame:
        """Return the national totals in the form of the packaged ``starting_totals.csv``.

        Returns
        -------
        DataFrame
            variable, constraints, geo_level, starting (in the unit of the variable, rounded to a whole
            number), concept, measured_with. These decide between the statuses fit and check.
        """
        mine = self.table[(self.table["section"] == "register") & (self.table["area"] == "US")]
        mine = mine[mine["status"] != "excluded"].drop_duplicates(["variable", "constraints"])
        name = "bundled microdata" if self.facts["bundled"] else self.facts["dataset"]
        out = mine[["variable", "constraints"]].assign(
            geo_level="national",
            starting=mine["value"].round(),
            concept=mine["quantity"],
            measured_with=f"{name}, take-up {self.facts['take_up']}",
        )
        return out.sort_values(["variable", "constraints"], ignore_index=True)

    def write(self, output: str | Path) -> None:
        """Write ``check.csv`` and ``check.html`` to the folder `output`, each complete or not at all."""
        folder = Path(output)
        html = page(self.table, self.facts)
        publish(folder / "check.csv", lambda path: _write_table(self.table, path))
        write_text(folder / "check.html", html)


def check_data(
    dataset: str | Path | None = None,
    *,
    before: str | Path | None = None,
    take_up: TakeUp = "drawn",
    seed: int = 0,
    earlier: pd.DataFrame | None = None,
    report: Report = lambda event: None,
) -> Check:
    """Simulate every household where it lives, and hold the totals against official figures.

    Parameters
    ----------
    dataset
        A PolicyEngine dataset, or its address (see `local_file`); None for the bundled one. Tables beside it
        are used where they are: ``*_raking.csv``, ``*_households.csv.gz``, ``*_units.csv.gz`` and
        ``*_sources.csv``.
    before
        An earlier state of the dataset (not raked, nothing imputed), which is simulated too.
    take_up
        ``drawn`` as a run draws it, or ``stored`` as in the dataset.
    seed
        Seed of the take-up draws, and of district and county within the state.
    earlier
        Table of an earlier check. Without `before` its column ``before`` is shown again, not recomputed.
    report
        Takes the events of `distcalib.report.totals.simulate_at_home`.

    Raises
    ------
    InputError
        For a dataset or a table beside it that cannot be used; before anything is simulated.
    RunError
        When the rules engine fails.
    """
    path = bundled_path() if dataset is None else local_file(dataset)
    bundled = path.resolve() == bundled_path().resolve()
    data = Microdata.read(path)
    old = None if before is None else Microdata.read(local_file(before), data.period)
    raking = _read_beside(path, "raking.csv", ["margin", "area", "official", "before", "after"])
    households = _read_beside(
        path, "households.csv.gz", ["household_id", "design_weight", "weight", "certain"]
    )
    source = _filing_in_source(path, data)
    imputed = _read_beside(path, "sources.csv", ["source_column", "policyengine_input", "rule", "imputed"])

    targets = bundled_targets()
    register = tables.register_rows(targets)
    sections = [
        tables.headline_rows(register, bundled),
        register,
        tables.eligible_rows(register),
    ]
    asked = tables.measures_of(pd.concat(sections, ignore_index=True))
    measures = list(asked.values())
    # A row that no run fits may fail: that is a finding, and no reason to find nothing else.
    optional = [asked[k] for k in tables.optional_keys(register)]
    how: dict[str, Any] = {"take_up": take_up, "seed": seed, "optional": optional, "report": report}
    simulated = simulate_at_home(data, measures, ["filing_status"], **how)
    totals = weighted_by_state(simulated, measures).set_axis(list(asked), axis=1)
    donors = donors_by_state(simulated, measures).set_axis(list(asked), axis=1)
    sections = [s.assign(value=tables.measured(s, totals)) for s in sections]
    failed = list(simulated.failed.items())
    if old is not None:
        then = simulate_at_home(old, measures, name="before", **how)
        failed += then.failed.items()
        first = weighted_by_state(then, measures).set_axis(list(asked), axis=1)
        sections = [s.assign(before=tables.measured(s, first)) for s in sections]
    headline, register, eligible = (tables.judged(tables.explained(s, simulated.failed)) for s in sections)
    short = eligible["ratio"] < 1
    eligible["reason"] = np.where(short, "fewer are eligible than enrolled: no take-up rate reaches it", "")
    states = [str(s) for s in totals.index]
    support = tables.measured(register, donors)
    weights = data.weights[data.household_of["tax_unit"]]
    table = tables.tidy(
        [
            headline,
            register,
            eligible,
            tables.unreachable_rows(register, support, states),
            tables.support_rows(register, support, states),
            tables.excluded_rows(targets),
            tables.filing_rows(simulated.columns["filing_status"], weights, source),
            tables.raking_rows(raking, households),
            tables.imputed_rows(imputed),
        ]
    )
    where = "" if before is None else Path(before).name
    if old is None and earlier is not None and earlier["before"].notna().any():
        shown = table["section"] != "raking"
        kept = earlier.drop_duplicates(tables.KEY).set_index(tables.KEY)["before"]
        again = kept.reindex(pd.MultiIndex.from_frame(table[tables.KEY])).to_numpy()
        table["before"] = table["before"].where(~shown, again)
        where = "the earlier check, not recomputed"
    facts = {
        "dataset": path.name,
        "digest": data.digest(),
        "households": data.count(),
        "persons": data.count("person"),
        "states": states,
        "period": data.period,
        "take_up": take_up,
        "seed": seed,
        "rules": f"policyengine-us {engine_version()}",
        "bundled": bundled,
        "before": where,
        "notes": _notes(data, failed, imputed is not None),
    }
    return Check(table, facts)


def read_check(path: str | Path | None) -> pd.DataFrame:
    """Read the table of an earlier check; None for the one that the package ships.

    Raises
    ------
    InputError
        When it is missing or not of this form.
    """
    file = shipped_path() if path is None else Path(path)
    table = _read_table(file, tables.COLUMNS)
    return table[tables.COLUMNS]


def shipped_path() -> Path:
    """Return the path of the check of the bundled microdata that the package ships."""
    return Path(str(resources.files("distcalib.report").joinpath(f"bundled/check_{BUNDLED_PERIOD}.csv")))


def _read_beside(dataset: Path, ending: str, columns: list[str]) -> pd.DataFrame | None:
    """Read the table ``<dataset stem>_<ending>`` that lies beside a dataset; None where there is none.

    Raises
    ------
    InputError
        When it lacks one of `columns`.
    """
    path = dataset.with_name(f"{dataset.stem}_{ending}")
    return _read_table(path, columns) if path.is_file() else None


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a CSV table that must have `columns`; text stays text, empty numbers are NaN."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as a table ({error})", place=path, expected="a CSV file") from error
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError("lacks a column", place=path, value=missing[0], choices=table.columns)
    for column in [c for c in (*tables.NUMBERS, "after", "design_weight", "weight") if c in table.columns]:
        parsed = pd.to_numeric(table[column], errors="coerce").astype(float)
        bad = parsed.isna() & (table[column] != "")
        if bad.any():
            words = table.loc[bad, column].iloc[0]
            raise InputError("is not a number", place=f"{path}: {column}", value=words)
        table[column] = parsed
    return table


def _filing_in_source(path: Path, data: Microdata) -> Array | None:
    units = _read_beside(path, "units.csv.gz", ["tax_unit_id", "filing_status_source"])
    if units is None:
        return None
    of_unit = units.drop_duplicates("tax_unit_id").set_index("tax_unit_id")["filing_status_source"]
    found = of_unit.reindex(data.ids["tax_unit"].astype(str))
    if found.isna().any():
        raise InputError(
            f"lacks {int(found.isna().sum())} tax units of the dataset",
            place=path.with_name(f"{path.stem}_units.csv.gz"),
            value=found.index[found.isna()][0],
            expected="one row a tax unit",
        )
    return found.to_numpy(dtype=object)


def _notes(data: Microdata, failed: list[tuple[str, str]], imputed_known: bool) -> list[str]:
    notes = [
        f"{variable} could not be computed, and a run that asks for it would fail: {words}"
        for variable, words in failed
    ]
    if data.period != BUNDLED_PERIOD:
        notes.append(f"The microdata are of {data.period}; the official figures are of {BUNDLED_PERIOD}.")
    stored = overridden_variables(data)
    if stored:
        notes.append(
            f"{len(stored)} variables that the rules would compute are stored in the dataset and win over "
            f"the rules: {', '.join(stored)}."
        )
    if not imputed_known:
        notes.append("No table of sources lies beside the dataset, so which fields are imputed is not known.")
    return notes


def _write_table(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n")
