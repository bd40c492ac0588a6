"""What counts as taken away though it stays."""

from __future__ import annotations

import pytest

from kubeproxy_py.model.rows import DRAINING, SERVING, Address, Chain, ChainSpec, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Step
from tests.conformance.lives import cut

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
def test_a_row_or_rule_that_stays_must_not_go(step: Step) -> None:
    assert len(list(cut([step], DESIRED))) == 1


@pytest.mark.parametrize(
    "step",
    [
        Step("delete", Address("10.96.0.9")),
        Step("add", BOUND),
        Step("update", REAL, SERVING, DRAINING),
        Step("update", CHAIN, ChainSpec(("-j A", "-j B")), ChainSpec(("-j A", "-j C"))),
    ],
)
def test_what_is_not_wanted_may_go_and_what_is_may_come(step: Step) -> None:
    assert list(cut([step], DESIRED)) == []
