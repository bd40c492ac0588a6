"""The mark of all real servers, of both families with their weights but without thresholds, from /proc/net/ip_vs.

One read(2) of that file has some 65 real servers, where getsockopt(2) needs a system call for each virtual server and
netlink three.  With thousands of virtual servers (LISTED_MAX) it takes too long at once, and is read in pieces
(piecewise_listing.py).

Invariants:
- The mark does not depend on connections, nor on the order in which the kernel lists.
- The mark has the real servers that are new or have changed since another mark was read, and maybe others of the same
  virtual servers.
- A listing that changes while it is read may show a row twice, or not at all: that is another mark, and what follows
  is a comparison.

Layout: three lines of headings; then for each virtual server a line, and one for each of its real servers:

    TCP  0A60000A:0050 rr persistent 10800 FFFFFFFF
      -> 0AF40105:1F90      Masq    1      0          0
    UDP  [fd00:0010:0096:0000:0000:0000:0000:0053]:0035 rr
      -> [fd00:0010:0244:0001:0000:0000:0000:0005]:1F90      Masq    1      0          0

A virtual server by firewall mark has ``FWM  00002002 rr``, whatever its family.

Numbers of addresses, ports and marks are hexadecimal, the rest decimal: weight, active and inactive connections.

Source: net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop

from kubeproxy_py.kernel import IPV4_REAL_SERVERS, IPV6_REAL_SERVERS, VIRTUAL_SERVERS, Mark
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.ipvs.decode import FOREIGN_FORWARDING
from kubeproxy_py.model.rows import NOT_LISTED, Forwarding, RealServer, RealServerSpec, Rows, VirtualServer, mark_server
from kubeproxy_py.net import IP, Protocol, pack

PATH = "/proc/thread-self/net/ip_vs"  # of the network namespace of the thread that opens it

LISTED_MAX = 1000
"""Virtual servers up to which the file is read: with 10 real servers each, 4 ms on the lab kernel."""

_READ_BYTES = 1 << 20  # more than the kernel returns at once, which is 4 KiB or one virtual server
_REAL_SERVER = b"  -> "
_IPV4_DIGITS = 8  # hexadecimal
_PROTOCOLS: dict[bytes, Protocol] = {name.encode(): name for name in ("TCP", "UDP", "SCTP")}
_BY_MARK = b"FWM"
_METHODS: dict[bytes, Forwarding] = {b"Masq": "masquerade", b"Local": "masquerade"}
# Kernels before 2.6.38 list the latter for masquerading to the host itself.
_METHODS_BY_MARK: dict[bytes, Forwarding] = {**_METHODS, b"Route": "route", b"Tunnel": "tunnel"}

Records = dict[bytes, tuple[bytes, ...]]
"""By protocol, address and port of a virtual server the lines of its real servers, sorted, and without connections."""


class ListingReader:
    """Reads the mark of the real servers in the network namespace of the thread that uses it first."""

    def __init__(self, path: str = PATH, *, marks: bool = False) -> None:
        self._path = path
        self._has_marks = marks  # virtual servers by firewall mark count, too
        self._descriptor: int | None = None
        self._listing = b""  # as it was read last
        self._lines: list[bytes] = []  # of it, as they were listed
        self._records: Records = {}
        self._mark = mark_of({}, {})

    def read(self) -> Mark:
        """Return the mark.  Raises KernelError."""
        listing = self._read()
        if listing != self._listing:
            with decoding(self._path):
                self._update(listing.split(b"\n"))
            self._listing = listing
        return self._mark

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> bytes:
        """Return the whole file.  Raises KernelError, with ENOENT where the kernel has no IPVS."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            parts: list[bytes] = []
            offset = 0
            while part := os.pread(self._descriptor, _READ_BYTES, offset):
                parts.append(part)
                offset += len(part)
        except OSError as error:  # also after ip_vs was unloaded
            self.close()
            raise KernelError(f"{self._path}: {error.strerror}", errno=error.errno or 0) from error
        return b"".join(parts)

    def _update(self, lines: list[bytes]) -> None:
        """Make the mark of *lines*, unless only connections have changed since the last ones."""
        if len(lines) == len(self._lines):
            differ = (pair for pair in zip(lines, self._lines, strict=True) if pair[0] != pair[1])
            if all(without_connections(line) == without_connections(last) for line, last in differ):
                self._lines = lines
                return
        records = records_of(lines, marks=self._has_marks)
        if records != self._records:
            self._mark = mark_of(records, self._records)
        self._lines, self._records = lines, records


def without_connections(line: bytes) -> bytes:
    """Return the line of a real server without its connections; any other line as it is."""
    return line.rsplit(None, 2)[0] if line.startswith(_REAL_SERVER) else line


def records_of(lines: Iterable[bytes], *, marks: bool = False) -> Records:
    """Return the records in *lines*, without those of virtual servers that cannot be ours.

    With *marks* those by firewall mark are among them, if they have real servers, which show their family.
    """
    found: dict[bytes, list[bytes]] = {}
    ignored: list[bytes] = []
    real_servers = ignored
    by_mark = b""  # the firewall mark of the virtual server above
    for line in lines:
        if line.startswith(_REAL_SERVER):
            if by_mark:
                family = b" [" if line.startswith(_REAL_SERVER + b"[") else b" "
                real_servers = found.setdefault(_BY_MARK + family + by_mark, [])
                by_mark = b""
            real_servers.append(without_connections(line))
        else:
            protocol, _, rest = line.partition(b" ")
            is_ours = protocol in _PROTOCOLS
            key = protocol + b" " + rest.split(None, 1)[0] if is_ours else b""
            real_servers = found.setdefault(key, []) if is_ours else ignored
            by_mark = rest.split(None, 1)[0] if marks and protocol == _BY_MARK else b""
    return {key: tuple(sorted(real_servers)) for key, real_servers in found.items()}


def mark_of(records: Records, before: Records) -> Mark:
    """Return the mark of *records*, with the real servers of those that are not as *before*.

    Raises ValueError or IndexError if a record cannot be decoded.
    """
    changed: Rows = {}
    for key, real_servers in records.items():
        if real_servers != before.get(key):
            changed.update(decode_record(key, real_servers))
    counts = {
        IPV4_REAL_SERVERS: sum(len(real_servers) for key, real_servers in records.items() if b"[" not in key),
        IPV6_REAL_SERVERS: sum(len(real_servers) for key, real_servers in records.items() if b"[" in key),
    }
    return Mark(VIRTUAL_SERVERS, hash(frozenset(records.items())), tuple(counts.items()), tuple(changed.items()))


def server_of(key: bytes) -> VirtualServer:
    """Return the virtual server of the record *key*.  Raises ValueError."""
    protocol, place = key.split()
    if protocol == _BY_MARK:
        return mark_server("IPv6" if place.startswith(b"[") else "IPv4", int(place.lstrip(b"["), 16))
    return VirtualServer(*_decode_place(place), _PROTOCOLS[protocol])


def key_of(server: VirtualServer) -> bytes:
    """Return the key of the record of *server*."""
    if server.mark:
        return _BY_MARK + (b" [" if ":" in server.address else b" ") + f"{server.mark:08X}".encode()
    packed = pack(server.address).hex().upper()
    if len(packed) > _IPV4_DIGITS:
        packed = "[" + ":".join(packed[start : start + 4] for start in range(0, len(packed), 4)).lower() + "]"
    return f"{server.protocol} {packed}:{server.port:04X}".encode()


def decode_record(key: bytes, real_servers: Iterable[bytes]) -> Iterator[tuple[RealServer, RealServerSpec]]:
    """Yield the real servers of the record *key*.  Raises ValueError."""
    server = server_of(key)
    for line in real_servers:
        _arrow, place, method, weight = line.split()
        address, port = _decode_place(place)
        forwarding = (_METHODS_BY_MARK if server.mark else _METHODS).get(method)
        spec = _listed_spec(int(weight), forwarding) if forwarding else FOREIGN_FORWARDING
        yield RealServer(server, address, port), spec


@lru_cache(64)
def _listed_spec(weight: int, forwarding: Forwarding) -> RealServerSpec:
    return RealServerSpec(weight, NOT_LISTED, NOT_LISTED, forwarding)


@lru_cache(4096)
def _decode_place(place: bytes) -> tuple[IP, int]:
    """Return address and port of *place*.  Raises ValueError."""
    address, _, port = place.decode("ascii").rpartition(":")
    if address.startswith("["):
        return inet_ntop(AF_INET6, bytes.fromhex(address[1:-1].replace(":", ""))), int(port, 16)
    return inet_ntop(AF_INET, bytes.fromhex(address)), int(port, 16)
