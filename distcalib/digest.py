"""Digests: the one way in which distcalib says that two things are equal."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN.

    Dataclasses become objects, NumPy scalars numbers, tuples arrays. A non-finite float is refused
    (`ValueError`), because its text differs between readers.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a digest cannot hold the non-finite number {value}")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"no canonical form for {type(value).__name__}")


def sha256_text(text: str) -> str:
    """Return the hexadecimal sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(value: Any) -> str:
    """Return sha256 of the canonical JSON of `value`."""
    return sha256_text(canonical_json(value))


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return sha256 over named arrays: name, dtype, shape and little-endian bytes, in name order.

    Text is digested as UTF-8 whatever its width in memory, so `<U4` and `<U5` holding equal words agree.
    """
    total = hashlib.sha256()
    head: str
    body: bytes | memoryview
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.kind in "UOT":
            words = "\x00".join(str(v) for v in array.ravel())
            head, body = f"{name}|text|{array.shape}|", words.encode()
        else:
            fixed = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
            # A view, because a copy of the largest arrays would be half of a matrix.
            head, body = f"{name}|{fixed.dtype.str}|{fixed.shape}|", fixed.reshape(-1).view(np.uint8).data
        total.update(head.encode())
        total.update(body)
    return total.hexdigest()


@cache
def code_digest(*rooms: str) -> str:
    """Return the digest of what the named rooms, modules or tables do.

    It is taken over the syntax trees without comments and docstrings, so that a change of wording is no
    change of code; over the bytes of a table. Sub-packages are included.

    Parameters
    ----------
    *rooms
        ``matrix``, ``runs/verify``, ``simulation/bundled/take_up.csv`` ...
    """
    root = resources.files("distcalib")
    parts: list[str] = []
    for room in sorted(rooms):
        folder = root.joinpath(room)
        if folder.is_file():
            # A table that decides what the code does, named with its suffix.
            parts.append(f"{room}:{hashlib.sha256(folder.read_bytes()).hexdigest()}")
            continue
        files = sorted(_python_files(folder), key=str) if folder.is_dir() else [root.joinpath(f"{room}.py")]
        for file in files:
            parts.append(f"{room}/{file.name}:{_tree_digest(file.read_text(encoding='utf-8'))}")
    return sha256_text("\n".join(parts))


def _python_files(folder: Any) -> Iterable[Any]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry)
        elif entry.name.endswith(".py"):
            yield entry


def _tree_digest(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            first = body[0] if body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    return sha256_text(ast.dump(tree, annotate_fields=False, include_attributes=False))
