"""The Kernel protocol: apply plans to kernel state, and read the state back.

Invariants:
- A kernel makes no decisions.  It carries out steps in the given order and returns those that failed.
- Rows read back equal the rows that were written.

MemoryKernel and LinuxKernel implement the protocol; tests/contract runs one suite on both.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    Connections,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    LoopbackPath,
    PolicyEntry,
    RealServer,
    ReturnTunnel,
    Rows,
    Spec,
    Sysctl,
    Table,
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.net import IP, Family


class Scope(Struct, frozen=True, gc=False):
    """A part of kernel state that is read in one request: one ipset, one iptables table, all virtual servers, ...

    Scopes do not overlap, and together they contain every row.
    """

    kind: str  # "ipset" or "table", which have a name; else that of one of the scopes below
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


Readable = Scope | VirtualServer
"""What a snapshot can be taken of: a scope, or the real servers of a virtual server."""


class Snapshot(Struct, frozen=True, gc=False):
    """Kernel state as it was listed; the fingerprint and the rows are each computed lazily.

    ``fingerprint()`` is equal for equal state, traffic counters aside.  It is a 64-bit hash whose key differs in each
    process; two different states have the same fingerprint once in 2^64 times.  ``rows()`` raises KernelError if they
    cannot be decoded.
    """

    fingerprint: Callable[[], int]
    rows: Callable[[], Rows]


def snapshot_of(rows: Rows) -> Snapshot:
    """Return a snapshot of *rows* that have been read already."""
    return Snapshot(lambda: hash(frozenset(rows.items())), lambda: rows)


class Mark(Struct, frozen=True, gc=False):
    """What the kernel reports of a scope at little cost, and what changes with most changes of its rows.

    Attributes:
        scope: the scope.
        value: another one means that the scope has changed; an equal one does not exclude it.
        counts: how many rows of a group (see ``mark_group``) the scope has; empty where the kernel does not count.
        changed: rows that are new or have changed since another mark was read, where the reader can tell which.
    """

    scope: Scope
    value: int
    counts: tuple[tuple[str, int], ...] = ()
    changed: tuple[tuple[Key, Spec], ...] = ()


class MarkReader(Struct, frozen=True, gc=False):
    """Reads the marks of some scopes by one request, or a few.

    Attributes:
        name: the name of the reader.
        read: returns each mark by a name that no other mark of the kernel has.  Raises KernelError.
        group: a group of rows without which there is nothing to read; "": read in any case.
    """

    name: str
    read: Callable[[], Mapping[str, Mark]]
    group: str = ""


class LateSteps(Struct, frozen=True, gc=False):
    """Steps that were under way have ended.

    Attributes:
        steps: The steps.
        failures: Those of them that failed.
        release: To be called by the user of the kernel, in its thread, before it uses the result.
    """

    steps: tuple[Step, ...]
    failures: tuple[StepFailure, ...]
    release: Callable[[], None]


class LateRows(Struct, frozen=True, gc=False):
    """A scope whose reading was under way was read, or cannot be; *release* as in LateSteps."""

    scope: Scope
    rows: Rows
    error: KernelError | None
    release: Callable[[], None]


LateResult = LateSteps | LateRows


class RealServerListing(Protocol):
    """All real servers, listed in pieces; only those are decoded that are not known to agree with what is expected."""

    def pieces(self, agrees: Callable[[VirtualServer, Rows], bool]) -> Iterator[None]:
        """List all once, and yield after each piece.

        *agrees* is called with each virtual server, and its real servers, that has changed since it returned True.
        Raises KernelError.
        """
        ...

    def forget(self, servers: Iterable[VirtualServer]) -> None:
        """Have *agrees* be called for *servers* again, because what is expected of them has changed."""
        ...

    def forget_all(self) -> None:
        """Have *agrees* be called for all."""
        ...


class Kernel(Protocol):
    """Kernel state as the reconciler uses it.

    What takes long may be under way when ``apply``, ``read``, ``snapshot`` or ``fingerprint`` end: the steps are
    failures then, or a KernelError is raised, with the errno UNDER_WAY, and a LateResult follows.
    """

    def scopes(self) -> Sequence[Scope]:
        """Return the scopes that exist, in the order in which they are best read."""
        ...

    def read(self, scope: Scope) -> Rows:
        """Return the current rows of *scope*.

        Only rows that may be ours are returned: sets, chains and jumps with our names, addresses on kube-ipvs0,
        virtual servers, of those by firewall mark only while the kernel is asked for exact policies.  Raises
        KernelError.
        """
        ...

    def virtual_servers(self) -> Iterator[Rows]:
        """Yield the virtual servers without their real servers, in chunks of one listing.  Raises KernelError."""
        ...

    def snapshot(self, readable: Readable) -> Snapshot:
        """Return the current state of *readable*; empty for a virtual server that is gone.  Raises KernelError."""
        ...

    def fingerprint(self, readable: Readable) -> int:
        """Return ``snapshot(readable).fingerprint()`` without the cost of a snapshot.  Raises KernelError."""
        ...

    def mark_readers(self) -> Sequence[MarkReader]:
        """Return the readers of marks; scopes without a mark have no reader."""
        ...

    def real_server_listing(self) -> RealServerListing | None:
        """Return the listing of all real servers; None if they must be read one virtual server after the other."""
        ...

    def apply(self, plan: Plan) -> Outcome:
        """Carry out every step that can be, in order; a failed step does not stop the others."""
        ...

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """Return the number of connections of each real server of *virtual_servers*.  Raises KernelError."""
        ...

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Return those of *real_servers* that exist and have no connections.  Raises KernelError."""
        ...

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """Return the addresses of all interfaces, including kube-ipvs0, sorted.  Raises KernelError."""
        ...

    def gateways(self) -> dict[IP, str]:
        """Return the gateways of the routes, each with its interface.  Raises KernelError."""
        ...

    def solicit(self, targets: Iterable[HostAddress]) -> None:
        """Ask which neighbour has the address of each of *targets*; ``neighbours`` has the answers, a moment later.

        A target that cannot be asked for is skipped.  Raises KernelError.
        """
        ...

    def neighbours(self, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
        """Return the machines on *interfaces* that have answered.  Raises KernelError."""
        ...

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """Yield the UDP flows to *servers*, in chunks as they are read; a flow may appear twice.

        Raises:
            KernelError: The kernel cannot list flows.
        """
        ...

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*; return how many were deleted, and the error text of each that could not be.

        A flow that no longer exists is neither.  Raises KernelError.
        """
        ...

    def close(self) -> None:
        """Close sockets; kernel state is left in place."""
        ...


SYSCTLS = Scope("sysctls")
LINK = Scope("link")
LOOPBACK = Scope("loopback paths")
RETURN_TUNNELS = Scope("return tunnels")
VIRTUAL_SERVERS = Scope("virtual servers")
TABLE_KIND = "table"


@cache
def ipset_scope(name: str) -> Scope:
    """Return the scope of one ipset with its entries."""
    return Scope("ipset", name)


@cache
def table_scope(family: Family, table: Table) -> Scope:
    """Return the scope of one iptables table with its chains and jumps."""
    return Scope(TABLE_KIND, f"{family} {table}")


_SCOPE_OF_KIND: dict[type[Key], Scope] = {
    Sysctl: SYSCTLS,
    Link: LINK,
    Address: LINK,
    LoopbackPath: LOOPBACK,
    ReturnTunnel: RETURN_TUNNELS,
    VirtualServer: VIRTUAL_SERVERS,
    RealServer: VIRTUAL_SERVERS,
}
_SCOPE_OF: dict[type[Key], Callable[[Any], Scope]] = {
    Ipset: lambda key: ipset_scope(key.name),
    IpsetEntry: lambda key: ipset_scope(key.set),
    PolicyEntry: lambda key: ipset_scope(key.set),
    Chain: lambda key: table_scope(key.family, key.table),
    Jump: lambda key: table_scope(key.family, key.table),
}


def scope_of(key: Key) -> Scope:
    """Return the scope in which *key* is read."""
    kind = type(key)
    return _SCOPE_OF_KIND.get(kind) or _SCOPE_OF[kind](key)


def scopes_of(keys: Collection[Key]) -> set[Scope]:
    """Return the scopes in which *keys* are read."""
    scopes: set[Scope] = set()
    for kind in set(map(type, keys)):
        if scope := _SCOPE_OF_KIND.get(kind):
            scopes.add(scope)
        else:
            scopes.update(map(_SCOPE_OF[kind], [key for key in keys if type(key) is kind]))
    return scopes


IPV4_SERVERS, IPV4_REAL_SERVERS = "IPv4 virtual servers", "IPv4 real servers"
IPV6_SERVERS, IPV6_REAL_SERVERS = "IPv6 virtual servers", "IPv6 real servers"
"""Groups of rows that marks count; another group is that of a set with its entries, by the name of the set."""

SERVER_GROUPS = (IPV4_SERVERS, IPV4_REAL_SERVERS, IPV6_SERVERS)
"""Those that are always counted; IPv6 real servers only together with REAL_SERVERS."""

REAL_SERVERS = "real servers"
"""The name of the mark that shows each change of a real server, its weight included; many have no such mark."""

_GROUP_OF: dict[type[Key], Callable[[Any], str]] = {
    Ipset: lambda key: key.name,
    IpsetEntry: lambda key: key.set,
    PolicyEntry: lambda key: key.set,
    VirtualServer: lambda key: IPV6_SERVERS if ":" in key.address else IPV4_SERVERS,
    RealServer: lambda key: IPV6_REAL_SERVERS if ":" in key.virtual_server.address else IPV4_REAL_SERVERS,
    LoopbackPath: lambda _key: LOOPBACK.kind,
    ReturnTunnel: lambda _key: RETURN_TUNNELS.kind,
}


def mark_group(key: Key) -> str:
    """Return the group as part of which marks count *key*, or without which none is read; "" if there is no such."""
    group = _GROUP_OF.get(type(key))
    return group(key) if group else ""


def read_all(kernel: Kernel) -> Rows:
    """Return every row of every scope.  Raises KernelError."""
    rows, unread = read_scopes(kernel)
    for error in unread.values():
        raise error
    return rows


def read_scopes(kernel: Kernel) -> tuple[Rows, dict[Scope, KernelError]]:
    """Return every row of the scopes that can be read, and the error of each that cannot."""
    rows: Rows = {}
    unread: dict[Scope, KernelError] = {}
    for scope in kernel.scopes():
        try:
            scope_rows = kernel.read(scope)
        except KernelError as error:
            unread[scope] = error
            continue
        # Nearly all rows are in one scope; copying the smaller dict into the larger one avoids copying them.
        smaller, larger = sorted((rows, scope_rows), key=len)
        larger.update(smaller)
        rows = larger
    return rows, unread
