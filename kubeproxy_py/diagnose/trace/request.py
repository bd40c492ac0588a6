"""What is asked for: who sends the packet, and where; parsed from the command line.

Invariants:
- An error names the argument, what is wrong with it, and how it is written right.
"""

import re
from collections.abc import Callable, Iterable
from typing import NoReturn

from msgspec import Struct

from kubeproxy_py.diagnose.target_forms import plain_target
from kubeproxy_py.diagnose.trace.packet import ICMP
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.net import IP, PORT_MAX, PROTOCOL_NUMBERS, is_port_number, join_host_port, parse_ip, special_use

SENDERS = ("outside", "node", "pod")
_NO_HOSTS = ("multicast", "broadcast", "unspecified")  # uses of addresses that are no host's: not traced
_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?)/([a-z0-9]([-a-z0-9]*[a-z0-9])?)(?::([-a-zA-Z0-9]+))?")
_FORMS = "give ADDRESS:PORT[/tcp|udp|sctp], [IPv6]:PORT, ADDRESS/icmp or NAMESPACE/SERVICE[:PORT]"
_NOT_LISTED = "the Services could not be listed, so it is not known which there are; give ADDRESS:PORT[/tcp|udp|sctp]"


class TraceError(Exception):
    """A request that cannot be traced; the message names the argument and the remedy."""


class Request(Struct, frozen=True, gc=False):
    """Who sends the packet, and where.

    Attributes:
        source: an address, or one of SENDERS.
        destination: its address.
        port: its port; 0: the protocol has none.
        protocol: "TCP", "UDP", "SCTP" or "ICMP".
        in_interface: by which it arrives; "": by that of the route back.
    """

    source: IP
    destination: IP
    port: int
    protocol: str
    in_interface: str = ""


class Directory(Struct, frozen=True, gc=False):
    """The Services that a destination may name.

    Attributes:
        services: returns the Service of a name; None if there is none.
        names: returns all names, for a suggestion.
        servers_at: returns the virtual servers at an address of a Service.
        serves: returns whether a virtual server exists.
        is_known: whether the Services could be listed.
    """

    services: Callable[[ServiceName], Service | None] = lambda _name: None
    names: Callable[[], Iterable[ServiceName]] = tuple
    servers_at: Callable[[IP], Iterable[VirtualServer]] = lambda _address: ()
    serves: Callable[[VirtualServer], bool] = lambda _server: False
    is_known: bool = True


def parse_request(source: str, target: str, in_interface: str, directory: Directory) -> Request:
    """Return the request of ``--from`` *source* and ``--to`` *target*.

    Raises:
        TraceError: One of them cannot be used.
    """
    destination, port, protocol = _destination(target, directory)
    return Request(_source(source), destination, port, protocol, in_interface)


def _source(text: str) -> IP:
    if text in SENDERS:
        return text
    try:
        address = parse_ip(text.strip("[]"))
    except ValueError:
        from difflib import get_close_matches

        close = get_close_matches(text, SENDERS, n=1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise TraceError(f'--from "{text}": give an address, or one of {", ".join(SENDERS)}{suggestion}') from None
    if (use := special_use(address)) in _NO_HOSTS:
        raise TraceError(f'--from "{text}": no packet has this source, it is {use}; give the address of the client')
    return address


def _destination(text: str, directory: Directory) -> tuple[IP, int, str]:
    protocol, rest = _split_protocol(plain_target(text))
    if name := _NAME.fullmatch(rest):
        return _service_destination(text, ServiceName(name[1], name[3]), name[5] or "", protocol, directory)
    host, port = _split_port(rest)
    try:
        address = parse_ip(host)
    except ValueError:
        if rest.isascii() and rest.isdecimal():
            raise TraceError(
                f'--to "{text}": a port alone; a NodePort is at each address of the node: {_FORMS}'
            ) from None
        raise TraceError(f'--to "{text}": {_FORMS}') from None
    if (use := special_use(address)) in _NO_HOSTS:
        raise TraceError(f'--to "{text}": no Service and no host has this address, it is {use}; {_FORMS}')
    if protocol == ICMP:
        return address, 0, ICMP
    if not port:
        return _only_server(text, address, protocol, directory)
    if "/" in port:
        raise TraceError(f'--to "{text}": "{port.partition("/")[2]}" is no protocol; {_FORMS}')
    if not is_port_number(port):
        raise TraceError(f'--to "{text}": the port is not in 1-{PORT_MAX}; {_FORMS}')
    return address, int(port), protocol or _protocol_of(address, int(port), directory)


def _split_protocol(text: str) -> tuple[str, str]:
    """Return the protocol, "" if none is given, and what is before it."""
    rest, slash, last = text.rpartition("/")
    is_service = re.fullmatch("[-a-z0-9]+", rest) and not rest.isdecimal()  # "shop/tcp": a Service named tcp
    if slash and not is_service and rest and last.upper() in (*PROTOCOL_NUMBERS, ICMP, "ICMPV6"):
        return (ICMP if last.upper().startswith(ICMP) else last.upper()), rest
    return "", text


def _split_port(text: str) -> tuple[str, str]:
    if bracketed := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text):
        return bracketed[1], bracketed[2] or ""
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port or "0"
    return text, ""


def _protocol_of(address: IP, port: int, directory: Directory) -> str:
    """Return the only protocol that is served at *address* and *port*; TCP if there is none, or several."""
    served = [name for name in PROTOCOL_NUMBERS if directory.serves(VirtualServer(address, port, name))]
    return served[0] if len(served) == 1 else "TCP"


def _only_server(text: str, address: IP, protocol: str, directory: Directory) -> tuple[IP, int, str]:
    servers = [server for server in directory.servers_at(address) if protocol in ("", server.protocol)]
    if len(servers) == 1:
        return address, servers[0].port, servers[0].protocol
    ports = sorted(f"{join_host_port(server.address, server.port)}/{server.protocol.lower()}" for server in servers)
    if ports:
        raise TraceError(f'--to "{text}": it has several ports; give one of {", ".join(ports)}')
    if not directory.is_known:
        raise TraceError(f'--to "{text}": no port is given, and {_NOT_LISTED}')
    raise TraceError(f'--to "{text}": no port is given, and no Service has the address; {_FORMS}')


def _service_destination(
    text: str, name: ServiceName, port_name: str, protocol: str, directory: Directory
) -> tuple[IP, int, str]:
    service = directory.services(name)
    if service is None:
        _reject_unknown(text, name, directory)
    if not service.cluster_ips:
        kind = "ExternalName" if service.type == "ExternalName" else "headless"
        raise TraceError(f'--to "{text}": the Service is {kind} and has no address; give ADDRESS:PORT of an endpoint')
    if protocol == ICMP:
        return service.cluster_ips[0], 0, ICMP
    ports = [port for port in service.ports if protocol in ("", port.protocol) and _is_port(port, port_name)]
    if len({(port.port, port.protocol) for port in ports}) == 1:
        return service.cluster_ips[0], ports[0].port, ports[0].protocol
    every = ", ".join(f"{name}:{_port_text(port)}" for port in service.ports)
    problem = "it has several ports" if ports else f'it has no port "{port_name}"'
    raise TraceError(f'--to "{text}": {problem}; give one of {every}')


def _is_port(port: ServicePort, text: str) -> bool:
    return text in ("", port.name, str(port.port))


def _port_text(port: ServicePort) -> str:
    return f"{port.name or port.port}/{port.protocol.lower()}"


def _reject_unknown(text: str, name: ServiceName, directory: Directory) -> NoReturn:
    if not directory.is_known:
        raise TraceError(f'--to "{text}": {_NOT_LISTED}')
    from difflib import get_close_matches

    close = get_close_matches(str(name), [str(other) for other in directory.names()], n=1)
    suggestion = f"; did you mean {close[0]}?" if close else "; list them by: kubectl get services --all-namespaces"
    raise TraceError(f'--to "{text}": there is no Service {name}{suggestion}')
