"""The fewest rights with which the agent works if iptables is the nft variant: any user, with NET_ADMIN and NET_RAW.

The process has no other capability and cannot gain one, cannot write below /proc/sys, and cannot open the lock of
iptables-legacy.  It works nevertheless, if root applied the sysctls before.

NET_ADMIN alone is not enough, although nf_tables needs no more: to write or print a rule with a set, iptables requests
the set's index from the kernel by a raw socket, in both variants (iptables, extensions/libxt_set.h).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.client import query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import run
from tests.e2e.least_rights import PLACE, USER, LeastRights, with_rights
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice
from tests.e2e.nft_node import PATIENCE_S, first_sync, on_qemu
from tests.e2e.packets_table import CLUSTER_IP, CLUSTER_IP_6, NODE_PORT, PORT
from tests.e2e.serving import serving_cluster
from tests.host_tools.recorded_tables import private_network

NET_ADMIN, NET_RAW = 1 << 12, 1 << 13  # linux/capability.h
ADDED_LATER = "10.96.0.11"
_PODS = ("pod-a1", "pod-b1")
_PORTS = [Port(PORT, "TCP", 8080, NODE_PORT)]

_RULES = {
    "of a set": "*nat\n:KUBE-TRIED - [0:0]\n-A KUBE-TRIED -m set --match-set KUBE-TRIED dst -j RETURN\nCOMMIT\n",
    "of none": "*nat\n:KUBE-TRIED - [0:0]\n-A KUBE-TRIED -j RETURN\nCOMMIT\n",
}


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """Replace the fixture of conftest.py: the tests of iptables alone also run on hosts without IPVS."""


@pytest.mark.lab
@pytest.mark.parametrize(
    ("capabilities", "rule", "error"),
    [
        (["net_admin"], "of none", ""),
        (["net_admin"], "of a set", "Can't open socket to ipset"),
        (["net_admin", "net_raw"], "of a set", ""),
    ],
)
def test_rule_with_a_set_needs_net_raw(capabilities: list[str], rule: str, error: str) -> None:
    with private_network():
        subprocess.run(["ipset", "create", "KUBE-TRIED", "hash:ip"], check=True)
        words = [*with_rights(*capabilities), "iptables-nft-restore", "--noflush"]
        done = subprocess.run(words, input=_RULES[rule], text=True, capture_output=True, check=False)
    assert (done.returncode != 0, error in done.stderr) == (bool(error), True), done.stderr


class Running(NamedTuple):
    cluster: Cluster
    folder: Folder
    agent: AgentProcess


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Yield the agent after its first sync on a node where only the sysctls were applied."""
    folder = Folder(PLACE / "manifests")  # only root can read pytest's own directories
    folder.path.mkdir(parents=True)
    web = service("web", [CLUSTER_IP, CLUSTER_IP_6], _PORTS)
    folder.write("web", [web, *(endpoint_slice("web", _PODS, _PORTS, version=version) for version in (4, 6))])
    with serving_cluster() as cluster:
        run(cluster.node_a, *command_line(folder.path, "run", "--init-only"))
        namespace = LeastRights(cluster.node_a)
        with AgentProcess(namespace, folder.path) as agent:
            first_sync(agent)
            yield Running(cluster, folder, agent)


@on_qemu
def test_process_has_two_capabilities_and_can_gain_none(running: Running) -> None:
    lines = Path(f"/proc/{running.agent.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    sets = {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == dict.fromkeys(sets, NET_ADMIN | NET_RAW)
    assert status["NoNewPrivs"] == "1"


@on_qemu
def test_process_cannot_write_sysctls(running: Running) -> None:
    mounts = Path(f"/proc/{running.agent.pid}/mounts").read_text().splitlines()
    (options,) = (line.split()[3] for line in mounts if line.split()[1] == "/proc/sys")
    assert "ro" in options.split(",")


@on_qemu
def test_first_sync_logs_no_error(running: Running) -> None:
    assert [line for line in running.agent.lines() if line.startswith("E")] == []


@on_qemu
def test_rules_are_in_nf_tables(running: Running) -> None:
    assert "chain KUBE-SERVICES" in run(running.cluster.node_a, "nft", "list", "table", "ip", "nat")


@on_qemu
@pytest.mark.parametrize("client", ["pod-a2", "outside"])
@pytest.mark.parametrize("address", [CLUSTER_IP, CLUSTER_IP_6])
def test_cluster_ip_is_answered(running: Running, client: str, address: str) -> None:
    assert _answerers(running, client, address, PORT) == set(_PODS)


@on_qemu
@pytest.mark.parametrize("address", ["192.168.3.10", "fd00:3::10"])
def test_node_port_is_answered(running: Running, address: str) -> None:
    assert _answerers(running, "outside", address, NODE_PORT) == set(_PODS)


@on_qemu
def test_service_added_later_is_answered(running: Running) -> None:
    since = len(running.agent.lines())
    running.folder.write("late", service_with_slice("late", ADDED_LATER, _PODS))
    wait_until(
        lambda: any('"Synced ' in line for line in running.agent.lines()[since:]),
        lambda: "\n".join(running.agent.lines()[since:]),
        timeout_s=PATIENCE_S,
    )
    assert _answerers(running, "outside", ADDED_LATER, PORT) == set(_PODS)


def _answerers(running: Running, client: str, address: str, port: int) -> set[str]:
    """Return the pods that answer as many requests as there are pods: with rr all of them."""
    return {query(running.cluster[client], "tcp", address, port, timeout_s=5.0).name for _ in _PODS}
