"""Which steps interrupt a row that is desired in the end."""

from __future__ import annotations

import pytest

from kubeproxy_py.model.rows import DRAINING, SERVING, Address, Chain, ChainSpec, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Step
from tests.conformance.lifetimes import interruptions

BOUND = Address("10.96.0.1")
REAL = RealServer(VirtualServer("10.96.0.1", 80, "TCP"), "10.244.1.5", 8080)
CHAIN = Chain("IPv4", "nat", "KUBE-SERVICES")
DESIRED: Rows = {BOUND: None, REAL: SERVING, CHAIN: ChainSpec(("-j A", "-j B"))}


@pytest.mark.parametrize(
    "step",
    [
        Step("delete", BOUND),
        Step("update", REAL, DRAINING, SERVING),
        Step("update", CHAIN, ChainSpec(("-j A",)), ChainSpec(("-j A", "-j B"))),
    ],
)
def test_removing_a_desired_row_or_rule_is_an_interruption(step: Step) -> None:
    assert len(list(interruptions([step], DESIRED))) == 1


@pytest.mark.parametrize(
    "step",
    [
        Step("delete", Address("10.96.0.9")),
        Step("add", BOUND),
        Step("update", REAL, SERVING, DRAINING),
        Step("update", CHAIN, ChainSpec(("-j A", "-j B")), ChainSpec(("-j A", "-j C"))),
    ],
)
def test_removing_undesired_and_adding_desired_rows_is_no_interruption(step: Step) -> None:
    assert list(interruptions([step], DESIRED)) == []
