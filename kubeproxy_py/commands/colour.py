"""Colours of what commands print, by ``--color`` and ``$NO_COLOR`` (no-color.org).

Invariants:
- What is painted is safe for a terminal, apart from the colour.
"""

import os
from typing import TextIO

from kubeproxy_py.plan.render import Paint
from kubeproxy_py.terminal_text import printable

_CODES = {"+": "32", "~": "33", "-": "31", "=": "1", "@": "36"}  # SGR: green, yellow, red, bold, cyan


def painter(choice: str, stream: TextIO) -> Paint:
    """Return what paints lines for *stream*, and makes them safe for it; *choice* is auto, always or never."""
    return _paint if choice == "always" or (choice == "auto" and _wants_colour(stream)) else _leave


def _wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(sign: str, line: str) -> str:
    code, text = _CODES.get(sign), printable(line)
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _leave(_sign: str, line: str) -> str:
    return printable(line)
