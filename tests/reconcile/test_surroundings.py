"""Surroundings of the node in the agent: addresses that are gone, gateways, and addresses that wait for neighbours."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import AddressesChanged, ObjectEvent, ServiceUpserted, Synced, TakenAddresses
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Neighbour, Node
from kubeproxy_py.model.rows import IPVS_DEVICE, Address, Link, Rows, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.reconcile.gone_addresses import GoneAddresses
from kubeproxy_py.reconcile.surroundings import GATEWAYS_S
from kubeproxy_py.sources import FEEDS
from tests.builders import port, service

ETH0, ETH1 = HostAddress("eth0", "192.168.3.10", 24), HostAddress("eth1", "172.16.5.10", 24)
VIP = Address("192.168.3.200")


def _context(node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    return make_node_context(KubeProxyConfiguration(), HostInfo("node-a", families=("IPv4",)), node, addresses)


class _Compiler(Compiler):
    """Records the reports of taken addresses."""

    def __init__(self) -> None:
        super().__init__(_context)
        self.taken: list[TakenAddresses] = []

    def handle_event(self, event: ObjectEvent) -> None:
        super().handle_event(event)
        if isinstance(event, TakenAddresses):
            self.taken.append(event)


class Harness:
    """An agent on a MemoryKernel with two interfaces."""

    def __init__(self, *services: Service, rows: Rows | None = None, grace_s: float = 30.0) -> None:
        self.now_s = 1000.0
        self.kernel = MemoryKernel(rows)
        self.kernel.addresses = (ETH0, ETH1)
        self.compiler = _Compiler()
        timing = Timing(address_grace_s=grace_s)
        self.agent = Agent(self.kernel, self.compiler, lambda: self.now_s, timing=timing)
        for each in services:
            self.agent.handle_event(ServiceUpserted(each), self.now_s)
        for feed in FEEDS:
            self.agent.handle_event(Synced(feed), self.now_s)
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, doing what becomes due."""
        end_s = self.now_s + seconds
        while self.agent.due_s() <= end_s:
            self.now_s = max(self.now_s, self.agent.due_s())
            self.agent.run_due(self.now_s)
        self.now_s = end_s

    def set_addresses(self, *addresses: HostAddress) -> None:
        """Replace the addresses of the host, as the monitor reports it."""
        self.kernel.addresses = addresses
        self.agent.handle_addresses_changed(AddressesChanged(other_interfaces=True), self.now_s)
        self.advance(0)

    def servers_at(self, host: HostAddress) -> int:
        """Return the number of virtual servers at the address of *host*."""
        return sum(isinstance(key, VirtualServer) and key.address == host.address for key in self.kernel.rows)


WITH_NODE_PORT = service(ports=(port(node_port=30080),), type="NodePort")


def test_node_ports_stay_at_an_address_that_is_gone_for_a_moment() -> None:
    harness = Harness(WITH_NODE_PORT)
    harness.kernel.applied.clear()
    harness.set_addresses(ETH1)
    harness.advance(29)
    harness.set_addresses(ETH0, ETH1)
    harness.advance(60)
    assert (harness.servers_at(ETH0), harness.kernel.applied) == (1, [])


def test_node_ports_leave_an_address_that_stays_away() -> None:
    harness = Harness(WITH_NODE_PORT)
    harness.set_addresses(ETH1)
    harness.advance(29.9)
    assert harness.servers_at(ETH0) == 1
    harness.advance(0.1)
    assert (harness.servers_at(ETH0), harness.servers_at(ETH1)) == (0, 1)


def test_address_that_is_gone_is_bound_at_once_if_a_service_has_it() -> None:
    external = service("lb", ("10.96.0.11",), external_ips=(ETH0.address,))
    harness = Harness(WITH_NODE_PORT, external)
    assert Address(ETH0.address) not in harness.kernel.rows
    harness.set_addresses(ETH1)
    assert Address(ETH0.address) in harness.kernel.rows
    assert VirtualServer(ETH0.address, 30080, "TCP") not in harness.kernel.rows


def test_addresses_that_never_serve_node_ports_are_not_kept() -> None:
    gone = GoneAddresses()
    kept, others = (ETH0,), (HostAddress("veth1", "fe80::1", 64), HostAddress("lo", "127.0.0.1", 8))
    gone.update((*kept, *others, HostAddress(IPVS_DEVICE, "10.96.0.10", 32)), 0.0)
    gone.update((), 1.0)
    assert [host.address for host in gone.addresses] == [ETH0.address]
    assert all(host.is_gone for host in gone.addresses)


def test_address_that_moves_to_another_interface_is_not_gone() -> None:
    gone = GoneAddresses()
    gone.update((ETH0,), 0.0)
    moved = HostAddress("br0", ETH0.address, 24)
    gone.update((moved,), 1.0)
    assert gone.addresses == (moved,)


def test_gateways_are_reported_before_the_first_sync_and_read_again_rarely() -> None:
    harness = Harness()
    assert harness.compiler.taken == []
    harness.kernel.gateway_addresses = {"192.168.3.1": "eth0"}
    harness.advance(GATEWAYS_S)
    harness.advance(GATEWAYS_S)
    expected = TakenAddresses("gateways", {"192.168.3.1": "a gateway of this node, on eth0"})
    assert harness.compiler.taken == [expected]


def test_gateways_are_read_again_soon_after_addresses_changed() -> None:
    harness = Harness()
    harness.set_addresses(ETH0)
    harness.kernel.gateway_addresses = {"192.168.3.1": "eth0"}
    harness.advance(2)
    assert [list(event.addresses) for event in harness.compiler.taken] == [["192.168.3.1"]]


def test_gateways_are_not_read_again_for_the_interfaces_of_pods() -> None:
    harness = Harness()
    harness.set_addresses(ETH0, ETH1, HostAddress("veth1", "fe80::1", 64))
    harness.kernel.gateway_addresses = {"192.168.3.1": "eth0"}
    harness.advance(10)
    assert harness.compiler.taken == []


@pytest.mark.parametrize("start", [True, False], ids=["at the first sync", "later"])
def test_address_of_an_own_network_is_bound_after_the_neighbours_were_asked(start: bool) -> None:
    wanting = service(external_ips=(VIP.address, "203.0.113.7"))
    harness = Harness(*([wanting] if start else []))
    if not start:
        harness.agent.handle_event(ServiceUpserted(wanting), harness.now_s)
        harness.advance(0)
    assert VIP not in harness.kernel.rows
    assert Address("203.0.113.7") in harness.kernel.rows
    assert VirtualServer(VIP.address, 80, "TCP") in harness.kernel.rows
    assert not harness.agent.status().failed
    harness.advance(1)
    assert VIP in harness.kernel.rows
    assert harness.agent.status().pending == {}
    assert harness.kernel.solicited == [HostAddress("eth0", VIP.address)]


def test_address_that_was_bound_at_start_stays_and_is_restored_at_once() -> None:
    wanting = service(external_ips=(VIP.address,))
    harness = Harness(wanting, rows={Link(IPVS_DEVICE): None, VIP: None})
    assert (VIP in harness.kernel.rows, harness.kernel.solicited) == (True, [])
    del harness.kernel.rows[VIP]
    harness.agent.handle_addresses_changed(AddressesChanged(service_addresses={VIP.address: False}), harness.now_s)
    harness.advance(0)
    assert VIP in harness.kernel.rows


def test_address_of_a_machine_is_served_but_not_bound_until_the_machine_is_gone() -> None:
    harness = Harness(service(external_ips=(VIP.address,)))
    harness.kernel.neighbour_table = [Neighbour("eth0", VIP.address, "52:54:00:00:00:0b")]
    harness.advance(1)
    assert VIP not in harness.kernel.rows
    assert VirtualServer(VIP.address, 80, "TCP") in harness.kernel.rows
    assert harness.agent.status().refusals["AddressInUse"] == 1
    harness.advance(300)
    assert VIP not in harness.kernel.rows
    harness.kernel.neighbour_table = []
    harness.advance(63)
    assert VIP in harness.kernel.rows
    assert harness.agent.status().refusals["AddressInUse"] == 0


def test_cluster_ip_that_a_machine_answers_for_is_bound() -> None:
    harness = Harness(service(cluster_ips=(VIP.address,)))
    harness.kernel.neighbour_table = [Neighbour("eth0", VIP.address, "52:54:00:00:00:0b")]
    harness.advance(1)
    assert VIP in harness.kernel.rows
