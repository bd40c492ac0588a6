"""Services whose externalIPs are this node's own addresses: told once, until there is something else to tell."""

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import external_ips_on_node
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.events.external_ip_warnings import ExternalIpWarnings
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, HostAddresses, ServiceDeleted, ServiceUpserted, Synced
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Address, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.sources import FEEDS
from tests.builders import host, name, service, site

MINE, MINE_6, OTHER = "192.168.3.10", "fd00:3::10", "192.0.2.1"
BOTH = ("10.96.0.10", "fd00:96::10")


class Bench:
    """An agent on a MemoryKernel, and what people are told by it."""

    def __init__(self) -> None:
        self.notices: list[KubeEvent] = []
        compiler = Compiler(_make_site)
        self.now_s = 0.0
        self.kernel = MemoryKernel()
        self.kernel.addresses = host(MINE)
        look = ExternalIpWarnings(compiler, self.notices.append).look
        self.agent = Reconciler(self.kernel, compiler, lambda: self.now_s, on_compiled=look)
        for feed in FEEDS:
            self.agent.handle_event(Synced(feed), 0.0)

    def tell(self, *events: Event) -> list[KubeEvent]:
        """What people are told of when *events* came and were synced."""
        for event in events:
            self.agent.handle_event(event, self.now_s)
        self.agent.step()
        told = self.notices[:]
        self.notices.clear()
        return told


def _make_site(_node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    return site(foreign_addresses={"IPv4": frozenset(each.address for each in addresses)})


def with_external(*addresses: str, **fields: object) -> Service:
    return service(external_ips=addresses, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (with_external(OTHER), ()),
        (with_external(OTHER, MINE), (MINE,)),
        (with_external(MINE, MINE_6, cluster_ips=BOTH), (MINE, MINE_6)),
        (with_external(MINE, MINE_6), (MINE,)),  # not served in IPv6
        (with_external(MINE, proxy_name="other"), ()),
        (with_external(MINE, type="ExternalName"), ()),
        (service(load_balancer_ips=(MINE,), type="LoadBalancer"), ()),
    ],
)
def test_an_external_ip_of_the_node_is_found_where_it_is_served(wanted: Service, found: tuple[str, ...]) -> None:
    assert external_ips_on_node(wanted, site()) == found


def test_an_external_ip_of_a_family_that_this_host_does_not_serve_is_nothing_to_tell() -> None:
    wanted = with_external(MINE, MINE_6, cluster_ips=BOTH)
    assert external_ips_on_node(wanted, site(families=("IPv4",))) == (MINE,)


def test_a_warning_tells_the_service_the_address_and_the_node() -> None:
    (notice,) = Bench().tell(ServiceUpserted(with_external(MINE)))
    assert (notice.type, str(notice.regarding)) == ("Warning", "Service shop/web")
    assert MINE in notice.note
    assert "node-a" in notice.note


def test_the_address_is_served_but_not_bound() -> None:
    bench = Bench()
    bench.tell(ServiceUpserted(with_external(MINE, OTHER)))
    rows = bench.kernel.rows
    assert VirtualServer(MINE, 80, "TCP") in rows
    assert (Address(MINE) in rows, Address(OTHER) in rows) == (False, True)


def test_it_is_told_once() -> None:
    bench = Bench()
    bench.tell(ServiceUpserted(with_external(MINE)))
    assert bench.tell(ServiceUpserted(with_external(MINE, affinity_timeout_s=60))) == []


def test_another_address_is_news_and_so_is_the_same_after_it_was_gone() -> None:
    bench = Bench()
    assert len(bench.tell(ServiceUpserted(with_external(MINE)))) == 1
    assert bench.tell(ServiceUpserted(with_external(OTHER))) == []
    assert len(bench.tell(ServiceUpserted(with_external(MINE)))) == 1


def test_an_address_that_the_node_comes_to_have_is_news() -> None:
    bench = Bench()
    assert bench.tell(ServiceUpserted(with_external(OTHER))) == []
    (notice,) = bench.tell(HostAddresses(host(MINE, OTHER)))
    assert OTHER in notice.note


def test_a_service_that_is_gone_is_not_remembered() -> None:
    bench = Bench()
    bench.tell(ServiceUpserted(with_external(MINE)))
    assert bench.tell(ServiceDeleted(name("shop/web"))) == []
    assert len(bench.tell(ServiceUpserted(with_external(MINE)))) == 1
