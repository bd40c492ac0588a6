"""service_state: what load balancers and metrics are told of a Service."""

from collections.abc import Iterable

import pytest

from kubeproxy_py.compile.health import service_state
from kubeproxy_py.compile.node_context import health_port_addresses
from kubeproxy_py.model.health import HealthPort, ServiceState
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.services import EndpointSlice, Service
from tests.builders import THERE, endpoint, endpoint_slice, name, port, service, site

HERE_SITE = site(health_port_addresses={"IPv4": ("0.0.0.0",), "IPv6": ("::",)})
BOTH = ("10.96.0.10", "fd00:96::10")


def local(**fields: object) -> Service:
    """A load balancer's Service with externalTrafficPolicy Local."""
    defaults = {"type": "LoadBalancer", "external_local": True, "health_check_node_port": 30100}
    return service(**{"load_balancer_ips": ("203.0.113.7",), **defaults, **fields})  # type: ignore[arg-type]


def state(made: Service, *slices: EndpointSlice) -> ServiceState:
    return service_state(made.name, made, slices, HERE_SITE)


def counts(made: Service, slices: Iterable[EndpointSlice]) -> dict[str, int]:
    return {port.family: port.local_endpoints for port in state(made, *slices).health_ports}


def test_a_port_answers_with_its_local_ready_endpoints() -> None:
    part = endpoint_slice(endpoints=[endpoint("10.244.1.5"), endpoint("10.244.1.6"), endpoint("10.244.2.5", THERE)])
    assert state(local(), part).health_ports == (HealthPort("IPv4", 30100, ("0.0.0.0",), 2),)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 1),
        ({"ready": False}, 0),
        ({"ready": False, "terminating": True}, 0),  # it serves by fallback all the same
        ({"terminating": True}, 1),  # publishNotReadyAddresses: ready is what counts
        ({"node": ""}, 0),
        ({"node": THERE}, 0),
    ],
)
def test_an_endpoint_counts_if_it_is_ready_and_here(fields: dict[str, object], count: int) -> None:
    part = endpoint_slice(endpoints=[endpoint("10.244.1.5", **fields)])  # type: ignore[arg-type]
    assert counts(local(), [part]) == {"IPv4": count}


def test_an_address_counts_once_whichever_ports_and_slices_it_is_in() -> None:
    parts = [endpoint_slice(number=n, label=label, suffix=str(n)) for n, label in ((1, ""), (2, ""), (3, "other"))]
    assert counts(local(), parts) == {"IPv4": 1}


def test_the_later_of_two_slices_says_whether_an_endpoint_is_ready() -> None:
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
def test_there_is_a_port_only_for_a_load_balancer_with_policy_local(fields: dict[str, object]) -> None:
    assert state(local(**fields), endpoint_slice()).health_ports == ()


def test_a_service_that_went_has_no_port() -> None:
    assert service_state(name("web"), None, (), HERE_SITE) == ServiceState(name("web"))


ELSEWHERE = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE)])


@pytest.mark.parametrize(
    ("made", "policies"),
    [
        (service(internal_local=True), {"internal"}),
        (local(), {"external"}),
        (local(internal_local=True), {"internal", "external"}),
        (service(external_local=True), set()),  # nobody reaches it from outside
        (service(), set()),
    ],
)
def test_a_local_policy_without_a_local_endpoint_is_told_by_its_name(made: Service, policies: set[str]) -> None:
    if made.internal_local and made.type == "ClusterIP":
        assert state(made, ELSEWHERE).not_local == (("internal", "IPv4"),)
    assert {policy for policy, _ in state(made, ELSEWHERE).not_local} == policies


def test_a_local_policy_with_a_local_endpoint_or_with_none_at_all_is_no_news() -> None:
    assert state(local(), endpoint_slice()).not_local == ()
    assert state(local()).not_local == ()
    assert state(local(), endpoint_slice(endpoints=[endpoint(node=THERE, ready=False)])).not_local == ()


def test_one_port_without_local_endpoints_is_enough() -> None:
    made = local(ports=(port(80, label="a"), port(81, label="b")))
    there = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE)], label="b", suffix="2")
    assert state(made, endpoint_slice(label="a"), there).not_local == (("external", "IPv4"),)


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
def test_ports_answer_where_node_port_addresses_says(
    cidrs: tuple[str, ...], ipv4: tuple[str, ...], ipv6: tuple[str, ...]
) -> None:
    assert health_port_addresses(ADDRESSES, cidrs, "IPv4") == ipv4
    assert health_port_addresses(ADDRESSES, cidrs, "IPv6") == ipv6
