"""The addresses from which this host sends, by the routes that it has.

Connecting a UDP socket sends nothing: it only has the kernel choose a route and a source address.
"""

from socket import AF_INET, AF_INET6, SOCK_DGRAM, AddressFamily, socket

from kubeproxy_py.net import IP

_PORT = 9  # discard; nothing is sent
_ANYWHERE: tuple[tuple[AddressFamily, str], ...] = (  # networks for documentation, RFC 5737 and RFC 3849
    (AF_INET, "192.0.2.1"),
    (AF_INET6, "2001:db8::1"),
)


def outgoing_addresses() -> tuple[IP, ...]:
    """Return the source address towards the default route of each family that has one."""
    found = (_source_address(family, destination) for family, destination in _ANYWHERE)
    return tuple(address for address in found if address)


def _source_address(family: AddressFamily, destination: str) -> IP:
    try:
        with socket(family, SOCK_DGRAM) as probe:
            probe.connect((destination, _PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
