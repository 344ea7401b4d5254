"""`kind: kubernetes` against an API server: what it makes, leaves and says. The server is a dictionary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from kr8s._api import Api as Kr8s

from distcalib import ClusterConfig
from distcalib.cluster.kubernetes import kubernetes_client
from distcalib.errors import RunError

SETTINGS = """
kind: kubernetes
sim: {workers: 1, image: a}
kubernetes: {name: mine, namespace: policy}
scheduler: {wait: 2}
"""


class Api(BaseHTTPRequestHandler):
    """Creates, gives and deletes what it holds; a name that is there is a conflict."""

    held: dict[str, dict[str, Any]]
    asked: list[str]

    def answer(self, code: int, body: dict[str, Any]) -> None:
        self.asked.append(f"{self.command} {self.path.split('?')[0]} {code}")
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def handle_one(self) -> None:
        path = self.path.split("?")[0].rstrip("/")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.command == "POST":
            place = f"{path}/{body['metadata']['name']}"
            known = place in self.held
            if not known:
                self.held[place] = body
            self.answer(409 if known else 201, {"message": "already exists"} if known else body)
        elif path == "/version":
            self.answer(200, {"major": "1", "minor": "31", "gitVersion": "v1.31.0"})
        elif path in self.held:
            found = self.held.pop(path) if self.command == "DELETE" else self.held[path]
            self.answer(200, found)
        else:
            self.answer(404, {"message": "not found", "code": 404})

    do_GET = do_POST = do_DELETE = do_PATCH = handle_one

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Api]]:
    class Mine(Api):
        held: dict[str, dict[str, Any]] = {}  # noqa: RUF012
        asked: list[str] = []  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "policy"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": context}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        Kr8s._instances.clear()  # kr8s keeps the connection of a thread, whatever the environment
        yield Mine
        server.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    (tmp_path / "cluster.yaml").write_text(SETTINGS)
    return ClusterConfig.load(tmp_path / "cluster.yaml")


def try_to_open(config: ClusterConfig) -> str:
    with pytest.raises(RunError) as caught, kubernetes_client(config):
        pass
    return str(caught.value)


def test_what_was_made_is_deleted_when_no_scheduler_comes(api, config):
    assert "no scheduler can be joined at tls://mine-scheduler.policy.svc:8786" in try_to_open(config)
    made = [line for line in api.asked if line.startswith("POST")]
    assert len(made) == 2
    assert made[0].endswith("/secrets 201")
    assert made[1].endswith("/daskclusters 201")
    assert api.held == {}


def test_what_a_killed_coordinator_left_is_replaced_and_what_is_of_others_stays(api, config):
    try_to_open(config)
    (secret,) = [line.split()[1] for line in api.asked if line.endswith("/secrets 201")]
    api.held[f"{secret}/mine-tls"] = {
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "mine-tls", "namespace": "policy", "labels": {"distcalib/cluster": "mine"}},
    }  # fmt: skip
    api.asked.clear()
    assert "no scheduler can be joined" in try_to_open(config)
    assert [line.split()[-1] for line in api.asked if line.startswith("POST") and "secrets" in line] == [
        "409",
        "201",
    ]
    api.held[f"{secret}/mine-tls"] = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine-tls", "namespace": "policy"},
    }  # fmt: skip
    assert "there is a Secret policy/mine-tls that no run made" in try_to_open(config)
    assert list(api.held) == [f"{secret}/mine-tls"]


def test_without_an_api_it_is_an_error_of_one_line(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    Kr8s._instances.clear()
    assert "Kubernetes did not make Secret policy/mine-tls" in try_to_open(config)
