"""The evaluated endpoints of a Service's slices, cached from one compile of the Service to the next.

Of a Service with a thousand endpoints in ten slices, of which one slice changed, only its hundred are evaluated.

Invariants:
- What is cached is what would be computed again: an entry is valid only for the very same slice object.
- A cache belongs to one Service and one NodeContext; when either changes, a new cache is created.
- Only Services with several slices have entries.
"""

from collections.abc import Sequence

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import SliceEndpoints, backends
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort, SliceName
from kubeproxy_py.net import Family, Protocol

_Key = tuple[SliceName, str, Protocol]  # name and protocol of the Service port


class CompileCache:
    """The endpoints of the slices of *service* as of its last compile."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._cached: dict[_Key, tuple[EndpointSlice, SliceEndpoints]] = {}
        self._used: dict[_Key, tuple[EndpointSlice, SliceEndpoints]] = {}  # since evict_unused

    def __len__(self) -> int:
        return len(self._cached)

    def slice_endpoints(
        self, slices: Sequence[EndpointSlice], family: Family, port: ServicePort, context: NodeContext
    ) -> list[SliceEndpoints]:
        """Return the endpoints that the *slices* of *family* give *port*, each ``address:port`` once.

        There is one element for each slice; or one for all, if there is only one slice or if two contain the same
        endpoint.
        """
        of_family = [endpoint_slice for endpoint_slice in slices if endpoint_slice.family == family]
        if len(of_family) > 1:
            parts = [self._evaluated(endpoint_slice, family, port, context) for endpoint_slice in of_family]
            distinct = set().union(*(part.destinations for part in parts))
            if len(distinct) == sum(len(part.destinations) for part in parts):
                return parts
        return [SliceEndpoints(backends(of_family, family, port), context)]

    def evict_unused(self) -> None:
        """Drop the entries that were not used since the last call."""
        self._cached, self._used = self._used, {}

    def _evaluated(
        self, endpoint_slice: EndpointSlice, family: Family, port: ServicePort, context: NodeContext
    ) -> SliceEndpoints:
        key = (endpoint_slice.name, port.name, port.protocol)
        entry = self._cached.get(key)
        if entry is None or entry[0] is not endpoint_slice:
            entry = endpoint_slice, SliceEndpoints(backends((endpoint_slice,), family, port), context)
        self._used[key] = entry
        return entry[1]
