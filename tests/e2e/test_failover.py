"""Failover: endpoints that do not answer get no new connections within seconds, and get some again when they answer.

Node B dies by its cable: packets to it are lost, as when a machine loses its power.  Kubernetes would withdraw its
endpoints after 40 s and more; here nothing withdraws them.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab.client import QueryError, query
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

VIP = "10.96.0.20"
EXTERNAL = "203.0.113.20"
PODS = ("pod-a1", "pod-a2", "pod-b1", "pod-b2")
WEB = Port(80, "TCP", 8080)
OPEN_PORT = Port(80, "TCP", 7777)  # no echo server listens there: the test itself does
CHECKED = {"health-check": "tcp", "health-check-interval": "1s", "health-check-threshold": "2"}
WITHIN_S = 90.0  # generous, for a busy machine
NODE: Object = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-a"},
    "spec": {"podCIDRs": ["10.244.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": BY_NAME["node-a"].ipv4}]},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as made:
        yield made


@pytest.fixture(autouse=True)
def no_server_stays(cluster: Cluster) -> Iterator[None]:
    """Delete all virtual servers after each test, failed ones too, so that the next agent adopts none set aside."""
    yield
    run(cluster.node_a, "ipvsadm", "-C")


def objects(*pods: str, ports: tuple[Port, ...] = (WEB,), settings: Mapping[str, str] = CHECKED) -> list[Object]:
    web, web_slice = service_with_slice("web", VIP, pods, ports)
    web["metadata"]["annotations"] = {f"kubeproxy-py.io/{name}": value for name, value in settings.items()}
    return [web, web_slice]


@contextmanager
def agent(cluster: Cluster, path: Path, given: list[Object], *flags: str) -> Iterator[AgentProcess]:
    folder = Folder(path)
    folder.write("web", given)
    with AgentProcess(cluster.node_a, folder.path, *flags) as started:
        started.wait_synced()
        yield started


@contextmanager
def node_b_dead(cluster: Cluster) -> Iterator[None]:
    shell(cluster["router"], "ip link set to-node-b down")
    try:
        yield
    finally:
        shell(cluster["router"], "ip link set to-node-b up")


def weights(cluster: Cluster, protocol: str = "TCP", port: int = 80, target: int = 8080) -> dict[str, int]:
    """Return the weight of each pod behind VIP."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^{protocol}  {re.escape(VIP)}:{port} .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    found = re.findall(rf"-> ([0-9.]+):{target}\s+Masq\s+(\d+)", behind[1] if behind else "")
    names = {BY_NAME[pod].ipv4: pod for pod in (*PODS, "pod-b3")}
    return {names[address]: int(weight) for address, weight in found}


def aside(cluster: Cluster, protocol: str = "TCP", port: int = 80, target: int = 8080) -> set[str]:
    return {pod for pod, weight in weights(cluster, protocol, port, target).items() if not weight}


def answers(cluster: Cluster, count: int = 1, client: str = "outside", timeout_s: float = 0.5) -> list[str]:
    """Return who answers *count* connections; "" for one without answer."""
    names = []
    for _ in range(count):
        try:
            names.append(query(cluster[client], "tcp", VIP, 80, timeout_s=timeout_s).name)
        except QueryError:
            names.append("")
    return names


def answering(cluster: Cluster) -> set[str]:
    """Return who answers twenty connections, each within a time that a busy machine needs."""
    return set(answers(cluster, 20, timeout_s=10.0))


def under_traffic(cluster: Cluster, condition: Callable[[], bool], client: str = "outside") -> None:
    """Wait until *condition*, while connections are made all the time."""

    def holds() -> bool:
        answers(cluster, client=client)
        return condition()

    wait_until(holds, lambda: f"weights are {weights(cluster)}", timeout_s=WITHIN_S)


def metric(cluster: Cluster, sample: str) -> float:
    """Return the value of *sample*, a metric with its labels; 0 if it is not served."""
    page = shell(cluster.node_a, "curl -s http://127.0.0.1:10249/metrics")
    return next((float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{sample} ")), 0.0)


def wait_answered(cluster: Cluster) -> None:
    """Wait until each endpoint has answered a connect of the agent; after that, answers to clients are enough."""
    sample = 'kubeproxy_ipvs_endpoint_checks_total{result="answered"}'
    under_traffic(cluster, lambda: metric(cluster, sample) >= len(PODS))


@contextmanager
def no_connects_from_node_a(cluster: Cluster) -> Iterator[None]:
    """Drop what node A itself sends to pods of node B, as a NetworkPolicy may; packets of clients pass."""
    rule = f"-s {BY_NAME['node-a'].ipv4} -d 10.244.2.0/24 -j DROP"
    shell(cluster["node-b"], f"iptables -I FORWARD {rule}")
    try:
        yield
    finally:
        shell(cluster["node-b"], f"iptables -D FORWARD {rule}")


@contextmanager
def pod_dead(cluster: Cluster, pod: str) -> Iterator[None]:
    """Have *pod* lose all packets, while its node goes on."""
    shell(cluster[BY_NAME[pod].plugged_into], f"ip link set {BY_NAME[pod].port} down")
    try:
        yield
    finally:
        shell(cluster[BY_NAME[pod].plugged_into], f"ip link set {BY_NAME[pod].port} up")


def test_exact_policies_endpoints_fail_over_for_pods_of_this_node_at_an_external_address(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Clients use the virtual server by firewall mark only, whose counters tell that the Service is used."""
    served = objects(*PODS)
    served[0]["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    served[0]["status"] = {"loadBalancer": {"ingress": [{"ip": EXTERNAL}]}}

    def marked() -> set[str]:
        """Return the pods of weight 0 behind the virtual server by mark."""
        listed = run(cluster.node_a, "ipvsadm", "-Ln").partition("FWM")[2]
        return {pod for pod in PODS if re.search(rf"-> {re.escape(BY_NAME[pod].ipv4)}:\d+\s+Masq\s+0\b", listed)}

    def used_until(condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            with suppress(QueryError):
                query(cluster["pod-a1"], "tcp", EXTERNAL, 80, timeout_s=0.5)
            return condition()

        wait_until(holds, lambda: run(cluster.node_a, "ipvsadm", "-Ln"), timeout_s=WITHIN_S)

    with agent(cluster, tmp_path, [NODE, *served], "--policies=exact") as started:
        sample = 'kubeproxy_ipvs_endpoint_checks_total{result="answered"}'
        used_until(lambda: metric(cluster, sample) >= len(PODS))
        with node_b_dead(cluster):
            used_until(lambda: marked() == {"pod-b1", "pod-b2"})
            started.wait_for("Set endpoints aside")
        used_until(lambda: not marked())


def test_endpoints_of_a_dead_node_get_no_connections_until_they_answer(cluster: Cluster, tmp_path: Path) -> None:
    with agent(cluster, tmp_path, objects(*PODS)) as started:
        wait_answered(cluster)
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
            assert answering(cluster) == {"pod-a1", "pod-a2"}
            started.wait_for("Set endpoints aside")
        under_traffic(cluster, lambda: not aside(cluster))
        assert answering(cluster) == set(PODS)
        started.wait_for("Endpoints get new connections again")
        assert not [line for line in started.lines() if "(drift in" in line], "it does not fight with itself"


def test_setting_is_off_by_default(cluster: Cluster, tmp_path: Path) -> None:
    with agent(cluster, tmp_path, objects(*PODS, settings={})), node_b_dead(cluster):
        lost = 0
        while lost < 8:
            lost += answers(cluster, 4).count("")
        assert aside(cluster) == set()
        assert metric(cluster, 'kubeproxy_ipvs_endpoint_checks_total{result="answered"}') == 0


def test_program_that_does_not_listen_any_more_gets_no_connections(cluster: Cluster, tmp_path: Path) -> None:
    def listener(pod: str) -> socket.socket:
        with cluster[pod].inside():
            return socket.create_server(("", OPEN_PORT.target))

    with (
        listener("pod-a1"),
        listener("pod-b1"),
        agent(cluster, tmp_path, objects("pod-a1", "pod-b1", "pod-b2", ports=(OPEN_PORT,))),
    ):
        under_traffic(cluster, lambda: aside(cluster, target=7777) == {"pod-b2"})
        with listener("pod-b2"):
            under_traffic(cluster, lambda: not aside(cluster, target=7777))
        under_traffic(cluster, lambda: aside(cluster, target=7777) == {"pod-b2"})


def test_no_more_than_half_are_set_aside_and_none_if_all_fail(cluster: Cluster, tmp_path: Path) -> None:
    with agent(cluster, tmp_path, objects("pod-a1", "pod-b1", "pod-b2")):
        wait_answered(cluster)
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: len(aside(cluster)) == 1)
            with pod_dead(cluster, "pod-a1"):
                under_traffic(cluster, lambda: not aside(cluster))
            under_traffic(cluster, lambda: len(aside(cluster)) == 1)


def test_all_services_fail_over_where_the_node_watches_nodes(cluster: Cluster, tmp_path: Path) -> None:
    ports = (WEB, Port(53, "TCP", 8091), Port(53, "UDP", 8091))
    with agent(cluster, tmp_path, objects(*PODS, ports=ports, settings={}), "--watch-nodes"):
        wait_answered(cluster)
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
            assert answering(cluster) == {"pod-a1", "pod-a2"}
            for protocol in ("TCP", "UDP"):  # UDP by its twin
                dead = {"pod-b1", "pod-b2"}
                wait_until(
                    lambda: aside(cluster, protocol=protocol, port=53, target=8091) == dead,  # noqa: B023
                    lambda: f"{protocol}: {weights(cluster, protocol, 53, 8091)}",  # noqa: B023
                    timeout_s=WITHIN_S,
                )
        under_traffic(cluster, lambda: not aside(cluster))


def test_what_is_set_aside_stays_so_over_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    given = objects(*PODS)
    folder = Folder(tmp_path)
    folder.write("web", given)
    with AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        wait_answered(cluster)
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
            first.stop(signal.SIGKILL)
            with AgentProcess(cluster.node_a, folder.path) as second:
                synced = second.wait_synced()
                assert aside(cluster) == {"pod-b1", "pod-b2"}, synced
                assert answering(cluster) == {"pod-a1", "pod-a2"}
                planned = run(cluster.node_a, *command_line(folder.path, "plan"), status=0)
                assert "0 changes" in planned or "nothing" in planned.lower(), planned
                shell(cluster["router"], "ip link set to-node-b up")
                under_traffic(cluster, lambda: not aside(cluster))


def test_restart_while_all_endpoints_fail_sets_none_aside_until_some_answer(cluster: Cluster, tmp_path: Path) -> None:
    """One may be for a moment, as the first of them that fails."""
    folder = Folder(tmp_path)
    folder.write("web", objects(*PODS))

    def none_is_aside_although_all_are_silent() -> bool:
        silent = metric(cluster, 'kubeproxy_ipvs_endpoint_checks_total{result="silent"}')
        return silent >= 4 * len(PODS) and weights(cluster) == dict.fromkeys(PODS, 1)

    with AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        wait_answered(cluster)
        with node_b_dead(cluster), pod_dead(cluster, "pod-a1"), pod_dead(cluster, "pod-a2"):
            under_traffic(cluster, none_is_aside_although_all_are_silent)
            first.stop(signal.SIGKILL)
            with AgentProcess(cluster.node_a, folder.path) as second:
                second.wait_synced()
                under_traffic(cluster, none_is_aside_although_all_are_silent)
                for pod in ("pod-a1", "pod-a2"):
                    shell(cluster[BY_NAME[pod].plugged_into], f"ip link set {BY_NAME[pod].port} up")
                under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
                assert answering(cluster) == {"pod-a1", "pod-a2"}
                second.wait_for("Set endpoints aside")


def test_clients_show_what_no_connect_can(cluster: Cluster, tmp_path: Path) -> None:
    """A NetworkPolicy lets no connect of the agent pass: nothing fails by that, but pods that clients find dead do."""
    clients = {**CHECKED, "health-check-threshold": "3"}
    with no_connects_from_node_a(cluster), agent(cluster, tmp_path, objects(*PODS, settings=clients)) as started:
        silent = 'kubeproxy_ipvs_endpoint_checks_total{result="silent"}'
        under_traffic(cluster, lambda: metric(cluster, silent) >= 8, client="pod-a1")
        assert aside(cluster) == set(), started.lines()[-20:]
        with pod_dead(cluster, "pod-b1"):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1"}, client="pod-a1")
        started.wait_for("new connections of clients got no answer while other endpoints answered")


def test_status_and_explain_name_the_reason(cluster: Cluster, tmp_path: Path) -> None:
    socket_path = str(tmp_path / "debug.sock")
    with agent(cluster, tmp_path, objects(*PODS), "--debug-socket", socket_path):
        wait_answered(cluster)
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
            at = ("--debug-socket", socket_path)
            status = run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "status", *at)
            explained = run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "explain", "shop/web", *at, status=2)
            plan = run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "plan", *at)
        assert "2, 2 set aside" in status
        assert re.search(r"endpoint 10\.244\.2\.5:8080: set aside: .* since 20", explained)
        assert "no changes" in plan.lower() or "nothing" in plan.lower(), plan
        assert metric(cluster, "kubeproxy_ipvs_endpoints_set_aside_total") >= 2


DUAL = (WEB, Port(53, "TCP", 8091), Port(53, "UDP", 8091))
VIP_6 = "fd00:10:96::20"
SLOW = {**CHECKED, "scheduler": "wrr", "slow-start": "20s"}


def dual_objects() -> list[Object]:
    """Return the Service in both families, whose endpoints start slowly."""
    made = service("web", [VIP, VIP_6], DUAL)
    made["metadata"]["annotations"] = {f"kubeproxy-py.io/{name}": value for name, value in SLOW.items()}
    return [made, *(endpoint_slice("web", PODS, DUAL, version=version) for version in (4, 6))]


def weights_6(cluster: Cluster, protocol: str = "TCP", port: int = 80) -> dict[str, int]:
    """Return the weight of each pod behind VIP_6."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^{protocol}  \[{re.escape(VIP_6)}\]:{port} .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    found = re.findall(r"-> \[([0-9a-f:]+)\]:\d+\s+Masq\s+(\d+)", behind[1] if behind else "")
    names = {BY_NAME[pod].ipv6: pod for pod in PODS}
    return {names[address]: int(weight) for address, weight in found}


def answer_6(cluster: Cluster) -> str:
    """Return who answers a connection to VIP_6; "" if none does."""
    try:
        return query(cluster["outside"], "tcp", VIP_6, 80, timeout_s=0.5).name
    except QueryError:
        return ""


def test_ipv6_endpoints_fail_over_by_what_clients_get_and_return_by_slow_start(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Clients use IPv6 only, and connects of the agent do not pass; UDP goes with the TCP port of the same number."""
    rule = f"-s {BY_NAME['node-a'].ipv6} -d fd00:10:244:2::/64 -j DROP"
    dead = {"pod-b1", "pod-b2"}
    growing: set[int] = set()

    def set_aside() -> set[str]:
        answer_6(cluster)
        return {pod for pod, weight in weights_6(cluster).items() if not weight}

    def is_whole() -> bool:
        answer_6(cluster)
        found = weights_6(cluster)
        growing.update(found[pod] for pod in dead)
        return found == dict.fromkeys(PODS, 10)

    with agent(cluster, tmp_path, dual_objects()) as started:
        wait_until(is_whole, lambda: f"{weights_6(cluster)}", timeout_s=WITHIN_S)
        shell(cluster["node-b"], f"ip6tables -I FORWARD {rule}")
        try:
            with node_b_dead(cluster):
                wait_until(lambda: set_aside() == dead, lambda: f"{weights_6(cluster)}", timeout_s=WITHIN_S)
                assert {query(cluster["outside"], "tcp", VIP_6, 80, timeout_s=10.0).name for _ in range(8)} == set(
                    PODS
                ) - dead
                assert not aside(cluster), "no client uses IPv4, and nothing is known of its endpoints"
                started.wait_for("new connections of clients got no answer while other endpoints answered")
        finally:
            shell(cluster["node-b"], f"ip6tables -D FORWARD {rule}")
        growing.clear()
        wait_until(is_whole, lambda: f"{weights_6(cluster)}, {growing}", timeout_s=2 * WITHIN_S)
        assert growing - {0, 10}, f"they did not start slowly: {growing}"


def test_udp_endpoints_of_ipv6_are_set_aside_with_their_tcp_twin(cluster: Cluster, tmp_path: Path) -> None:
    dead = {"pod-b1", "pod-b2"}

    def are_aside(protocol: str) -> bool:
        for port in (80, 53):  # both TCP ports have clients
            with suppress(QueryError):
                query(cluster["outside"], "tcp", VIP_6, port, timeout_s=0.5)
        return {pod for pod, weight in weights_6(cluster, protocol, 53).items() if not weight} == dead

    with agent(cluster, tmp_path, dual_objects()):
        with node_b_dead(cluster):
            for protocol in ("TCP", "UDP"):
                wait_until(
                    lambda: are_aside(protocol),  # noqa: B023
                    lambda: f"{weights_6(cluster, protocol, 53)}",  # noqa: B023
                    timeout_s=WITHIN_S,
                )
            assert {query(cluster["outside"], "udp", VIP_6, 53, timeout_s=10.0).name for _ in range(8)} == {
                "pod-a1:8091",
                "pod-a2:8091",
            }
        wait_until(lambda: not are_aside("UDP"), timeout_s=WITHIN_S)
