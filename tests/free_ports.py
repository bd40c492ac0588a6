"""TCP ports for servers that are started later, or again."""

import socket


def reserve_port(address: str = "127.0.0.1") -> socket.socket:
    """Return a socket at a free port of *address*, which until it is closed nobody gets who asks for a free one.

    It does not listen: connections are refused.  A server may listen there meanwhile if it sets SO_REUSEADDR, as those
    of Python and Go do.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((address, 0))
    return reserved


def port_of(reserved: socket.socket) -> int:
    """Return the port to which *reserved* is bound."""
    return int(reserved.getsockname()[1])
