"""ReservedPorts: keeps node ports out of the ports from which this host opens its own connections.

IPVS takes an answer that arrives at a node address and port for a new connection to the NodePort, if there is one; so
a connection that this host opens from such a port times out.  The kernel does not use the ports that
net.ipv4.ip_local_reserved_ports names (both families).  Only ports within net.ipv4.ip_local_port_range matter.

Invariants:
- Entries of others stay.  Ours are those that were added here, and at start those runs of reserved ports that consist
  of nothing but NodePorts of the kernel's sets: an earlier process added them.  An administrator's range is longer.
"""

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Set
from pathlib import Path

from kubeproxy_py.kernel.host.sysctl import WriteFailure, read_sysctl, write_sysctl
from kubeproxy_py.logging_setup import values
from kubeproxy_py.net import PORT_MAX

_RESERVED = "net/ipv4/ip_local_reserved_ports"
_RANGE = "net/ipv4/ip_local_port_range"
_TEXT_MAX_BYTES = 1 << 18  # 32,768 single ports; the kernel answers only the first read of the file

log = logging.getLogger(__name__)


class ReservedPorts:
    """The reserved ports of this network namespace.

    Args:
        node_ports: The NodePorts in the kernel's sets at start.
        root: The folder that contains the host's proc.
    """

    def __init__(self, node_ports: Collection[int] = (), *, root: Path = Path("/")) -> None:
        self._root = root
        self._ours = own_ports(self._read() or (), node_ports)
        self._wanted: set[int] = set()  # NodePorts in the range of local ports
        self._refused: Set[int] = frozenset()  # that could not be reserved, and were logged

    def update(self, added: Iterable[int], removed: Iterable[int]) -> None:
        """Reserve the NodePorts *added* if they matter, and release those *removed* that were reserved here.

        The first call also releases what an earlier process reserved for NodePorts that are not among *added*.  A
        failure is logged.
        """
        first, last = local_port_range(self._root)
        self._wanted.difference_update(removed)
        self._wanted.update(port for port in added if first <= port <= last)
        to_release = self._ours - self._wanted
        if not to_release and self._wanted <= self._ours:
            return
        reserved = self._read()
        if reserved is None:  # writing would remove the entries of others
            return
        after = (reserved - to_release) | self._wanted
        failure = self._write(after) if after != reserved else None
        if failure:
            self._log_failure(self._wanted - reserved, failure.errno)
            return
        self._ours = (self._ours & self._wanted) | (self._wanted - reserved)
        self._refused = frozenset()
        if after != reserved:
            log.info("Changed the reserved local ports", extra=values(node_ports=format_ports(self._ours)))

    def _write(self, ports: Set[int]) -> WriteFailure | None:
        # An empty write would change nothing.
        return write_sysctl(_RESERVED, f"{format_ports(ports)}\n", root=self._root)

    def _log_failure(self, ports: Set[int], errno: int) -> None:
        if ports and ports != self._refused:
            self._refused = ports
            log.warning(
                "Failed to reserve NodePorts: connections that this node opens from these ports time out; add them to "
                "net.ipv4.ip_local_reserved_ports on the host, or use other nodePorts",
                extra=values(ports=format_ports(ports), err=os.strerror(errno)),
            )

    def _read(self) -> set[int] | None:
        return reserved_ports(self._root)


def reserved_ports(root: Path = Path("/")) -> set[int] | None:
    """Return the ports from which this host opens no connections; None if they cannot be read."""
    try:
        with (root / "proc/sys" / _RESERVED).open("rb", buffering=0) as file:
            text = file.read(_TEXT_MAX_BYTES)
        return set(parse_ports((text or b"").decode("ascii")))
    except (OSError, ValueError):
        return None


def local_port_range(root: Path = Path("/")) -> tuple[int, int]:
    """Return the first and the last port from which this host opens connections; (0, -1) if it is not known."""
    try:
        first, last = map(int, (read_sysctl(_RANGE, root=root) or "").split())
    except ValueError:
        return 0, -1
    return first, last


def own_ports(reserved: Collection[int], node_ports: Collection[int]) -> set[int]:
    """Return the *reserved* ports that an earlier process added: the runs that consist of *node_ports* only."""
    return {port for first, last in _runs(reserved) for port in range(first, last + 1) if _all(first, last, node_ports)}


def parse_ports(text: str) -> Iterator[int]:
    """Yield the ports of a list as the kernel prints it: ``8080,30000-30010``.  Raises ValueError."""
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        ports = range(int(first), int(last or first) + 1)
        if ports.stop > PORT_MAX + 1:
            raise ValueError(f"{part!r:.64} are no ports")
        yield from ports


def format_ports(ports: Iterable[int]) -> str:
    """Return *ports* as the kernel prints them."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in _runs(ports))


def _runs(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last port of each run of consecutive *ports*."""
    runs: list[tuple[int, int]] = []
    for port in sorted(ports):
        if runs and runs[-1][1] == port - 1:
            runs[-1] = (runs[-1][0], port)
        else:
            runs.append((port, port))
    return runs


def _all(first: int, last: int, ports: Collection[int]) -> bool:
    return all(port in ports for port in range(first, last + 1))
