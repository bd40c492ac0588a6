"""Documents of an agent on a MemoryKernel, for tests of what they say."""

from __future__ import annotations

import msgspec

from kubeproxy_py.diagnose.document import Explanation, ServiceState, State, VirtualServerState
from kubeproxy_py.diagnose.explain import explain
from kubeproxy_py.diagnose.filters import parse_filter
from kubeproxy_py.diagnose.scope import Scope
from kubeproxy_py.diagnose.services import ConnectionCounts
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.state import ServiceList, head_of
from kubeproxy_py.diagnose.targets import parse_target
from kubeproxy_py.model.events import NodeUpserted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import EndpointSlice, Service
from tests.builders import HERE
from tests.reconcile.harness import AgentHarness

WALL_S = 1_700_000_000.0


def agent_with(*objects: Service | EndpointSlice, harness: AgentHarness | None = None) -> AgentHarness:
    """Return an agent that has synced *objects*."""
    harness = harness or AgentHarness()
    events = [ServiceUpserted(one) if isinstance(one, Service) else SliceUpserted(one) for one in objects]
    harness.handle(NodeUpserted(Node(HERE)), *events)
    return harness


def snapshot_with(*objects: Service | EndpointSlice) -> Snapshot:
    return snapshot_of(agent_with(*objects))


def snapshot_of(harness: AgentHarness) -> Snapshot:
    return harness.agent.snapshot(harness.now_s, WALL_S - harness.now_s)


def state_of(snapshot: Snapshot, connections: ConnectionCounts | None = None, /, **parameters: str) -> State:
    """Return the State document for *parameters*."""
    listed = ServiceList(snapshot, parse_filter(parameters))
    for _ in listed.prepare():
        pass
    services = [state for batch in listed.batches() for state in listed.states(batch, connections)]
    return msgspec.structs.replace(head_of(snapshot), services=tuple(services))


def only_service(snapshot: Snapshot, **parameters: str) -> ServiceState:
    (state,) = state_of(snapshot, **parameters).services
    return state


def only_server(snapshot: Snapshot, kind: str = "ClusterIP") -> VirtualServerState:
    """Return the one virtual server of *kind* of the one Service."""
    (server,) = (server for server in only_service(snapshot).virtual_servers if server.kind == kind)
    return server


def explained(snapshot: Snapshot, target: str) -> Explanation:
    return explain(snapshot, Scope(snapshot, parse_target(target)))
