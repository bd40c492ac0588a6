"""The kernel's rows: every kernel object that we own is one row, a key with its spec.

Law: a key is identity (what the kernel would answer EEXIST to); a spec is what may change in place.  Keys of
different kinds are never equal, and a key's text is what people know from ``ipvsadm``, ``ipset``, ``ip`` and
``iptables``.

Hashes are cached, and keys that name another key hold it, because at 10,000 Services there are 140,000 of them.
"""

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.services import IP, Family, Protocol

IPVS_DEVICE = "kube-ipvs0"

Table = Literal["nat", "filter"]

FLAG_PERSISTENT = 0x1  # IP_VS_SVC_F_PERSISTENT, include/uapi/linux/ip_vs.h
FLAG_SCHED_2 = 0x10  # IP_VS_SVC_F_SCHED2: mh-port, sh-port


class Key(Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """The base of all keys."""


class Sysctl(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """One setting, by its path below /proc/sys (``net/ipv4/vs/conntrack``) or from / (``/sys/...``); spec: text."""

    path: str

    def __str__(self) -> str:
        return self.path


class Link(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A dummy network device that is down; spec: None."""

    name: str

    def __str__(self) -> str:
        return self.name


class Ipset(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """spec: IpsetSpec."""

    name: str

    def __str__(self) -> str:
        return self.name


class IpsetEntry(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """An element, written as ``ipset save`` prints it: ``10.0.0.1,tcp:80``; spec: None."""

    set: str
    entry: str

    def __str__(self) -> str:
        return f"{self.set} {self.entry}"


class Chain(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A chain of ours, with all its rules; spec: ChainSpec."""

    family: Family
    table: Table
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Jump(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """The rule by which a built-in chain comes to one of ours; spec: JumpSpec."""

    family: Family
    table: Table
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.source} -> {self.target}"


class VirtualServer(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """spec: VirtualServerSpec."""

    address: IP
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{endpoint_text(self.address, self.port)}/{self.protocol}"


class RealServer(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """A masquerading real server of a virtual server; spec: RealServerSpec."""

    virtual_server: VirtualServer
    address: IP
    port: int

    def __str__(self) -> str:
        return f"{self.virtual_server} -> {endpoint_text(self.address, self.port)}"


class Address(Key, frozen=True, gc=False, order=True, cache_hash=True):
    """An address (/32 or /128) on kube-ipvs0; spec: None."""

    address: IP

    def __str__(self) -> str:
        return self.address


class IpsetSpec(Struct, frozen=True, gc=False):
    """The header of a set.  ``family`` is None for bitmap:port, which holds ports of both."""

    type: str  # "hash:ip,port"
    family: Family | None
    hashsize: int = 1024
    maxelem: int = 65536

    def is_like(self, other: "IpsetSpec") -> bool:
        """Whether the kernel lets sets with these headers take each other's place."""
        return (self.type, self.family) == (other.type, other.family)

    def __str__(self) -> str:
        return f"{self.type} family {'inet6' if self.family == 'IPv6' else 'inet'}" if self.family else self.type


class ChainSpec(Struct, frozen=True, gc=False):
    """The rules of a chain in order, each as ``iptables-save`` prints it, without ``-A CHAIN ``."""

    rules: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"


class JumpSpec(Struct, frozen=True, gc=False):
    """The jump's rule as ``iptables-save`` prints it, without ``-A CHAIN ``."""

    rule: str

    def __str__(self) -> str:
        return self.rule


class VirtualServerSpec(Struct, frozen=True, gc=False):
    scheduler: str = "rr"
    flags: int = 0
    persistence_s: int = 0  # 0: not persistent

    def __str__(self) -> str:
        return f"{self.scheduler} persistent {self.persistence_s}" if self.persistence_s else self.scheduler


class RealServerSpec(Struct, frozen=True, gc=False):
    weight: int = 1  # 0: gets no new connections (draining)

    def __str__(self) -> str:
        return f"weight {self.weight}"


SERVING = RealServerSpec(1)
DRAINING = RealServerSpec(0)


class Connections(Struct, frozen=True, gc=False):
    """How many connection entries a real server has; no row of ours, but what decides when one may go."""

    active: int = 0
    inactive: int = 0

    @property
    def total(self) -> int:
        return self.active + self.inactive


class Traffic(Struct, frozen=True, gc=False):
    """What a virtual server has carried since it was made; what clients sent is received."""

    connections: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


Spec = str | IpsetSpec | ChainSpec | JumpSpec | VirtualServerSpec | RealServerSpec | None
Rows = dict[Key, Spec]


def endpoint_text(address: IP, port: int) -> str:
    """``address:port``, with IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def named_sets(rules: Iterable[str]) -> set[str]:
    """The sets that *rules* match on."""
    return {name for rule in rules for name in re.findall(r"--match-set (\S+)", rule)}


def named_chains(rules: Iterable[str]) -> set[str]:
    """The chains of ours that *rules* go to."""
    return {name for rule in rules for name in re.findall(r"-[jg] (KUBE-\S+)", rule)}
