"""Raw figures of the lab -> rows with their bars.

Law: pure.  A figure is the median of its repeats, "worst" the largest; ratios are of medians taken side by side.
Bars are what this version has to hold; where there is none yet, the figure is told all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.rows import Row

Raw = Mapping[str, Any]
"""What ``bench.inside`` printed."""

PROGRAMMING_BAR = 3.0  # times the floor
GROWTH_BAR = 1.5  # a change at the largest N against one at the smallest
_MEGA = 1e6


def start_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Cold and warm start, and memory after each."""
    for sort, name in (("cold", "cold start, exec to all programmed"), ("warm", "warm start, exec to nothing to do")):
        yield Row(name, n, _median(raw[sort], "seconds"), "s")
        if sort == "cold":
            for phase in ("compile", "plan", "apply"):
                yield Row(f"  of it {phase}", n, _median(raw[sort], f"{phase}_ms") / 1e3, "s")
        yield Row(f"  peak memory, {sort}", n, max(run["peak_bytes"] for run in raw[sort]) / _MEGA, "MB")


def change_rows(n: int, raw: Raw) -> Iterator[Row]:
    """One endpoint replaced, one Service added and deleted, and the echo of its address."""
    yield Row("endpoint replaced, median", n, change_ms(raw), "ms")
    yield Row("endpoint replaced, worst", n, max(raw["endpoint"]), "ms")
    yield Row("endpoint replaced, CPU (mean of 500)", n, raw["cpu"][0], "ms")
    for name in ("added", "deleted"):
        yield Row(f"Service {name}, median", n, median(raw[name]), "ms")
        yield Row(f"Service {name}, worst", n, max(raw[name]), "ms")
    yield Row("hearing of its address, median", n, median(raw["echo"]), "ms")
    yield Row("full compare: reading all back", n, median(raw["compare"]), "ms")


def growth_row(smallest: Raw, largest: Raw, n: int) -> Row:
    """How much more one endpoint costs at *n* Services than at the smallest N."""
    ratio = change_ms(largest) / change_ms(smallest)
    return Row("endpoint replaced, against the smallest N", n, ratio, "x", GROWTH_BAR)


def floor_rows(n: int, raw: Raw) -> Iterator[Row]:
    """The floor, our programming, and their ratio."""
    yield Row("floor: packed messages sent", n, median(raw["floor"]), "s")
    for part in raw["floor_parts"][0]:
        yield Row(f"  of it {part}", n, _median(raw["floor_parts"], part), "s")
    yield Row("programming (kernel.apply of the first plan)", n, median(raw["programming"]), "s")
    yield Row("  iptables' part of it", n, raw["programming_parts"]["Chain"] + raw["programming_parts"]["Jump"], "s")
    ratio = median(raw["programming"]) / median(raw["floor"])
    yield Row("programming against the floor", n, ratio, "x", PROGRAMMING_BAR)


def change_ms(raw: Raw) -> float:
    """The median of one endpoint replaced."""
    return float(median(raw["endpoint"]))


def _median(runs: Sequence[Raw], name: str) -> float:
    return float(median(run[name] for run in runs))
