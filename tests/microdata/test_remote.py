"""Addresses of microdata on Hugging Face, with the hub's own errors and no network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError
from distcalib.microdata import Microdata
from distcalib.microdata.remote import local_file
from distcalib.storage import write_json

REPOSITORY = "policyengine/policyengine-us-data"
ADDRESS = f"hf://{REPOSITORY}/enhanced_cps_2024.h5"


def hub(monkeypatch, answer) -> list[dict]:
    """Answer downloads with a path or an error, and return what was asked."""
    asked = []

    def download(**what):
        asked.append(what)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda self, **what: ["README.md", "enhanced_cps_2023.h5", "cps_2023.h5"],
    )
    return asked


def failure(kind: type[Exception]) -> Exception:
    # The hub's errors carry a web response, which nothing here reads.
    error = kind.__new__(kind)
    error.args = ("the hub's own words",)
    return error


def test_a_path_is_left_alone(monkeypatch):
    asked = hub(monkeypatch, failure(OSError))
    assert local_file("a/b.h5") == Path("a/b.h5")
    assert not asked


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (ADDRESS, (REPOSITORY, "enhanced_cps_2024.h5", None, "model")),
        (
            f"{ADDRESS}@1.115.4",
            (REPOSITORY, "enhanced_cps_2024.h5", "1.115.4", "model"),
        ),
        ("hf://datasets/a/b/c/d.h5@main", ("a/b", "c/d.h5", "main", "dataset")),
    ],
)
def test_the_parts_of_an_address(monkeypatch, tmp_path, address, expected):
    asked = hub(monkeypatch, tmp_path / "file.h5")
    assert local_file(address) == tmp_path / "file.h5"
    assert tuple(asked[0][k] for k in ("repo_id", "filename", "revision", "repo_type")) == expected


@pytest.mark.parametrize(
    "address", ["hf://policyengine/cps.h5", "s3://bucket/a/b.h5", "hf://a//b.h5", "hf://"]
)
def test_another_address_is_refused(monkeypatch, address):
    hub(monkeypatch, failure(OSError))
    with pytest.raises(InputError, match="hf://OWNER/REPOSITORY/PATH"):
        local_file(address)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            errors.RepositoryNotFoundError,
            ["private or gated", "HF_TOKEN", REPOSITORY],
        ),
        (errors.GatedRepoError, ["private or gated", "HF_TOKEN"]),
        (errors.RevisionNotFoundError, ["no revision 'v9'", "branch, tag or commit"]),
        (errors.LocalEntryNotFoundError, ["cannot be reached", "no copy is in the cache", "local file"]),
        (errors.OfflineModeIsEnabled, ["cannot be reached"]),
        (errors.RemoteEntryNotFoundError, ["no such file", "did you mean 'enhanced_cps_2023.h5'"]),
        (errors.HfHubHTTPError, ["cannot be downloaded", "the hub's own words"]),
        (ConnectionError, ["cannot be downloaded"]),
    ],
)
def test_what_goes_wrong_is_explained(monkeypatch, kind, words):
    hub(monkeypatch, failure(kind))
    with pytest.raises(InputError) as error:
        local_file(f"{ADDRESS}@v9")
    for word in (ADDRESS, *words):
        assert word in str(error.value)
    assert error.value.exit_code == 2


def test_a_run_names_the_local_file_and_sees_a_change_upstream(monkeypatch, settings, small_file, tmp_path):
    settings.write_text(settings.read_text().replace(str(small_file), ADDRESS))
    config = RunConfig.load(settings)
    assert config.microdata == ADDRESS
    run = Run(config, tmp_path / "out", ClusterConfig(kind="serial"))
    asked = hub(monkeypatch, small_file)
    plan = run.prepare().plan
    assert plan.run.microdata == str(small_file)
    assert len(asked) == 1
    assert plan.inputs["microdata"] == Microdata.read(small_file).digest()
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "plan.json", plan.to_json())
    data = Microdata.read(small_file)
    changed = tmp_path / "changed.h5"
    data.with_columns({"age": data.column("age") + 1}).write(changed)
    hub(monkeypatch, changed)
    with pytest.raises(InputError, match=r"another plan.*inputs\.microdata"):
        run.prepare()
