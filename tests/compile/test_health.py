"""service_state: the state of a Service for health-check node ports and metrics."""

from collections.abc import Iterable

import pytest

from kubeproxy_py.compile.health import service_state
from kubeproxy_py.compile.node_context import health_check_addresses
from kubeproxy_py.model.health import HealthCheckNodePort, ServiceState
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.services import EndpointSlice, Service
from tests.builders import THERE, endpoint, endpoint_slice, name, node_context, port, service

CONTEXT = node_context(health_check_addresses={"IPv4": ("0.0.0.0",), "IPv6": ("::",)})
BOTH = ("10.96.0.10", "fd00:96::10")


def local(**fields: object) -> Service:
    """A load balancer's Service with externalTrafficPolicy Local."""
    defaults = {"type": "LoadBalancer", "external_local": True, "health_check_node_port": 30100}
    return service(**{"load_balancer_ips": ("203.0.113.7",), **defaults, **fields})  # type: ignore[arg-type]


def state(given: Service, *slices: EndpointSlice) -> ServiceState:
    return service_state(given.name, given, slices, CONTEXT)


def counts(given: Service, slices: Iterable[EndpointSlice]) -> dict[str, int]:
    return {port.family: port.local_endpoints for port in state(given, *slices).health_check_node_ports}


def test_port_counts_local_ready_endpoints() -> None:
    endpoints = endpoint_slice(
        endpoints=[endpoint("10.244.1.5"), endpoint("10.244.1.6"), endpoint("10.244.2.5", THERE)]
    )
    assert state(local(), endpoints).health_check_node_ports == (HealthCheckNodePort("IPv4", 30100, ("0.0.0.0",), 2),)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 1),
        ({"ready": False}, 0),
        ({"ready": False, "terminating": True}, 0),  # although it serves as a fallback
        ({"terminating": True}, 1),  # publishNotReadyAddresses: only ready counts
        ({"node": ""}, 0),
        ({"node": THERE}, 0),
    ],
)
def test_endpoint_counts_only_if_ready_and_local(fields: dict[str, object], count: int) -> None:
    endpoints = endpoint_slice(endpoints=[endpoint("10.244.1.5", **fields)])  # type: ignore[arg-type]
    assert counts(local(), [endpoints]) == {"IPv4": count}


def test_address_in_several_ports_and_slices_counts_once() -> None:
    parts = [endpoint_slice(number=n, label=label, suffix=str(n)) for n, label in ((1, ""), (2, ""), (3, "other"))]
    assert counts(local(), parts) == {"IPv4": 1}


def test_endpoint_in_two_slices_is_ready_as_in_the_later_slice() -> None:
    ready, unready = (
        endpoint_slice(endpoints=[endpoint(ready=ready)], suffix=suffix)
        for ready, suffix in ((True, "a"), (False, "b"))
    )
    assert counts(local(), [ready, unready]) == {"IPv4": 0}


def test_each_family_counts_its_own_endpoints() -> None:
    parts = [endpoint_slice(), endpoint_slice(endpoints=["fd00:10:244:1::5", "fd00:10:244:1::6"], suffix="6")]
    assert counts(local(cluster_ips=BOTH), parts) == {"IPv4": 1, "IPv6": 2}
    assert counts(local(), parts) == {"IPv4": 1}, "without a ClusterIP there is no Service in a family"


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "NodePort"},
        {"external_local": False},
        {"health_check_node_port": 0},
        {"ports": ()},
        {"proxy_name": "cilium"},
    ],
)
def test_only_load_balancer_with_policy_local_has_a_health_check_node_port(fields: dict[str, object]) -> None:
    assert state(local(**fields), endpoint_slice()).health_check_node_ports == ()


def test_deleted_service_has_no_health_check_node_port() -> None:
    assert service_state(name("web"), None, (), CONTEXT) == ServiceState(name("web"))


ELSEWHERE = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE)])


@pytest.mark.parametrize(
    ("given", "policies"),
    [
        (service(internal_local=True), {"internal"}),
        (local(), {"external"}),
        (local(internal_local=True), {"internal", "external"}),
        (service(external_local=True), set()),  # not reachable from outside
        (service(), set()),
    ],
)
def test_policy_local_without_local_endpoint_is_reported(given: Service, policies: set[str]) -> None:
    if given.internal_local and given.type == "ClusterIP":
        assert state(given, ELSEWHERE).policies_without_local == (("internal", "IPv4"),)
    assert {policy for policy, _ in state(given, ELSEWHERE).policies_without_local} == policies


def test_policy_local_with_a_local_endpoint_or_with_no_endpoint_is_not_reported() -> None:
    assert state(local(), endpoint_slice()).policies_without_local == ()
    assert state(local()).policies_without_local == ()
    assert state(local(), endpoint_slice(endpoints=[endpoint(node=THERE, ready=False)])).policies_without_local == ()


def test_one_port_without_local_endpoints_suffices_for_the_report() -> None:
    given = local(ports=(port(80, label="a"), port(81, label="b")))
    elsewhere = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE)], label="b", suffix="2")
    assert state(given, endpoint_slice(label="a"), elsewhere).policies_without_local == (("external", "IPv4"),)


ADDRESSES = tuple(
    HostAddress(interface, address)
    for interface, address in (
        ("lo", "127.0.0.1"),
        ("eth0", "192.168.3.10"),
        ("eth1", "172.16.5.10"),
        ("kube-ipvs0", "192.168.3.99"),
        ("eth0", "fd00:3::10"),
    )
)


@pytest.mark.parametrize(
    ("cidrs", "ipv4", "ipv6"),
    [
        ((), ("0.0.0.0",), ("::",)),
        (("0.0.0.0/0",), ("0.0.0.0",), ("::",)),
        (("192.168.3.0/24",), ("192.168.3.10",), ("::",)),
        (("127.0.0.0/8", "172.16.0.0/12"), ("127.0.0.1", "172.16.5.10"), ("::",)),
        (("10.0.0.0/8", "fd00::/8"), (), ("fd00:3::10",)),
    ],
)
def test_health_check_node_ports_are_served_at_node_port_addresses(
    cidrs: tuple[str, ...], ipv4: tuple[str, ...], ipv6: tuple[str, ...]
) -> None:
    assert health_check_addresses(ADDRESSES, cidrs, "IPv4") == ipv4
    assert health_check_addresses(ADDRESSES, cidrs, "IPv6") == ipv6
