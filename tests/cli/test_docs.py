"""Every command line of README and docs is one that the commands accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import command_lines, refused

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOUND = [(page.name, line) for page in PAGES for line in command_lines(page.read_text(encoding="utf-8"))]


def test_there_are_command_lines_on_the_pages():
    assert len(FOUND) > 50
    assert {page for page, _ in FOUND} >= {"README.md", "cli.md", "migration.md", "fit.md"}


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

```python
distcalib = 3
```
"""
    found = list(command_lines(page))
    assert sorted(line.removeprefix("$ ").split()[1] for line in found) == ["plan", "run", "status"]
    assert any("--workers 2" in line for line in found)
