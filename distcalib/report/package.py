"""Calibration packages of PolicyEngine's own pipeline, read for comparison; nothing is unpickled.

``calibration_package.pkl`` holds the matrix, its targets and the start of the fit; the fitted weights are
``calibration_weights.npy`` beside it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from distcalib import inert
from distcalib.errors import InputError
from distcalib.inert import Made
from distcalib.report.comparison import FinishedRun

_MODULES = {
    "numpy",
    "pandas",
    "scipy",
    "pyarrow",
    "builtins",
    "collections",
    "_codecs",
    "datetime",
    "copyreg",
}
_STRINGS = {"string": pa.string(), "large_string": pa.large_string()}


@dataclass(frozen=True)
class CalibrationPackage:
    """What a package holds.

    Attributes
    ----------
    X
        csr_matrix, (n targets, n columns); ``column = clone * n_records + record``.
    targets
        One row a row of `X`, and the column ``name``.
    initial_weights
        float64 (n columns,), or None.
    cd_geoid, block_geoid
        District and block of each column as texts, or None.
    metadata
        Texts and numbers of the package's own account: seed, n_clones, created_at ...
    """

    X: sparse.csr_matrix
    targets: pd.DataFrame
    initial_weights: NDArray[np.float64] | None
    cd_geoid: NDArray[Any] | None
    block_geoid: NDArray[Any] | None
    metadata: dict[str, Any]


def read_package(path: str | Path) -> CalibrationPackage:
    """Read ``calibration_package.pkl`` at `path` without unpickling it.

    Returns
    -------
    CalibrationPackage
        Matrix, targets, weights and places.

    Raises
    ------
    InputError
        For a missing file, one that is no package, objects of another kind than arrays and tables, and pieces
        whose sizes do not agree. Names file and piece.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError("no such file", place=file, expected="calibration_package.pkl")
    with open(file, "rb") as stream:
        held = inert.load(stream, file, lambda module, name: module.split(".")[0] in _MODULES)
    needed = ("X_sparse", "targets_df", "target_names")
    if not isinstance(held, dict) or any(name not in held for name in needed):
        raise InputError(
            "is not a calibration package", place=file, expected=f"a dict of {', '.join(needed)} ..."
        )
    X = _matrix(held["X_sparse"], f"{file}: X_sparse")
    targets = _frame(held["targets_df"], f"{file}: targets_df")
    names = held["target_names"]
    if not isinstance(names, list) or not len(names) == len(targets) == X.shape[0]:
        raise InputError(
            "is not one name a row of the matrix", place=f"{file}: target_names",
            expected=f"{X.shape[0]} names, and as many rows of targets_df (it has {len(targets)})",
        )  # fmt: skip
    for column in ("variable", "value"):
        if column not in targets:
            raise InputError(
                "lacks a column", place=f"{file}: targets_df", value=column, choices=targets.columns
            )
    of_columns = {}
    for name in ("initial_weights", "cd_geoid", "block_geoid"):
        place, made = f"{file}: {name}", held.get(name)
        found = None if made is None else inert.array(made, place)
        if found is not None and found.shape != (X.shape[1],):
            raise InputError("has another shape", place=place, value=found.shape, expected=f"({X.shape[1]},)")
        of_columns[name] = found
    return CalibrationPackage(
        X,
        targets.assign(name=[str(one) for one in names]),
        **of_columns,
        metadata=_told(held.get("metadata")),
    )


def compare_with_package(
    run: str | Path, package: CalibrationPackage, weights: NDArray[Any] | None = None
) -> pd.DataFrame:
    """Return the targets of a finished run beside those of a package, matched by what they measure.

    Parameters
    ----------
    run
        A finished run folder.
    package
        What `read_package` gave.
    weights
        Its fitted weights, (n columns,); None: its initial ones.

    Returns
    -------
    DataFrame
        name, in (``both``, ``only run``, ``only package``), status (in the run), target, estimate, rel_error
        of each (``_run``, ``_package``), and nonzeros_package; float64, NaN where there is none.

    Raises
    ------
    InputError
        When the run is not finished, or there are no weights of the package's columns.
    """
    values = package.initial_weights if weights is None else np.asarray(weights)
    expected = f"one finite number a column: ({package.X.shape[1]},)"
    if values is None:
        raise InputError("the package holds no initial weights", place="weights", expected=expected)
    if (
        values.shape != (package.X.shape[1],)
        or values.dtype.kind not in "fiu"
        or not np.isfinite(values).all()
    ):
        raise InputError(
            "are not those of the package", place="weights", value=str(values.shape), expected=expected
        )
    theirs = pd.DataFrame(
        {
            "name": package.targets["name"],
            "target_package": package.targets["value"].astype(np.float64),
            "estimate_package": package.X.astype(np.float64) @ values.astype(np.float64),
            "nonzeros_package": np.diff(package.X.indptr),
        }
    )
    theirs["rel_error_package"] = _relative(theirs["estimate_package"], theirs["target_package"])
    ours = FinishedRun.read(run).targets[["name", "status", "target", "estimate", "rel_error"]]
    ours = ours.rename(columns={name: f"{name}_run" for name in ("target", "estimate", "rel_error")})
    tables = [one.assign(key=[same_name(name) for name in one["name"]]) for one in (ours, theirs)]
    for table, place in zip(tables, (run, "package"), strict=True):
        twice = table["key"].duplicated()
        if twice.any():
            raise InputError(
                "two targets measure the same", place=place, value=str(table["name"][twice].iloc[0])
            )
    both = tables[0].merge(
        tables[1], on="key", how="outer", suffixes=("", "_other"), indicator="in", sort=True
    )
    both["in"] = (
        both["in"].astype(str).map({"both": "both", "left_only": "only run", "right_only": "only package"})
    )
    both["name"] = both["name"].fillna(both["name_other"])
    order = ["name", "in", "status"]
    order += [f"{figure}_{of}" for figure in ("target", "estimate", "rel_error") for of in ("run", "package")]
    return both[[*order, "nonzeros_package"]]


def in_words(package: CalibrationPackage, table: pd.DataFrame) -> list[str]:
    """Return what `compare_with_package` found, as lines."""
    told = package.metadata
    made = ", ".join(f"{name} {told[name]}" for name in ("created_at", "seed", "n_clones") if name in told)
    lines = [
        f"package: {package.X.shape[0]:,} targets x {package.X.shape[1]:,} columns"
        + (f"; {made}" if made else "")
    ]
    counts = table["in"].value_counts()
    lines.append(
        ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("both", "only run", "only package"))
    )
    both = table[table["in"] == "both"]
    other = (both["target_run"] - both["target_package"]).abs() > 1e-9 * both["target_run"].abs()
    if other.any():
        lines.append(f"{int(other.sum()):,} of both have another official figure")
    for status in ("fit", "check"):
        some = both[both["status"] == status]
        if len(some):
            run, package_error = (some[f"rel_error_{of}"].abs() for of in ("run", "package"))
            lines.append(
                f"{status}: median error {run.median():.2%} in the run, {package_error.median():.2%} in the "
                f"package; within 10 %: {(run <= 0.1).mean():.0%}, {(package_error <= 0.1).mean():.0%}"
            )
    return lines


def same_name(name: str) -> str:
    """Return the name of a target with its constraints in one order and numbers in one spelling.

    >>> same_name("cd_601/person_count/[age<5,age>=0.0]") == same_name("cd_601/person_count/[age>=0,age<5]")
    True
    """
    head, bracket, rest = name.partition("/[")
    if not bracket:
        return name
    return f"{head}/[{','.join(sorted({_number(part) for part in rest.removesuffix(']').split(',')}))}]"


def _number(constraint: str) -> str:
    constraint = constraint.replace(" in ", "in")
    at = max(constraint.rfind(sign) for sign in "=<>") + 1
    try:
        return f"{constraint[:at]}{float(constraint[at:]):.12g}"
    except ValueError:
        return constraint


def _relative(estimate: pd.Series, target: pd.Series) -> pd.Series:
    return (estimate - target) / target.abs().where(target != 0)


def _told(made: Any) -> dict[str, Any]:
    """Return what a package says of itself in texts and numbers; lists and tables of it are passed over."""
    found = {}
    for key, value in made.items() if isinstance(made, dict) else ():
        with suppress(InputError):
            found[str(key)] = inert.plain(value, "metadata")
    return found


def _matrix(made: Any, place: str) -> sparse.csr_matrix:
    state = made.state if isinstance(made, Made) and made.name in ("csr_matrix", "csr_array") else None
    if not isinstance(state, dict) or not {"_shape", "data", "indices", "indptr"} <= set(state):
        raise InputError("is not a CSR matrix", place=place, expected="scipy's csr_matrix")
    parts = tuple(inert.array(state[name], place) for name in ("data", "indices", "indptr"))
    try:
        shape = tuple(int(n) for n in state["_shape"])
        found = sparse.csr_matrix(parts, shape=shape)
        found.check_format(full_check=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"is not a CSR matrix ({error})", place=place) from None
    return found


def _frame(made: Any, place: str) -> pd.DataFrame:
    """Make a table of the blocks that pandas keeps its columns in."""
    try:
        blocks, axes = made.state["_mgr"].args[:2]
        columns, index = (_labels(axis, place) for axis in axes)
        found: dict[int, Any] = {}
        for block in blocks:
            values, placement, _ = block.args
            where = _places(placement, place)
            held = _block(values, place)
            if held.ndim == 1:  # a column of its own
                held = held.reshape(1, -1)
            if held.shape != (len(where), len(index)):
                raise ValueError(f"a block of {held.shape} for {len(where)} columns of {len(index)} rows")
            found |= dict(zip(where, held, strict=True))
        table = {str(columns[i]): found[i] for i in range(len(columns))}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"is not a table that can be read ({type(error).__name__}: {error})", place=place,
            expected="a pandas table of numbers and texts",
        ) from None  # fmt: skip
    return pd.DataFrame(table)


def _labels(made: Made, place: str) -> Any:
    """Return the labels of an axis; of a range its numbers."""
    held = made.args[1]
    if "data" in held:
        return _block(held["data"], place)
    return range(int(held["start"]), int(held["stop"]), int(held["step"]))


def _places(made: Made, place: str) -> list[int]:
    if made.name == "slice":
        start, stop, step = made.args
        return list(range(start, stop, step or 1))
    return [int(n) for n in inert.array(made, place).tolist()]


def _block(made: Made, place: str) -> NDArray[Any]:
    if made.name in ("ArrowStringArray", "ArrowExtensionArray"):
        return _texts(made.state["_pa_array"], place)
    if made.name == "__pyx_unpickle_NDArrayBacked":  # texts, where pyarrow is not installed
        return inert.array(made.state[1], place)
    if made.name in ("StringArray", "NumpyExtensionArray"):
        return inert.array(made.state["_ndarray"], place)
    return inert.array(made, place)


def _texts(made: Made, place: str) -> NDArray[Any]:
    """Return an array of texts that pyarrow pickled, in one piece or several."""
    if made.name == "chunked_array":
        pieces = [_texts(one, place) for one in made.args[0]]
        return np.concatenate(pieces) if pieces else np.array([], dtype=object)
    kind, length, nulls, offset, buffers, *_ = made.args[0] if isinstance(made.args[0], tuple) else made.args
    if kind.args[0] not in _STRINGS:
        raise ValueError(f"a column of {kind.args[0]}")
    raw = [None if one is None else pa.py_buffer(inert.raw_bytes(one.args[0])) for one in buffers]
    found = pa.Array.from_buffers(_STRINGS[kind.args[0]], length, raw, nulls, offset)
    try:
        found.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"holds texts that are damaged ({error})", place=place) from None
    return np.array(found.to_pylist(), dtype=object)
