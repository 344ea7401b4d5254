"""Outputs of commands: a place that cannot be written, or a file that is there, is refused at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import distcalib.microdata.cps
import distcalib.report.data_check
import distcalib.targets.contradictions
from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.microdata.bundled_data import SIDE_TABLES, bundled_path
from distcalib.storage import publish, writable

# Commands that write the file given last.
FILES = {
    "cps": ["data", "cps", "--output"],
    "take-up": ["data", "take-up", "--output"],
    "targets": ["data", "targets", "--database"],
    "contradictions": ["data", "contradictions", "--output"],
    "starting totals": ["data", "check", "--output", "{folder}/check", "--starting-totals"],
}
# Commands that write in the folder given last.
FOLDERS = {
    "check": ["data", "check", "--output"],
    "replicates": ["replicates", "{folder}/run", "--output"],
    "targets": ["data", "targets", "--raw", "{folder}/raw", "--output"],
}


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """What takes minutes is not begun."""

    def begun(*args: object, **kwargs: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(distcalib.microdata.cps, "build_cps", begun)
    monkeypatch.setattr(distcalib.report.data_check, "check_data", begun)
    monkeypatch.setattr(distcalib.targets.contradictions, "find_contradictions", begun)


def invoke(command: list[str], path: Path, folder: Path, *more: str):
    arguments = [*(a.format(folder=folder) for a in command), str(path), *more]
    return CliRunner().invoke(main, arguments)


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    for word in words:
        assert word in result.output, f"{word!r} is not in: {result.output}"


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_is_wanted(name, tmp_path):
    (tmp_path / "out").mkdir()
    force = [] if name == "targets" else ["--force"]
    result = invoke(FILES[name], tmp_path / "out", tmp_path, *force)
    refused(result, f"{tmp_path}/out: is a folder; expected a file")
    assert [p.name for p in tmp_path.rglob("*")] == ["out"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_below_a_file(name, tmp_path):
    (tmp_path / "mine").write_text("hand-made")
    refused(invoke(FILES[name], tmp_path / "mine" / "a" / "x.h5", tmp_path), f"got '{tmp_path}/mine'")
    assert (tmp_path / "mine").read_text() == "hand-made"


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_folder_that_is_a_file_or_below_one(name, below, tmp_path):
    (tmp_path / "mine").write_text("hand-made")
    result = invoke(FOLDERS[name], tmp_path / "mine" / below, tmp_path)
    refused(result, "should be its folder is a file", f"got '{tmp_path}/mine'")
    assert "replicates  [" not in result.output


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_there_is_not_replaced(name, tmp_path):
    file = tmp_path / "mine.h5"
    file.write_text("hand-made")
    words = ["mine.h5: exists; expected a new file"] + ["--force"] * (name != "targets")
    refused(invoke(FILES[name], file, tmp_path), *words)
    assert file.read_text() == "hand-made"


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"targets"}))
def test_force_lets_the_work_begin(name, tmp_path):
    file = tmp_path / "mine.h5"
    file.write_text("hand-made")
    result = invoke(FILES[name], file, tmp_path, "--force")
    assert str(result.exception) == "work was begun", result.output


@pytest.mark.parametrize("ending", SIDE_TABLES)
def test_the_tables_beside_a_dataset_are_not_replaced(ending, tmp_path):
    (tmp_path / f"mine_{ending}").write_text("hand-made")
    result = invoke(FILES["cps"], tmp_path / "mine.h5", tmp_path)
    refused(result, f"mine_{ending}: exists", "--force")


def test_the_tables_beside_the_bundled_dataset_are_those():
    path = bundled_path()
    assert {p.name for p in path.parent.glob(f"{path.stem}_*")} == {f"{path.stem}_{e}" for e in SIDE_TABLES}


def test_a_check_replaces_its_own_files_and_finds_a_folder_in_their_place(tmp_path):
    (tmp_path / "check.csv").write_text("an earlier check")
    assert str(invoke(FOLDERS["check"], tmp_path, tmp_path).exception) == "work was begun"
    (tmp_path / "check.html").mkdir()
    refused(invoke(FOLDERS["check"], tmp_path, tmp_path), "check.html: is a folder")


def test_replicates_refuse_bad_input_without_a_progress_bar(tmp_path):
    result = invoke(FOLDERS["replicates"], tmp_path / "out", tmp_path)
    refused(result, "has no weights")
    assert result.output.startswith("error: ")


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=r"a/x\.csv: cannot be written, for there is no permission"):
        writable(tmp_path / "a" / "x.csv")
    refused(invoke(FILES["take-up"], tmp_path / "x.csv", tmp_path), "no permission")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        publish(tmp_path / "x.csv", lambda path: path.write_text("x"))


def test_a_link_to_nowhere_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="should be its folder is a file"):
        writable(tmp_path / "link" / "x.csv")


def test_publish_names_the_place_and_nothing_else(tmp_path):
    table = pd.DataFrame({"a": [1]})
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("hand-made")
    for path in (tmp_path / "folder", tmp_path / "file" / "x.csv"):
        with pytest.raises(InputError, match="folder"):
            publish(path, lambda p: table.to_csv(p))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "new" / "x.csv", full)
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "x.csv", lambda p: p.write_bytes((tmp_path / "none").read_bytes()))
