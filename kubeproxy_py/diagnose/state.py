"""State documents: what the agent has, does and lacks; all of it, or what a filter admits.

Invariants:
- A document is made in short pieces, so that the loop is not kept from its work while it is made.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import msgspec

from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration, Section, fields_of
from kubeproxy_py.diagnose.document import VERSION, AgentState, DrainState, ScopeError, ServiceState, State, Totals
from kubeproxy_py.diagnose.filters import Filter, matching
from kubeproxy_py.diagnose.rows import moment_text, row_state, time_text
from kubeproxy_py.diagnose.services import ConnectionCounts, ServiceView, rank
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.targets import AddressTarget, services_with_endpoint
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import join_host_port

LISTED_MAX = 300
"""With more virtual servers than this, real servers are listed, and connections counted, only on request."""

UNSETTLED_MAX = 1_000
DRAINS_MAX = 1_000
_ROWS_SETTINGS = (
    *("iptables.masqueradeAll", "ipvs.scheduler", "ipvs.strictARP", "ipvs.syncPeriod", "ipvs.excludeCIDRs"),
    *("detectLocalMode", "clusterCIDR", "nodePortAddresses", "drainDeadline"),
)


def agent_state(snapshot: Snapshot) -> AgentState:
    """Return the process of *snapshot*."""
    about, activity = snapshot.about, snapshot.activity
    return AgentState(
        about.version,
        snapshot.context.node_name,
        snapshot.context.zone,
        about.is_agent,
        about.problem,
        time_text(about.started_s),
        about.source,
        time_text(about.saved_s or 0.0),
        tuple(sorted(snapshot.awaited)),
        snapshot.is_adopted,
        moment_text(snapshot, activity.last_sync_s),
        moment_text(snapshot, activity.last_compare_s),
        activity.compares,
        activity.partial_compares,
        dict(activity.drift_found),
        dict(activity.drift_repaired),
        activity.disputed,
        about.iptables_backend,
        tuple(ScopeError(str(scope), error) for scope, error in snapshot.unread.items()),
        settings_of(about.config, about.settings),
    )


def settings_of(config: KubeProxyConfiguration, agent: AgentSettings) -> dict[str, str]:
    """Return the settings on which rows depend, and those that differ from the default, by their path."""
    found = {**dict(settings_in(config)), **dict(settings_in(agent))}
    defaults = {**dict(settings_in(KubeProxyConfiguration())), **dict(settings_in(AgentSettings()))}
    return {path: text for path, text in found.items() if path in _ROWS_SETTINGS or text != defaults.get(path)}


def settings_in(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each setting of *section*."""
    for field in fields_of(type(section)):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from settings_in(value, f"{prefix}{field.key}.")
        else:
            yield f"{prefix}{field.key}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def totals_of(snapshot: Snapshot) -> Totals:
    """Return the numbers of all that *snapshot* has."""
    counts = snapshot.kernel_rows.counts()
    return Totals(
        len(snapshot.services),
        counts.get(VirtualServer.__name__, 0),
        counts.get(RealServer.__name__, 0),
        len(snapshot.draining),
        sum(counts.values()),
        len(snapshot.pending),
        sum(retry.failures > 0 for retry in snapshot.retries.values()),
        sum(snapshot.refusals.counts().values()),
    )


def head_of(snapshot: Snapshot) -> State:
    """Return the state document of *snapshot* without Services."""
    keys: list[Key] = list(islice(snapshot.retries, UNSETTLED_MAX)) or list(islice(snapshot.pending, UNSETTLED_MAX))
    desired = _desired_specs(snapshot, keys)
    rows = tuple(row_state(snapshot, key, desired) for key in keys)
    drains = tuple(_drain_state(snapshot, key) for key in islice(snapshot.draining, DRAINS_MAX))
    time = moment_text(snapshot, snapshot.taken_s)
    return State(VERSION, "State", time, agent_state(snapshot), totals_of(snapshot), rows, drains)


def _drain_state(snapshot: Snapshot, key: RealServer) -> DrainState:
    holder, drain = snapshot.holder_of(key.virtual_server), snapshot.draining[key]
    return DrainState(
        holder.namespace if holder else "",
        holder.name if holder else "",
        str(key.virtual_server),
        join_host_port(key.address, key.port),
        moment_text(snapshot, drain.since_s),
        moment_text(snapshot, drain.deadline_s),
    )


def _desired_specs(snapshot: Snapshot, keys: Collection[Key]) -> Rows:
    if not keys:
        return {}
    return {key: part[key] for part in snapshot.desired_parts() for key in part.keys() & keys}


class ServiceList:
    """The Services of *snapshot* that *wanted* admits, the worst first.

    Use: ``prepare``, in steps; then for each of ``batches`` read connections, and have ``states`` make the documents.
    """

    def __init__(self, snapshot: Snapshot, wanted: Filter) -> None:
        self._view = ServiceView(snapshot)
        self._wanted = wanted
        self._light: list[ServiceState] = []  # without real servers, unless the filter needs them
        self.lists_real_servers = False
        self.counts_connections = False

    def prepare(self) -> Iterator[None]:
        """Find the Services; gives way to the caller after each few."""
        wanted, snapshot = self._wanted, self._view.snapshot
        needs_backends = bool(wanted.address or wanted.port)
        names = [wanted.service] if wanted.service else self._candidates()
        for index, name in enumerate(names):
            if name in snapshot.services and (not wanted.namespace or name.namespace == wanted.namespace):
                self._keep(self._view.state(name, lists_real_servers=needs_backends))
            if index % 20 == 0:
                yield
        self._keep(self._view.orphans(lists_real_servers=needs_backends))
        self._light.sort(key=rank)
        count = sum(len(state.virtual_servers) for state in self._light)
        few = count <= LISTED_MAX
        self.lists_real_servers = few if wanted.real_servers is None else wanted.real_servers
        self.counts_connections = few if wanted.connections is None else wanted.connections

    def _candidates(self) -> Collection[ServiceName]:
        """Return the Services that may match; of an address, those that have it, so that others cost nothing."""
        snapshot, address = self._view.snapshot, self._wanted.address
        if not address:
            return list(snapshot.services)
        servers = [server for server in snapshot.claims.servers() if server.address == address]
        draining = [key.virtual_server for key in snapshot.draining if key.address == address]
        holders = (snapshot.holder_of(server) for server in draining)
        claimants = (claim.service for server in servers for claim in snapshot.claims.claims_to(server))
        owners = services_with_endpoint(snapshot, AddressTarget(address))
        return {name: None for name in (*claimants, *holders, *owners) if name}.keys()

    def _keep(self, state: ServiceState) -> None:
        if not state.virtual_servers and self._wanted.is_empty:
            return  # headless, and the like
        found = matching(state, self._wanted)
        if found and (found.virtual_servers or found.name):
            self._light.append(found)

    def batches(self, size: int = 20) -> Iterator[Sequence[ServiceState]]:
        """Yield the Services in their order, *size* at a time."""
        for start in range(0, len(self._light), size):
            yield self._light[start : start + size]

    def servers(self, batch: Sequence[ServiceState]) -> list[VirtualServer]:
        """Return the virtual servers of *batch* that the kernel has."""
        found = (
            VirtualServer(server.address, server.port, server.protocol)  # type: ignore[arg-type]
            for state in batch
            for server in state.virtual_servers
            if server.status != "refused"
        )
        return [server for server in found if server in self._view.snapshot.actual]

    def states(self, batch: Sequence[ServiceState], connections: ConnectionCounts | None) -> Iterator[ServiceState]:
        """Return the documents of *batch*."""
        if not self.lists_real_servers and connections is None:
            yield from map(_without_real_servers, batch)
            return
        for light in batch:
            if light.name:
                name = ServiceName(light.namespace, light.name)
                full = self._view.state(name, connections, lists_real_servers=self.lists_real_servers)
            else:
                full = self._view.orphans(connections, lists_real_servers=self.lists_real_servers)
            listed = {(server.address, server.port, server.protocol) for server in light.virtual_servers}
            servers = tuple(one for one in full.virtual_servers if (one.address, one.port, one.protocol) in listed)
            yield msgspec.structs.replace(full, virtual_servers=servers)


def _without_real_servers(state: ServiceState) -> ServiceState:
    if not any(server.real_servers for server in state.virtual_servers):
        return state
    servers = tuple(msgspec.structs.replace(server, real_servers=None) for server in state.virtual_servers)
    return msgspec.structs.replace(state, virtual_servers=servers)
