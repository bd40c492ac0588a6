"""NodePorts at 127.0.0.1 and ::1, with exact policies and localhost in nodePortAddresses."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.client import QueryError, connect, query, read_answer
from lab.echo import PROTOCOLS, EchoServers, Listener, Protocol
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import NEAR, Served, objects
from tests.e2e.probing import wait_served
from tests.e2e.serving import cluster_fixture
from tests.e2e.tracing import MODES, Mode, Seen, asked, expected_programs, tracings

pytestmark = pytest.mark.kernel

cluster = cluster_fixture

NODE_PORT_ADDRESSES = "localhost,192.168.3.0/24,fd00:3::/64"
FLAGS = ("--policies=exact", f"--nodeport-addresses={NODE_PORT_ADDRESSES}")
SERVICE = Served(1, "near", NEAR, {})
LOCAL = Served(2, "near, external Local", NEAR, {"externalTrafficPolicy": "Local"})
LOOPBACK = ("127.0.0.1", "::1")
HOST_PORT = 8088
_MASKED = {"pod-a1": {"10.244.1.1", "fd00:10:244:1::1"}, "pod-b1": {"192.168.3.10", "fd00:3::10"}}
_RULES_BEFORE = "ip rule; ip -6 rule"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects([SERVICE, LOCAL]))
    return folder


@pytest.fixture(scope="module")
def agent(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    with AgentProcess(cluster.node_a, folder.path, *FLAGS) as agent:
        agent.wait_synced()
        wait_served(cluster, "node-a", LOOPBACK, LOCAL.node_port)
        yield agent


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("service", [SERVICE, LOCAL], ids=lambda served: served.name)
def test_node_port_is_served_at_the_loopback_address(
    cluster: Cluster, service: Served, address: str, protocol: Protocol
) -> None:
    answers = [query(cluster.node_a, protocol, address, service.node_port, timeout_s=10) for _ in NEAR]
    assert {answer.name for answer in answers} == set(NEAR)
    assert all(answer.peer_address in _MASKED[answer.name] for answer in answers)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("service", [SERVICE, LOCAL], ids=lambda served: served.name)
def test_trace_says_who_answers(cluster: Cluster, folder: Folder, service: Served, address: str, mode: Mode) -> None:
    flags = {"policies": "exact", "nodeport-addresses": NODE_PORT_ADDRESSES}
    request = Request("node-a", "tcp", address, service.node_port)
    answers = [send_request(cluster, request, 10.0) for _ in NEAR]
    with tracings(cluster, folder.path, **flags) as made:
        traced = made[mode].trace(asked(request))
    assert expected_programs(traced) == {Seen(answer.name, answer.peer_address) for answer in answers}


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("address", LOOPBACK)
def test_much_data_passes_both_ways(cluster: Cluster, address: str) -> None:
    sent = bytes(range(256)) * 1200
    with connect(cluster.node_a, "tcp", address, SERVICE.node_port, timeout_s=10) as sock:
        read_answer(sock)
        sock.sendall(sent)
        received = b""
        while len(received) < len(sent):
            received += sock.recv(1 << 16)
    assert received == sent


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("address", LOOPBACK)
def test_programs_of_the_host_see_the_loopback_address(cluster: Cluster, address: str) -> None:
    with EchoServers([Listener("node-a", cluster.node_a, protocol, HOST_PORT) for protocol in PROTOCOLS]):
        answers = [query(cluster.node_a, protocol, address, HOST_PORT) for protocol in PROTOCOLS]
    assert [answer.peer_address for answer in answers] == [address] * len(PROTOCOLS)


@pytest.mark.usefixtures("agent")
def test_client_bound_to_the_loopback_address_gets_no_answer(cluster: Cluster) -> None:
    with pytest.raises(QueryError):
        query(cluster.node_a, "tcp", "127.0.0.1", SERVICE.node_port, 0.5, source_address="127.0.0.1")


@pytest.mark.usefixtures("agent")
def test_node_port_is_served_at_the_address_of_the_node_too(cluster: Cluster) -> None:
    assert query(cluster["outside"], "tcp", "192.168.3.10", SERVICE.node_port).name in NEAR


def test_rules_that_another_program_deleted_come_again(cluster: Cluster, agent: AgentProcess, folder: Folder) -> None:
    agent.stop(signal.SIGKILL)  # before: it repairs them soon
    shell(cluster.node_a, "ip rule del pref 0 to 127.0.0.1 ipproto tcp dport 30000-32767")
    with pytest.raises(QueryError):
        query(cluster.node_a, "tcp", "127.0.0.1", SERVICE.node_port, 0.5)
    with AgentProcess(cluster.node_a, folder.path, *FLAGS) as again:
        again.wait_synced()
        wait_served(cluster, "node-a", LOOPBACK, SERVICE.node_port)


@pytest.mark.parametrize("flags", [[], ["--extras"]], ids=str)
def test_cleanup_leaves_the_rules_of_the_host(folder: Folder, flags: list[str]) -> None:
    with Cluster(ipv4_forward=True) as cluster:
        before = shell(cluster.node_a, _RULES_BEFORE)
        with AgentProcess(cluster.node_a, folder.path, *FLAGS) as agent:
            agent.wait_synced()
            assert shell(cluster.node_a, _RULES_BEFORE) != before
        subprocess.run(cluster.node_a.wrap([sys.executable, "-m", "kubeproxy_py", "cleanup", *flags]), check=True)
        assert shell(cluster.node_a, _RULES_BEFORE) == before
        assert shell(cluster.node_a, "ip route show table 19280; ip -6 route show table 19280") == ""


def test_without_localhost_there_are_no_rules(folder: Folder) -> None:
    with Cluster(ipv4_forward=True) as cluster:
        before = shell(cluster.node_a, _RULES_BEFORE)
        with AgentProcess(cluster.node_a, folder.path, *FLAGS) as agent:
            agent.wait_synced()
        with AgentProcess(cluster.node_a, folder.path, "--policies=exact") as agent:
            agent.wait_synced()
            assert shell(cluster.node_a, _RULES_BEFORE) == before
            with pytest.raises(QueryError):
                query(cluster.node_a, "tcp", "127.0.0.1", SERVICE.node_port, 0.5)
