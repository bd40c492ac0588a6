"""Select the endpoints that serve a Service port, by kube-proxy's rules.

The cluster's endpoints are the ready ones that pass the topology filter; if none is ready, those that are terminating
but still serving.  Local endpoints are selected independently of these, and without topology.

The endpoints of a Service port are held per slice (SliceEndpoints), and the rule follows from the counts of each.  So
when one slice of many changes, the endpoints of the others are not evaluated again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import TypeVar
from zlib import crc32

from msgspec import Struct

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.settings import SpecOf
from kubeproxy_py.model.rows import SERVING, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ServiceName, ServicePort
from kubeproxy_py.net import IP, Family

_Item = TypeVar("_Item")


class SelectionRule(Enum):
    """The rule by which the endpoints of a Service port are selected."""

    NONE = "none"
    READY = "ready"
    NODE_HINTED = "ready, and hinted for this node"
    ZONE_HINTED = "ready, and hinted for this zone"
    TERMINATING = "terminating, used since nothing is ready"
    LOCAL = "ready on this node"
    LOCAL_TERMINATING = "terminating on this node, used since nothing on it is ready"


class Backend(Struct, frozen=True, gc=False):
    """One endpoint with the port number that it has for a Service port."""

    address: IP
    port: int
    endpoint: Endpoint


class SliceEndpoints:
    """The endpoints that one slice, or several taken together, give a Service port; each ``address:port`` once."""

    def __init__(self, backends: Sequence[Backend], context: NodeContext) -> None:
        node = context.node_name
        self.backends = backends
        self.ready = [b for b in backends if b.endpoint.ready]
        self.local = [b for b in backends if b.endpoint.node == node] if node else []
        self.node_hints = _Hints(self.ready, _node_hints, node)
        self.zone_hints = _Hints(self.ready, _zone_hints, context.zone)
        self._rows: dict[tuple[VirtualServer, SelectionRule], Rows] = {}
        self._destinations: frozenset[tuple[IP, int]] | None = None

    def selected(self, rule: SelectionRule) -> Sequence[Backend]:
        """Return the endpoints that *rule* selects."""
        return _SELECTORS[rule](self)

    def rows(self, server: VirtualServer, rule: SelectionRule, make_rows: "MakeRows") -> Rows:
        """Return the real servers of *server* by *rule*, as *make_rows* makes them, always the same one.

        The same dict is returned for the same arguments, so callers must not change it.
        """
        rows = self._rows.get((server, rule))
        if rows is None:
            rows = self._rows[server, rule] = make_rows(server, self.selected(rule))
        return rows

    @property
    def destinations(self) -> frozenset[tuple[IP, int]]:
        """Return address and port of each endpoint."""
        if self._destinations is None:
            self._destinations = frozenset((b.address, b.port) for b in self.backends)
        return self._destinations


class _Hints:
    """The topology hints of one kind on *ready* endpoints."""

    def __init__(self, ready: Sequence[Backend], names: Callable[[Backend], tuple[str, ...]], here: str) -> None:
        self.complete = all(map(names, ready))  # every endpoint has a hint
        self.matching = [b for b in ready if here in names(b)] if self.complete and here else []


_SELECTORS: Mapping[SelectionRule, Callable[[SliceEndpoints], Sequence[Backend]]] = {
    SelectionRule.NONE: lambda _: (),
    SelectionRule.READY: lambda endpoints: endpoints.ready,
    SelectionRule.NODE_HINTED: lambda endpoints: endpoints.node_hints.matching,
    SelectionRule.ZONE_HINTED: lambda endpoints: endpoints.zone_hints.matching,
    SelectionRule.TERMINATING: lambda endpoints: _serving_terminating(endpoints.backends),
    SelectionRule.LOCAL: lambda endpoints: [b for b in endpoints.local if b.endpoint.ready],
    SelectionRule.LOCAL_TERMINATING: lambda endpoints: _serving_terminating(endpoints.local),
}


class EndpointSelection(Struct, frozen=True, gc=False):
    """The rules for a Service port: for traffic policy Cluster, and for Local."""

    cluster: SelectionRule = SelectionRule.NONE
    local: SelectionRule = SelectionRule.NONE

    def for_policy(self, *, is_local: bool) -> SelectionRule:
        """Return the rule for policy Local, if *is_local* and there is a local endpoint, else that for Cluster.

        So where no endpoint is local, pods and processes of this node still reach remote ones (kubernetes#97081).
        """
        return self.local if is_local and self.local != SelectionRule.NONE else self.cluster


def backends(slices: Iterable[EndpointSlice], family: Family, port: ServicePort) -> list[Backend]:
    """Return all endpoints that *slices* give *port* in *family*, each ``address:port`` once.

    A port of a slice belongs to the Service port of the same name and protocol, and has the destination's number.  Of
    an endpoint that is in two slices, the later by slice name counts, unless it is terminating (kubernetes PR 135593).
    """
    by_destination: dict[tuple[IP, int], Backend] = {}
    for endpoint_slice in slices:
        if endpoint_slice.family != family:
            continue
        for slice_port in endpoint_slice.ports:
            if slice_port.name == port.name and slice_port.protocol == port.protocol:
                number = slice_port.port
                for endpoint in endpoint_slice.endpoints:
                    destination = (endpoint.address, number)
                    if not (endpoint.terminating and destination in by_destination):
                        by_destination[destination] = Backend(endpoint.address, number, endpoint)
    return list(by_destination.values())


def select_rules(endpoints: Sequence[SliceEndpoints], *, cluster: bool, local: bool) -> EndpointSelection:
    """Return the rules for a Service port with *endpoints*, for the policies that it needs (*cluster*, *local*)."""
    return EndpointSelection(
        _cluster_rule(endpoints) if cluster else SelectionRule.NONE,
        _local_rule(endpoints) if local else SelectionRule.NONE,
    )


def selects_any(endpoints: Iterable[SliceEndpoints], rule: SelectionRule) -> bool:
    """Return whether *rule* selects any of *endpoints*."""
    return any(part.selected(rule) for part in endpoints)


def real_servers(
    server: VirtualServer, selected: Sequence[Backend], spec_of: SpecOf | None = None, turn: int = 0
) -> Rows:
    """Return the real servers of *server* for the *selected* endpoints.

    Args:
        server: The virtual server.
        selected: The endpoints.
        spec_of: Returns the spec of each; None: all have the weight 1.
        turn: Decides by which of them the rows begin (turned).
    """
    ordered = turned(selected, turn)
    if spec_of is None:
        return {RealServer(server, b.address, b.port): SERVING for b in ordered}
    return {RealServer(server, b.address, b.port): spec_of(b.endpoint) for b in ordered}


MakeRows = Callable[[VirtualServer, Sequence[Backend]], Rows]
"""Returns the real servers of a virtual server for endpoints."""


def turn_of(node: str, service: ServiceName) -> int:
    """Return by how many places the endpoints of *service* are turned on *node*: any number, the same each time.

    Round robin of each node begins with the endpoint that was added last, so without this all nodes would begin with
    the same one, and a client with many connections through new nodes would hit it alone (kubernetes#121591).
    """
    return crc32(f"{node}/{service}".encode()) if node else 0


def turned(items: Sequence[_Item], turn: int) -> Sequence[_Item]:
    """Return *items* in their order, beginning with that in place *turn*, counted round and round."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]] if start else items


def is_local(endpoint: Endpoint, node: str) -> bool:
    """Return whether *endpoint* is on *node*; one whose node is unknown is not."""
    return endpoint.node == node != ""


# Run by map() without Python code for each endpoint.
_node_hints: Callable[[Backend], tuple[str, ...]] = attrgetter("endpoint.node_hints")
_zone_hints: Callable[[Backend], tuple[str, ...]] = attrgetter("endpoint.zone_hints")
_ready: Callable[[SliceEndpoints], list[Backend]] = attrgetter("ready")
_complete: Callable[[_Hints], bool] = attrgetter("complete")
_matching: Callable[[_Hints], list[Backend]] = attrgetter("matching")
_HINT_RULES: tuple[tuple[SelectionRule, Callable[[SliceEndpoints], _Hints]], ...] = (
    (SelectionRule.NODE_HINTED, attrgetter("node_hints")),
    (SelectionRule.ZONE_HINTED, attrgetter("zone_hints")),
)


def _cluster_rule(endpoints: Sequence[SliceEndpoints]) -> SelectionRule:
    """Return the rule for policy Cluster.

    Node hints count if every ready endpoint has one and any of them names this node; else zone hints by the same
    condition.  A single ready endpoint without hints turns them off (KEP-2433, KEP-3015).
    """
    if not any(map(_ready, endpoints)):
        return SelectionRule.TERMINATING if selects_any(endpoints, SelectionRule.TERMINATING) else SelectionRule.NONE
    for rule, hints_of in _HINT_RULES:
        hints = list(map(hints_of, endpoints))
        if all(map(_complete, hints)) and any(map(_matching, hints)):
            return rule
    return SelectionRule.READY


def _local_rule(endpoints: Sequence[SliceEndpoints]) -> SelectionRule:
    return next(
        (rule for rule in (SelectionRule.LOCAL, SelectionRule.LOCAL_TERMINATING) if selects_any(endpoints, rule)),
        SelectionRule.NONE,
    )


def _serving_terminating(candidates: Iterable[Backend]) -> list[Backend]:
    return [b for b in candidates if b.endpoint.serving and b.endpoint.terminating]
