"""A small finished run folder, without a rules engine: real files, and the manifest that runs write."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from distcalib.runs.manifest import write_manifest

PROOF = {"targets": 3, "proven": 3, "largest_difference": 2e-12}
AREAS = {"WY-01": (3, 7, 12.5), "WY": (3, 7, 12.5), "US": (5, 11, 20.25)}
KINDS = {"WY-01": "districts", "WY": "states", "US": "national"}


def make_run(folder: Path, seed: int = 1, **facts: object) -> Path:
    """Write a run whose files, plan and weights depend on `seed`; `facts` go into the manifest."""
    files = {
        "plan.json": json.dumps(
            {"inputs": {"microdata": _digest("microdata"), "rows": _digest(seed)}}
        ).encode(),
        "targets.parquet": b"targets" * 100,
        "columns.parquet": b"columns" * seed * 50,
        "fit/weights.npy": bytes([seed]) * 4000,
        "events.ndjson": b'{"event": "start"}\n',
        ".lock": b"",
    }
    paths = {f"areas/{kind}/{name}.h5": name for name, kind in KINDS.items()}
    files |= {path: f"{name} {seed}".encode() * 500 for path, name in paths.items()}
    # Equal bytes in two places: one artifact, two locations.
    files["areas/mappings/WY.csv"] = files["areas/mappings/WY-01.csv"] = b"new,old\n1,2\n"
    for path, name in paths.items():
        counts = dict(zip(("households", "persons", "weight"), AREAS[name], strict=True))
        outputs = {
            p: sha256(files[p]).hexdigest() for p in (path, f"areas/mappings/{name}.csv") if p in files
        }
        receipt = {"stage": "areas", "facts": {"areas": {name: counts}}, "outputs": outputs}
        receipt["seconds"] = facts.get("seconds", 1.5)
        files[f"receipts/areas/{name}.json"] = json.dumps(receipt).encode()
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    write_manifest(
        folder,
        {
            "name": "demo",
            "plan": _digest("plan", seed),
            "weights": _digest("weights", seed),
            "versions": {"distcalib": "0.1.0", "policyengine-us": "2.68.0"},
            "verification": PROOF,
            "areas": {"proven": sorted(paths)},
            "seconds": 1.5,
            **facts,
        },
    )
    return folder


def _digest(*words: object) -> str:
    return sha256(repr(words).encode()).hexdigest()
