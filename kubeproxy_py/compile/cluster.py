"""The known objects of the cluster, and the Services that must be compiled again.

Invariants:
- The state depends only on the last event of each object, never on the order of events of different objects.
- An event that changes nothing makes no Service dirty.
"""

from kubeproxy_py.model.events import (
    HostAddresses,
    NodeDeleted,
    NodeUpserted,
    ObjectEvent,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
)
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, SliceName


class Cluster:
    """Services, EndpointSlices, the Node object of this node and the addresses of this host, by their last event."""

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service] = {}
        self.node: Node | None = None
        self.addresses: tuple[HostAddress, ...] = ()
        self.dirty: dict[ServiceName, None] = {}  # an ordered set: plans must not differ from run to run
        self._slices: dict[ServiceName, dict[SliceName, EndpointSlice]] = {}
        self._service_of: dict[SliceName, ServiceName] = {}

    def apply(self, event: ObjectEvent) -> None:
        """Store the object of *event*, and mark the Services that it changes dirty."""
        match event:
            case ServiceUpserted(service=service):
                if self.services.get(service.name) != service:
                    self.services[service.name] = service
                    self.dirty[service.name] = None
            case ServiceDeleted(name=name):
                if self.services.pop(name, None):
                    self.dirty[name] = None
            case SliceUpserted(slice=endpoint_slice):
                self._set_slice(endpoint_slice)
            case SliceDeleted(name=slice_name):
                self._delete_slice(slice_name)
            case NodeUpserted(node=node):
                self.node = node
            case NodeDeleted():
                self.node = None
            case HostAddresses(addresses=addresses):
                self.addresses = addresses

    def slices_of(self, service: ServiceName) -> list[EndpointSlice]:
        """Return the slices of *service* in order of their names; they may be known before the Service is."""
        slices = self._slices.get(service, {})
        return [slices[name] for name in sorted(slices)]

    def mark_all_dirty(self) -> None:
        """Mark every Service dirty."""
        self.dirty.update(dict.fromkeys(self.services))

    def _set_slice(self, endpoint_slice: EndpointSlice) -> None:
        name, service = endpoint_slice.name, endpoint_slice.service
        if self._service_of.get(name, service) != service:
            self._delete_slice(name)  # its label names another Service now
        slices = self._slices.setdefault(service, {})
        if slices.get(name) != endpoint_slice:
            slices[name] = endpoint_slice
            self._service_of[name] = service
            self.dirty[service] = None

    def _delete_slice(self, name: SliceName) -> None:
        service = self._service_of.pop(name, None)
        if service is None:
            return
        slices = self._slices[service]
        del slices[name]
        if not slices:
            del self._slices[service]
        self.dirty[service] = None
