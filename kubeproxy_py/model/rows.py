"""Rows: every kernel object that the agent owns is one row, a key with its spec.

Invariants:
- A key is the identity of an object (what the kernel would answer EEXIST to); a spec is what may change in place.
- Keys of different kinds are never equal.
- The text of a key is what ``ipvsadm``, ``ipset``, ``ip`` and ``iptables`` print.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from kubeproxy_py.net import IP, LOOPBACK_IP, Family, Protocol, join_host_port

IPVS_DEVICE = "kube-ipvs0"

TUNNEL_DEVICES: Mapping[Family, str] = {"IPv4": "tunl0", "IPv6": "ip6tnl0"}
"""The devices that take packets in IPIP from every other machine; the kernel makes them when its module is loaded."""

HANDED_ON_DSCP = "0x03"
"""The DSCP by which a node knows what another one handed on by route; of those for local use (RFC 2474, pool 2)."""

Table = Literal["mangle", "nat", "filter"]

FLAG_PERSISTENT = 0x1  # IP_VS_SVC_F_PERSISTENT, include/uapi/linux/ip_vs.h
FLAG_SCHED_1 = 0x8  # IP_VS_SVC_F_SCHED1: mh-fallback, sh-fallback
FLAG_SCHED_2 = 0x10  # IP_VS_SVC_F_SCHED2: mh-port, sh-port
FLAG_SCHED_3 = 0x20  # IP_VS_SVC_F_SCHED3, which no scheduler of Linux uses

FLAG_NO_DRAINING = FLAG_SCHED_3
"""A flag of virtual servers by firewall mark whose real servers are deleted at once, because the port is not TCP.

The kernel keeps no protocol of them, and this must be known after a restart, too.
"""
_FLAG_NAMES = (FLAG_SCHED_1, "fallback"), (FLAG_SCHED_2, "port"), (FLAG_SCHED_3, "flag-3")  # of schedulers


class Key(Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """The base class of all keys.

    Hashes are cached, and keys that belong to another key (RealServer) refer to that object instead of repeating its
    fields, because there are 140,000 keys at 10,000 Services.
    """


class Sysctl(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A kernel setting; spec: its value as text."""

    path: str  # below /proc/sys (``net/ipv4/vs/conntrack``), or absolute (``/sys/...``)

    def __str__(self) -> str:
        return self.path


class Link(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A network device of type dummy, which is down; spec: None."""

    name: str

    def __str__(self) -> str:
        return self.name


class Ipset(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A set of ipset(8), without its entries; spec: IpsetSpec."""

    name: str

    def __str__(self) -> str:
        return self.name


class IpsetEntry(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """An entry of a set; spec: None."""

    set: str  # name of the set
    entry: str  # as ``ipset save`` prints it: ``10.0.0.1,tcp:80``

    def __str__(self) -> str:
        return f"{self.set} {self.entry}"


class PolicyEntry(IpsetEntry, frozen=True, gc=False, order=True, cache_hash=True):
    """An entry of a set of exact policies; spec: MarkSpec in the set that maps frontends to marks, else None.

    It leads packets to real servers, so it comes after them, and goes before them.
    """


class Chain(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A chain that kube-proxy and this agent create; spec: ChainSpec, all its rules."""

    family: Family
    table: Table
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Jump(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """The rule by which a built-in chain jumps to a KUBE-* chain; spec: JumpSpec."""

    family: Family
    table: Table
    source: str  # the built-in chain
    target: str  # the KUBE-* chain

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.source} -> {self.target}"


class VirtualServer(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A virtual server of IPVS; spec: VirtualServerSpec.

    One by firewall mark (``mark_server``) takes packets of every address, port and protocol of its family.
    """

    address: IP
    port: int
    protocol: Protocol
    mark: int = 0  # 0: by address, port and protocol

    def __str__(self) -> str:
        if self.mark:
            return f"{'IPv6' if ':' in self.address else 'IPv4'} fwmark {self.mark:#x}"
        return f"{join_host_port(self.address, self.port)}/{self.protocol}"


def mark_server(family: Family, mark: int) -> VirtualServer:
    """Return the virtual server of *family* by firewall *mark*, which has no address, port and protocol."""
    return VirtualServer("::" if family == "IPv6" else "0.0.0.0", 0, "TCP", mark)


class RealServer(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A real server of a virtual server; spec: RealServerSpec.

    With direct server return it is another node, which packets are handed on to as they are.
    """

    virtual_server: VirtualServer
    address: IP
    port: int

    def __str__(self) -> str:
        return f"{self.virtual_server} -> {join_host_port(self.address, self.port)}"


def server_of(key: Key) -> VirtualServer | None:
    """Return the virtual server that *key* is or belongs to; None if it is of another kind."""
    if isinstance(key, RealServer):
        return key.virtual_server
    return key if isinstance(key, VirtualServer) else None


class Address(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """An address (/32 or /128) on kube-ipvs0; spec: None, or AddressSpec if another program added it otherwise."""

    address: IP

    def __str__(self) -> str:
        return self.address


class LoopbackPath(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """The route and the routing rules by which node ports are reached at the loopback address; spec: LoopbackSpec."""

    family: Family

    def __str__(self) -> str:
        return LOOPBACK_IP[self.family]


class ReturnTunnel(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """The device by which packets of a family arrive that other nodes hand on (tunl0, ip6tnl0); spec: TunnelSpec."""

    family: Family

    def __str__(self) -> str:
        return TUNNEL_DEVICES[self.family]


class IpsetSpec(Struct, frozen=True, gc=False):
    """The header of a set."""

    type: str  # "hash:ip,port"
    family: Family | None  # None: bitmap:port, whose ports belong to no family
    hashsize: int = 1024
    maxelem: int = 65536

    def can_swap_with(self, other: "IpsetSpec") -> bool:
        """Return whether the kernel accepts ``ipset swap`` between sets with these headers."""
        return (self.type, self.family) == (other.type, other.family)

    def __str__(self) -> str:
        return f"{self.type} family {'inet6' if self.family == 'IPv6' else 'inet'}" if self.family else self.type


class ChainSpec(Struct, frozen=True, gc=False):
    """The rules of a chain in order, each as ``iptables-save`` prints it, without ``-A CHAIN ``."""

    rules: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"


class JumpSpec(Struct, frozen=True, gc=False):
    """The jump's rule as ``iptables-save`` prints it, without ``-A CHAIN ``, and what it must not follow."""

    rule: str
    behind: str = ""  # a chain to which a rule before it takes packets to all local addresses; never desired

    def __str__(self) -> str:
        return f"{self.rule} (behind the jump to {self.behind})" if self.behind else self.rule


class VirtualServerSpec(Struct, frozen=True, gc=False):
    """Scheduler, flags and persistence of a virtual server."""

    scheduler: str = "rr"
    flags: int = 0  # FLAG_PERSISTENT, FLAG_SCHED_1, FLAG_SCHED_2, FLAG_NO_DRAINING
    persistence_s: int = 0  # 0: not persistent
    netmask: str = ""  # of clients that share a real server, 255.255.255.0 or 64, as ipvsadm -M; "": of one client

    def __str__(self) -> str:
        persistence = f" persistent {self.persistence_s}" if self.persistence_s else ""
        names = ",".join(name for flag, name in _FLAG_NAMES if self.flags & flag)
        flags = f" flags {names}" if names else ""
        return f"{self.scheduler}{flags}{persistence}{f' netmask {self.netmask}' if self.netmask else ''}"


def is_tcp(server: VirtualServer, spec: "Spec") -> bool:
    """Return whether *server* with *spec* serves a TCP port; of one by firewall mark only the spec tells."""
    if server.mark:
        return isinstance(spec, VirtualServerSpec) and not spec.flags & FLAG_NO_DRAINING
    return server.protocol == "TCP"


Forwarding = Literal["masquerade", "route", "tunnel"]
"""How packets get to a real server: ``ipvsadm -m``, ``-g`` or ``-i``."""

NOT_LISTED = -1
"""A threshold of which a listing says nothing."""


class RealServerSpec(Struct, frozen=True, gc=False):
    """Weight of a real server, the thresholds of its connections, and how packets get to it."""

    weight: int = 1  # 0: gets no new connections (draining)
    upper: int = 0  # the number of connections with which it gets no new ones, as ipvsadm -x; 0: no limit
    lower: int = 0  # the number below which it gets new ones again, as ipvsadm -y; 0: three quarters of upper
    forwarding: Forwarding = "masquerade"

    def __str__(self) -> str:
        limits = f" connections {self.upper}, again below {self.lower}" if self.upper > 0 or self.lower > 0 else ""
        return f"weight {self.weight}{limits}{'' if self.forwarding == 'masquerade' else f' by {self.forwarding}'}"


SERVING = RealServerSpec(1)
DRAINING = RealServerSpec(0)
_DRAINING: Mapping[Forwarding, RealServerSpec] = {
    "masquerade": DRAINING,
    "route": RealServerSpec(0, forwarding="route"),
    "tunnel": RealServerSpec(0, forwarding="tunnel"),
}


def drained(have: "Spec") -> RealServerSpec:
    """Return the spec of a real server that drains, and that is *have* until then."""
    return _DRAINING[have.forwarding] if isinstance(have, RealServerSpec) else DRAINING


def is_draining_spec(spec: "Spec") -> bool:
    """Return whether *spec* is that of a real server that drains."""
    return isinstance(spec, RealServerSpec) and not spec.weight and spec == _DRAINING[spec.forwarding]


def completed(seen: "Spec", known: "Spec") -> "Spec":
    """Return *seen*, with the thresholds of *known*, which the row was known to have, if they are NOT_LISTED."""
    if not isinstance(seen, RealServerSpec) or seen.upper != NOT_LISTED:
        return seen
    upper, lower = (known.upper, known.lower) if isinstance(known, RealServerSpec) else (0, 0)
    return RealServerSpec(seen.weight, upper, lower, seen.forwarding)


_WHOLE_MARK = 0xFFFFFFFF


class MarkSpec(Struct, frozen=True, gc=False):
    """The firewall mark that an entry of a set gives to packets (skbinfo)."""

    mark: int
    mask: int = _WHOLE_MARK  # the bits that are replaced

    def __str__(self) -> str:
        return f"skbmark {self.mark:#x}{'' if self.mask == _WHOLE_MARK else f'/{self.mask:#x}'}"


def parse_mark(text: str) -> MarkSpec:
    """Return the mark that ``ipset save`` prints as *text*: ``0x2002``, or with its mask.  Raises ValueError."""
    mark, _, mask = text.partition("/")
    return MarkSpec(int(mark, 16), int(mask, 16) if mask else _WHOLE_MARK)


class LoopbackSpec(Struct, frozen=True, gc=False):
    """Which source address programs that connect to the loopback address get, and at which ports."""

    source: IP
    ports: str  # 30000-32767
    is_complete: bool = True  # False: some of the rules are missing, or come too late; never desired

    @property
    def range(self) -> tuple[int, int]:
        """Return the first and the last port."""
        first, _, last = self.ports.partition("-")
        return int(first), int(last)

    def __str__(self) -> str:
        incomplete = "" if self.is_complete else ", incomplete"
        return f"from {self.source or 'no address'} to ports {self.ports}{incomplete}"


class TunnelSpec(Struct, frozen=True, gc=False):
    """The address of this node that the device has, without which the kernel drops what arrives there."""

    address: IP
    # False: it is down, lacks an address, drops by rp_filter, or routes on although it is not shared; never desired
    is_complete: bool = True

    def __str__(self) -> str:
        return f"at {self.address or 'no address'}{'' if self.is_complete else ', incomplete'}"


class AddressSpec(Struct, frozen=True, gc=False):
    """How an address on kube-ipvs0 differs from one that this agent adds."""

    preferred: bool = False  # IPv6: the kernel may select it as the source of this host's packets
    prefix_length: int = 0  # of its network, which is then taken from the host while the device is up; 0: it has none

    def __str__(self) -> str:
        parts = ("preferred" if self.preferred else "", f"with network /{self.prefix_length}")
        return ", ".join(filter(None, parts[: 2 if self.prefix_length else 1])) or "deprecated"


PREFERRED = AddressSpec(preferred=True)
"""The spec of an IPv6 address as kube-proxy adds it; it is only read, never desired."""


class Connections(Struct, frozen=True, gc=False):
    """The number of connection entries of a real server, which decides when a draining one may be deleted."""

    active: int = 0
    inactive: int = 0

    @property
    def total(self) -> int:
        """Return active and inactive connections."""
        return self.active + self.inactive


class Traffic(Struct, frozen=True, gc=False):
    """Traffic of a virtual server since it was created; "received" is what clients sent."""

    connections: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class RealServerCounters(Struct, frozen=True, gc=False):
    """What the kernel counts of a real server."""

    weight: int
    connections: Connections
    traffic: Traffic  # since it was created


Spec = (
    str
    | IpsetSpec
    | MarkSpec
    | ChainSpec
    | JumpSpec
    | VirtualServerSpec
    | RealServerSpec
    | LoopbackSpec
    | TunnelSpec
    | AddressSpec
    | None
)
Rows = dict[Key, Spec]


def referenced_sets(rules: Iterable[str]) -> set[str]:
    """Return the names of the sets that *rules* match on, or take marks from."""
    return {name for rule in rules for name in re.findall(r"--(?:match|map)-set (\S+)", rule)}
