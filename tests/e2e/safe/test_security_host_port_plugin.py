"""CNI's portmap does not take the traffic of Services (CVE-2019-9946).

Its rules for hostPorts once came before those of Services, and matched every address: a pod with hostPort 443 got the
traffic to the API server's ClusterIP.  In IPVS mode ClusterIPs are local addresses, which portmap's rules match today.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

API = "10.96.0.1"
VIP = "203.0.113.120"
PORT = 443
_POD = BY_NAME["pod-a2"].ipv4  # the attacker's, with hostPort 443

PORTMAP = f"""
iptables -t nat -N CNI-HOSTPORT-DNAT
iptables -t nat -N CNI-DN-1
iptables -t nat -A CNI-DN-1 -p tcp --dport {PORT} -j DNAT --to-destination {_POD}:8091
iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports {PORT} -j CNI-DN-1
iptables -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables -t nat -I OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    api = service_with_slice("kubernetes", API, ["pod-b1"], [Port(PORT)], type="LoadBalancer")
    api[0]["status"] = {"loadBalancer": {"ingress": [{"ip": VIP}]}}
    folder.write("api", api)
    with serving_cluster() as built:
        shell(built.node_a, PORTMAP)
        with AgentProcess(built.node_a, folder.path) as agent:
            agent.wait_synced()
            yield built


@pytest.mark.parametrize(("client", "address"), [("pod-a1", API), ("node-a", API), ("outside", VIP), ("node-a", VIP)])
def test_service_address_reaches_the_service(cluster: Cluster, client: str, address: str) -> None:
    assert send_request(cluster, Request(client, "tcp", address, PORT)).name == "pod-b1"


def test_host_port_reaches_its_pod(cluster: Cluster) -> None:
    answer = send_request(cluster, Request("outside", "tcp", BY_NAME["node-a"].ipv4, PORT))
    assert answer.name == "pod-a2:8091"
