"""Documents say to which nodes direct server return hands on, and what keeps packets from going round."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.document import HandingOnState, NextNode
from kubeproxy_py.diagnose.explain_text import explain_text
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.status_text import status_text
from kubeproxy_py.model.events import PeerUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.services import Endpoint
from kubeproxy_py.model.settings import DirectReturn
from kubeproxy_py.sources.decode.settings import read_settings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, service
from tests.diagnose.view import agent_with, explained, only_service, snapshot_of, state_of
from tests.reconcile.harness import AgentHarness

VIP = "203.0.113.7"
NEAR, FAR, FAR_TOO = endpoint("10.244.1.5", HERE), endpoint("10.244.2.5", THERE), endpoint("10.244.2.6", THERE)
GUARDS = {"tunnel": "arrives by tunl0", "route": "has DSCP 0x03"}


def snapshot(way: DirectReturn, *endpoints: Endpoint) -> Snapshot:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    settings = read_settings({"kubeproxy-py.io/dsr": way} if way else {})
    one = service(type="LoadBalancer", load_balancer_ips=(VIP,), external_local=True, settings=settings)
    harness = agent_with(one, endpoint_slice(endpoints=endpoints), harness=AgentHarness(compiler=compiler))
    harness.handle(PeerUpserted(THERE, ("192.168.3.11",)))
    return snapshot_of(harness)


@pytest.mark.parametrize("way", ["tunnel", "route"])
def test_nodes_that_clients_are_handed_on_to_are_named_with_what_guards_against_loops(way: DirectReturn) -> None:
    taken = snapshot(way, NEAR, FAR, FAR_TOO)
    (state,) = only_service(taken).handing_on
    assert state.virtual_server.startswith("IPv4 fwmark 0x")
    assert state == HandingOnState(
        way, state.virtual_server, (f"{VIP},tcp:80",), (NextNode("192.168.3.11", THERE, 2),), GUARDS[way]
    )
    line = f"  > {VIP},tcp:80 by {way} also to {THERE} (weight 2); what {GUARDS[way]} is not handed on again\n"
    assert line in status_text(state_of(taken))
    assert line in explain_text(explained(taken, "shop/web"))


def test_what_others_hand_on_is_named_where_nothing_is_handed_on() -> None:
    taken = snapshot("tunnel", NEAR)
    assert only_service(taken).handing_on == (HandingOnState("tunnel", guard="arrives by tunl0"),)
    assert "  > by tunnel to no other node; what arrives by tunl0 is not" in status_text(state_of(taken))


def test_service_without_the_annotation_is_not_handed_on() -> None:
    taken = snapshot("", NEAR, FAR)
    assert only_service(taken).handing_on == ()
    assert "handed on" not in status_text(state_of(taken))
