"""Recorder: decides which writes to the API server follow from published Kubernetes Events.

Invariants:
- It has no clock and no I/O; the caller passes the time.
- The writes are bounded however many Events are published: each object has 25 writes to begin with and one more every
  five minutes; what exceeds them is not written.
- The same Event within six minutes does not create a second Event but makes the first a series.  The second occurrence
  is written at once, later ones every half hour and when the series ends.

Source: client-go, tools/events (series: 6 min, 30 min) and tools/record (the spam filter: 25, 1 in 300 s); limits of
the fields: kube-apiserver, pkg/apis/core/validation/events.go.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct, json

from kubeproxy_py.events.kube_events import EventWrite, KubeEvent, Regarding

CONTROLLER = "kube-proxy"
NS_PER_S = 10**9
NEVER_NS = 1 << 63
SERIES_NS = 360 * NS_PER_S  # a series ends that long after its last occurrence
REFRESH_NS = 1800 * NS_PER_S  # API servers delete an Event an hour after it was last written
BURST, TOKEN_NS = 25, 300 * NS_PER_S
KNOWN_MAX = 1024  # Events, and objects, that are remembered: less than 1 MiB
_NOTE_MAX_BYTES, _INSTANCE_MAX = 1024, 128
_NAME_MAX = 253 - 1 - 16  # of a DNS subdomain, a dot and 64 bits in hexadecimal
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Series(Struct):
    """An Event that may still occur again.  Times are in ns since 1970."""

    stamp: int  # makes the Event's name unique
    first_ns: int
    last_ns: int
    written_ns: int
    count: int = 1
    written: int = 1  # the count that was last written


class _Allowance(Struct):
    """A token bucket: the writes that an object has left."""

    tokens: float
    at_ns: int  # when the tokens were counted


class Recorder:
    """Aggregates Events into series and limits the writes per object.

    Attributes:
        due_ns: When due_writes may have something to write, in ns since 1970.
    """

    def __init__(self, host: str) -> None:
        self._instance = f"{CONTROLLER}-{host}"[:_INSTANCE_MAX]
        self._series: dict[KubeEvent, _Series] = {}
        self._allowances: dict[Regarding, _Allowance] = {}
        self._last_stamp = 0
        self.due_ns = NEVER_NS

    def record(self, event: KubeEvent, now_ns: int) -> list[EventWrite]:
        """Record that *event* was published at *now_ns*; return the writes that are due now."""
        writes = self.due_writes(now_ns)
        series = self._series.get(event)
        if series:
            series.count += 1
            series.last_ns = max(series.last_ns, now_ns)
            if series.count == 2 and self._use_token(event.regarding, now_ns):  # noqa: PLR2004 - the second occurrence
                writes.append(self._update(event, series, now_ns))
        elif self._use_token(event.regarding, now_ns):
            writes += [*self._make_room(now_ns), self._create(event, now_ns)]
        return writes

    def due_writes(self, now_ns: int) -> list[EventWrite]:
        """Return the refreshes and final counts of series that are due by *now_ns*, and set ``due_ns``."""
        if now_ns < self.due_ns:
            return []
        writes = []
        for event, series in list(self._series.items()):
            if series.last_ns + SERIES_NS <= now_ns:
                writes += self._finish(event, now_ns)
            elif series.count > 1 and series.written_ns + REFRESH_NS <= now_ns:
                writes.append(self._update(event, series, now_ns))
        self.due_ns = min((_due_ns(series) for series in self._series.values()), default=NEVER_NS)
        return writes

    def _create(self, event: KubeEvent, now_ns: int) -> EventWrite:
        self._last_stamp = max(now_ns, self._last_stamp + 1)
        series = _Series(self._last_stamp, now_ns, now_ns, now_ns)
        self._series[event] = series
        self.due_ns = min(self.due_ns, _due_ns(series))
        return self._write(event, series)

    def _update(self, event: KubeEvent, series: _Series, now_ns: int) -> EventWrite:
        series.written, series.written_ns = series.count, now_ns
        return self._write(event, series)

    def _finish(self, event: KubeEvent, now_ns: int) -> list[EventWrite]:
        """End the series of *event*; return the write of its final count, unless that was written."""
        series = self._series.pop(event)
        return [self._update(event, series, now_ns)] if series.count > series.written else []

    def _make_room(self, now_ns: int) -> list[EventWrite]:
        """End the oldest series if too many are remembered."""
        return self._finish(next(iter(self._series)), now_ns) if len(self._series) >= KNOWN_MAX else []

    def _use_token(self, regarding: Regarding, now_ns: int) -> bool:
        """Use up one write of the object, and return whether it had one left."""
        allowance = self._allowances.pop(regarding, None) or _Allowance(BURST, now_ns)
        elapsed_ns = max(0, now_ns - allowance.at_ns)  # the clock may have been set back
        allowance.tokens = min(BURST, allowance.tokens + elapsed_ns / TOKEN_NS)
        allowance.at_ns = now_ns
        self._allowances[regarding] = allowance  # inserted last: the oldest is first
        if len(self._allowances) > KNOWN_MAX:
            del self._allowances[next(iter(self._allowances))]
        if allowance.tokens < 1:
            return False
        allowance.tokens -= 1
        return True

    def _write(self, event: KubeEvent, series: _Series) -> EventWrite:
        regarding = event.regarding
        name = f"{regarding.name[:_NAME_MAX]}.{series.stamp:x}"
        namespace = regarding.namespace or "default"  # of Events about objects that have no namespace
        series_fields = {"series": {"count": series.count, "lastObservedTime": _micro_time(series.last_ns)}}
        is_series = series.count > 1
        fields = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _micro_time(series.first_ns),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            **dict(_event_fields(event)),
            **(series_fields if is_series else {}),
        }
        return EventWrite(namespace, name, json.encode(fields), json.encode(series_fields) if is_series else b"")


def _event_fields(event: KubeEvent) -> Iterator[tuple[str, Any]]:
    regarding = event.regarding
    namespace = {"namespace": regarding.namespace} if regarding.namespace else {}
    yield "type", event.type
    yield "reason", event.reason
    yield "action", event.action
    yield "regarding", {"kind": regarding.kind, "name": regarding.name, "uid": regarding.uid, **namespace}
    # The API server rejects a longer note; a truncated one is better than none.
    yield "note", event.note.encode()[:_NOTE_MAX_BYTES].decode(errors="ignore")


def _due_ns(series: _Series) -> int:
    """Return when *series* ends or is refreshed, whichever is first."""
    ends_ns = series.last_ns + SERIES_NS
    return min(ends_ns, series.written_ns + REFRESH_NS) if series.count > 1 else ends_ns


def _micro_time(at_ns: int) -> str:
    """Return *at_ns* as the API's MicroTime: RFC 3339 with six digits of a second."""
    return f"{_EPOCH + timedelta(microseconds=at_ns // 1000):%Y-%m-%dT%H:%M:%S.%f}Z"
