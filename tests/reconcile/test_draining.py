"""Agent: a real server that is no longer desired drains, and is then deleted."""

from errno import EBUSY

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import (
    NodeUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceUpserted,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Connections,
    RealServer,
    VirtualServer,
)
from kubeproxy_py.model.settings import ServiceSettings
from kubeproxy_py.reconcile.agent import Timing
from tests.builders import HERE, endpoint_slice, name, node_context, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving


def draining(connections: int) -> AgentHarness:
    """Return a harness in which POD drains with *connections*, because shop/web has another pod now."""
    harness = serving()
    harness.kernel.open_connections[POD] = Connections(connections, 0)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    harness.applied_steps()
    return harness


def test_a_removed_real_server_drains_while_it_has_connections() -> None:
    harness = draining(1)
    for wait_s in (1.1, 2.1, 4.1, 60, 60):
        harness.advance(wait_s)
    assert harness.kernel.rows[POD] == DRAINING
    harness.kernel.open_connections.clear()
    harness.advance(61)
    assert POD not in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows


def test_an_idle_removed_real_server_is_deleted_after_a_second() -> None:
    harness = draining(0)
    harness.advance(1.1)
    assert harness.applied_steps() == [("delete", POD)]
    assert not harness.agent.state.draining


def test_a_real_server_that_is_desired_again_stops_draining() -> None:
    harness = draining(1)
    harness.handle(SliceUpserted(endpoint_slice()))
    assert harness.kernel.rows[POD] == SERVING
    harness.kernel.open_connections.clear()
    harness.advance(70)
    assert harness.kernel.rows[POD] == SERVING


def test_a_real_server_that_is_desired_again_at_a_resync_stops_draining() -> None:
    harness = draining(1)
    harness.agent.invalidate()
    harness.handle(SliceUpserted(endpoint_slice()))
    assert harness.kernel.rows[POD] == SERVING
    assert POD not in harness.agent.state.draining.draining_behind([SERVER])
    harness.kernel.open_connections.clear()
    harness.advance(70)
    assert harness.kernel.rows[POD] == SERVING


def test_a_real_server_that_is_gone_at_a_resync_does_not_drain_any_more() -> None:
    harness = draining(1)
    del harness.kernel.rows[POD]
    harness.agent.invalidate()
    harness.advance(1.1)
    assert not harness.agent.state.draining


def test_draining_real_servers_are_deleted_with_their_service() -> None:
    harness = draining(1)
    harness.handle(ServiceDeleted(name("web")))
    assert not [key for key in harness.kernel.rows if isinstance(key, RealServer | VirtualServer)]
    assert harness.agent.state.rows == harness.kernel.rows


def test_draining_continues_after_a_restart() -> None:
    rows = dict(draining(1).kernel.rows)
    restarted = AgentHarness(rows)
    restarted.kernel.open_connections[POD] = Connections(1, 0)
    restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    restarted.advance(5)
    assert restarted.kernel.rows[POD] == DRAINING
    restarted.kernel.open_connections.clear()
    restarted.advance(61)
    assert POD not in restarted.kernel.rows


def test_an_endpoint_removed_while_no_agent_ran_drains_in_an_excluded_network_too() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    restarted = AgentHarness(before.kernel.rows, exclude=("10.96.0.0/16",))
    restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert ("update", POD) in restarted.applied_steps()


def test_a_deadline_ends_draining_despite_connections() -> None:
    harness = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    harness.kernel.open_connections[POD] = Connections(1, 0)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    harness.advance(1.1)
    harness.advance(18.8)
    assert POD in harness.kernel.rows
    assert harness.agent.due_s() == 120.0
    harness.advance(0.2)
    assert POD not in harness.kernel.rows
    harness.advance(60)
    assert harness.agent.due_s() > 1000, "the drain queue still has a check due"


@pytest.mark.parametrize(("service_s", "deleted"), [(None, True), (0.0, False), (5.0, True), (60.0, False)])
def test_the_deadline_of_a_service_overrides_that_of_the_configuration(service_s: float | None, deleted: bool) -> None:
    harness = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    harness.kernel.open_connections[POD] = Connections(1, 0)
    harness.handle(
        ServiceUpserted(service(settings=ServiceSettings(drain_deadline_s=service_s))),
        SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])),
    )
    harness.advance(21)
    assert (POD not in harness.kernel.rows) is deleted


def test_the_deadline_of_a_service_holds_behind_a_mark_that_it_has_no_more() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    harness = AgentHarness(compiler=compiler, timing=Timing(sync_period_s=1000, drain_deadline_s=200.0))
    settings = ServiceSettings(drain_deadline_s=20.0)

    def exposed(*, external_local: bool) -> ServiceUpserted:
        fields = {"external_ips": ("203.0.113.7",), "external_local": external_local, "settings": settings}
        return ServiceUpserted(service(**fields))  # type: ignore[arg-type]

    harness.handle(NodeUpserted(Node(HERE)), exposed(external_local=True), SliceUpserted(endpoint_slice()))
    (by_mark,) = (key for key in harness.kernel.rows if isinstance(key, RealServer) and key.virtual_server.mark)
    harness.kernel.open_connections[by_mark] = Connections(1, 0)
    harness.handle(exposed(external_local=False))
    harness.advance(15)
    assert harness.kernel.rows[by_mark] == DRAINING
    assert harness.agent.snapshot(harness.now_s, 0.0).holder_of(by_mark.virtual_server) == name("web")
    harness.advance(6)
    assert by_mark not in harness.kernel.rows


def test_drained_real_servers_are_deleted_by_a_sync_that_is_due() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    (report,) = harness.handle(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [(step.verb, step.key) for step in report.steps][-1] == ("delete", POD)
    assert harness.kernel.rows == harness.agent.state.rows
    assert not harness.agent.state.draining


def test_a_drained_real_server_that_is_desired_again_in_the_same_cycle_stays() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    harness.handle(SliceUpserted(endpoint_slice()))
    assert ("delete", POD) not in harness.applied_steps()
    assert harness.kernel.rows[POD] == SERVING


def test_a_drained_real_server_of_a_deleted_service_is_deleted_once() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    harness.handle(ServiceDeleted(name("web")))
    assert harness.applied_steps().count(("delete", POD)) == 1
    assert harness.agent.state.rows == harness.kernel.rows


def test_a_failed_deletion_of_a_drained_real_server_in_a_sync_is_retried() -> None:
    harness = draining(0)
    harness.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    harness.now_s += 1.1
    (report,) = harness.handle(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [failure.step.key for failure in report.failures] == [POD]
    harness.kernel.fault = lambda _step: 0
    harness.advance(61)
    assert POD not in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows


def test_a_failed_deletion_of_a_drained_real_server_is_retried() -> None:
    harness = draining(0)
    harness.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    harness.advance(1.1)
    harness.advance(10)
    assert POD in harness.kernel.rows
    harness.kernel.fault = lambda _step: 0
    harness.advance(61)
    assert POD not in harness.kernel.rows
