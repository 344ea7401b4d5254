"""What may not be published is refused with a clear error, exit code 2, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_run import PROOF, make_run
from odd_stores import snapshot

from distcalib.cli.publication import promote, publications, publish, rollback
from distcalib.errors import DistcalibError, InputError
from distcalib.storage.stores import open_store

H5 = "areas/districts/WY-01.h5"
FACTS = {"sha256": "0" * 64, "bytes": 1}


def files(**changes):
    return lambda m: m["files"].update(changes) or m


def path(name):
    return lambda m: m["files"].update({name: FACTS}) or m


MALFORMED = {
    "no object": (lambda m: [m], "is not a manifest"),
    "no name": (lambda m: m.pop("name") and m, "name: is no name"),
    "name a number": (lambda m: m | {"name": 7}, "name: is no name"),
    "no plan": (lambda m: m.pop("plan") and m, "plan: is no sha256"),
    "plan too short": (lambda m: m | {"plan": "abc"}, "plan: is no sha256"),
    "weights a list": (lambda m: m | {"weights": []}, "weights: is no sha256"),
    "weights in capitals": (lambda m: m | {"weights": m["weights"].upper()}, "weights: is no sha256"),
    "no files": (lambda m: m.pop("files") and m, "lists no files"),
    "files empty": (lambda m: m | {"files": {}}, "lists no files"),
    "files a list": (lambda m: m | {"files": [H5]}, "lists no files"),
    "path up": (path("../outside.h5"), "is not a path"),
    "path up inside": (path("areas/../../outside.h5"), "is not a path"),
    "path absolute": (path("/etc/passwd"), "is not a path"),
    "path empty": (path(""), "is not a path"),
    "path of a dot": (path("areas/./WY.h5"), "is not a path"),
    "path with a backslash": (path("..\\outside.h5"), "is not a path"),
    "path with a line": (path("areas/a\nb.h5"), "is not a path"),
    "path with a NUL": (path("areas/a\0.h5"), "is not a path"),
    "path of the manifest": (path("manifest.json"), "is not a path"),
    "file below a file": (path(H5 + "/x"), "is both a file and a folder"),
    "facts a text": (files(**{H5: "0" * 64}), "has no sha256 and bytes"),
    "no sha256": (files(**{H5: {"bytes": 1}}), "is no sha256"),
    "sha256 no digits": (files(**{H5: {"sha256": "z" * 64, "bytes": 1}}), "is no sha256"),
    "size negative": (files(**{H5: {"sha256": "0" * 64, "bytes": -1}}), "is no size"),
    "size no whole number": (files(**{H5: {"sha256": "0" * 64, "bytes": 1.5}}), "is no size"),
    "size true": (files(**{H5: {"sha256": "0" * 64, "bytes": True}}), "is no size"),
    "a file that is not there": (path("verify/gone.csv"), "missing or changed"),
    "no proof": (lambda m: m.pop("verification") and m, "verification: is missing"),
    "proof that does not say of what": (
        lambda m: m | {"verification": {"targets": 3, "largest_difference": 0.0}},
        "verification: is missing",
    ),
    "proof of no target of many": (
        lambda m: m | {"verification": {**PROOF, "proven": 0}},
        "no target was recomputed from the files",
    ),
    "area files not verified": (
        lambda m: m | {"areas": {"proven": [H5, "areas/states/WY.h5"]}},
        r"1 of its 3 area files were not verified by its last command; got \['areas/national/US.h5'\]",
    ),
    "proof without a figure": (
        lambda m: m | {"verification": {"targets": 3, "proven": 3}},
        "largest_difference: is no figure",
    ),
    "proof that is none": (
        lambda m: m | {"verification": {**PROOF, "largest_difference": 0.9}},
        "verification: largest_difference: the files differ from X.w .*; got 0.9; expected at most 1e-06",
    ),
    "proof of a further fit that is none": (
        lambda m: m | {"verification": {**PROOF, "fits": {"few": {"largest_difference": 2e-6}}}},
        "fits: few: largest_difference: the files differ",
    ),
    "further fits that are none": (
        lambda m: m | {"verification": {**PROOF, "fits": {"few": 1}}},
        "fits: is no table of further fits",
    ),
    "proof of more targets than there are": (
        lambda m: m | {"verification": {**PROOF, "targets": 2}},
        "targets: is no number of targets; got 2; expected a number of at least 3",
    ),
}
TEXTS = {
    "empty": (b"", "is not JSON"),
    "cut": (b'{"name": "demo", "pl', "is not JSON"),
    "no UTF-8": (b'{"name": "\xff"}', "is not JSON"),
    "a key twice": (b'{"name": "a", "name": "b"}', "a key stands twice"),
    "no number": (b'{"name": "a", "seconds": NaN}', "NaN is no number"),
    "too deep": (b"[" * 100_000, "is not JSON"),
}


def refused(result: Result, words: str) -> None:
    error = result.exception
    assert isinstance(error, InputError), (result.output, error)
    assert error.exit_code == 2
    assert words in str(error)


@pytest.mark.parametrize("case", [*MALFORMED, *TEXTS])
def test_a_malformed_manifest(case, run, tmp_path):
    place = run / "manifest.json"
    if case in TEXTS:
        data, words = TEXTS[case]
        place.write_bytes(data)
    else:
        change, words = MALFORMED[case]
        place.write_text(json.dumps(change(json.loads(place.read_text()))))
    before = snapshot(run)
    result = CliRunner().invoke(publish, [str(run), str(tmp_path / "public")])
    with pytest.raises(InputError, match=words) as raised:
        raise result.exception
    assert str(place if "changed" not in words else run) in str(raised.value)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "public").exists()
    assert snapshot(run) == before


def test_a_run_folder_that_changed_after_its_manifest(run, tmp_path):
    (run / H5).write_bytes(b"other")
    result = CliRunner().invoke(publish, [str(run), str(tmp_path / "public")])
    refused(
        result,
        "1 of its 14 files are missing or changed after its manifest; got ['areas/districts/WY-01.h5']",
    )
    assert not (tmp_path / "public").exists()


def test_a_folder_that_is_no_finished_run(run, tmp_path):
    (run / "manifest.json").unlink()
    for folder, words in ((run, "so the run is not finished"), (tmp_path / "none", "is no run folder")):
        refused(CliRunner().invoke(publish, [str(folder), str(tmp_path / "public")]), words)
    assert not (tmp_path / "public").exists()


URLS = {
    "": "is empty",
    "s3:bucket/prefix": "is no URL",
    "s3:/bucket": "is no URL",
    "s3://": "is no URL of a store",
    "s3:///prefix": "is no URL of a store",
    "s3://UPPER/prefix": "is no URL of a store",
    "s3://bucket/../other": "is no URL of a store",
    "s3://bucket//prefix": "is no URL of a store",
    "s3://bucket/prefix?versionId=1": "is no URL of a store",
    "s3://bucket/a b": "is no URL of a store",
    "file://relative": "is no folder",
    "file:///": "is no folder",
    "ftp://host/folder": "cannot compare and replace",
    "https://host/folder": "cannot compare and replace",
    "gs://bucket/prefix": "cannot compare and replace",
}


@pytest.mark.parametrize("url", URLS)
def test_a_bad_url(url, run):
    before = snapshot(run)
    for command, given in ((publish, [str(run), url]), (publications, [url]), (rollback, [url])):
        refused(CliRunner().invoke(command, given), URLS[url])
    assert snapshot(run) == before


@pytest.mark.parametrize("scheme", ["s3", "memory", "ftp"])
def test_credentials_in_a_url_are_refused_and_not_shown(scheme, run):
    result = CliRunner().invoke(publish, [str(run), f"{scheme}://AKIAKEY:hunter2@bucket/prefix"])
    refused(result, "give them in the environment")
    assert "hunter2" not in result.output + str(result.exception)
    assert "AKIAKEY" not in result.output + str(result.exception)


def test_a_place_that_cannot_be_used(run, tmp_path):
    (tmp_path / "file").write_text("hand-made")
    refused(CliRunner().invoke(publish, [str(run), str(tmp_path / "file")]), "is a file")
    refused(CliRunner().invoke(publish, [str(run), str(run / "areas")]), "is in the run folder")
    assert (tmp_path / "file").read_text() == "hand-made"
    assert not (run / "areas/versions").exists()


def test_versions_that_are_not_there(run, tmp_path):
    place = str(tmp_path / "public")
    assert CliRunner().invoke(publish, [str(run), place]).exit_code == 0
    version = next(Path(place, "versions").glob("demo-*")).name
    for name in ("../one", "demo", version[:-1] + "g", ".", version.replace("demo", "dema")):
        refused(CliRunner().invoke(promote, [place, name]), "is not there")
    wrong = version.replace("demo", "dema")
    assert f"did you mean '{version}'" in str(CliRunner().invoke(promote, [place, wrong]).exception)
    refused(CliRunner().invoke(rollback, [place]), "no version before the latest")
    refused(CliRunner().invoke(rollback, [str(tmp_path / "new")]), "no version before the latest")
    assert not (tmp_path / "new").exists()


def test_a_pointer_of_another_program_is_left_alone(run, tmp_path):
    public = tmp_path / "public"
    public.mkdir()
    for text in ('{"version": "v1"}', "", "[]", '{"history": [{"act": "publish"}]}', '{"history": []}'):
        (public / "latest.json").write_text(text)
        with pytest.raises(DistcalibError, match="is not a pointer that distcalib wrote"):
            raise CliRunner().invoke(publish, [str(run), str(public)]).exception
        assert snapshot(public) == {"latest.json": text.encode()}


def test_s3_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match=r"pip install 'distcalib\[s3\]'"):
        open_store("s3://bucket/prefix")


def test_a_name_becomes_a_plain_version(tmp_path):
    run = make_run(tmp_path / "odd", name="../Große Änderung/2 ")
    result = CliRunner().invoke(publish, [str(run), str(tmp_path / "public")])
    assert result.exit_code == 0, result.exception
    (version,) = (tmp_path / "public" / "versions").glob("[!.]*")
    assert version.name.startswith("Gro-e-nderung-2-")
