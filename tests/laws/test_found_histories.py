"""Histories that random examples found, each as short as it can be: what law 2 forbids happened in them once."""

from collections.abc import Sequence

from kubeproxy_py.model.conditions import EndpointFailures, Failure
from kubeproxy_py.model.events import ObjectEvent, ServiceDeleted, ServiceUpserted, SliceUpserted, TakenAddresses
from kubeproxy_py.model.rows import Address, Chain, IpsetEntry, Key, VirtualServer
from kubeproxy_py.net import Protocol
from tests.builders import THERE, endpoint, endpoint_slice, name, port, service
from tests.laws.checking_kernels import CheckedAgent, failing
from tests.laws.packets import Packet, fate
from tests.laws.test_drift_and_lost_sources import Damage, DamagedKernel, bind, delete, exempt
from tests.laws.test_every_prefix_is_legal import sync_with_faults
from tests.laws.test_late_rules import sync_with_late_rules

ADDRESS = "203.0.113.8"
POD_6_HERE, POD_6_THERE = "fd00:10:244:1::5", "fd00:10:244:2::5"


def test_address_is_bound_after_virtual_servers_that_waited_for_what_is_not_desired_any_more() -> None:
    """It is an externalIP and a gateway's, so it is not bound, and becomes a ClusterIP while rules are under way."""
    tcp, udp = port(53, label="a"), port(53, "UDP", label="a")
    sync_with_late_rules(
        [
            [
                TakenAddresses("API server", {"10.96.0.10": "a gateway of this node"}),
                _service("cart", "10.96.0.11", tcp),
            ],
            [_service("api", "10.96.0.20", tcp, external_ips=("10.96.0.10",))],
            [_service("api", "10.96.0.10", tcp, udp)],
        ],
        [(False, 0, False), (True, 0, False), (False, 0, False)],
    )


def test_real_server_that_is_set_aside_waits_for_its_virtual_server() -> None:
    """It has the weight 0 from its beginning, and the virtual server of its NodePort waits for rules."""
    sync_with_late_rules(
        [
            [_service("api", "10.96.0.10", port(80)), _slice("db", "10.244.1.5", "10.244.1.6")],
            [
                _service("db", "10.96.0.12", port(80, node_port=30053)),
                EndpointFailures(name("db"), {("10.244.1.5", 8080): Failure(1.0, "")}),
            ],
        ],
        [(False, 0, False), (True, 0, False)],
    )


def test_entry_that_waited_goes_with_its_virtual_server() -> None:
    """Its port is to be that of a NodePort, whose entry waits for rules under way, and then of another Service's."""
    cart = _service("cart", "10.96.0.11", port(30080), type="LoadBalancer", load_balancer_ips=("10.96.0.10",))
    sync_with_late_rules(
        [
            [_service("api", "10.96.0.10", port(80)), _slice("api", "10.244.1.5"), cart],
            [
                _service("api", "10.96.0.10", port(30080, node_port=30080), type="NodePort"),
                ServiceDeleted(name("cart")),
            ],
            [
                _service("api", "10.96.0.10", port(80)),
                _service("cart", "10.96.0.11", port(80, node_port=30080), type="NodePort"),
            ],
        ],
        [(False, 0, False), (True, 0, False), (False, 0, False)],
    )


def test_virtual_server_comes_while_its_address_goes() -> None:
    """An externalIP is bound for one Service, and becomes a gateway's when another names it, too."""
    sync_with_faults(
        [
            [
                _service("api", "10.96.0.10", port(53), external_ips=(ADDRESS,)),
                SliceUpserted(endpoint_slice("cart", ["10.244.1.5"])),
            ],
            [
                TakenAddresses("API server", {ADDRESS: "a gateway of this node"}),
                _service("cart", "10.96.0.11", port(80), external_ips=(ADDRESS,)),
            ],
        ],
        [[], []],
        [0.1, 0.1],
    )


def test_local_endpoint_is_met_at_an_address_that_goes() -> None:
    """An externalIP with the policy Local is unbound, because an endpoint has it, when its first endpoint comes."""
    tcp, udp = port(53, label="a"), port(53, "UDP", label="a")
    sync_with_faults(
        [
            [_service("api", "10.96.0.10", tcp, udp, external_ips=(ADDRESS,), external_local=True)],
            [SliceUpserted(endpoint_slice("api", ["10.244.2.5", ADDRESS], protocol="UDP", label="a"))],
        ],
        [[], []],
        [0.1, 0.1],
    )


def test_clients_of_former_source_ranges_meet_no_endpoint_of_the_next_service() -> None:
    """A load balancer's address moves from one Service with source ranges to another with others."""
    sync_with_faults(
        [
            [_balancer("api", ("198.51.100.0/24",)), _slice("api", "10.244.2.5"), _slice("cart", "10.244.2.6")],
            [ServiceDeleted(name("api")), _balancer("cart", ("203.0.113.250/32",))],
        ],
        [[], []],
        [0.1, 0.1],
    )


def test_exemption_goes_before_the_entry_that_masquerades_what_stays() -> None:
    """An address of this node and a port move from a Service with the policy Local to the NodePort of another."""
    local = _service(
        "api",
        "10.96.0.10",
        port(30080),
        type="LoadBalancer",
        external_ips=("192.168.3.10",),
        load_balancer_ips=("192.168.3.10",),
        external_local=True,
    )
    sync_with_faults(
        [
            [local, _slice("api", "10.244.2.6"), _slice("cart", "10.244.2.6")],
            [ServiceDeleted(name("api")), _service("cart", "10.96.0.11", port(80, node_port=30080), type="NodePort")],
        ],
        [[], ["add IpsetEntry .*NODE-PORT"]],
        [0.1, 61.0],
    )


def test_endpoints_wait_for_the_firewall_where_a_service_without_source_ranges_was() -> None:
    """A load balancer's address moves to a Service with source ranges while the firewall's chains are refused."""
    sync_with_faults(
        [
            [_balancer("api", ()), _slice("api", "10.244.2.5"), _slice("cart", "10.244.2.6")],
            [ServiceDeleted(name("api")), _balancer("cart", ("203.0.113.250/32",))],
        ],
        [["(add|update) Chain .*FIREWALL"], []],
        [0.1, 61.0],
    )


def test_port_is_admitted_together_with_a_virtual_server_that_waited_for_the_firewall() -> None:
    """At a bound address the port of a Service with source ranges becomes that of one without."""
    sync_with_faults(
        [
            [_service("db", "10.96.0.12", port(443), external_ips=(ADDRESS,))],
            [_balancer("api", ("198.51.100.0/24",))],
            [_service("api", "10.96.0.10", port(80), external_ips=(ADDRESS,))],
        ],
        [["add Jump .*FIREWALL"], [], []],
        [0.1, 0.1, 61.0],
    )


def test_entry_that_another_program_deleted_admits_clients_again_before_endpoints_went() -> None:
    """Clients outside meet ClusterIPs of a family without pod networks unmasqueraded, so they met both before."""
    _sync_damaged(
        [_service("api", "fd00:96::10", port(80)), _slice_here_and_there("api", "fd00:10:244:")],
        (delete, IpsetEntry("KUBE-6-CLUSTER-IP", "fd00:96::10,tcp:80")),
        [_service("api", "fd00:96::10", port(80), internal_local=True)],
    )


def test_clients_are_masqueraded_again_after_chains_when_another_program_deleted_the_entries_for_that() -> None:
    """The address is not hidden either, so they met its endpoints unmasqueraded before the sync, which repairs that."""
    pods = _slice("api", "10.244.2.5")
    _sync_damaged(
        [_service("api", "10.96.0.10", port(80)), pods],
        (delete, IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"), IpsetEntry("KUBE-IPVS-IPS", "10.96.0.10")),
        [_service("api", "10.96.0.10", port(80), external_ips=(ADDRESS,))],
    )


def test_entry_that_another_program_deleted_admits_clients_of_former_source_ranges_again() -> None:
    """They were shut out because it was missing, not by the source ranges, and met the same endpoints before."""
    _sync_damaged(
        [_balancer("api", ("198.51.100.0/24",)), _slice("api", "10.244.2.5")],
        (delete, IpsetEntry("KUBE-LOAD-BALANCER", f"{ADDRESS},tcp:80")),
        [_balancer("api", ()), _slice("api", "10.244.2.6")],
    )


def test_entry_that_another_program_deleted_admits_clients_of_former_source_ranges_until_these_go() -> None:
    """Others take their place, after the entry came back."""
    _sync_damaged(
        [_balancer("api", ("203.0.113.250/32",)), _slice("api", "10.244.2.5")],
        (delete, IpsetEntry("KUBE-LOAD-BALANCER", f"{ADDRESS},tcp:80")),
        [_balancer("api", ("198.51.100.0/24",))],
    )


def test_entry_in_place_of_one_that_another_program_deleted_admits_clients_of_former_source_ranges_again() -> None:
    """A load balancer's address becomes an externalIP of its Service, which source ranges do not close."""
    _sync_damaged(
        [_balancer("api", ("203.0.113.250/32",)), _slice("api", "10.244.2.5")],
        (delete, IpsetEntry("KUBE-LOAD-BALANCER", f"{ADDRESS},tcp:80")),
        [_service("api", "10.96.0.10", port(80), external_ips=(ADDRESS,)), _slice("api", "10.244.2.6")],
    )


def test_exemption_that_another_program_added_takes_effect_after_endpoints_went() -> None:
    """It becomes the agent's own in the sync in which its set gets its rules."""
    _sync_damaged(
        [_balancer("api", ()), _slice_here_and_there("api", "10.244.")],
        (exempt, VirtualServer(ADDRESS, 80, "TCP")),
        [_balancer("api", (), external_local=True)],
    )


def test_exemption_that_another_program_added_goes_before_its_set_gets_rules_for_another_service() -> None:
    """It stays an exemption of no Service."""
    local = _service(
        "cart", "10.96.0.11", port(80), type="LoadBalancer", load_balancer_ips=("203.0.113.9",), external_local=True
    )
    for faults in ([], ["delete IpsetEntry KUBE-LOAD-BALANCER-LOCAL .*"]):
        _sync_damaged(
            [_balancer("api", ()), _slice_here_and_there("api", "10.244.")],
            (exempt, VirtualServer(ADDRESS, 80, "TCP")),
            [local, _slice("cart", "10.244.1.6")],
            faults,
        )


def test_exemption_that_comes_again_after_endpoints_went_keeps_its_set_from_rules_while_it_cannot_be_deleted() -> None:
    _sync_damaged(
        [_balancer("api", ()), _slice_here_and_there("api", "10.244.")],
        (exempt, VirtualServer(ADDRESS, 80, "TCP")),
        [_balancer("api", (), external_local=True)],
        ["delete IpsetEntry KUBE-LOAD-BALANCER-LOCAL .*"],
    )


def test_address_is_bound_after_endpoints_went_whose_clients_would_get_no_answers() -> None:
    """The rules that masquerade are refused, so it is not bound until the policy is Local; then endpoints stay."""
    pods, fields = _slice_here_and_there("web", "10.244."), {"type": "LoadBalancer"}

    def web(*load_balancer_ips: str, external_local: bool = False) -> ObjectEvent:
        ips = {"external_ips": ("203.0.113.7",), "load_balancer_ips": load_balancer_ips}
        return _service("web", "10.96.0.13", port(80), external_local=external_local, **ips, **fields)

    sync_with_faults(
        [[web(ADDRESS), pods], [web()], [web(ADDRESS)], [web(ADDRESS, external_local=True)]],
        [[], [], ["(add|update) Chain IPv4 nat"], ["update RealServer"]],
        [31.0, 31.0, 31.0, 31.0],
    )


def test_exemption_whose_rules_were_refused_takes_effect_after_endpoints_went() -> None:
    """They masquerade all until the sync in which a local endpoint comes and the other one goes."""
    balancer = {"type": "LoadBalancer", "load_balancer_ips": ("2001:db8::9",)}
    there, both = (
        SliceUpserted(endpoint_slice("web", endpoints))
        for endpoints in ([endpoint(POD_6_THERE, THERE)], [endpoint(POD_6_HERE), endpoint(POD_6_THERE, THERE)])
    )
    local = _service("web", "fd00:96::13", port(80), external_local=True, **balancer)
    sync_with_faults(
        [[_service("web", "fd00:96::13", port(80), **balancer), both], [local, there], [both]],
        [["add Ipset .*LOOP-BACK"], ["(add|update) Chain .*LOAD-BALANCER"], []],
        [31.0, 31.0, 31.0],
    )


def test_endpoint_that_cannot_be_removed_is_met_as_before_at_an_address_that_waited_for_rules() -> None:
    """Clients outside meet ClusterIPs of a family without pod networks unmasqueraded, whatever the policy."""
    pods = _slice_here_and_there("web", "fd00:10:244:", "UDP")
    sync_with_faults(
        [
            [_service("web", "fd00:96::13", port(80, "UDP")), pods],
            [_service("web", "fd00:96::13", port(80, "UDP"), internal_local=True)],
        ],
        [["add Ipset .*LOOP-BACK"], ["delete RealServer"]],
        [61.0, 0.1],
    )


def test_endpoint_that_cannot_be_removed_is_met_at_an_address_that_gets_source_ranges_and_waited_for_rules() -> None:
    """All were to meet it there before; the clients that the source ranges admit do, and no others."""
    pods = [_slice("api", "10.244.1.5", "10.244.1.6"), _slice("api", "10.244.1.5")]
    sync_with_faults(
        [[_balancer("api", ()), pods[0]], [_balancer("api", ("198.51.100.0/24",)), pods[1]]],
        [["add Ipset .*LOOP-BACK"], ["(update|delete) RealServer"]],
        [61.0, 0.1],
    )


def test_address_that_becomes_exempt_is_bound_after_endpoints_went() -> None:
    """It waited for rules, and its Service gets the policy Local meanwhile; its endpoint on another node stays."""
    pods = _slice_here_and_there("api", "10.244.")
    sync_with_faults(
        [
            [_service("api", "10.96.0.10", port(80), type="LoadBalancer"), pods],
            [_balancer("api", ())],
            [_balancer("api", (), external_local=True)],
        ],
        [[], ["(add|update) Chain IPv4 nat"], ["update RealServer"]],
        [31.0, 31.0, 31.0],
    )


def test_source_ranges_shut_out_until_a_virtual_server_is_there_that_another_program_deleted() -> None:
    """It waits for rules, which are refused, so whom the source ranges let in would reach the host's own port."""
    for ranges in ((), ("203.0.113.250/32",)):
        _sync_damaged(
            [_balancer("api", ("198.51.100.0/24",)), _slice("api", "10.244.1.5")],
            (delete, VirtualServer(ADDRESS, 80, "TCP"), Chain("IPv4", "nat", "KUBE-LOAD-BALANCER")),
            [_balancer("api", ranges)],
            ["add Chain .*LOAD-BALANCER"],
        )


def test_address_is_bound_after_the_exemption_of_a_node_port_went_that_has_the_number_of_its_port() -> None:
    """Clients outside are masqueraded at a ClusterIP without pod networks only because its port is a NodePort's."""
    pods, fields = _slice_here_and_there("api", "fd00:10:244:"), {"type": "NodePort"}
    node_port = port(80, node_port=30080)
    for faults in ([], ["delete IpsetEntry .*LOCAL"]):
        sync_with_faults(
            [
                [
                    _service("api", "fd00:96::10", port(30080)),
                    _service("cart", "fd00:96::11", node_port, external_local=True, **fields),
                    pods,
                ],
                [_service("cart", "fd00:96::11", node_port, **fields)],
            ],
            [["add Ipset .*LOOP-BACK"], faults],
            [61.0, 61.0],
        )


def test_exemption_of_a_node_port_goes_before_real_servers_come_also_where_an_address_comes() -> None:
    """The NodePort passes to a Service that comes, with its address, when the one with the policy Local goes."""
    node_port = port(80, node_port=30080)
    sync_with_faults(
        [
            [
                _service("api", "10.96.0.10", node_port, type="NodePort", external_local=True),
                *(_slice(text, "10.244.1.5") for text in ("api", "cart")),
                SliceUpserted(endpoint_slice("cart", [endpoint("10.244.2.5", THERE)], suffix="2")),
            ],
            [ServiceDeleted(name("api")), _service("cart", "10.96.0.11", node_port, type="NodePort")],
        ],
        [[], []],
        [0.1, 0.1],
    )


def test_address_is_bound_after_a_node_port_masquerades_that_has_the_number_of_its_port() -> None:
    """The same, where rules were refused before the Service with the NodePort was made."""
    sync_with_faults(
        [
            [_service("api", "fd00:96::10", port(30080)), _slice_here_and_there("api", "fd00:10:244:")],
            [_service("cart", "fd00:96::11", port(80, node_port=30080), type="NodePort")],
        ],
        [["add Ipset .*LOOP-BACK"], ["add IpsetEntry .*NODE-PORT"]],
        [61.0, 61.0],
    )


def test_address_that_another_program_binds_while_rules_are_refused_is_served_in_the_end() -> None:
    """The address waits for rules; they come in the sync in which the Service's policy, and so its set, changes."""
    kernel = DamagedKernel()
    checked = CheckedAgent(kernel)
    client = Packet("198.51.100.77", ADDRESS, 80, "tcp")

    def sync(*, is_local: bool, refused: list[str]) -> None:
        tcp = port(80, label="a")
        api = _service("api", "10.96.0.10", tcp, external_ips=(ADDRESS,), type="NodePort", external_local=is_local)
        checked.handle([api, SliceUpserted(endpoint_slice("api", ["10.244.1.5"], label="a"))])
        kernel.fault = failing(refused)
        checked.advance(31.0)
        checked.sync()

    sync(is_local=True, refused=["add Ipset .*-CLUSTER-IP"])
    assert fate(kernel.state, client).result == "elsewhere"
    kernel.damage(bind, [VirtualServer(ADDRESS, 80, "TCP")])
    sync(is_local=False, refused=[])
    assert fate(kernel.state, client).result == "served"


def test_clients_of_new_source_ranges_are_shut_out_while_the_rules_on_these_are_refused() -> None:
    """The port's protocol changes twice; the entry that closed the first one stays, and so does the rule on its set.

    So the next entry closes the port at once, while what opens it to some waits, as where a range is refused.
    """
    kernel = DamagedKernel()
    checked = CheckedAgent(kernel)

    def sync(protocol: Protocol, ranges: tuple[str, ...], failing_steps: list[str]) -> None:
        served = port(80, protocol, label="a")
        balancer = _service(
            "web", "10.96.0.13", served, type="LoadBalancer", load_balancer_ips=(ADDRESS,), source_ranges=ranges
        )
        pods = endpoint_slice("web", ["10.244.1.5"], protocol=protocol, label="a")
        checked.handle([balancer, SliceUpserted(pods)])
        kernel.fault = failing(failing_steps)
        checked.advance(31.0)
        checked.sync()

    sync("TCP", ("203.0.113.250/32",), [])
    kernel.damage(delete, [Address(ADDRESS)])
    sync("UDP", (), ["delete IpsetEntry .*-FW"])
    sync("UDP", ("203.0.113.250/32",), ["(add|update) Chain .* filter"])
    clients = [Packet(client, ADDRESS, 80, "udp") for client in ("203.0.113.250", "198.51.100.77")]
    assert [fate(kernel.state, client).result for client in clients] == ["shut out", "shut out"]
    checked.settle()
    assert [fate(kernel.state, client).result for client in clients] == ["served", "shut out"]


def _sync_damaged(
    first: list[ObjectEvent],
    damage: tuple[Damage, *tuple[Key, ...]],
    second: list[ObjectEvent],
    faults: Sequence[str] = (),
) -> None:
    """Sync after *first*, and after *damage* and *second*, while steps that match one of *faults* are refused."""
    kernel = DamagedKernel()
    checked = CheckedAgent(kernel)
    checked.handle(first)
    checked.sync()
    does, *keys = damage
    for key in keys:
        kernel.damage(does, [key])
    checked.handle(second)
    checked.advance(31.0)
    kernel.fault = failing(faults)
    checked.sync()
    checked.settle()


def _slice_here_and_there(text: str, network: str, protocol: Protocol = "TCP") -> ObjectEvent:
    host = "::5" if "fd00" in network else ".5"
    pods = [endpoint(f"{network}1{host}"), endpoint(f"{network}2{host}", THERE)]
    return SliceUpserted(endpoint_slice(text, pods, protocol=protocol))


def _balancer(text: str, ranges: tuple[str, ...], **fields: object) -> ObjectEvent:
    return _service(
        text,
        {"api": "10.96.0.10", "cart": "10.96.0.11"}[text],
        port(80),
        type="LoadBalancer",
        load_balancer_ips=(ADDRESS,),
        source_ranges=ranges,
        **fields,
    )


def _slice(text: str, *endpoints: str) -> ObjectEvent:
    return SliceUpserted(endpoint_slice(text, endpoints))


def _service(text: str, cluster_ip: str, *ports: object, **fields: object) -> ObjectEvent:
    return ServiceUpserted(service(text, (cluster_ip,), ports, **fields))  # type: ignore[arg-type]
