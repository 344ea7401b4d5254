"""The chart of deploy/kubernetes: what it makes is what the operator and Kubernetes know, and is closed."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import helm_python
import pytest
import yaml
from manifests import CHART, faults, pod_specs, render

from distcalib.config import ClusterConfig

VALUES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a cluster alone": {"job": {"enabled": False}},
    "no GPU": {"fit": {"gpus": 0}},
    "no fit worker": {"fit": {"pods": 0}},
    "another volume": {"runClaim": "scratch", "runFolder": "/runs/a/b"},
    "an object store": {"runFolder": "s3://bucket/runs/national", "store": {"secret": "s3"}},
    "chosen nodes": {
        "environment": {"AWS_REGION": "us-east-2"},
        "fit": {
            "nodeSelector": {"accelerator": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    },
}


@pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
def test_what_the_chart_makes_is_valid(values: dict[str, Any]) -> None:
    for manifest in render(values):
        assert faults(manifest) == [], manifest["kind"]


def test_the_chart_makes_a_job_a_gpu_group_a_policy_and_the_cluster_file() -> None:
    kinds = sorted(one["kind"] for one in render())
    assert kinds == ["ConfigMap", "DaskJob", "DaskWorkerGroup", "NetworkPolicy"]
    assert "DaskCluster" in {one["kind"] for one in render({"job": {"enabled": False}})}


# Where a slip of the pen goes: the path of a mapping, a right name, and what is written in its place.
SLIPS = [
    ("DaskJob", ("spec", "cluster", "spec", "worker"), "replicas", "replica"),
    ("DaskJob", ("spec", "cluster", "spec"), "scheduler", "schedular"),
    ("DaskJob", ("spec", "cluster", "spec", "scheduler", "service", "ports", 0), "targetPort", "targetport"),
    ("DaskJob", ("spec", "cluster", "spec", "worker", "spec"), "securityContext", "securitycontext"),
    ("DaskJob", ("spec", "job", "spec", "containers", 0), "image", "img"),
    ("DaskJob", ("spec", "job", "spec", "containers", 0, "resources"), "limits", "limit"),
    ("DaskJob", ("spec", "job", "spec", "volumes", 0, "secret"), "secretName", "name"),
    ("DaskJob", ("spec", "job", "spec", "volumes", 2, "persistentVolumeClaim"), "claimName", "claim"),
    ("DaskWorkerGroup", ("spec",), "cluster", "clusters"),
    ("DaskWorkerGroup", ("spec", "worker", "spec", "containers", 0), "volumeMounts", "mounts"),
    ("NetworkPolicy", ("spec",), "podSelector", "selector"),
    ("NetworkPolicy", ("spec", "egress", 1, "ports", 0), "protocol", "proto"),
    ("ConfigMap", (), "data", "dat"),
]


@pytest.mark.parametrize(("kind", "path", "name", "typo"), SLIPS, ids=[s[3] for s in SLIPS])
def test_a_mistyped_field_is_found(kind: str, path: tuple[Any, ...], name: str, typo: str) -> None:
    (manifest,) = (copy.deepcopy(one) for one in render() if one["kind"] == kind)
    place = manifest
    for step in path:
        place = place[step]
    place[typo] = place.pop(name)
    assert any(typo in fault or name in fault for fault in faults(manifest))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "worker", "replicas"), "four"),
        (("spec", "worker", "spec", "containers", 0, "args"), "dask worker"),
        (("spec", "worker", "spec", "securityContext", "runAsUser"), "distcalib"),
        (("spec", "scheduler", "service", "ports", 0, "port"), "8786"),
    ],
)
def test_a_value_of_another_type_is_found(path: tuple[Any, ...], value: Any) -> None:
    (manifest,) = (one for one in render({"job": {"enabled": False}}) if one["kind"] == "DaskCluster")
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert faults(manifest)


@pytest.mark.parametrize(
    "values",
    [
        {"simm": {}},
        {"sim": {"podz": 3}},
        {"fit": {"gpus": "one"}},
        {"runFolder": "s3://bucket/run"},
        {"runFolder": "s3://user:word@bucket/run", "store": {"secret": "s3"}},
        {"runFolder": "gs://bucket/run", "store": {"secret": "s3"}},
        {"runFolder": "s3://bucket/run", "store": {"secret": "s3", "key": "AKIA"}},
        {"runFolder": "/runs/../x"},
    ],
    ids=str,
)
def test_a_mistyped_value_of_the_chart_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render(values)


def test_no_pod_has_root_an_account_of_the_cluster_or_a_disk_to_write() -> None:
    pods = [spec for one in render() if one["kind"].startswith("Dask") for spec in pod_specs(one).values()]
    assert len(pods) == 4
    for spec in pods:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}


def test_scheduler_and_workers_speak_tls_and_serve_no_dashboard() -> None:
    for one in render():
        if not one["kind"].startswith("Dask"):
            continue
        for name, spec in pod_specs(one).items():
            (container,) = spec["containers"]
            assert any(mount["mountPath"] == "/etc/distcalib/tls" for mount in container["volumeMounts"])
            if name != "job":
                words = " ".join(container["args"])
                assert "--protocol tls" in words
                assert "--tls-key /etc/distcalib/tls/key.pem" in words
                assert "--no-dashboard" in words
            if name == "worker":
                assert "tls://run-scheduler.calibration.svc:8786" in container["args"]


def test_the_volume_of_the_run_is_where_it_is_written_and_no_credentials_are_anywhere() -> None:
    for one in render():
        if one["kind"].startswith("Dask"):
            for name, spec in pod_specs(one).items():
                (container,) = spec["containers"]
                assert "envFrom" not in container
                mounted = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "runs"]
                claims = [v["persistentVolumeClaim"] for v in spec["volumes"] if v["name"] == "runs"]
                assert mounted == ([] if name == "scheduler" else ["/runs"]), name
                assert claims == ([] if name == "scheduler" else [{"claimName": "distcalib-runs"}]), name


def test_a_run_in_an_object_store_has_credentials_from_a_secret_and_no_volume() -> None:
    made = render({"runFolder": "s3://bucket/run", "store": {"secret": "s3", "port": 9000}})
    for one in made:
        if one["kind"].startswith("Dask"):
            for name, spec in pod_specs(one).items():
                (container,) = spec["containers"]
                secret = [{"secretRef": {"name": "s3"}}]
                assert container.get("envFrom") == (None if name == "scheduler" else secret), name
                assert "runs" not in {v["name"] for v in (*spec["volumes"], *container["volumeMounts"])}, name
                if name == "job":
                    assert container["args"][container["args"].index("--output") + 1] == "s3://bucket/run"
    (policy,) = (one for one in made if one["kind"] == "NetworkPolicy")
    assert policy["spec"]["egress"][2] == {
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 9000}],
    }  # fmt: skip


def test_pods_of_the_run_hear_nobody_but_one_another() -> None:
    (policy,) = (one for one in render() if one["kind"] == "NetworkPolicy")
    own = {"podSelector": {"matchLabels": {"dask.org/cluster-name": "run"}}}
    assert policy["spec"]["podSelector"] == own["podSelector"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"from": [own]}]
    # Themselves and the name service: volumes are mounted by the nodes.
    assert policy["spec"]["egress"][0] == {"to": [own]}
    assert [port["port"] for port in policy["spec"]["egress"][1]["ports"]] == [53, 53]
    assert len(policy["spec"]["egress"]) == 2


def test_the_gpu_worker_asks_for_a_gpu_and_says_that_it_has_one() -> None:
    (group,) = (one for one in render() if one["kind"] == "DaskWorkerGroup")
    (container,) = group["spec"]["worker"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["args"][container["args"].index("--resources") + 1] == "FIT=1,GPU=1"
    assert group["spec"]["cluster"] == "run"


@pytest.mark.parametrize("fit", [{"pods": 1, "gpus": 0}, {"pods": 0}], ids=str)
def test_without_a_gpu_some_worker_still_takes_the_fit(fit: dict[str, int]) -> None:
    said = []
    for one in render({"fit": fit}):
        for spec in pod_specs(one).values() if one["kind"].startswith("Dask") else ():
            words = spec["containers"][0]["args"]
            said += [words[i + 1] for i, word in enumerate(words) if word == "--resources"]
    assert said == ["FIT=1"]


def test_the_cluster_file_of_the_chart_is_one_that_distcalib_reads(tmp_path: Any) -> None:
    (config,) = (one for one in render() if one["kind"] == "ConfigMap")
    subprocess.run([sys.executable, CHART.parent / "certificates.py", tmp_path / "tls"], check=True)
    file = tmp_path / "cluster.yaml"
    file.write_text(config["data"]["cluster.yaml"].replace("/etc/distcalib/tls", f"{tmp_path}/tls"))
    cluster = ClusterConfig.load(file)
    assert cluster.kind == "address"
    assert cluster.scheduler.address == "tls://run-scheduler.calibration.svc:8786"
    assert cluster.sim.memory_limit == "3686MiB"


def test_every_value_of_the_chart_is_in_its_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]
    assert set(values) == set(schema) - {"global"}
    for name, value in values.items():
        if "properties" in schema[name]:
            assert set(value) == set(schema[name]["properties"])
