"""Services as documents: where each is served, by which real servers, and why not.

Invariants:
- The cost of one Service is that of its own rows, so that one of 10,000 costs nothing of the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.claims import Claim
from kubeproxy_py.compile.conditions import destination_of
from kubeproxy_py.compile.frontends import external_local, is_local_policy, source_ranges
from kubeproxy_py.compile.settings import flag_names, settings_in_force
from kubeproxy_py.compile.unserved import Unserved, unserved_outside, unserved_reason
from kubeproxy_py.diagnose.conditions import all_set_aside, condition_text
from kubeproxy_py.diagnose.document import (
    RealServerState,
    RealServerStatus,
    ServiceState,
    VirtualServerState,
    VirtualServerStatus,
)
from kubeproxy_py.diagnose.handing_on import Names, handing_on_of, is_handed_on, names_of_peers
from kubeproxy_py.diagnose.rows import moment_text, row_status, trouble_text
from kubeproxy_py.diagnose.service_notes import may_have_notes, notes_of
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.policy_marks import servers_by_entry
from kubeproxy_py.model.rows import (
    Address,
    Connections,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import Endpoint, Service, ServiceName, ServicePort
from kubeproxy_py.net import IP, family_of, pack

KIND_NAMES: Mapping[FrontendKind, str] = {
    FrontendKind.CLUSTER_IP: "ClusterIP",
    FrontendKind.LOAD_BALANCER: "LoadBalancer",
    FrontendKind.EXTERNAL_IP: "externalIP",
    FrontendKind.NODE_PORT: "NodePort",
}
"""The kinds of addresses, as Kubernetes calls them."""

WORST_FIRST: tuple[VirtualServerStatus, ...] = ("failing", "stale", "pending", "unserved", "refused", "serving")
"""The states of virtual servers in the order in which they are listed."""

_RANK = {status: rank for rank, status in enumerate(WORST_FIRST)}

_NO_REASON = Unserved("", "")

ConnectionCounts = Mapping[RealServer, Connections]
Pod = tuple[Endpoint, str]
"""An endpoint, and the name of its pod."""


class _Detail(Struct, frozen=True, gc=False):
    """The desired rows of a Service, and what of its real servers is in a document."""

    parts: Sequence[Rows]
    pods: Mapping[IP, Pod]
    connections: ConnectionCounts | None
    lists_real_servers: bool


class ServiceView:
    """The Services of *snapshot*, each computed when it is asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._extra: dict[VirtualServer, list[RealServer]] = {}  # real servers that are not desired, or wait
        unsettled = (key for key in snapshot.pending if isinstance(key, RealServer))
        self._aside = all_set_aside(snapshot) if snapshot.conditions else {}
        self._aside_by_mark = _aside_by_mark(snapshot, self._aside)
        self._troubled = dict.fromkeys((*snapshot.draining, *unsettled, *self._aside))  # all others serve
        for key in self._troubled:
            self._extra.setdefault(key.virtual_server, []).append(key)
        self._with_refusals = frozenset(refusal.service for refusal in snapshot.refusals)

    def state(
        self, name: ServiceName, connections: ConnectionCounts | None = None, *, lists_real_servers: bool = True
    ) -> ServiceState:
        """Return the Service *name*, which is known.

        Args:
            name: The Service.
            connections: The number of connections of its real servers; None: they were not read.
            lists_real_servers: List each real server, not only their numbers.
        """
        snapshot = self.snapshot
        service = snapshot.services[name]
        servers = snapshot.claims.claimed_by(name)
        desired = self._real_servers(name)
        pods = self.pods(name) if lists_real_servers else {}
        detail = _Detail(snapshot.parts.get(name, ()), pods, connections, lists_real_servers)
        states = [self._server(service, server, desired.get(server, ()), detail) for server in servers]
        settings = settings_in_force(service, snapshot.refusals.of(name)) if states else {}
        has_refusals = name in self._with_refusals
        has_notes = may_have_notes(snapshot, service, has_refusals=has_refusals)
        notes = tuple(notes_of(snapshot, service, has_refusals=has_refusals)) if has_notes else ()
        handing_on = handing_on_of(snapshot, name, self._peer_names) if service.settings.direct_return else ()
        return ServiceState(name.namespace, name.name, service.type, tuple(states), notes, settings, handing_on)

    @cached_property
    def _peer_names(self) -> Names:
        return names_of_peers(self.snapshot)

    def orphans(self, connections: ConnectionCounts | None = None, *, lists_real_servers: bool = True) -> ServiceState:
        """Return the virtual servers in the kernel that no Service has, and that are still to be deleted.

        Before the initial lists it is unknown which Service has one, and all are returned.
        """
        keys = self._actual_servers() if self.snapshot.awaited else self.snapshot.pending
        servers = [key for key in keys if isinstance(key, VirtualServer) and self._is_orphan(key)]
        states = [
            self._orphan(server, _Detail((), {}, connections, lists_real_servers))
            for server in sorted(servers, key=server_order)
        ]
        return ServiceState("", "", "", tuple(states))

    def pods(self, name: ServiceName) -> dict[IP, Pod]:
        """Return the endpoints of the Service *name* by address, each with its pod."""
        return {
            endpoint.address: (endpoint, pod)
            for part in self.snapshot.slices_of(name)
            for endpoint, pod in zip(part.endpoints, part.pod_names(), strict=False)
        }

    def _actual_servers(self) -> Iterable[Key]:
        """Return the virtual servers of the kernel, and list their real servers with them."""
        self._extra = {}
        for key in self.snapshot.actual:
            if isinstance(key, RealServer):
                self._extra.setdefault(key.virtual_server, []).append(key)
        return self.snapshot.actual

    def _is_orphan(self, server: VirtualServer) -> bool:
        """Return whether no Service has *server*, which is pending, or was found among the actual rows.

        One by firewall mark has no address of its own, and goes as soon as its connections have ended.
        """
        held = server.mark or self.snapshot.claims.holder(server)
        return not held and self.snapshot.kernel_rows.has(server, ())

    def _real_servers(self, name: ServiceName) -> dict[VirtualServer, list[RealServer]]:
        """Return the real servers that the Service *name* wants."""
        # Not isinstance, and no hash of each virtual server: 100,000 of them at 10,000 Services.
        keys = [key for part in self.snapshot.parts.get(name, ()) for key in part if type(key) is RealServer]
        if not keys:
            return {}
        first = keys[0].virtual_server
        if not [key for key in keys if key.virtual_server is not first]:
            return {first: keys}
        found: dict[VirtualServer, list[RealServer]] = {}
        for key in keys:
            found.setdefault(key.virtual_server, []).append(key)
        return found

    def _server(
        self, service: Service, server: VirtualServer, desired: Sequence[RealServer], detail: _Detail
    ) -> VirtualServerState:
        snapshot = self.snapshot
        claims = snapshot.claims.claims_to(server)
        kind = next((claim.kind for claim in claims if claim.service == service.name), FrontendKind.CLUSTER_IP)
        port = port_of(service, server, kind)
        if claims and claims[0].service != service.name:
            return self._refused(server, kind, port, claims[0])
        keys = desired
        if server in self._extra:
            keys = [*desired, *(key for key in self._extra[server] if key not in desired)]
        counts = self._counts(keys)
        status, why = self._judge(service, port, server, kind, counts)
        spec = self._spec(server, detail.parts)
        active, inactive = _sums(keys, detail.connections)
        return VirtualServerState(
            server.address,
            server.port,
            server.protocol,
            KIND_NAMES[kind],
            status,
            port.name if port else "",
            spec.scheduler if spec else "",
            spec.persistence_s if spec else 0,
            "Local" if is_local_policy(service, kind) else "Cluster",
            source_ranges(service, family_of(server.address)) if kind is FrontendKind.LOAD_BALANCER else (),
            why.kind,
            why.text,
            counts["serving"],
            counts["draining"],
            counts["pending"] + counts["failing"],
            active,
            inactive,
            self._real_servers_of(keys, detail),
            affinity_mask=spec.netmask if spec else "",
            scheduler_flags=flag_names(spec.flags) if spec else (),
            aside=counts["set aside"] + self._count_aside_by_mark(server, keys),
        )

    def _refused(
        self, server: VirtualServer, kind: FrontendKind, port: ServicePort | None, best: Claim
    ) -> VirtualServerState:
        return VirtualServerState(
            server.address,
            server.port,
            server.protocol,
            KIND_NAMES[kind],
            "refused",
            port.name if port else "",
            reason=f"not served for this Service: {best.service} has it as {KIND_NAMES[best.kind]}",
        )

    def _orphan(self, server: VirtualServer, detail: _Detail) -> VirtualServerState:
        keys, spec = self._extra.get(server, ()), self._spec(server, detail.parts)
        counts = self._counts(keys)
        return VirtualServerState(
            server.address,
            server.port,
            server.protocol,
            "",
            "serving" if self.snapshot.awaited else "stale",
            scheduler=spec.scheduler if spec else "",
            affinity_seconds=spec.persistence_s if spec else 0,
            reason=""
            if self.snapshot.awaited
            else f"no Service has it; it is to be deleted: {trouble_text(self.snapshot, server)}",
            serving=counts["serving"],
            draining=counts["draining"],
            failing=counts["pending"] + counts["failing"],
            real_servers=self._real_servers_of(keys, detail),
        )

    def _spec(self, server: VirtualServer, parts: Sequence[Rows]) -> VirtualServerSpec | None:
        """Return the spec that *server* has in the kernel, or else in *parts*."""
        spec = self.snapshot.kernel_rows.get(server, parts)
        if spec is None:
            spec = next((part[server] for part in parts if server in part), None)
        return spec if isinstance(spec, VirtualServerSpec) else None

    def _judge(
        self,
        service: Service,
        port: ServicePort | None,
        server: VirtualServer,
        kind: FrontendKind,
        counts: Mapping[RealServerStatus, int],
    ) -> tuple[VirtualServerStatus, Unserved]:
        """Return the state of *server* with real servers in these numbers, and the reason."""
        snapshot = self.snapshot
        for key in (server, Address(server.address)) if snapshot.pending else ():
            if key in snapshot.pending:
                is_failing = row_status(snapshot, key) in ("failing", "waiting")
                what = "" if key is server else "its address is not on kube-ipvs0: "
                return "failing" if is_failing else "pending", Unserved("", what + trouble_text(snapshot, key))
        if counts["failing"]:
            return "failing", Unserved("", f"real servers that failed: {counts['failing']}")
        if counts["pending"]:
            return "pending", Unserved("", f"real servers that are not applied yet: {counts['pending']}")
        is_outside = kind is not FrontendKind.CLUSTER_IP and external_local(service)
        is_outside = is_outside and not is_handed_on(snapshot, service, server)
        if port is None or (counts["serving"] and not is_outside):
            return "serving", _NO_REASON
        find = unserved_outside if counts["serving"] else unserved_reason
        slices, family = snapshot.slices_of(service.name), family_of(server.address)
        why = find(service, port, slices, family, snapshot.context)
        return ("unserved", why) if why else ("serving", _NO_REASON)

    def _counts(self, keys: Sequence[RealServer]) -> Mapping[RealServerStatus, int]:
        if not self._troubled:
            return Counter({"serving": len(keys)})
        return Counter(map(self.real_server_status, keys))

    def _count_aside_by_mark(self, server: VirtualServer, keys: Iterable[RealServer]) -> int:
        """Return how many endpoints are set aside to which *server* leads clients by mark only, not by *keys*."""
        places = self._aside_by_mark.get(server_entry(server)) if self._aside_by_mark else None
        return len(places.difference(map(destination_of, keys))) if places else 0

    def real_server_status(self, key: RealServer) -> RealServerStatus:
        """Return the state of the real server *key*."""
        snapshot = self.snapshot
        if key in snapshot.pending:
            return "failing" if row_status(snapshot, key) in ("failing", "waiting") else "pending"
        if key in snapshot.draining:
            return "draining"
        return "set aside" if key in self._aside else "serving"

    def _real_servers_of(self, keys: Iterable[RealServer], detail: _Detail) -> tuple[RealServerState, ...] | None:
        """Return the real servers *keys*, those in trouble first; None if they are not listed."""
        if not detail.lists_real_servers:
            return None
        ordered = sorted(keys, key=lambda key: (pack(key.address), key.port))
        states = [self._real_server(key, detail) for key in ordered]
        return tuple(sorted(states, key=lambda state: _REAL_SERVER_RANK[state.status]))

    def _real_server(self, key: RealServer, detail: _Detail) -> RealServerState:
        snapshot, pod, connections = self.snapshot, detail.pods.get(key.address), detail.connections
        spec, drain = snapshot.kernel_rows.get(key, detail.parts), snapshot.draining.get(key)
        count = connections.get(key, Connections()) if connections is not None else None
        return RealServerState(
            key.address,
            key.port,
            self.real_server_status(key),
            spec.weight if isinstance(spec, RealServerSpec) else None,
            pod[1] if pod else "",
            pod[0].node if pod else "",
            pod[0].zone if pod else "",
            moment_text(snapshot, drain.since_s) if drain else "",
            moment_text(snapshot, drain.deadline_s) if drain else "",
            trouble_text(snapshot, key),
            count.active if count else None,
            count.inactive if count else None,
            spec.upper if isinstance(spec, RealServerSpec) else 0,
            self._condition(key),
        )

    def _condition(self, key: RealServer) -> str:
        holder = self.snapshot.claims.holder(key.virtual_server) if self.snapshot.conditions else None
        if not holder:
            return ""
        return condition_text(self.snapshot, holder, (key.address, key.port), is_aside=key in self._aside)


_REAL_SERVER_RANK: Mapping[RealServerStatus, int] = {
    "failing": 0,
    "pending": 1,
    "set aside": 2,
    "draining": 3,
    "serving": 4,
}


def _aside_by_mark(snapshot: Snapshot, aside: Iterable[RealServer]) -> dict[str, set[Destination]]:
    """Return by frontend, as an entry of a set names it, the endpoints *aside* to which it leads clients by mark."""
    by_server: dict[VirtualServer, set[Destination]] = {}
    for key in aside:
        if key.virtual_server.mark:
            by_server.setdefault(key.virtual_server, set()).add(destination_of(key))
    found: dict[str, set[Destination]] = {}
    for name in snapshot.conditions if by_server else ():
        for entry, server in servers_by_entry(snapshot.desired_of(name)).items():
            found[entry.entry] = found.get(entry.entry, set()) | by_server.get(server, set())
    return found


def rank(state: ServiceState) -> tuple[int, str, str]:
    """Return the key by which Services are listed: the worst first, then by name."""
    ranks = [_RANK[server.status] for server in state.virtual_servers]
    worst = min(ranks) if ranks else len(_RANK)
    return worst, state.namespace, state.name


def server_order(server: VirtualServer) -> tuple[int, bytes, int, str]:
    """Return the key by which virtual servers are listed."""
    packed = pack(server.address)
    return len(packed), packed, server.port, server.protocol


def port_of(service: Service, server: VirtualServer, kind: FrontendKind) -> ServicePort | None:
    """Return the port of *service* that *server*, a frontend of *kind*, serves."""
    is_node_port = kind is FrontendKind.NODE_PORT
    for port in service.ports:
        number = port.node_port if is_node_port else port.port
        if number == server.port and port.protocol == server.protocol:
            return port
    return None


def _sums(keys: Iterable[RealServer], connections: ConnectionCounts | None) -> tuple[int | None, int | None]:
    if connections is None:
        return None, None
    counts = [connections[key] for key in keys if key in connections]
    return sum(count.active for count in counts), sum(count.inactive for count in counts)


def owned_rows(snapshot: Snapshot, name: ServiceName) -> Rows:
    """Return the rows that the Service *name* wants, and those behind its virtual servers that are to go."""
    rows = snapshot.desired_of(name)
    servers = {key for key in rows if isinstance(key, VirtualServer)}
    extra: Iterable[Key] = (*snapshot.draining, *snapshot.pending)
    return {
        **{key: None for key in extra if isinstance(key, RealServer) and key.virtual_server in servers},
        **rows,
    }
