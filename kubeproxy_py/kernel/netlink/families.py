"""Address families as plain integers.

The constants of ``socket`` are enum members, whose hash is computed in Python: a dict lookup by one takes 0.3 us, and
a first sync makes 140,000 messages.
"""

import socket

from kubeproxy_py.net import IP, Family

AF_UNSPEC = int(socket.AF_UNSPEC)
AF_INET = int(socket.AF_INET)
AF_INET6 = int(socket.AF_INET6)

AF_NUMBERS: dict[Family, int] = {"IPv4": AF_INET, "IPv6": AF_INET6}


def family_number(address: IP) -> int:
    """Return AF_INET or AF_INET6, the family of *address*."""
    return AF_INET6 if ":" in address else AF_INET
