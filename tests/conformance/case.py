"""A case: the objects of the API, and the kernel state that must follow; recorded or written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

START = "start"


class MalformedCaseError(Exception):
    """A case that cannot be judged, and why.  It counts as differing, so that no case passes by being unreadable."""


class Stage(Struct, frozen=True, gc=False):
    """One state of the API, and the kernel state that follows."""

    name: str
    objects: str  # all objects, as YAML text
    expected: Mapping[str, list[str]]  # canonical lines by file name


class Case(Struct, frozen=True, gc=False):
    """All that is needed to judge the agent."""

    name: str
    folder: Path
    config: str  # text of the configuration file
    prepare: tuple[str, ...]  # command to run in *folder* before the agent starts; empty: none
    stages: tuple[Stage, ...]  # the start, then the steps in order
    repetitions: int = 1  # how often the stages are repeated in all
