"""Traces with exact policies: marks, what is dropped, source ranges of the node, node ports at loopback addresses."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.trace.packet import Host, Route
from kubeproxy_py.diagnose.trace.result import Outcome
from kubeproxy_py.diagnose.trace.ruleset import Ruleset
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import LoopbackSpec
from tests.builders import THERE, endpoint, endpoint_slice, port, service
from tests.diagnose.trace.traces import (
    ADDRESSES,
    CLIENT,
    EXTERNAL_IP,
    LB_IP,
    NODE_IP,
    OTHER_POD,
    POD,
    REMOTE_POD,
    compiler,
    traced,
    with_foreign,
)

FAR_IP = "198.51.100.8"  # of a Service that has no endpoint on this node
INNER_IP = "10.96.0.81"
UNALLOCATED = "10.96.3.3"


def exact() -> Compiler:
    compiled = compiler(
        policy_marks=MarkRange(),
        if_local={"IPv4": ("-s 10.244.1.0/24",)},
        service_networks={"IPv4": ("10.96.0.0/12",)},
        loopback_paths={"IPv4": LoopbackSpec(NODE_IP, "30000-32767")},
        node_port_addresses={"IPv4": (NODE_IP, "127.0.0.1")},
    )
    remote = [endpoint(REMOTE_POD, THERE)]
    for event in (
        ServiceUpserted(service("far", ["10.96.0.80"], [port(80)], external_ips=(FAR_IP,), external_local=True)),
        SliceUpserted(endpoint_slice("far", remote)),
        ServiceUpserted(service("inner", [INNER_IP], internal_local=True)),
        SliceUpserted(endpoint_slice("inner", remote)),
    ):
        compiled.handle_event(event)
    compiled.compile()
    return compiled


EXACT = exact()
ROUTED = Host(ADDRESSES, lambda address: Route("eth0", NODE_IP) if address == REMOTE_POD else None)


def only(source: str, target: str, ruleset: Ruleset | None = None) -> Outcome:
    result = traced(source, target, of=EXACT, host=ROUTED, ruleset=ruleset)
    assert result.is_certain
    return result.outcomes[0]


def sources(outcome: Outcome) -> dict[str, str]:
    """The source that each real server sees."""
    return {choice.address: branch.source for branch in outcome.branches for choice in branch.real_servers}


@pytest.mark.parametrize(
    ("source", "target", "seen"),
    [
        (OTHER_POD, f"{EXTERNAL_IP}:80", {POD: OTHER_POD, REMOTE_POD: OTHER_POD}),
        (POD, f"{EXTERNAL_IP}:80", {POD: "10.244.1.1", REMOTE_POD: POD}),
        ("node", f"{EXTERNAL_IP}:80", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        (NODE_IP, f"{EXTERNAL_IP}:80", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        (CLIENT, f"{EXTERNAL_IP}:80", {POD: CLIENT}),
        ("10.244.2.9", f"{EXTERNAL_IP}:80", {POD: "10.244.2.9"}),
        (OTHER_POD, f"{FAR_IP}:80", {REMOTE_POD: OTHER_POD}),
        ("node", f"{FAR_IP}:80", {REMOTE_POD: NODE_IP}),
        ("node", "127.0.0.1:30080", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
    ],
)
def test_who_answers_and_which_source_it_sees(source: str, target: str, seen: dict[str, str]) -> None:
    outcome = only(source, target)
    assert (outcome.fate, sources(outcome)) == ("served", seen)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (CLIENT, f"{FAR_IP}:80", "its policy is Local, and no endpoint of shop/far on this node is ready"),
        ("node", f"{INNER_IP}:80", "its policy is Local, and no endpoint of shop/inner on this node is ready"),
        (OTHER_POD, f"{INNER_IP}:80", "its policy is Local, and no endpoint of shop/inner on this node is ready"),
        (OTHER_POD, f"{UNALLOCATED}:80", f"{UNALLOCATED} is in serviceCIDR, and no Service"),
        ("node", f"{UNALLOCATED}:80", f"{UNALLOCATED} is in serviceCIDR, and no Service"),
        (NODE_IP, f"{LB_IP}:443", f"source {NODE_IP} is not in loadBalancerSourceRanges"),
    ],
)
def test_what_is_dropped_and_why(source: str, target: str, reason: str) -> None:
    outcome = only(source, target)
    assert outcome.fate == "dropped"
    assert reason in outcome.reason
    assert outcome.remedy


def test_the_map_of_marks_is_a_step_only_for_what_is_in_it() -> None:
    def maps(source: str, target: str) -> list[str]:
        return [step.effect for step in only(source, target).steps if "-j SET" in step.rule]

    assert maps(OTHER_POD, "10.96.0.10:80") == []
    assert len(maps(OTHER_POD, f"{EXTERNAL_IP}:80")) == 1
    assert "fwmark" in only(OTHER_POD, f"{EXTERNAL_IP}:80").server


def test_a_mark_that_another_program_adds_to_leads_to_the_virtual_server_of_the_address() -> None:
    foreign = with_foreign("*filter", "-A INPUT -j MARK --set-xmark 0x10000/0x10000", of=EXACT, target=EXTERNAL_IP)
    assert sources(only(OTHER_POD, f"{EXTERNAL_IP}:80", foreign)) == {POD: OTHER_POD}
