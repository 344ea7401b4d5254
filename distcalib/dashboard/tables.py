"""Files that people upload, read as tables: CSV, Parquet, PolicyEngine HDF5. By content, never by name."""

from __future__ import annotations

import csv
import warnings
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.microdata import Microdata
from distcalib.microdata.hdf5 import check_claims

#: What a table may hold: 8 bytes a cell make 1.6 GB.
MOST_CELLS = 200_000_000
MOST_COLUMNS = 10_000
#: Bytes that a file may become, whatever its own size: what is compressed can be a million times as long.
MOST_BYTES = 8 * MOST_CELLS
#: Bytes of a number, or of a text beside its letters; of a date or decimal, which pandas makes objects of.
_CELL, _OBJECT = 8, 128
#: Rows of Parquet whose texts are counted at once.
_BATCH = 1 << 13
KINDS = "CSV (UTF-8, comma), Parquet, or a PolicyEngine HDF5 file"
#: First bytes of what is refused, and what to do instead.
_REFUSED = {
    b"PK\x03\x04": "is a zip archive (.npz, .xlsx, .zip)",
    b"PK\x05\x06": "is a zip archive (.npz, .xlsx, .zip)",
    b"\x93NUMPY": "is a NumPy file",
    b"\x1f\x8b": "is compressed (gzip)",
    b"\xd0\xcf\x11\xe0": "is an old Excel file",
}
#: Age bands in which persons of a PolicyEngine file are counted: name, first and last year of age.
AGE_BANDS = (("under_20", 0, 20), ("20_to_64", 20, 65), ("65_plus", 65, 1000))


def read_table(file: Path, name: str) -> pd.DataFrame:
    """Read an uploaded table.

    Parameters
    ----------
    file
        Where it lies.
    name
        What its owner calls it: only for errors.

    Returns
    -------
    DataFrame
        Columns are numbers (int64, float64; yes is 1) or text (str, with missing values).

    Raises
    ------
    InputError
        When it is none of `KINDS`, holds Python objects, no rows, or a column name twice.
    """
    with file.open("rb") as opened:
        first = opened.read(8)
    for start, words in _REFUSED.items():
        if first.startswith(start):
            raise InputError(words, place=name, expected=KINDS)
    if not first:
        raise InputError("is empty", place=name, expected=KINDS)
    if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05":
        raise InputError(
            "is a Python pickle, which can run code when it is opened, and is not read",
            place=name, expected=KINDS,
        )  # fmt: skip
    if first.startswith(b"PAR1"):
        table = _parquet(file, name)
    elif first == b"\x89HDF\r\n\x1a\n":
        try:
            check_claims(file, MOST_BYTES)
            table = household_table(Microdata.read(file))
        except InputError as error:
            raise _without_path(error, file, name) from None
    else:
        table = _csv(file, name)
    if not len(table):
        raise InputError("has no rows", place=name, expected="a header and at least one row")
    return _plain(table, name)


def household_table(data: Microdata) -> pd.DataFrame:
    """Return one row a household of a PolicyEngine file.

    Returns
    -------
    DataFrame
        household_id; the household's own columns; persons, and persons by `AGE_BANDS`; of persons and other
        units the sums of amounts and the counts of yes, a column each.
    """
    n = data.count()
    columns: dict[str, np.ndarray] = {"household_id": data.ids["household"]}
    person_home = data.household_of["person"]
    columns["persons"] = np.bincount(person_home, minlength=n)
    held = data.variables()
    if "age" in held:
        age = data.column("age")
        for band, least, most in AGE_BANDS:
            columns[f"persons_{band}"] = np.bincount(person_home[(age >= least) & (age < most)], minlength=n)
    for variable, entity in held.items():
        values = data.column(variable)
        if entity == "household":
            text = values.dtype.kind == "S"
            columns[variable] = np.char.decode(values, "utf-8", "replace") if text else values
        elif values.dtype.kind in "fb" and variable != "age":
            columns[variable] = np.bincount(data.household_of[entity], weights=values, minlength=n)
    return pd.DataFrame(columns)


def _parquet(file: Path, name: str) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            _check_size(opened.metadata.num_rows, names, name)
            again = next((column for number, column in enumerate(names) if column in names[:number]), None)
            if again is not None:
                raise InputError("names two columns", place=f"{name}: header", value=again)
            for field in opened.schema_arrow:
                if not _plain_type(field.type):
                    raise InputError(
                        f"the column is of the type {field.type}", place=name, value=field.name,
                        expected="numbers or text",
                    )  # fmt: skip
            _check_bytes(file, opened, name)
            return opened.read(use_threads=False).to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"cannot be read as Parquet, it may be truncated ({_line(error)})", place=name
        ) from None


def _check_bytes(file: Path, opened: Any, name: str) -> None:
    """Refuse columns that would be more than `MOST_BYTES` together; texts are counted with their repeats.

    A text that repeats is stored once, and so it is read here: in batches, dictionaries kept.
    """
    import pyarrow.parquet as pq
    from pyarrow import compute, types

    meta, left = opened.metadata, MOST_BYTES
    kinds = {field.name: getattr(field.type, "value_type", field.type) for field in opened.schema_arrow}
    texts = [column for column, kind in kinds.items() if types.is_string(kind) or types.is_large_string(kind)]
    for number, (column, kind) in enumerate(kinds.items()):
        groups = (meta.row_group(group).column(number) for group in range(meta.num_row_groups))
        stored = sum(group.total_uncompressed_size for group in groups)
        objects = types.is_decimal(kind) or types.is_date(kind)
        size = max(stored, meta.num_rows * (_OBJECT if objects else _CELL))
        left -= size
        if left < 0:
            raise _too_large(name, column, size)
    sizes = dict.fromkeys(texts, 0)
    if not texts:
        return
    with pq.ParquetFile(file, read_dictionary=texts) as kept:
        for batch in kept.iter_batches(_BATCH, columns=texts, use_threads=False):
            for column in texts:
                values = batch[column]
                lengths = compute.binary_length(values.dictionary).take(values.indices)
                sizes[column] += compute.sum(lengths).as_py() or 0
                if sum(sizes.values()) > left:
                    raise _too_large(name, column, sizes[column])


def _too_large(name: str, column: str, size: int) -> InputError:
    return InputError(
        "is too large once it is read", place=f"{name}: {column}", value=f"{size:,} bytes or more",
        expected=f"at most {MOST_BYTES:,} bytes of all columns; the same calls take more from a notebook",
    )  # fmt: skip


def _plain_type(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string,
             types.is_decimal, types.is_date, types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _csv(file: Path, name: str) -> pd.DataFrame:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            header = next(csv.reader(opened), [])
            _check_header([cell.strip() for cell in header], name)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                file,
                encoding="utf-8-sig",
                skipinitialspace=True,
                low_memory=False,
                index_col=False,
                keep_default_na=False,
                na_values=[""],
            )
    except pd.errors.ParserWarning:
        raise InputError(
            "has rows with more cells than the header", place=name, value=len(header),
            expected="one name in the header for each column",
        ) from None  # fmt: skip
    except UnicodeDecodeError as error:
        raise InputError(f"is not text in UTF-8 (byte {error.start})", place=name, expected=KINDS) from None
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise InputError(f"cannot be read as CSV ({_line(error)})", place=name, expected=KINDS) from None
    _check_size(len(table), header, name)
    table.columns = [cell.strip() for cell in header]
    return table


def _check_header(header: list[str], name: str) -> None:
    _check_size(0, header, name)
    if not any(header):
        raise InputError("is empty", place=f"{name}: first line", expected="the names of the columns")
    if any("\0" in cell for cell in header):
        raise InputError("is not text", place=name, expected=KINDS)
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise InputError(
            "has one column, and its cells are apart by another sign", place=f"{name}: header",
            value=header[0], expected="commas between the cells",
        )  # fmt: skip
    for number, cell in enumerate(header):
        if not cell:
            raise InputError(f"column {number + 1} has no name", place=f"{name}: header")
        if cell in header[:number]:
            raise InputError("names two columns", place=f"{name}: header", value=cell)


def _check_size(rows: int, columns: list[str], name: str) -> None:
    if len(columns) > MOST_COLUMNS or rows * len(columns) > MOST_CELLS:
        raise InputError(
            "is too large for the dashboard", place=name, value=f"{rows:,} rows, {len(columns):,} columns",
            expected=f"at most {MOST_COLUMNS:,} columns and {MOST_CELLS:,} cells; the same calls take more "
            "from a notebook",
        )  # fmt: skip


def _plain(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return numbers as int64 or float64, yes and no as 1 and 0, and everything else as text."""
    out: dict[str, pd.Series] = {}
    for column in map(str, table.columns):
        values = table[column]
        if values.dtype == object:  # decimals and dates of Parquet
            first = next(iter(values.dropna()), "")
            values = pd.to_numeric(values) if isinstance(first, Decimal) else values
            values = values.map(str, na_action="ignore") if isinstance(first, date) else values
        if values.dtype.kind in "iub" and not values.isna().any():
            large = values.dtype.kind == "u" and len(values) and int(values.max()) > np.iinfo(np.int64).max
            out[column] = values.astype(np.float64 if large else np.int64)
        elif pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            out[column] = values.astype(np.float64)
        elif values.dtype == object and not values.dropna().map(np.isscalar).all():
            raise InputError("the column holds Python objects", place=name, value=column,
                             expected="numbers or text")  # fmt: skip
        else:
            out[column] = values.astype("str").str.strip().where(values.notna())
    return pd.DataFrame(out)


def _without_path(error: InputError, file: Path, name: str) -> InputError:
    place = str(error.place).replace(str(file), name)
    value = None if error.value == file.name else error.value
    return InputError(error.message.replace(str(file), name), place=place, value=value,
                      expected=error.expected, choices=error.choices)  # fmt: skip


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
