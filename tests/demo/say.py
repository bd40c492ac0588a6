"""say: plain text for someone who has never seen the project; short lines, and claims that are checked."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

WIDTH = 96
_INDENT = "   "


class NotSo(Exception):  # noqa: N818 - read at `except NotSo`
    """Something that was about to be claimed does not hold."""


class Chapters:
    """Numbered headings."""

    def __init__(self) -> None:
        self._number = 0

    def begin(self, title: str, why: str) -> None:
        """The next heading; *why* says in a sentence what to look for."""
        self._number += 1
        _print(f"\n{self._number}. {title}\n")
        _print(textwrap.fill(why, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT) + "\n")


def show(lines: str | Iterable[str]) -> None:
    """Print *lines* as they are, indented."""
    for line in (lines.splitlines() or [""]) if isinstance(lines, str) else lines:
        _print(f"{_INDENT}{line}".rstrip())


def command(*words: str) -> None:
    """The command whose output follows, as one would type it; long ones on several lines."""
    wrapped = textwrap.wrap(" ".join(words), WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    show([f"$ {wrapped[0]}", *(f"      {line}" for line in wrapped[1:])])


def spoken(who: str, sentence: str) -> None:
    """A line that *who* said, wrapped."""
    start = f"{_INDENT}{who} | "
    _print(textwrap.fill(sentence, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))


def claim(text: str, holds: bool, found: object = None) -> None:
    """Say *text*, which holds.  Raises NotSo, with what was *found* instead, if it doesn't."""
    if not holds:
        raise NotSo(f"{text}; found: {found}" if found is not None else text)
    start = f"{_INDENT}ok  "
    _print(textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))


def _print(text: str) -> None:
    print(text, flush=True)
