"""Direct server return on a real kernel: two nodes that hand on to each other, and answer clients themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from lab.client import query
from lab.echo import Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(280)]

EXACT = "--policies=exact"
NODES = ("node-a", "node-b")
PODS_OF = {"node-a": ("10.244.1.0/24", "fd00:10:244:1::/64"), "node-b": ("10.244.2.0/24", "fd00:10:244:2::/64")}
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
VERSIONS = (4, 6)
PATIENCE_S = 20.0
TIMES = 12
SILENCE_S = 1.0


class Served(NamedTuple):
    """A Service with a way to hand on, by whose number its addresses are known."""

    name: str
    number: int
    pods: tuple[str, ...]
    way: str  # "": none

    def vip(self, version: int) -> str:
        return f"203.0.113.{self.number}" if version == 4 else f"2001:db8:f::{self.number}"

    def objects(self) -> list[Object]:
        ports = [Port(80, p.upper(), 8080) for p in PROTOCOLS]
        both = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
        addresses = [f"10.96.7.{self.number}", f"fd00:10:96::7:{self.number}"]
        built = service(self.name, addresses, ports, type="LoadBalancer", externalTrafficPolicy="Local", **both)
        built["status"] = {"loadBalancer": {"ingress": [{"ip": self.vip(version)} for version in VERSIONS]}}
        if self.way:
            built["metadata"]["annotations"] = {"kubeproxy-py.io/dsr": self.way}
        return [built, *(endpoint_slice(self.name, self.pods, ports, version=version) for version in VERSIONS)]


def node(name: str) -> Object:
    machine = BY_NAME[name]
    addresses = [{"type": "InternalIP", "address": address} for address in (machine.ipv4, machine.ipv6)]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": list(PODS_OF[name])},
        "status": {"addresses": addresses},
    }


SPREAD = Served("spread", 1, ("pod-a1", "pod-b1", "pod-b2"), "tunnel")
FAR = Served("far", 2, ("pod-b1", "pod-b3"), "tunnel")
NOBODY = Served("nobody", 3, (), "tunnel")


class Nodes:
    """Both nodes with an agent on each, within the `with`."""

    def __init__(self, cluster: Cluster, folder: Folder) -> None:
        self.cluster, self.folder = cluster, folder
        self._stack = ExitStack()
        self.agents = {
            name: AgentProcess(cluster[name], folder.path, EXACT, "--hostname-override", name) for name in NODES
        }

    def __enter__(self) -> Nodes:
        with ExitStack() as stack:
            for agent in self.agents.values():
                stack.enter_context(agent)
            for agent in self.agents.values():
                agent.wait_synced()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, *services: Served) -> None:
        self.folder.write("all", [*map(node, NODES), *(each for served in services for each in served.objects())])

    def ask(self, served: Served, protocol: Protocol, version: int, timeout_s: float = PATIENCE_S) -> tuple[str, str]:
        answer = query(self.cluster["outside"], protocol, served.vip(version), 80, timeout_s)
        return answer.name, answer.peer_address

    def answers(self, served: Served, protocol: Protocol, version: int) -> Counter[str]:
        """Ask TIMES times from outside, and return who answered; each saw the client's address."""
        outside = BY_NAME["outside"].ipv4 if version == 4 else BY_NAME["outside"].ipv6
        found: Counter[str] = Counter()
        for _ in range(TIMES):
            name, source = self.ask(served, protocol, version)
            assert source == outside
            found[name] += 1
        return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", [*map(node, NODES), *(each for served in (SPREAD, FAR, NOBODY) for each in served.objects())])
    with serving_cluster() as cluster, Nodes(cluster, folder) as both:
        yield both


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_endpoint_answers_with_its_share_and_sees_the_client(
    nodes: Nodes, protocol: Protocol, version: int
) -> None:
    found = nodes.answers(SPREAD, protocol, version)
    print(run(nodes.cluster["node-a"], "ipvsadm", "-Ln", "--stats"))
    assert found == Counter(dict.fromkeys(SPREAD.pods, TIMES // 3))
