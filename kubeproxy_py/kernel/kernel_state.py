"""Kernel state as a JSON document: written by ``kubeproxy-py dump``, read by ``plan --kernel-state`` on any host.

Invariants:
- Rows that were written and read back are equal, in the same order within each kind, so that a plan is the same.
- The document has a version; another one is refused. docs/kernel-state.md describes the fields.
- Nothing in a document makes reading it fail with anything but KernelError.
"""

from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, Literal, Self, TypeVar

import msgspec
from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.kube_names import entry_key
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    AddressSpec,
    Chain,
    ChainSpec,
    Forwarding,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    JumpSpec,
    Key,
    Link,
    LoopbackPath,
    LoopbackSpec,
    MarkSpec,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    Spec,
    Sysctl,
    Table,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
    parse_mark,
)
from kubeproxy_py.net import IP, Family, Protocol, parse_ip

KIND = "KernelState"
VERSION = 1

_HINT = 'write it again by "kubeproxy-py dump FILE"'


class _Wire(Struct, frozen=True, gc=False, rename="camel"):
    """Base of the document's structures."""


class HostWire(_Wire, frozen=True, gc=False):
    """What of the host decides which rows it should have; see HostInfo."""

    name: str
    kernel_release: str
    kernel_version: tuple[int, int, int]
    cpus: int
    families: tuple[Family, ...]
    random_fully: bool
    missing_extensions: dict[Family, list[str]]
    outgoing_addresses: tuple[IP, ...]

    @classmethod
    def of(cls, name: str, kernel_release: str, info: HostInfo) -> Self:
        """Return what of *info* is written."""
        missing = {family: sorted(names) for family, names in info.missing_extensions.items()}
        return cls(
            name,
            kernel_release,
            info.kernel_version,
            info.cpus,
            info.families,
            info.random_fully,
            missing,
            info.outgoing_addresses,
        )

    def info(self, node_name: str) -> HostInfo:
        """Return the host as the Node called *node_name*."""
        return HostInfo(
            node_name,
            self.kernel_version,
            self.cpus,
            self.families,
            self.random_fully,
            {family: frozenset(names) for family, names in self.missing_extensions.items()},
            self.outgoing_addresses,
        )


class HostAddressWire(_Wire, frozen=True, gc=False):
    """An address of an interface."""

    interface: str
    address: IP
    prefix_length: int


class IpsetWire(_Wire, frozen=True, gc=False):
    """A set with its entries."""

    name: str
    header: IpsetSpec
    entries: list[str]  # as ``ipset save`` prints them, with marks


class ChainWire(_Wire, frozen=True, gc=False):
    """A chain."""

    family: Family
    table: Table
    name: str
    rules: tuple[str, ...]


class JumpWire(_Wire, frozen=True, gc=False):
    """A jump from a built-in chain."""

    family: Family
    table: Table
    source: str
    target: str
    rule: str
    behind: str = ""


class RealServerWire(_Wire, frozen=True, gc=False):
    """A real server."""

    address: IP
    port: int
    weight: int
    upper_threshold: int = 0  # connections with which it gets no new ones; 0: no limit
    lower_threshold: int = 0
    forwarding: Forwarding = "masquerade"  # how packets get to it


class VirtualServerWire(_Wire, frozen=True, gc=False):
    """A virtual server with its real servers."""

    address: IP
    port: int
    protocol: Protocol
    scheduler: str
    flags: int
    persistence_s: int
    real_servers: list[RealServerWire]
    netmask: str = ""  # of clients that share a real server; "": each has its own
    mark: int = 0  # not 0: by this firewall mark, whatever address, port and protocol


class DeviceAddressWire(_Wire, frozen=True, gc=False):
    """An address on kube-ipvs0."""

    address: IP
    preferred: bool | None = None  # None: as this agent adds it
    prefix_length: int = 0  # 0: that of a single address


class LoopbackPathWire(_Wire, frozen=True, gc=False):
    """The path to node ports at the loopback address of a family."""

    family: Family
    spec: LoopbackSpec


class ReturnTunnelWire(_Wire, frozen=True, gc=False):
    """The device by which packets of a family arrive that other nodes hand on."""

    family: Family
    spec: TunnelSpec


class KernelState(_Wire, frozen=True, gc=False, kw_only=True):
    """The document."""

    kind: Literal["KernelState"] = "KernelState"
    version: Literal[1] = 1
    written_by: str  # program and version
    written_at: str  # RFC 3339
    host: HostWire
    host_addresses: list[HostAddressWire] = []  # without those of kube-ipvs0
    gateways: dict[IP, str] = {}
    unread: dict[str, str] = {}  # scopes that could not be read, each with the error
    sysctls: dict[str, str] = {}
    links: list[str] = []
    loopback_paths: list[LoopbackPathWire] = []
    return_tunnels: list[ReturnTunnelWire] = []
    device_addresses: list[DeviceAddressWire] = []
    ipsets: list[IpsetWire] = []
    chains: list[ChainWire] = []
    jumps: list[JumpWire] = []
    virtual_servers: list[VirtualServerWire] = []

    def addresses(self) -> tuple[HostAddress, ...]:
        """Return the addresses of the interfaces, without those of kube-ipvs0."""
        found = self.host_addresses
        return tuple(HostAddress(wire.interface, wire.address, wire.prefix_length) for wire in found)

    def rows(self) -> Rows:
        """Return the rows; within each kind in the order in which the kernel listed them."""
        return dict(_rows_of(self))


class _Header(Struct, gc=False):
    kind: str = ""
    version: int = 0


def encode(state: KernelState) -> bytes:
    """Return *state* as JSON, indented so that it can be read and compared line by line."""
    return msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n"


def decode(content: bytes, where: str) -> KernelState:
    """Return the document *content*, which *where* names in messages.

    Raises:
        KernelError: It is no such document, or of another version.
    """
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.kind != KIND:
            raise KernelError(f"{where}: not a kernel state (kind: {KIND})", hint=_HINT)
        if header.version != VERSION:
            message = f"{where}: version {header.version} of the format; this program reads version {VERSION}"
            raise KernelError(message, hint="use the program that wrote it")
        state = msgspec.json.decode(content, type=KernelState)
        _check_addresses(state)
        for ipset in state.ipsets:
            for entry in ipset.entries:
                _parse_entry(ipset.name, entry)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise KernelError(f"{where}: not a valid kernel state: {error!s:.200}", hint=_HINT) from None
    return state


def contents_of(rows: Rows, addresses: Iterable[HostAddress]) -> dict[str, Any]:
    """Return the fields of a KernelState that *rows*, and the *addresses* of all interfaces, fill."""
    by_kind = _ByKind(rows)
    others = (address for address in addresses if address.interface != IPVS_DEVICE)
    return {
        "host_addresses": [HostAddressWire(other.interface, other.address, other.prefix_length) for other in others],
        "sysctls": {key.path: value for key, value in by_kind.pairs(Sysctl, str)},
        "links": [key.name for key, _ in by_kind.pairs(Link, object)],
        "loopback_paths": [
            LoopbackPathWire(key.family, spec) for key, spec in by_kind.pairs(LoopbackPath, LoopbackSpec)
        ],
        "return_tunnels": [ReturnTunnelWire(key.family, spec) for key, spec in by_kind.pairs(ReturnTunnel, TunnelSpec)],
        "device_addresses": [
            DeviceAddressWire(key.address, spec.preferred, spec.prefix_length)
            if isinstance(spec, AddressSpec)
            else DeviceAddressWire(key.address)
            for key, spec in by_kind.pairs(Address, object)
        ],
        "ipsets": _ipsets(by_kind),
        "chains": [
            ChainWire(key.family, key.table, key.name, spec.rules) for key, spec in by_kind.pairs(Chain, ChainSpec)
        ],
        "jumps": [
            JumpWire(key.family, key.table, key.source, key.target, spec.rule, spec.behind)
            for key, spec in by_kind.pairs(Jump, JumpSpec)
        ],
        "virtual_servers": _virtual_servers(by_kind),
    }


_KeyOf = TypeVar("_KeyOf", bound=Key)
_SpecOf = TypeVar("_SpecOf")


class _ByKind:
    """Rows by the kind of their key; all of them are gone over once."""

    def __init__(self, rows: Rows) -> None:
        self._pairs: dict[type[Key], list[tuple[Key, Spec]]] = {}
        for pair in rows.items():
            self._pairs.setdefault(type(pair[0]), []).append(pair)

    def pairs(self, kind: type[_KeyOf], of: type[_SpecOf]) -> Iterator[tuple[_KeyOf, _SpecOf]]:
        """Yield the rows of *kind* that have a spec *of* a type, in the order in which they were given."""
        for key, spec in self._pairs.get(kind, ()):
            if isinstance(key, kind) and isinstance(spec, of):
                yield key, spec


def _ipsets(by_kind: _ByKind) -> list[IpsetWire]:
    entries: dict[str, list[str]] = {}
    for entry, _ in (*by_kind.pairs(IpsetEntry, NoneType), *by_kind.pairs(PolicyEntry, NoneType)):
        entries.setdefault(entry.set, []).append(entry.entry)
    for entry, mark in by_kind.pairs(PolicyEntry, MarkSpec):
        entries.setdefault(entry.set, []).append(f"{entry.entry} {mark}")
    return [IpsetWire(key.name, spec, entries.get(key.name, [])) for key, spec in by_kind.pairs(Ipset, IpsetSpec)]


def _virtual_servers(by_kind: _ByKind) -> list[VirtualServerWire]:
    real_servers: dict[VirtualServer, list[RealServerWire]] = {}
    for key, spec in by_kind.pairs(RealServer, RealServerSpec):
        wire = RealServerWire(key.address, key.port, spec.weight, spec.upper, spec.lower, spec.forwarding)
        real_servers.setdefault(key.virtual_server, []).append(wire)
    return [
        VirtualServerWire(
            address=key.address,
            port=key.port,
            protocol=key.protocol,
            scheduler=spec.scheduler,
            flags=spec.flags,
            persistence_s=spec.persistence_s,
            real_servers=real_servers.get(key, []),
            netmask=spec.netmask,
            mark=key.mark,
        )
        for key, spec in by_kind.pairs(VirtualServer, VirtualServerSpec)
    ]


def _rows_of(state: KernelState) -> Iterator[tuple[Key, Spec]]:
    for path, value in state.sysctls.items():
        yield Sysctl(path), value
    for name in state.links:
        yield Link(name), None
    for loopback in state.loopback_paths:
        yield LoopbackPath(loopback.family), loopback.spec
    for tunnel in state.return_tunnels:
        yield ReturnTunnel(tunnel.family), tunnel.spec
    for address in state.device_addresses:
        is_usual = address.preferred is None
        spec = None if is_usual else AddressSpec(address.preferred is True, address.prefix_length)
        yield Address(address.address), spec
    for ipset in state.ipsets:
        yield Ipset(ipset.name), ipset.header
        for entry in ipset.entries:
            yield _parse_entry(ipset.name, entry)
    for chain in state.chains:
        yield Chain(chain.family, chain.table, chain.name), ChainSpec(chain.rules)
    for jump in state.jumps:
        yield Jump(jump.family, jump.table, jump.source, jump.target), JumpSpec(jump.rule, jump.behind)
    for server in state.virtual_servers:
        key = VirtualServer(server.address, server.port, server.protocol, server.mark)
        yield key, VirtualServerSpec(server.scheduler, server.flags, server.persistence_s, server.netmask)
        for real in server.real_servers:
            of_real = RealServerSpec(real.weight, real.upper_threshold, real.lower_threshold, real.forwarding)
            yield RealServer(key, real.address, real.port), of_real


def _parse_entry(name: str, text: str) -> tuple[IpsetEntry, MarkSpec | None]:
    """Return an entry of the set *name*.  Raises ValueError."""
    entry, _, mark = text.partition(" skbmark ")
    return entry_key(name, entry), parse_mark(mark) if mark else None


def _check_addresses(state: KernelState) -> None:
    """Raise ValueError unless every address is one, in the canonical form in which rows have it."""
    for address in _addresses_in(state):
        if parse_ip(address) != address:
            raise ValueError(f"{address!r:.80} is not an address in its usual form")


def _addresses_in(state: KernelState) -> Iterable[IP]:
    yield from (address.address for address in state.host_addresses)
    yield from state.gateways
    yield from state.host.outgoing_addresses
    yield from (address.address for address in state.device_addresses)
    for server in state.virtual_servers:
        yield server.address
        yield from (real.address for real in server.real_servers)
