"""Who is told: the kernel that carries out plans, and can be read back.

Law: a kernel decides nothing.  It does the steps in the order given, says of each whether it was done, and reads
back rows exactly as the compiler writes them, so that a row that was written compares equal when read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    Connections,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
    Table,
    VirtualServer,
)
from kubeproxy_py.model.services import Family
from kubeproxy_py.model.steps import Outcome, Plan


class Scope(Struct, frozen=True, gc=False):
    """A part of the kernel's state that can be read alone: one set, one table, the virtual servers, ...

    Scopes do not overlap, and together they hold every row.
    """

    kind: str  # "sysctls", "link", "ipset", "table", "virtual servers"
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


Readable = Scope | VirtualServer
"""What can be listed: a scope, or the real servers of a virtual server."""


class Snapshot(Struct, frozen=True, gc=False):
    """What the kernel says of a part of its state, not yet made into rows.

    ``seal()`` is the same for as long as it says the same, counters of traffic aside.  It is a hash of 64 bits, keyed
    anew in each process, so that two different states have one seal once in 2^64 times.  Who needs but one of the two
    does not pay for the other.
    """

    fingerprint: Callable[[], int]
    rows: Callable[[], Rows]


def snapshot_of(rows: Rows) -> Snapshot:
    """The listing of a part whose *rows* are made already."""
    return Snapshot(lambda: hash(frozenset(rows.items())), lambda: rows)


class Kernel(Protocol):
    """What the agent needs of a kernel; kept by MemoryKernel and LinuxKernel (tests/contract)."""

    def scopes(self) -> Sequence[Scope]:
        """The parts that can be read alone, in the order in which reading them is useful."""
        ...

    def read(self, scope: Scope) -> Rows:
        """The rows of *scope* as they are now.

        Only what may be ours is told: sets, chains and jumps of our names, addresses on kube-ipvs0, virtual
        servers without a firewall mark.  Raises KernelError if the kernel could not be asked.
        """
        ...

    def virtual_servers(self) -> Iterator[Rows]:
        """The virtual servers alone, as ``read`` tells them, in parts of one listing.  Raises KernelError."""
        ...

    def snapshot(self, part: Readable) -> Snapshot:
        """What the kernel says of *part* now; of a virtual server that is gone, nothing.  Raises KernelError."""
        ...

    def fingerprint(self, part: Readable) -> int:
        """``listing(part).seal()``, for who needs nothing else.  Raises KernelError."""
        ...

    def apply(self, plan: Plan) -> Outcome:
        """Carry out every step that can be; one failed step never stops those that do not depend on it."""
        ...

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """How many connection entries each real server of *virtual_servers* has now."""
        ...

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Those of *real_servers* that are there and have no connection entries now.  Raises KernelError."""
        ...

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """All addresses of all interfaces, kube-ipvs0 included, sorted.  Raises KernelError."""
        ...

    def close(self) -> None:
        """Give back sockets; the state of the kernel stays."""
        ...


@runtime_checkable
class FlowTable(Protocol):
    """A kernel whose UDP flows can be listed and deleted; the agent asks those that are one (tests/contract)."""

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """The UDP flows to *servers* in parts, each as it is read; perhaps some of them twice.

        Raises KernelError if the kernel can't list flows.
        """
        ...

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*: how many were deleted, and the kernel's words on each that it would not delete.

        One that was gone already is neither.  Raises KernelError if the kernel could not be asked.
        """
        ...


SYSCTLS = Scope("sysctls")
LINK = Scope("link")
VIRTUAL_SERVERS = Scope("virtual servers")


@cache
def ipset_scope(name: str) -> Scope:
    """The scope of one set with its entries."""
    return Scope("ipset", name)


@cache
def table_scope(family: Family, table: Table) -> Scope:
    """The scope of one iptables table with its chains and jumps."""
    return Scope("table", f"{family} {table}")


_SCOPE_OF: dict[type[Key], Callable[[Any], Scope]] = {
    Sysctl: lambda _: SYSCTLS,
    Link: lambda _: LINK,
    Address: lambda _: LINK,
    Ipset: lambda key: ipset_scope(key.name),
    IpsetEntry: lambda key: ipset_scope(key.set),
    Chain: lambda key: table_scope(key.family, key.table),
    Jump: lambda key: table_scope(key.family, key.table),
    VirtualServer: lambda _: VIRTUAL_SERVERS,
    RealServer: lambda _: VIRTUAL_SERVERS,
}


def scope_of(key: Key) -> Scope:
    """The scope in which *key* is read."""
    return _SCOPE_OF[type(key)](key)


def read_all(kernel: Kernel) -> Rows:
    """Every row of every scope."""
    rows: Rows = {}
    for scope in kernel.scopes():
        found = kernel.read(scope)
        few, many = sorted((rows, found), key=len)  # nearly all are in one scope, and are not to be copied
        many.update(few)
        rows = many
    return rows
