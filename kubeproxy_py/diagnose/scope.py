"""Scope: the Services, virtual servers and endpoint that a target of `explain` means."""

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.diagnose.services import KIND_NAMES, server_order
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.targets import (
    AddressTarget,
    PortTarget,
    ServiceTarget,
    Target,
    UnknownTargetError,
    address_of_pod,
    frontends_at,
    frontends_with_port,
    is_meant,
    resolve_service,
    services_with_endpoint,
    services_with_node_port,
)
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ServiceName, ServicePort
from kubeproxy_py.net import IP, special_use

_SERVICES_MAX = 20  # that one address or endpoint belongs to, and that are explained


class Scope:
    """The Services that *target* names in *snapshot*, and which of their frontends it means.

    Raises UnknownTargetError.
    """

    def __init__(self, snapshot: Snapshot, target: Target) -> None:
        self.target = target
        self.servers: tuple[VirtualServer, ...] | None = None  # None: all of the Services
        self.endpoint: IP = ""
        try:
            if isinstance(target, ServiceTarget):
                self._find_service(snapshot, target)
            elif isinstance(target, PortTarget):
                self._find_port(snapshot, target)
            else:
                self._find_address(snapshot, target)
        except UnknownTargetError as error:
            if not snapshot.awaited:
                raise
            raise UnknownTargetError(f"{error}; {awaited_text(snapshot)}", error.nearest) from None

    @property
    def names_port(self) -> bool:
        """Whether the target names a port of its Service."""
        target = self.target
        return isinstance(target, ServiceTarget) and not self.endpoint and bool(target.port or target.protocol)

    def means(self, port: ServicePort) -> bool:
        """Return whether the target names *port* of a Service in scope, or names none."""
        return not self.names_port or (isinstance(self.target, ServiceTarget) and is_meant(self.target, port))

    def _find_service(self, snapshot: Snapshot, target: ServiceTarget) -> None:
        pod = "" if target.name in snapshot.services else address_of_pod(snapshot, target.name)
        if not pod:
            self.names: list[ServiceName] = [resolve_service(snapshot, target)]
            self.summary = f"Service {target.name}"
            return
        self.names = sorted(services_with_endpoint(snapshot, AddressTarget(pod)))[:_SERVICES_MAX]
        self.endpoint = pod
        self.summary = f"Pod {target.name} ({pod}) is an endpoint of {', '.join(map(str, self.names))}"

    def _find_port(self, snapshot: Snapshot, target: PortTarget) -> None:
        servers = sorted(frontends_with_port(snapshot, target), key=server_order)
        claims = [claim for server in servers for claim in snapshot.claims.claims_to(server)]
        found = list(dict.fromkeys(claim.service for claim in claims))
        unserved = services_with_node_port(snapshot, target)
        if found:
            self.names = found[:_SERVICES_MAX]
            meant = set(self.names)
            self.servers = tuple(
                server
                for server in servers
                if any(claim.service in meant for claim in snapshot.claims.claims_to(server))
            )
            what = "the NodePort" if claims[0].kind is FrontendKind.NODE_PORT else "a port"
        elif unserved:
            self.names = sorted(unserved)[:_SERVICES_MAX]
            what, found = "a NodePort, not served by this node,", unserved
        else:
            found = sorted(services_with_endpoint(snapshot, target))
            self.names = found[:_SERVICES_MAX]
            what = "a port of the endpoints"
        if not found:
            self._find_server(snapshot, target)
            return
        more = f" and {len(found) - len(self.names):,} more" if len(found) > len(self.names) else ""
        self.summary = f"{target} is {what} of Service {', '.join(map(str, self.names))}{more}"

    def _find_server(self, snapshot: Snapshot, target: AddressTarget | PortTarget) -> None:
        """Find *target* among the virtual servers of the kernel, while the objects are not known."""
        known = [key for key in snapshot.actual if isinstance(key, VirtualServer) and _is_at(key, target)]
        if not (known and snapshot.awaited):
            raise UnknownTargetError(*_unknown(snapshot, target))
        self.names, self.servers = [], tuple(sorted(known, key=server_order))
        self.summary = f"{target} is a virtual server of the kernel; whose is unknown without the objects"

    def _find_address(self, snapshot: Snapshot, target: AddressTarget) -> None:
        servers = sorted(frontends_at(snapshot, target), key=server_order)
        if servers:
            self.servers = tuple(servers)
            claims = [claim for server in servers for claim in snapshot.claims.claims_to(server)]
            self.names = list(dict.fromkeys(claim.service for claim in claims))[:_SERVICES_MAX]
            best = claims[0]
            self.summary = f"{target} is {KIND_NAMES[best.kind]} of Service {best.service}"
            return
        self.names = sorted(services_with_endpoint(snapshot, target))[:_SERVICES_MAX]
        if self.names:
            self.endpoint = target.address
            self.summary = f"{target} is an endpoint of {', '.join(map(str, self.names))}"
            return
        self._find_server(snapshot, target)


def _is_at(server: VirtualServer, target: AddressTarget | PortTarget) -> bool:
    is_there = isinstance(target, PortTarget) or server.address == target.address
    return is_there and target.port in (0, server.port) and target.protocol in ("", server.protocol)


def _unknown(snapshot: Snapshot, target: AddressTarget | PortTarget) -> tuple[str, list[str]]:
    """Return what is known of a target that no Service has, and what is like it."""
    if isinstance(target, AddressTarget):
        return _unknown_address(snapshot, target)
    return f"no Service and no endpoint has the port {target} ({len(snapshot.services):,} Services are known)", []


def _unknown_address(snapshot: Snapshot, target: AddressTarget) -> tuple[str, list[str]]:
    """Return what is known of an address that no Service has, and what is like it."""
    at_address = frontends_at(snapshot, AddressTarget(target.address))
    if at_address:
        names = {snapshot.claims.holder(server) for server in at_address}
        text = f"no Service has {target}; {', '.join(map(str, filter(None, names)))} has the address with other ports"
        return text, [str(server) for server in sorted(at_address, key=server_order)[:5]]
    hosts = [host.interface for host in snapshot.host_addresses if host.address == target.address]
    if hosts:
        same_port = [server for server in snapshot.claims.servers() if server.port == target.port]
        return f"{target.address} is an address of this node ({hosts[0]}), and no Service is served there", [
            str(server) for server in sorted(same_port, key=server_order)[:3]
        ]
    refused = [one for one in snapshot.refusals if one.subject == target.address]
    if refused:
        return f"{target.address} is not served: {refused[0]}", []
    if use := special_use(target.address):
        article = "an" if use == "unspecified" else "a"
        return f"{target.address} is {article} {use} address, which no Service can have", []
    text = f"no Service and no endpoint has {target} ({len(snapshot.services):,} Services are known)"
    return text, []


def servers_of(snapshot: Snapshot, scope: Scope) -> list[VirtualServer]:
    """Return the virtual servers of *scope* that the kernel has, for counting their connections."""
    claimed = (server for name in scope.names for server in snapshot.claims.claimed_by(name))
    wanted = scope.servers if scope.servers is not None else claimed
    return [server for server in dict.fromkeys(wanted) if server in snapshot.actual]


def awaited_text(snapshot: Snapshot) -> str:
    """Return which initial lists are awaited, in words."""
    return f"the initial lists of {', '.join(sorted(snapshot.awaited))} were not received yet"
