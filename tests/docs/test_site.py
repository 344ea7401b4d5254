"""The built documentation: without a warning, whole, and to be read without network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import distcalib
from distcalib.cli import main
from distcalib.config.origins import resolved

ROOT = Path(__file__).parents[2]
# As `make docs` says it; a connection is refused, so nothing can be fetched.
BUILD = """
import socket, sys
def refuse(*_): raise OSError("the documentation is built without network")
socket.socket.connect = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


def build(source: Path, output: Path) -> subprocess.CompletedProcess:
    words = ["-q", "-E", "-W", "--keep-going", "-b", "html", str(source), str(output)]
    return subprocess.run(
        [sys.executable, "-c", BUILD, *words], capture_output=True, text=True, cwd=ROOT, timeout=300
    )


class Page(HTMLParser):
    """What a page links to, loads, and offers as anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.anchors |= {said["id"]} if said.get("id") else set()
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        if "src" in said or (
            tag == "link" and said.get("rel") in ("stylesheet", "preload", "icon", "preconnect")
        ):
            self.loads.append(said.get("src") or said.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", output)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return output


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {file.relative_to(site).as_posix(): Page(file) for file in sorted(site.rglob("*.html"))}


def to(page: str, link: str) -> tuple[str, str]:
    """Return the file and the anchor that a link of a page leads to."""
    parts = urlsplit(link)
    folder = Path("/site", page).parent
    file = Path("/site", page) if not parts.path else (folder / unquote(parts.path)).resolve()
    return file.relative_to("/site").as_posix(), unquote(parts.fragment)


def test_every_page_is_in_the_table_of_contents(pages):
    written = {
        p.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for p in (ROOT / "docs").rglob("*.md")
    }
    assert written <= set(pages)
    listed = {to("index.html", link)[0] for link in pages["index.html"].links if not urlsplit(link).scheme}
    assert written <= listed, written - listed


def test_every_link_within_the_site_leads_somewhere(site, pages):
    found = 0
    for name, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme or link == "#":
                continue
            file, anchor = to(name, link)
            assert (site / file).is_file(), f"{name}: {link}"
            if anchor and file in pages:
                assert anchor in pages[file].anchors, f"{name}: {link}"
                found += 1
    assert found > 500


def test_links_of_the_readme_lead_somewhere(pages):
    for link in re.findall(r"\]\((docs/[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        path, _, anchor = link.removeprefix("docs/").partition("#")
        assert (ROOT / "docs" / path).is_file(), link
        if not path.endswith(".md"):
            continue
        page = pages[Path(path).with_suffix(".html").as_posix()]
        assert not anchor or anchor in page.anchors, link


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        assert [what for what in page.loads if urlsplit(what).scheme not in ("", "data")] == [], name
        assert not [what for what in page.loads if what.startswith("//")], name
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text), style
    for script in site.rglob("*.js"):
        assert not re.search(r"(import|fetch|src\s*=)[\s('\"]*(https?:)?//", script.read_text()), script


def test_the_reference_has_every_command_setting_and_public_name(site, pages):
    def words(page: str) -> str:
        return re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8"))

    commands = pages["reference/commands.html"].anchors
    for name, command in main.commands.items():
        assert f"distcalib-{name}" in commands
        for sub in getattr(command, "commands", {}):
            assert f"distcalib-{name}-{sub}" in commands
    assert "--until STAGE" in words("reference/commands.html")
    settings = words("reference/configuration.html")
    missing = [one.name for one in resolved(None) if one.name not in settings]
    assert missing == []
    assert "scheduler.wait" in settings
    api = pages["reference/api.html"].anchors
    public = set(distcalib.__all__) - {"__version__", "STATE_CODES"}  # a text, and a dict told in words
    assert {f"distcalib.{name}" for name in public} <= api


def test_a_fault_in_a_page_ends_the_build_and_is_named(tmp_path, monkeypatch):
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "generated.py"):
        shutil.copy(ROOT / "docs" / name, source)
    text = "# Index\n\n[there](index.md#nowhere) [there](gone.md)\n\n"
    (source / "index.md").write_text(text + "```{eval-rst}\n.. autofunction:: distcalib.fit_wieghts\n```\n")
    (source / "more.md").write_text("# A page that nobody lists\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = build(source, tmp_path / "out")
    assert done.returncode == 1
    assert "more.md: WARNING: document isn't included in any toctree" in done.stderr
    for fault in ("nowhere", "gone.md", "fit_wieghts"):
        assert re.search(rf"WARNING: .*{re.escape(fault)}", done.stderr), fault
