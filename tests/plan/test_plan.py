"""make_plan: the least steps, in a safe order."""

from kubeproxy_py.model.rows import (
    DRAINING,
    FLAG_NO_DRAINING,
    FLAG_SCHED_1,
    FLAG_SCHED_2,
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
    mark_server,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.plan.ownership import filter_owned, filter_removable
from kubeproxy_py.plan.plan import make_plan, merge_rules
from kubeproxy_py.plan.render import plan_json, plan_text, step_lines

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
OLD, NEW = RealServer(SERVER, "10.1.0.5", 8080), RealServer(SERVER, "10.1.0.7", 8080)
RR = VirtualServerSpec("rr")


def kinds(steps: object) -> list[tuple[str, str]]:
    return [(step.verb, type(step.key).__name__) for step in steps]  # type: ignore[attr-defined]


def test_additions_are_in_build_order() -> None:
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


def test_deletions_are_in_reverse_build_order() -> None:
    actual: Rows = {
        SERVER: RR,
        OLD: SERVING,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        Address("10.96.0.10"): None,
    }
    order = ["Address", "RealServer", "VirtualServer", "IpsetEntry"]
    assert kinds(make_plan({}, actual)) == [("delete", kind) for kind in order]


def test_ipvs_ips_set_is_filled_last_and_emptied_first() -> None:
    other, ipvs_ips = IpsetEntry("KUBE-CLUSTER-IP", "10.0.0.1,tcp:80"), IpsetEntry("KUBE-IPVS-IPS", "10.0.0.1")
    assert [step.key for step in make_plan({ipvs_ips: None, other: None}, {})] == [other, ipvs_ips]
    assert [step.key for step in make_plan({}, {other: None, ipvs_ips: None})] == [ipvs_ips, other]


def test_new_real_server_is_added_before_the_old_one_drains() -> None:
    plan = make_plan({SERVER: RR, NEW: SERVING}, {SERVER: RR, OLD: SERVING})
    assert list(plan) == [Step("add", NEW, SERVING), Step("update", OLD, DRAINING, SERVING)]


def test_draining_real_server_needs_no_step() -> None:
    assert not make_plan({SERVER: RR}, {SERVER: RR, OLD: DRAINING}).steps


def test_draining_real_server_that_is_desired_again_gets_its_weight_in_place() -> None:
    plan = make_plan({SERVER: RR, OLD: SERVING}, {SERVER: RR, OLD: DRAINING})
    assert list(plan) == [Step("update", OLD, SERVING, DRAINING)]


def test_udp_real_server_is_deleted_without_draining() -> None:
    server = VirtualServer("10.96.0.10", 53, "UDP")
    removed = RealServer(server, "10.1.0.5", 5353)
    assert kinds(make_plan({server: RR}, {server: RR, removed: SERVING})) == [("delete", "RealServer")]


def test_draining_real_server_is_deleted_with_its_virtual_server() -> None:
    assert kinds(make_plan({}, {SERVER: RR, OLD: DRAINING})) == [("delete", "RealServer"), ("delete", "VirtualServer")]


def test_only_given_keys_are_planned() -> None:
    other = VirtualServer("10.96.0.11", 80, "TCP")
    assert [step.key for step in make_plan({SERVER: RR, other: RR}, {}, [SERVER])] == [SERVER]


def test_sysctls_are_never_reset() -> None:
    assert not make_plan({}, {Sysctl("net/ipv4/ip_forward"): "1"}).steps


CHAIN = Chain("IPv4", "nat", "KUBE-SERVICES")


def test_chain_keeps_old_rules_until_the_entries_they_match_are_deleted() -> None:
    removed = IpsetEntry("KUBE-CLUSTER-IP", "10.0.0.1,tcp:80")
    desired: Rows = {CHAIN: ChainSpec(("a", "new", "z"))}
    plan = make_plan(desired, {CHAIN: ChainSpec(("a", "old", "z")), removed: None})
    both = ChainSpec(("a", "new", "old", "z"))
    assert list(plan) == [
        Step("update", CHAIN, both, ChainSpec(("a", "old", "z"))),
        Step("delete", removed),
        Step("update", CHAIN, ChainSpec(("a", "new", "z")), both),
    ]


def test_merge_rules_keeps_the_order_of_both() -> None:
    assert merge_rules(("a", "c", "d"), ("a", "b", "d", "e")) == ("a", "c", "b", "d", "e")
    assert merge_rules((), ("x",)) == ("x",)
    assert merge_rules(("x",), ()) == ("x",)


def test_virtual_servers_in_excluded_networks_are_not_owned() -> None:
    foreign = VirtualServer("192.0.2.1", 80, "TCP")
    rows: Rows = {SERVER: RR, foreign: RR, RealServer(foreign, "10.9.9.9", 80): SERVING}
    assert filter_owned(rows, ["192.0.2.0/24"]) == {SERVER: RR}


def test_desired_virtual_server_in_an_excluded_network_is_owned_with_all_its_real_servers() -> None:
    foreign = VirtualServer("10.96.0.99", 80, "TCP")
    rows: Rows = {SERVER: RR, OLD: SERVING, foreign: RR, RealServer(foreign, "10.9.9.9", 80): SERVING}
    assert filter_owned(rows, ["10.96.0.0/16"], {SERVER: RR}) == {SERVER: RR, OLD: SERVING}


def test_cleanup_deletes_only_virtual_servers_that_a_set_refers_to() -> None:
    node_port, foreign = VirtualServer("192.168.3.10", 30080, "TCP"), VirtualServer("192.0.2.1", 80, "TCP")
    rows: Rows = {
        SERVER: RR,
        node_port: RR,
        VirtualServer("192.168.3.10", 30080, "UDP"): RR,
        foreign: RR,
        IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
        IpsetEntry("KUBE-NODE-PORT-TCP", "30080"): None,
        Sysctl("net/ipv4/ip_forward"): "1",
    }
    found = {key for key in filter_removable(rows, ["192.168.3.10"]) if isinstance(key, VirtualServer)}
    assert found == {SERVER, node_port}
    assert not any(isinstance(key, Sysctl) for key in filter_removable(rows, []))


def test_plan_as_text() -> None:
    desired: Rows = {SERVER: VirtualServerSpec("wrr"), NEW: SERVING, CHAIN: ChainSpec(("-j RETURN",))}
    assert plan_text(make_plan(desired, {SERVER: RR, OLD: SERVING, CHAIN: ChainSpec(())})) == (
        "~ Chain         IPv4 nat KUBE-SERVICES  (1 rule)\n"
        "    + -j RETURN\n"
        "~ VirtualServer 10.96.0.10:80/TCP  (rr -> wrr)\n"
        "+ RealServer    10.96.0.10:80/TCP -> 10.1.0.7:8080\n"
        "~ RealServer    10.96.0.10:80/TCP -> 10.1.0.5:8080  (weight 1 -> weight 0)\n"
    )


def test_plan_as_json() -> None:
    assert plan_json(make_plan({SERVER: RR}, {})) == (
        b'[{"verb":"add","kind":"VirtualServer","key":"10.96.0.10:80/TCP","spec":"rr","before":null,"services":[]}]'
    )


def test_keys_of_different_kinds_are_never_equal() -> None:
    same: list[Key] = [Link("x"), Address("x"), Sysctl("x")]
    assert len(set(same)) == len(same)


def test_plan_text_names_the_flags_of_a_scheduler() -> None:
    server = VirtualServer("10.96.0.10", 80, "TCP")
    before, after = VirtualServerSpec("mh", FLAG_SCHED_2), VirtualServerSpec("mh", FLAG_SCHED_1 | FLAG_SCHED_2)
    (line,) = step_lines(Step("update", server, after, before))
    assert line == "~ VirtualServer 10.96.0.10:80/TCP  (mh flags port -> mh flags fallback,port)"
    by_mark = VirtualServerSpec("sh", FLAG_SCHED_1 | FLAG_NO_DRAINING)
    (line,) = step_lines(Step("add", mark_server("IPv4", 0x2001), by_mark))
    assert line == "+ VirtualServer IPv4 fwmark 0x2001  (sh flags fallback,flag-3)"
