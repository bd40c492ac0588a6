"""ExternalIps: warns of Services whose externalIPs are addresses of this node.

Law: only Services that were compiled are looked at, so the cost is that of the change; each is warned of once, until
what there is to say of it changes.
"""

from collections.abc import Iterable

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import external_ips_on_node
from kubeproxy_py.events import kube_events as notices
from kubeproxy_py.events.kube_events import Tell
from kubeproxy_py.model.services import IP, ServiceName


class ExternalIpWarnings:
    """Looks at Services as *compiler* knows them."""

    def __init__(self, compiler: Compiler, tell: Tell) -> None:
        self._compiler = compiler
        self._tell = tell
        self._told: dict[ServiceName, tuple[IP, ...]] = {}

    def look(self, names: Iterable[ServiceName]) -> None:
        """The Services *names* were compiled: warn of those that give a new reason to."""
        site = self._compiler.site
        for name in names:
            service = self._compiler.cluster.services.get(name)
            found = external_ips_on_node(service, site) if service else ()
            if found == self._told.get(name, ()):
                continue
            if found:
                self._told[name] = found
                self._tell(notices.external_ips_on_node(name, site.node_name, found))
            else:
                del self._told[name]
