"""A run as a Transparent Research Object (TRO): what was there before it, what after, by sha256.

Source: TROV 0.1 (draft), the vocabulary and declaration format of TRACE, Transparency Certified
(https://transparency-certified.github.io/trace-specification/). Its capabilities and attributes say what an
outside system enforced (no network, ...); distcalib enforces none and declares none. It does not sign either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distcalib.digest import sha256_text

# What a plan froze: there before the first task, and after the last.
_BEFORE = {
    "plan.json",
    "targets.parquet",
    "excluded.parquet",
    "columns.parquet",
    "take_up.csv",
    "microdata.h5",
}
_TYPES = {
    "csv": "text/csv",
    "h5": "application/x-hdf5",
    "html": "text/html",
    "json": "application/json",
    "npy": "application/x-npy",
    "parquet": "application/vnd.apache.parquet",
}


def declaration(
    facts: Mapping[str, Any], inputs: Mapping[str, str], files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the TRO declaration of a run, as JSON-LD.

    Receipts and times are left out: they tell how long a machine took, so that equal plans have equal
    declarations only without them. Times stand in ``manifest.json``.

    Parameters
    ----------
    facts
        ``name``, ``plan`` (digest) and ``versions`` of the run.
    inputs
        Name -> content digest of each input, as the plan has them.
    files
        Path -> ``sha256`` of each file of the run folder.
    """
    held = {path: str(files[path]["sha256"]) for path in sorted(files) if not path.startswith("receipts/")}
    hashes = sorted(set(held.values()))
    ids = {digest: f"composition/1/artifact/{i}" for i, digest in enumerate(hashes)}
    first = {digest: path for path, digest in reversed(held.items())}
    digests = ", ".join(f"{name} {digest}" for name, digest in sorted(inputs.items()))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))

    def arrangement(number: int, comment: str, paths: list[str]) -> dict[str, Any]:
        return {
            "@id": f"arrangement/{number}",
            "@type": "trov:ArtifactArrangement",
            "rdfs:comment": comment,
            "trov:hasArtifactLocation": [
                {
                    "@id": f"arrangement/{number}/location/{i}",
                    "@type": "trov:ArtifactLocation",
                    "trov:artifact": {"@id": ids[held[path]]},
                    "trov:path": path,
                }
                for i, path in enumerate(paths)
            ],
        }

    tro = {
        "@id": "tro",
        "@type": ["trov:TransparentResearchObject", "schema:CreativeWork"],
        "trov:vocabularyVersion": "0.1",
        "schema:name": facts["name"],
        "schema:description": "Calibrated microdata of US congressional districts, states and the nation",
        "trov:createdWith": {
            "@id": "tro/createdWith",
            "@type": "schema:SoftwareApplication",
            "schema:name": "distcalib",
            "schema:softwareVersion": facts["versions"]["distcalib"],
        },
        "trov:wasAssembledBy": {
            "@id": "trs",
            "@type": "trov:TrustedResearchSystem",
            "schema:name": "distcalib",
            "schema:description": "A run on its user's own machines; nothing is isolated, nothing is signed",
        },
        "trov:hasComposition": {
            "@id": "composition/1",
            "@type": "trov:ArtifactComposition",
            "trov:hasFingerprint": {
                "@id": "fingerprint",
                "@type": "trov:CompositionFingerprint",
                "trov:hash": _hash(sha256_text("".join(hashes))),
            },
            "trov:hasArtifact": [
                {"@id": ids[digest], "@type": "trov:ResearchArtifact", "trov:hash": _hash(digest)}
                | _mime(first[digest])
                for digest in hashes
            ],
        },
        "trov:hasArrangement": [
            arrangement(0, "Before the run: what its plan froze", [p for p in held if p in _BEFORE]),
            arrangement(1, "After the run", list(held)),
        ],
        "trov:hasPerformance": [
            {
                "@id": "trp/0",
                "@type": "trov:TrustedResearchPerformance",
                "rdfs:comment": f"Plan {facts['plan']}; {versions}; content digests of inputs: {digests}",
                "trov:wasConductedBy": {"@id": "trs"},
                "trov:accessedArrangement": {"@id": "arrangement/0"},
                "trov:contributedToArrangement": {"@id": "arrangement/1"},
            }
        ],
    }
    prefixes = {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
        "schema": "https://schema.org/",
        "trov": "https://w3id.org/trace/trov/0.1#",
    }
    return {"@context": [prefixes], "@graph": [tro]}


def _hash(digest: str) -> dict[str, str]:
    return {"trov:hashAlgorithm": "sha256", "trov:hashValue": digest}


def _mime(path: str) -> dict[str, str]:
    kind = _TYPES.get(path.rpartition(".")[2])
    return {"trov:mimeType": kind} if kind else {}
