"""What `kind: kubernetes` sends, against the operator's own resource definitions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import dask_kubernetes
import jsonschema
import pytest
import yaml

from distcalib.cluster import load_cluster
from distcalib.cluster.kubernetes import manifests
from distcalib.cluster.security import make_certificates

SETTINGS = """
kind: kubernetes
sim:
  workers: 6
  image: registry.example/distcalib:1
  environment: {SCRATCH: /x}
fit: {workers: 1, memory_limit: 16GiB, threads: 8, gpu: 1}
kubernetes: {name: mine, namespace: policy}
"""


@pytest.fixture(scope="module")
def definitions() -> dict[str, Any]:
    operator = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator"
    found = [yaml.safe_load(file.read_text()) for file in (operator / "crds").glob("*.yaml")]
    return {d["spec"]["names"]["kind"]: d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for d in found}


@pytest.fixture
def sent(tmp_path) -> list[dict[str, Any]]:
    path = tmp_path / "cluster.yaml"
    path.write_text(SETTINGS)
    return manifests(load_cluster(path), make_certificates(tmp_path))


def strict(schema: Any) -> Any:
    """Return a schema that refuses fields which it does not name, where it names any."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


def problems(manifest: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    schema = definitions[manifest["kind"]]
    closed = strict({**schema["properties"]["spec"]})
    return [e.message for e in jsonschema.Draft7Validator(closed).iter_errors(manifest["spec"])]


def test_what_is_sent_is_what_the_operator_knows(sent, definitions):
    assert [m["kind"] for m in sent] == ["Secret", "DaskCluster", "DaskWorkerGroup"]
    for manifest in sent[1:]:
        assert manifest["apiVersion"] == "kubernetes.dask.org/v1"
        assert problems(manifest, definitions) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "workers"),
        (("worker",), "replica"),
        (("worker", "spec"), "container"),
        (("worker", "spec", "containers", 0), "arg"),
        (("worker", "spec", "containers", 0, "securityContext"), "allowPrivilegeEscalaton"),
        (("scheduler", "service"), "port"),
        (("scheduler", "spec", "volumes", 0), "secrets"),
    ],
)
def test_a_mistyped_field_is_found(sent, definitions, path, name):
    cluster = copy.deepcopy(sent[1])
    at: Any = cluster["spec"]
    for step in path:
        at = at[step]
    at[name] = {}
    assert problems(cluster, definitions)


def containers(sent: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    cluster, group = sent[1]["spec"], sent[2]["spec"]
    pods = {"sim": cluster["worker"], "scheduler": cluster["scheduler"], "fit": group["worker"]}
    return {name: pod["spec"]["containers"][0] for name, pod in pods.items()}


def test_every_connection_is_tls_and_nothing_is_served_over_http(sent):
    address = "tls://mine-scheduler.policy.svc:8786"
    for name, container in containers(sent).items():
        words = container["args"]
        assert {"--tls-ca-file", "--tls-cert", "--tls-key", "--no-dashboard"} <= set(words)
        assert (address in words) == (name != "scheduler")
        role = "SCHEDULER" if name == "scheduler" else "WORKER"
        assert {"name": f"DASK_DISTRIBUTED__{role}__HTTP__ROUTES", "value": "[]"} in container["env"]
    ports = sent[1]["spec"]["scheduler"]["service"]["ports"]
    assert [p["port"] for p in ports] == [8786]


def test_the_key_is_in_the_secret_and_nowhere_else(sent):
    assert "PRIVATE KEY" in sent[0]["stringData"]["key.pem"]
    assert "PRIVATE KEY" not in str(sent[1:])


def test_pods_are_of_no_root_and_have_no_account(sent):
    for manifest in sent[1:]:
        for part in ("worker", "scheduler"):
            if part in manifest["spec"]:
                pod = manifest["spec"][part]["spec"]
                assert pod["securityContext"]["runAsNonRoot"]
                assert pod["automountServiceAccountToken"] is False
                assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_groups_have_what_the_settings_say(sent):
    found = containers(sent)
    assert sent[1]["spec"]["worker"]["replicas"] == 6
    assert found["sim"]["resources"]["limits"] == {"cpu": "1", "memory": str(4 * 2**30)}
    assert found["fit"]["resources"]["limits"] == {
        "cpu": "8", "memory": str(16 * 2**30), "nvidia.com/gpu": "1",
    }  # fmt: skip
    assert "FIT=1,GPU=1" in found["fit"]["args"]
    assert "--resources" not in found["sim"]["args"]
    assert {"name": "SCRATCH", "value": "/x"} in found["sim"]["env"]
    assert {"name": "OMP_NUM_THREADS", "value": "8"} in found["fit"]["env"]
    assert found["fit"]["image"] == found["sim"]["image"] == "registry.example/distcalib:1"
