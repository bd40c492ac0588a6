"""Which flows are stale, and the text of the result of deleting them."""

import pytest

from kubeproxy_py.model.flows import Destination, Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.plan.stale_flows import find_stale_flows

DNS = VirtualServer("10.96.0.53", 53, "UDP")
OTHER = VirtualServer("10.96.0.53", 54, "UDP")
POD: Destination = ("10.244.1.5", 8080)
ALLOWED = {DNS: frozenset({POD, ("10.244.1.6", 8080)})}


@pytest.mark.parametrize("destination", [("10.244.1.7", 8080), ("10.244.1.5", 8081), ("10.96.0.53", 53)])
def test_flow_to_no_allowed_address_and_port_is_stale(destination: Destination) -> None:
    flow = Flow(DNS, destination)
    assert find_stale_flows([flow], ALLOWED) == [flow]


def test_flow_to_an_allowed_destination_is_not_stale() -> None:
    assert find_stale_flows([Flow(DNS, POD)], ALLOWED) == []


def test_flow_to_an_unlisted_virtual_server_is_not_stale() -> None:
    assert find_stale_flows([Flow(OTHER, POD)], ALLOWED) == []


def test_virtual_server_that_allows_nothing_has_only_stale_flows() -> None:
    assert find_stale_flows([Flow(OTHER, POD)], {OTHER: frozenset()}) == [Flow(OTHER, POD)]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (StaleFlowResult(2, 1000, 3, ()), "deleted 3 of 1,000 UDP flows to 2 virtual servers"),
        (StaleFlowResult(1, 1, 1, ()), "deleted 1 of 1 UDP flow to 1 virtual server"),
        (
            StaleFlowResult(1, 9, 7, ("Device or resource busy",) * 2),
            "deleted 7 of 9 UDP flows to 1 virtual server, 2 failed (Device or resource busy)",
        ),
    ],
)
def test_result_as_text(result: StaleFlowResult, text: str) -> None:
    assert str(result) == text
