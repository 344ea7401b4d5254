"""A cluster made by the Dask operator of Kubernetes; `distcalib run` is a pod of the same namespace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distributed import Client
from distributed.security import Security

from distcalib.cluster.address import join, wait_for_workers
from distcalib.cluster.security import FILES, given_security, make_certificates
from distcalib.cluster.settings import resources_of, worker_environment
from distcalib.config import ClusterConfig, memory_bytes
from distcalib.errors import InputError, RunError

API = "kubernetes.dask.org/v1"
PORT = 8786
_MOUNT = "/etc/distcalib/tls"
_USER = 1000
_LABEL = "distcalib/cluster"


@contextmanager
def kubernetes_client(config: ClusterConfig) -> Iterator[Client]:
    """Create the resources of `manifests`, join their scheduler, and delete them afterwards."""
    try:
        from kr8s.objects import Secret, new_class
    except ImportError:
        raise InputError(
            "kind: kubernetes needs dask-kubernetes", place=config.file,
            expected="pip install 'distcalib[kubernetes]'",
        ) from None  # fmt: skip
    kinds = {"Secret": Secret} | {
        kind: new_class(kind, API, asyncio=False) for kind in ("DaskCluster", "DaskWorkerGroup")
    }
    until = time.monotonic() + config.scheduler.wait
    with ExitStack() as stack:
        security = given_security(config)
        if security is None:
            security = make_certificates(Path(stack.enter_context(TemporaryDirectory(prefix="distcalib-"))))
        for manifest in manifests(config, security):
            made = _made(kinds[manifest["kind"]], manifest, config, until)
            stack.callback(_deleted, made)
        client = stack.enter_context(join(config, address_of(config), security, until))
        wait_for_workers(client, config, 1, until)
        yield client


def _made(kind: Any, manifest: dict[str, Any], config: ClusterConfig, until: float) -> Any:
    """Create a resource; one of that name, which a coordinator left that was killed, is replaced.

    Only one coordinator holds a run, and a cluster of another run has another ``kubernetes.name``; what was
    made by something else (no label of ours) is left, and an error.
    """
    import httpx
    import kr8s

    name = f"{manifest['kind']} {config.kubernetes.namespace}/{manifest['metadata']['name']}"
    try:
        made = kind(manifest)
        while True:
            try:
                made.create()
                return made
            except kr8s.ServerError as error:
                if error.response is None or error.response.status_code != 409 or time.monotonic() > until:
                    raise
            left = kind(manifest)
            with suppress(kr8s.NotFoundError):
                left.refresh()
                if left.labels.get(_LABEL) != config.kubernetes.name:
                    raise RunError(
                        f"{config.file}: there is a {name} that no run made: set another kubernetes.name, or "
                        "delete it"
                    )
                left.delete()
            time.sleep(0.5)
            made = kind(manifest)
    except (kr8s.ServerError, kr8s.APITimeoutError, httpx.HTTPError, ValueError, OSError) as error:
        raise RunError(f"{config.file}: Kubernetes did not make {name}: {error}") from None


def _deleted(made: Any) -> None:
    import kr8s

    with suppress(kr8s.NotFoundError):  # somebody was faster
        made.delete()


def address_of(config: ClusterConfig) -> str:
    """Return the address of the scheduler's service.

    >>> from distcalib.config import ClusterConfig
    >>> address_of(ClusterConfig())
    'tls://distcalib-scheduler.default.svc:8786'
    """
    return f"tls://{config.kubernetes.name}-scheduler.{config.kubernetes.namespace}.svc:{PORT}"


def manifests(config: ClusterConfig, security: Security) -> list[dict[str, Any]]:
    """Return what is sent to Kubernetes, in order: the certificates, the cluster, the fit's own worker."""
    name = config.kubernetes.name
    files = {"ca": security.tls_ca_file, "cert": security.tls_worker_cert, "key": security.tls_worker_key}
    texts = {FILES[part]: Path(str(file)).read_text(encoding="ascii") for part, file in files.items()}
    secret = {**_head(config, "Secret", f"{name}-tls", "v1"), "type": "Opaque", "stringData": texts}
    selector = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    port = {"name": "tcp-comm", "protocol": "TCP", "port": PORT, "targetPort": "tcp-comm"}
    service = {"type": "ClusterIP", "selector": selector, "ports": [port]}
    cluster = _head(config, "DaskCluster", name) | {
        "spec": {
            "worker": {"replicas": config.group.bounds[1], "spec": _worker(config, "sim")},
            "scheduler": {"spec": _scheduler(config), "service": service},
        }
    }
    if not config.fit.workers:
        return [secret, cluster]
    worker = {"replicas": config.fit.workers, "spec": _worker(config, "fit")}
    return [
        secret,
        cluster,
        _head(config, "DaskWorkerGroup", f"{name}-fit") | {"spec": {"cluster": name, "worker": worker}},
    ]


def _head(config: ClusterConfig, kind: str, name: str, api: str = API) -> dict[str, Any]:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": config.kubernetes.namespace,
            "labels": {_LABEL: config.kubernetes.name},
        },
    }


def _scheduler(config: ClusterConfig) -> dict[str, Any]:
    wait = f"{config.scheduler.wait:g}s"
    environment = {
        "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": wait,
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    }
    command = ["dask", "scheduler", "--protocol", "tls", "--port", str(PORT), *_tls(), "--no-dashboard"]
    probe = {"tcpSocket": {"port": "tcp-comm"}, "periodSeconds": 5}
    container = {
        **_container(config, "scheduler", str(config.sim.image), command, environment),
        "ports": [{"name": "tcp-comm", "containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": probe,
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
    }
    return _pod(config, container)


def _worker(config: ClusterConfig, name: str) -> dict[str, Any]:
    group = config.fit if name == "fit" else config.group
    memory = memory_bytes(group.memory_limit)
    command = ["dask", "worker", address_of(config), "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1"]
    command += ["--memory-limit", str(memory), "--no-dashboard", *_tls()]
    command += ["--death-timeout", str(round(config.scheduler.wait))]
    if resources := resources_of(config, name):
        command += ["--resources", resources]
    limits = {"cpu": str(group.threads), "memory": str(memory)}
    if group.gpu:
        limits["nvidia.com/gpu"] = str(group.gpu)
    environment = worker_environment(group.threads, group.environment)
    image = group.image or config.sim.image
    return _pod(
        config,
        _container(config, "worker", str(image), command, environment)
        | {"resources": {"requests": limits, "limits": limits}},
    )


def _container(
    config: ClusterConfig, name: str, image: str, command: list[str], environment: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "args": command,
        "env": [{"name": key, "value": value} for key, value in environment.items() if value is not None],
        "volumeMounts": [{"name": "tls", "mountPath": _MOUNT, "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _pod(config: ClusterConfig, container: dict[str, Any]) -> dict[str, Any]:
    secret = {"secretName": f"{config.kubernetes.name}-tls", "defaultMode": 0o440}
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER},
        "containers": [container],
        "volumes": [{"name": "tls", "secret": secret}],
    }


def _tls() -> list[str]:
    files = {"ca-file": FILES["ca"], "cert": FILES["cert"], "key": FILES["key"]}
    return [word for name, file in files.items() for word in (f"--tls-{name}", f"{_MOUNT}/{file}")]
