"""Run folders that lie: each ends in a clear error, exit code 2, and nothing is written or unpickled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from made_tables import write_made_run
from scipy import sparse

from distcalib.cli import main
from distcalib.matrix.blocks import write_block
from distcalib.storage import sha256_file

BOMB = "[" * 200_000
EVENTS = """{"event": "start", "time": 1}
{"event": "stage", "time": 2}
{"event": ["task"], "time": 3}
{"event": "task", "time": 3, "stage": [], "id": {}}
{"event": "stage_done", "time": "never"}
"""
PICKLE = "touched by a pickle"


class Touch:
    """What a pickle does when somebody loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (PICKLE,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three districts whose tables are made, with a matrix."""
    folder = write_made_run(tmp_path_factory.mktemp("runs") / "whole", [5601, 3301, 3302])
    shape = (len(pd.read_parquet(folder / "targets.parquet")), 120)
    cells = sparse.random_array(shape, density=0.2, rng=1, format="csr", dtype=np.float32)
    write_block(folder / X, cells)
    return folder


def contents(folder: Path) -> dict[str, Any]:
    """Return every file and folder below one: when it was changed, and its bytes."""
    return {
        p.relative_to(folder).as_posix(): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in folder.rglob("*")
    }


def put(path: str, data: str | bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / path).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def archived(path: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with open(run / path, "wb") as file:
            np.savez(file, weights=np.array([Touch()], dtype=object), allow_pickle=True)

    return change


def claiming(path: str, length: int) -> Callable[[Path], None]:
    """Let a header promise more numbers than the file holds."""

    def change(run: Path) -> None:
        with open(run / path, "wb") as file:
            told = {"descr": "<f8", "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(file, told)
            file.write(bytes(64))

    return change


def headed(header: bytes) -> bytes:
    """Return the bytes of a .npy file with a header of one's own."""
    line = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(960)


def without(path: str, column: str) -> Callable[[Path], None]:
    return lambda run: pd.read_parquet(run / path).drop(columns=column).to_parquet(run / path, index=False)


def bomb_for_receipts(run: Path) -> None:
    for file in run.glob("receipts/*/*.json"):
        file.write_text(BOMB)


def objects(path: str) -> Callable[[Path], None]:
    return lambda run: np.save(run / path, np.array([Touch()] * 120, dtype=object), allow_pickle=True)


def array(path: str, values: Any) -> Callable[[Path], None]:
    return lambda run: np.save(run / path, values)


def said(path: str, **changes: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        told = json.loads((run / path).read_text())
        for key, value in changes.items():
            *above, last = key.split("__")
            at = told
            for part in above:
                at = at[part]
            at[last] = value
        (run / path).write_text(json.dumps(told))

    return change


def vouched(change: Callable[[Path], None], path: str) -> Callable[[Path], None]:
    """Let the receipt of the fit say that a file is as it should be."""

    def changed(run: Path) -> None:
        change(run)
        (receipt,) = run.glob("receipts/fit/*.json")
        told = json.loads(receipt.read_text())
        told["outputs"][path] = sha256_file(run / path)
        receipt.write_text(json.dumps(told))

    return changed


def outside(run: Path) -> Path:
    """Return a file that is not the run's."""
    return run.parent / "outside" / "mine.txt"


def linked(path: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        target = run / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()
        target.symlink_to(outside(run).parent if path.endswith("X") else outside(run))

    return change


def leading_out(run: Path) -> None:
    """Let cells of the matrix stand in columns that there are none of."""
    group = zarr.open_group(str(run / X), mode="r+")
    group["indices"][:5] = 2_000_000_000


X, WEIGHTS, SUMMARY = "matrix.zarr/X", "fit/weights.npy", "fit/summary.json"
OTHER = "../outside/mine.txt"
PARQUET = b"PAR1" + bytes(50) + b"PAR1"
NUMBERS = "fit/weights.npy: is no file of numbers; expected 120 finite numbers"
UNREAD = "cannot be read as a sparse block"
READ_WEIGHTS = ("matrix column RUN 3", "replicates RUN --output OUT")
READ_X = ("matrix info RUN", "fit robustness RUN --output OUT", "replicates RUN --output OUT")
READ_PLAN = (
    *READ_X, "run --output RUN", "verify RUN", "status RUN", "report RUN --output OUT", "targets list RUN",
    "compare RUN WHOLE --output OUT", "stack run RUN --output OUT",
)  # fmt: skip
READ_MANIFEST = ("verify RUN", "compare RUN WHOLE --output OUT", "publish RUN OUT")

# What is wrong with a run folder, commands that read it, and words of their error.
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "a pickle for weights": (put(WEIGHTS, pickle.dumps(Touch())), READ_WEIGHTS, NUMBERS),
    "a pickle for weights, vouched for": (
        vouched(put(WEIGHTS, pickle.dumps(Touch())), WEIGHTS), ("report RUN --output OUT",), NUMBERS,
    ),
    "objects for weights": (objects(WEIGHTS), READ_WEIGHTS, NUMBERS),
    "an archive of objects for weights": (archived(WEIGHTS), READ_WEIGHTS, NUMBERS),
    "few weights": (array(WEIGHTS, np.ones(3)), READ_WEIGHTS, "does not hold the weights of the run"),
    "weights that are no numbers": (array(WEIGHTS, np.full(120, np.nan)), READ_WEIGHTS, "what is no number"),
    "a header of a billion weights": (claiming(WEIGHTS, 10**15), READ_WEIGHTS, NUMBERS),
    **{
        f"a header of {header[:40]!r}": (put(WEIGHTS, headed(header)), READ_WEIGHTS, NUMBERS)
        for header in (
            b"((((((",
            b"-" * 100,
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}" % 2**70,
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}",
            b"{[]: 1}",
        )
    },
    "targets without values": (
        without("targets.parquet", "value"), READ_X, "targets.parquet: lacks a column; got 'value'",
    ),
    "no summary": (
        lambda run: (run / SUMMARY).unlink(), ("replicates RUN --output OUT",), "is no summary of a fit",
    ),
    **{
        f"a summary of {text[:20]}": (put(SUMMARY, text), ("replicates RUN --output OUT",), SUMMARY)
        for text in (BOMB, "[]", "{}", '{"settings": {"frobnicate": 1}}', "none")
    },
    "a link out for the weights": (linked(WEIGHTS), READ_WEIGHTS, NUMBERS),
    "a bomb for the manifest": (put("manifest.json", BOMB), READ_MANIFEST, "manifest"),
    "a manifest of files outside": (
        said("manifest.json", files={OTHER: {"sha256": "0" * 64, "bytes": 4}}), READ_MANIFEST, "manifest",
    ),
    "a manifest of an absolute path": (
        said("manifest.json", files={"/etc/passwd": {"sha256": "0" * 64, "bytes": 4}}), READ_MANIFEST,
        "manifest",
    ),
    "a manifest of words": (said("manifest.json", files={"plan.json": "mine"}), READ_MANIFEST, "manifest"),
    "a manifest that proves a number": (said("manifest.json", areas=7), ("verify RUN",), "manifest"),
    "a manifest that proves nothing": (said("manifest.json", areas={}), ("verify RUN",), "areas are proven"),
    "a bomb for the plan": (put("plan.json", BOMB), READ_PLAN, "plan.json: is not the plan of a run"),
    "a slice with a path for an id": (
        said("plan.json", slices=[{"id": OTHER, "state_fips": 56, "start": 0, "stop": -1}]), READ_PLAN,
        "plan.json: is not the plan of a run",
    ),
    "a path for the name of a fit": (
        said("plan.json", run__fits={"../../x": {}}), ("verify RUN", "run --output RUN"),
        "plan.json: fits: is not a name; got '../../x'",
    ),
    "a path for the name of an area": (
        said("plan.json", run__areas__others={"../../x": "state == WY"}), ("verify RUN", "run --output RUN"),
        "plan.json: areas.others: is not a name; got '../../x'",
    ),
    "a setting that is none": (
        said("plan.json", run__frobnicate=3), ("verify RUN", "run --output RUN"), "unknown setting",
    ),
    "a bomb for a setting": (
        said("plan.json", run__targets__database={"a": [[[[1]]]]}), ("verify RUN", "run --output RUN"),
        "targets.database: has the wrong type",
    ),
    "other files for microdata": (
        said("plan.json", run__microdata=OTHER), ("run --output RUN", "stack run RUN --output OUT"),
        "mine.txt",
    ),
    "a bomb for the summary": (
        put(SUMMARY, BOMB), ("compare RUN WHOLE --output OUT",), "summary.json: cannot be read",
    ),
    "a bomb for the summary, vouched for": (
        vouched(put(SUMMARY, BOMB), SUMMARY), ("report RUN --output OUT",), "summary.json: cannot be read",
    ),
    "a bomb for metadata": (put(f"{X}/zarr.json", BOMB), READ_X, UNREAD),
    "metadata of a huge array": (said(f"{X}/indptr/zarr.json", shape=[10**15]), READ_X, "MemoryError"),
    "metadata of a huge chunk": (
        said(f"{X}/data/zarr.json", chunk_grid__configuration__chunk_shape=[10**15]), READ_X, UNREAD,
    ),
    "metadata of a huge matrix": (
        said(f"{X}/zarr.json", attributes__shape=[10**12, 10**12]), READ_X, "do not fit each other",
    ),
    "metadata of a shape in words": (said(f"{X}/zarr.json", attributes__shape=["a", "b"]), READ_X, UNREAD),
    "metadata of objects": (said(f"{X}/data/zarr.json", data_type="object"), READ_X, UNREAD),
    "a codec that unpickles": (said(f"{X}/data/zarr.json", codecs=[{"name": "pickle"}]), READ_X, UNREAD),
    "cells outside of the matrix": (leading_out, READ_X, "cannot be read (ValueError"),
    "a link out for the matrix": (linked(X), READ_X, UNREAD),
    "columns that are none": (put("columns.parquet", PARQUET), READ_X, "columns.parquet"),
    "targets that are none": (
        put("targets.parquet", PARQUET), (*READ_X, "targets list RUN", "report RUN --output OUT"), "targets",
    ),
}  # fmt: skip
# Events and what no receipt vouches for carry no truth: it is left out, and the command does its work.
LEFT_OUT: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a bomb for the events": (put("events.ndjson", BOMB), ("status RUN", "report RUN --output OUT")),
    "events of other things": (
        put("events.ndjson", EVENTS), ("status RUN", "report RUN --output OUT"),
    ),
    "a pickle for weights": (put(WEIGHTS, pickle.dumps(Touch())), ("report RUN --output OUT",)),
    "a bomb for a receipt": (bomb_for_receipts, ("report RUN --output OUT", "status RUN")),
}  # fmt: skip


@pytest.fixture
def act(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what gives a command a run folder with something wrong, and sees that nothing else changes."""
    monkeypatch.chdir(tmp_path)

    def command(change: Callable[[Path], None], words: str, new: set[str]) -> Any:
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        outside(run).parent.mkdir()
        outside(run).write_text("mine")
        change(run)
        before = contents(tmp_path)
        named = {"RUN": str(run), "OUT": str(tmp_path / "out"), "WHOLE": str(whole)}
        result = CliRunner().invoke(main, [named.get(word, word) for word in words.split()])
        after = contents(tmp_path)
        assert {name: facts for name, facts in after.items() if name not in new} == before, "it wrote"
        assert PICKLE not in after
        return result

    return command


@pytest.mark.parametrize(
    ("name", "words"), [(n, words) for n, (_, all_, _) in CASES.items() for words in all_]
)
def test_a_run_folder_that_lies_is_refused_and_nothing_is_written(act, name, words):
    change, _, said_of_it = CASES[name]
    result = act(change, words, set())
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("error: ")
    assert said_of_it in result.output
    assert "allow_pickle" not in result.output
    assert len(result.output) < 1500


@pytest.mark.parametrize(
    ("name", "words"), [(n, words) for n, (_, all_) in LEFT_OUT.items() for words in all_]
)
def test_what_carries_no_truth_is_left_out(act, name, words):
    result = act(LEFT_OUT[name][0], words, {"out"})
    assert result.exit_code == 0, (result.output, result.exception)


def test_the_whole_folder_is_refused_by_none_of_them(act):
    """The table above would not notice if its folder were wrong in itself."""
    for words in ("matrix info RUN", "matrix column RUN 3", "status RUN", "targets count RUN"):
        result = act(lambda run: None, words, set())
        assert result.exit_code == 0, result.output
        shutil.rmtree("run")
        shutil.rmtree("outside")
