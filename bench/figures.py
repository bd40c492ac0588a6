"""Raw figures of the lab -> rows with their bars: starts, changes and the floor.

Law: pure.  A figure is the median of its repeats, "worst" the largest; ratios are of medians taken side by side.
Bars are what issue 5 asks for; where there is none, the figure is told all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.rows import Row

Raw = Mapping[str, Any]
"""What ``bench.inside`` printed."""

COLD_FLOORS, COLD_EXTRA_S = 4.0, 1.0  # a cold start: so many floors, and so much
PROGRAMMING_BAR = 1.5  # times the floor
WARM_BAR_S = 4.0
GROWTH_BAR = 1.3  # a change at the largest N against one at the smallest
ENDPOINT_BAR_MS, ENDPOINT_WORST_BAR_MS = 2.0, 20.0
SERVICE_BAR_MS = 3.0
MEMORY_BARS_MB = {100: 60.0, 10_000: 200.0}  # by Services
FIRST_SYNC_BARS_S = {10: 1.5}
LARGE = 10_000  # Services; bars on starts are for so many
MEGA = 1e6


def machine_rows(raw: Raw) -> Iterator[Row]:
    """What this kernel takes for the things of which everything here is made."""
    yield Row("this kernel: a system call", 0, raw["call_us"], "us")
    yield Row("this kernel: a page of memory, touched first", 0, raw["page_us"], "us")
    yield Row("this kernel: a program that does nothing", 0, raw["program_ms"], "ms")
    yield Row("this kernel: Python that does nothing", 0, raw["python_ms"], "ms")


def start_rows(n: int, raw: Raw, floor_s: float | None, page_us: float) -> Iterator[Row]:
    """Cold and warm start from a manifest folder, and memory after each; *floor_s*: of as many Services.

    *page_us* is what a page of memory takes that is touched first.
    """
    yield Row("cold start, exec to all programmed", n, _median(raw["cold"], "seconds"), "s", _cold_bar_s(n, floor_s))
    yield from _phases(n, raw["cold"])
    yield _pages(n, raw["cold"], page_us)
    yield from _memory(n, raw["cold"], "cold")
    warm_bar_s = WARM_BAR_S if n == LARGE else None
    yield Row("warm start, exec to nothing to do", n, _median(raw["warm"], "seconds"), "s", warm_bar_s)
    yield _pages(n, raw["warm"], page_us)
    yield from _memory(n, raw["warm"], "warm")


def api_rows(n: int, raw: Raw, floor_s: float | None, page_us: float) -> Iterator[Row]:
    """Cold start from an API server, which shares the one CPU; the bar is for what is left without that."""
    own_s = median(run["seconds"] - run["server_s"] for run in raw["cold"])
    yield Row("cold start from an API server", n, _median(raw["cold"], "seconds"), "s")
    yield Row("  of it the API server's CPU", n, _median(raw["cold"], "server_s"), "s")
    yield Row("  without that", n, own_s, "s", _cold_bar_s(n, floor_s))
    yield from _phases(n, raw["cold"])
    yield _pages(n, raw["cold"], page_us)
    yield from _memory(n, raw["cold"], "cold, API server")


def change_rows(n: int, raw: Raw, alone: Raw) -> Iterator[Row]:
    """One endpoint replaced, one Service added and deleted, and the echo of its address.

    *raw* was measured side by side with other N in one kernel, for their ratio; *alone* in one with nothing else.
    """
    yield Row("endpoint replaced, median", n, change_ms(raw), "ms", ENDPOINT_BAR_MS)
    worst_name = f"endpoint replaced, worst of {len(raw['endpoint'])}"
    yield Row(worst_name, n, max(raw["endpoint"]), "ms", ENDPOINT_WORST_BAR_MS)
    yield Row("endpoint replaced, 500 in a row, each", n, alone["row"][0], "ms")
    yield Row("  CPU", n, alone["cpu"][0], "ms", ENDPOINT_BAR_MS)
    for name in ("added", "deleted"):
        yield Row(f"Service {name}, median", n, median(alone[name]), "ms")
        yield Row(f"Service {name}, worst", n, max(alone[name]), "ms")
    yield Row("Service added or deleted, 200 in a row, each", n, alone["service_row"][0], "ms")
    yield Row("  CPU", n, alone["service_cpu"][0], "ms", SERVICE_BAR_MS)
    yield Row("    in sends, the kernel's part", n, alone["service_sends"][0], "ms")
    yield Row("hearing of its address, median", n, median(alone["echo"]), "ms")


def growth_row(smallest: Raw, largest: Raw, n: int) -> Row:
    """How much more one endpoint costs at *n* Services than at the smallest N."""
    ratio = change_ms(largest) / change_ms(smallest)
    return Row("endpoint replaced, against the smallest N", n, ratio, "x", GROWTH_BAR)


def floor_rows(n: int, raw: Raw) -> Iterator[Row]:
    """The floor, our programming, and their ratio."""
    yield Row("floor: packed messages sent", n, floor_s(raw), "s")
    for part in raw["floor_parts"][0]:
        yield Row(f"  of it {part}", n, _median(raw["floor_parts"], part), "s")
    yield Row("programming (kernel.apply of the first plan)", n, median(raw["programming"]), "s")
    yield Row("  of it iptables-restore", n, median(raw["tables"]), "s")
    ratio = median(raw["programming"]) / floor_s(raw)
    yield Row("programming against the floor", n, ratio, "x", PROGRAMMING_BAR if n == LARGE else None)
    netlink = (ours_s - tables_s for ours_s, tables_s in zip(raw["programming"], raw["tables"], strict=True))
    yield Row("  without iptables-restore", n, median(netlink) / floor_s(raw), "x")


def floor_s(raw: Raw) -> float:
    """The floor."""
    return float(median(raw["floor"]))


def change_ms(raw: Raw) -> float:
    """The median of one endpoint replaced."""
    return float(median(raw["endpoint"]))


def _cold_bar_s(n: int, floor_s: float | None) -> float | None:
    bar_s = COLD_FLOORS * floor_s + COLD_EXTRA_S if floor_s is not None and n == LARGE else None
    return FIRST_SYNC_BARS_S.get(n, bar_s)


def _phases(n: int, runs: Sequence[Raw]) -> Iterator[Row]:
    yield Row("  of it until the log begins", n, _median(runs, "begins_s"), "s")
    yield Row("  of it making ready, and reading the lists", n, _median(runs, "lists_s"), "s")
    for phase in ("compile", "plan", "apply"):
        yield Row(f"  of it {phase}", n, _median(runs, f"{phase}_ms") / 1e3, "s")


def _pages(n: int, runs: Sequence[Raw], page_us: float) -> Row:
    """The kernel's part for memory, as many pages as were touched first times what one takes by itself."""
    return Row("  of it touching new memory, about", n, _median(runs, "faults") * page_us / 1e6, "s")


def _memory(n: int, runs: Sequence[Raw], sort: str) -> Iterator[Row]:
    bar_mb = MEMORY_BARS_MB.get(n)
    yield Row(f"  memory after the first sync, {sort}", n, max(run["rss_bytes"] for run in runs) / MEGA, "MB", bar_mb)
    yield Row(f"  peak memory, {sort}", n, max(run["peak_bytes"] for run in runs) / MEGA, "MB")


def _median(runs: Sequence[Raw], name: str) -> float:
    return float(median(run[name] for run in runs))
