"""The help of every command as one text; ``python tests/cli/help_text.py > tests/cli/help.txt`` renews it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from distcalib.cli import main


def commands(
    group: click.Command = main, names: tuple[str, ...] = ("distcalib",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Return every command under its full name, groups before what is in them."""
    yield names, group
    if isinstance(group, click.Group):
        for name in sorted(group.commands):
            yield from commands(group.commands[name], (*names, name))


def help_text() -> str:
    """Return the help of all commands as a terminal of 100 columns shows it."""
    parts = []
    for names, command in commands():
        with click.Context(
            command, info_name=" ".join(names), terminal_width=100, max_content_width=100,
            help_option_names=["-h", "--help"],
        ) as context:  # fmt: skip
            parts.append(f"=== {' '.join(names)}\n{command.get_help(context)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(help_text(), end="")
