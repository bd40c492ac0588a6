"""The result of a case, and the lines that report it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tests.conformance.canonical import incomplete_tables
from tests.conformance.case import Case


class Verdict(Struct, frozen=True, gc=False):
    """The result of a case: equal, *differing* lines by stage and file, or the *error* that prevented the comparison.

    *incomplete* names tables that were recorded incomplete and not compared (canonical.py).  *notes* help to understand
    a difference: output of the preparation, the end of the agent's log.
    """

    name: str
    differing: Mapping[str, Mapping[str, Sequence[str]]] = {}
    error: str = ""
    incomplete: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def is_equal(self) -> bool:
        return not self.differing and not self.error

    def lines(self) -> Iterator[str]:
        """`NAME  equal`, or `NAME  DIFFERS` with the differences by stage and file."""
        yield f"{self.name:<32}{'equal' if self.is_equal else 'DIFFERS'}"
        for where in self.incomplete:
            yield f"    {where}: recorded without the rules in kube-proxy's chains, which are not compared"
        if self.error:
            yield f"    {self.error}"
        for stage, files in self.differing.items():
            for file, diff in files.items():
                yield f"    {stage}: {file}   (- expected only, + ours only)"
                yield from (f"      {line}" for line in diff)
        if not self.is_equal:
            yield from (f"    | {note}" for note in self.notes)


def incomplete_parts(case: Case) -> list[str]:
    """The tables of *case* that were recorded incomplete."""
    return [
        f"{stage.name}: {file}, table {table}"
        for stage in case.stages
        for file, lines in stage.expected.items()
        for table in incomplete_tables(file, lines)
    ]
