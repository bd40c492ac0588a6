"""NeighbourCheck: who is asked, who waits, and what follows from the answers."""

from collections.abc import Sequence

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ObjectEvent, ServiceDeleted, ServiceUpserted, TakenAddresses
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import Address, Key, Rows
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.neighbour_check import AGAIN_S, WAIT_S, NeighbourCheck
from tests.builders import name, node_context, service

VIP = Address("192.168.3.200")
NOT_OURS = Address("203.0.113.7")
CLUSTER_IP = Address("10.96.0.10")
KEYS = (VIP, NOT_OURS, CLUSTER_IP)
NODE_B, NODE_B_ANSWERS = "52:54:00:00:00:0b", Neighbour("eth0", VIP.address, "52:54:00:00:00:0b")


class _Compiler(Compiler):
    """Records the reports of taken addresses."""

    def __init__(self) -> None:
        super().__init__(lambda _node, _addresses: node_context(families=("IPv4",)))
        self.taken: list[dict[str, str]] = []

    def handle_event(self, event: ObjectEvent) -> None:
        super().handle_event(event)
        if isinstance(event, TakenAddresses):
            self.taken.append(event.addresses)


class Harness:
    """A check on a MemoryKernel, for a Service with one address in a network of this node and one elsewhere."""

    def __init__(self) -> None:
        self.kernel = MemoryKernel()
        self.compiler = _Compiler()
        self.check = NeighbourCheck(self.kernel, self.compiler)
        self.check.set_addresses((HostAddress("eth0", "192.168.3.10", 24),))
        self.now_s = 100.0
        self.apply(ServiceUpserted(service(external_ips=(VIP.address, NOT_OURS.address))))

    def apply(self, event: ObjectEvent) -> None:
        self.compiler.handle_event(event)
        self.compiler.compile()

    def hold(self, keys: Sequence[Key] = KEYS, actual: Rows | None = None) -> list[Key]:
        return list(self.check.hold(keys, actual or {}, self.now_s))

    def advance(self, seconds: float) -> list[Key]:
        """Let *seconds* pass, doing what becomes due; return the released keys."""
        released: list[Key] = []
        end_s = self.now_s + seconds
        while self.check.due_s <= end_s:
            self.now_s = max(self.now_s, self.check.due_s)
            released += self.check.run(self.now_s)
        self.now_s = end_s
        return released

    @property
    def asked(self) -> list[HostAddress]:
        asked, self.kernel.solicited = self.kernel.solicited, []
        return asked


def test_only_addresses_of_own_networks_wait() -> None:
    harness = Harness()
    assert harness.hold() == [VIP]
    assert harness.asked == [HostAddress("eth0", VIP.address)]


def test_address_that_nobody_answers_for_is_released_within_the_limit() -> None:
    harness = Harness()
    assert harness.check.hold([VIP], {}, harness.now_s) == {VIP: harness.now_s + WAIT_S}
    assert harness.advance(WAIT_S - 0.01) == []
    assert harness.hold([VIP]) == [VIP]
    assert harness.advance(0.01) == [VIP]
    assert (harness.hold([VIP]), harness.compiler.taken, harness.check.due_s) == ([], [], NEVER)
    assert len(harness.asked) == 1


def test_address_that_is_announced_is_released_at_the_first_answer() -> None:
    harness = Harness()
    harness.kernel.neighbour_table = [NODE_B_ANSWERS, Neighbour("eth0", "192.168.3.11", NODE_B)]
    harness.hold()
    assert harness.advance(0.1) == [VIP]
    assert (harness.hold([VIP]), harness.compiler.taken) == ([], [])


def test_address_of_a_machine_is_reported_at_its_answer() -> None:
    harness = Harness()
    harness.hold()
    harness.advance(0.2)
    harness.kernel.neighbour_table = [NODE_B_ANSWERS]
    assert harness.advance(0.5) == [VIP]
    assert harness.compiler.taken == [{VIP.address: f"the address of the machine {NODE_B} on eth0"}]


def test_address_that_is_bound_already_is_not_asked_for_even_if_it_is_lost_later() -> None:
    harness = Harness()
    assert harness.hold(actual={VIP: None}) == []
    harness.check.adopt({VIP: None})
    assert (harness.hold(), harness.asked) == ([], [])


def test_address_is_asked_for_again_after_no_service_wanted_it() -> None:
    harness = Harness()
    harness.hold()
    harness.advance(WAIT_S)
    harness.apply(ServiceDeleted(name("web")))
    assert harness.hold([VIP]) == []
    harness.apply(ServiceUpserted(service(external_ips=(VIP.address,))))
    assert harness.hold([VIP]) == [VIP]
    assert len(harness.asked) == 2


def test_machine_that_no_longer_answers_gives_its_address_free() -> None:
    harness = Harness()
    harness.kernel.neighbour_table = [NODE_B_ANSWERS]
    harness.hold()
    harness.advance(WAIT_S)
    harness.asked.clear()
    harness.kernel.solicited.clear()
    harness.advance(AGAIN_S)
    assert len(harness.asked) == 1
    harness.kernel.neighbour_table = []
    harness.advance(AGAIN_S + 2 * WAIT_S)
    assert harness.compiler.taken[-1] == {}
    assert (harness.hold([VIP]), harness.check.due_s) == ([], NEVER)


def test_machine_s_address_that_no_service_wants_any_more_is_dropped() -> None:
    harness = Harness()
    harness.kernel.neighbour_table = [NODE_B_ANSWERS]
    harness.hold()
    harness.advance(WAIT_S)
    harness.apply(ServiceDeleted(name("web")))
    harness.advance(AGAIN_S + 2 * WAIT_S)
    assert (harness.compiler.taken[-1], harness.check.due_s) == ({}, NEVER)


def test_address_known_to_be_a_machine_s_tells_that_it_announces_others() -> None:
    harness = Harness()
    other = Address("192.168.3.11")
    harness.apply(ServiceUpserted(service(external_ips=(VIP.address, other.address))))
    harness.compiler.handle_event(TakenAddresses("test", {other.address: "a node's"}))
    harness.compiler.taken.clear()
    harness.kernel.neighbour_table = [NODE_B_ANSWERS, Neighbour("eth0", other.address, NODE_B)]
    harness.hold([VIP, other])
    harness.advance(WAIT_S)
    assert [list(taken) for taken in harness.compiler.taken] == [[other.address]]


def test_kernel_that_cannot_ask_holds_nothing_up() -> None:
    harness = Harness()

    def fail(_targets: object) -> None:
        raise KernelError("no netlink")

    harness.kernel.solicit = fail  # type: ignore[method-assign, assignment]
    assert (harness.hold(), harness.check.due_s) == ([], NEVER)
