"""Whether a packet is in a set of ipset(8).

Invariants:
- Each set is asked for the entries that would match, never read: for a network, one entry for each prefix length.

Source: net/netfilter/ipset/ip_set_hash_*.c (kadt functions), ip_set_bitmap_port.c, ip_set_core.c (ip_set_test).
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address

from kubeproxy_py.diagnose.trace.lookup import Lookup, header_of
from kubeproxy_py.diagnose.trace.packet import ICMP, Packet
from kubeproxy_py.diagnose.trace.truth import MAYBE, NO, YES, Truth, truth
from kubeproxy_py.model.kube_names import SKBINFO, entry_key
from kubeproxy_py.model.rows import MarkSpec
from kubeproxy_py.net import IP, parse_cidr

_NO_MATCH = " nomatch"


class _Query:
    """One packet and one set, with the directions in which the rule reads addresses and ports."""

    def __init__(self, lookup: Lookup, name: str, directions: tuple[str, ...], packet: Packet) -> None:
        self.lookup, self.name, self.directions, self.packet = lookup, name, directions, packet

    def has(self, entry: str) -> bool:
        return entry_key(self.name, entry) in self.lookup

    def address(self, dimension: int) -> IP:
        return self.packet.source if self.directions[dimension] == "src" else self.packet.destination

    def port(self) -> str | None:
        """Return protocol and port of the second dimension; None: the port of the client, which is not known."""
        return f"{self.packet.protocol.lower()}:{self.packet.port}" if self.directions[1] == "dst" else None


def match_set(lookup: Lookup, name: str, directions: tuple[str, ...], packet: Packet) -> Truth:
    """Return whether *packet* is in the set *name*, looked up by *directions* (``dst,dst,src``)."""
    header = header_of(lookup, name)
    kind = header.type.removesuffix(SKBINFO) if header else ""
    if header is None or kind not in _TESTS:
        return MAYBE
    if header.family not in (None, packet.family):
        return NO
    dimensions, test = _TESTS[kind]
    if len(directions) < dimensions:
        return NO  # ip_set_test refuses to look it up
    return test(_Query(lookup, name, directions, packet))


def mapped_mark(lookup: Lookup, name: str, packet: Packet) -> MarkSpec | None:
    """Return the mark that the entry of the destination has in the set *name*, of type hash:ip,port; None if none."""
    spec = lookup.get(entry_key(name, packet.entry))
    return spec if isinstance(spec, MarkSpec) else None


def set_entry(name: str, directions: tuple[str, ...], packet: Packet, lookup: Lookup) -> str:
    """Return what is looked up in *name*, as an entry of its type is written, for people to read."""
    header = header_of(lookup, name)
    if header is not None and header.type == "bitmap:port":
        return f"port {packet.port}/{packet.protocol.lower()}"
    parts = [packet.source if direction == "src" else packet.destination for direction in directions]
    if len(parts) > 1:
        parts[1] = f"{packet.protocol.lower()}:{packet.port}" if directions[1] == "dst" else "the client's port"
    return ",".join(parts)


def _hash_ip(query: _Query) -> Truth:
    return truth(query.has(query.address(0)))


def _hash_ip_port(query: _Query) -> Truth:
    return _with_port(query, lambda frontend: truth(query.has(frontend)))


def _hash_ip_port_ip(query: _Query) -> Truth:
    return _with_port(query, lambda frontend: truth(query.has(f"{frontend},{query.address(2)}")))


def _hash_ip_port_net(query: _Query) -> Truth:
    return _with_port(query, lambda frontend: _network(query, f"{frontend},", query.address(2)))


def _hash_net(query: _Query) -> Truth:
    return _network(query, "", query.address(0))


def _bitmap_port(query: _Query) -> Truth:
    if query.packet.protocol not in ("TCP", "UDP"):  # ip_set_get_ip4_port knows no other
        return NO
    return truth(query.has(str(query.packet.port))) if query.directions[0] == "dst" else MAYBE


def _with_port(query: _Query, test: Callable[[str], Truth]) -> Truth:
    if query.packet.protocol == ICMP:
        return NO  # it would need an entry with type and code, which no Service has
    port = query.port()
    return MAYBE if port is None else test(f"{query.address(0)},{port}")


def _network(query: _Query, prefix: str, address: IP) -> Truth:
    """Return whether the longest network with *address* is in the set, and not as an exception (nomatch)."""
    for network in _networks(address):
        if query.has(f"{prefix}{network}"):
            return YES
        if query.has(f"{prefix}{network}{_NO_MATCH}"):
            return NO
    return NO


def _networks(address: IP) -> Iterator[str]:
    """Yield all networks that contain *address*, as ``ipset save`` prints them, the longest prefix first."""
    bits = ip_address(address).max_prefixlen
    yield address
    for length in range(bits, -1, -1):
        yield parse_cidr(f"{address}/{length}")


_TESTS: dict[str, tuple[int, Callable[[_Query], Truth]]] = {  # type -> dimensions, test
    "hash:ip": (1, _hash_ip),
    "hash:net": (1, _hash_net),
    "hash:ip,port": (2, _hash_ip_port),
    "hash:ip,port,ip": (3, _hash_ip_port_ip),
    "hash:ip,port,net": (3, _hash_ip_port_net),
    "bitmap:port": (1, _bitmap_port),
}
