"""Print plain text for readers who do not know the project: short lines, and statements that are checked.

Invariants:
  - Without colours the text is the same, and on a terminal nothing is told by colour alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Literal

WIDTH = 96
_INDENT = "   "

Part = Literal["heading", "command", "log", "ok", "failed"]
_CODES: dict[Part, str] = {"heading": "1", "command": "36", "log": "2", "ok": "32", "failed": "1;31"}  # SGR
_has_colours = False


def use_colours(environment: Mapping[str, str], *, is_terminal: bool) -> None:
    """Print in colours from now on, if *is_terminal* and *environment* has no ``NO_COLOR`` (no-color.org)."""
    global _has_colours
    _has_colours = is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def paint(part: Part, text: str) -> str:
    """Return *text* in the colour of *part*, each line by itself; unchanged without colours."""
    if not _has_colours:
        return text
    return "\n".join(f"\x1b[{_CODES[part]}m{line}\x1b[0m" if line else line for line in text.split("\n"))


class CheckFailedError(Exception):
    """A check failed; the text is the statement that is not true."""


class Sections:
    """Numbered headings."""

    def __init__(self) -> None:
        self._number = 0

    def begin(self, title: str, summary: str) -> None:
        """Print the next heading and its *summary*."""
        self._number += 1
        _print(paint("heading", f"\n{self._number}. {title}\n"))
        _print(textwrap.fill(summary, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT) + "\n")


def show(lines: str | Iterable[str]) -> None:
    """Print *lines*, indented."""
    for line in (lines.splitlines() or [""]) if isinstance(lines, str) else lines:
        _print(f"{_INDENT}{line}".rstrip())


def command(*words: str) -> None:
    """Print the command whose output follows; long ones on several lines."""
    wrapped = textwrap.wrap(" ".join(words), WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    end = " \\"
    lines = [f"$ {wrapped[0]}", *(f"      {line}" for line in wrapped[1:])]
    show(paint("command", "\n".join([*(line + end for line in lines[:-1]), lines[-1]])))


def show_log_line(program: str, message: str) -> None:
    """Print a log message of *program*, wrapped."""
    start = f"{_INDENT}{program} | "
    _print(paint("log", textwrap.fill(message, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))))


def check(text: str, holds: bool, found: object = None) -> None:
    """Print the statement *text* if it *holds*.  Raises CheckFailedError with what was *found* if it does not."""
    if not holds:
        raise CheckFailedError(f"{text}; found: {found}" if found is not None else text)
    start = f"{_INDENT}ok  "
    _print(paint("ok", textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))))


def _print(text: str) -> None:
    print(text, flush=True)
