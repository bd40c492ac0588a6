"""Import msgspec without typing_extensions.

msgspec prefers it to typing, which has the same since Python 3.11.  With inspect, ast and dis it would be a seventh of
the time of a command, and stay in the memory of an agent.
"""

import importlib
import sys

_NOT_NEEDED = "typing_extensions"


def import_msgspec() -> None:
    """Import msgspec, unless it is imported; afterwards other packages can import typing_extensions as usual."""
    if _NOT_NEEDED in sys.modules:
        return
    sys.modules[_NOT_NEEDED] = None  # type: ignore[assignment]  # Python takes None for "there is none"
    try:
        importlib.import_module("msgspec")
    finally:
        del sys.modules[_NOT_NEEDED]
