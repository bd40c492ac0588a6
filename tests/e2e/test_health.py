"""Health on a real node: the kubelet's probe, health-check node ports of a Service, a node that is being deleted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.client import Refused
from lab.namespace import Namespace, new_namespace
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.iptables_lock import rules_locked
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, endpoint_slice, service, service_with_slice
from tests.e2e.probing import HEALTHZ, METRICS, Probe, get

pytestmark = pytest.mark.kernel

NODE_A = BY_NAME["node-a"]
ADDRESSES = (NODE_A.ipv4, NODE_A.ipv6)
CLUSTER_IPS = ("10.96.70.1", "fd00:10:96::70")
# /healthz and /livez fail after two sync periods, so a sync that hangs is detected after 2 s.
FLAGS = ("--ipvs-sync-period=1s",)


def node(taints: tuple[str, ...] = (), **metadata: Any) -> Object:
    """Return the Node object of node A."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_A.name, **metadata},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"} for taint in taints]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in ADDRESSES]},
    }


def load_balancer(
    port: int, *pods: str, name: str = "shop-front", cluster_ips: tuple[str, ...] = CLUSTER_IPS
) -> list[Object]:
    """Return a LoadBalancer Service with externalTrafficPolicy Local, and its EndpointSlices with *pods*."""
    spec: Object = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}
    slices = [endpoint_slice(name, pods, version=version) for version in (4, 6)[: len(cluster_ips)]]
    return [service(name, cluster_ips, **spec), *slices]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("node", [node()])
    folder.write("web", service_with_slice("web", "10.96.0.10", ["pod-a1"]))
    return folder


@pytest.fixture(scope="module")
def agent(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    with AgentProcess(cluster.node_a, folder.path, *FLAGS) as process:
        process.wait_synced()
        yield process


def health(cluster: Cluster, path: str) -> Probe:
    """Query the health server as the kubelet does, from the node itself."""
    return get(cluster.node_a, NODE_A.ipv4, HEALTHZ, path)


def codes(cluster: Cluster) -> tuple[int, int]:
    """Return the status codes of /healthz and of /livez."""
    return health(cluster, "/healthz").status, health(cluster, "/livez").status


def weights(cluster: Cluster, port: int) -> list[tuple[int, str]]:
    """Return the answers that a load balancer outside gets from this node, one for each family."""
    return [get(cluster["outside"], address, port).weight for address in ADDRESSES]


def test_livez_is_served_on_every_node_address(cluster: Cluster, agent: AgentProcess) -> None:
    def livez(address: str) -> tuple[int, dict[str, bool]]:
        """Return the status code, and which families are healthy: none while a sync takes longer than two periods."""
        probe = get(cluster.node_a, address, HEALTHZ, "/livez")
        return probe.status, {family: state["healthy"] for family, state in probe.json["status"].items()}

    for each in (*ADDRESSES, "127.0.0.1", "::1"):
        wait_until(lambda each=each: livez(each) == (200, {"IPv4": True, "IPv6": True}))  # type: ignore[misc]


def test_health_check_node_port_follows_the_number_of_local_endpoints(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    port = 30110
    for pods, expected in (
        (("pod-a1", "pod-a2", "pod-b1"), (200, "2")),
        (("pod-a2", "pod-b1"), (200, "1")),
        (("pod-b1",), (503, "0")),
        (("pod-a1", "pod-b1"), (200, "1")),
    ):
        folder.write("front", load_balancer(port, *pods))
        wait_until(lambda expected=expected: weights_or_none(cluster, port) == [expected] * 2)  # type: ignore[misc]
    body = {
        "service": {"namespace": "shop", "name": "shop-front"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,  # not at each moment, if a sync takes longer than two periods
    }
    wait_until(lambda: get(cluster["outside"], NODE_A.ipv4, port, "/any/path").json == body)
    folder.delete("front")
    wait_until(lambda: weights_or_none(cluster, port) == [])


def weights_or_none(cluster: Cluster, port: int) -> list[tuple[int, str]]:
    """Return the `weights`, or an empty list if the port is closed or being closed."""
    try:
        return weights(cluster, port)
    except (Refused, ConnectionError):
        return []


def test_changed_health_check_node_port_closes_the_old_port_and_opens_the_new_one(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    for port, other in ((30111, 30112), (30112, 30111)):
        folder.write("front", load_balancer(port, "pod-a1"))
        wait_until(lambda port=port: weights_or_none(cluster, port) == [(200, "1")] * 2)  # type: ignore[misc]
        assert weights_or_none(cluster, other) == []
    folder.delete("front")


def test_health_check_node_port_is_accepted_although_the_input_policy_is_drop(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    folder.write("front", load_balancer(30113, "pod-a1"))
    wait_until(lambda: weights_or_none(cluster, 30113) == [(200, "1")] * 2)
    shell(cluster.node_a, "iptables -P INPUT DROP")
    try:
        wait_until(lambda: get(cluster["outside"], NODE_A.ipv4, 30113).status == 200)
    finally:
        shell(cluster.node_a, "iptables -P INPUT ACCEPT")
    folder.delete("front")


@pytest.mark.parametrize(
    "changed",
    [
        node(("ToBeDeletedByClusterAutoscaler",)),
        node(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["tainted", "deleted"],
)
def test_node_being_deleted_fails_healthz_but_not_livez(
    cluster: Cluster, agent: AgentProcess, folder: Folder, changed: Object
) -> None:
    folder.write("front", load_balancer(30114, "pod-a1"))
    folder.write("node", [changed])
    wait_until(lambda: codes(cluster) == (503, 200))
    assert health(cluster, "/healthz").json["nodeEligible"] is False
    wait_until(
        lambda: weights_or_none(cluster, 30114) == [(200, "1")] * 2
    )  # local endpoints serve until they are removed
    folder.write("node", [node()])
    wait_until(lambda: codes(cluster) == (200, 200))
    folder.delete("front")


def test_node_manifest_that_is_deleted_is_replaced_by_the_host_itself(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    folder.write("node", [node(("ToBeDeletedByClusterAutoscaler",))])
    wait_until(lambda: codes(cluster) == (503, 200))
    folder.delete("node")
    wait_until(lambda: codes(cluster) == (200, 200))
    folder.write("node", [node()])
    wait_until(lambda: codes(cluster) == (200, 200))


def test_rules_that_take_long_fail_healthz_until_they_are_written_and_never_livez(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    front = load_balancer(30115, "pod-a1")
    front[0]["spec"]["loadBalancerSourceRanges"] = ["192.0.2.0/24"]
    front[0]["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.70"}]}}
    folder.write("front", load_balancer(30115, "pod-a1"))
    wait_until(lambda: weights_or_none(cluster, 30115) == [(200, "1")] * 2)
    with rules_locked():
        folder.write("front", front)
        # Together, because on a busy machine the sync before this one may take long enough for /healthz to fail.
        wait_until(lambda: (codes(cluster), weights_or_none(cluster, 30115)) == ((503, 200), [(503, "1")] * 2))
        assert health(cluster, "/healthz").json["healthy"] is False
    wait_until(lambda: codes(cluster) == (200, 200), timeout_s=60.0)
    wait_until(lambda: weights_or_none(cluster, 30115) == [(200, "1")] * 2)
    folder.delete("front")


def test_health_check_node_port_in_use_is_logged_once_and_opened_when_it_is_free(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    with listener(cluster.node_a, 30116):
        folder.write("front", load_balancer(30116, "pod-a1"))
        line = agent.wait_for("failed to start healthcheck .*shop/shop-front.* on port 30116")
        assert "Address already in use" in line
    wait_until(lambda: weights_or_none(cluster, 30116) == [(200, "1")] * 2)
    assert len([line for line in agent.lines() if "healthcheck" in line and "30116" in line]) == 1
    folder.delete("front")


@contextmanager
def listener(namespace: Namespace, port: int) -> Iterator[None]:
    """Another process listens on the IPv4 port within the `with`."""
    with namespace.inside():
        other = socket.create_server(("0.0.0.0", port))
    with other:
        yield


@pytest.fixture
def empty_node(tmp_path: Path) -> Iterator[tuple[Namespace, Folder]]:
    """Yield a namespace without an agent, for agents with special flags, and their manifests."""
    folder = Folder(tmp_path)
    folder.write("node", [node()])
    with new_namespace("empty-node") as namespace:
        yield namespace, folder


def test_health_server_whose_port_is_in_use_starts_when_it_is_free(empty_node: tuple[Namespace, Folder]) -> None:
    namespace, folder = empty_node
    with ExitStack() as stack:
        with listener(namespace, HEALTHZ):
            agent = stack.enter_context(AgentProcess(namespace, folder.path))
            agent.wait_for(
                'Failed to start a server.* server="health" address="0.0.0.0:10256" err="Address already in use"'
            )
            agent.wait_synced()
        agent.wait_for('Started the health server after a retry.* address="0.0.0.0:10256"')
        assert get(namespace, "127.0.0.1", HEALTHZ, "/livez").status == 200


@pytest.mark.parametrize(("port", "server"), [(HEALTHZ, "health"), (METRICS, "metrics")])
def test_with_bind_address_hard_fail_a_port_in_use_ends_the_start(
    empty_node: tuple[Namespace, Folder], port: int, server: str
) -> None:
    namespace, folder = empty_node
    with listener(namespace, port), AgentProcess(namespace, folder.path, "--bind-address-hard-fail") as agent:
        agent.wait_for(
            f"Failed to start the {server} server at .*:{port}: Address already in use; .* bindAddressHardFail is set"
        )
        wait_until(lambda: not agent.is_running())


def test_health_server_can_be_disabled(empty_node: tuple[Namespace, Folder]) -> None:
    namespace, folder = empty_node
    with AgentProcess(namespace, folder.path, "--healthz-port=0") as agent:
        agent.wait_synced()
        assert get(namespace, "127.0.0.1", METRICS, "/proxyMode").body == b"ipvs"
        with pytest.raises(Refused):
            get(namespace, "127.0.0.1", HEALTHZ)


def test_health_check_node_ports_listen_on_node_port_addresses_only_and_follow_new_addresses(
    empty_node: tuple[Namespace, Folder],
) -> None:
    namespace, folder = empty_node
    run(namespace, "ip", "address", "add", "172.16.9.1/32", "dev", "lo")
    folder.write("front", load_balancer(30130, "pod-a1"))
    with AgentProcess(namespace, folder.path, "--nodeport-addresses=10.9.0.0/16") as agent:
        agent.wait_synced()
        run(namespace, "ip", "address", "add", "10.9.0.1/32", "dev", "lo")
        wait_until(lambda: answers(namespace, "10.9.0.1", 30130))
        assert get(namespace, "10.9.0.1", 30130).weight == (200, "1")
        assert answers(namespace, "::1", 30130), "without a network of the family all its addresses"
        assert not answers(namespace, "172.16.9.1", 30130)
        run(namespace, "ip", "address", "delete", "10.9.0.1/32", "dev", "lo")
        run(namespace, "ip", "address", "add", "10.9.0.2/32", "dev", "lo")
        wait_until(lambda: answers(namespace, "10.9.0.2", 30130))


def answers(namespace: Namespace, address: str, port: int) -> bool:
    """Return whether a health-check node port answers at *address*."""
    try:
        return get(namespace, address, port).status in (200, 503)
    except Refused:
        return False
