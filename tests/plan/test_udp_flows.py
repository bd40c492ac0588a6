"""Which flows are stale, and the sentence that is said of them."""

import pytest

from kubeproxy_py.model.flows import Destination, Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.plan.stale_flows import stale_flows

DNS = VirtualServer("10.96.0.53", 53, "UDP")
OTHER = VirtualServer("10.96.0.53", 54, "UDP")
POD: Destination = ("10.244.1.5", 8080)
ALLOWED = {DNS: frozenset({POD, ("10.244.1.6", 8080)})}


@pytest.mark.parametrize("destination", [("10.244.1.7", 8080), ("10.244.1.5", 8081), ("10.96.0.53", 53)])
def test_a_flow_to_no_allowed_address_and_port_is_stale(destination: Destination) -> None:
    flow = Flow(DNS, destination)
    assert stale_flows([flow], ALLOWED) == [flow]


def test_a_flow_to_an_allowed_destination_stays() -> None:
    assert stale_flows([Flow(DNS, POD)], ALLOWED) == []


def test_a_flow_to_a_virtual_server_that_is_not_judged_stays() -> None:
    assert stale_flows([Flow(OTHER, POD)], ALLOWED) == []


def test_a_virtual_server_that_allows_nothing_loses_all_flows() -> None:
    assert stale_flows([Flow(OTHER, POD)], {OTHER: frozenset()}) == [Flow(OTHER, POD)]


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (StaleFlowResult(2, 1000, 3, ()), "forgot 3 UDP flows of 1,000 to 2 virtual servers"),
        (StaleFlowResult(1, 1, 1, ()), "forgot 1 UDP flow of 1 to 1 virtual server"),
        (
            StaleFlowResult(1, 9, 7, ("Device or resource busy",) * 2),
            "forgot 7 UDP flows of 9 to 1 virtual server, 2 refused (Device or resource busy)",
        ),
    ],
)
def test_a_report_is_one_sentence(report: StaleFlowResult, sentence: str) -> None:
    assert str(report) == sentence
