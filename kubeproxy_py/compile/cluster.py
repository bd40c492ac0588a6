"""Cluster: the objects now known, and which Services they make dirty.

Law: what is known depends on the last event of each object alone, never on the order of events of different
objects.  An event that changes nothing makes nothing dirty.
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
    """Services, endpoint slices, our Node and our addresses, as last heard of."""

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service] = {}
        self.node: Node | None = None
        self.addresses: tuple[HostAddress, ...] = ()
        self.dirty: dict[ServiceName, None] = {}  # a dict for its order: plans are the same from run to run
        self._slices: dict[ServiceName, dict[SliceName, EndpointSlice]] = {}
        self._service_of: dict[SliceName, ServiceName] = {}

    def apply(self, event: ObjectEvent) -> None:
        """Know what *event* says; the Services that it touches become dirty."""
        match event:
            case ServiceUpserted(service=service):
                if self.services.get(service.name) != service:
                    self.services[service.name] = service
                    self.dirty[service.name] = None
            case ServiceDeleted(name=name):
                if self.services.pop(name, None):
                    self.dirty[name] = None
            case SliceUpserted(slice=part):
                self._set_slice(part)
            case SliceDeleted(name=slice_name):
                self._drop_slice(slice_name)
            case NodeUpserted(node=node):
                self.node = node
            case NodeDeleted():
                self.node = None
            case HostAddresses(addresses=addresses):
                self.addresses = addresses

    def slices_of(self, service: ServiceName) -> list[EndpointSlice]:
        """The slices of *service* in order of their names; there may be some before there is a Service."""
        slices = self._slices.get(service, {})
        return [slices[name] for name in sorted(slices)]

    def mark_all_dirty(self) -> None:
        """Have every Service compiled again."""
        self.dirty.update(dict.fromkeys(self.services))

    def _set_slice(self, part: EndpointSlice) -> None:
        if self._service_of.get(part.name, part.service) != part.service:
            self._drop_slice(part.name)  # it was relabelled
        slices = self._slices.setdefault(part.service, {})
        if slices.get(part.name) != part:
            slices[part.name] = part
            self._service_of[part.name] = part.service
            self.dirty[part.service] = None

    def _drop_slice(self, name: SliceName) -> None:
        service = self._service_of.pop(name, None)
        if service is None:
            return
        slices = self._slices[service]
        del slices[name]
        if not slices:
            del self._slices[service]
        self.dirty[service] = None
