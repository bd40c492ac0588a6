"""The IPv6 source addresses that a node selects: its own, never one of a Service.

Linux prefers a global address of the outgoing interface; where that has a link-local address only, it takes the address
of this host that resembles the destination most, and Service addresses on kube-ipvs0 are addresses of this host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel import LINK
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.model.rows import IPVS_DEVICE, PREFERRED, Address, AddressSpec, Link, Rows
from kubeproxy_py.model.steps import Step
from lab.client import query
from lab.namespace import Namespace, new_namespace
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import ip_monitor, run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

NODE, POD_HERE, POD_THERE = (BY_NAME[name].ipv6 for name in ("node-a", "pod-a1", "pod-b1"))
CLUSTER_IP = "fd00:10:96::1"  # resembles the pods' addresses more than the node's does
NODE_PORT = 30080
UPLINK = "fd00:99::10"  # the address of a node whose uplink has a link-local address only


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as created:
        yield created


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The manifests of one Service with a NodePort and a pod on node A."""
    ports = (Port(node_port=NODE_PORT),)
    created = Folder(tmp_path)
    slices = [endpoint_slice("web", ["pod-a1"], ports, version=version) for version in (4, 6)]
    created.write("web", [service("web", ["10.96.0.1", CLUSTER_IP], ports), *slices])
    return created


def link_local(namespace: Namespace, interface: str) -> str:
    """Return the link-local address of *interface*."""
    return (
        run(namespace, "ip", "-6", "-o", "address", "show", "dev", interface, "scope", "link").split()[3].split("/")[0]
    )


def give_bridge_link_local_only(cluster: Cluster) -> None:
    """Give the interface of node A towards its pods a link-local address only, as Calico does."""
    network = "fd00:10:244:1::/64"
    shell(cluster.node_a, f"ip address del fd00:10:244:1::1/64 dev cni0; ip route add {network} dev cni0")
    for pod in ("pod-a1", "pod-a2"):
        shell(cluster[pod], f"ip -6 route replace default via {link_local(cluster.node_a, 'cni0')} dev eth0")


def give_uplink_link_local_only(cluster: Cluster) -> None:
    """Give node A's uplink a link-local address only, and the node's address to `lo`, as BGP unnumbered does."""
    router, node = link_local(cluster["router"], "lan"), link_local(cluster.node_a, "eth0")
    shell(
        cluster.node_a,
        f"ip address add {UPLINK}/128 dev lo; ip address del {NODE}/64 dev eth0; "
        f"ip -6 route replace default via {router} dev eth0",
    )
    shell(cluster["router"], f"ip -6 route add {UPLINK}/128 via {node} dev lan")


def bind_as_kube_proxy(node: Namespace, *addresses: str) -> None:
    """Bind *addresses* as kube-proxy does."""
    shell(node, "ip link add kube-ipvs0 type dummy")
    for address in addresses:
        shell(node, f"ip address add {address}/128 dev kube-ipvs0")


def seen_by(cluster: Cluster, client: str, address: str, port: int = 8080) -> str:
    """Return the client's address as the server at *address* sees it."""
    return query(cluster[client], "tcp", address, port).peer_address


def test_pods_see_the_node_s_address_where_their_interface_has_none(cluster: Cluster, folder: Folder) -> None:
    give_bridge_link_local_only(cluster)
    bind_as_kube_proxy(cluster.node_a, CLUSTER_IP)
    assert seen_by(cluster, "node-a", POD_HERE) == CLUSTER_IP  # the fault, as kube-proxy leaves it
    with ip_monitor(cluster.node_a, "address") as notified, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert seen_by(cluster, "node-a", POD_HERE) == NODE
        assert seen_by(cluster, "outside", NODE, NODE_PORT) == NODE  # masqueraded
        assert query(cluster.node_a, "tcp", CLUSTER_IP, 80).name == "pod-a1"
        assert seen_by(cluster, "pod-a2", CLUSTER_IP, 80) == BY_NAME["pod-a2"].ipv6
        shell(cluster.node_a, "ip address add 192.0.2.99/32 dev lo")
        changes = "".join(notified("192.0.2.99"))
    assert CLUSTER_IP in changes
    assert "Deleted" not in changes  # changed in place


def test_connections_to_outside_leave_from_the_node_s_address(cluster: Cluster, folder: Folder) -> None:
    give_bridge_link_local_only(cluster)  # its address would resemble the destination even more
    give_uplink_link_local_only(cluster)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert seen_by(cluster, "node-a", POD_THERE) == UPLINK
        assert seen_by(cluster, "pod-a2", CLUSTER_IP, 80) == BY_NAME["pod-a2"].ipv6


@pytest.fixture
def adapter() -> Iterator[tuple[Namespace, AddressAdapter]]:
    """An adapter in a namespace of its own, with kube-ipvs0."""
    with new_namespace("d1") as namespace:
        created = AddressAdapter()
        with namespace.inside():
            assert not created.apply([Step("add", Link(IPVS_DEVICE))])
        yield namespace, created
        created.close()


def addresses_on_device(namespace: Namespace) -> dict[str, str]:
    """Return what `ip` prints of each address on kube-ipvs0."""
    lines = run(namespace, "ip", "-o", "address", "show", "dev", IPVS_DEVICE).splitlines()
    return {line.split()[3].split("/")[0]: " ".join(line.split()[4:]) for line in lines}


def test_ipv6_addresses_are_deprecated_for_ever_and_ipv4_ones_as_before(
    adapter: tuple[Namespace, AddressAdapter],
) -> None:
    namespace, kernel = adapter
    rows: Rows = {Address("10.96.0.1"): None, Address(CLUSTER_IP): None}
    assert not kernel.apply([Step("add", key) for key in rows])
    assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, **rows}
    printed = addresses_on_device(namespace)
    assert "deprecated" in printed[CLUSTER_IP]
    assert "tentative" not in printed[CLUSTER_IP]
    assert "valid_lft forever preferred_lft 0sec" in printed[CLUSTER_IP]
    assert "valid_lft forever preferred_lft forever" in printed["10.96.0.1"]


@pytest.mark.parametrize("length", [128, 64])
def test_address_of_another_program_is_read_as_different_and_changed_in_place(
    adapter: tuple[Namespace, AddressAdapter], length: int
) -> None:
    namespace, kernel = adapter
    for address in (f"{CLUSTER_IP}/{length}", "10.96.0.1/32"):
        shell(namespace, f"ip address add {address} dev {IPVS_DEVICE}")
    found = PREFERRED if length == 128 else AddressSpec(preferred=True, prefix_length=64)
    assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, Address(CLUSTER_IP): found, Address("10.96.0.1"): None}
    assert not kernel.apply([Step("update", Address(CLUSTER_IP), None, found)])
    assert kernel.read(LINK)[Address(CLUSTER_IP)] is None
    assert "valid_lft forever preferred_lft 0sec" in addresses_on_device(namespace)[CLUSTER_IP]
    assert not kernel.apply([Step("delete", Address(CLUSTER_IP))])
    assert CLUSTER_IP not in addresses_on_device(namespace)


def test_addresses_of_a_network_are_replaced_by_themselves_and_never_missing(
    adapter: tuple[Namespace, AddressAdapter],
) -> None:
    namespace, kernel = adapter
    for address in ("10.96.0.1/24", "10.96.0.2/24", "10.96.0.3/16", "10.96.0.3/32", "10.96.0.9/24"):
        shell(namespace, f"ip address add {address} dev {IPVS_DEVICE}")
    networks = {f"10.96.0.{number}": length for number, length in ((1, 24), (2, 24), (3, 16), (9, 24))}
    found: Rows = {Address(address): AddressSpec(prefix_length=length) for address, length in networks.items()}
    assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, **found}
    steps = [Step("delete", Address("10.96.0.1"), None, found[Address("10.96.0.1")])]  # the first of its network
    steps += [Step("update", key, None, found[key]) for key in list(found)[1:]]
    with ip_monitor(namespace, "address") as notified:
        assert not kernel.apply(steps)
        assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, **dict.fromkeys(list(found)[1:])}
        shell(namespace, f"ip address add 10.96.0.99/32 dev {IPVS_DEVICE}")
        events = [parsed(line) for line in notified("10.96.0.99/32")]
    bound = {address: {length} for address, length in networks.items()}
    bound["10.96.0.3"].add(32)
    for deleted, address, length in events:
        (bound[address].discard if deleted else bound[address].add)(length)
        assert bound[address] or address == "10.96.0.1", events
    assert bound == {"10.96.0.1": set(), "10.96.0.2": {32}, "10.96.0.3": {32}, "10.96.0.9": {32}}


def parsed(notification: str) -> tuple[bool, str, int]:
    """Return whether *notification* is that of a deleted address, the address, and its prefix length."""
    words = notification.split()
    address, _, length = next(word for word in words if "/" in word).partition("/")
    return "Deleted" in words, address, int(length)


def test_ipv6_addresses_are_bound_again_where_the_mtu_was_too_small(adapter: tuple[Namespace, AddressAdapter]) -> None:
    namespace, kernel = adapter
    rows: Rows = {Address("10.96.0.1"): None, Address(CLUSTER_IP): None}
    assert not kernel.apply([Step("add", key) for key in rows])
    shell(namespace, f"ip link set {IPVS_DEVICE} mtu 1279")
    assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, Address("10.96.0.1"): None}
    assert not kernel.apply([Step("add", Address(CLUSTER_IP))])
    assert kernel.read(LINK) == {Link(IPVS_DEVICE): None, **rows}
    assert "mtu 1500" in run(namespace, "ip", "link", "show", IPVS_DEVICE)


def test_address_that_appeared_meanwhile_is_deprecated_by_adding_it(adapter: tuple[Namespace, AddressAdapter]) -> None:
    namespace, kernel = adapter
    shell(namespace, f"ip address add {CLUSTER_IP}/128 dev {IPVS_DEVICE}")
    assert not kernel.apply([Step("add", Address(CLUSTER_IP))])
    assert kernel.read(LINK)[Address(CLUSTER_IP)] is None
