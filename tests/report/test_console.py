"""What is printed: progress as lines where there is no terminal, bars where there is one."""

from __future__ import annotations

import io

from rich.console import Console

from distcalib.report.console import Progressing


def say(console: Console) -> str:
    show = Progressing(console)
    show({"event": "stage", "stage": "simulate", "tasks": 3, "reused": 1})
    for _ in range(2):
        show({"event": "task", "stage": "simulate"})
    show({"event": "stage_done", "stage": "simulate", "seconds": 4.0})
    show({"event": "warning", "text": "[odd] text"})
    show({"event": "nothing_to_do", "files": 1577})
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_without_a_terminal():
    text = say(Console(file=io.StringIO(), width=100))
    assert text.splitlines() == [
        "simulate: 3 to do (1 already done)",
        "simulate: done in 4.0 s",
        "warning: [odd] text",
        "nothing to do: all 1,577 files of this plan are there and verify",
    ]


def test_a_bar_on_a_terminal():
    text = say(Console(file=io.StringIO(), width=100, force_terminal=True))
    assert "3/3" in text
    assert "simulate" in text
