"""Which of several Services has an address and port, and what the others get."""

import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.claims import Claim, Claims
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, VirtualServer
from kubeproxy_py.model.services import Service, ServiceName, SlicePort
from tests.builders import endpoint_slice, name, node_context, port, service

DNS, DNS_6, SHARED = "10.96.0.53", "fd00:96::53", "203.0.113.7"
SERVER = VirtualServer(SHARED, 80, "TCP")


def compiled(*services: Service) -> Compiler:
    of = Compiler(lambda _node, _addresses: node_context())
    for number, given_service in enumerate(services):
        of.handle_event(ServiceUpserted(given_service))
        for family, pod in enumerate((f"10.244.2.{number}", f"fd00:10:244:2::{number}")):
            for protocol in ("TCP", "UDP"):
                text, suffix = str(given_service.name), f"{family}-{protocol.lower()}"
                of.handle_event(SliceUpserted(endpoint_slice(text, [pod], protocol=protocol, suffix=suffix)))
    of.compile()
    return of


def pods(of: Compiler, server: VirtualServer) -> set[str]:
    return {key.address for key in of.desired.rows if isinstance(key, RealServer) and key.virtual_server == server}


def entries(of: Compiler, text: str) -> set[str]:
    """The names of the sets with an entry for the frontend *text*."""
    keys = (key for key in of.desired.rows if isinstance(key, IpsetEntry))
    return {key.set for key in keys if key.entry == text or key.entry.startswith(f"{text},")}


def lb(text: str, cluster_ip: str, **fields: object) -> Service:
    return service(text, (cluster_ip,), type="LoadBalancer", load_balancer_ips=(SHARED,), **fields)  # type: ignore[arg-type]


def external(text: str, cluster_ip: str, **fields: object) -> Service:
    return service(text, (cluster_ip,), external_ips=(SHARED,), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("evil_age", [1.0, 9.0])
@pytest.mark.parametrize("kind", ["external_ips", "load_balancer_ips"])
@pytest.mark.parametrize("address", [DNS, DNS_6])
def test_cluster_ip_is_served_by_its_service_whoever_else_names_it(address: str, kind: str, evil_age: float) -> None:
    ports = (port(53, "UDP"),)
    dns = service("kube-system/kube-dns", (DNS, DNS_6), ports, created_s=5.0)
    malicious = service(
        "apps/malicious",
        ("10.96.6.6", "fd00:96::66"),
        ports,
        type="LoadBalancer",
        created_s=evil_age,
        affinity_timeout_s=600,
        **{kind: (address,)},
    )
    of = compiled(dns, malicious)
    server = VirtualServer(address, 53, "UDP")
    assert pods(of, server) == {"fd00:10:244:2::0" if ":" in address else "10.244.2.0"}
    assert of.desired.rows[server].persistence_s == 0  # type: ignore[union-attr]
    assert entries(of, f"{address},udp:53") == {"KUBE-6-CLUSTER-IP" if ":" in address else "KUBE-CLUSTER-IP"}
    (refusal,) = of.refusals
    assert (refusal.reason, refusal.service, refusal.subject) == ("AddressContested", malicious.name, str(server))
    assert "Service kube-system/kube-dns has it as its ClusterIP" in refusal.message


def test_load_balancer_address_goes_before_external_ip_and_external_ip_before_node_port() -> None:
    balanced, named = lb("z", "10.96.0.1", created_s=9.0), external("a", "10.96.0.2", created_s=1.0)
    assert compiled(balanced, named).claims.holder(SERVER) == balanced.name
    at_node = service("a", ("10.96.0.1",), (port(80, node_port=30080),), type="NodePort", created_s=1.0)
    taking = service("z", ("10.96.0.2",), (port(30080),), external_ips=("192.168.3.10",), created_s=9.0)
    of = compiled(at_node, taking)
    assert of.claims.holder(VirtualServer("192.168.3.10", 30080, "TCP")) == taking.name
    assert [str(refusal.subject) for refusal in of.refusals] == ["192.168.3.10:30080/TCP"]


def test_older_service_has_the_address_then_the_first_by_name() -> None:
    assert compiled(external("a", "10.96.0.1", created_s=2.0), external("b", "10.96.0.2", created_s=1.0)).claims.holder(
        SERVER
    ) == name("b")
    assert compiled(external("b", "10.96.0.1"), external("a", "10.96.0.2")).claims.holder(SERVER) == name("a")
    assert compiled(external("a", "10.96.0.1"), external("b", "10.96.0.2", created_s=1.0)).claims.holder(
        SERVER
    ) == name("b")


@pytest.mark.parametrize(
    ("winner", "loser", "expected"),
    [
        (
            lb("a", "10.96.0.1", external_local=True),
            external("z", "10.96.0.2"),
            {"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-LOCAL"},
        ),
        (lb("a", "10.96.0.1"), lb("z", "10.96.0.2", source_ranges=("1.2.3.0/24",)), {"KUBE-LOAD-BALANCER"}),
        (
            lb("b", "10.96.0.1", source_ranges=("1.2.3.0/24",)),
            lb("y", "10.96.0.2", source_ranges=("192.168.3.0/24",)),
            {"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-SOURCE-CIDR"},
        ),
        (
            lb("c", "10.96.0.1", source_ranges=("1.2.3.0/24",)),
            external("x", "10.96.0.2"),
            {"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-SOURCE-CIDR"},
        ),
        (external("a", "10.96.0.1"), external("z", "10.96.0.2", external_local=True), {"KUBE-EXTERNAL-IP"}),
    ],
)
def test_loser_gives_no_set_entry(winner: Service, loser: Service, expected: set[str]) -> None:
    for order in ((winner, loser), (loser, winner)):
        of = compiled(*order)
        assert entries(of, f"{SHARED},tcp:80") == expected
        assert not [key for key in of.desired.rows if "192.168.3.0/24" in str(key)]


def test_loser_is_served_at_its_other_ports_and_addresses() -> None:
    of = compiled(
        external("a", "10.96.0.1"), external("b", "10.96.0.2", ports=(port(80, label="x"), port(81, label="y")))
    )
    assert of.claims.holder(VirtualServer(SHARED, 81, "TCP")) == name("b")
    assert VirtualServer(SHARED, 81, "TCP") in of.desired.rows
    assert VirtualServer("10.96.0.2", 80, "TCP") in of.desired.rows
    assert Address(SHARED) in of.desired.rows


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_node_port_of_two_services_is_that_of_the_older(protocol: str) -> None:
    of = compiled(
        *(
            service(
                text,
                (f"10.96.0.{number}", f"fd00:96::{number}"),
                (port(80, protocol, node_port=30080),),  # type: ignore[arg-type]
                type="NodePort",
                external_local=text == "a",
                created_s=9.0 - number,
            )
            for number, text in enumerate(("a", "b"))
        )
    )
    assert of.claims.holder(VirtualServer("192.168.3.10", 30080, protocol)) == name("b")  # type: ignore[arg-type]
    assert of.claims.holder(VirtualServer("fd00:3::10", 30080, protocol)) == name("b")  # type: ignore[arg-type]
    assert not [key for key in of.desired.rows if isinstance(key, IpsetEntry) and "NODE-PORT-LOCAL" in key.set]
    assert len(list(of.refusals)) == 2


def test_contested_cluster_ip_of_manifests_is_that_of_the_first() -> None:
    of = compiled(service("b", (DNS,)), service("a", (DNS,)))
    assert pods(of, VirtualServer(DNS, 80, "TCP")) == {"10.244.2.1"}


def test_refusal_ends_when_the_holder_goes_or_gives_the_address_up() -> None:
    of = compiled(external("a", "10.96.0.1"), external("b", "10.96.0.2"))
    assert pods(of, SERVER) == {"10.244.2.0"}
    of.handle_event(ServiceUpserted(service("a", ("10.96.0.1",))))
    changed = of.compile()
    assert {RealServer(SERVER, "10.244.2.0", 8080), RealServer(SERVER, "10.244.2.1", 8080)} <= set(changed)
    assert pods(of, SERVER) == {"10.244.2.1"}
    assert list(of.refusals) == []
    of.handle_event(ServiceUpserted(external("a", "10.96.0.1")))
    of.compile()
    assert pods(of, SERVER) == {"10.244.2.0"}
    of.handle_event(ServiceDeleted(name("a")))
    of.compile()
    assert pods(of, SERVER) == {"10.244.2.1"}
    assert of.refusals.counts()["AddressContested"] == 0


def test_addresses_of_one_service_that_are_equal_are_not_contested() -> None:
    given_service = lb("a", SHARED, external_ips=(SHARED,))
    of = compiled(given_service)
    assert list(of.refusals) == []
    assert entries(of, f"{SHARED},tcp:80") == {"KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-LOAD-BALANCER"}


def test_node_port_of_one_port_at_the_external_ip_of_another_has_one_virtual_server() -> None:
    ports = (port(30080, label="a"), port(80, label="b", node_port=30080))
    of = compiled(service("a", ports=ports, external_ips=("192.168.3.10",), type="NodePort"))
    assert list(of.refusals) == []
    assert VirtualServer("192.168.3.10", 30080, "TCP") in of.desired.rows


def test_endpoint_of_a_loser_changes_nothing_at_the_contested_frontend() -> None:
    of = compiled(external("a", "10.96.0.1"), external("b", "10.96.0.2"))
    of.handle_event(SliceUpserted(endpoint_slice("b", ["10.244.2.9"], suffix="0-tcp")))
    changed = of.compile()
    assert changed
    assert not [key for key in changed if isinstance(key, RealServer) and key.virtual_server == SERVER]


_claims = st.builds(
    Claim,
    kind=st.sampled_from(FrontendKind),
    created_s=st.sampled_from([1.0, 2.0]),
    service=st.just(name("x")),
)
_NAMES = [name(text) for text in "abc"]
_SERVERS = [VirtualServer(SHARED, number, "TCP") for number in (80, 81)]


@given(
    st.lists(
        st.tuples(st.sampled_from(_NAMES), st.dictionaries(st.sampled_from(_SERVERS), _claims)), min_size=1, max_size=12
    )
)
def test_best_claim_holds_and_whoever_gains_or_loses_is_returned(
    history: list[tuple[ServiceName, dict[VirtualServer, Claim]]],
) -> None:
    claims, known = Claims(), dict[ServiceName, dict[VirtualServer, Claim]]()
    for service_name, wanted in history:
        named = {server: Claim(claim.kind, claim.created_s, service_name) for server, claim in wanted.items()}
        before = holders(claims)
        changed = claims.replace(service_name, named)
        known[service_name] = named
        after = holders(claims)
        moved = {
            who for server in _SERVERS if before[server] != after[server] for who in (before[server], after[server])
        }
        assert set(changed) == moved - {service_name, None}
        assert after == {server: best(known.values(), server) for server in _SERVERS}
        for other in _NAMES:
            lost = {server for server in known.get(other, {}) if after[server] != other}
            assert claims.lost_by(other) == lost
            assert set(claims.held_by(other)) == known.get(other, {}).keys() - lost
        assert claims.lost_count == sum(len(claims.lost_by(other)) for other in _NAMES)


def holders(claims: Claims) -> dict[VirtualServer, ServiceName | None]:
    return {server: claims.holder(server) for server in _SERVERS}


def best(known: Iterable[dict[VirtualServer, Claim]], server: VirtualServer) -> ServiceName | None:
    candidates = [claims[server] for claims in known if server in claims]
    return min(candidates).service if candidates else None


def calls_of_a_changed_endpoint(number_of_ports: int, *, contested: bool) -> int:
    """The function calls until an endpoint of each of two Services of many ports is replaced."""
    ports = tuple(port(number, label=f"p{number}") for number in range(1, number_of_ports + 1))
    of = Compiler(lambda _node, _addresses: node_context())

    def sliced(text: str, pod: str) -> SliceUpserted:
        numbered = tuple(SlicePort(one.name, "TCP", one.port) for one in ports)
        return SliceUpserted(replace(endpoint_slice(text, [pod]), ports=numbered))

    for number, text in enumerate("ab"):
        address = SHARED if contested else f"203.0.113.{number}"
        of.handle_event(ServiceUpserted(service(text, (f"10.96.0.{number}",), ports, external_ips=(address,))))
        of.handle_event(sliced(text, f"10.244.2.{number}"))
    of.compile()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        for text in "ab":
            of.handle_event(sliced(text, "10.244.2.9"))
            of.compile()
    finally:
        sys.setprofile(None)
    return calls


def test_changed_endpoint_costs_the_same_where_all_ports_are_contested() -> None:
    few = calls_of_a_changed_endpoint(100, contested=True)
    assert few <= 1.1 * calls_of_a_changed_endpoint(100, contested=False)
    assert calls_of_a_changed_endpoint(400, contested=True) <= 4.2 * few
