"""Command lines in texts, and whether the real commands accept them; nothing is carried out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from distcalib.cli import main

_INLINE = re.compile(r"`((?:\S*/)?distcalib [^`]+)`")
_PLACEHOLDERS = re.compile(r"\.\.\.")
# A fence may stand in a list, indented.
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w{}-]*)[^\n]*\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL
)
_SHELLS = ("", "bash", "sh", "console", "shell")


def fenced(markdown: str) -> Iterator[tuple[str, str]]:
    """Return the fenced code of a page: its language and its text, without the indent of the fence."""
    for found in _FENCE.finditer(markdown):
        lines = found["code"].splitlines()
        yield found["language"], "\n".join(line.removeprefix(found["indent"]) for line in lines) + "\n"


def command_lines(markdown: str) -> Iterator[str]:
    """Return the command lines of a page: of fenced and of indented code, and between backticks.

    A line that ends in a backslash goes on in the next; what stands behind ``#`` is a comment. Code of
    another language (a fence with a name that is no shell's) is left out.
    """
    for language, code in fenced(markdown):
        if language in _SHELLS:
            yield from (line.strip() for line in _joined(code).splitlines() if _is_command(line))
    outside = _joined(_FENCE.sub("", markdown))
    for line in outside.splitlines():
        if line.startswith("    ") and _is_command(line):
            yield line.strip()
        else:
            yield from _INLINE.findall(line)


def _joined(text: str) -> str:
    return text.replace("\\\n", " ")


def _is_command(line: str) -> bool:
    words = line.strip().removeprefix("$ ").split()
    return any(
        word == "distcalib" or word.endswith("/distcalib") for word in words[:2]
    ) and not line.strip().startswith(("#", "pip", "from", "import"))


def refused(line: str) -> str:
    """Return why the real commands would refuse a command line, or an empty text.

    Options, choices and numbers of arguments are checked; files are not opened.
    """
    words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    start = next(i for i, word in enumerate(words) if word == "distcalib" or word.endswith("/distcalib"))
    words = words[start + 1 :]
    for end in (";", "|", "&&", ">", "&"):
        words = words[: words.index(end)] if end in words else words
    given = [word for word in words if not _PLACEHOLDERS.search(word)]
    optional = [word for word in given if not word.startswith("[")]
    bracketed = " ".join(word for word in given if word not in optional)
    try:
        _parse(main, optional, "distcalib", whole=len(given) == len(words) and not bracketed)
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"
    except click.exceptions.Exit:
        pass
    return ""


def _parse(command: click.Command, words: list[str], name: str, whole: bool) -> None:
    if isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
            command.parse_args(context, list(words) or ["--help"])
            return
        found = command.get_command(click.Context(command, info_name=name), words[0])
        if found is None:
            raise click.UsageError(f"no such command: {name} {words[0]}")
        _parse(found, words[1:], f"{name} {words[0]}", whole)
        return
    if not words:
        return  # a command is named, not called
    # Without all of its words a line still has to name options that there are.
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    if whole:
        command.parse_args(context, list(words))
    else:
        command.make_parser(context).parse_args(list(words))
