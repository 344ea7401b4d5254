"""The raw public files come through pip, once, and only the known ones."""

from __future__ import annotations

import zipfile

import pytest
from click.testing import CliRunner

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.storage import sha256_file
from distcalib.targets import download
from distcalib.targets.download import public_statistics

NAME = f"{download.PACKAGE}-{download.VERSION}"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip looks in instead of the network, with a wheel of our making; and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(f"{download.PACKAGE}/storage/table.csv", "a,b\n1,2\n")
        packed.writestr(f"{download.PACKAGE}/code.py", "raise SystemExit\n")
        info = f"{NAME}.dist-info"
        packed.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {download.PACKAGE}\nVersion: {download.VERSION}\n",
        )
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "SHA256", sha256_file(wheel))
    return folder


def test_a_second_call_needs_no_network(index):
    folder = public_statistics()
    assert folder.is_relative_to(index.parent / "cache" / "distcalib")
    # The published files, and nothing of the code beside them.
    assert [p.name for p in folder.rglob("*")] == ["table.csv"]
    assert (folder / "table.csv").read_text() == "a,b\n1,2\n"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    for wheel in index.iterdir():
        wheel.unlink()
    assert public_statistics() == folder


def test_another_file_of_the_same_name_is_refused(index, monkeypatch):
    monkeypatch.setattr(download, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the known file") as error:
        public_statistics()
    assert "sha256 000" in str(error.value)
    assert list((index.parent / "cache" / "distcalib").iterdir()) == []


def test_a_download_that_fails_is_said_and_nothing_is_written(index, tmp_path):
    for wheel in index.iterdir():
        wheel.unlink()
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["data", "targets", "--download", "--output", str(out)])
    assert done.exit_code == 2
    assert "policyengine_us_data 1.115.4: cannot be downloaded (ERROR: No matching" in done.output
    assert "--raw FOLDER" in done.output
    assert not out.exists()
    assert list((tmp_path / "cache" / "distcalib").iterdir()) == []


def test_a_cache_that_cannot_be_is_said(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="should be its folder is a file"):
        public_statistics()


def test_the_cache_follows_the_base_directory_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert download.cache_folder() == tmp_path / ".cache" / "distcalib"


def test_one_source_is_asked_for(tmp_path):
    run = CliRunner()
    for words in (
        [],
        ["--output", "x"],
        ["--download"],
        ["--download", "--raw", "x", "--output", "y"],
        ["--database", "x", "--output", "y"],
    ):
        done = run.invoke(main, ["data", "targets", *words])
        assert done.exit_code == 2
        assert "give --database FILE_OR_URL" in done.output
