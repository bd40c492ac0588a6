"""dispatch: runs of steps in order, and an error stays at its row.  The adapters are the strict kernel in memory."""

from collections.abc import Callable, Sequence
from errno import ENOMEM, EPERM
from time import perf_counter

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
_PARTS = {
    "settings": (Sysctl,),
    "device": (Link, Address),
    "sets": (Ipset, IpsetEntry),
    "rules": (Chain, Jump),
    "servers": (VirtualServer, RealServer),
}


class Part:
    """One adapter: the steps it was given, carried out by a kernel that all parts share."""

    def __init__(self, name: str, kernel: MemoryKernel, runs: list[tuple[str, Sequence[Step]]]) -> None:
        self.name, self.kernel, self.runs = name, kernel, runs
        self.unusable = False

    def scopes(self) -> Sequence[Scope]:
        return ()

    def read(self, scope: Scope) -> Rows:
        return self.kernel.read(scope)

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        if self.unusable:
            raise KernelError("the tool is gone", errno=EPERM)
        self.runs.append((self.name, steps))
        return self.kernel.apply(Plan(tuple(steps))).failed

    def close(self) -> None: ...


class Lab:
    """Five parts and what came of a plan."""

    def __init__(self, rows: Rows | None = None) -> None:
        self.kernel = MemoryKernel(rows)
        self.runs: list[tuple[str, Sequence[Step]]] = []
        self.parts = {name: Part(name, self.kernel, self.runs) for name in _PARTS}
        self.adapters: dict[type[Key], Adapter] = {
            kind: self.parts[name] for name, kinds in _PARTS.items() for kind in kinds
        }

    def refuse(self, *keys: Key, verb: str = "add") -> "Lab":
        refused: Callable[[Step], int] = lambda step: ENOMEM * (step.verb == verb and step.key in keys)  # noqa: E731
        self.kernel.fault = refused
        return self

    def make(self) -> dict[Key, int]:
        """Make ROWS; which steps failed and how."""
        return self.carry_out(make_plan(ROWS, self.kernel.rows))

    def carry_out(self, plan: Plan) -> dict[Key, int]:
        self.outcome: Outcome = dispatch(plan, self.adapters)
        return {failed.step.key: failed.errno for failed in self.outcome.failed}


def test_steps_go_to_the_adapter_of_their_kind_in_the_order_of_the_plan() -> None:
    lab = Lab()
    plan = make_plan(ROWS, {})
    lab.carry_out(plan)
    assert [step for _, steps in lab.runs for step in steps] == list(plan)
    assert [name for name, _ in lab.runs] == ["settings", "device", "sets", "rules", "sets", "servers", "device"]


def test_without_failures_all_is_done() -> None:
    lab = Lab()
    assert lab.make() == {}
    assert lab.kernel.rows == ROWS


def test_what_matches_on_a_missing_set_waits_and_what_jumps_there_too() -> None:
    lab = Lab().refuse(CLUSTER_IP)
    assert lab.make() == {CLUSTER_IP: ENOMEM, SERVICES: 0, PORTALS: 0, ENTRY: 0}


def test_who_waits_says_for_what() -> None:
    lab = Lab().refuse(CLUSTER_IP)
    lab.make()
    messages = {failed.step.key: failed.message for failed in lab.outcome.failed}
    assert messages[ENTRY] == "waits for Ipset KUBE-CLUSTER-IP"


def test_what_does_not_depend_on_the_failed_step_is_done() -> None:
    lab = Lab().refuse(CLUSTER_IP)
    failed = lab.make()
    assert lab.kernel.rows == {key: spec for key, spec in ROWS.items() if key not in failed}


def test_no_address_without_its_device() -> None:
    assert Lab().refuse(Link(IPVS_DEVICE)).make() == {Link(IPVS_DEVICE): ENOMEM, ADDRESS: 0}


def test_an_address_is_not_bound_if_all_its_virtual_servers_failed() -> None:
    assert Lab().refuse(HTTP, HTTPS).make()[ADDRESS] == 0


def test_an_address_is_bound_if_one_of_its_virtual_servers_was_made() -> None:
    assert ADDRESS not in Lab().refuse(HTTPS).make()


def test_an_address_is_bound_again_beside_virtual_servers_that_stand() -> None:
    rows = {key: spec for key, spec in ROWS.items() if key != ADDRESS}
    assert Lab(rows).refuse(Sysctl("net/ipv4/ip_forward"), verb="update").make() == {}


def test_virtual_servers_stay_while_their_address_can_not_be_taken_away() -> None:
    lab = Lab(ROWS).refuse(ADDRESS, verb="delete")
    failed = lab.carry_out(make_plan({}, {key: ROWS[key] for key in (ADDRESS, HTTP, HTTPS)}))
    assert failed == {ADDRESS: ENOMEM, HTTP: 0, HTTPS: 0}


def test_nothing_waits_for_a_row_that_only_could_not_be_changed() -> None:
    lab = Lab({**ROWS, SERVICES: ChainSpec(())}).refuse(MARK, verb="update")
    steps = (Step("update", MARK, ChainSpec(()), ROWS[MARK]), Step("update", SERVICES, ROWS[SERVICES], ChainSpec(())))
    assert lab.carry_out(Plan(steps)) == {MARK: ENOMEM}


def test_an_unusable_adapter_fails_its_own_steps_alone() -> None:
    lab = Lab()
    lab.parts["rules"].unusable = True
    rules = {key for key in ROWS if isinstance(key, Chain | Jump)}
    assert lab.make() == dict.fromkeys(rules, EPERM)


def test_without_ipvs_no_address_is_bound() -> None:
    lab = Lab()
    lab.parts["servers"].unusable = True
    assert lab.make() == {HTTP: EPERM, HTTPS: EPERM, POD: EPERM, ADDRESS: 0}


class _Blind:
    """Does everything at once, so that only dispatch is measured."""

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        return ()

    def scopes(self) -> Sequence[Scope]:
        return ()

    def read(self, scope: Scope) -> Rows:
        return {}

    def close(self) -> None: ...


def test_a_plan_of_140_000_steps_passes_in_well_under_100_ms() -> None:
    servers = [VirtualServer(f"10.{96 + n // 65536}.{n // 256 % 256}.{n % 256}", 80, "TCP") for n in range(10_000)]
    steps = [Step("add", key, VirtualServerSpec()) for key in servers]
    steps += [Step("add", RealServer(key, f"10.244.0.{n}", 80), SERVING) for key in servers for n in range(12)]
    steps += [Step("add", Address(key.address)) for key in servers]
    adapters: dict[type[Key], Adapter] = dict.fromkeys((VirtualServer, RealServer, Address), _Blind())
    began = perf_counter()
    dispatch(Plan(tuple(steps)), adapters)
    assert perf_counter() - began < 0.1
