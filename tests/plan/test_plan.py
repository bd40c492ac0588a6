"""make_plan: the least steps, in the order that harms nobody."""

from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Address,
    Chain,
    ChainSpec,
    IpsetEntry,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.plan.ownership import filter_owned, filter_removable
from kubeproxy_py.plan.plan import make_plan, merged
from kubeproxy_py.plan.render import plan_json, plan_text

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
OLD, NEW = RealServer(SERVER, "10.1.0.5", 8080), RealServer(SERVER, "10.1.0.7", 8080)
RR = VirtualServerSpec("rr")


def kinds(steps: object) -> list[tuple[str, str]]:
    return [(step.verb, type(step.key).__name__) for step in steps]  # type: ignore[attr-defined]


def test_what_a_packet_meets_first_is_made_last() -> None:
    desired: Rows = {
        Address("10.96.0.10"): None,
        NEW: SERVING,
        SERVER: RR,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        Link("kube-ipvs0"): None,
        Sysctl("net/ipv4/vs/conntrack"): "1",
    }
    order = ["Sysctl", "Link", "IpsetEntry", "VirtualServer", "RealServer", "Address"]
    assert kinds(make_plan(desired, {})) == [("add", kind) for kind in order]


def test_what_a_packet_meets_first_goes_first() -> None:
    actual: Rows = {
        SERVER: RR,
        OLD: SERVING,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        Address("10.96.0.10"): None,
    }
    order = ["Address", "RealServer", "VirtualServer", "IpsetEntry"]
    assert kinds(make_plan({}, actual)) == [("delete", kind) for kind in order]


def test_the_set_whose_members_are_refused_is_filled_last_and_emptied_first() -> None:
    named, refused = IpsetEntry("KUBE-CLUSTER-IP", "10.0.0.1,tcp:80"), IpsetEntry("KUBE-IPVS-IPS", "10.0.0.1")
    assert [step.key for step in make_plan({refused: None, named: None}, {})] == [named, refused]
    assert [step.key for step in make_plan({}, {named: None, refused: None})] == [refused, named]


def test_a_replaced_pod_is_added_before_the_old_one_drains() -> None:
    plan = make_plan({SERVER: RR, NEW: SERVING}, {SERVER: RR, OLD: SERVING})
    assert list(plan) == [Step("add", NEW, SERVING), Step("update", OLD, DRAINING, SERVING)]


def test_a_real_server_that_drains_is_left_alone() -> None:
    assert not make_plan({SERVER: RR}, {SERVER: RR, OLD: DRAINING}).steps


def test_a_real_server_that_comes_back_gets_its_weight_in_place() -> None:
    plan = make_plan({SERVER: RR, OLD: SERVING}, {SERVER: RR, OLD: DRAINING})
    assert list(plan) == [Step("update", OLD, SERVING, DRAINING)]


def test_udp_does_not_drain() -> None:
    server = VirtualServer("10.96.0.10", 53, "UDP")
    gone = RealServer(server, "10.1.0.5", 5353)
    assert kinds(make_plan({server: RR}, {server: RR, gone: SERVING})) == [("delete", "RealServer")]


def test_what_drains_goes_with_its_virtual_server() -> None:
    assert kinds(make_plan({}, {SERVER: RR, OLD: DRAINING})) == [("delete", "RealServer"), ("delete", "VirtualServer")]


def test_only_the_keys_asked_for_are_looked_at() -> None:
    other = VirtualServer("10.96.0.11", 80, "TCP")
    assert [step.key for step in make_plan({SERVER: RR, other: RR}, {}, [SERVER])] == [SERVER]


def test_settings_are_never_taken_back() -> None:
    assert not make_plan({}, {Sysctl("net/ipv4/ip_forward"): "1"}).steps


CHAIN = Chain("IPv4", "nat", "KUBE-SERVICES")


def test_a_chain_keeps_its_old_rules_until_what_they_speak_of_is_gone() -> None:
    gone = IpsetEntry("KUBE-CLUSTER-IP", "10.0.0.1,tcp:80")
    desired: Rows = {CHAIN: ChainSpec(("a", "new", "z"))}
    plan = make_plan(desired, {CHAIN: ChainSpec(("a", "old", "z")), gone: None})
    both = ChainSpec(("a", "new", "old", "z"))
    assert list(plan) == [
        Step("update", CHAIN, both, ChainSpec(("a", "old", "z"))),
        Step("delete", gone),
        Step("update", CHAIN, ChainSpec(("a", "new", "z")), both),
    ]


def test_merging_keeps_the_order_of_both() -> None:
    assert merged(("a", "c", "d"), ("a", "b", "d", "e")) == ("a", "c", "b", "d", "e")
    assert merged((), ("x",)) == ("x",)
    assert merged(("x",), ()) == ("x",)


def test_virtual_servers_in_excluded_networks_are_not_ours() -> None:
    theirs = VirtualServer("192.0.2.1", 80, "TCP")
    rows: Rows = {SERVER: RR, theirs: RR, RealServer(theirs, "10.9.9.9", 80): SERVING}
    assert filter_owned(rows, ["192.0.2.0/24"]) == {SERVER: RR}


def test_what_a_service_wants_in_excluded_networks_is_ours_with_every_real_server_that_it_has() -> None:
    theirs = VirtualServer("10.96.0.99", 80, "TCP")
    rows: Rows = {SERVER: RR, OLD: SERVING, theirs: RR, RealServer(theirs, "10.9.9.9", 80): SERVING}
    assert filter_owned(rows, ["10.96.0.0/16"], {SERVER: RR}) == {SERVER: RR, OLD: SERVING}


def test_cleaning_up_takes_only_virtual_servers_that_our_sets_name() -> None:
    node_port, theirs = VirtualServer("192.168.3.10", 30080, "TCP"), VirtualServer("192.0.2.1", 80, "TCP")
    rows: Rows = {
        SERVER: RR,
        node_port: RR,
        VirtualServer("192.168.3.10", 30080, "UDP"): RR,
        theirs: RR,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        IpsetEntry("KUBE-NODE-PORT-TCP", "30080"): None,
        Sysctl("net/ipv4/ip_forward"): "1",
    }
    found = {key for key in filter_removable(rows, ["192.168.3.10"]) if isinstance(key, VirtualServer)}
    assert found == {SERVER, node_port}
    assert not any(isinstance(key, Sysctl) for key in filter_removable(rows, []))


def test_a_plan_prints_as_people_know_it() -> None:
    desired: Rows = {SERVER: VirtualServerSpec("wrr"), NEW: SERVING, CHAIN: ChainSpec(("-j RETURN",))}
    assert plan_text(make_plan(desired, {SERVER: RR, OLD: SERVING, CHAIN: ChainSpec(())})) == (
        "~ Chain         IPv4 nat KUBE-SERVICES  (1 rule)\n"
        "    + -j RETURN\n"
        "~ VirtualServer 10.96.0.10:80/TCP  (rr -> wrr)\n"
        "+ RealServer    10.96.0.10:80/TCP -> 10.1.0.7:8080\n"
        "~ RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080  (weight 1 -> weight 0)\n"
    )


def test_a_plan_as_json_names_kind_and_key() -> None:
    assert plan_json(make_plan({SERVER: RR}, {})) == (
        b'[{"verb":"add","kind":"VirtualServer","key":"10.96.0.10:80/TCP","spec":"rr","before":null}]'
    )


def test_keys_of_different_kinds_are_never_equal() -> None:
    same: list[Key] = [Link("x"), Address("x"), Sysctl("x")]
    assert len(set(same)) == len(same)
