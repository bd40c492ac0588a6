"""Draw the output of commands as a terminal in an SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_CHARACTER_PX, _LINE_PX, _MARGIN_PX, _TITLE_PX = 7.25, 16, 14, 26
_BACKGROUND, _TEXT, _DIM = "#15181d", "#d7dae0", "#8b93a1"
_SPACE = "\N{NO-BREAK SPACE}"  # browsers collapse others, also with xml:space
# The first pattern that a line matches gives its colour.
_COLOURS = (
    (re.compile(r"^\$ "), "#7cc4ff"),
    (re.compile(r"^\s*! |^Wrong:|failed|not served"), "#ff8a7a"),
    (re.compile(r"^[A-Z][A-Za-z ]*:|^[A-Z ]{6,}$|^NAMESPACE"), "#9ccf7a"),
    (re.compile(r"^#"), _DIM),
)
_FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>{title}</title>
<rect width="{width}" height="{height}" rx="8" fill="{background}"/>
<circle cx="16" cy="14" r="5" fill="#ff5f57"/>
<circle cx="34" cy="14" r="5" fill="#febc2e"/>
<circle cx="52" cy="14" r="5" fill="#28c840"/>
<g font-family="{fonts}" font-size="12">
"""


class Shown(NamedTuple):
    """A command and what it printed."""

    command: str
    output: str


def svg(title: str, shown: Sequence[Shown]) -> str:
    """Return a picture of a terminal in which the commands were run."""
    lines: list[str] = []
    for command, output in shown:
        lines += ([""] if lines else []) + [f"$ {command}", *output.rstrip("\n").split("\n")]
    width = round(max(map(len, lines)) * _CHARACTER_PX + 2 * _MARGIN_PX)
    height = round(len(lines) * _LINE_PX + 2 * _MARGIN_PX + _TITLE_PX - 8)
    head = _HEAD.format(width=width, height=height, title=escape(title), background=_BACKGROUND, fonts=_FONTS)
    return head + "".join(map(_line, range(len(lines)), lines)) + "</g>\n</svg>\n"


def _line(number: int, text: str) -> str:
    if not text:
        return ""
    colour = next((colour for pattern, colour in _COLOURS if pattern.search(text)), _TEXT)
    y = _TITLE_PX + _MARGIN_PX + number * _LINE_PX
    # Each line has the width of its characters, whichever font the reader has.
    length = round(len(text) * _CHARACTER_PX, 2)
    return (
        f'<text x="{_MARGIN_PX}" y="{y}" fill="{colour}" textLength="{length}" lengthAdjust="spacingAndGlyphs">'
        f"{escape(text).replace(' ', _SPACE)}</text>\n"
    )
