"""Snapshot: what the agent knew at one moment, for everything that explains its state to an operator.

Invariants:
- It is made in the agent's thread (law 6), between two syncs, of shallow copies: a few milliseconds at 10,000 Services.
- Nothing in it changes afterwards, so any thread may read it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from msgspec import Struct

from kubeproxy_py.compile.claims import Claims
from kubeproxy_py.compile.desired import BASE, CHAINS, Owner
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.refusals import Refusals
from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration
from kubeproxy_py.kernel import Scope
from kubeproxy_py.model.conditions import Conditions
from kubeproxy_py.model.events import Feed, TakenAddresses
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.peers import Labels
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.progress import Drain, RetryState
from kubeproxy_py.model.rows import Key, RealServer, Rows, Spec, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import IP


class ActualRows:
    """The actual rows, by how they differ from the desired ones; the union is made when it is first asked for.

    A copy of 150,000 rows takes the loop 5 ms, and more where memory is slow; the differences are few.

    Args:
        parts: The parts of the desired rows.
        changed: The actual rows that differ from the desired ones, or are not desired.
        absent: The desired rows that do not exist.
        counts: The number of actual rows by the name of their kind; None: unknown.
        rows: All actual rows, if they are known instead.
    """

    def __init__(
        self,
        parts: Mapping[Owner, tuple[Rows, ...]] | None = None,
        changed: Rows | None = None,
        absent: Collection[Key] = (),
        counts: Mapping[str, int] | None = None,
        rows: Rows | None = None,
    ) -> None:
        self._parts = parts or {}
        self._changed = changed or {}
        self._absent = frozenset(absent)
        self._counts = counts
        self._rows = rows

    def rows(self) -> Rows:
        """Return all actual rows; if two threads ask at once, both make the same."""
        if self._rows is None:
            rows: Rows = {}
            for part in chain.from_iterable(self._parts.values()):
                rows.update(part)
            for key in self._absent:
                rows.pop(key, None)
            rows.update(self._changed)
            self._rows = rows
        return self._rows

    def has(self, key: Key, parts: Iterable[Rows]) -> bool:
        """Return whether the row *key* exists; it must be in *parts*, if it is desired.  No union is made for that."""
        if self._rows is not None:
            return key in self._rows
        return key in self._changed or (key not in self._absent and any(key in part for part in parts))

    def get(self, key: Key, parts: Iterable[Rows]) -> Spec:
        """Return the spec of the row *key*, None if it does not exist; for the rest as `has`."""
        if self._rows is not None:
            return self._rows.get(key)
        if key in self._changed:
            return self._changed[key]
        if key not in self._absent:
            for part in parts:
                if key in part:
                    return part[key]
        return None

    def counts(self) -> Mapping[str, int]:
        """Return the number of rows by the name of their kind."""
        if self._counts is None:
            self._counts = Counter(kind.__name__ for kind in map(type, self.rows()))
        return self._counts


class Activity(Struct, frozen=True, gc=False):
    """What the agent did until the snapshot was taken; times as in Snapshot."""

    last_sync_s: float = -NEVER  # when a plan was applied last
    last_compare_s: float = -NEVER  # when a full compare ended last
    compares: int = 0  # full compares since the start
    partial_compares: int = 0
    drift_found: Mapping[str, int] = {}  # rows since the start, by the name of their kind
    drift_repaired: Mapping[str, int] = {}
    disputed: int = 0  # times that a row had drifted again and again, since the start


class About(Struct, frozen=True, gc=False):
    """What is known of the process besides the state of the sync."""

    version: str = ""
    started_s: float = 0.0  # in seconds since 1970
    source: str = ""  # "API server", or "manifests in DIR"
    saved_s: float | None = None  # when the objects that are served were saved, since 1970; None: they are current
    iptables_backend: str = ""  # "legacy", "nft"; "": unknown
    is_agent: bool = True  # False: a command looked itself, because no agent answered
    problem: str = ""  # why it could not see everything; "" if it could
    rejected: tuple[Problem, ...] = ()  # what is wrong with the objects of which nothing, or a part, is not used
    config: KubeProxyConfiguration = KubeProxyConfiguration()
    settings: AgentSettings = AgentSettings()


class Snapshot(Struct, frozen=True, gc=False, kw_only=True):
    """The state of an agent.

    Times are seconds of ``time.monotonic`` (``taken_s`` is such a one), unless "since 1970" is written there.
    """

    taken_s: float = 0.0
    zero_s: float = 0.0  # when time.monotonic was 0, in seconds since 1970
    about: About = About()

    # The objects, and what is compiled of them
    awaited: frozenset[Feed] = frozenset()  # feeds whose initial list was not received yet
    context: NodeContext = NodeContext()
    node: Node | None = None
    host_addresses: tuple[HostAddress, ...] = ()
    taken: tuple[TakenAddresses, ...] = ()  # what is known to be another machine's, besides endpoints
    peers: dict[str, tuple[IP, ...]] = {}
    labels: Labels = {}  # of nodes, of the keys that weights name
    peers_refused: str = ""  # why nothing is known of all nodes
    services: Mapping[ServiceName, Service] = {}
    slices: Mapping[ServiceName, tuple[EndpointSlice, ...]] = {}  # of each Service, in no order
    claims: Claims  # which Service has each frontend, and who else asks for it
    mark_holders: Mapping[VirtualServer, ServiceName] = {}  # of virtual servers by mark with draining real servers
    refusals: Refusals
    conditions: Mapping[ServiceName, Conditions] = {}  # of endpoints, as this node observed them
    uncompiled: Mapping[ServiceName | None, str] = {}  # whose last change was not compiled, and why; None: Node
    parts: Mapping[Owner, tuple[Rows, ...]] = {}  # the desired rows by Service, and those of BASE and CHAINS

    # The kernel
    is_adopted: bool = False  # the kernel was read
    kernel_rows: ActualRows = ActualRows()
    pending: Mapping[Key, None] = {}  # rows that are not as desired
    retries: Mapping[Key, RetryState] = {}  # of those: why they wait, and how long
    under_way: Mapping[Key, None] = {}  # of those: a step was begun and has not ended
    draining: Mapping[RealServer, Drain] = {}
    unread: Mapping[Scope, str] = {}  # the parts of kernel state that cannot be read now, and why
    activity: Activity = Activity()

    @property
    def actual(self) -> Rows:
        """The rows that the kernel is known to have."""
        return self.kernel_rows.rows()

    def holder_of(self, server: VirtualServer) -> ServiceName | None:
        """Return the Service that has *server*, behind which real servers drain if it is one by mark."""
        return self.mark_holders.get(server) if server.mark else self.claims.holder(server)

    def slices_of(self, service: ServiceName) -> list[EndpointSlice]:
        """Return the slices of *service* in order of their names."""
        return sorted(self.slices.get(service, ()), key=lambda part: part.name)

    def desired_of(self, owner: Owner) -> Rows:
        """Return the rows that *owner* wants."""
        return {key: spec for part in self.parts.get(owner, ()) for key, spec in part.items()}

    def desired_parts(self) -> Iterator[Rows]:
        """Return the parts of the desired rows; a key may be in several."""
        return chain.from_iterable(self.parts.values())

    def desired_rows(self) -> Rows:
        """Return the union of the desired rows; some 10 ms at 10,000 Services."""
        rows: Rows = {}
        for part in self.desired_parts():
            rows.update(part)
        return rows

    def base_rows(self) -> Rows:
        """Return the desired rows that belong to no Service: device, sets, chains, jumps, sysctls."""
        return {**self.desired_of(BASE), **self.desired_of(CHAINS)}

    def wall_time(self, at_s: float) -> float:
        """Return *at_s*, a time of the agent's clock, in seconds since 1970."""
        return self.zero_s + at_s
