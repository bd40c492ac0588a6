"""Recorder: notices in, writes to the API server out.

Law: pure, it is told the time; and what it asks of the API server is bounded, whatever it is told.  A notice that
comes again within six minutes makes no second Event but a series of the first: the second time is written at once,
those after it half-hourly and when the series ends.  Each object has 25 writes to begin with and one more every five
minutes; what goes beyond is not written.

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
SERIES_NS = 360 * NS_PER_S  # after that long without another, a series is over
REFRESH_NS = 1800 * NS_PER_S  # API servers forget an Event an hour after it was last written
BURST, TOKEN_NS = 25, 300 * NS_PER_S
KNOWN_MAX = 1024  # notices, and objects, that are remembered: less than 1 MiB
_NOTE_MAX_BYTES, _INSTANCE_MAX = 1024, 128
_NAME_MAX = 253 - 1 - 16  # of a DNS subdomain, a dot and 64 bits in hexadecimal
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Series(Struct):
    """A notice that is not over: when it was first and last told, and how often."""

    stamp: int  # makes the Event's name unique
    first_ns: int
    last_ns: int
    written_ns: int
    count: int = 1
    written: int = 1  # the count that the API server was told


class _Allowance(Struct):
    tokens: float
    at_ns: int


class Recorder:
    """What the API server is to know.  Times are in ns since 1970; *host* is the name of this host."""

    def __init__(self, host: str) -> None:
        self._instance = f"{CONTROLLER}-{host}"[:_INSTANCE_MAX]
        self._known: dict[KubeEvent, _Series] = {}
        self._allowances: dict[Regarding, _Allowance] = {}
        self._last_stamp = 0
        self.due_ns = NEVER_NS

    def take(self, notice: KubeEvent, now_ns: int) -> list[EventWrite]:
        """*notice* was told at *now_ns*."""
        writes = self.turn(now_ns)
        series = self._known.get(notice)
        if series:
            series.count += 1
            series.last_ns = max(series.last_ns, now_ns)
            if series.count == 2 and self._may_write(notice.regarding, now_ns):
                writes.append(self._update(notice, series, now_ns))
        elif self._may_write(notice.regarding, now_ns):
            writes += [*self._make_room(now_ns), self._create(notice, now_ns)]
        return writes

    def turn(self, now_ns: int) -> list[EventWrite]:
        """What is to be written by now without another notice; ``due_ns`` says when there may be more."""
        if now_ns < self.due_ns:
            return []
        writes = []
        for notice, series in list(self._known.items()):
            if series.last_ns + SERIES_NS <= now_ns:
                writes += self._finish(notice, now_ns)
            elif series.count > 1 and series.written_ns + REFRESH_NS <= now_ns:
                writes.append(self._update(notice, series, now_ns))
        self.due_ns = min((_due_ns(series) for series in self._known.values()), default=NEVER_NS)
        return writes

    def _create(self, notice: KubeEvent, now_ns: int) -> EventWrite:
        self._last_stamp = max(now_ns, self._last_stamp + 1)
        series = _Series(self._last_stamp, now_ns, now_ns, now_ns)
        self._known[notice] = series
        self.due_ns = min(self.due_ns, _due_ns(series))
        return self._write(notice, series)

    def _update(self, notice: KubeEvent, series: _Series, now_ns: int) -> EventWrite:
        series.written, series.written_ns = series.count, now_ns
        return self._write(notice, series)

    def _finish(self, notice: KubeEvent, now_ns: int) -> list[EventWrite]:
        """Forget *notice*; the last word on how often it was seen, if that is news."""
        series = self._known.pop(notice)
        return [self._update(notice, series, now_ns)] if series.count > series.written else []

    def _make_room(self, now_ns: int) -> list[EventWrite]:
        return self._finish(next(iter(self._known)), now_ns) if len(self._known) >= KNOWN_MAX else []

    def _may_write(self, regarding: Regarding, now_ns: int) -> bool:
        """Whether the object has a write left, which is then used up."""
        allowance = self._allowances.pop(regarding, None) or _Allowance(BURST, now_ns)
        elapsed_ns = max(0, now_ns - allowance.at_ns)  # clocks are set back
        allowance.tokens = min(BURST, allowance.tokens + elapsed_ns / TOKEN_NS)
        allowance.at_ns = now_ns
        self._allowances[regarding] = allowance  # as the newest
        if len(self._allowances) > KNOWN_MAX:
            del self._allowances[next(iter(self._allowances))]
        if allowance.tokens < 1:
            return False
        allowance.tokens -= 1
        return True

    def _write(self, notice: KubeEvent, series: _Series) -> EventWrite:
        about = notice.regarding
        name = f"{about.name[:_NAME_MAX]}.{series.stamp:x}"
        namespace = about.namespace or "default"  # where Events of objects without a namespace live
        seen = {"series": {"count": series.count, "lastObservedTime": _time(series.last_ns)}}
        is_series = series.count > 1
        fields = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _time(series.first_ns),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            **dict(_content(notice)),
            **(seen if is_series else {}),
        }
        return EventWrite(namespace, name, json.encode(fields), json.encode(seen) if is_series else b"")


def _content(notice: KubeEvent) -> Iterator[tuple[str, Any]]:
    about = notice.regarding
    namespace = {"namespace": about.namespace} if about.namespace else {}
    yield "type", notice.type
    yield "reason", notice.reason
    yield "action", notice.action
    yield "regarding", {"kind": about.kind, "name": about.name, "uid": about.uid, **namespace}
    # A sentence that was cut says more than an Event that is refused.
    yield "note", notice.note.encode()[:_NOTE_MAX_BYTES].decode(errors="ignore")


def _due_ns(series: _Series) -> int:
    ends_ns = series.last_ns + SERIES_NS
    return min(ends_ns, series.written_ns + REFRESH_NS) if series.count > 1 else ends_ns


def _time(at_ns: int) -> str:
    """*at_ns* as the API's MicroTime: RFC 3339 with six digits of a second."""
    return f"{_EPOCH + timedelta(microseconds=at_ns // 1000):%Y-%m-%dT%H:%M:%S.%f}Z"
