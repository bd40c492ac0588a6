"""ExternalIpWarnings: warn of Services whose externalIPs are addresses of this node."""

from collections.abc import Iterable

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import external_ips_on_node
from kubeproxy_py.events import kube_events
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP


class ExternalIpWarnings:
    """Checks Services after *compiler* compiled them, so the cost is that of the change.

    A Service is warned of once, until the addresses in question change.
    """

    def __init__(self, compiler: Compiler, publish: Publish) -> None:
        self._compiler = compiler
        self._publish = publish
        self._warned: dict[ServiceName, tuple[IP, ...]] = {}  # the addresses of the last warning

    def check(self, names: Iterable[ServiceName]) -> None:
        """Warn of those of the compiled Services *names* whose addresses on this node changed."""
        context = self._compiler.context
        for name in names:
            service = self._compiler.cluster.services.get(name)
            addresses = external_ips_on_node(service, context) if service else ()
            if addresses == self._warned.get(name, ()):
                continue
            if addresses:
                self._warned[name] = addresses
                self._publish(kube_events.external_ips_on_node(name, context.node_name, addresses))
            else:
                del self._warned[name]
