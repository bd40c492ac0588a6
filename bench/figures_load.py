"""Convert raw figures of the lab to rows with their limits: lasting load, full compare, idle, and kube-proxy itself.

The invariants are those of `figures`.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from bench.figures import MEGA, MEMORY_BARS_MB, Raw
from bench.rows import Row

CHURN_SHARE_BAR, CHURN_LATENCY_BAR_MS = 60.0, 100.0
CHURN_GROWTH_BAR = 10.0  # more changes wait in the last quarter than in the first: the changes of 10 ms
CHURN_LATE_BAR_S = 0.1  # after the last change was due
ROLLOUT_BAR = 1.3  # cost of a pod among many, relative to one among few; 4 would be quadratic
CONTESTED_BAR = 1.5  # cost of an endpoint where two Services name one address, relative to an address for each
ASKED_BAR_S, TRACE_BAR_S, PAUSE_BAR_MS = 0.5, 0.3, 20.0
COMPARE_BAR, COMPARE_TURN_BAR_MS = 2.0, 100.0
IDLE_BARS_PERCENT = {100: 0.5, 10_000: 8.0}  # of a core, by Services
HELP_BAR_S = 0.2


def churn_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield 1,000 endpoints replaced per second."""
    yield Row("churn: changes at 1,000 a second", n, raw["changes"], "")
    yield Row("  last change done, after it was due", n, raw["late_s"], "s", CHURN_LATE_BAR_S)
    yield Row("  queue growth, last quarter minus first", n, raw["growth"], "", CHURN_GROWTH_BAR)
    yield Row("  busy", n, raw["share"] * 100, "%", CHURN_SHARE_BAR)
    yield Row("    of it in sends (kernel)", n, raw["kernel_share"] * 100, "%")
    yield Row("  latency, median", n, raw["p50_ms"], "ms")
    yield Row("  latency, p99", n, raw["p99_ms"], "ms", CHURN_LATENCY_BAR_MS)
    yield Row("  latency, worst", n, raw["worst_ms"], "ms")
    yield Row("  full compares in that time", n, raw["compares"], "")


def churn_new_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield the same with new addresses only; the cost is the kernel's, so there is no limit."""
    yield Row("churn with new addresses only: changes", n, raw["changes"], "")
    yield Row("  last change done, after it was due", n, raw["late_s"], "s")
    yield Row("  busy", n, raw["share"] * 100, "%")
    yield Row("    of it in sends (kernel)", n, raw["kernel_share"] * 100, "%")
    yield Row("  latency, median", n, raw["p50_ms"], "ms")
    yield Row("  latency, p99", n, raw["p99_ms"], "ms")


def rollout_rows(raw: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """Yield the cost of each pod of a rollout; n is the number of pods of the Service."""
    sizes = sorted(map(int, raw))
    for pods in sizes:
        yield Row("rollout of one Service of n pods, each pod", pods, median(raw[str(pods)]), "ms")
    few, many = sizes[0], sizes[-1]
    ratio = median(raw[str(many)]) / median(raw[str(few)])
    yield Row(f"  ratio to {few} pods", many, ratio, "x", ROLLOUT_BAR)


def contested_rows(ports: int, raw: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """Yield the cost of an endpoint of a Service of many ports; n is their number."""
    apart, contested = median(raw["apart"]), median(raw["contested"])
    yield Row("endpoint replaced, Service of n ports, two addresses each", ports, apart, "ms")
    yield Row("  all ports of one address contested", ports, contested, "ms")
    yield Row("  ratio", ports, contested / apart, "x", CONTESTED_BAR)


def asked_rows(n: int, raw: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """Yield the commands that ask the agent, from their start to their end, and what that costs the agent."""
    for name in ("status", "status of one", "explain"):
        yield Row(f"kubeproxy-py {name}, asked of the agent", n, median(raw[name]), "s", ASKED_BAR_S)
    yield Row("kubeproxy-py trace, asked of the agent", n, median(raw["trace"]), "s", TRACE_BAR_S)
    yield Row("  longest pause of the loop", n, max(raw["pause"]) * 1e3, "ms", PAUSE_BAR_MS)
    yield Row("  memory of the agent, more than before", n, (raw["rss_after"][0] - raw["rss_before"][0]) / MEGA, "MB")


def drift_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield the full compare, and the dump of the kernel's state only."""
    yield Row("full compare, no drift", n, median(raw["compare"]), "s")
    yield Row("  dump only", n, median(raw["dump"]), "s")
    for part in raw["dump_parts"][0]:
        yield Row(f"    of it {part}", n, median(parts[part] for parts in raw["dump_parts"]), "s")
    yield Row("  ratio to dump only", n, median(raw["compare"]) / median(raw["dump"]), "x", COMPARE_BAR)
    yield Row("  longest delay of an event", n, max(raw["longest"]) * 1e3, "ms", COMPARE_TURN_BAR_MS)
    yield Row("  first full compare, without fingerprints", n, raw["first"], "s")
    yield Row("    longest delay of an event", n, raw["first_longest"] * 1e3, "ms", COMPARE_TURN_BAR_MS)


def idle_rows(n: int, raw: Raw) -> Iterator[Row]:
    """Yield the CPU share while nothing happens."""
    share = raw["own_share"] + raw["children_share"]
    yield Row("idle", n, share * 100, "%", IDLE_BARS_PERCENT.get(n))
    yield Row("  of it iptables-save", n, raw["children_share"] * 100, "%")
    yield Row("  CPU until then, with the first full compare", n, raw["settling_s"], "s")
    yield Row("  memory", n, raw["rss_bytes"] / MEGA, "MB", MEMORY_BARS_MB.get(n))


def help_row(seconds: Sequence[float]) -> Row:
    """Return the time of `--help` on the host."""
    return Row("kubeproxy-py --help, on the host", 0, median(seconds), "s", HELP_BAR_S)


def beside_rows(n: int, raw: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[Row]:
    """Yield kube-proxy and kubeproxy-py, measured from outside."""
    for name, figures in raw.items():
        yield Row(f"side by side: {name}, exec to all programmed", n, median(figures["started"]), "s")
        yield Row(f"side by side: {name}, endpoint written to replaced", n, median(figures["changed"]), "s")
        yield Row(f"side by side: {name}, new Service written to programmed", n, median(figures["added"]), "s")
        yield Row(f"side by side: {name}, memory at the end", n, max(figures["rss_bytes"]) / MEGA, "MB")


def takeover_rows(n: int, raw: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    """Yield what a take-over under traffic did, for each direction; the agent may break and change nothing."""
    for direction, figures in raw.items():
        bar = 0 if direction.partition(" to ")[2].startswith("kubeproxy-py") else None
        yield Row(f"take-over, {direction}: new connections", n, figures["connections"], "")
        yield Row("  of them failed", n, figures["failed"], "", 0)
        yield Row("  long connections broken", n, figures["long_broken"], "", 0)
        yield Row("  kernel objects", n, figures["objects"], "")
        yield Row("    of them changed", n, figures["changed"], "", bar)
        yield Row("  end of the one to the first change by the other", n, figures["followed_s"], "s")
