"""Shares of a service port's endpoints, kept from one compile of a Service to the next.

Law: what is remembered is what would be found again.  A Share is kept as long as its slice is the very same value, for
one Service and one Site; with another of either a new Memo is begun.  Only Services of several slices have anything
kept: of a Service of a thousand endpoints, of which one changed, a hundred are looked at.
"""

from collections.abc import Sequence

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import NodeLocation, SliceEndpoints, backends
from kubeproxy_py.model.services import EndpointSlice, Family, Protocol, Service, ServicePort, SliceName

_Key = tuple[SliceName, str, Protocol]  # the last two are the port's


class CompileCache:
    """What was found of the slices of *service* when it was last compiled."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._kept: dict[_Key, tuple[EndpointSlice, SliceEndpoints]] = {}
        self._used: dict[_Key, tuple[EndpointSlice, SliceEndpoints]] = {}  # since forget_the_rest

    def __len__(self) -> int:
        return len(self._kept)

    def shares(
        self, slices: Sequence[EndpointSlice], family: Family, port: ServicePort, site: NodeContext
    ) -> list[SliceEndpoints]:
        """The shares that the *slices* of *family* have in *port*, in which no address and port stands twice.

        One for each slice; one for all, where there is but one or where two name the same endpoint.
        """
        here = NodeLocation(site.node_name, site.zone)
        mine = [part for part in slices if part.family == family]
        if len(mine) > 1:
            found = [self._share(part, family, port, here) for part in mine]
            if len(set().union(*(share.places for share in found))) == sum(len(share.places) for share in found):
                return found
        return [SliceEndpoints(backends(mine, family, port), here)]

    def forget_the_rest(self) -> None:
        """Keep what was asked for since the last call, and nothing else."""
        self._kept, self._used = self._used, {}

    def _share(self, part: EndpointSlice, family: Family, port: ServicePort, here: NodeLocation) -> SliceEndpoints:
        key = (part.name, port.name, port.protocol)
        kept = self._kept.get(key)
        if kept is None or kept[0] is not part:
            kept = part, SliceEndpoints(backends((part,), family, port), here)
        self._used[key] = kept
        return kept[1]
