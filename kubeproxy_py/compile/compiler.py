"""Compiler: events in, changed keys out.

Law: what it desires depends on the objects now known alone (law 1).  It compiles only what is dirty, so the cost of
an event is that of the Services it touches; a new Site makes every Service dirty.
"""

from collections.abc import Callable

from kubeproxy_py.compile.base import base_rows
from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.cluster import Cluster
from kubeproxy_py.compile.desired import BASE, CHAINS, Desired
from kubeproxy_py.compile.health import service_state
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.service import compile_parts
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.model.events import HostAddresses, NodeDeleted, NodeUpserted, ObjectEvent
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Key, Rows
from kubeproxy_py.model.services import EndpointSlice, Family, Service, ServiceName

NodeContextFactory = Callable[[Node | None, tuple[HostAddress, ...]], NodeContext]


class Compiler:
    """Holds the Cluster and what is Desired for it.

    *settings* are the rows of kernel settings; *make_site* tells the Site for a Node and the host's addresses.
    """

    def __init__(self, make_site: NodeContextFactory, settings: Rows | None = None) -> None:
        self.cluster = Cluster()
        self.desired = Desired()
        self.site = make_site(None, ())
        self._make_site = make_site
        self._settings = settings or {}
        self._sets_in_use: dict[Family, NonEmptySets] = {}
        self._states: dict[ServiceName, ServiceState] = {}
        self._memos: dict[ServiceName, CompileCache] = {}  # of Services with several slices

    def handle_event(self, event: ObjectEvent) -> None:
        """Know what *event* says."""
        self.cluster.apply(event)
        if isinstance(event, NodeUpserted | NodeDeleted | HostAddresses):
            self._renew_site()

    def reconfigure(self, make_site: NodeContextFactory) -> None:
        """Know who we are by another configuration."""
        self._make_site = make_site
        self._renew_site()

    def _renew_site(self) -> None:
        site = self._make_site(self.cluster.node, self.cluster.addresses)
        if site != self.site:
            self.site = site
            self._sets_in_use.clear()
            self._memos.clear()
            self.cluster.mark_all_dirty()

    def has_work(self) -> bool:
        """Whether compile() has anything to do."""
        return bool(self.cluster.dirty) or not self._sets_in_use

    def compile(self) -> list[Key]:
        """Compile what is dirty; the keys whose desired spec changed, a key perhaps twice."""
        changed: list[Key] = []
        for name in self.cluster.dirty:
            service = self.cluster.services.get(name)
            slices = self.cluster.slices_of(name) if service else []
            memo = self._memos.pop(name, None)  # and of a Service that is gone nothing is kept
            changed += self.desired.replace(name, *(self._parts(service, slices, memo) if service else ()))
            self._states[name] = service_state(name, service, slices, self.site)
        self.cluster.dirty.clear()
        return changed + self._compile_fixed()

    def _parts(self, service: Service, slices: list[EndpointSlice], memo: CompileCache | None) -> list[Rows]:
        if memo is None or memo.service is not service:
            memo = CompileCache(service)
        parts = compile_parts(service, slices, self.site, memo)
        if memo:
            self._memos[service.name] = memo
        return parts

    def drain_states(self) -> tuple[ServiceState, ...]:
        """The state of each Service that was compiled since the last call."""
        states, self._states = self._states, {}
        return tuple(states.values())

    def _compile_fixed(self) -> list[Key]:
        if self._sets_in_use and not self.desired.sets.changed:
            return []
        in_use = {family: self.desired.sets.in_use(family) for family in self.site.families}
        self.desired.sets.changed = False
        if in_use == self._sets_in_use:
            return []
        self._sets_in_use = in_use
        large = dict(each for sets in in_use.values() for each in sets.large)
        base = base_rows(self.site.families, self._settings, large)
        return self.desired.replace(BASE, base) + self.desired.replace(CHAINS, self._chains())

    def _chains(self) -> Rows:
        rows: Rows = {}
        for family, sets in self._sets_in_use.items():
            rows.update(compile_chains(family, sets, self.site))
        return rows
