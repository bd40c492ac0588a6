"""External addresses that belong to somebody else: the API server, gateways and machines on the node's links.

Node B stands for the control plane, `outside` for a third node or any other machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.client import query
from lab.echo import EchoServers, Listener
from lab.network import BY_NAME, LAN_GATEWAYS, Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.deploy.manifests import DEPLOY, objects_of
from tests.e2e.agent_process import FLAGS, AgentProcess, wait_until
from tests.e2e.control_plane import KUBECONFIG, NODE
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, endpoint_slice, service, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

NODE_A, NODE_B, OUTSIDE = (BY_NAME[name].ipv4 for name in ("node-a", "node-b", "outside"))
NODE_A_6, NODE_B_6, OUTSIDE_6 = (BY_NAME[name].ipv6 for name in ("node-a", "node-b", "outside"))
API_PORT = 6443
SSH = 22  # a server of each machine
ANNOUNCED, ANNOUNCED_6 = "192.168.3.200", "fd00:3::200"
FREE, FREE_6, ELSEWHERE = "192.168.3.201", "fd00:3::201", "203.0.113.7"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as created:
        machines = ("node-b", "outside", "router")
        with EchoServers([Listener(name, created[name], "tcp", SSH) for name in machines]):
            yield created


def bound(cluster: Cluster) -> set[str]:
    """Return the addresses on kube-ipvs0."""
    lines = run(cluster.node_a, "ip", "-o", "address", "show", "dev", "kube-ipvs0").splitlines()
    return {line.split()[3].split("/")[0] for line in lines}


def external(name: str, number: int, *addresses: str) -> list[Object]:
    """Return a Service of both families with these externalIPs and a pod on each node."""
    cluster_ips = [f"10.96.82.{number}", f"fd00:10:96::82:{number}"]
    slices = [endpoint_slice(name, ["pod-a1", "pod-b1"], version=version) for version in (4, 6)]
    return [service(name, cluster_ips, externalIPs=list(addresses)), *slices]


class ControlPlane:
    """An API server on node B, as the agents of all nodes reach it."""

    def __init__(self, cluster: Cluster, authority: Authority, folder: Path) -> None:
        with cluster["node-b"].inside():
            self.server = ApiServer(API_PORT, NODE_B, tls=authority.server_context(address=NODE_B))
        token = folder / "token"
        token.write_text("token\n")
        self.kubeconfig = folder / "kubeconfig"
        url = f"https://{NODE_B}:{API_PORT}"
        self.kubeconfig.write_text(KUBECONFIG.format(url=url, authority=authority.file, token=token))
        self.server.start()

    def agent(self, cluster: Cluster) -> AgentProcess:
        """Return an agent that is not started yet."""
        agent = AgentProcess(cluster.node_a, Path("/nowhere"))
        agent._argv = [sys.executable, "-m", "kubeproxy_py", "run", "--kubeconfig", str(self.kubeconfig), *FLAGS]
        return agent


@pytest.fixture
def control_plane(cluster: Cluster, tmp_path: Path) -> Iterator[ControlPlane]:
    created = ControlPlane(cluster, Authority(tmp_path / "pki"), tmp_path)
    created.server.apply(NODE)
    yield created
    created.server.stop()


def service_of_service_lb() -> list[Object]:
    """Return a Service as k3s's ServiceLB completes it: with the addresses of all nodes."""
    traefik = service_with_slice("traefik", "10.96.43.1", ["pod-a1", "pod-b1"], type="LoadBalancer")
    ingress = [{"ip": address, "ipMode": "VIP"} for address in (NODE_A, NODE_B, OUTSIDE)]
    traefik[0]["status"] = {"loadBalancer": {"ingress": ingress}}
    return traefik


def test_addresses_of_all_nodes_at_a_load_balancer_cut_off_neither_api_server_nor_nodes(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    for item in service_of_service_lb():
        control_plane.server.apply(item)
    with control_plane.agent(cluster) as agent:
        agent.wait_synced()
        wait_until(lambda: any(OUTSIDE in line and "not bound" in line for line in agent.lines()))
        wait_until(lambda: bound(cluster) == {"10.96.43.1"})
        assert query(cluster.node_a, "tcp", NODE_B, SSH).name == "node-b"
        assert query(cluster["outside"], "tcp", NODE_A, 80).name in ("pod-a1", "pod-b1")
        with agent.syncing():  # the watch lives
            control_plane.server.apply(service_with_slice("late", "10.96.43.2", ["pod-a1"])[0])
        agent.stop(signal.SIGKILL)
    with control_plane.agent(cluster) as agent:  # and a restart syncs
        agent.wait_synced()
        assert "10.96.43.2" in bound(cluster)


def test_three_nodes_of_k3d_with_traefik_are_served_with_the_configuration_that_is_shipped(
    cluster: Cluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    [config_map] = objects_of(DEPLOY / "daemonset/overlays/k3d/configuration.yaml")
    kubeconfig, text = "/var/lib/kube-proxy/kubeconfig.conf", config_map["data"]["config.conf"]
    config = tmp_path / "config.conf"
    text = text.replace(kubeconfig, str(control_plane.kubeconfig))
    config.write_text(text.replace("10.42.0.0/16", "10.244.0.0/16"))
    agent = AgentProcess(cluster.node_a, Path("/nowhere"))
    agent._argv = [sys.executable, "-m", "kubeproxy_py", f"--config={config}", "--hostname-override=node-a", "-v2"]
    for name in ("node-b", "outside"):
        control_plane.server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    with agent:
        agent.wait_synced()
        before = run(cluster.node_a, "ip", "address", "show", "dev", "eth0")
        with agent.syncing():  # ServiceLB writes the addresses only when its pods run
            for item in service_of_service_lb():
                control_plane.server.apply(item)
        wait_until(lambda: any(OUTSIDE in line and "not bound" in line for line in agent.lines()))
        wait_until(lambda: bound(cluster) == {"10.96.43.1"})
        for name, address in (("node-b", NODE_B), ("outside", OUTSIDE)):  # kubelet, SSH and the API server of others
            assert query(cluster.node_a, "tcp", address, SSH).name == name
            assert query(cluster["pod-a2"], "tcp", address, SSH).name == name
        assert query(cluster["outside"], "tcp", NODE_A, 80).name in ("pod-a1", "pod-b1")
        with agent.syncing():
            control_plane.server.store.delete("services", ("shop", "traefik"))
        assert run(cluster.node_a, "ip", "address", "show", "dev", "eth0") == before
        assert query(cluster.node_a, "tcp", NODE_B, SSH).name == "node-b"


def test_api_server_s_address_that_is_bound_at_start_is_released_first(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    shell(
        cluster.node_a,
        f"ip link add kube-ipvs0 type dummy; ip address add {NODE_B}/32 dev kube-ipvs0; "
        f"ipvsadm -A -t {NODE_B}:{API_PORT} -s rr; ipset create KUBE-LOAD-BALANCER hash:ip,port; "
        f"ipset add KUBE-LOAD-BALANCER {NODE_B},tcp:{API_PORT}",
    )
    with control_plane.agent(cluster) as agent:
        agent.wait_for(r"hid the API server.*VirtualServer.*" + NODE_B)
        agent.wait_synced()
        assert NODE_B not in bound(cluster)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_gateway_s_address_is_not_bound(cluster: Cluster, folder: Folder) -> None:
    gateway, gateway_6 = LAN_GATEWAYS
    folder.write("web", external("web", 1, gateway, gateway_6))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert not bound(cluster) & set(LAN_GATEWAYS)
        for address in (gateway, gateway_6):
            agent.wait_for(rf"{address}.*not bound.*a gateway of this node")
            assert query(cluster.node_a, "tcp", address, SSH).name == "router"
            assert query(cluster["pod-a2"], "tcp", address, SSH).name == "router"


def test_address_of_a_machine_on_a_link_is_not_bound(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", external("web", 2, OUTSIDE, OUTSIDE_6))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        for address in (OUTSIDE, OUTSIDE_6):
            agent.wait_for(rf"{address}.*not bound.*the address of the machine")
            assert query(cluster.node_a, "tcp", address, SSH).name == "outside"
        assert not bound(cluster) & {OUTSIDE, OUTSIDE_6}


@pytest.fixture
def _announcing(cluster: Cluster) -> Iterator[None]:
    """Have node B answer for two addresses besides its own, as MetalLB and kube-vip do on a node; A knows node B."""
    addresses = (f"{ANNOUNCED}/32", f"{ANNOUNCED_6}/128 nodad")
    for address in addresses:
        shell(cluster["node-b"], f"ip address add {address} dev eth0")
    for address in (NODE_B, NODE_B_6):
        query(cluster.node_a, "tcp", address, SSH)
    yield
    for address in addresses:
        shell(cluster["node-b"], f"ip address del {address.split()[0]} dev eth0")


@pytest.mark.usefixtures("_announcing")
def test_address_that_a_node_announces_is_bound(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", external("web", 3, ANNOUNCED, ANNOUNCED_6))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: {ANNOUNCED, ANNOUNCED_6} <= bound(cluster))
        assert query(cluster["pod-a2"], "tcp", ANNOUNCED, 80).name in ("pod-a1", "pod-b1")


def test_address_that_nobody_has_is_bound_while_others_are_served_at_once(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", external("web", 4, FREE, FREE_6, ELSEWHERE))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert ELSEWHERE in bound(cluster)
        wait_until(lambda: {FREE, FREE_6} <= bound(cluster))
        assert query(cluster["outside"], "tcp", ELSEWHERE, 80).name in ("pod-a1", "pod-b1")


def test_address_that_is_bound_at_start_is_not_asked_for(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", external("web", 5, OUTSIDE))
    shell(cluster.node_a, f"ip link add kube-ipvs0 type dummy; ip address add {OUTSIDE}/32 dev kube-ipvs0")
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert OUTSIDE in bound(cluster)
