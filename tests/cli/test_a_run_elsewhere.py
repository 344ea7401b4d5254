"""Commands that read a run folder of this machine say so of one in a store, and how to get it here."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from distcalib.cli import main

URL = "s3://bucket/runs/mine"
COMMANDS = [
    "verify URL",
    "report URL",
    "compare URL here --output out",
    "compare here URL --output out",
    "fit frontier URL --output out.csv",
    "fit robustness URL --output out.csv",
    "fit tune URL --output out.csv",
    "tune URL --output out.csv",
    "replicates URL --output out",
    "matrix info URL",
    "matrix row URL 1",
    "matrix column URL 1",
    "matrix why URL 1 1",
    "matrix export URL --output out.npz",
    "stack run URL --output out",
    "targets list URL",
    "targets count URL",
    "targets explain URL 1",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_url_is_refused_with_the_command_that_brings_the_run_here(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command.replace("URL", URL).split())
    assert result.exit_code == 2, result.output
    assert f"is a URL; got '{URL}'" in result.output
    assert f"`aws s3 sync {URL} FOLDER`" in result.output
    assert list(tmp_path.iterdir()) == []
    secret = CliRunner().invoke(main, command.replace("URL", "s3://user:hunter2@bucket/run").split())
    assert secret.exit_code == 2
    assert "hunter2" not in secret.output


def test_every_command_on_a_run_is_among_them():
    def below(command, words: tuple[str, ...] = ()):
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                yield from below(one, (*words, name))
        else:
            yield words, [p for p in command.params if p.param_type_name == "argument"]

    reads = {
        " ".join(words) for words, arguments in below(main)
        if any(a.human_readable_name in ("RUN", "SOURCE", "RUN_A", "run_a") for a in arguments)
    }  # fmt: skip
    # These take the URL.
    assert reads - {"status", "publish"} == {c.split(" URL")[0].split(" here")[0] for c in COMMANDS}
