r"""Text for a terminal: what objects, arguments and other programs name is shown, and never obeyed.

Invariants:
- What a terminal could take for a command (control characters, changes of the direction of writing) or cannot encode
  (half a surrogate pair, which stands for a byte that is no UTF-8) is written as Python escapes it: ``\x1b``.
- JSON has the same values: what is escaped there is escaped as JSON does.
"""


def printable(text: str) -> str:
    r"""Return *text* on one line, with ``\x1b`` for what is not printable, a line break too."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return *text* with its lines, each of them printable."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def printable_json(document: str) -> str:
    r"""Return the JSON *document* with ``\u009b`` for what is not printable within its strings."""
    if document.isascii() and "\x7f" not in document:
        return document  # JSON escapes the other control characters
    return "".join(char if char == "\n" or char.isprintable() else _json_escaped(char) for char in document)


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _json_escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))
