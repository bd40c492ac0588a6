"""`python -m bench.failover_page RAW.json`: write what `bench.inside failover` measured into docs/failover.md.

The table between the two marks of the page is replaced; everything else is written by hand.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "failover.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

Deaths = Sequence[Mapping[str, float]]
Raw = Mapping[str, Mapping[str, Deaths]]
"""By connections per second, and by way, what was measured of each death."""


def with_figures(page: str, raw: Raw) -> str:
    """Return *page* with the table of *raw* between its marks.  Raises ValueError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for the table")
    table = "\n".join(_lines(raw))
    return f"{before}{BEGIN}{table}\n{END}{after}"


def _lines(raw: Raw) -> Iterator[str]:
    yield "| | connections per second | failed connections | none fails after | agent, of a core |"
    yield "|---|---|---|---|---|"
    for ways in raw.values():
        for way, deaths in ways.items():
            rate = median(death["rate"] for death in deaths)
            failed, total = sum(death["failed"] for death in deaths), sum(death["connections"] for death in deaths)
            cpu = median(death["agent CPU of a core"] for death in deaths)
            yield f"| {_named(way)} | {rate:.0f} | {failed:.0f} of {total:.0f} | {_end_text(deaths)} | {cpu:.0%} |"


def _named(way: str) -> str:
    return way if way == "without" else f"`{way}`"


def _end_text(deaths: Deaths) -> str:
    """Return when the last connection that failed began, after the death: the median, and the worst."""
    if any(not death["set aside"] for death in deaths):
        return "the node is withdrawn (40 s and more)"
    seconds = [death["last failed after s"] for death in deaths]
    return f"{median(seconds):.1f} s" if len(seconds) == 1 else f"{median(seconds):.1f} s (worst {max(seconds):.1f} s)"


if __name__ == "__main__":
    measured = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=dict[str, dict[str, list[dict[str, float]]]])
    PAGE.write_text(with_figures(PAGE.read_text(), measured))
