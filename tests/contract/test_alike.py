"""MemoryKernel is at least as strict as Linux: after the same plans, even from stale rows, their rows are equal.

It may refuse more: iptables accepts a jump to a chain that only a later step of the same group creates.
"""

from random import Random

import pytest

from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.rows import (
    Chain,
    ChainSpec,
    IpsetEntry,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import (
    ADDRESS,
    ADDRESS_6,
    CLUSTER_IP,
    DEVICE,
    ENTRY,
    HTTP,
    HTTP_6,
    LARGER_SPEC,
    MARK,
    MARK_SPEC,
    PERSISTENT,
    PLAIN,
    POD,
    POD_6,
    PORTALS,
    PORTALS_SPEC,
    PORTS_SPEC,
    SERVICES,
    linux_kernel,
    rows_of,
)

_DNS = VirtualServer("10.96.0.10", 53, "UDP")
_TO_MARK = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",))
_CHOICES: dict[Key, tuple[object, ...]] = {
    DEVICE: (None,),
    CLUSTER_IP: (PORTS_SPEC, LARGER_SPEC),
    ENTRY: (None,),
    IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,udp:53"): (None,),
    MARK: (MARK_SPEC, ChainSpec(())),
    SERVICES: (_TO_MARK, ChainSpec(("-j KUBE-MARK-MASQ",)), ChainSpec(())),
    Chain("IPv4", "nat", "KUBE-NODE-PORT"): (ChainSpec(("-j KUBE-MARK-MASQ",)),),
    PORTALS: (PORTALS_SPEC,),
    HTTP: (PLAIN, PERSISTENT),
    HTTP_6: (PLAIN,),
    _DNS: (PLAIN,),
    POD: (RealServerSpec(1), RealServerSpec(0)),
    POD_6: (RealServerSpec(1),),
    RealServer(_DNS, "10.244.1.5", 53): (RealServerSpec(1),),
    ADDRESS: (None,),
    ADDRESS_6: (None,),
}


def _some_rows(random: Random) -> Rows:
    """Return a random choice of rows, whether or not their dependencies are among them."""
    return {key: random.choice(specs) for key, specs in _CHOICES.items() if random.random() < 0.7}  # type: ignore[misc]


def _refused(outcome: Outcome) -> set[tuple[Key, Spec]]:
    return {(failure.step.key, failure.step.spec) for failure in outcome.failures}


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(12))
def test_linux_accepts_what_the_memory_kernel_accepts_and_ends_with_the_same_rows(seed: int) -> None:
    random, memory = Random(seed), MemoryKernel(idempotent=True)
    with linux_kernel() as linux:
        for _ in range(3):
            plan: Plan = make_plan(_some_rows(random), _some_rows(random))
            by_linux, by_memory = _refused(linux.apply(plan)), _refused(memory.apply(plan))
            assert by_linux <= by_memory
            rows = rows_of(linux, *_CHOICES)
            assert rows == memory.rows or by_linux != by_memory
            memory.rows = rows
