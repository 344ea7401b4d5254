"""What lies in deploy/ and the Dockerfile: readable, short, and in step with the package."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from distcalib.cluster import load_cluster
from distcalib.cluster.settings import ONE_THREAD, dask_settings
from distcalib.config import ClusterConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch"), ROOT / ".ci/run"])


def flat(settings: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {name: settings}
    return {k: v for key, one in settings.items() for k, v in flat(one, f"{name}.{key}".lstrip(".")).items()}


def test_dask_behaves_as_in_every_other_kind_of_cluster() -> None:
    said = flat(yaml.safe_load((DEPLOY / "dask.yaml").read_text()))
    wanted = dask_settings(ClusterConfig())
    assert {name: said.get(name) for name in wanted} == wanted
    # What only processes that others start have to be told.
    assert set(said) - set(wanted) == {
        "distributed.worker.multiprocessing-method",
        "distributed.comm.require-encryption",
    }


@pytest.mark.parametrize(("given", "kept"), [(None, ROOT / "build/screenshots"), ("/tmp/mine", "/tmp/mine")])
def test_screenshots_of_the_browser_tests_are_kept_as_artefacts(monkeypatch, given, kept) -> None:
    monkeypatch.delenv("DISTCALIB_SCREENSHOTS", raising=False)
    if given:
        monkeypatch.setenv("DISTCALIB_SCREENSHOTS", given)
    show = ["make", "-s", "--eval", "shown: ; @echo $$DISTCALIB_SCREENSHOTS", "shown"]
    done = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(kept)
    assert "make test-full" in (ROOT / ".ci/run").read_text().splitlines()
    assert "DISTCALIB_SCREENSHOTS" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("kind", ["local", "slurm/jobqueue"])
def test_cluster_files_are_read(kind: str) -> None:
    path = DEPLOY / (f"{kind}.yaml" if "/" in kind else f"{kind}/cluster.yaml")
    assert load_cluster(path).kind == kind.split("/")[0]


@pytest.mark.parametrize("kind", ["hosts", "slurm"])
def test_cluster_files_that_join_name_what_the_scripts_write(kind: str) -> None:
    said = yaml.safe_load((DEPLOY / kind / "cluster.yaml").read_text())
    assert said["scheduler"]["scheduler_file"] == "scheduler.json"
    assert said["security"] == {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


@pytest.mark.parametrize("kind", ["local", "hosts", "slurm", "kubernetes"])
def test_each_kind_has_a_page_of_five_lines(kind: str) -> None:
    lines = [line for line in (DEPLOY / kind / "README.md").read_text().splitlines() if line.strip()]
    assert 2 <= len(lines) - 1 <= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=[str(s.relative_to(ROOT)) for s in SCRIPTS])
def test_scripts_parse(script: Path) -> None:
    read = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


PAGES = ["docs/slurm.md", "docs/kubernetes.md", "deploy/README.md"]
PAGES += [f"docs/how-to/{name}.md" for name in ("slurm", "kubernetes", "hosts")]
PAGES += [f"deploy/{kind}/README.md" for kind in ("hosts", "slurm", "kubernetes")]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_files_and_variables_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    for path in re.findall(r"(?<![\w/])deploy/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path
    scripts = "".join(script.read_text() for script in SCRIPTS)
    for name in re.findall(r"\bDISTCALIB_\w+", text):
        assert name in scripts, name


def test_numeric_libraries_have_one_thread_in_scripts_and_image() -> None:
    for text in ((DEPLOY / "hosts/common.sh").read_text(), (ROOT / "Dockerfile").read_text()):
        assert {n: v for n, v in re.findall(r"(\w+)=([\w:]+)", text) if n in ONE_THREAD} == ONE_THREAD


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, rest in (line.split(maxsplit=1) for line in lines)]


def test_the_image_has_the_pinned_packages_and_a_python_that_the_package_takes() -> None:
    said = instructions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said[0][0] == "FROM"
    version = re.match(r"python:(\d+)\.(\d+)-slim-\w+$", said[0][1])
    least = re.match(r">=(\d+)\.(\d+)$", project["requires-python"])
    assert version is not None
    assert least is not None
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))
    (install,) = (rest for word, rest in said if word == "RUN" and "pip install" in rest)
    assert "--constraint /src/constraints.txt" in install
    extras = re.search(r"/src\[([\w,]+)\]", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    # The page that a wheel carries and its licence are read when it is built.
    copied = " ".join(rest for word, rest in said if word == "COPY")
    assert {project["readme"], *project["license-files"]} <= set(copied.split())


def test_the_image_is_not_run_as_root() -> None:
    (user,) = (rest for word, rest in instructions() if word == "USER")
    assert user == "1000:1000"
    # After it, nothing that would need root.
    words = [word for word, _ in instructions()]
    assert "RUN" not in words[words.index("USER") :]


def test_what_the_image_copies_is_there_and_is_sent_to_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in instructions():
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source
