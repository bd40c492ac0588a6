"""Which endpoints may serve.

Law: every endpoint has one Verdict, and a backend is used only if its verdict says so.  The words and rules are
kube-proxy's: ready endpoints that pass the topology filter; if there is none, those that still serve while they
terminate.  Local endpoints are judged apart and without topology.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from msgspec import Struct

from kubeproxy_py.model.services import IP, Endpoint, EndpointSlice, Family, ServicePort

Filter = Callable[[Endpoint], bool]


class Verdict(Enum):
    """What becomes of one endpoint in the cluster-wide set."""

    USED = "ready"
    FALLBACK = "terminating, used since nothing is ready"
    HINTED_ELSEWHERE = "ready, but hinted for another node or zone"
    TERMINATING = "terminating"
    NOT_READY = "not ready"


class Backend(Struct, frozen=True, gc=False):
    """One endpoint at the port it has for some service port."""

    address: IP
    port: int
    endpoint: Endpoint


class Choice(Struct, frozen=True, gc=False):
    """The backends of a service port: for traffic to anywhere, and for traffic that shall stay on this node."""

    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()

    def for_policy(self, local_wanted: bool) -> tuple[Backend, ...]:
        """Local ones if wanted and there are any, else the cluster's.

        With no local endpoint, pods and processes on this node still reach remote ones (kubernetes#97081).
        """
        return self.local if local_wanted and self.local else self.cluster


def backends(slices: Iterable[EndpointSlice], family: Family, port: ServicePort) -> list[Backend]:
    """All endpoints that the *slices* give *port* in *family*, each ``address:port`` once.

    A slice's port belongs to a service port by name and protocol; its number is the destination's.  Of one that
    stands twice, the later by slice name holds unless it is terminating (kubernetes PR 135593).
    """
    found: dict[tuple[IP, int], Backend] = {}
    for part in slices:
        if part.family != family:
            continue
        for slice_port in part.ports:
            if slice_port.name == port.name and slice_port.protocol == port.protocol:
                number = slice_port.port
                for endpoint in part.endpoints:
                    place = (endpoint.address, number)
                    if not (endpoint.terminating and place in found):
                        found[place] = Backend(endpoint.address, number, endpoint)
    return list(found.values())


def judge(candidates: Sequence[Backend], node: str, zone: str) -> list[Verdict]:
    """The verdict on each of *candidates*, in their order."""
    hinted_here = topology_filter([b.endpoint for b in candidates if b.endpoint.ready], node, zone)
    verdicts = [_verdict(b.endpoint, hinted_here) for b in candidates]
    if any(b.endpoint.ready for b in candidates):
        return verdicts
    return [
        Verdict.FALLBACK if b.endpoint.serving and b.endpoint.terminating else verdict
        for b, verdict in zip(candidates, verdicts, strict=True)
    ]


def topology_filter(ready: Sequence[Endpoint], node: str, zone: str) -> Filter:
    """The filter that the hints of the *ready* endpoints ask for.

    Node hints count if every ready endpoint has one and one names this node; else zone hints by the same rule; else
    everyone passes.  (KEP-2433, KEP-3015; a single endpoint without hints turns them off.)
    """
    for hints_of, here in ((_node_hints, node), (_zone_hints, zone)):
        hints = [hints_of(endpoint) for endpoint in ready]
        if here and all(hints) and any(here in names for names in hints):
            return lambda endpoint, hints_of=hints_of, here=here: here in hints_of(endpoint)  # type: ignore[misc]
    return _everyone


def choose(candidates: Sequence[Backend], node: str, zone: str, *, cluster: bool, local: bool) -> Choice:
    """The sets that a service port needs (*cluster*, *local*) out of its *candidates*."""
    return Choice(
        _cluster_set(candidates, node, zone) if cluster else (), _local_set(candidates, node) if local else ()
    )


def is_local(endpoint: Endpoint, node: str) -> bool:
    """Whether *endpoint* is on *node*; one whose node is not known is not."""
    return endpoint.node != "" and endpoint.node == node


def _cluster_set(candidates: Sequence[Backend], node: str, zone: str) -> tuple[Backend, ...]:
    usable = (Verdict.USED, Verdict.FALLBACK)
    return tuple(b for b, verdict in zip(candidates, judge(candidates, node, zone), strict=True) if verdict in usable)


def _local_set(candidates: Sequence[Backend], node: str) -> tuple[Backend, ...]:
    here = [b for b in candidates if is_local(b.endpoint, node)]
    ready = tuple(b for b in here if b.endpoint.ready)
    return ready or tuple(b for b in here if b.endpoint.serving and b.endpoint.terminating)


def _verdict(endpoint: Endpoint, passes: Filter) -> Verdict:
    if endpoint.ready:
        return Verdict.USED if passes(endpoint) else Verdict.HINTED_ELSEWHERE
    return Verdict.TERMINATING if endpoint.terminating else Verdict.NOT_READY


def _node_hints(endpoint: Endpoint) -> tuple[str, ...]:
    return endpoint.node_hints


def _zone_hints(endpoint: Endpoint) -> tuple[str, ...]:
    return endpoint.zone_hints


def _everyone(_endpoint: Endpoint) -> bool:
    return True
