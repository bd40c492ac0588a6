"""dispatch: groups of steps in order, each to its adapter.  The adapters share a MemoryKernel."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from errno import EPERM

from kubeproxy_py.kernel import Scope
from kubeproxy_py.kernel.dispatch import Adapter, dispatch
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    SERVING,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Jump,
    JumpSpec,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.plan.plan import make_plan

CLUSTER_IP = Ipset("KUBE-CLUSTER-IP")
ENTRY = IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")
FORWARD = Chain("IPv4", "filter", "KUBE-FORWARD")
SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
PORTALS = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
HTTP, HTTPS = (VirtualServer("10.96.0.10", port, "TCP") for port in (80, 443))
POD = RealServer(HTTP, "10.244.1.5", 8080)
ADDRESS = Address("10.96.0.10")
ROWS: Rows = {
    Sysctl("net/ipv4/ip_forward"): "1",
    Link(IPVS_DEVICE): None,
    CLUSTER_IP: IpsetSpec("hash:ip,port", "IPv4"),
    FORWARD: ChainSpec(("-j ACCEPT",)),
    MARK: ChainSpec(("-j MARK --set-xmark 0x4000/0x4000",)),
    SERVICES: ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",)),
    PORTALS: JumpSpec("-j KUBE-SERVICES"),
    ENTRY: None,
    HTTP: VirtualServerSpec(),
    HTTPS: VirtualServerSpec(),
    POD: SERVING,
    ADDRESS: None,
}
_ADAPTERS = {
    "sysctls": (Sysctl,),
    "link": (Link, Address),
    "sets": (Ipset, IpsetEntry),
    "rules": (Chain, Jump),
    "servers": (VirtualServer, RealServer),
}


class RecordingAdapter:
    """An adapter that records its steps; a kernel that all adapters share carries them out."""

    def __init__(self, name: str, kernel: MemoryKernel, groups: list[tuple[str, Sequence[Step]]]) -> None:
        self.name, self.kernel, self.groups = name, kernel, groups
        self.unusable = False

    def scopes(self) -> Sequence[Scope]:
        return ()

    def read(self, scope: Scope) -> Rows:
        return self.kernel.read(scope)

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        if self.unusable:
            raise KernelError("the program is missing", errno=EPERM)
        self.groups.append((self.name, steps))
        return self.kernel.apply(Plan(tuple(steps))).failures

    def close(self) -> None: ...


class Harness:
    """Five adapters, and the outcome of a plan."""

    def __init__(self, rows: Rows | None = None) -> None:
        self.kernel = MemoryKernel(rows)
        self.groups: list[tuple[str, Sequence[Step]]] = []
        self.by_name = {name: RecordingAdapter(name, self.kernel, self.groups) for name in _ADAPTERS}
        self.adapters: dict[type[Key], Adapter] = {
            kind: self.by_name[name] for name, kinds in _ADAPTERS.items() for kind in kinds
        }

    def create_rows(self) -> dict[Key, int]:
        """Create ROWS; return the errno of each row that failed."""
        return self.carry_out(make_plan(ROWS, self.kernel.rows))

    def carry_out(self, plan: Plan) -> dict[Key, int]:
        self.outcome: Outcome = dispatch(plan, self.adapters)
        return {failure.step.key: failure.errno for failure in self.outcome.failures}


def test_steps_are_applied_by_the_adapter_of_their_kind_in_the_order_of_the_plan() -> None:
    harness = Harness()
    plan = make_plan(ROWS, {})
    harness.carry_out(plan)
    assert [step for _, steps in harness.groups for step in steps] == list(plan)
    assert [name for name, _ in harness.groups] == ["sysctls", "link", "sets", "rules", "sets", "servers", "link"]


def test_without_failures_every_step_is_carried_out() -> None:
    harness = Harness()
    assert harness.create_rows() == {}
    assert harness.kernel.rows == ROWS


def test_an_unusable_adapter_fails_its_own_steps_only() -> None:
    harness = Harness()
    harness.by_name["rules"].unusable = True
    rules = {key for key in ROWS if isinstance(key, Chain | Jump)}
    assert harness.create_rows() == dict.fromkeys(rules, EPERM)
    assert harness.kernel.rows == {key: spec for key, spec in ROWS.items() if key not in rules}


class _NoOpAdapter:
    """Does nothing, so that only dispatch is measured."""

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        return ()

    def scopes(self) -> Sequence[Scope]:
        return ()

    def read(self, scope: Scope) -> Rows:
        return {}

    def close(self) -> None: ...


def test_a_plan_of_140_000_steps_costs_no_python_call_for_a_single_step() -> None:
    servers = [VirtualServer(f"10.{96 + n // 65536}.{n // 256 % 256}.{n % 256}", 80, "TCP") for n in range(10_000)]
    steps = [Step("add", key, VirtualServerSpec()) for key in servers]
    steps += [Step("add", RealServer(key, f"10.244.0.{n}", 80), SERVING) for key in servers for n in range(12)]
    steps += [Step("add", Address(key.address)) for key in servers]
    adapters: dict[type[Key], Adapter] = dict.fromkeys((VirtualServer, RealServer, Address), _NoOpAdapter())
    calls = Counter(event for event in _profiled(lambda: dispatch(Plan(tuple(steps)), adapters)))
    assert calls["call"] <= len(steps) * 0.1  # no call of Python for a single step


def _profiled(function: Callable[[], object]) -> list[str]:
    """Return the profiler's events while *function* runs: ``call`` for a Python function, ``c_call`` for others."""
    events: list[str] = []
    sys.setprofile(lambda _frame, event, _arg: events.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return events
