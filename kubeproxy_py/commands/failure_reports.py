"""FailureReports: log lines, Events and metrics about endpoints that are set aside, and that return.

Invariants:
- What is reported is what the desired rows have, not what checks found: more may fail than are set aside.
- A Service that asked for checks gets an Event of its own.  What --watch-nodes finds is one Event on the Node for each
  sync, because every node of the cluster finds it.
"""

import logging
from collections.abc import Collection, Iterable

from kubeproxy_py.commands.callbacks import OnAside
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.conditions import destination_of, set_aside_in
from kubeproxy_py.events.kube_events import Publish, endpoints_set_aside, nodes_silent
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import join_host_port

_NAMED_MAX = 5  # endpoints in one text

log = logging.getLogger(__name__)


class FailureReports:
    """Checks Services after *compiler* compiled them; costs nothing for those without failures."""

    def __init__(self, compiler: Compiler, publish: Publish, on_aside: OnAside) -> None:
        self._compiler = compiler
        self._publish = publish
        self._on_aside = on_aside
        self._aside: dict[ServiceName, frozenset[Destination]] = {}  # as it was reported last

    def check(self, names: Collection[ServiceName]) -> None:
        """Report what has changed of the compiled Services *names*."""
        conditions = self._compiler.cluster.conditions
        if not conditions and not self._aside:
            return  # nearly always
        new: dict[ServiceName, frozenset[Destination]] = {}
        for name in names:
            before, now = self._aside.pop(name, frozenset()), self._aside_of(name)
            if now:
                self._aside[name] = now
            if returned := before - now:
                log.info("Endpoints get new connections again", extra=values(service=name, endpoints=_joined(returned)))
            if now - before:
                new[name] = now - before
        self._report(new)
        self._on_aside(sum(map(len, self._aside.values())), sum(map(len, new.values())))

    def _report(self, new: dict[ServiceName, frozenset[Destination]]) -> None:
        of_nodes: list[str] = []
        services = 0
        for name, places in new.items():
            texts = self._texts(name, places)
            details = values(service=name, endpoints="; ".join(texts), total=len(places))
            log.warning("Set endpoints aside: they get no new connections until they answer", extra=details)
            service = self._compiler.cluster.services.get(name)
            if service and service.settings.health_check != "none":
                self._publish(endpoints_set_aside(name, self._compiler.context.node_name, texts))
            else:
                of_nodes += (f"{name} {text}" for text in texts)
                services += 1
        if of_nodes:
            self._publish(nodes_silent(self._compiler.context.node_name, of_nodes[:_NAMED_MAX], services))

    def _texts(self, name: ServiceName, places: Collection[Destination]) -> list[str]:
        failures = self._compiler.cluster.conditions_of(name).failures
        named = [f"{join_host_port(*place)} ({failures[place].reason})" for place in sorted(places)[:_NAMED_MAX]]
        return [*named, f"{len(places) - _NAMED_MAX} more"] if len(places) > _NAMED_MAX else named

    def _aside_of(self, name: ServiceName) -> frozenset[Destination]:
        conditions = self._compiler.cluster.conditions_of(name)
        aside = set_aside_in(self._compiler.desired.parts_of(name), conditions)
        return frozenset(map(destination_of, aside))


def _joined(places: Iterable[Destination]) -> str:
    return ", ".join(join_host_port(*place) for place in sorted(places)[:_NAMED_MAX])
