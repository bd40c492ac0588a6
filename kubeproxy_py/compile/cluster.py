"""The known objects of the cluster, and the Services that must be compiled again.

Invariants:
- The state depends only on the last event of each object, never on the order of events of different objects.
- An event that changes nothing makes no Service dirty.
- The cost of an event follows the objects that it changes.  An address that becomes taken or free again costs as much
  as the Services that have it as an external address, and a label of a node as the Services whose weights name it.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from kubeproxy_py.compile.taken import Taken
from kubeproxy_py.model.conditions import NO_CONDITIONS, Conditions, EndpointFailures, EndpointSteps
from kubeproxy_py.model.events import (
    HostAddresses,
    NodeDeleted,
    NodeUpserted,
    ObjectEvent,
    PeerDeleted,
    PeersRefused,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    TakenAddresses,
)
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.peers import Label, weighed_labels
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, SliceName
from kubeproxy_py.net import IP


class Cluster:
    """Services, EndpointSlices, the Node object of this node and the addresses of this host, by their last event."""

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service] = {}
        self.node: Node | None = None
        self.addresses: tuple[HostAddress, ...] = ()
        self.taken = Taken()
        self.peers: dict[str, tuple[IP, ...]] = {}  # the addresses of all nodes, while they are read
        self.labels: dict[str, tuple[Label, ...]] = {}  # of nodes, of the keys that weights name
        self.peers_refused = ""  # why nothing is known of all nodes
        self.direct_return: dict[ServiceName, None] = {}  # the Services that ask for it
        self.limited: dict[ServiceName, None] = {}  # the Services whose endpoints have a limit of connections
        self.conditions: dict[ServiceName, Conditions] = {}  # of endpoints, where there are any
        self.reweighted: dict[ServiceName, None] = {}  # those of the dirty ones with labels of nodes that changed
        self.dirty: dict[ServiceName, None] = {}  # an ordered set: plans must not differ from run to run
        self.moved: dict[ServiceName, None] = {}  # those of the dirty ones whose frontends may have changed
        self._slices: dict[ServiceName, dict[SliceName, EndpointSlice]] = {}
        self._service_of: dict[SliceName, ServiceName] = {}
        self._by_external_ip: dict[IP, dict[ServiceName, None]] = {}
        self._by_label: dict[Label, dict[ServiceName, None]] = {}  # the Services whose weights name it

    def apply(self, event: ObjectEvent) -> None:
        """Store the object of *event*, and mark the Services that it changes dirty."""
        match event:
            case ServiceUpserted(service=service):
                self._set_service(service.name, service)
            case ServiceDeleted(name=name):
                self._set_service(name, None)
            case SliceUpserted(slice=endpoint_slice):
                self._set_slice(endpoint_slice)
            case SliceDeleted(name=slice_name):
                self._delete_slice(slice_name)
            case NodeUpserted(node=node):
                self.node = node
            case NodeDeleted():
                self.node = None
            case PeerUpserted() | PeerDeleted():
                self._set_peer(event)
            case PeersRefused(reason=reason):
                self._set_refused(reason)
            case HostAddresses(addresses=addresses):
                self.addresses = addresses
            case TakenAddresses():
                self._set_taken(event)
            case EndpointFailures(service=name, failures=failures):
                self._set_conditions(name, replace(self.conditions_of(name), failures=failures))
            case EndpointSteps(service=name, steps=steps):
                self._set_conditions(name, replace(self.conditions_of(name), steps=steps))

    def slices_of(self, service: ServiceName) -> list[EndpointSlice]:
        """Return the slices of *service* in order of their names; they may be known before the Service is."""
        slices = self._slices.get(service, {})
        return [slices[name] for name in sorted(slices)]

    def conditions_of(self, service: ServiceName) -> Conditions:
        """Return the conditions of the endpoints of *service*."""
        return self.conditions.get(service, NO_CONDITIONS)

    def all_slices(self) -> dict[ServiceName, tuple[EndpointSlice, ...]]:
        """Return the slices of each Service, as they are now, in no order."""
        return {service: tuple(slices.values()) for service, slices in self._slices.items()}

    def is_external_address(self, address: IP) -> bool:
        """Return whether a Service has *address* as an externalIP or load balancer address."""
        return address in self._by_external_ip

    def mark_all_dirty(self) -> None:
        """Mark every Service dirty, as one whose frontends may have changed."""
        self._mark_moved(self.services)

    def _set_peer(self, event: PeerUpserted | PeerDeleted) -> None:
        name = event.name
        addresses, labels = (event.addresses, event.labels) if isinstance(event, PeerUpserted) else ((), ())
        self._set_labels(name, labels)
        if self.peers.get(name, ()) == addresses:
            return
        if addresses:
            self.peers[name] = addresses
        else:
            del self.peers[name]
        self.dirty.update(self.direct_return)

    def _set_labels(self, node: str, labels: tuple[Label, ...]) -> None:
        """Replace the labels of *node*; mark the Services dirty whose weights name a change, with endpoints there."""
        before = self.labels.get(node, ())
        if before == labels:
            return
        if labels:
            self.labels[node] = labels
        else:
            del self.labels[node]
        for label in {*before} ^ {*labels}:
            for service in self._by_label.get(label, ()):
                if service not in self.reweighted and (service in self.dirty or self._has_endpoint(service, node)):
                    self.dirty[service] = self.reweighted[service] = None

    def _has_endpoint(self, service: ServiceName, node: str) -> bool:
        slices = self._slices.get(service, {}).values()
        return any(endpoint.node == node for part in slices for endpoint in part.endpoints)

    def _set_refused(self, reason: str) -> None:
        if self.peers_refused != reason:
            self.peers_refused = reason
            labelled = (name for names in self._by_label.values() for name in names)
            self._mark_moved((*self.direct_return, *labelled))

    def _set_service(self, name: ServiceName, service: Service | None) -> None:
        old = self.services.get(name)
        if old == service:
            return
        before = {*old.external_ips, *old.load_balancer_ips} if old else set()
        after = {*service.external_ips, *service.load_balancer_ips} if service else set()
        if after:
            self.taken.start(one for slices in self._slices.values() for one in slices.values())
        for address in after - before:
            self._by_external_ip.setdefault(address, {})[name] = None
        for address in before - after:
            sharing = self._by_external_ip[address]
            del sharing[name]
            if not sharing:
                del self._by_external_ip[address]
        if service:
            self.services[name] = service
        else:
            del self.services[name]
        self._set_weighed_labels(name, old, service)
        _keep_if(self.direct_return, name, kept=bool(service and service.settings.direct_return))
        _keep_if(self.limited, name, kept=bool(service and service.settings.max_connections))
        self._mark_moved((name,))

    def _set_weighed_labels(self, name: ServiceName, old: Service | None, service: Service | None) -> None:
        before = {*weighed_labels(old)} if old else set[Label]()
        after = {*weighed_labels(service)} if service else set[Label]()
        if before == after:  # nearly always
            return
        for label in after - before:
            self._by_label.setdefault(label, {})[name] = None
        for label in before - after:
            services = self._by_label[label]
            del services[name]
            if not services:
                del self._by_label[label]

    def _set_conditions(self, name: ServiceName, conditions: Conditions) -> None:
        if conditions == self.conditions_of(name):
            return
        if conditions:
            self.conditions[name] = conditions
        else:
            del self.conditions[name]
        self.dirty[name] = None

    def _set_taken(self, event: TakenAddresses) -> None:
        before = self.taken.api_servers
        self._mark_users(self.taken.replace_report(event))
        closed = before ^ self.taken.api_servers
        if closed:  # rarely: this agent began to use another API server, perhaps at an address of this node
            ports = {server.port for server in closed}
            self._mark_moved(
                name
                for name, service in self.services.items()
                if any(port.node_port in ports or port.port in ports for port in service.ports)
            )

    def _mark_users(self, addresses: Iterable[IP]) -> None:
        """Mark the Services dirty that have one of *addresses* as an external address."""
        for address in addresses:
            if users := self._by_external_ip.get(address):
                self._mark_moved(users)

    def _mark_moved(self, names: Iterable[ServiceName]) -> None:
        marked = dict.fromkeys(names)
        self.dirty.update(marked)
        self.moved.update(marked)

    def _set_slice(self, endpoint_slice: EndpointSlice) -> None:
        name, service = endpoint_slice.name, endpoint_slice.service
        if self._service_of.get(name, service) != service:
            self._delete_slice(name)  # its label names another Service now
        slices = self._slices.setdefault(service, {})
        old = slices.get(name)
        if old != endpoint_slice:
            slices[name] = endpoint_slice
            self._service_of[name] = service
            self.dirty[service] = None
            self._mark_users(self.taken.replace_slice(old, endpoint_slice))

    def _delete_slice(self, name: SliceName) -> None:
        service = self._service_of.pop(name, None)
        if service is None:
            return
        slices = self._slices[service]
        self._mark_users(self.taken.replace_slice(slices.pop(name), None))
        if not slices:
            del self._slices[service]
        self.dirty[service] = None


def _keep_if(names: dict[ServiceName, None], name: ServiceName, *, kept: bool) -> None:
    """Have *name* be among *names* if it is *kept*."""
    if kept:
        names[name] = None
    else:
        names.pop(name, None)
