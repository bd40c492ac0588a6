"""Agent: the device of direct server return stays for connections that other nodes hand on, and then goes."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import NodeUpserted, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import ReturnTunnel, Rows, TunnelSpec
from kubeproxy_py.model.settings import DirectReturn, ServiceSettings
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.tunnel_rests import REST_S
from tests.builders import HERE, endpoint_slice, name, node_context, service
from tests.reconcile.harness import AgentHarness

TUNNEL = ReturnTunnel("IPv4")
OTHER_IP = "192.168.3.77"


def agent(rows: Rows | None = None, *, is_exact: bool = True, drain_deadline_s: float = 0.0) -> AgentHarness:
    marks = MarkRange() if is_exact else None
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=marks))
    timing = Timing(sync_period_s=10_000.0, drain_deadline_s=drain_deadline_s)
    return AgentHarness(rows, compiler=compiler, timing=timing)


def exposed(way: DirectReturn, text: str = "web") -> ServiceUpserted:
    settings = ServiceSettings(direct_return=way)
    fields = {"load_balancer_ips": ("203.0.113.7",), "external_local": True, "settings": settings}
    return ServiceUpserted(service(text, type="LoadBalancer", **fields))  # type: ignore[arg-type]


def handing_on(**options: float) -> AgentHarness:
    harness = agent(**options)  # type: ignore[arg-type]
    harness.handle(NodeUpserted(Node(HERE)), exposed("tunnel"), SliceUpserted(endpoint_slice()))
    assert TUNNEL in harness.kernel.rows
    return harness


@pytest.mark.parametrize(("deadline_s", "rest_s"), [(0.0, REST_S), (20.0, 20.0), (3000.0, 3000.0)])
def test_device_stays_after_the_last_service_asked_for_it_as_long_as_connections_may_drain(
    deadline_s: float, rest_s: float
) -> None:
    harness = handing_on(drain_deadline_s=deadline_s)
    harness.handle(exposed(""))
    assert harness.agent.due_s() <= harness.now_s + rest_s
    harness.advance(rest_s - 1)
    assert TUNNEL in harness.kernel.rows
    assert not harness.agent.state.pending, "a device that rests is as it should be"
    harness.advance(1.5)
    assert TUNNEL not in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows
    assert harness.agent._tunnel_rests.due_s > harness.now_s + 1e6


def test_deleted_service_is_no_other_case() -> None:
    harness = handing_on()
    harness.handle(ServiceDeleted(name("web")))
    assert TUNNEL in harness.kernel.rows
    harness.advance(REST_S + 1)
    assert TUNNEL not in harness.kernel.rows


def test_service_that_asks_again_ends_the_rest() -> None:
    harness = handing_on()
    harness.handle(exposed(""))
    harness.advance(REST_S - 1)
    harness.handle(exposed("tunnel"))
    harness.advance(2 * REST_S)
    assert TUNNEL in harness.kernel.rows
    harness.handle(exposed(""))
    harness.advance(REST_S - 1)
    assert TUNNEL in harness.kernel.rows, "the time began with the first rest"


def test_restart_takes_over_a_device_that_rests() -> None:
    before: Rows = {TUNNEL: TunnelSpec(OTHER_IP)}
    harness = agent(before)
    harness.handle(exposed(""))
    assert harness.kernel.rows[TUNNEL] == TunnelSpec(OTHER_IP)
    harness.advance(REST_S + 1)
    assert TUNNEL not in harness.kernel.rows


def test_service_that_asks_after_a_restart_has_the_device_with_the_present_address() -> None:
    harness = agent({TUNNEL: TunnelSpec(OTHER_IP)})
    harness.handle(NodeUpserted(Node(HERE)))
    assert harness.kernel.rows[TUNNEL] == TunnelSpec(OTHER_IP)
    harness.handle(exposed("tunnel"), SliceUpserted(endpoint_slice()))
    assert harness.kernel.rows[TUNNEL] == harness.agent.compiler.desired.rows[TUNNEL] != TunnelSpec(OTHER_IP)


def test_device_goes_at_once_when_exact_policies_are_off() -> None:
    harness = agent({TUNNEL: TunnelSpec(OTHER_IP)}, is_exact=False)
    harness.handle(NodeUpserted(Node(HERE)))
    assert TUNNEL not in harness.kernel.rows
