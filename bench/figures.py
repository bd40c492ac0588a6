"""Convert raw figures of the lab to rows with their limits ("bar"): starts, changes and the floor.

The floor is the time in which the kernel carries out the messages of a first sync that are already encoded.

Invariants:
  - A figure is the median of its repeats, "worst" the largest of them.
  - Ratios are of medians that were measured alternately.
  - Limits are the performance targets of this project (docs/performance.md); a figure without one is printed as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.rows import Row

Raw = Mapping[str, Any]
"""The figures that `bench.inside` printed."""

COLD_FLOORS, COLD_EXTRA_S = 4.0, 1.0  # limit of a cold start: so many floors, plus so many seconds
PROGRAMMING_BAR = 1.5  # times the floor
WARM_BAR_S = 4.0
GROWTH_BAR = 1.3  # a change at the largest N against one at the smallest
ENDPOINT_BAR_MS, ENDPOINT_WORST_BAR_MS = 2.0, 20.0
SERVICE_BAR_MS = 3.0
MEMORY_BARS_MB = {100: 60.0, 10_000: 200.0}  # by Services
FIRST_SYNC_BARS_S = {10: 1.5}
OFFLINE_BARS_S = {100: 1.0, 1000: 1.0}
LARGE = 10_000  # Services; the limits of starts are for this number
MEGA = 1e6


def machine_rows(raw: Raw) -> Iterator[Row]:
    """Yield the costs of this kernel's basic operations, which determine all other figures."""
    yield Row("this kernel: a system call", 0, raw["call_us"], "us")
    yield Row("this kernel: first touch of a memory page", 0, raw["page_us"], "us")
    yield Row("this kernel: start of /bin/true", 0, raw["program_ms"], "ms")
    yield Row("this kernel: start of Python", 0, raw["python_ms"], "ms")


def start_rows(n: int, raw: Raw, floor_s: float | None, page_us: float) -> Iterator[Row]:
    """Yield cold and warm start from a manifest folder, and the memory after each.

    Args:
        n: Number of Services.
        raw: Raw figures.
        floor_s: The floor for *n* Services, if it was measured.
        page_us: Time of the first touch of a memory page.
    """
    yield Row("cold start, exec to all programmed", n, _median(raw["cold"], "seconds"), "s", _cold_bar_s(n, floor_s))
    yield from _phases(n, raw["cold"])
    yield _pages(n, raw["cold"], page_us)
    yield from _memory(n, raw["cold"], "cold")
    warm_bar_s = WARM_BAR_S if n == LARGE else None
    yield Row("warm start, exec to first sync", n, _median(raw["warm"], "seconds"), "s", warm_bar_s)
    yield _pages(n, raw["warm"], page_us)
    yield from _memory(n, raw["warm"], "warm")


def api_rows(n: int, raw: Raw, floor_s: float | None, page_us: float) -> Iterator[Row]:
    """Yield the cold start from an API server on the same CPU; the limit is for the time without the server's CPU."""
    own_s = median(run["seconds"] - run["server_s"] for run in raw["cold"])
    yield Row("cold start from an API server", n, _median(raw["cold"], "seconds"), "s")
    yield Row("  of it the API server's CPU", n, _median(raw["cold"], "server_s"), "s")
    yield Row("  without the API server's CPU", n, own_s, "s", _cold_bar_s(n, floor_s))
    yield from _phases(n, raw["cold"])
    yield _pages(n, raw["cold"], page_us)
    yield from _memory(n, raw["cold"], "cold, API server")


def offline_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield the start from saved objects, while the API server refuses connections."""
    yield Row(
        "offline start, exec to all programmed", n, _median(raw["offline"], "seconds"), "s", OFFLINE_BARS_S.get(n)
    )
    yield from _phases(n, raw["offline"])


def change_rows(n: int, raw: Raw, single: Raw) -> Iterator[Row]:
    """Yield one endpoint replaced, one Service added and deleted, and the notification of its address.

    *raw* was measured alternately with other N in one kernel, for their ratio; *single* in a kernel with only this N.
    """
    yield Row("endpoint replaced, median", n, change_ms(raw), "ms", ENDPOINT_BAR_MS)
    worst_name = f"endpoint replaced, worst of {len(raw['endpoint'])}"
    yield Row(worst_name, n, max(raw["endpoint"]), "ms", ENDPOINT_WORST_BAR_MS)
    yield Row("endpoint replaced, 500 in a row, each", n, single["row"][0], "ms")
    yield Row("  CPU", n, single["cpu"][0], "ms", ENDPOINT_BAR_MS)
    for name in ("added", "deleted"):
        yield Row(f"Service {name}, median", n, median(single[name]), "ms")
        yield Row(f"Service {name}, worst", n, max(single[name]), "ms")
    yield Row("Service added or deleted, 200 in a row, each", n, single["service_row"][0], "ms")
    yield Row("  CPU", n, single["service_cpu"][0], "ms", SERVICE_BAR_MS)
    yield Row("    in sends (kernel)", n, single["service_sends"][0], "ms")
    yield Row("address notification, median", n, median(single["echo"]), "ms")


def growth_row(smallest: Raw, largest: Raw, n: int) -> Row:
    """Return the cost of one endpoint at *n* Services, relative to that at the smallest N."""
    ratio = change_ms(largest) / change_ms(smallest)
    return Row("endpoint replaced, ratio to the smallest N", n, ratio, "x", GROWTH_BAR)


def floor_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield the floor, the agent's programming, and their ratio."""
    yield Row("floor: packed messages sent", n, floor_s(raw), "s")
    for part in raw["floor_parts"][0]:
        yield Row(f"  of it {part}", n, _median(raw["floor_parts"], part), "s")
    yield Row("programming (kernel.apply of the first plan)", n, median(raw["programming"]), "s")
    yield Row("  of it iptables-restore", n, median(raw["tables"]), "s")
    ratio = median(raw["programming"]) / floor_s(raw)
    yield Row("programming, ratio to the floor", n, ratio, "x", PROGRAMMING_BAR if n == LARGE else None)
    netlink = (total_s - tables_s for total_s, tables_s in zip(raw["programming"], raw["tables"], strict=True))
    yield Row("  without iptables-restore", n, median(netlink) / floor_s(raw), "x")


def floor_s(raw: Raw) -> float:
    """Return the median of the floor."""
    return float(median(raw["floor"]))


def change_ms(raw: Raw) -> float:
    """Return the median of one endpoint replaced."""
    return float(median(raw["endpoint"]))


def _cold_bar_s(n: int, floor_s: float | None) -> float | None:
    bar_s = COLD_FLOORS * floor_s + COLD_EXTRA_S if floor_s is not None and n == LARGE else None
    return FIRST_SYNC_BARS_S.get(n, bar_s)


def _phases(n: int, runs: Sequence[Raw]) -> Iterator[Row]:
    yield Row("  of it until the first log line", n, _median(runs, "begins_s"), "s")
    yield Row("  of it setup, and reading the lists", n, _median(runs, "lists_s"), "s")
    for phase in ("compile", "plan", "apply"):
        yield Row(f"  of it {phase}", n, _median(runs, f"{phase}_ms") / 1e3, "s")


def _pages(n: int, runs: Sequence[Raw], page_us: float) -> Row:
    """Estimate the kernel's cost of new memory: the number of pages touched first, times the cost of one."""
    return Row("  of it first touch of new memory, estimated", n, _median(runs, "faults") * page_us / 1e6, "s")


def _memory(n: int, runs: Sequence[Raw], start: str) -> Iterator[Row]:
    bar_mb = MEMORY_BARS_MB.get(n)
    yield Row(f"  memory after the first sync, {start}", n, max(run["rss_bytes"] for run in runs) / MEGA, "MB", bar_mb)
    yield Row(f"  peak memory, {start}", n, max(run["peak_bytes"] for run in runs) / MEGA, "MB")


def _median(runs: Sequence[Raw], name: str) -> float:
    return float(median(run[name] for run in runs))
