"""What `trace` says of a packet on any rows is what the laws' own evaluator says.

The two share no code: the laws must not trust the product's, and the product's knows more (other programs' rules, pods,
this node as a client).
"""

from hypothesis import given, settings

from kubeproxy_py.diagnose.trace.packet import Host
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import Request
from kubeproxy_py.diagnose.trace.result import Trace
from kubeproxy_py.model.events import ObjectEvent
from kubeproxy_py.model.node import HostAddress
from tests.laws.checking_kernels import probes
from tests.laws.compilers import compiler
from tests.laws.histories import batches
from tests.laws.packets import NODE_ADDRESSES, Fate, Packet, State, fate

HOST = Host(tuple(HostAddress("eth0", address) for address in sorted(NODE_ADDRESSES)))
_RESULTS = {
    "served": "served",
    "host": "host",
    "refused": "refused",
    "rejected": "shut out",
    "dropped": "shut out",
    "forwarded": "elsewhere",
}

_EXAMPLES = settings().max_examples // 5
"""Each history has hundreds of packets, and to trace one costs far more than to evaluate it."""


@settings(max_examples=_EXAMPLES)
@given(history=batches)
def test_trace_agrees_with_the_evaluator_of_the_laws(history: list[list[ObjectEvent]]) -> None:
    compiled = compiler()
    for batch in history:
        for event in batch:
            compiled.handle_event(event)
        compiled.compile()
    rows = compiled.desired.rows
    state = State(rows)
    for packet in probes(rows):
        expected, found = fate(state, packet), traced_fate(trace(rows, HOST, request_of(packet)))
        if expected.result == "elsewhere" and found.result == "shut out":
            continue  # the laws do not follow packets that this node forwards, to which the firewall applies, too
        assert found == expected, packet


def request_of(packet: Packet) -> Request:
    return Request(packet.source, packet.destination, packet.port, packet.protocol.upper())


def traced_fate(traced: Trace) -> Fate:
    assert traced.is_certain
    (outcome,) = traced.outcomes
    endpoints = frozenset((choice.address, choice.port) for choice in outcome.real_servers)
    masqueraded = {branch.is_masqueraded for branch in outcome.branches}
    return Fate(_RESULTS[outcome.fate], endpoints, masqueraded=masqueraded == {True})  # type: ignore[arg-type]
