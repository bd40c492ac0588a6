"""MemoryKernel: a dict as strict as Linux about order and existence.

Law: what Linux refuses, it refuses with the same errno, and what Linux drops along (a set's entries, a virtual
server's real servers), it drops.  Seen on Linux 6.1; tests/contract holds both kernels to one suite.

It can be told to fail a step (``fault``) and to die before one (``dies_before``), which is how the laws of planning
are tested: stop anywhere, look, plan again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from errno import EADDRNOTAVAIL, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ESRCH

from kubeproxy_py.kernel import Readable, Scope, Snapshot, scope_of, snapshot_of
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress
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
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
    named_chains,
    named_sets,
)
from kubeproxy_py.model.services import family_of
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure

IPSET_ERR_BUSY = 4100  # include/uapi/linux/netfilter/ipset/ip_set.h
IPSET_ERR_EXIST = 4103
IPSET_ERR_HASH_FULL = 4352

_ABSENT: dict[type[Key], int] = {
    Link: ENODEV,
    Address: EADDRNOTAVAIL,
    VirtualServer: ESRCH,
    IpsetEntry: IPSET_ERR_EXIST,
}
_MADE_BY_UPDATE = (Ipset, Chain, Jump)  # which the adapters replace whole
_PRESENT: dict[type[Key], int] = {IpsetEntry: IPSET_ERR_EXIST}


class SimulatedCrash(Exception):  # noqa: N818 - an interruption, not an error
    """The process that was applying a plan is gone; what it did until then stays."""


class MemoryKernel:
    """The kernel's rows in a dict.

    ``forgiving`` is how the Linux adapters behave: an add that meets the row makes its spec true, a delete that
    meets nothing is done, and so is an update that makes a set, chain or jump.  Without it all are refused, which no
    plan from true rows may ever meet.
    """

    def __init__(self, rows: Rows | None = None, *, forgiving: bool = False) -> None:
        self.rows: Rows = dict(rows or {})
        self.addresses: tuple[HostAddress, ...] = ()
        self.open_connections: dict[RealServer, Connections] = {}
        self.flows: list[Flow] = []
        self.forgiving = forgiving
        self.applied: list[Step] = []
        self.fault: Callable[[Step], int] = lambda _step: 0
        self.dies_before: int | None = None  # how many more steps it lives

    def scopes(self) -> Sequence[Scope]:
        """The scopes that now hold a row."""
        return list(dict.fromkeys(scope_of(key) for key in self.rows))

    def read(self, scope: Scope) -> Rows:
        """The rows of *scope*."""
        return {key: spec for key, spec in self.rows.items() if scope_of(key) == scope}

    def virtual_servers(self) -> Iterator[Rows]:
        """The virtual servers alone, each in a part of its own."""
        for key, spec in list(self.rows.items()):
            if isinstance(key, VirtualServer):
                yield {key: spec}

    def snapshot(self, part: Readable) -> Snapshot:
        """The rows of *part*, sealed."""
        if isinstance(part, Scope):
            return snapshot_of(self.read(part))
        rows = self.rows.items()
        return snapshot_of(
            {key: spec for key, spec in rows if isinstance(key, RealServer) and key.virtual_server == part}
        )

    def fingerprint(self, part: Readable) -> int:
        """That of the listing."""
        return self.snapshot(part).fingerprint()

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        """What a test gave as ``open_connections``; none for the others."""
        return {
            key: self.open_connections.get(key, Connections())
            for key in self.rows
            if isinstance(key, RealServer) and key.virtual_server in virtual_servers
        }

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        """Those that are there and in which no test left ``open_connections``."""
        none = Connections()
        return {key for key in real_servers if key in self.rows and not self.open_connections.get(key, none).total}

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """What a test gave as ``addresses``, with those on kube-ipvs0."""
        ours = (HostAddress(IPVS_DEVICE, key.address) for key in self.rows if isinstance(key, Address))
        return tuple(sorted((*self.addresses, *ours)))

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        """What a test gave as ``flows``, each in a part of its own."""
        yield from ([flow] for flow in list(self.flows) if flow.virtual_server in servers)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        """Delete *flows*."""
        gone = [flow for flow in flows if flow in self.flows]
        self.flows = [flow for flow in self.flows if flow not in gone]
        return len(gone), []

    def close(self) -> None:
        """Nothing to give back."""

    def apply(self, plan: Plan) -> Outcome:
        """Do each step or refuse it.  Raises DiedError where ``dies_before`` says so."""
        failed = []
        for step in plan:
            self._live_on()
            errno = self.fault(step) or self._refusal(step)
            if errno:
                failed.append(StepFailure(step, errno, f"errno {errno}"))
            else:
                self._do(step)
                self.applied.append(step)
        return Outcome(tuple(failed))

    def _live_on(self) -> None:
        if self.dies_before is not None:
            if self.dies_before == 0:
                raise SimulatedCrash
            self.dies_before -= 1

    def _refusal(self, step: Step) -> int:
        return self._presence_refusal(step) or (
            self._delete_refusal(step.key) if step.verb == "delete" else self._make_refusal(step)
        )

    def _presence_refusal(self, step: Step) -> int:
        """Whether *step* is refused since its row is there, or since it is not."""
        kind, present = type(step.key), step.key in self.rows
        if step.verb == "add":
            return _PRESENT.get(kind, EEXIST) if present and not self.forgiving else 0
        if present or (self.forgiving and (step.verb == "delete" or kind in _MADE_BY_UPDATE)):
            return 0
        if step.verb == "update" and isinstance(step.key, RealServer) and step.key.virtual_server not in self.rows:
            return ESRCH
        return _ABSENT.get(kind, ENOENT)

    def _make_refusal(self, step: Step) -> int:
        match step.key:
            case RealServer(virtual_server=virtual_server):
                return 0 if virtual_server in self.rows else ESRCH
            case Address():
                return 0 if Link(IPVS_DEVICE) in self.rows else ENODEV
            case IpsetEntry():
                return self._entry_refusal(step.key)
            case Ipset() if isinstance(step.spec, IpsetSpec) and step.key in self.rows:
                return self._set_refusal(step.key, step.spec)
            case Chain(family=family, table=table) if isinstance(step.spec, ChainSpec):
                missing_set = any(Ipset(name) not in self.rows for name in named_sets(step.spec.rules))
                missing_chain = any(Chain(family, table, n) not in self.rows for n in named_chains(step.spec.rules))
                return ENOENT if missing_chain else EINVAL if missing_set else 0
            case Jump(family=family, table=table, target=target):
                return 0 if Chain(family, table, target) in self.rows else ENOENT
        return 0

    def _set_refusal(self, key: Ipset, wanted: IpsetSpec) -> int:
        """A set takes another's place with its entries if they are alike, and otherwise only where no rule looks."""
        spec = self.rows[key]
        if isinstance(spec, IpsetSpec) and not wanted.is_like(spec):
            return self._delete_refusal(key)
        return IPSET_ERR_HASH_FULL if wanted.family and self._size(key.name) > wanted.maxelem else 0

    def _size(self, name: str) -> int:
        return sum(1 for key in self.rows if isinstance(key, IpsetEntry) and key.set == name)

    def _entry_refusal(self, key: IpsetEntry) -> int:
        spec = self.rows.get(Ipset(key.set))
        if not isinstance(spec, IpsetSpec):
            return ENOENT
        if spec.family and family_of(key.entry.partition(",")[0]) != spec.family:
            return EINVAL
        return IPSET_ERR_HASH_FULL if spec.family and self._size(key.set) >= spec.maxelem else 0

    def _delete_refusal(self, key: Key) -> int:
        match key:
            case Ipset(name=name):
                users = (s for s in self.rows.values() if isinstance(s, ChainSpec) and name in named_sets(s.rules))
                return IPSET_ERR_BUSY if any(users) else 0
            case Chain():
                return EBUSY if any(self._comes_to(key, other) for other in self.rows if other != key) else 0
        return 0

    def _comes_to(self, chain: Chain, other: Key) -> bool:
        if isinstance(other, Jump):
            return (other.family, other.table, other.target) == (chain.family, chain.table, chain.name)
        if isinstance(other, Chain) and (other.family, other.table) == (chain.family, chain.table):
            spec = self.rows[other]
            return isinstance(spec, ChainSpec) and chain.name in named_chains(spec.rules)
        return False

    def _do(self, step: Step) -> None:
        if step.verb != "delete":
            before = self.rows.get(step.key)
            if isinstance(before, IpsetSpec) and isinstance(step.spec, IpsetSpec) and not step.spec.is_like(before):
                self._drop_along(step.key)
            self.rows[step.key] = step.spec
            return
        if isinstance(step.key, Sysctl):
            return  # a setting can't be taken away
        self.rows.pop(step.key, None)
        self._drop_along(step.key)

    def _drop_along(self, whole: Key) -> None:
        for key in [other for other in self.rows if _lies_in(other, whole)]:
            del self.rows[key]


def _lies_in(key: Key, whole: Key) -> bool:
    """Whether *key* goes when *whole* goes."""
    match whole:
        case Ipset(name=name):
            return isinstance(key, IpsetEntry) and key.set == name
        case VirtualServer():
            return isinstance(key, RealServer) and key.virtual_server == whole
        case Link():
            return isinstance(key, Address)
    return False
