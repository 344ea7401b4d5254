"""The help of every command: frozen, with examples that are valid, and fast."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import click
import pytest
from command_lines import refused
from help_text import commands

ROOT = Path(__file__).parents[2]
RENEW = "python tests/cli/help_text.py > tests/cli/help.txt"
LEAVES = [(names, command) for names, command in commands() if not isinstance(command, click.Group)]


def test_the_help_is_the_frozen_one():
    here = Path(__file__).parent
    # In a process of its own: click keeps a command's --help as it was first asked for.
    now = python(str(here / "help_text.py"))
    assert now.returncode == 0, now.stderr
    frozen = (here / "help.txt").read_text(encoding="utf-8").splitlines()
    changed = difflib.unified_diff(frozen, now.stdout.splitlines(), "help.txt", "now", lineterm="")
    words = "\n".join(changed)
    assert not words, f"{words}\n\nif that is meant: {RENEW}"


@pytest.mark.parametrize(("names", "command"), LEAVES, ids=[" ".join(n) for n, _ in LEAVES])
def test_every_command_has_examples_that_its_options_accept(names, command):
    told = f"{command.help}\n{command.epilog}".splitlines()
    lines = [line.strip() for line in told if line.strip().startswith("distcalib ")]
    assert lines, f"{' '.join(names)} has no example"
    assert any(line.startswith(" ".join(names)) for line in lines)
    assert [line for line in lines if refused(line)] == []


def python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, timeout=60)


@pytest.mark.parametrize("words", [("-c", "import distcalib"), ("-m", "distcalib.cli", "--help")])
def test_what_is_asked_often_loads_nothing_heavy(words):
    began = time.perf_counter()
    done = python("-X", "importtime", *words)
    assert done.returncode == 0, done.stderr
    loaded = set(re.findall(r"\|\s+(\w+)", done.stderr))
    assert not loaded & {"pandas", "numpy", "torch", "dask", "rich", "policyengine_us", "sqlalchemy"}
    assert time.perf_counter() - began < 20  # a second, on a machine with nothing else to do


@pytest.fixture
def as_installed(tmp_path: Path) -> str:
    """Return a path on which this checkout is installed, as its pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / f"distcalib-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distcalib\nVersion: {project['version']}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    text = "".join(
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
        for group, points in groups.items()
    )
    (info / "entry_points.txt").write_text(text)
    return os.pathsep.join([str(tmp_path), str(ROOT)])


def test_dask_reaches_the_commands_through_its_entry_point(as_installed):
    done = python("-m", "dask", "distcalib", "config", "check", "demo", PYTHONPATH=as_installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo: valid;")
    bad = python("-m", "dask", "distcalib", "config", "check", "dmo", PYTHONPATH=as_installed)
    assert bad.returncode == 2
    assert "did you mean 'demo'" in bad.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ver", {"verify"}),
        ("fit ", {"frontier", "robustness", "tune"}),
        ("run --force a", {"assemble", "areas"}),
        ("run t", {"tiny"}),
        ("run --log-format ", {"text", "json"}),
    ],
)
def test_the_shell_completes_commands_presets_and_stages(typed, offered):
    words = f"distcalib {typed}"
    done = python(
        "-c", "from distcalib.cli import main; main(prog_name='distcalib')",
        _DISTCALIB_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")),
    )  # fmt: skip
    given = {line.partition(",")[2] for line in done.stdout.splitlines() if line.startswith("plain,")}
    assert given == offered, done


def test_the_line_of_the_docs_sets_completion_up_in_bash():
    source = python(
        "-c", "from distcalib.cli import main; main(prog_name='distcalib')", _DISTCALIB_COMPLETE="bash_source"
    ).stdout
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert 'eval "$(_DISTCALIB_COMPLETE=bash_source distcalib)"' in page
    done = subprocess.run(["bash", "-c", f"{source}\ncomplete -p distcalib"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "distcalib" in done.stdout
