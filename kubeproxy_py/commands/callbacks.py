"""Callbacks: functions that are called with what the agent finds, and with the report of each sync."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py import threads
from kubeproxy_py.kernel import Scope
from kubeproxy_py.kernel.worker import Worker
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.rows import Key
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.reconcile.report import Report

OnAside = Callable[[int, int], None]
"""Called with the number of endpoints that are set aside now, and of those that were since the last call."""

OnUnserved = Callable[[Mapping[str, int]], None]
"""Called with the number of Service ports that no endpoint serves, by reason, when it changes."""

OnReport = Callable[[Report], None]

_Argument = TypeVar("_Argument")


class Callbacks(Struct, frozen=True, gc=False):
    """What is called with what an agent finds; by default nothing."""

    on_disputed: Callable[[Collection[Key]], None] = lambda _keys: None
    """Called with rows that drift again each time after they were repaired."""
    on_marks: Callable[[Collection[Scope]], None] = lambda _suspects: None
    """Called whenever the marks of the kernel are read, with the scopes that are suspect."""
    on_compiled: Callable[[Collection[ServiceName]], None] = lambda _names: None
    """Called with the Services of each sync, after it."""
    on_unserved: OnUnserved = lambda _counts: None
    on_aside: OnAside = lambda _now, _new: None


# Of what the agent finds


def unserved_recorder(registry: MetricsRegistry) -> OnUnserved:
    """Return a callback that records the number of Service ports that no endpoint serves, by reason."""

    def record(counts: Mapping[str, int]) -> None:
        with registry.batch():
            for reason, count in counts.items():
                registry.set("kubeproxy_ipvs_unserved_service_ports", count, reason)

    return record


def aside_recorder(registry: MetricsRegistry) -> OnAside:
    """Return a callback that records the number of endpoints that are set aside."""
    total = "kubeproxy_ipvs_endpoints_set_aside_total"
    registry.inc(total, amount=0)
    registry.set("kubeproxy_ipvs_endpoints_set_aside", 0)

    def record(now: int, new: int) -> None:
        with registry.batch():
            registry.set("kubeproxy_ipvs_endpoints_set_aside", now)
            registry.inc(total, amount=new)

    return record


# Of reports


def call_each(*callbacks: Callable[[_Argument], None]) -> Callable[[_Argument], None]:
    """Return a callback that calls each of *callbacks*."""

    def call_each(argument: _Argument) -> None:
        for callback in callbacks:
            callback(argument)

    return call_each


def settle(rules: Worker | None) -> OnReport:
    """Return a callback that has *rules* wait less from the first sync on."""

    def on_report(_report: Report) -> None:
        if rules:
            rules.settle()

    return on_report


def once(name: str, action: Callable[[], None]) -> OnReport:
    """Return a callback that runs *action* after the first sync, in a thread called *name*."""
    pending = [action]

    def on_report(_report: Report) -> None:
        if pending:
            threads.start_task(name, pending.pop())

    return on_report
