"""ApiServerAddresses: the addresses at which this agent reaches the API server, which no Service may take.

They are known from the URL before the first request, and from the connections themselves: a name may resolve to another
address later, and there may be a proxy in between.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, Queue
from urllib.parse import urlsplit

from kubeproxy_py import threads
from kubeproxy_py.model.events import TakenAddresses
from kubeproxy_py.net import SocketAddress

SOURCE = "API server"
_KNOWN_MAX = 64  # the last ones; behind a load balancer's name the addresses may change for ever
RESOLVE_TIMEOUT_S = 3.0
_PORTS = {"https": 443, "http": 80}


class ApiServerAddresses:
    """Collects the addresses, and emits all of them when there is a new one.  Any thread.

    Args:
        emit: Receives TakenAddresses.
    """

    def __init__(self, emit: Callable[[TakenAddresses], None]) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._known: dict[SocketAddress, None] = {}

    @property
    def known(self) -> tuple[SocketAddress, ...]:
        """The addresses collected so far."""
        return tuple(self._known)

    def add(self, addresses: Iterable[SocketAddress]) -> None:
        """Add *addresses*; cheap if they are known."""
        new = [address for address in addresses if address not in self._known]
        if not new:
            return
        with self._lock:
            self._known = dict.fromkeys([*self._known, *new][-_KNOWN_MAX:])
            self._emit(TakenAddresses(SOURCE, api_servers=tuple(self._known)))


def addresses_of(url: str, timeout_s: float = RESOLVE_TIMEOUT_S) -> tuple[SocketAddress, ...]:
    """Return the addresses and the port of the server at *url*; none if its name is not resolved in time."""
    parts = urlsplit(url)
    try:
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ()
    host = parts.hostname or ""
    if address := _literal(host):
        return (SocketAddress(address, port),)
    answers: Queue[tuple[SocketAddress, ...]] = Queue()
    # In a thread, because the resolver's own timeout may be half a minute.
    threads.start_task("resolve the API server's name", lambda: answers.put(_resolve(host, port)))
    try:
        return answers.get(timeout=timeout_s)
    except Empty:
        return ()


def peer_of(connected: socket.socket) -> tuple[SocketAddress, ...]:
    """Return the peer of a TCP socket; none if it is not connected any more."""
    try:
        host, port = connected.getpeername()[:2]
    except (OSError, ValueError):
        return ()
    return (SocketAddress(host.partition("%")[0], port),)


def _literal(host: str) -> str:
    """Return *host* as the resolver would print it if it is an address, which takes no time; else ""."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            return socket.inet_ntop(family, socket.inet_pton(family, host))
    return ""


def _resolve(host: str, port: int) -> tuple[SocketAddress, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(SocketAddress(str(name[0]).partition("%")[0], port) for *_, name in found))
