"""compile_service: the rows of a Service."""

import pytest

from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.model.rows import (
    FLAG_PERSISTENT,
    SERVING,
    Address,
    IpsetEntry,
    RealServer,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import Endpoint, Service
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service


def compiled(given: Service, *endpoints: Endpoint | str, **fields: object) -> Rows:
    endpoints = endpoints or (endpoint("10.244.1.5"), endpoint("10.244.2.5", THERE))
    return compile_service(given, [endpoint_slice(endpoints=endpoints)], node_context(**fields))


def entries(rows: Rows) -> set[str]:
    return {str(key) for key in rows if isinstance(key, IpsetEntry)}


def servers(rows: Rows) -> dict[str, list[str]]:
    """Virtual servers with the addresses of their real servers."""
    found: dict[str, list[str]] = {str(key): [] for key in rows if isinstance(key, VirtualServer)}
    for key in rows:
        if isinstance(key, RealServer):
            found[str(key.virtual_server)].append(key.address)
    return found


def addresses(rows: Rows) -> set[str]:
    return {key.address for key in rows if isinstance(key, Address)}


def test_all_rows_of_a_cluster_ip_service() -> None:
    server = VirtualServer("10.96.0.10", 80, "TCP")
    assert compiled(service()) == {
        server: VirtualServerSpec("rr"),
        RealServer(server, "10.244.1.5", 8080): SERVING,
        RealServer(server, "10.244.2.5", 8080): SERVING,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        IpsetEntry("KUBE-IPVS-IPS", "10.96.0.10"): None,
        IpsetEntry("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5"): None,
        Address("10.96.0.10"): None,
    }


@pytest.mark.parametrize(
    "given",
    [
        service(cluster_ips=()),
        service(type="ExternalName"),
        service(type="ExternalName", external_ips=("203.0.113.7",)),
        service(proxy_name="other"),
        service(proxy_name=""),
    ],
    ids=["headless", "ExternalName", "ExternalName with externalIPs", "another proxy's", "proxy name empty"],
)
def test_headless_external_and_other_proxies_services_have_no_rows(given: Service) -> None:
    assert compiled(given) == {}


def test_family_without_a_cluster_ip_has_no_rows() -> None:
    rows = compiled(service(external_ips=("2001:db8::7", "203.0.113.7")))
    assert addresses(rows) == {"10.96.0.10", "203.0.113.7"}


def test_dual_stack_service_has_rows_in_both_families() -> None:
    given = service(cluster_ips=("10.96.0.10", "fd00:96::10"))
    slices = [endpoint_slice(), endpoint_slice(endpoints=["fd00:244::5"], suffix="6")]
    rows = compile_service(given, slices, node_context())
    assert servers(rows) == {"10.96.0.10:80/TCP": ["10.244.1.5"], "[fd00:96::10]:80/TCP": ["fd00:244::5"]}
    assert "KUBE-6-CLUSTER-IP fd00:96::10,tcp:80" in entries(rows)


def test_service_without_endpoints_has_a_virtual_server() -> None:
    assert servers(compile_service(service(), [], node_context())) == {"10.96.0.10:80/TCP": []}


def test_session_affinity_makes_the_virtual_server_persistent() -> None:
    rows = compiled(service(affinity_timeout_s=600))
    assert rows[VirtualServer("10.96.0.10", 80, "TCP")] == VirtualServerSpec("rr", FLAG_PERSISTENT, 600)


def test_scheduler_mh_hashes_the_port() -> None:
    rows = compiled(service(), scheduler="mh")
    assert rows[VirtualServer("10.96.0.10", 80, "TCP")] == VirtualServerSpec("mh", 0x10)


NODE_PORT = service(type="NodePort", ports=[port(80, node_port=30080)])


def test_node_port_is_served_on_every_node_address_and_binds_none() -> None:
    rows = compiled(NODE_PORT, node_port_addresses={"IPv4": ("192.168.3.10", "172.16.5.10")})
    assert servers(rows).keys() == {"10.96.0.10:80/TCP", "192.168.3.10:30080/TCP", "172.16.5.10:30080/TCP"}
    assert addresses(rows) == {"10.96.0.10"}
    assert "KUBE-NODE-PORT-TCP 30080" in entries(rows)


def test_sctp_node_port_has_a_set_entry_for_each_address() -> None:
    given = service(type="NodePort", ports=[port(80, "SCTP", node_port=30090)])
    assert "KUBE-NODE-PORT-SCTP-HASH 192.168.3.10,sctp:30090" in entries(compiled(given))


def test_load_balancer_address_is_bound_and_in_its_sets() -> None:
    rows = compiled(service(type="LoadBalancer", load_balancer_ips=("203.0.113.7",)))
    assert addresses(rows) == {"10.96.0.10", "203.0.113.7"}
    assert {"KUBE-LOAD-BALANCER 203.0.113.7,tcp:80", "KUBE-IPVS-IPS 203.0.113.7"} <= entries(rows)


def test_address_of_another_interface_is_served_but_not_bound() -> None:
    rows = compiled(service(external_ips=("192.168.3.10",)))
    assert addresses(rows) == {"10.96.0.10"}
    assert "192.168.3.10:80/TCP" in servers(rows)
    assert "KUBE-IPVS-IPS 192.168.3.10" not in entries(rows)


def test_external_ips_with_policy_local_are_in_the_local_set_only() -> None:
    found = entries(compiled(service(external_ips=("203.0.113.7",), external_local=True)))
    assert "KUBE-EXTERNAL-IP-LOCAL 203.0.113.7,tcp:80" in found
    assert "KUBE-EXTERNAL-IP 203.0.113.7,tcp:80" not in found


def test_external_traffic_policy_applies_to_external_addresses_only() -> None:
    given = service(type="NodePort", ports=[port(80, node_port=30080)], external_local=True)
    assert servers(compiled(given)) == {
        "10.96.0.10:80/TCP": ["10.244.1.5", "10.244.2.5"],
        "192.168.3.10:30080/TCP": ["10.244.1.5"],
    }


def test_external_traffic_policy_has_no_effect_without_an_external_address() -> None:
    assert compiled(service(external_local=True)) == compiled(service())


def test_internal_traffic_policy_is_strict_without_an_external_address() -> None:
    given = service(internal_local=True)
    assert servers(compiled(given, endpoint("10.244.2.5", THERE))) == {"10.96.0.10:80/TCP": []}


def test_internal_traffic_policy_falls_back_with_an_external_address() -> None:
    given = service(type="NodePort", ports=[port(80, node_port=30080)], internal_local=True)
    assert servers(compiled(given, endpoint("10.244.2.5", THERE)))["10.96.0.10:80/TCP"] == ["10.244.2.5"]


RANGED = service(
    type="LoadBalancer", load_balancer_ips=("203.0.113.7",), source_ranges=("198.51.100.0/24", "192.0.2.7/32")
)


def test_source_ranges_are_set_entries_without_the_length_of_single_addresses() -> None:
    found = {entry for entry in entries(compiled(RANGED)) if "SOURCE" in entry or "-FW" in entry}
    assert found == {
        "KUBE-LOAD-BALANCER-FW 203.0.113.7,tcp:80",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR 203.0.113.7,tcp:80,198.51.100.0/24",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR 203.0.113.7,tcp:80,192.0.2.7",
    }


def test_source_ranges_that_include_the_node_open_the_address_to_the_node() -> None:
    assert "KUBE-LOAD-BALANCER-SOURCE-IP 203.0.113.7,tcp:80,203.0.113.7" in entries(
        compiled(RANGED, node_ips={"IPv4": "198.51.100.9"})
    )


def test_source_range_of_length_zero_restricts_nothing() -> None:
    given = service(
        type="LoadBalancer", load_balancer_ips=("203.0.113.7",), source_ranges=("198.51.100.0/24", "0.0.0.0/0")
    )
    assert not {entry for entry in entries(compiled(given)) if "SOURCE" in entry or "-FW" in entry}


def test_every_local_endpoint_has_a_hairpin_entry_whatever_its_conditions() -> None:
    rows = compiled(
        service(),
        endpoint("10.244.1.5"),
        endpoint("10.244.1.6", ready=False, serving=False),
        endpoint("10.244.2.5", THERE),
        endpoint("10.244.1.9", ""),
    )
    assert {entry for entry in entries(rows) if "LOOP-BACK" in entry} == {
        "KUBE-LOOP-BACK 10.244.1.5,tcp:8080,10.244.1.5",
        "KUBE-LOOP-BACK 10.244.1.6,tcp:8080,10.244.1.6",
    }


@pytest.mark.parametrize(
    ("kind", "local", "found"),
    [("LoadBalancer", True, True), ("LoadBalancer", False, False), ("NodePort", True, False)],
)
def test_health_check_node_port_is_opened_only_for_load_balancers_with_policy_local(
    kind: str, local: bool, found: bool
) -> None:
    given = service(type=kind, external_local=local, health_check_node_port=31000)  # type: ignore[arg-type]
    assert ("KUBE-HEALTH-CHECK-NODE-PORT 31000" in entries(compiled(given))) is found


def test_node_name_must_match_exactly() -> None:
    assert not any("LOOP-BACK" in entry for entry in entries(compiled(service(), endpoint(node=HERE.upper()))))
