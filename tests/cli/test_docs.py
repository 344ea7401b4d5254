"""Every command line, settings block, Python block and path of README and docs is one that is there."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from command_lines import command_lines, fenced, refused
from sqlalchemy import create_engine, text

from distcalib.cli import main
from distcalib.config import ClusterConfig, RunConfig
from distcalib.config.schema import read_settings
from distcalib.targets.database import read_targets, read_tree
from distcalib.targets.rules import read_rules

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
FOUND = [(page, line) for page, text in TEXTS.items() for line in command_lines(text)]


def blocks(language: str) -> list:
    found = [(page, code) for page, text in TEXTS.items() for name, code in fenced(text) if name == language]
    return [pytest.param(page, code, id=f"{page} {i}") for i, (page, code) in enumerate(found)]


def test_there_are_command_lines_on_the_pages():
    assert len(FOUND) > 150
    with_some = {page for page, _ in FOUND}
    assert with_some >= {"README.md", "docs/cli.md", "docs/migration.md", "docs/tutorial.md"}
    assert with_some >= {f"docs/how-to/{page.name}" for page in (ROOT / "docs/how-to").glob("*.md")} - {
        "docs/how-to/hosts.md"  # its steps are those of deploy/hosts
    }


def test_the_readme_leads_a_newcomer_to_the_tutorial_and_to_an_installed_program():
    readme = TEXTS["README.md"]
    links = re.findall(r"\]\(([^)#]+)", readme)
    assert all((ROOT / link).exists() for link in links if "://" not in link)
    first = readme[: readme.index("| measured on")]
    assert "(docs/tutorial.md)" in first
    assert "(docs/how-to/own-data.md)" in first
    own = readme[readme.index("Your own data") :]
    steps = ["docs/how-to/own-data.md", "make setup", "source .venv/bin/activate", "distcalib config new"]
    places = [own.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{p} {line[:60]}" for p, line in FOUND])
def test_a_command_line_of_the_docs_is_accepted(page, line):
    assert refused(line) == ""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("distcalib rum demo", "no such command"),
        ("distcalib run demo --outptu x", "No such option"),
        ("distcalib fit frontier RUN --plot f.svg", "Missing option '--output'"),
        ("distcalib run demo --log-format yaml", "yaml"),
        ("distcalib compare a b c --output d", "unexpected extra argument"),
        ("distcalib run ... --nly MN", "No such option"),
    ],
)
def test_a_wrong_line_would_be_found(line, why):
    assert why in refused(line)


def test_lines_are_found_in_every_kind_of_code():
    page = """
Text with `distcalib status RUN`.

    distcalib run demo --output RUN \\
        --workers 2

```bash
$ distcalib plan demo   # a comment
```

1. In a list:

   ```bash
   distcalib report RUN
   ```

```python
distcalib = 3
```
"""
    found = list(command_lines(page))
    names = sorted(line.removeprefix("$ ").split()[1] for line in found)
    assert names == ["plan", "report", "run", "status"]
    assert any("--workers 2" in line for line in found)
    assert [(language, code) for language, code in fenced(page) if language == "python"] == [
        ("python", "distcalib = 3\n")
    ]


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_of_the_docs_compiles_and_its_names_and_arguments_are_there(page, code):
    tree = ast.parse(code, page)
    assert tree.body
    ours: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distcalib"):
            for alias in node.names:
                module = import_module(node.module)
                if not hasattr(module, alias.name):  # a module of the package that nobody has imported yet
                    import_module(f"{node.module}.{alias.name}")
                ours[alias.asname or alias.name] = getattr(module, alias.name)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ours.get(ast.unparse(call.func).split(".")[0])
        for part in ast.unparse(call.func).split(".")[1:]:
            function = getattr(function, part) if function is not None else None
        if callable(function):
            given = {word.arg: None for word in call.keywords if word.arg}
            inspect.signature(function).bind(*call.args, **given)


def test_a_small_database_from_nothing_has_a_whole_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [code for name, code in fenced(TEXTS["docs/how-to/own-data.md"]) if name == "python"]
    exec(compile(code, "own-data.md", "exec"), {})
    strata = read_tree("small.db")
    assert strata["parent_stratum_id"].fillna(0).tolist() == [0, 1, 2]
    assert sorted(read_targets("small.db")["value"]) == [27_000, 150_000_000, 340_000_000]
    findings = CliRunner().invoke(main, ["data", "contradictions", "--database", "small.db"])
    assert findings.exit_code == 0
    assert "0 errors" in findings.output
    with create_engine("sqlite:///small.db").begin() as db:
        db.execute(text("UPDATE strata SET parent_stratum_id = NULL WHERE stratum_id = 2"))
    told = CliRunner().invoke(main, ["data", "contradictions", "--database", "small.db"])
    assert "has no parent" in told.output


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_settings_of_the_docs_are_valid(page, code, tmp_path):
    said = yaml.safe_load(code)
    if set(said) & {"include", "exclude", "check"} or isinstance(said.get("fit"), list):
        (tmp_path / "rules.yaml").write_text(code)
        assert read_rules(tmp_path / "rules.yaml")
        return
    kind = ClusterConfig if "kind" in said else RunConfig
    assert isinstance(read_settings(kind, said, page), kind)


@pytest.mark.parametrize("page", TEXTS)
def test_no_row_of_a_table_loses_a_cell(page):
    cells = 0
    for line in re.sub(r"^ *```.*?^ *```", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL).splitlines():
        found = len(re.split(r"(?<!\\)\|", line.strip())) if line.strip().startswith("|") else 0
        assert found in (cells, 0) or cells == 0, line
        cells = found


# A path of the repository, with or without a test in it; or `::test`, of the file that was named last.
_PATH = re.compile(
    r"(?<![\w./-])((?:tests|benchmarks|deploy|docs|distcalib|notebooks|peer)/[\w./-]*\w)?(?:::(test_\w+))?(?=\W|$)"
)


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_tests_that_a_page_names_are_there(page):
    file = ROOT
    for path, test in _PATH.findall(TEXTS[page]):
        file = ROOT / path if path else file
        if "." in Path(path).name:
            assert file.exists(), path
        if test and file.is_file():
            assert f"def {test}" in file.read_text(encoding="utf-8"), f"{file.name}::{test}"
