"""ServiceWarnings: publish what is refused of Services, and which externalIPs are addresses of this node."""

from collections.abc import Iterable

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import external_ips_on_node
from kubeproxy_py.events import kube_events
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.model.refusal import grouped
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP

_Subject = tuple[str, str]  # reason and subject of a refusal


class ServiceWarnings:
    """Checks Services after *compiler* compiled them, so the cost is that of the change.

    A Service is warned of once, until the addresses in question change.
    """

    def __init__(self, compiler: Compiler, publish: Publish) -> None:
        self._compiler = compiler
        self._publish = publish
        self._warned: dict[ServiceName, tuple[IP, ...]] = {}  # the addresses of the last warning
        self._refused: dict[ServiceName, frozenset[_Subject]] = {}  # what was published and is still refused

    def check(self, names: Iterable[ServiceName]) -> None:
        """Warn of those of the compiled Services *names* of which something new is refused or on this node."""
        for name in names:
            self._check_addresses(name)
        for name in self._compiler.refusals.pop_changed():
            self._check_refusals(name)

    def _check_addresses(self, name: ServiceName) -> None:
        context = self._compiler.context
        service = self._compiler.cluster.services.get(name)
        addresses = external_ips_on_node(service, context) if service else ()
        if addresses == self._warned.get(name, ()):
            return
        if addresses:
            self._warned[name] = addresses
            self._publish(kube_events.external_ips_on_node(name, context.node_name, addresses))
        else:
            del self._warned[name]

    def _check_refusals(self, name: ServiceName) -> None:
        refusals = self._compiler.refusals.of(name)
        before = self._refused.pop(name, frozenset())
        if refusals:
            self._refused[name] = frozenset((refusal.reason, refusal.subject) for refusal in refusals)
        new = (refusal for refusal in refusals if (refusal.reason, refusal.subject) not in before)
        for refusal in grouped(new):
            self._publish(kube_events.refused(refusal, self._compiler.context.node_name))
