"""Explain one Service, address or endpoint: who owns it, what follows from it, and what is wrong with it."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

from kubeproxy_py.compile.desired import BASE, CHAINS
from kubeproxy_py.diagnose.conditions import condition_text, set_aside
from kubeproxy_py.diagnose.document import (
    VERSION,
    ClaimState,
    EndpointState,
    Explanation,
    RowState,
    ServiceExplanation,
    ServiceState,
)
from kubeproxy_py.diagnose.endpoints import endpoint_states
from kubeproxy_py.diagnose.remedies import remedies
from kubeproxy_py.diagnose.rows import moment_text, row_state, time_text
from kubeproxy_py.diagnose.scope import Scope, awaited_text
from kubeproxy_py.diagnose.service_notes import not_served_text
from kubeproxy_py.diagnose.services import (
    KIND_NAMES,
    ConnectionCounts,
    ServiceView,
    owned_rows,
)
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.state import agent_state
from kubeproxy_py.diagnose.targets import rejections
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.rows import (
    Address,
    IpsetEntry,
    Key,
    MarkSpec,
    PolicyEntry,
    RealServer,
    Rows,
    VirtualServer,
    mark_server,
)
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.net import IP

_PLACES_MAX = 3  # addresses that are named for one reason


def explain(snapshot: Snapshot, scope: Scope, connections: ConnectionCounts | None = None) -> Explanation:
    """Return all that is known of *scope* in *snapshot*; *connections* of its real servers, if they were read."""
    view = ServiceView(snapshot)
    services = tuple(_explain_service(snapshot, view, scope, name, connections) for name in scope.names)
    base = (*_base_rows(snapshot), *_rows_of_nobody(snapshot, scope))
    problems = tuple(
        dict.fromkeys(
            (*_agent_problems(snapshot), *_problems(snapshot, services, scope), *_row_problems(_base_rows(snapshot)))
        )
    )
    return Explanation(
        VERSION,
        "Explanation",
        moment_text(snapshot, snapshot.taken_s),
        agent_state(snapshot),
        str(scope.target),
        scope.summary,
        "wrong" if problems else "well",
        problems,
        services,
        base,
        tuple(_next(scope, services, problems)),
        tuple(remedies(services)),
    )


def _explain_service(
    snapshot: Snapshot,
    view: ServiceView,
    scope: Scope,
    name: ServiceName,
    connections: ConnectionCounts | None,
) -> ServiceExplanation:
    service = snapshot.services[name]
    state = _narrowed(view.state(name, connections), scope, service)
    by_mark = _marks_to(snapshot, name, scope.endpoint) if scope.endpoint and snapshot.context.policy_marks else ()
    servers = [
        VirtualServer(server.address, server.port, server.protocol)  # type: ignore[arg-type]
        for server in state.virtual_servers
    ]
    endpoints: Iterable[EndpointState] = endpoint_states(snapshot, service, scope.means)
    if scope.endpoint:
        endpoints = (endpoint for endpoint in endpoints if endpoint.address == scope.endpoint)
    return ServiceExplanation(
        state,
        tuple(endpoints),
        tuple(_rows_of(snapshot, name, {*servers, *by_mark}, scope.endpoint)),
        tuple(_claims(snapshot, servers)),
    )


def _marks_to(snapshot: Snapshot, name: ServiceName, endpoint: IP) -> Collection[VirtualServer]:
    """Return the virtual servers by mark of the Service *name* that have *endpoint*, which may have no others."""
    return {
        key.virtual_server
        for part in snapshot.parts.get(name, ())
        for key in part
        if isinstance(key, RealServer) and key.virtual_server.mark and key.address == endpoint
    }


def _narrowed(state: ServiceState, scope: Scope, service: Service) -> ServiceState:
    """Return *state* with the virtual servers that *scope* means."""
    servers = state.virtual_servers
    if scope.names_port:
        meant = {(number, port.protocol) for port in service.ports if scope.means(port) for number in _numbers(port)}
        servers = tuple(one for one in servers if (one.port, one.protocol) in meant)
    if scope.servers is not None:
        servers = tuple(
            one
            for one in servers
            if VirtualServer(one.address, one.port, one.protocol) in scope.servers  # type: ignore[arg-type]
        )
    if scope.endpoint:
        servers = tuple(
            one for one in servers if any(real.address == scope.endpoint for real in one.real_servers or ())
        )
    return replace(state, virtual_servers=servers)


def _numbers(port: ServicePort) -> tuple[int, int]:
    return port.port, port.node_port


def _rows_of(
    snapshot: Snapshot, name: ServiceName, servers: Collection[VirtualServer], endpoint: IP
) -> Iterator[RowState]:
    """Yield the rows of the Service *name* that belong to *servers*, in the order in which they are built."""
    desired = snapshot.desired_of(name)
    servers = {*servers, *_servers_by_mark(desired, servers)}
    rows = [key for key in owned_rows(snapshot, name) if _belongs(key, servers, endpoint)]
    for key in sorted(rows, key=_row_order):
        yield row_state(snapshot, key, desired)


def _servers_by_mark(desired: Rows, servers: Iterable[VirtualServer]) -> Iterator[VirtualServer]:
    """Yield the virtual servers by firewall mark to which frontends at *servers* lead clients of this node."""
    frontends = {server_entry(server) for server in servers}
    for key, spec in desired.items():
        if isinstance(key, PolicyEntry) and isinstance(spec, MarkSpec) and key.entry in frontends:
            yield mark_server(kube_names.family_of_set(key.set), spec.mark)


_ROW_KINDS: tuple[type[Key], ...] = (IpsetEntry, VirtualServer, RealServer, PolicyEntry, Address)


def _row_order(key: Key) -> tuple[int, str]:
    return _ROW_KINDS.index(type(key)) if type(key) in _ROW_KINDS else -1, str(key)


def _belongs(key: Key, servers: Collection[VirtualServer], endpoint: IP) -> bool:
    match key:
        case RealServer(virtual_server=server, address=address):
            return server in servers and endpoint in ("", address)
        case VirtualServer():
            return key in servers
        case Address(address=address):
            return not endpoint and any(server.address == address for server in servers)
        case IpsetEntry(entry=entry):
            if endpoint:
                return entry.startswith(f"{endpoint},")
            return any(_is_entry_of(entry, server) for server in servers) or entry.count(",") == _HAIRPIN_COMMAS
        case _:
            return True


_HAIRPIN_COMMAS = 2  # "10.244.1.5,tcp:8080,10.244.1.5": of an endpoint, not of a frontend


def _is_entry_of(entry: str, server: VirtualServer) -> bool:
    exact = server_entry(server)
    return entry in (exact, server.address, str(server.port)) or entry.startswith(f"{exact},")


def _base_rows(snapshot: Snapshot) -> tuple[RowState, ...]:
    """Return the rows of no Service that are not as desired: without them no Service works."""
    if not snapshot.pending:
        return ()
    desired: Rows = {**snapshot.desired_of(BASE), **snapshot.desired_of(CHAINS)}
    return tuple(row_state(snapshot, key, desired) for key in desired.keys() & snapshot.pending.keys())


def _rows_of_nobody(snapshot: Snapshot, scope: Scope) -> Iterator[RowState]:
    """Yield the rows of the virtual servers of *scope*, if it is unknown which Service has them."""
    if not scope.names:
        servers = scope.servers or ()
        keys = [key for key in snapshot.actual if isinstance(key, RealServer) and key.virtual_server in servers]
        yield from (row_state(snapshot, key, {}) for key in (*servers, *keys))


def _claims(snapshot: Snapshot, servers: Iterable[VirtualServer]) -> Iterator[ClaimState]:
    for server in servers:
        for index, claim in enumerate(snapshot.claims.claims_to(server)):
            yield ClaimState(str(server), str(claim.service), KIND_NAMES[claim.kind], index == 0)


def _agent_problems(snapshot: Snapshot) -> Iterator[str]:
    """Yield what is wrong with the agent, whatever the target."""
    if snapshot.about.problem:
        yield snapshot.about.problem
    if snapshot.awaited:
        yield awaited_text(snapshot)
    if snapshot.about.saved_s is not None:
        yield f"the API server does not answer; the objects are those saved at {time_text(snapshot.about.saved_s)}"
    for scope, error in snapshot.unread.items():
        yield f"kernel state cannot be read ({scope}): {error}"


def _problems(snapshot: Snapshot, services: Sequence[ServiceExplanation], scope: Scope) -> Iterator[str]:
    for one in services:
        name = f"{one.service.namespace}/{one.service.name}"
        for problem in rejections(snapshot, ServiceName(one.service.namespace, one.service.name)):
            yield f"{name}: its last version is rejected, an earlier one is served: {problem}"
        meant = not_served_text(snapshot.services[ServiceName(one.service.namespace, one.service.name)])
        yield from (f"{name}: {text}" for text in _server_problems(one.service))
        yield from (f"{name}: endpoint {text}" for text in _aside_texts(one.service))
        yield from (f"{name}: endpoint {text}" for text in _aside_by_mark(snapshot, one))
        yield from (f"{name}: {note}" for note in one.service.notes if note != meant)
        yield from (f"{name}: {row.kind} {row.key}: {row.error}" for row in one.rows if row.error)
        if scope.endpoint and not any(endpoint.serves for endpoint in one.endpoints):
            reasons = "; ".join(dict.fromkeys(endpoint.reason for endpoint in one.endpoints))
            yield f"{name}: the endpoint gets no new connections: {reasons}"


def _server_problems(service: ServiceState) -> Iterator[str]:
    """Yield each reason once, with the first addresses that have it: a NodePort is served at many."""
    groups: dict[tuple[str, str], list[str]] = {}
    for server in service.virtual_servers:
        if server.status != "serving":
            at = f"{_at(server.address, server.port)}/{server.protocol}"
            groups.setdefault((server.kind, server.reason), []).append(at)
    for (kind, reason), places in groups.items():
        more = f" and {len(places) - _PLACES_MAX} more" if len(places) > _PLACES_MAX else ""
        yield f"{kind} {', '.join(places[:_PLACES_MAX])}{more}: {reason}"


def _aside_texts(service: ServiceState) -> Iterable[str]:
    """Return each endpoint that is set aside once, with the reason."""
    reals = (real for server in service.virtual_servers for real in server.real_servers or ())
    aside = (real for real in reals if real.status == "set aside")
    return dict.fromkeys(f"{_at(real.address, real.port)}: {real.condition}" for real in aside)


def _aside_by_mark(snapshot: Snapshot, one: ServiceExplanation) -> Iterable[str]:
    """Return each endpoint of *one* that is set aside behind virtual servers by mark only, with the reason."""
    name = ServiceName(one.service.namespace, one.service.name)
    aside = set_aside(snapshot, name)
    named = {(key.address, key.port) for key in aside if not key.virtual_server.mark}
    listed = {row.key for row in one.rows} if aside else set[str]()
    places = {(key.address, key.port): None for key in aside if str(key) in listed}
    return [
        f"{_at(*place)}: {condition_text(snapshot, name, place, is_aside=True)}"
        for place in places
        if place not in named
    ]


def _row_problems(rows: Iterable[RowState]) -> Iterator[str]:
    yield from (f"{row.kind} {row.key}: {row.error or row.status}" for row in rows)


def _at(address: IP, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _next(scope: Scope, services: Sequence[ServiceExplanation], problems: Sequence[str]) -> Iterator[str]:
    """Yield the commands to look further."""
    for one in services[:1]:
        namespace, name = one.service.namespace, one.service.name
        selector = f"kubernetes.io/service-name={name}"
        if any(server.status == "unserved" for server in one.service.virtual_servers) or scope.endpoint:
            yield f"kubectl -n {namespace} get endpointslices -l {selector} -o yaml"
            yield f"kubectl -n {namespace} get pods -o wide  # those that the selector of the Service names"
        if any(server.status == "refused" for server in one.service.virtual_servers):
            yield f"kubectl -n {namespace} get service {name} -o yaml"
        if not problems:
            for server in one.service.virtual_servers[:1]:
                at = f"{_at(server.address, server.port)}/{server.protocol}"
                yield f"kubeproxy-py trace --from pod --to {at}"
    if any(row.status == "failing" for one in services for row in one.rows):
        yield "journalctl -u kubeproxy-py  # or: kubectl -n kube-system logs POD"
