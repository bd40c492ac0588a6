"""A hostPort jump of a CNI plugin that is put before ours while the agent runs: Services get their packets back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import query
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service

pytestmark = pytest.mark.kernel

PORT = 8443  # of the Services, and the hostPort of pod-a2
ADDRESSES = {"IPv4": ("10.96.0.10", "203.0.113.9"), "IPv6": ("fd00:10:96::10", "2001:db8::9")}
CLIENTS = ("pod-a1", "outside", "node-a")
PERIOD_S = 1
_COMMANDS = {"IPv4": "iptables", "IPv6": "ip6tables"}
_POD = BY_NAME["pod-a2"]
_TARGETS = {"IPv4": f"{_POD.ipv4}:8080", "IPv6": f"[{_POD.ipv6}]:8080"}
LOCAL_JUMP = "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT"


def portmap_chains(family: str) -> str:
    """Return the chains of CNI's portmap for a hostPort of pod-a2."""
    nat = f"{_COMMANDS[family]} -t nat"
    return f"""
        {nat} -N CNI-DN-1; {nat} -A CNI-DN-1 -p tcp --dport {PORT} -j DNAT --to-destination {_TARGETS[family]}
        {nat} -N CNI-HOSTPORT-DNAT; {nat} -A CNI-HOSTPORT-DNAT -p tcp --dport {PORT} -j CNI-DN-1
    """


def insert_first(family: str) -> str:
    nat = f"{_COMMANDS[family]} -t nat"
    return f"{nat} -I PREROUTING {LOCAL_JUMP}; {nat} -I OUTPUT {LOCAL_JUMP}\n"


def chain(cluster: Cluster, family: str, name: str) -> list[str]:
    return shell(cluster.node_a, f"{_COMMANDS[family]} -t nat -S {name}").splitlines()[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    ports = [Port(PORT, "TCP", 8080)]
    web = service("web", [ADDRESSES[family][0] for family in ADDRESSES], ports)
    web["spec"]["externalIPs"] = [ADDRESSES[family][1] for family in ADDRESSES]
    folder.write("all", [web, *(endpoint_slice("web", ["pod-b1"], ports, version=version) for version in (4, 6))])
    return folder


@pytest.fixture
def node(cluster: Cluster, folder: Folder) -> Iterator[Cluster]:
    yield cluster
    run(cluster.node_a, *command_line(folder.path, "cleanup"))
    for command in _COMMANDS.values():
        shell(cluster.node_a, f"{command} -t nat -F; {command} -t nat -X")


def who_answers(cluster: Cluster, family: str) -> dict[tuple[str, str], str]:
    return {
        (client, address): query(cluster[client], "tcp", address, PORT).name
        for client in CLIENTS
        for address in ADDRESSES[family]
    }


def all_from(pod: str, family: str) -> dict[tuple[str, str], str]:
    return {(client, address): pod for client in CLIENTS for address in ADDRESSES[family]}


@pytest.mark.parametrize("family", ADDRESSES)
def test_a_jump_put_before_ours_while_the_agent_runs_is_overtaken_within_a_period(
    node: Cluster, folder: Folder, family: str
) -> None:
    shell(node.node_a, portmap_chains(family))
    with AgentProcess(node.node_a, folder.path, f"--ipvs-sync-period={PERIOD_S}s") as agent:
        agent.wait_synced()
        shell(node.node_a, insert_first(family))  # at once: the next compare after this one may come much later
        moved = agent.wait_for("Moved our jump above")
        assert 'behind="CNI-HOSTPORT-DNAT"' in moved
        wait_until(lambda: "KUBE-SERVICES" in chain(node, family, "OUTPUT")[0])
        wait_until(lambda: "KUBE-SERVICES" in chain(node, family, "PREROUTING")[0])
        assert who_answers(node, family) == all_from("pod-b1", family)
    for name in ("PREROUTING", "OUTPUT"):  # the hostPort still works, by its own jump, and each jump is there once
        rules = chain(node, family, name)
        assert (len(rules), rules[1]) == (2, f"-A {name} {LOCAL_JUMP}")
    host_port = {"IPv4": "192.168.3.10", "IPv6": "fd00:3::10"}[family]
    assert query(node["outside"], "tcp", host_port, PORT).name == "pod-a2"


def test_a_restart_overtakes_a_jump_that_was_put_before_ours_meanwhile(node: Cluster, folder: Folder) -> None:
    shell(node.node_a, portmap_chains("IPv4"))
    with AgentProcess(node.node_a, folder.path) as agent:
        agent.wait_synced()
    shell(node.node_a, insert_first("IPv4"))
    assert "pod-a2" in who_answers(node, "IPv4").values()
    with AgentProcess(node.node_a, folder.path) as agent:
        agent.wait_synced()
        assert who_answers(node, "IPv4") == all_from("pod-b1", "IPv4")
    with AgentProcess(node.node_a, folder.path) as agent:
        assert "nothing to do" in agent.wait_synced()


def test_rules_of_administrators_stay_above_our_jump(node: Cluster, folder: Folder) -> None:
    with AgentProcess(node.node_a, folder.path) as agent:
        agent.wait_synced()
    shell(
        node.node_a,
        "iptables -t nat -N ADMIN; iptables -t nat -I PREROUTING -i lo -j ACCEPT;"
        "iptables -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT -p icmp;"
        "iptables -t nat -I PREROUTING -p tcp --dport 22 -m addrtype --dst-type LOCAL -j ADMIN;"
        "iptables -t nat -I PREROUTING -j ADMIN",
    )
    before = chain(node, "IPv4", "PREROUTING")
    with AgentProcess(node.node_a, folder.path) as agent:
        assert "nothing to do" in agent.wait_synced()
    assert chain(node, "IPv4", "PREROUTING") == before
