"""Convert raw figures of exact policies beside kube-proxy's to rows; the invariants are those of `figures`.

A figure of any Service is the mean of both kinds, weighed by their share: a median of all would be that of the kind
that is more frequent.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from bench import objects
from bench.figures import MEGA, Raw
from bench.rows import Row

POLICIES_BAR = 1.1  # cost with exact policies, relative to kube-proxy's
_LOCAL_SHARE = 1 / objects.LOCAL_EVERY
_CHANGES = {"endpoint replaced": "endpoint", "Service added": "added", "Service deleted": "deleted"}
_PHASES = ("compile", "plan", "apply")

_Pair = tuple[float, float]
"""A figure with kube-proxy's policies, and with exact ones."""


def policies_change_rows(n: int, raw: Mapping[str, Raw]) -> Iterator[Row]:
    """Yield the cost of a change at *n* Services, with both policies and their ratios."""
    for name, figure in _CHANGES.items():
        same, local = _medians(raw, figure), _medians(raw, f"local {figure}")
        of_any = _weighed(same[0], local[0]), _weighed(same[1], local[1])
        yield from _compared(f"policies: {name}, any Service", n, of_any, "ms", POLICIES_BAR)
        yield _ratio("  ratio, Services with the same rows", n, same)
        yield _ratio("  ratio, Services with externalTrafficPolicy Local", n, local)
    yield from _compared("policies: rows", n, _medians(raw, "rows"), "")


def policies_start_rows(n: int, raw: Mapping[str, Sequence[Raw]]) -> Iterator[Row]:
    """Yield a cold start at *n* Services, with both policies and their ratios."""
    by_figure = {mode: {figure: [run[figure] for run in runs] for figure in runs[0]} for mode, runs in raw.items()}
    yield from _compared("policies: cold start", n, _medians(by_figure, "seconds"), "s", POLICIES_BAR)
    for phase in _PHASES:
        yield _ratio(f"  ratio of {phase}", n, _medians(by_figure, f"{phase}_ms"))
    memory = max(by_figure["kube-proxy"]["rss_bytes"]) / MEGA, max(by_figure["exact"]["rss_bytes"]) / MEGA
    yield from _compared("policies: memory after the first sync", n, memory, "MB")


def policies_connection_rows(n: int, raw: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[Row]:
    """Yield the new connections a second of a pod of the node, by frontend.

    The frontend at a load balancer's address is reached by mark with exact policies, every other one by its address.
    """
    for name in raw["exact"]:
        yield from _compared(f"policies: connections a second, {name}", n, _medians(raw, name), "")


def _compared(measure: str, n: int, pair: _Pair, unit: str, bar: float | None = None) -> Iterator[Row]:
    yield Row(f"{measure}, kube-proxy", n, pair[0], unit)
    yield Row(f"{measure}, exact", n, pair[1], unit)
    yield _ratio("  ratio", n, pair, bar)


def _ratio(measure: str, n: int, pair: _Pair, bar: float | None = None) -> Row:
    return Row(measure, n, pair[1] / pair[0], "x", bar)


def _weighed(same: float, local: float) -> float:
    return (1 - _LOCAL_SHARE) * same + _LOCAL_SHARE * local


def _medians(raw: Mapping[str, Raw], figure: str) -> _Pair:
    return float(median(raw["kube-proxy"][figure])), float(median(raw["exact"][figure]))
