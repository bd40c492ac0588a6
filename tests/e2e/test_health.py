"""Health on a real node: the kubelet's probe, a load balancer while a Service shrinks, a node that is to go."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.ask import Refused
from lab.namespace import Namespace, new_namespace
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, backed, endpoint_slice, service
from tests.e2e.probing import HEALTHZ, METRICS, Probe, get

pytestmark = pytest.mark.kernel

NODE_A = BY_NAME["node-a"]
ADDRESSES = (NODE_A.ipv4, NODE_A.ipv6)
CLUSTER_IPS = ("10.96.70.1", "fd00:10:96::70")
# With two periods of patience, a sync that hangs is found out after 2 s.
FLAGS = ("--ipvs-sync-period=1s",)
XTABLES_LOCK = Path("/run/xtables.lock")


def node(taints: tuple[str, ...] = (), **metadata: Any) -> Object:
    """The Node that we are on."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_A.name, **metadata},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"} for taint in taints]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in ADDRESSES]},
    }


def balanced(
    port: int, *pods: str, name: str = "shop-front", cluster_ips: tuple[str, ...] = CLUSTER_IPS
) -> list[Object]:
    """A load balancer's Service with externalTrafficPolicy Local, and *pods* behind it in the families it has."""
    spec: Object = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}
    slices = [endpoint_slice(name, pods, version=version) for version in (4, 6)[: len(cluster_ips)]]
    return [service(name, cluster_ips, **spec), *slices]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("manifests"))
    made.put("node", [node()])
    made.put("web", backed("web", "10.96.0.10", ["pod-a1"]))
    return made


@pytest.fixture(scope="module")
def agent(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    with AgentProcess(cluster.node_a, folder.path, *FLAGS) as made:
        made.wait_synced()
        yield made


def health(cluster: Cluster, path: str) -> Probe:
    """What the kubelet hears, which asks from the node itself."""
    return get(cluster.node_a, NODE_A.ipv4, HEALTHZ, path)


def codes(cluster: Cluster) -> tuple[int, int]:
    """Of /healthz and of /livez."""
    return health(cluster, "/healthz").status, health(cluster, "/livez").status


def weights(cluster: Cluster, port: int) -> list[tuple[int, str]]:
    """What a load balancer outside hears of this node, in each family."""
    return [get(cluster["outside"], address, port).weight for address in ADDRESSES]


def test_the_kubelets_probe_is_answered_at_every_address(cluster: Cluster, agent: AgentProcess) -> None:
    for address in (*ADDRESSES, "127.0.0.1", "::1"):
        probe = get(cluster.node_a, address, HEALTHZ, "/livez")
        assert probe.status == 200
        assert {family: state["healthy"] for family, state in probe.json["status"].items()} == {
            "IPv4": True,
            "IPv6": True,
        }


def test_a_load_balancer_sees_the_last_local_endpoint_go_and_come_back(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    port = 30110
    for pods, wanted in (
        (("pod-a1", "pod-a2", "pod-b1"), (200, "2")),
        (("pod-a2", "pod-b1"), (200, "1")),
        (("pod-b1",), (503, "0")),
        (("pod-a1", "pod-b1"), (200, "1")),
    ):
        folder.put("front", balanced(port, *pods))
        wait_until(lambda wanted=wanted: heard(cluster, port) == [wanted] * 2)  # type: ignore[misc]
    body = get(cluster["outside"], NODE_A.ipv4, port, "/any/path").json
    assert body == {
        "service": {"namespace": "shop", "name": "shop-front"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,
    }
    folder.drop("front")
    wait_until(lambda: heard(cluster, port) == [])


def heard(cluster: Cluster, port: int) -> list[tuple[int, str]]:
    """As ``weights``; empty where nobody listens, or no longer: who comes in at that moment is cut off."""
    try:
        return weights(cluster, port)
    except (Refused, ConnectionError):
        return []


def test_a_port_that_changes_is_closed_and_opened_anew(cluster: Cluster, agent: AgentProcess, folder: Folder) -> None:
    for port, other in ((30111, 30112), (30112, 30111)):
        folder.put("front", balanced(port, "pod-a1"))
        wait_until(lambda port=port: heard(cluster, port) == [(200, "1")] * 2)  # type: ignore[misc]
        assert heard(cluster, other) == []
    folder.drop("front")


def test_load_balancers_are_let_in_where_the_firewall_is_shut(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    folder.put("front", balanced(30113, "pod-a1"))
    wait_until(lambda: heard(cluster, 30113) == [(200, "1")] * 2)
    run(cluster.node_a, "iptables", "-P", "INPUT", "DROP")
    try:
        assert get(cluster["outside"], NODE_A.ipv4, 30113).status == 200
    finally:
        run(cluster.node_a, "iptables", "-P", "INPUT", "ACCEPT")
    folder.drop("front")


@pytest.mark.parametrize(
    "leaving",
    [
        node(("ToBeDeletedByClusterAutoscaler",)),
        node(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["tainted", "deleted"],
)
def test_a_node_that_is_to_go_is_not_ready_for_traffic_but_alive(
    cluster: Cluster, agent: AgentProcess, folder: Folder, leaving: Object
) -> None:
    folder.put("front", balanced(30114, "pod-a1"))
    folder.put("node", [leaving])
    wait_until(lambda: codes(cluster) == (503, 200))
    assert health(cluster, "/healthz").json["nodeEligible"] is False
    wait_until(lambda: heard(cluster, 30114) == [(200, "1")] * 2)  # local endpoints serve until they go
    folder.put("node", [node()])
    wait_until(lambda: codes(cluster) == (200, 200))
    folder.drop("front")


def test_a_node_that_nobody_knows_is_not_ready_for_traffic_but_alive(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    folder.drop("node")
    wait_until(lambda: codes(cluster) == (503, 200))
    folder.put("node", [node()])
    wait_until(lambda: codes(cluster) == (200, 200))


@contextmanager
def rules_locked() -> Iterator[None]:
    """Nobody can write a rule within."""
    with XTABLES_LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_sync_that_gets_nowhere_is_found_out_and_forgiven_once_it_is_done(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    front = balanced(30115, "pod-a1")
    front[0]["spec"]["loadBalancerSourceRanges"] = ["192.0.2.0/24"]
    front[0]["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.70"}]}}
    folder.put("front", balanced(30115, "pod-a1"))
    wait_until(lambda: heard(cluster, 30115) == [(200, "1")] * 2)
    with rules_locked():
        folder.put("front", front)
        wait_until(lambda: codes(cluster) == (503, 503))
        assert heard(cluster, 30115) == [(503, "1")] * 2
        assert health(cluster, "/livez").json["healthy"] is False
    wait_until(lambda: codes(cluster) == (200, 200), within_s=60.0)
    assert heard(cluster, 30115) == [(200, "1")] * 2
    folder.drop("front")


def test_a_port_that_somebody_else_has_is_told_and_taken_once_it_is_free(
    cluster: Cluster, agent: AgentProcess, folder: Folder
) -> None:
    with listener(cluster.node_a, 30116):
        folder.put("front", balanced(30116, "pod-a1"))
        line = agent.wait_for("failed to start healthcheck .*shop/shop-front.* on port 30116")
        assert "Address already in use" in line
    wait_until(lambda: heard(cluster, 30116) == [(200, "1")] * 2)
    assert len([line for line in agent.lines() if "30116" in line]) == 1
    folder.drop("front")


@contextmanager
def listener(namespace: Namespace, port: int) -> Iterator[None]:
    """Somebody else has the IPv4 port."""
    with namespace.inside():
        other = socket.create_server(("0.0.0.0", port))
    with other:
        yield


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[tuple[Namespace, Folder]]:
    """A host of its own, for agents that are started in odd ways."""
    made = Folder(tmp_path)
    made.put("node", [node()])
    namespace = new_namespace("alone")
    yield namespace, made
    namespace.close()


def test_a_server_without_its_port_comes_up_once_it_is_free(alone: tuple[Namespace, Folder]) -> None:
    namespace, folder = alone
    with ExitStack() as stack:
        with listener(namespace, HEALTHZ):
            agent = stack.enter_context(AgentProcess(namespace, folder.path))
            agent.wait_for("the health server can't listen at 0.0.0.0:10256.*Address already in use")
            agent.wait_synced()
        agent.wait_for("the health server listens at 0.0.0.0:10256 now")
        assert get(namespace, "127.0.0.1", HEALTHZ, "/livez").status == 200


@pytest.mark.parametrize(("port", "server"), [(HEALTHZ, "health"), (METRICS, "metrics")])
def test_with_bind_address_hard_fail_a_server_without_its_port_ends_the_start(
    alone: tuple[Namespace, Folder], port: int, server: str
) -> None:
    namespace, folder = alone
    with listener(namespace, port), AgentProcess(namespace, folder.path, "--bind-address-hard-fail") as agent:
        agent.wait_for(
            f"the {server} server can't listen at .*:{port}: Address already in use, and bindAddressHardFail"
        )
        wait_until(lambda: not agent.is_running())


def test_health_can_be_turned_off(alone: tuple[Namespace, Folder]) -> None:
    namespace, folder = alone
    with AgentProcess(namespace, folder.path, "--healthz-port=0") as agent:
        agent.wait_synced()
        assert get(namespace, "127.0.0.1", METRICS, "/proxyMode").body == b"ipvs"
        with pytest.raises(Refused):
            get(namespace, "127.0.0.1", HEALTHZ)


def test_ports_answer_only_where_node_port_addresses_says_and_follow_new_addresses(
    alone: tuple[Namespace, Folder],
) -> None:
    namespace, folder = alone
    run(namespace, "ip", "address", "add", "172.16.9.1/32", "dev", "lo")
    folder.put("front", balanced(30130, "pod-a1"))
    with AgentProcess(namespace, folder.path, "--nodeport-addresses=10.9.0.0/16") as agent:
        agent.wait_synced()
        run(namespace, "ip", "address", "add", "10.9.0.1/32", "dev", "lo")
        wait_until(lambda: answers(namespace, "10.9.0.1", 30130))
        assert get(namespace, "10.9.0.1", 30130).weight == (200, "1")
        assert answers(namespace, "::1", 30130), "no network of the family means everywhere"
        assert not answers(namespace, "172.16.9.1", 30130)
        run(namespace, "ip", "address", "delete", "10.9.0.1/32", "dev", "lo")
        run(namespace, "ip", "address", "add", "10.9.0.2/32", "dev", "lo")
        wait_until(lambda: answers(namespace, "10.9.0.2", 30130))


def answers(namespace: Namespace, address: str, port: int) -> bool:
    """Whether anybody listens there."""
    try:
        return get(namespace, address, port).status in (200, 503)
    except Refused:
        return False
