"""NodePortGuard: warns of NodePorts on which a process of this host listens, and has NodePorts reserved."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.frontends import family_ports
from kubeproxy_py.events import kube_events
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.kernel.host.listening import ListeningSocket
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.net import Family, Protocol

_NodePort = tuple[Protocol, int, Family]
_node_port: Callable[[ServicePort], int] = attrgetter("node_port")


class NodePortGuard:
    """Checks Services after *compiler* compiled them, so the cost is that of the change.

    Args:
        compiler: Has the Services and the node context.
        publish: Gets an Event for each NodePort on which a process listens, once.
        listening: Returns the listening sockets of this host; called once for all new NodePorts of a sync.
        reserve: Is called with the NodePorts that were added and those removed; also after the first sync, with any.
        local_ports: The ports from which this host opens connections, first and last.
    """

    def __init__(
        self,
        compiler: Compiler,
        publish: Publish,
        listening: Callable[[], Collection[ListeningSocket]],
        reserve: Callable[[Collection[int], Collection[int]], None],
        local_ports: Callable[[], tuple[int, int]],
    ) -> None:
        self._compiler = compiler
        self._publish = publish
        self._listening = listening
        self._reserve = reserve
        self._local_ports = local_ports
        self._of_service: dict[ServiceName, frozenset[_NodePort]] = {}
        self._users: Counter[int] = Counter()  # NodePorts, by how many Services, protocols and families use each
        self._is_first = True

    def check(self, names: Iterable[ServiceName]) -> None:
        """Check those of the compiled Services *names* whose NodePorts changed."""
        new: dict[ServiceName, frozenset[_NodePort]] = {}
        touched: dict[int, bool] = {}  # NodePorts, and whether each was used before
        for name in names:
            before, after = self._of_service.get(name, frozenset()), self._node_ports(name)
            if before != after:
                touched = {port: port in self._users for _, port, _ in before ^ after} | touched
                self._record(name, before, after)
                if after - before:
                    new[name] = after - before
        added = [port for port, was_used in touched.items() if not was_used and port in self._users]
        removed = [port for port, was_used in touched.items() if was_used and port not in self._users]
        if added or removed or self._is_first:
            self._is_first = False
            self._reserve(added, removed)
        if new:
            self._warn(new)

    def _node_ports(self, name: ServiceName) -> frozenset[_NodePort]:
        service, context = self._compiler.cluster.services.get(name), self._compiler.context
        if not service or not _is_served(service) or not any(map(_node_port, service.ports)):
            return frozenset()
        return frozenset(
            (port.port.protocol, port.port.node_port, port.family)
            for port in family_ports(service, context)
            if port.port.node_port and context.node_port_addresses.get(port.family)
        )

    def _record(self, name: ServiceName, before: Collection[_NodePort], after: frozenset[_NodePort]) -> None:
        self._users.update(port for _, port, _ in after)
        for _, port, _ in before:
            self._users[port] -= 1
            if not self._users[port]:
                del self._users[port]
        if after:
            self._of_service[name] = after
        else:
            self._of_service.pop(name, None)

    def _warn(self, new: dict[ServiceName, frozenset[_NodePort]]) -> None:
        sockets: dict[_NodePort, list[ListeningSocket]] = {}
        for socket in self._listening():
            sockets.setdefault((socket.protocol, socket.port, socket.family), []).append(socket)
        for name, ports in new.items():
            used = {(port[1], port[0]) for port in ports if self._is_used(port, sockets)}
            for port, protocol in sorted(used):
                self._publish(kube_events.node_port_in_use(name, self._compiler.context.node_name, port, protocol))

    def _is_used(self, node_port: _NodePort, sockets: dict[_NodePort, list[ListeningSocket]]) -> bool:
        """Return whether a process listens where the NodePort is served.

        A UDP socket without a peer may be a client's, which lasts for one query, if its port is one that the kernel
        chooses.
        """
        protocol, port, family = node_port
        first, last = self._local_ports() if protocol == "UDP" else (0, -1)
        if first <= port <= last:
            return False
        addresses = self._compiler.context.node_port_addresses.get(family, ())
        return any(socket.is_wildcard or socket.address in addresses for socket in sockets.get(node_port, ()))


def _is_served(service: Service) -> bool:
    return service.proxy_name is None and service.type != "ExternalName"
