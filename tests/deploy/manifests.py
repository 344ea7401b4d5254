"""Rendering the chart, and judging manifests by the operator's resource definitions and the API's schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import yaml

CHART = Path(__file__).parents[2] / "deploy/kubernetes"
#: Versions of Kubernetes that manifests have to be right for.
KUBERNETES = ("1.29", "1.37")
_DEFINITIONS = "operator/deployment/helm/dask-kubernetes-operator/crds"


def render(values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the manifests of the chart with these values over its own."""
    with helm_python.Chart.load(str(CHART)) as chart:
        texts = chart.render(dict(values or {}), name="run", namespace="calibration")
    return [one for text in texts.values() for one in yaml.safe_load_all(text) if one]


def faults(manifest: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a manifest: names and types, in it and in the pods and services it makes."""
    if manifest["apiVersion"].startswith("kubernetes.dask.org/"):
        judge = jsonschema.Draft7Validator(_definition(manifest["kind"]))
        found = [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in judge.iter_errors(manifest)]
        parts = list(_made(manifest))
    else:
        found, parts = [], [dict(manifest)]
    for part in parts:
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(part, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{part['kind']} of Kubernetes {version}: {error.message}")
    return found


def pod_specs(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the specs of the pods that a resource of the operator makes, by component."""
    spec, found = manifest["spec"], {}
    if manifest["kind"] == "DaskJob":
        found["job"] = spec["job"]["spec"]
        spec = spec["cluster"]["spec"]
    for name in ("scheduler", "worker"):
        if name in spec:
            found[name] = spec[name]["spec"]
    return found


def _made(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, spec in pod_specs(manifest).items():
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    # A worker group has the name of its cluster there.
    inside = manifest["spec"].get("cluster")
    spec = inside["spec"] if isinstance(inside, dict) and "spec" in inside else manifest["spec"]
    if "scheduler" in spec:
        service = spec["scheduler"].get("service", {})
        yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": service}


@cache
def _definition(kind: str) -> dict[str, Any]:
    file = resources.files("dask_kubernetes").joinpath(f"{_DEFINITIONS}/{kind.lower()}.yaml")
    (version,) = yaml.safe_load(file.read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    # Every object has these two, which a definition need not name.
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    schema["properties"]["metadata"] = {"type": "object"}
    return _closed(schema)


def _closed(schema: Any) -> Any:
    """Refuse names that a definition does not have: the API server drops them without a word."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    # A field may be called properties, too; only a schema has a type beside it.
    whole = isinstance(closed.get("properties"), dict) and "type" in closed
    if whole and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
