"""verdict: how a case ended, and the lines that tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tests.conformance.canon import torn_tables
from tests.conformance.case import Case


class Verdict(Struct, frozen=True, gc=False):
    """How a case ended: equal, or *differing* lines by stage and file, or what kept it from being judged.

    *torn* names what the recording caught half made and could not be compared (canon.py).  *notes* are what helps to
    understand a difference: what was said before the start, the end of the agent's log.
    """

    name: str
    differing: Mapping[str, Mapping[str, Sequence[str]]] = {}
    trouble: str = ""
    torn: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def is_equal(self) -> bool:
        return not self.differing and not self.trouble

    def lines(self) -> Iterator[str]:
        """`NAME  equal`, or `NAME  DIFFERS` and what differs, by stage and file."""
        yield f"{self.name:<32}{'equal' if self.is_equal else 'DIFFERS'}"
        for where in self.torn:
            yield f"    {where}: recorded without the rules in kube-proxy's chains, which are not compared"
        if self.trouble:
            yield f"    {self.trouble}"
        for stage, files in self.differing.items():
            for file, diff in files.items():
                yield f"    {stage}: {file}   (- expected only, + ours only)"
                yield from (f"      {line}" for line in diff)
        if not self.is_equal:
            yield from (f"    | {note}" for note in self.notes)


def torn_parts(case: Case) -> list[str]:
    """The tables of *case* that were recorded half made."""
    return [
        f"{stage.name}: {file}, table {table}"
        for stage in case.stages
        for file, lines in stage.expected.items()
        for table in torn_tables(file, lines)
    ]
