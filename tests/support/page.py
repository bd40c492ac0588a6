"""The table of docs/support.md: which kernels the agent was tested on, from the outcomes of `make test-kernels`.

A generated part is between two lines of the page; what is around it is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from lab.job import REPOSITORY
from lab.kernels import DEBIAN, NEWEST, Iptables
from tests.support.outcome import FAILED, GROUPS, PASSED, SKIPPED, Outcome

PAGE = REPOSITORY / "docs/support.md"
BEGIN, END = "<!-- written by make test-kernels: begin -->\n", "<!-- written by make test-kernels: end -->\n"

KERNELS = ("5.10", "6.1", "6.12", NEWEST, DEBIAN)
"""The rows of the table, besides further kernels that were run."""

_NOTES = {NEWEST: "(newest of Debian sid)", DEBIAN: "(package of Debian 12)"}
_COLUMNS = ("kernel", "iptables", *GROUPS, "skipped", "day")


def write(outcomes: Iterable[Outcome], path: Path = PAGE) -> None:
    """Replace the table of kernels of the page *path* by the results of *outcomes*."""
    replace_part(path, BEGIN, END, table(outcomes))


def replace_part(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between the lines *begin* and *end* of the page *path* by *text*."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the table, and the tests that failed."""
    found = {(outcome.kernel, outcome.iptables): outcome for outcome in outcomes}
    others = sorted({kernel for kernel, _ in found} - set(KERNELS))
    variants = [(kernel, iptables) for kernel in (*KERNELS, *others) for iptables in _variants(kernel)]
    rows = [_row(found.get(each) or Outcome(*each, problem="was not run")) for each in variants]
    lines = ["", line(_COLUMNS), "|---" * len(_COLUMNS) + "|", *rows, "", *_failures(found.values())]
    return "\n".join(lines) + "\n"


def _variants(kernel: str) -> tuple[Iptables, ...]:
    return ("legacy",) if kernel == DEBIAN else get_args(Iptables)  # the package has no nf_tables


def _row(outcome: Outcome) -> str:
    version = outcome.release or ("" if outcome.kernel in _NOTES else outcome.kernel)
    name = " ".join(word for word in ("Linux", version, _NOTES.get(outcome.kernel, "")) if word)
    cells = [_cell(outcome.counts.get(group, {})) for group in GROUPS]
    if not outcome.counts:
        cells = [outcome.problem, *("" for _ in cells[1:])]
    skipped = str(outcome.total(SKIPPED)) if outcome.counts else ""
    return line((name, outcome.iptables, *cells, skipped, outcome.day))


def _cell(counts: Mapping[str, int]) -> str:
    failed = counts.get(FAILED, 0)
    return f"{counts.get(PASSED, 0)}{f', **{failed} failed**' if failed else ''}"


def _failures(outcomes: Iterable[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.failed:
            yield f"Failed on Linux {outcome.release} with iptables-{outcome.iptables}:\n"
            yield from (f"- `{name}`" for name in outcome.failed)
            yield ""


def line(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"
