"""Targets of `explain`: a Service, an address with or without a port, a port of any Service, or an endpoint.

Invariants:
- What can name nothing is a TargetFormError; what can, and is not known, is an UnknownTargetError with names like it.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from msgspec import Struct

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.target_forms import plain_target
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ServiceName, ServicePort, SlicePort
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, is_port_number, join_host_port, parse_ip

_NEAREST_MAX = 3


class UnknownTargetError(Exception):
    """The agent knows nothing of this name or address.

    Attributes:
        nearest: names like it.
    """

    def __init__(self, message: str, nearest: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)


class TargetFormError(ValueError):
    """A text that can name nothing, with any objects; its message says how targets are written."""


class ServiceTarget(Struct, frozen=True, gc=False):
    """A Service, or one of its ports by name or number; or a pod, if no Service has the name."""

    name: ServiceName
    port: str | None = None  # None: all
    protocol: str = ""  # "": any

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else str(self.name)


class AddressTarget(Struct, frozen=True, gc=False):
    """An address; 0 and "" mean any port and protocol."""

    address: IP
    port: int = 0
    protocol: str = ""

    def __str__(self) -> str:
        text = join_host_port(self.address, self.port) if self.port else self.address
        return f"{text}/{self.protocol}" if self.protocol else text


class PortTarget(Struct, frozen=True, gc=False):
    """A port, whatever has it: above all a NodePort."""

    port: int
    protocol: str = ""  # "": any

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}" if self.protocol else str(self.port)


Target = ServiceTarget | AddressTarget | PortTarget

FORMS = "write NAMESPACE/SERVICE[:PORT], NAMESPACE/POD, ADDRESS[:PORT][/PROTOCOL] or a NodePort"
_LIKE_AN_ADDRESS = re.compile(r"[\d.]*\.[\d.]*([:/].*)?|[^:]*:[^:]*:.*|\[.*", re.DOTALL)
_NAME_MAX = 253  # characters of a name in Kubernetes
_SHOWN_MAX = 80  # characters of what can name nothing


def parse_target(text: str) -> Target:
    """Return the target that *text* names.  Raises TargetFormError if it cannot name one."""
    plain = plain_target(text)
    body, protocol = _split_protocol(plain)
    target = _port_target(body, protocol) or _address_target(body)
    if isinstance(target, AddressTarget):
        return AddressTarget(target.address, target.port, protocol)
    if target:
        return target
    is_one_name = "/" not in body and ":" not in body  # "web/tcp" is the Service tcp of the namespace web
    return _service_target(plain, "") if is_one_name else _service_target(body, protocol)


def _split_protocol(text: str) -> tuple[str, str]:
    """Return what is before the protocol, and the protocol; "" if none is given."""
    body, slash, last = text.rpartition("/")
    is_given = slash and body and last.upper() in PROTOCOL_NUMBERS
    return (body, last.upper()) if is_given else (text, "")


def _port_target(text: str, protocol: str) -> PortTarget | None:
    """Return the port that *text* is, if it is a number.  Raises TargetFormError if it cannot be one."""
    digits = text.removeprefix(":")
    return PortTarget(_port(digits), protocol) if digits.isascii() and digits.isdecimal() else None


def _port(text: str) -> int:
    if not is_port_number(text):
        raise TargetFormError(f"{text[:20]!r} is not a port")
    return int(text)


def _service_target(text: str, protocol: str) -> ServiceTarget:
    name, colon, port = text.partition(":")
    namespace, slash, base = name.partition("/")
    if _LIKE_AN_ADDRESS.fullmatch(text):
        raise TargetFormError(f"{text[:_SHOWN_MAX]!r} is not an address; {FORMS}")
    if not namespace or (slash and not base) or "/" in base or (colon and not port):
        raise TargetFormError(f"{text[:_SHOWN_MAX]!r} names nothing; {FORMS}")
    if len(name) > 2 * _NAME_MAX or len(port) > _NAME_MAX:
        raise TargetFormError(f"{text[:_SHOWN_MAX]!r} and so on is longer than any name; {FORMS}")
    service = ServiceName(namespace if slash else "default", base or namespace)
    return ServiceTarget(service, port if colon else None, protocol)


def _address_target(text: str) -> AddressTarget | None:
    """Return the address, with or without a port, that *text* is; None if it is none."""
    host, slash, length = text.partition("/")
    if slash and length in _HOST_LENGTHS:  # as `ip address` prints them
        text = host
    for host, port in ((text, ""), _split(text)):
        try:
            address = parse_ip(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            continue
        return AddressTarget(address, _port(port) if port else 0)
    return None


_HOST_LENGTHS = ("32", "128")


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
        for problem in rejections(snapshot, name):
            raise UnknownTargetError(f"Service {name} is rejected: {problem}")
        raise UnknownTargetError(f"no Service {name} is known ({len(known):,} are)", nearest)
    ports = snapshot.services[name].ports
    if not any(is_meant(target, port) for port in ports) and (target.port is not None or target.protocol):
        names = [f"{name}:{port.name or port.port}" for port in ports]
        wanted = f"port {target.port!r}" if target.port is not None else "port"
        of_protocol = f" of {target.protocol}" if target.protocol else ""
        raise UnknownTargetError(f"Service {name} has no {wanted}{of_protocol}", names)
    return name


def rejections(snapshot: Snapshot, name: ServiceName) -> list[Problem]:
    """Return why the last version of the Service *name* is not used, or not all of it."""
    return [one for one in snapshot.about.rejected if one.where.rpartition(": ")[2] == f"Service {name}"]


def is_meant(target: ServiceTarget, port: ServicePort) -> bool:
    """Return whether *target* names *port* of its Service: by name or number, or as the NodePort."""
    names = (port.name, str(port.port), str(port.node_port) if port.node_port else "")
    return target.port in (None, *names) and target.protocol in ("", port.protocol)


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


def frontends_with_port(snapshot: Snapshot, target: PortTarget) -> list[VirtualServer]:
    """Return the frontends that Services claim at the port *target*: as a NodePort, else at whatever address."""
    servers = [
        server
        for server in snapshot.claims.servers()
        if server.port == target.port and target.protocol in ("", server.protocol)
    ]
    node_ports = [
        server
        for server in servers
        if any(claim.kind is FrontendKind.NODE_PORT for claim in snapshot.claims.claims_to(server))
    ]
    return node_ports or servers


def services_with_node_port(snapshot: Snapshot, target: PortTarget) -> list[ServiceName]:
    """Return the Services that have *target* as a NodePort, whether it is served or not."""
    return [
        name
        for name, service in snapshot.services.items()
        if any(port.node_port == target.port and target.protocol in ("", port.protocol) for port in service.ports)
    ]


def address_of_pod(snapshot: Snapshot, pod: ServiceName) -> IP:
    """Return an address of *pod*, if it is one of an endpoint; "" if it is not."""
    return next(
        (
            endpoint.address
            for parts in snapshot.slices.values()
            for part in parts
            if part.name.namespace == pod.namespace and pod.name in part.pods
            for endpoint, name in zip(part.endpoints, part.pod_names(), strict=True)
            if name == pod.name
        ),
        "",
    )


def services_with_endpoint(snapshot: Snapshot, target: AddressTarget | PortTarget) -> list[ServiceName]:
    """Return the Services that have *target* as an endpoint, or as a port of endpoints."""
    address = target.address if isinstance(target, AddressTarget) else ""
    return [
        name
        for name, parts in snapshot.slices.items()
        if any(
            (not address or any(endpoint.address == address for endpoint in part.endpoints))
            and (not target.port or any(_is_port(target, port) for port in part.ports))
            for part in parts
        )
    ]


def _is_port(target: AddressTarget | PortTarget, port: SlicePort) -> bool:
    return port.port == target.port and target.protocol in ("", port.protocol)
