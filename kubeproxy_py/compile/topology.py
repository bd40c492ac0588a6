"""Which endpoints serve.

Law: the words and rules are kube-proxy's: ready endpoints that pass the topology filter; if none is ready, those that
still serve while they terminate.  Local endpoints are chosen apart and without topology.

The endpoints of a service port come in Shares, one for each slice, and the rule follows from what each Share counts.
So where one slice of many changed, the endpoints of the others are not looked at again.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from operator import attrgetter

from msgspec import Struct

from kubeproxy_py.model.rows import SERVING, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import IP, Endpoint, EndpointSlice, Family, ServicePort


class SelectionRule(Enum):
    """By which rule a service port's endpoints are chosen."""

    NONE = "none"
    READY = "ready"
    NODE_HINTED = "ready, and hinted for this node"
    ZONE_HINTED = "ready, and hinted for this zone"
    TERMINATING = "terminating, used since nothing is ready"
    LOCAL = "ready on this node"
    LOCAL_TERMINATING = "terminating on this node, used since nothing on it is ready"


class Backend(Struct, frozen=True, gc=False):
    """One endpoint at the port it has for some service port."""

    address: IP
    port: int
    endpoint: Endpoint


class NodeLocation(Struct, frozen=True, gc=False):
    """Where we are; "": not known, so nothing is there."""

    node: str
    zone: str


class SliceEndpoints:
    """The endpoints that one slice, or several taken together, give a service port; each ``address:port`` once."""

    def __init__(self, backends: Sequence[Backend], here: NodeLocation) -> None:
        self.backends = backends
        self.ready = [b for b in backends if b.endpoint.ready]
        self.local = [b for b in backends if b.endpoint.node == here.node] if here.node else []
        self.node_hints = _Hints(self.ready, _node_hints, here.node)
        self.zone_hints = _Hints(self.ready, _zone_hints, here.zone)
        self._rows: dict[tuple[VirtualServer, SelectionRule], Rows] = {}
        self._places: frozenset[tuple[IP, int]] | None = None

    def chosen(self, rule: SelectionRule) -> Sequence[Backend]:
        """Those that *rule* chooses."""
        return _CHOSEN[rule](self)

    def rows(self, server: VirtualServer, rule: SelectionRule) -> Rows:
        """The real servers of *server* by *rule*; asked again, the same dict, which is never to be changed."""
        found = self._rows.get((server, rule))
        if found is None:
            found = self._rows[server, rule] = real_servers(server, self.chosen(rule))
        return found

    @property
    def places(self) -> frozenset[tuple[IP, int]]:
        """Address and port of each."""
        if self._places is None:
            self._places = frozenset((b.address, b.port) for b in self.backends)
        return self._places


class _Hints:
    """What the hints of one sort say of *ready* endpoints: whether all have some, and which are for us."""

    def __init__(self, ready: Sequence[Backend], names: Callable[[Endpoint], tuple[str, ...]], here: str) -> None:
        self.complete = all(names(b.endpoint) for b in ready)
        self.here = [b for b in ready if here in names(b.endpoint)] if self.complete and here else []


_CHOSEN: dict[SelectionRule, Callable[[SliceEndpoints], Sequence[Backend]]] = {
    SelectionRule.NONE: lambda _: (),
    SelectionRule.READY: lambda share: share.ready,
    SelectionRule.NODE_HINTED: lambda share: share.node_hints.here,
    SelectionRule.ZONE_HINTED: lambda share: share.zone_hints.here,
    SelectionRule.TERMINATING: lambda share: _still_serving(share.backends),
    SelectionRule.LOCAL: lambda share: [b for b in share.local if b.endpoint.ready],
    SelectionRule.LOCAL_TERMINATING: lambda share: _still_serving(share.local),
}


class EndpointSelection(Struct, frozen=True, gc=False):
    """The rules for a service port: for traffic to anywhere, and for traffic that shall stay on this node."""

    cluster: SelectionRule = SelectionRule.NONE
    local: SelectionRule = SelectionRule.NONE

    def for_policy(self, local_wanted: bool) -> SelectionRule:
        """The local one if that is wanted and there is anything local, else the cluster's.

        With no local endpoint, pods and processes on this node still reach remote ones (kubernetes#97081).
        """
        return self.local if local_wanted and self.local != SelectionRule.NONE else self.cluster


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


def choose(shares: Sequence[SliceEndpoints], *, cluster: bool, local: bool) -> EndpointSelection:
    """The rules for the sets that a service port needs (*cluster*, *local*), whose endpoints are *shares*."""
    return EndpointSelection(
        _cluster_rule(shares) if cluster else SelectionRule.NONE, _local_rule(shares) if local else SelectionRule.NONE
    )


def has_any(shares: Iterable[SliceEndpoints], rule: SelectionRule) -> bool:
    """Whether *rule* chooses any endpoint of *shares*."""
    return any(share.chosen(rule) for share in shares)


def real_servers(server: VirtualServer, chosen: Iterable[Backend]) -> Rows:
    """The rows by which *server* balances to *chosen*."""
    return {RealServer(server, b.address, b.port): SERVING for b in chosen}


def is_local(endpoint: Endpoint, node: str) -> bool:
    """Whether *endpoint* is on *node*; one whose node is not known is not."""
    return endpoint.node == node != ""


_node_hints: Callable[[Endpoint], tuple[str, ...]] = attrgetter("node_hints")
_zone_hints: Callable[[Endpoint], tuple[str, ...]] = attrgetter("zone_hints")
_HINTED: tuple[tuple[SelectionRule, Callable[[SliceEndpoints], _Hints]], ...] = (
    (SelectionRule.NODE_HINTED, attrgetter("node_hints")),
    (SelectionRule.ZONE_HINTED, attrgetter("zone_hints")),
)


def _cluster_rule(shares: Sequence[SliceEndpoints]) -> SelectionRule:
    """Node hints count if every ready endpoint has one and one names this node; else zone hints by the same rule.

    A single endpoint without hints turns them off (KEP-2433, KEP-3015).
    """
    if not any(share.ready for share in shares):
        return SelectionRule.TERMINATING if has_any(shares, SelectionRule.TERMINATING) else SelectionRule.NONE
    for rule, hints_of in _HINTED:
        hints = [hints_of(share) for share in shares]
        if all(each.complete for each in hints) and any(each.here for each in hints):
            return rule
    return SelectionRule.READY


def _local_rule(shares: Sequence[SliceEndpoints]) -> SelectionRule:
    return next(
        (rule for rule in (SelectionRule.LOCAL, SelectionRule.LOCAL_TERMINATING) if has_any(shares, rule)),
        SelectionRule.NONE,
    )


def _still_serving(candidates: Iterable[Backend]) -> list[Backend]:
    return [b for b in candidates if b.endpoint.serving and b.endpoint.terminating]
