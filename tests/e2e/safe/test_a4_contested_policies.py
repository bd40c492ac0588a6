"""Where two Services name one address and port, only the policies, source ranges and affinity of the holder apply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import NoAnswer, query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

OTHER_PORT = 81
FAR, NEAR = "1.2.3.0/24", "192.168.3.0/24"  # the client outside is in NEAR
FAR_6, NEAR_6 = "2001:db8:1::/64", "fd00:3::/64"
A, B, C, D, E = (f"203.0.113.{number}" for number in range(50, 55))
B_6, C_6 = "2001:db8::51", "2001:db8::52"


def balanced(name: str, number: int, addresses: list[str], **spec: object) -> list[Object]:
    objects = plain(name, number, **spec)
    objects[0]["spec"]["type"] = "LoadBalancer"
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}
    return objects


def plain(name: str, number: int, **spec: object) -> list[Object]:
    """A Service of a letter before m is served by pod-a1, one after it by pod-a2; those have a second port."""
    is_holder = name < "m"
    ports = [Port()] if is_holder else [Port(), Port(OTHER_PORT)]
    pod = "pod-a1" if is_holder else "pod-a2"
    slices = [endpoint_slice(name, [pod], ports, version=version) for version in (4, 6)]
    return [service(name, [f"10.96.4.{number}", f"fd00:10:96::4:{number}"], ports, **spec), *slices]


def objects() -> list[Object]:
    local: Object = {"externalTrafficPolicy": "Local"}
    return [
        *balanced("a", 1, [A], **local),
        *plain("z", 2, externalIPs=[A]),
        *balanced("b", 3, [B, B_6], loadBalancerSourceRanges=[FAR, FAR_6]),
        *balanced("y", 4, [B, B_6], loadBalancerSourceRanges=[NEAR, NEAR_6]),
        *balanced("c", 5, [C, C_6], loadBalancerSourceRanges=[FAR, FAR_6]),
        *plain("x", 6, externalIPs=[C, C_6]),
        *balanced("d", 7, [D]),
        *balanced("w", 8, [D], loadBalancerSourceRanges=[FAR], sessionAffinity="ClientIP"),
        *plain("e", 9, externalIPs=[E], **local),
        *plain("v", 10, externalIPs=[E]),
    ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        yield built


@pytest.mark.parametrize("address", [A, E])
def test_external_ip_of_another_does_not_hide_the_client_from_policy_local(cluster: Cluster, address: str) -> None:
    answer = query(cluster["outside"], "tcp", address, 80)
    assert (answer.name, answer.peer_address) == ("pod-a1", "192.168.3.175")


@pytest.mark.parametrize("address", [B, B_6])
def test_ranges_of_another_do_not_open_a_restricted_service(cluster: Cluster, address: str) -> None:
    with pytest.raises(NoAnswer):
        query(cluster["outside"], "tcp", address, 80, timeout_s=0.5)


@pytest.mark.parametrize("address", [C, C_6])
def test_external_ip_of_another_does_not_open_a_restricted_service(cluster: Cluster, address: str) -> None:
    with pytest.raises(NoAnswer):
        query(cluster["outside"], "tcp", address, 80, timeout_s=0.5)


def test_ranges_of_another_do_not_close_an_open_service(cluster: Cluster) -> None:
    assert query(cluster["outside"], "tcp", D, 80).name == "pod-a1"


@pytest.mark.parametrize("address", [A, B, B_6, C, C_6, E])
def test_loser_is_served_at_its_other_port_with_its_own_policies(cluster: Cluster, address: str) -> None:
    assert query(cluster["outside"], "tcp", address, OTHER_PORT).name == "pod-a2"


def test_ranges_of_the_loser_apply_at_its_other_port(cluster: Cluster) -> None:
    with pytest.raises(NoAnswer):
        query(cluster["outside"], "tcp", D, OTHER_PORT, timeout_s=0.5)
