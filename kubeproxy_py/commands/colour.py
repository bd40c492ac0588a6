"""Colours of what commands print, by ``--color`` and ``$NO_COLOR`` (no-color.org)."""

import os
from typing import TextIO

from kubeproxy_py.plan.render import Paint

_CODES = {"+": "32", "~": "33", "-": "31", "=": "1", "@": "36"}  # SGR: green, yellow, red, bold, cyan


def painter(choice: str, stream: TextIO) -> Paint:
    """Return what paints lines for *stream*; *choice* is auto, always or never."""
    return _paint if choice == "always" or (choice == "auto" and _wants_colour(stream)) else _leave


def _wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(sign: str, line: str) -> str:
    code = _CODES.get(sign)
    return f"\x1b[{code}m{line}\x1b[0m" if code else line


def _leave(_sign: str, line: str) -> str:
    return line
