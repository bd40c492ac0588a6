"""What is deleted at start because it hides the API server from this node."""

import pytest

from kubeproxy_py.model.rows import Address, IpsetEntry, Key, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.plan.api_server_release import release_plan

API, API_6 = SocketAddress("192.168.3.11", 6443), SocketAddress("fd00:3::11", 6443)
BOUND, BOUND_6 = Address(API.address), Address(API_6.address)
SERVER, SERVER_6 = (VirtualServer(api.address, 6443, "TCP") for api in (API, API_6))
OTHERS: Rows = {
    Address("10.96.0.10"): None,
    VirtualServer("192.168.3.11", 443, "TCP"): VirtualServerSpec(),
    VirtualServer("192.168.3.11", 6443, "UDP"): VirtualServerSpec(),
    IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:6443"): None,
    IpsetEntry("KUBE-LOAD-BALANCER", "192.168.3.11,tcp:443"): None,
    IpsetEntry("KUBE-LOAD-BALANCER", "192.168.3.11,udp:6443"): None,
}


def named(family_set: str, api: SocketAddress) -> IpsetEntry:
    return IpsetEntry(family_set, f"{api.address},tcp:{api.port}")


@pytest.mark.parametrize(
    ("present", "deleted"),
    [
        ([], []),
        ([BOUND], [BOUND]),
        ([BOUND_6], [BOUND_6]),
        ([SERVER, BOUND, named("KUBE-LOAD-BALANCER", API)], [BOUND, SERVER]),  # the address first
        ([SERVER_6, named("KUBE-6-EXTERNAL-IP", API_6)], [SERVER_6]),  # not bound
        ([SERVER], []),  # another program's
        ([BOUND, named("KUBE-CLUSTER-IP", API)], []),
        ([BOUND_6, SERVER_6, named("KUBE-6-CLUSTER-IP", API_6)], []),
    ],
)
def test_what_hides_the_api_server_goes_unless_it_is_a_cluster_ip_s(present: list[Key], deleted: list[Key]) -> None:
    plan = release_plan({**OTHERS, **dict.fromkeys(present)}, [API, API_6], ())
    assert [(step.verb, step.key) for step in plan] == [("delete", key) for key in deleted]


@pytest.mark.parametrize(("node_addresses", "count"), [([API.address], 1), (["192.168.3.10"], 0)])
def test_node_port_with_the_api_server_s_port_goes_on_its_own_node(node_addresses: list[str], count: int) -> None:
    actual: Rows = {SERVER: VirtualServerSpec(), IpsetEntry("KUBE-NODE-PORT-TCP", "6443"): None}
    assert len(release_plan(actual, [API], node_addresses)) == count
