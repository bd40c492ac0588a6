"""Compile events into desired rows, and report which keys changed.

Invariants:
- The desired rows depend only on the objects now known (law 1 of docs/architecture.md).
- Only dirty Services are compiled, so the cost of an event is that of the Services it changes.  A changed NodeContext
  makes every Service dirty.
- All claims are known before a Service is compiled, so no frontend is served twice, not even within one sync.
- An error while a Service is compiled affects that Service only (law 5): its last rows stay desired, except those of
  frontends that another Service holds by now, and it is compiled again when it, its slices or the NodeContext change.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from msgspec.structs import replace

from kubeproxy_py.compile.base import base_rows
from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.claims import Claims, claims_of
from kubeproxy_py.compile.cluster import Cluster
from kubeproxy_py.compile.desired import BASE, CHAINS, RESTING, RESTING_TUNNELS, Desired
from kubeproxy_py.compile.frontends import place, refusals
from kubeproxy_py.compile.health import service_state
from kubeproxy_py.compile.last_rows import last_rows, without_frontends
from kubeproxy_py.compile.mark_numbers import MarkNumbers, MarkOwner
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.peer_needs import AllNeeds
from kubeproxy_py.compile.refusals import Refusals
from kubeproxy_py.compile.service import compile_parts
from kubeproxy_py.compile.settings import needs_in_force, setting_refusals, slow_start_in_force_s
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.model.events import HostAddresses, NodeDeleted, NodeUpserted, ObjectEvent
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import Key, Rows, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName
from kubeproxy_py.model.settings import NO_SETTINGS
from kubeproxy_py.net import Family

NodeContextFactory = Callable[[Node | None, tuple[HostAddress, ...]], NodeContext]
"""Returns the NodeContext for the Node object and the addresses of this host."""

OnFailure = Callable[[ServiceName | None, Exception], None]
"""Called with the Service that cannot be compiled, or None for the Node, once for each kind of failure in a row."""


class Compiler:
    """Owns the known objects and the rows desired for them."""

    def __init__(
        self,
        make_context: NodeContextFactory,
        sysctls: Rows | None = None,
        on_failure: OnFailure = lambda _name, _error: None,
    ) -> None:
        self.failed: dict[ServiceName | None, str] = {}  # whose last change could not be compiled, and why
        self._on_failure = on_failure
        self.cluster = Cluster()
        self.claims = Claims()
        self.refusals = Refusals(self.claims)
        self._needs = AllNeeds()
        self.desired = Desired()
        self.context = make_context(None, ())
        self._make_context = make_context
        self._missing_schedulers: frozenset[str] = frozenset()
        self._sysctls = sysctls or {}
        self._non_empty: dict[Family, NonEmptySets] = {}  # those that base rows and chains were compiled for
        self._sets_version = -1  # desired.sets.version at that time
        self._has_policy_sets = False  # at that time
        self._states: dict[ServiceName, ServiceState] = {}
        self._moved: dict[ServiceName, None] = {}  # since pop_moved was called last
        self._slowly_starting: dict[ServiceName, None] = {}  # since pop_slowly_starting was called last
        self._caches: dict[ServiceName, CompileCache] = {}  # of Services with several slices
        self._unclaimed: set[ServiceName] = set()  # whose claims are not those of the object now known: that failed
        self.marks = MarkNumbers()
        self.marks.use(self.context.policy_marks)
        self._rest_version = 0  # marks.version that base rows were compiled for
        self._leftovers: dict[VirtualServer, ServiceName] = {}  # frontends in last rows that no Service claims

    def handle_event(self, event: ObjectEvent) -> None:
        """Store the object of *event*."""
        self.cluster.apply(event)
        if isinstance(event, NodeUpserted | NodeDeleted | HostAddresses):
            self._update_context()

    def reconfigure(self, make_context: NodeContextFactory) -> None:
        """Replace the configuration that determines the NodeContext."""
        self._make_context = make_context
        self._missing_schedulers = frozenset()
        self._update_context()

    def record_missing_schedulers(self, names: Iterable[str]) -> None:
        """Have Services do without the schedulers *names*, which the kernel lacks, until `reconfigure`."""
        missing = self._missing_schedulers.union(names) - {self.context.scheduler}
        if missing != self._missing_schedulers:
            self._missing_schedulers = missing
            self._update_context()

    def has_work(self) -> bool:
        """Return whether ``compile`` has anything to do."""
        return bool(self.cluster.dirty) or not self._non_empty or self._rest_version != self.marks.version

    def compile(self) -> list[Key]:
        """Compile what is dirty, and return the keys whose desired spec changed; a key may be there twice."""
        self._update_claims()
        changed: list[Key] = []
        names = iter(list(self.cluster.dirty))
        self.cluster.dirty.clear()
        try:
            for name in names:
                changed += self._compile_guarded(name)
        finally:  # after an error outside of the guard, the others are still dirty, and this one is not retried
            self.cluster.dirty.update(dict.fromkeys(names))
        self.marks.forget_found()
        return changed + self._compile_base_and_chains()

    def keep_last_rows(self, kernel_rows: Rows) -> None:
        """Have each Service that cannot be compiled, and never could, want what *kernel_rows* has of it."""
        failed = (self.cluster.services.get(name) for name in self.failed if name)
        missing = [service for service in failed if service and not self.desired.rows_of(service.name)]
        for service in missing:
            self._keep(service.name, last_rows(kernel_rows, service))
        if missing:
            self._compile_base_and_chains()

    def holder_of(self, server: VirtualServer) -> ServiceName | None:
        """Return the Service that has *server*, or had it until its mark rests; None if none is known."""
        if not server.mark:
            return self.claims.holder(server)
        owner = self.marks.owner_of(server)
        return owner.service if owner else None

    def adopt_marks(self, kernel_rows: Rows, mark_range: MarkRange | None) -> None:
        """Record the firewall marks that *kernel_rows* have, before Services are compiled."""
        self.marks.adopt(kernel_rows, mark_range)

    def end_rest(self, has_real_servers: Callable[[VirtualServer], bool]) -> None:
        """Give back the marks of virtual servers that have no real servers any more, to those that have none."""
        if self.marks.resting and self.marks.end_rest(has_real_servers):
            for owner in self.marks.without:
                self.cluster.dirty.setdefault(owner.service)

    def limited_servers(self) -> Iterator[VirtualServer]:
        """Yield the virtual servers whose real servers have thresholds; Services may change meanwhile."""
        for name in list(self.cluster.limited):
            for part in self.desired.parts_of(name):
                yield from (key for key in part if isinstance(key, VirtualServer))

    def rest_tunnels(self, rows: Rows) -> list[Key]:
        """Keep the devices *rows* desired without a Service that needs them; return the keys whose spec changed."""
        return self.desired.replace(RESTING_TUNNELS, rows)

    @property
    def peer_needs(self) -> PeerNeeds:
        """What is needed of all nodes, by Services that were not compiled yet, too."""
        self._update_needs(self.cluster.moved)
        return self._needs.total

    def pop_states(self) -> tuple[ServiceState, ...]:
        """Return the state of each Service that was compiled since the last call."""
        states, self._states = self._states, {}
        return tuple(states.values())

    def pop_slowly_starting(self) -> list[ServiceName]:
        """Return the Services compiled since the last call whose new endpoints start slowly, or did until now."""
        names, self._slowly_starting = list(self._slowly_starting), {}
        return names

    def pop_moved(self) -> list[ServiceName]:
        """Return the Services compiled since the last call of which more than endpoints may have changed.

        That is the Service itself, the NodeContext, or which of its addresses are taken.
        """
        moved, self._moved = list(self._moved), {}
        return moved

    def _update_context(self) -> None:
        try:
            context = self._make_context(self.cluster.node, self.cluster.addresses)
            if self._missing_schedulers:
                context = replace(context, missing_schedulers=self._missing_schedulers)
        except Exception as error:  # a bug that the Node's content triggers; the last context stays
            self._record_failure(None, error)
            return
        self.failed.pop(None, None)
        if context != self.context:
            self.context = context
            self.marks.use(context.policy_marks)
            self._non_empty.clear()
            self._caches.clear()
            self.cluster.mark_all_dirty()

    def _update_claims(self) -> None:
        """Decide which Service holds each frontend; make those dirty, too, that gained or lost one to a dirty one."""
        if not self.cluster.moved and not self._unclaimed:
            return
        tried_again = (name for name in self.cluster.dirty if name in self._unclaimed)
        moved = dict.fromkeys((*self.cluster.moved, *tried_again))
        self._update_needs(moved)
        names = iter(list(moved))
        self._moved |= moved
        self.cluster.moved.clear()
        try:
            for name in names:
                for other in self._replace_claims_guarded(name):
                    self.cluster.dirty.setdefault(other)
                    self.refusals.mark_changed(other)
                self._withdraw_leftovers(name)
        finally:
            self.cluster.moved.update(dict.fromkeys(names))

    def _update_needs(self, names: Iterable[ServiceName]) -> None:
        for name in names:
            service = self.cluster.services.get(name)
            if name in self._needs or (service and service.settings is not NO_SETTINGS):
                with suppress(Exception):  # a bug that this Service triggers, which compiling it shows
                    self._needs.replace(name, needs_in_force(service, self.context) if service else NO_NEEDS)

    def _replace_claims_guarded(self, name: ServiceName) -> list[ServiceName]:
        """Do as _replace_claims; if that fails, *name* keeps its last claims, and is not compiled."""
        try:
            others = self._replace_claims(name, self.cluster.services.get(name))
        except Exception as error:  # a bug that this Service triggers must not stop the others
            self._record_failure(name, error)
            self._unclaimed.add(name)
            return []
        self._unclaimed.discard(name)
        return others

    def _replace_claims(self, name: ServiceName, service: Service | None) -> list[ServiceName]:
        """Replace claims and refusals of *name*, and return the other Services that gained or lost a frontend."""
        if service is None:
            others = self.claims.replace(name, {})
            self.refusals.replace(name, ())
            return others
        taken = self.cluster.taken
        placement = place(service, self.context, taken)
        others = self.claims.replace(name, claims_of(service, placement, taken))
        of_settings = setting_refusals(service, self.context, placement, self.cluster.peers_refused)
        self.refusals.replace(name, (*refusals(service, placement, taken), *of_settings))
        return others

    def _compile_guarded(self, name: ServiceName) -> list[Key]:
        """Compile the Service *name*, or have it keep its last rows; return the keys whose desired spec changed."""
        if name in self._unclaimed:
            return self._keep(name, self.desired.rows_of(name))
        service = self.cluster.services.get(name)
        try:
            slices = self.cluster.slices_of(name) if service else []
            owners: dict[MarkOwner, None] = {}  # that have a mark
            parts = self._compile_service(service, slices, owners) if service else []
            marks = tuple(self.marks.servers_of(owners)) if owners else ()
            state = service_state(name, service, slices, self.context, marks)
        except Exception as error:  # a bug that this Service triggers must not stop the others
            self._record_failure(name, error)
            return self._keep(name, self.desired.rows_of(name))
        if self.failed.pop(name, None):
            self._leftovers = {server: owner for server, owner in self._leftovers.items() if owner != name}
        if not service:
            self._caches.pop(name, None)
            self.cluster.reweighted.pop(name, None)
        starts_slowly = service and service.settings.slow_start_s and slow_start_in_force_s(service, self.context)
        if starts_slowly or self.cluster.conditions_of(name).steps:
            self._slowly_starting[name] = None
        self.marks.retain(name, owners, self.desired.rows)
        self._states[name] = state
        return self.desired.replace(name, *parts)

    def _keep(self, name: ServiceName, rows: Rows) -> list[Key]:
        """Have *name* want its last *rows*, except those of frontends that another Service holds."""
        lost: list[VirtualServer] = []
        for server in (key for key in rows if isinstance(key, VirtualServer)):
            holder = self.claims.holder(server)
            if holder is None:
                self._leftovers[server] = name
            elif holder != name:
                lost.append(server)
        return self.desired.replace(name, without_frontends(rows, lost) if lost else rows)

    def _withdraw_leftovers(self, name: ServiceName) -> None:
        """Make the Services dirty whose last rows are at frontends that *name* holds."""
        if self._leftovers:
            for server in self.claims.held_by(name):
                if owner := self._leftovers.pop(server, None):
                    self.cluster.dirty.setdefault(owner)

    def _record_failure(self, name: ServiceName | None, error: Exception) -> None:
        text = repr(error)
        if self.failed.get(name) != text:
            self.failed[name] = text
            self._on_failure(name, error)

    def _compile_service(
        self, service: Service, slices: list[EndpointSlice], owners: dict[MarkOwner, None]
    ) -> list[Rows]:
        """Return the rows of *service*, and add to *owners* each Service port that has a mark."""

        def mark_of(owner: MarkOwner, frontends: Iterable[str]) -> int:
            owners[owner] = None
            return self.marks.mark_of(owner, frontends)

        cache = self._caches.pop(service.name, None)
        is_reweighted = self.cluster.reweighted.pop(service.name, True) is None
        if cache is None or cache.service is not service or is_reweighted:
            cache = CompileCache(service)
        taken, lost = self.cluster.taken, self.claims.lost_by(service.name)
        conditions = self.cluster.conditions_of(service.name)
        parts = compile_parts(
            service,
            slices,
            self.context,
            cache,
            taken=taken,
            lost=lost,
            mark_of=mark_of,
            conditions=conditions,
            peers=self.cluster.peers,
            labels=self.cluster.labels,
        )
        if cache:  # not empty
            self._caches[service.name] = cache
        return parts

    def _compile_base_and_chains(self) -> list[Key]:
        changed = self._compile_resting()
        # The sets of exact policies exist at least as long as what rests.
        has_policy_sets = self.context.policy_marks is not None or bool(self.marks.resting)
        is_same = has_policy_sets == self._has_policy_sets
        if is_same and self._non_empty and self._sets_version == self.desired.sets.version:
            return changed
        non_empty = {family: self.desired.sets.non_empty(family) for family in self.context.families}
        self._sets_version = self.desired.sets.version
        if is_same and non_empty == self._non_empty:
            return changed
        self._non_empty, self._has_policy_sets = non_empty, has_policy_sets
        maxelems = dict(name_and_maxelem for sets in non_empty.values() for name_and_maxelem in sets.maxelems)
        families = self.context.families
        without_comments = [family for family in families if not self.context.has_extension(family, "comment")]
        base = base_rows(
            families,
            self._sysctls,
            maxelems,
            without_comments,
            policy_sets=has_policy_sets,
            direct_sets=[name for sets in non_empty.values() for name in sets.names],
            policy_jumps=self.context.policy_marks is not None,
            loopback=self.context.loopback_paths,
        )
        changed += self.desired.replace(BASE, base)
        return changed + self.desired.replace(CHAINS, self._compile_chains())

    def _compile_resting(self) -> list[Key]:
        """Compile the virtual servers that rest."""
        if self._rest_version == self.marks.version:
            return []
        self._rest_version = self.marks.version
        rows: Rows = {server: spec for server, spec in self.marks.resting.items()}  # noqa: C416 - of another type
        return self.desired.replace(RESTING, rows)

    def _compile_chains(self) -> Rows:
        rows: Rows = {}
        for family, sets in self._non_empty.items():
            rows.update(compile_chains(family, sets, self.context))
        return rows
