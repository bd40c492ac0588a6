"""Targets of `explain`: a Service, an address with or without a port, or an endpoint."""

from collections.abc import Iterable
from difflib import get_close_matches

from msgspec import Struct

from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, join_host_port, parse_ip

_NEAREST_MAX = 3
_PORT_MAX = 65535


class UnknownTargetError(Exception):
    """The agent knows nothing of this name or address.

    Attributes:
        nearest: names like it.
    """

    def __init__(self, message: str, nearest: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)


class ServiceTarget(Struct, frozen=True, gc=False):
    """A Service, or one of its ports by name or number."""

    name: ServiceName
    port: str | None = None  # None: all


class AddressTarget(Struct, frozen=True, gc=False):
    """An address; 0 and "" mean any port and protocol."""

    address: IP
    port: int = 0
    protocol: str = ""

    def __str__(self) -> str:
        text = join_host_port(self.address, self.port) if self.port else self.address
        return f"{text}/{self.protocol}" if self.protocol else text


Target = ServiceTarget | AddressTarget


def parse_target(text: str) -> Target:
    """Return the target that *text* names.  Raises UnknownTargetError if it cannot name one."""
    body, _, protocol = text.strip().rpartition("/")
    if protocol.upper() in PROTOCOL_NUMBERS and body:
        target = _address_target(body)
        if target is None:
            raise UnknownTargetError(f"{body!r} is not an address", ())
        return AddressTarget(target.address, target.port, protocol.upper())
    return _address_target(text.strip()) or _service_target(text.strip())


def _service_target(text: str) -> ServiceTarget:
    name, colon, port = text.partition(":")
    namespace, slash, base = name.partition("/")
    if not (namespace and (base or not slash)):
        raise UnknownTargetError(f"{text!r} names nothing; write NAMESPACE/SERVICE, ADDRESS:PORT or ADDRESS")
    return ServiceTarget(ServiceName(namespace if slash else "default", base or namespace), port if colon else None)


def _address_target(text: str) -> AddressTarget | None:
    """Return the address, with or without a port, that *text* is; None if it is none."""
    for host, port in ((text, ""), _split(text)):
        try:
            address = parse_ip(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            continue
        if not port:
            return AddressTarget(address)
        if port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _PORT_MAX:
            return AddressTarget(address, int(port))
        raise UnknownTargetError(f"{port[:20]!r} is not a port")
    return None


def _split(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    return host, port


def resolve_service(snapshot: Snapshot, target: ServiceTarget) -> ServiceName:
    """Return the Service of *target*.  Raises UnknownTargetError, with names like it."""
    name = target.name
    if name not in snapshot.services:
        known = {str(one): one for one in snapshot.services}
        same = [text for text, one in known.items() if one.name == name.name]
        close = (
            get_close_matches(str(name), list(known), n=_NEAREST_MAX, cutoff=0.75)
            if len(known) <= _COMPARED_MAX
            else []
        )
        nearest = tuple(dict.fromkeys((*same[:_NEAREST_MAX], *close)))[:_NEAREST_MAX]
        raise UnknownTargetError(f"no Service {name} is known to this agent ({len(known):,} are)", nearest)
    ports = snapshot.services[name].ports
    if target.port is not None and not any(target.port in (port.name, str(port.port)) for port in ports):
        names = [f"{name}:{port.name or port.port}" for port in ports]
        raise UnknownTargetError(f"Service {name} has no port {target.port!r}", names)
    return name


_COMPARED_MAX = 20_000  # names that are compared with a misspelt one, which takes 0.2 s for 10,000
_LIKE = 0.75  # how like a name must be (difflib)


def frontends_at(snapshot: Snapshot, target: AddressTarget) -> list[VirtualServer]:
    """Return the frontends that Services claim at *target*."""
    return [
        server
        for server in snapshot.claims.servers()
        if server.address == target.address
        and target.port in (0, server.port)
        and target.protocol in ("", server.protocol)
    ]


def services_with_endpoint(snapshot: Snapshot, target: AddressTarget) -> list[ServiceName]:
    """Return the Services that have *target* as an endpoint."""
    return [
        name
        for name, parts in snapshot.slices.items()
        if any(
            any(endpoint.address == target.address for endpoint in part.endpoints)
            and (not target.port or any(port.port == target.port for port in part.ports))
            for part in parts
        )
    ]
