"""Print Events of the API as ``kubectl get events`` does.

Source: kubernetes, pkg/printers/internalversion (printEvent); k8s.io/cli-runtime/pkg/printers (tabwriter: at least 6
wide, 3 apart); k8s.io/apimachinery/pkg/util/duration (HumanDuration).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

_HEADER = ("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE")
_WIDTH_MIN, _GAP = 6, 3


def get_events(items: Iterable[Json], now: datetime | None = None) -> str:
    """Return the table of *items*, in their order."""
    rows: list[Sequence[str]] = [_HEADER, *(_cells(item, now or datetime.now(UTC)) for item in items)]
    widths = [max(_WIDTH_MIN, *(len(row[column]) + _GAP for row in rows)) for column in range(len(_HEADER) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) + "\n" for row in rows
    )


def _cells(item: Json, now: datetime) -> tuple[str, ...]:
    regarding = item["regarding"]
    seen = item["series"]["lastObservedTime"] if item.get("series") else item["eventTime"]
    target = f"{regarding['kind'].lower()}/{regarding['name']}"
    return _ago(now - datetime.fromisoformat(seen)), item["type"], item["reason"], target, item["note"].strip()


def _ago(elapsed: Any) -> str:
    seconds = int(elapsed.total_seconds())
    if seconds < 120:
        return f"{max(0, seconds)}s"
    minutes, rest_s = divmod(seconds, 60)
    if minutes < 10:
        return f"{minutes}m{rest_s}s" if rest_s else f"{minutes}m"
    return f"{minutes}m" if minutes < 180 else f"{minutes // 60}h"
