"""case: what is judged, recorded or written: objects that the API has, and the kernel state that must follow.

Law: a Case holds all that it takes to judge it, or there is none, but Malformed, which says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

START = "start"


class Malformed(Exception):  # noqa: N818 - read at `except Malformed`
    """A case that can't be judged, and why.  It counts as differing, so that none passes for want of sense."""


class Stage(Struct, frozen=True, gc=False):
    """One state of the API, and the kernel state that follows: canonical lines by file name.

    *objects* is the whole state, as YAML text.
    """

    name: str
    objects: str
    expected: Mapping[str, list[str]]


class Case(Struct, frozen=True, gc=False):
    """*stages*: the start, then the steps in order, gone through *times* times in all.

    *config* is the text of the configuration file.  *prepare* is the command that puts something into the kernel
    before the agent starts, run in *folder*; empty: nothing.
    """

    name: str
    folder: Path
    config: str
    prepare: tuple[str, ...]
    stages: tuple[Stage, ...]
    times: int = 1
