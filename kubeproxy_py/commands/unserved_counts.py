"""UnservedCounts: the number of Service ports that no endpoint serves, by reason, for a metric.

Invariants:
- The cost of a change is that of the Services that were compiled; a scrape costs nothing.
- A Service that an endpoint serves at every port is recognized by its first endpoints, however many it has.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.unserved import KINDS, unserved_ports
from kubeproxy_py.model.services import Endpoint, EndpointSlice, Service, ServiceName
from kubeproxy_py.net import family_of

_is_ready: Callable[[Endpoint], bool] = attrgetter("ready")


class UnservedCounts:
    """Counts the ports of the Services of *compiler*.

    Args:
        compiler: Knows the Services and their slices.
        publish: Called with the number of ports by reason, when one has changed, and at once with every reason.
    """

    def __init__(self, compiler: Compiler, publish: Callable[[Mapping[str, int]], None]) -> None:
        self._compiler = compiler
        self._publish = publish
        self._of: dict[ServiceName, tuple[str, ...]] = {}  # the reason of each port that is not served
        self._counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        publish(self._counts)

    def check(self, names: Collection[ServiceName]) -> None:
        """Count the ports of the compiled Services *names* again."""
        changed = False
        for name in names:
            before, after = self._of.pop(name, ()), self._reasons(name)
            if after:
                self._of[name] = after
            if before != after:
                self._counts.subtract(before)
                self._counts.update(after)
                changed = True
        if changed:
            self._publish(self._counts)

    def _reasons(self, name: ServiceName) -> tuple[str, ...]:
        cluster = self._compiler.cluster
        service = cluster.services.get(name)
        if service is None:
            return ()
        slices = cluster.slices_of(name)
        if _is_served(service, slices):
            return ()
        return tuple(why.kind for _, _, why in unserved_ports(service, slices, self._compiler.context))


def _is_served(service: Service, slices: Sequence[EndpointSlice]) -> bool:
    """Return whether it is plain that a ready endpoint of each family serves every port; False if it is not."""
    if service.internal_local:
        return False
    served = {
        (part.family, port.name, port.protocol)
        for part in slices
        if True in map(_is_ready, part.endpoints)
        for port in part.ports
    }
    families = set(map(family_of, service.cluster_ips))
    return served.issuperset([(family, port.name, port.protocol) for family in families for port in service.ports])
