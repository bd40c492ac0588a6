"""MemoryKernel: kernel state as a dict that is as strict as Linux about order and existence.

Invariants:
- What Linux refuses is refused with the same errno, and what Linux deletes along with a row (a set's entries, a virtual
  server's real servers) is deleted.  Observed on Linux 6.1; tests/contract runs one suite on both kernels.

A test can make a step fail (``fault``) or crash before a step (``steps_until_crash``), and plan again from there.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from errno import EADDRNOTAVAIL, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ESRCH

from kubeproxy_py.kernel import (
    IPV4_REAL_SERVERS,
    IPV6_REAL_SERVERS,
    LINK,
    REAL_SERVERS,
    SERVER_GROUPS,
    VIRTUAL_SERVERS,
    Mark,
    MarkReader,
    Readable,
    RealServerListing,
    Scope,
    Snapshot,
    mark_group,
    scope_of,
    snapshot_of,
)
from kubeproxy_py.kernel.ipset.constants import IPSET_ERR_BUSY, IPSET_ERR_EXIST, IPSET_ERR_HASH_FULL
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.kube_names import referenced_chains
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    Chain,
    ChainSpec,
    Connections,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    Key,
    Link,
    PolicyEntry,
    RealServer,
    Rows,
    Spec,
    Sysctl,
    VirtualServer,
    referenced_sets,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.net import IP, family_of

_ERRNO_IF_ABSENT: dict[type[Key], int] = {
    Link: ENODEV,
    Address: EADDRNOTAVAIL,
    VirtualServer: ESRCH,
    IpsetEntry: IPSET_ERR_EXIST,
    PolicyEntry: IPSET_ERR_EXIST,
}
_ERRNO_IF_PRESENT: dict[type[Key], int] = {IpsetEntry: IPSET_ERR_EXIST, PolicyEntry: IPSET_ERR_EXIST}
_CONTAINERS = (Ipset, VirtualServer, Link)  # Linux deletes their contents along with them
_CREATED_BY_UPDATE = (Ipset, Chain, Jump)  # the Linux adapters replace these completely


class SimulatedCrash(Exception):  # noqa: N818 - an interruption, not an error
    """The process that was applying a plan has died; the steps that it had carried out stay."""


class MemoryKernel:
    """Kernel rows in a dict; see Kernel for its methods.

    Args:
        rows: The initial rows.
        idempotent: Behave as the Linux adapters do: an add of an existing row updates it, a delete of a missing row
            succeeds, and so does an update of a missing set, chain or jump.  Without it all of these are refused; no
            plan from true rows may contain them.

    Attributes:
        rows: The current rows.
        addresses: Host addresses besides those of kube-ipvs0.
        gateway_addresses: The gateways, each with its interface.
        neighbour_table: The neighbours that have answered.
        solicited: What was solicited, in order.
        open_connections: Connections by real server; none for others.
        flows: The UDP flows.
        applied: The steps that were carried out.
        fault: Returns the errno with which a step fails, or 0.
        steps_until_crash: The number of steps before ``apply`` raises SimulatedCrash; None: never.
    """

    def __init__(self, rows: Rows | None = None, *, idempotent: bool = False) -> None:
        self.rows: Rows = dict(rows or {})
        self.addresses: tuple[HostAddress, ...] = ()
        self.gateway_addresses: dict[IP, str] = {}
        self.neighbour_table: list[Neighbour] = []
        self.solicited: list[HostAddress] = []
        self.open_connections: dict[RealServer, Connections] = {}
        self.flows: list[Flow] = []
        self.idempotent = idempotent
        self.applied: list[Step] = []
        self.fault: Callable[[Step], int] = lambda _step: 0
        self.steps_until_crash: int | None = None
        self._marked: dict[Scope, None] = {}
        self._marks: dict[Scope, Mark] = {}  # as they were read last
        self._marked_servers: dict[VirtualServer, Spec] = {}
        self._marked_real_servers: dict[RealServer, Spec] = {}
        self._real_servers_mark = Mark(VIRTUAL_SERVERS, 0)
        self._divided: Rows = {}
        self._by_scope: dict[Scope, Rows] = {}  # those of _divided

    def scopes(self) -> Sequence[Scope]:
        """Return the scopes that contain a row."""
        return list(self._rows_by_scope())

    def read(self, scope: Scope) -> Rows:
        """Return the rows of *scope*."""
        return dict(self._rows_by_scope().get(scope, {}))

    def _rows_by_scope(self) -> Mapping[Scope, Rows]:
        """Return the rows of each scope, divided again if any row has changed: all scopes are often read in turn."""
        if self._divided != self.rows:
            self._divided, self._by_scope = dict(self.rows), {}
            for key, spec in self.rows.items():
                self._by_scope.setdefault(scope_of(key), {})[key] = spec
        return self._by_scope

    def virtual_servers(self) -> Iterator[Rows]:
        """Yield each virtual server in a chunk of its own."""
        for key, spec in list(self.rows.items()):
            if isinstance(key, VirtualServer):
                yield {key: spec}

    def snapshot(self, readable: Readable) -> Snapshot:
        """Return a snapshot of the rows of *readable*."""
        if isinstance(readable, Scope):
            return snapshot_of(self.read(readable))
        rows = self.rows.items()
        return snapshot_of(
            {key: spec for key, spec in rows if isinstance(key, RealServer) and key.virtual_server == readable}
        )

    def fingerprint(self, readable: Readable) -> int:
        """Return the fingerprint of the snapshot."""
        return self.snapshot(readable).fingerprint()

    def mark_readers(self) -> Sequence[MarkReader]:
        """Return one reader, of all scopes but the device that existed at any time; a mark changes with any row."""
        return [MarkReader("memory", self._read_marks)]

    def _read_marks(self) -> dict[str, Mark]:
        self._marked |= {scope: None for scope in self.scopes() if scope != LINK}  # the device has notifications
        return {REAL_SERVERS: self._mark_real_servers(), **{str(scope): self._mark(scope) for scope in self._marked}}

    def _mark_real_servers(self) -> Mark:
        real_servers = {key: spec for key, spec in self.rows.items() if isinstance(key, RealServer)}
        if real_servers != self._marked_real_servers or not self._real_servers_mark.counts:
            counts = Counter(map(mark_group, real_servers))
            numbers = tuple((group, counts[group]) for group in (IPV4_REAL_SERVERS, IPV6_REAL_SERVERS))
            changed = tuple(real_servers.items() - self._marked_real_servers.items())
            value = hash(frozenset(real_servers.items()))
            self._real_servers_mark = Mark(VIRTUAL_SERVERS, value, numbers, changed)
            self._marked_real_servers = real_servers
        return self._real_servers_mark

    def _mark(self, scope: Scope) -> Mark:
        """Return the mark of *scope*, with the same counts as LinuxKernel's."""
        rows = self.read(scope)
        counts = Counter(group for key in rows if (group := mark_group(key)))
        groups = {VIRTUAL_SERVERS.kind: SERVER_GROUPS, "ipset": (scope.name,)}.get(scope.kind, ())
        value, numbers = hash(frozenset(rows.items())), tuple((group, counts[group]) for group in groups)
        known = self._marks.get(scope)
        if known and (known.value, known.counts) == (value, numbers):
            return known
        servers = {key: spec for key, spec in rows.items() if isinstance(key, VirtualServer)}
        changed = tuple(servers.items() - self._marked_servers.items())
        if scope == VIRTUAL_SERVERS:
            self._marked_servers = servers
        self._marks[scope] = Mark(scope, value, numbers, changed)
        return self._marks[scope]

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """Return ``open_connections`` of the real servers that exist."""
        return {
            key: self.open_connections.get(key, Connections())
            for key in self.rows
            if isinstance(key, RealServer) and key.virtual_server in virtual_servers
        }

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Return those that exist and have no ``open_connections``."""
        none = Connections()
        return {key for key in real_servers if key in self.rows and not self.open_connections.get(key, none).total}

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """Return ``addresses`` and those on kube-ipvs0, sorted."""
        bound = (key.address for key in self.rows if isinstance(key, Address))
        on_device = (HostAddress(IPVS_DEVICE, address, 128 if ":" in address else 32) for address in bound)
        return tuple(sorted((*self.addresses, *on_device)))

    def gateways(self) -> dict[IP, str]:
        """Return ``gateway_addresses``."""
        return dict(self.gateway_addresses)

    def solicit(self, targets: Iterable[HostAddress]) -> None:
        """Append to ``solicited``."""
        self.solicited += targets

    def neighbours(self, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
        """Return those of ``neighbour_table`` that are on *interfaces*."""
        return tuple(neighbour for neighbour in self.neighbour_table if neighbour.interface in interfaces)

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """Yield each of ``flows`` to *servers* in a chunk of its own."""
        yield from ([flow] for flow in list(self.flows) if flow.virtual_server in servers)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete from ``flows``."""
        deleted = [flow for flow in flows if flow in self.flows]
        self.flows = [flow for flow in self.flows if flow not in deleted]
        return len(deleted), []

    def close(self) -> None:
        """Do nothing; there are no sockets."""

    def real_server_listing(self) -> RealServerListing | None:
        """Return None."""
        return None

    def apply(self, plan: Plan) -> Outcome:
        """Carry out each step or refuse it.  Raises SimulatedCrash after ``steps_until_crash`` steps."""
        failures = []
        for step in plan:
            self._count_down_to_crash()
            errno = self.fault(step) or self._errno(step)
            if errno:
                failures.append(StepFailure(step, errno, f"errno {errno}"))
            else:
                self._carry_out(step)
                self.applied.append(step)
        return Outcome(tuple(failures))

    def _count_down_to_crash(self) -> None:
        if self.steps_until_crash is not None:
            if self.steps_until_crash == 0:
                raise SimulatedCrash
            self.steps_until_crash -= 1

    def _errno(self, step: Step) -> int:
        """Return the errno with which Linux would refuse *step*, or 0."""
        return self._presence_errno(step) or (
            self._delete_errno(step.key) if step.verb == "delete" else self._write_errno(step)
        )

    def _presence_errno(self, step: Step) -> int:
        """Return the errno if *step* is refused because its row exists, or because it does not."""
        kind, present = type(step.key), step.key in self.rows
        if step.verb == "add":
            return _ERRNO_IF_PRESENT.get(kind, EEXIST) if present and not self.idempotent else 0
        if present or (self.idempotent and (step.verb == "delete" or kind in _CREATED_BY_UPDATE)):
            return 0
        if step.verb == "update" and isinstance(step.key, RealServer) and step.key.virtual_server not in self.rows:
            return ESRCH
        return _ERRNO_IF_ABSENT.get(kind, ENOENT)

    def _write_errno(self, step: Step) -> int:  # noqa: PLR0911 - one for each kind of row
        match step.key:
            case RealServer(virtual_server=virtual_server):
                return 0 if virtual_server in self.rows else ESRCH
            case Address():
                return 0 if Link(IPVS_DEVICE) in self.rows else ENODEV
            case IpsetEntry():
                return self._entry_errno(step.key)
            case Ipset() if isinstance(step.spec, IpsetSpec) and step.key in self.rows:
                return self._set_errno(step.key, step.spec)
            case Chain(family=family, table=table) if isinstance(step.spec, ChainSpec):
                missing_set = any(Ipset(name) not in self.rows for name in referenced_sets(step.spec.rules))
                chains = (Chain(family, table, name) for name in referenced_chains(step.spec.rules))
                missing_chain = any(chain not in self.rows for chain in chains)
                return ENOENT if missing_chain else EINVAL if missing_set else 0
            case Jump(family=family, table=table, target=target):
                return 0 if Chain(family, table, target) in self.rows else ENOENT
        return 0

    def _set_errno(self, key: Ipset, desired: IpsetSpec) -> int:
        """Return the errno of a set's update: 0 if it can be swapped with its entries, or if no rule refers to it."""
        spec = self.rows[key]
        if isinstance(spec, IpsetSpec) and not desired.can_swap_with(spec):
            return self._delete_errno(key)
        return IPSET_ERR_HASH_FULL if desired.family and self._entry_count(key.name) > desired.maxelem else 0

    def _entry_count(self, name: str) -> int:
        return sum(1 for key in self.rows if isinstance(key, IpsetEntry) and key.set == name)

    def _entry_errno(self, key: IpsetEntry) -> int:
        spec = self.rows.get(Ipset(key.set))
        if not isinstance(spec, IpsetSpec):
            return ENOENT
        if spec.family and family_of(key.entry.partition(",")[0]) != spec.family:
            return EINVAL
        return IPSET_ERR_HASH_FULL if spec.family and self._entry_count(key.set) >= spec.maxelem else 0

    def _delete_errno(self, key: Key) -> int:
        match key:
            case Ipset(name=name):
                specs = self.rows.values()
                is_referenced = any(
                    isinstance(spec, ChainSpec) and name in referenced_sets(spec.rules) for spec in specs
                )
                return IPSET_ERR_BUSY if is_referenced else 0
            case Chain():
                return EBUSY if any(self._jumps_to(key, other) for other in self.rows if other != key) else 0
        return 0

    def _jumps_to(self, chain: Chain, other: Key) -> bool:
        if isinstance(other, Jump):
            return (other.family, other.table, other.target) == (chain.family, chain.table, chain.name)
        if isinstance(other, Chain) and (other.family, other.table) == (chain.family, chain.table):
            spec = self.rows[other]
            return isinstance(spec, ChainSpec) and chain.name in referenced_chains(spec.rules)
        return False

    def _carry_out(self, step: Step) -> None:
        if step.verb != "delete":
            before = self.rows.get(step.key)
            if _is_another_type(before, step.spec):
                self._delete_contents(step.key)
            self.rows[step.key] = step.spec
            return
        if isinstance(step.key, Sysctl):
            return  # a sysctl cannot be deleted
        self.rows.pop(step.key, None)
        self._delete_contents(step.key)

    def _delete_contents(self, container: Key) -> None:
        if not isinstance(container, _CONTAINERS):
            return
        for key in [other for other in self.rows if _is_in(other, container)]:
            del self.rows[key]


def _is_another_type(before: Spec, after: Spec) -> bool:
    return isinstance(before, IpsetSpec) and isinstance(after, IpsetSpec) and not after.can_swap_with(before)


def _is_in(key: Key, container: Key) -> bool:
    """Return whether Linux deletes *key* along with *container*."""
    match container:
        case Ipset(name=name):
            return isinstance(key, IpsetEntry) and key.set == name
        case VirtualServer():
            return isinstance(key, RealServer) and key.virtual_server == container
        case Link():
            return isinstance(key, Address)
    return False
