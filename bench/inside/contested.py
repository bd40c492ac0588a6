"""One endpoint replaced in a Service of many ports whose externalIP another Service names too, at the same ports.

Loop, agent and kernel are the product's and get values.  The same is measured with an address for each Service,
alternately in one boot, each time in a new namespace.  The endpoints of both Services are replaced in turn: that of the
one that has the address, and that of the other.
"""

import time
from collections.abc import Sequence

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.reconcile.report import Report, StaleFlowReport
from kubeproxy_py.sources import FEEDS

_CHANGES = 4  # of each Service

_ADDRESSES = {"contested": ("203.0.113.1", "203.0.113.1"), "apart": ("203.0.113.1", "203.0.113.2")}


def measure(ports: int, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds for each endpoint replaced, with one address and with two, *repeats* times."""
    _change_ms(10, _ADDRESSES["apart"])  # not counted: the first one runs with cold caches
    figures: dict[str, list[float]] = {name: [] for name in _ADDRESSES}
    for _ in range(repeats):
        for name, addresses in _ADDRESSES.items():
            figures[name].append(_change_ms(ports, addresses))
    return figures


def _change_ms(ports: int, addresses: Sequence[str]) -> float:
    with fresh_namespace():
        measured = agent.make_agent(_must_succeed, observer=agent.make_observer())
        events: list[Event] = [
            event
            for number, address in enumerate(addresses)
            for event in (
                ServiceUpserted(objects.many_ports(number, ports, address)),
                SliceUpserted(objects.many_ports_slice(number, ports)),
            )
        ]
        for event in (*events, *map(Synced, FEEDS)):
            measured.loop.enqueue(event)
        measured.loop.run_cycle()
        changes = [
            SliceUpserted(objects.many_ports_slice(number, ports, replaced=turn % 2))
            for turn in range(1, _CHANGES + 1)
            for number in range(len(addresses))
        ]
        began_s = time.perf_counter()
        for change in changes:
            measured.loop.enqueue(change)
            measured.loop.run_cycle()
        took_s = time.perf_counter() - began_s
        measured.parts.kernel.close()
        return took_s * 1e3 / len(changes)


def _must_succeed(report: Report) -> None:
    assert isinstance(report, StaleFlowReport) or not report.failures, report
