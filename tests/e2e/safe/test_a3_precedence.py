"""A Service keeps its address whoever else names it.

A ClusterIP goes before a load balancer address, that before an externalIP, that before a NodePort; of equal ones that
of the older Service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import query
from lab.echo import Protocol
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

DNS, DNS_6, API = "10.96.0.53", "fd00:10:96::53", "10.96.0.2"
SHARED = "203.0.113.7"
DNS_PORTS = [Port(53, "UDP"), Port(53, "TCP"), Port(53, "SCTP")]
API_PORTS = [Port(443, "TCP")]
LEGITIMATE, MALICIOUS = "pod-b1", "pod-b2"


def legitimate() -> list[Object]:
    """Objects whose names sort after those of `malicious`."""
    older = aged(service("old", "10.96.3.1", externalIPs=[SHARED]), "2025-01-01T00:00:00Z")
    return [
        *both_families("zz-dns", [DNS, DNS_6], LEGITIMATE, DNS_PORTS),
        *both_families("zz-api", [API], LEGITIMATE, API_PORTS),
        older,
        endpoint_slice("old", [LEGITIMATE]),
    ]


def malicious() -> list[Object]:
    taking: Object = {"sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local"}
    ingress = {"loadBalancer": {"ingress": [{"ip": API}]}}
    balanced = both_families("a-api", ["10.96.6.2"], MALICIOUS, API_PORTS, type="LoadBalancer", **taking)
    balanced[0]["status"] = ingress
    younger = aged(service("a-new", "10.96.6.3", externalIPs=[SHARED]), "2026-01-01T00:00:00Z")
    return [
        *both_families(
            "a-dns", ["10.96.6.1", "fd00:10:96::61"], MALICIOUS, DNS_PORTS, externalIPs=[DNS, DNS_6], **taking
        ),
        *balanced,
        younger,
        endpoint_slice("a-new", [MALICIOUS]),
    ]


def both_families(name: str, cluster_ips: list[str], pod: str, ports: list[Port], **spec: object) -> list[Object]:
    slices = [endpoint_slice(name, [pod], ports, version=version) for version in (4, 6)]
    return [service(name, cluster_ips, ports, **spec), *slices]


def aged(created: Object, timestamp: str) -> Object:
    created["metadata"]["creationTimestamp"] = timestamp
    return created


class Served(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def responders(self, client: str, protocol: Protocol, address: str, port: int) -> set[str]:
        return {query(self.cluster[client], protocol, address, port).name for _ in range(3)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("legitimate", legitimate())
    folder.write("malicious", malicious())
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield Served(cluster, agent, folder)


@pytest.mark.parametrize("client", ["pod-a1", "node-a", "outside"])
@pytest.mark.parametrize("protocol", ["udp", "tcp", "sctp"])
@pytest.mark.parametrize("address", [DNS, DNS_6])
def test_dns_goes_to_its_own_pods(served: Served, address: str, protocol: Protocol, client: str) -> None:
    assert served.responders(client, protocol, address, 53) == {LEGITIMATE}


def test_cluster_ip_that_a_load_balancer_address_names_goes_to_its_own_pods(served: Served) -> None:
    assert served.responders("pod-a1", "tcp", API, 443) == {LEGITIMATE}


def test_cluster_ip_keeps_its_own_policy_and_sources(served: Served) -> None:
    """A pod is not masqueraded, as it is at an externalIP."""
    assert query(served.cluster["pod-a1"], "udp", DNS, 53).peer_address == "10.244.1.5"


def test_older_service_keeps_the_external_ip(served: Served) -> None:
    assert served.responders("outside", "tcp", SHARED, 80) == {LEGITIMATE}


def test_loser_is_served_at_its_own_address_and_gets_an_event(served: Served) -> None:
    assert served.responders("pod-a1", "udp", "10.96.6.1", 53) == {MALICIOUS}
    for name, holder in (("a-dns", "zz-dns has it as its ClusterIP"), ("a-new", "old has it as an externalIP")):
        assert served.agent.wait_for(f"Service shop/{name}: AddressContested: .*Service shop/{holder}")


def test_status_prints_holders_and_losers(served: Served) -> None:
    document = json.loads(run(served.cluster.node_a, *command_line(served.folder.path, "status"), "-o", "json"))
    at_dns = {
        (one["name"], server["protocol"]): server
        for one in document["services"]
        for server in one["virtualServers"]
        if (server["address"], server["port"]) == (DNS, 53)
    }
    for protocol in ("SCTP", "TCP", "UDP"):
        holder, loser = at_dns["zz-dns", protocol], at_dns["a-dns", protocol]
        assert (holder["kind"], holder["status"]) == ("ClusterIP", "serving")
        assert (loser["kind"], loser["status"]) == ("externalIP", "refused")
        assert "shop/zz-dns" in loser["reason"]


def test_service_that_comes_later_takes_nothing_and_gets_it_when_the_holder_goes(served: Served) -> None:
    with served.agent.settling():
        served.folder.delete("legitimate")
    assert served.responders("pod-a1", "tcp", DNS, 53) == {MALICIOUS}
    assert served.responders("outside", "tcp", SHARED, 80) == {MALICIOUS}
    with served.agent.settling():
        served.folder.write("legitimate", legitimate())
    assert served.responders("pod-a1", "tcp", DNS, 53) == {LEGITIMATE}
    assert served.responders("outside", "tcp", SHARED, 80) == {LEGITIMATE}
