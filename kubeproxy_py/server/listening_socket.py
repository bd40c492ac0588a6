"""Listening TCP sockets, of one family or of both."""

import socket
from contextlib import suppress

_BACKLOG = 128


def listening_socket(address: str, port: int, *, both_families: bool) -> socket.socket:
    """Return a socket that listens at *address* and *port*, and does not block.

    Args:
        address: An IP of this host, or 0.0.0.0 or ::.
        port: 0 for any free port.
        both_families: 0.0.0.0 and :: each mean all addresses of both families, where the host has IPv6.

    Raises:
        OSError: The address is in use, or not one of this host.
    """
    if both_families and address in ("0.0.0.0", "::"):
        # Go listens at [::] for 0.0.0.0 too unless the family is given (net.favoriteAddrFamily); so does kube-proxy.
        with suppress(OSError):
            return _bound_socket(socket.AF_INET6, "::", port, ipv6_only=False)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _bound_socket(family, address, port, ipv6_only=True)


def _bound_socket(family: socket.AddressFamily, address: str, port: int, *, ipv6_only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
