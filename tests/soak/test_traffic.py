"""The traffic of a soak, without a cluster: only that a client which fails does not go unnoticed."""

from __future__ import annotations

from lab.network import Cluster
from tests.soak.services import TARGETS, Target
from tests.soak.traffic import Traffic


def test_loop_that_fails_is_a_mistake_of_the_soak() -> None:
    def fail(target: Target) -> None:
        raise AssertionError(target.name)

    traffic = Traffic(Cluster(), 0.0)
    traffic.carry_out(fail, TARGETS[0])
    traffic.carry_out(lambda _: None, TARGETS[1])
    assert len(traffic.mistakes) == 1
    assert TARGETS[0].name in traffic.mistakes[0]
