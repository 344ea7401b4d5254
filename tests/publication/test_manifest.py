"""The manifest, the list for sha256sum and the TRO declaration say the same of the same files."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from made_run import AREAS, make_run

from distcalib.errors import RunError
from distcalib.runs.manifest import damaged, read_manifest, write_manifest


def test_sha256sum_checks_the_list(run):
    said = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=run, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert len(said.stdout.splitlines()) == len(read_manifest(run)["files"]) - 1  # all but itself
    (run / "fit" / "weights.npy").write_bytes(b"other")
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=run, capture_output=True, text=True)
    assert said.returncode == 1
    assert "fit/weights.npy: FAILED" in said.stdout


def test_the_manifest_lists_every_file_but_itself_the_events_and_the_lock(run):
    present = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert present - read_manifest(run)["files"].keys() == {"manifest.json", "events.ndjson", ".lock"}


def test_area_files_have_their_counts_and_kinds_their_totals(run):
    manifest = read_manifest(run)
    households, persons, weight = AREAS["WY-01"]
    file = run / "areas/districts/WY-01.h5"
    assert manifest["files"]["areas/districts/WY-01.h5"] == {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "households": households,
        "persons": persons,
        "weight": weight,
    }
    assert manifest["files"]["areas/mappings/WY.csv"].keys() == {"sha256", "bytes"}
    totals = manifest["totals"]
    assert totals["files"] == len(manifest["files"])
    assert totals["bytes"] == sum(f["bytes"] for f in manifest["files"].values())
    assert totals["areas"]["national"]["persons"] == AREAS["US"][1]
    assert totals["areas"]["states"]["weight"] == AREAS["WY"][2]
    assert manifest["inputs"] == json.loads((run / "plan.json").read_text())["inputs"]
    assert manifest["verification"]["targets"] == 3


def test_a_changed_or_missing_file_is_named(run):
    manifest = read_manifest(run)
    assert damaged(run, manifest) == []
    (run / "trace.jsonld").write_text("{}")
    (run / "SHA256SUMS").unlink()
    data = bytearray((run / "fit" / "weights.npy").read_bytes())
    data[7] ^= 1
    (run / "fit" / "weights.npy").write_bytes(data)
    assert damaged(run, manifest) == ["SHA256SUMS", "fit/weights.npy", "trace.jsonld"]


@pytest.mark.parametrize("path", ["areas/states/WY.h5", "areas/mappings/WY.csv"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_what_changed_since_it_was_written_gets_no_manifest(run, path, how):
    """A proof opens a file once; what happens to it afterwards must not become its sha256."""
    facts = {k: v for k, v in read_manifest(run).items() if k not in ("files", "totals", "inputs")}
    (run / "manifest.json").unlink()
    data = bytearray((run / path).read_bytes())
    data[3] ^= how == "flipped"
    (run / path).write_bytes(data[:-1] if how == "cut" else data)
    if how == "gone":
        (run / path).unlink()
    with pytest.raises(RunError, match=rf"1 files changed or are gone since they were written \({path}\)"):
        write_manifest(run, facts)
    assert not (run / "manifest.json").exists()


def nodes(value):
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(part)


def test_the_declaration_is_a_tro_whose_references_and_fingerprint_hold(run):
    declared = json.loads((run / "trace.jsonld").read_text())
    assert declared.keys() == {"@context", "@graph"}
    assert declared["@context"][0]["trov"] == "https://w3id.org/trace/trov/0.1#"
    (tro,) = declared["@graph"]
    everything = list(nodes(tro))
    defined = [n["@id"] for n in everything if "@id" in n and len(n) > 1]
    assert len(set(defined)) == len(defined)
    assert {n["@id"] for n in everything if set(n) == {"@id"}} <= set(defined)
    artifacts = tro["trov:hasComposition"]["trov:hasArtifact"]
    hashes = {a["@id"]: a["trov:hash"]["trov:hashValue"] for a in artifacts}
    joined = "".join(sorted(hashes.values())).encode()
    fingerprint = tro["trov:hasComposition"]["trov:hasFingerprint"]["trov:hash"]["trov:hashValue"]
    assert fingerprint == hashlib.sha256(joined).hexdigest()
    before, after = (
        {e["trov:path"]: hashes[e["trov:artifact"]["@id"]] for e in a["trov:hasArtifactLocation"]}
        for a in tro["trov:hasArrangement"]
    )
    assert set(before) == {"plan.json", "targets.parquet", "columns.parquet"}
    assert before.items() <= after.items()
    outside = ("receipts/", "trace.jsonld", "SHA256SUMS")
    listed = {p: f["sha256"] for p, f in read_manifest(run)["files"].items() if not p.startswith(outside)}
    assert after == listed
    assert len(artifacts) == len(set(listed.values())) < len(listed)
    (performance,) = tro["trov:hasPerformance"]
    assert read_manifest(run)["plan"] in performance["rdfs:comment"]
    assert performance["trov:accessedArrangement"] == {"@id": "arrangement/0"}


def test_equal_plans_have_equal_declarations_whatever_the_time_they_took(run, tmp_path):
    again = make_run(tmp_path / "again", seconds=99.0)
    assert (again / "trace.jsonld").read_bytes() == (run / "trace.jsonld").read_bytes()
    assert (again / "manifest.json").read_bytes() != (run / "manifest.json").read_bytes()
