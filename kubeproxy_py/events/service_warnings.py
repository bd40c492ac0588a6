"""ServiceWarnings: publish what is refused of Services, and which of their addresses this node has itself."""

import logging
from collections.abc import Callable, Iterable

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import (
    cluster_ips_on_node,
    external_ips_on_node,
    has_address_on_node,
    load_balancer_ips_on_node,
)
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.events import kube_events
from kubeproxy_py.events.kube_events import KubeEvent, Publish
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.refusal import SETTING_IGNORED, Refusal, grouped
from kubeproxy_py.model.services import Service, ServiceName
from kubeproxy_py.net import IP

_FindAddresses = Callable[[Service, NodeContext], tuple[IP, ...]]
_MakeEvent = Callable[[ServiceName, str, Iterable[IP]], KubeEvent]

_WARNINGS: dict[str, tuple[_FindAddresses, _MakeEvent]] = {
    "ClusterIP": (cluster_ips_on_node, kube_events.cluster_ips_on_node),
    "externalIP": (external_ips_on_node, kube_events.external_ips_on_node),
}

_What = tuple[str, ...]

log = logging.getLogger(__name__)


class ServiceWarnings:
    """Checks Services after *compiler* compiled them, so the cost is that of the change.

    A Service is warned of once for each kind of address, until the addresses in question change.
    """

    def __init__(self, compiler: Compiler, publish: Publish) -> None:
        self._compiler = compiler
        self._publish = publish
        self._warned: dict[ServiceName, dict[str, tuple[IP, ...]]] = {}  # by kind: the addresses of the last warning
        self._refused: dict[ServiceName, frozenset[_What]] = {}  # what was published and is still refused

    def check(self, names: Iterable[ServiceName]) -> None:
        """Warn of those of the compiled Services *names* of which something new is refused or on this node."""
        for name in names:
            self._check_addresses(name)
        for name in self._compiler.refusals.pop_changed():
            self._check_refusals(name)

    def _check_addresses(self, name: ServiceName) -> None:
        context = self._compiler.context
        service = self._compiler.cluster.services.get(name)
        if name not in self._warned and not (service and has_address_on_node(service, context)):
            return  # nearly always
        for kind, (find, make_event) in _WARNINGS.items():
            addresses = find(service, context) if service else ()
            if self._is_news(name, kind, addresses) and addresses:
                self._publish(make_event(name, context.node_name, addresses))
        addresses = load_balancer_ips_on_node(service, context) if service else ()
        if self._is_news(name, "load balancer", addresses) and addresses:
            details = values(service=name, addresses=", ".join(addresses))
            log.log(level(2), "Load balancer addresses are addresses of this node; not bound", extra=details)

    def _is_news(self, name: ServiceName, kind: str, addresses: tuple[IP, ...]) -> bool:
        """Record *addresses*, and return whether they differ from the last ones."""
        warned = self._warned.pop(name, {})
        before = warned.pop(kind, ())
        if addresses:
            warned[kind] = addresses
        if warned:
            self._warned[name] = warned
        return addresses != before

    def _check_refusals(self, name: ServiceName) -> None:
        refusals = self._compiler.refusals.of(name)
        before = self._refused.pop(name, frozenset())
        if refusals:
            self._refused[name] = frozenset(map(_what, refusals))
        new = (refusal for refusal in refusals if _what(refusal) not in before)
        for refusal in grouped(new):
            self._publish(kube_events.refused(refusal, self._compiler.context.node_name))


def _what(refusal: Refusal) -> _What:
    """Return by what *refusal* is known as one that was published.

    A setting may be ignored for another cause as soon as the first one was mended, and who has an address in use may
    change all the time.
    """
    cause = (refusal.message,) if refusal.reason == SETTING_IGNORED else ()
    return (refusal.reason, refusal.subject, *cause)
