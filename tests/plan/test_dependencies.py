"""Dependencies: which steps wait for rows that failed, in this plan or an earlier one."""

from collections.abc import Callable, Iterable
from errno import ENOMEM

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import (
    DRAINING,
    IPVS_DEVICE,
    SERVING,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    Jump,
    JumpSpec,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import UNDER_WAY, Step, StepFailure
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.apply import apply_plan
from tests.builders import node_context

DEVICE = Link(IPVS_DEVICE)
RR = VirtualServerSpec()


def entries(*texts: str) -> Rows:
    """Return the entries ``SET ENTRY``."""
    return {IpsetEntry(*text.split(" ")): None for text in texts}


def base(rows: Rows) -> Rows:
    """Return the device, sets, chains and jumps of both families with the entries in *rows*."""
    non_empty = frozenset(key.set for key in rows if isinstance(key, IpsetEntry))
    built: Rows = {Sysctl("net/ipv4/ip_forward"): "1", DEVICE: None}
    for family in FAMILIES:
        for ipset, header in kube_names.ipsets(family).items():
            built[ipset] = header
        built.update(compile_chains(family, NonEmptySets(non_empty, ("203.0.113.9,tcp:80",)), node_context()))
        built.update({jump: JumpSpec(rule) for jump, rule in kube_names.jumps(family).items()})
    return {**built, **rows}


HTTP, HTTPS = (VirtualServer("10.96.0.10", port, "TCP") for port in (80, 443))
VIP, VIP_TLS = (VirtualServer("203.0.113.9", port, "TCP") for port in (80, 443))
NODE_PORT = VirtualServer("192.168.3.10", 30080, "TCP")
POD = RealServer(HTTP, "10.244.1.5", 8080)
ADDRESS, VIP_ADDRESS = Address("10.96.0.10"), Address("203.0.113.9")
ENTRY = IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")
FW = IpsetEntry("KUBE-LOAD-BALANCER-FW", "203.0.113.9,tcp:80")
CLUSTER: Rows = {
    **entries("KUBE-CLUSTER-IP 10.96.0.10,tcp:80", "KUBE-CLUSTER-IP 10.96.0.10,tcp:443", "KUBE-IPVS-IPS 10.96.0.10"),
    HTTP: RR,
    HTTPS: RR,
    POD: SERVING,
    ADDRESS: None,
}
BALANCED: Rows = {
    **entries("KUBE-LOAD-BALANCER 203.0.113.9,tcp:443", "KUBE-IPVS-IPS 203.0.113.9"),
    VIP_TLS: RR,
    VIP_ADDRESS: None,
}
GUARDED: Rows = {
    **entries("KUBE-LOAD-BALANCER 203.0.113.9,tcp:80", "KUBE-LOAD-BALANCER-FW 203.0.113.9,tcp:80"),
    **entries("KUBE-LOAD-BALANCER-SOURCE-CIDR 203.0.113.9,tcp:80,192.0.2.0/24", "KUBE-IPVS-IPS 203.0.113.9"),
    VIP: RR,
    RealServer(VIP, "10.244.1.5", 8080): SERVING,
    VIP_ADDRESS: None,
}
NODE_PORTS: Rows = {**entries("KUBE-NODE-PORT-TCP 30080"), NODE_PORT: RR}
EVERYTHING = base({**CLUSTER, **BALANCED, **GUARDED, **NODE_PORTS})


def chain(name: str, family: Family = "IPv4") -> Chain:
    return next(key for key in kube_names.chains(family) if key.name == name and key.table == _table(name))


def _table(name: str) -> str:
    return next(table for table, known in kube_names.CHAINS if known == name)


class Harness:
    """A kernel with *rows* on which the steps on some keys fail, and the failures of one plan."""

    def __init__(self, rows: Rows | None = None) -> None:
        self.kernel = MemoryKernel(rows)
        self.failures: dict[Key, StepFailure] = {}

    def fail(self, *keys: Key, verbs: str = "add") -> "Harness":
        fault: Callable[[Step], int] = lambda step: ENOMEM * (step.verb in verbs and step.key in keys)  # noqa: E731
        self.kernel.fault = fault
        return self

    def change_to(self, desired: Rows, keys: Iterable[Key] | None = None) -> set[Key]:
        """Bring the rows to *desired*, trying *keys* only; return the keys of the steps that wait."""
        actual = dict(self.kernel.rows)
        tried = None if keys is None else list(keys)
        plan = make_plan(desired, actual, tried)
        different = {key for key in {**desired, **actual} if desired.get(key, "") != actual.get(key, "")}
        unfinished = () if tried is None else different - set(tried)
        failures = apply_plan(self.kernel, plan, desired, actual, unfinished)
        self.failures = {failure.step.key: failure for failure in failures}
        return {failure.step.key for failure in failures if failure.blocker}


def test_without_failures_every_step_is_carried_out_in_the_order_of_the_plan() -> None:
    harness = Harness()
    assert harness.change_to(EVERYTHING) == set()
    assert harness.kernel.rows == EVERYTHING
    assert harness.kernel.applied == list(make_plan(EVERYTHING, {}))


def test_rules_and_entries_that_depend_on_a_missing_set_wait() -> None:
    harness = Harness().fail(Ipset("KUBE-CLUSTER-IP"))
    waiting = harness.change_to(EVERYTHING)
    assert {chain("KUBE-SERVICES"), Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES"), ENTRY} <= waiting
    assert chain("KUBE-SERVICES", "IPv6") not in waiting


def test_a_waiting_step_names_the_row_that_it_waits_for() -> None:
    harness = Harness().fail(Ipset("KUBE-CLUSTER-IP"))
    harness.change_to(EVERYTHING)
    failure = harness.failures[ENTRY]
    assert (failure.errno, failure.message) == (0, "waits for Ipset KUBE-CLUSTER-IP")
    assert failure.blocker == Ipset("KUBE-CLUSTER-IP")


def test_an_address_waits_for_its_device() -> None:
    assert Harness().fail(DEVICE).change_to(EVERYTHING) == {ADDRESS, VIP_ADDRESS}


@pytest.mark.parametrize("name", ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-SERVICES", "KUBE-IPVS-FILTER"])
def test_no_address_of_a_family_is_bound_without_a_chain_that_protects_all(name: str) -> None:
    harness = Harness().fail(chain(name))
    harness.change_to(EVERYTHING)
    assert not {ADDRESS, VIP_ADDRESS} & harness.kernel.rows.keys()
    assert Harness().fail(chain(name, "IPv6")).change_to(EVERYTHING).isdisjoint({ADDRESS, VIP_ADDRESS})


@pytest.mark.parametrize(
    "jump",
    [
        Jump("IPv4", "nat", "PREROUTING", "KUBE-SERVICES"),
        Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES"),
        Jump("IPv4", "nat", "POSTROUTING", "KUBE-POSTROUTING"),
        Jump("IPv4", "filter", "INPUT", "KUBE-IPVS-FILTER"),
    ],
)
def test_no_address_is_bound_without_the_jump_to_its_protection(jump: Jump) -> None:
    assert {ADDRESS, VIP_ADDRESS} <= Harness().fail(jump).change_to(EVERYTHING)


def test_a_failed_jump_for_health_checks_delays_nothing() -> None:
    assert Harness().fail(Jump("IPv4", "filter", "INPUT", "KUBE-NODE-PORT")).change_to(EVERYTHING) == set()


@pytest.mark.parametrize(
    "missing",
    [
        FW,
        Ipset("KUBE-LOAD-BALANCER-SOURCE-CIDR"),
        chain("KUBE-SOURCE-RANGES-FIREWALL"),
        chain("KUBE-PROXY-FIREWALL"),
        chain("KUBE-IPVS-OUT-FILTER"),
        Jump("IPv4", "filter", "INPUT", "KUBE-PROXY-FIREWALL"),
        Jump("IPv4", "filter", "FORWARD", "KUBE-PROXY-FIREWALL"),
        Jump("IPv4", "filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER"),
    ],
    ids=str,
)
def test_only_a_service_with_source_ranges_waits_for_the_firewall(missing: Key) -> None:
    harness = Harness().fail(missing)
    waiting = harness.change_to(base({**CLUSTER, **GUARDED}))
    assert {VIP, VIP_ADDRESS} <= waiting
    assert ADDRESS in harness.kernel.rows


@pytest.mark.parametrize("missing", [FW, chain("KUBE-SOURCE-RANGES-FIREWALL"), chain("KUBE-PROXY-FIREWALL")], ids=str)
def test_an_address_whose_virtual_servers_came_before_their_source_ranges_waits_for_the_firewall(missing: Key) -> None:
    firewall = [key for key in EVERYTHING if isinstance(key, Chain) and "FIREWALL" in key.name]
    before = base({key: spec for key, spec in GUARDED.items() if key not in (FW, VIP_ADDRESS)})
    harness = Harness({key: spec for key, spec in before.items() if key not in firewall}).fail(missing)
    assert VIP_ADDRESS in harness.change_to(EVERYTHING)
    assert VIP_ADDRESS not in harness.kernel.rows


def test_a_service_with_source_ranges_at_a_bound_address_waits_and_is_not_admitted() -> None:
    harness = Harness(base({**CLUSTER, **BALANCED})).fail(chain("KUBE-PROXY-FIREWALL"), verbs="update")
    waiting = harness.change_to(EVERYTHING)
    assert {VIP, FW, IpsetEntry("KUBE-LOAD-BALANCER", "203.0.113.9,tcp:80")} <= waiting
    assert {VIP_ADDRESS, VIP_TLS} <= harness.kernel.rows.keys()


def test_a_node_port_waits_for_what_masquerades_it() -> None:
    for missing in (chain("KUBE-POSTROUTING"), chain("KUBE-SERVICES"), IpsetEntry("KUBE-NODE-PORT-TCP", "30080")):
        assert NODE_PORT in Harness().fail(missing).change_to(EVERYTHING)
    assert NODE_PORT not in Harness().fail(chain("KUBE-IPVS-FILTER")).change_to(EVERYTHING)


def test_virtual_servers_of_an_unbound_address_do_not_wait_for_chains() -> None:
    harness = Harness().fail(chain("KUBE-SERVICES"))
    harness.change_to(EVERYTHING)
    assert {HTTP, POD, ENTRY} <= harness.kernel.rows.keys()


def test_bound_addresses_stay_and_are_changed_while_a_chain_is_missing() -> None:
    without = {key: spec for key, spec in EVERYTHING.items() if key not in jumps_and_chain("KUBE-SERVICES")}
    new = RealServer(HTTP, "10.244.2.5", 8080)
    harness = Harness(without).fail(chain("KUBE-SERVICES"))
    waiting = harness.change_to({**EVERYTHING, new: SERVING})
    assert not [key for key in waiting if not isinstance(key, Jump)]
    assert new in harness.kernel.rows


def jumps_and_chain(name: str) -> set[Key]:
    return {chain(name), *(jump for jump in kube_names.jumps("IPv4") if jump.target == name)}


def test_rows_that_failed_before_are_waited_for_although_the_plan_does_not_try_them() -> None:
    missing = jumps_and_chain("KUBE-POSTROUTING")
    harness = Harness({key: spec for key, spec in base({}).items() if key not in missing})
    desired = base(CLUSTER)
    waiting = harness.change_to(desired, [key for key in desired if key not in missing])
    assert waiting == {ADDRESS}
    assert harness.change_to(desired) == set()


def test_an_address_is_not_bound_if_all_its_virtual_servers_failed() -> None:
    assert ADDRESS in Harness().fail(HTTP, HTTPS).change_to(EVERYTHING)


def test_an_address_is_not_bound_if_all_its_virtual_servers_failed_before() -> None:
    failed = (HTTP, HTTPS, POD)
    harness = Harness(base({key: spec for key, spec in CLUSTER.items() if key not in (*failed, ADDRESS)}))
    assert harness.change_to(base(CLUSTER), [ADDRESS]) == {ADDRESS}


def test_an_address_is_bound_if_one_of_its_virtual_servers_was_created() -> None:
    harness = Harness().fail(HTTPS)
    harness.change_to(EVERYTHING)
    assert ADDRESS in harness.kernel.rows


def test_real_servers_wait_for_a_virtual_server_that_waits() -> None:
    harness = Harness().fail(FW)
    assert RealServer(VIP, "10.244.1.5", 8080) in harness.change_to(EVERYTHING)


def test_deletes_of_virtual_servers_and_of_what_protects_them_wait_for_their_address() -> None:
    harness = Harness(EVERYTHING).fail(VIP_ADDRESS, verbs="delete")
    waiting = harness.change_to(base(CLUSTER))
    assert {VIP, VIP_TLS, FW, *entries("KUBE-LOAD-BALANCER 203.0.113.9,tcp:80", "KUBE-IPVS-IPS 203.0.113.9")} <= waiting


def test_nothing_waits_for_a_row_whose_update_only_removes_rules() -> None:
    harness = Harness({**base(CLUSTER), chain("KUBE-SERVICES"): ChainSpec(("-j RETURN", *_rules("KUBE-SERVICES")))})
    harness.fail(chain("KUBE-SERVICES"), verbs="update")
    new = VirtualServer("10.96.0.11", 80, "TCP")
    rows: Rows = {new: RR, Address(new.address): None, **entries("KUBE-IPVS-IPS 10.96.0.11")}
    assert harness.change_to({**base(CLUSTER), **rows}) == set()


def _rules(name: str) -> tuple[str, ...]:
    spec = base(CLUSTER)[chain(name)]
    assert isinstance(spec, ChainSpec)
    return spec.rules


LOCAL = IpsetEntry("KUBE-LOAD-BALANCER-LOCAL", "203.0.113.9,tcp:443")
NEAR, FAR = RealServer(VIP_TLS, "10.244.1.5", 8443), RealServer(VIP_TLS, "10.244.2.5", 8443)
WITH_LOCAL = base({**BALANCED, LOCAL: None, NEAR: SERVING})
WITH_CLUSTER = base({**BALANCED, NEAR: SERVING, FAR: SERVING})


def verbs_on(plan: Iterable[Step], *keys: Key) -> list[tuple[str, Key]]:
    return [(step.verb, step.key) for step in plan if step.key in keys]


def test_an_exemption_goes_before_real_servers_come_and_comes_after_they_went() -> None:
    assert verbs_on(make_plan(WITH_CLUSTER, WITH_LOCAL), LOCAL, FAR) == [("delete", LOCAL), ("add", FAR)]
    assert verbs_on(make_plan(WITH_LOCAL, WITH_CLUSTER), LOCAL, FAR) == [("update", FAR), ("add", LOCAL)]


def test_an_exemption_of_a_new_frontend_comes_before_its_address() -> None:
    plan = make_plan(WITH_LOCAL, base({}))
    assert verbs_on(plan, LOCAL, NEAR, VIP_ADDRESS) == [("add", LOCAL), ("add", NEAR), ("add", VIP_ADDRESS)]


def test_the_exemption_of_a_node_port_follows_its_real_servers_at_every_address() -> None:
    port, local = IpsetEntry("KUBE-NODE-PORT-TCP", "30080"), IpsetEntry("KUBE-NODE-PORT-LOCAL-TCP", "30080")
    far = RealServer(NODE_PORT, "10.244.2.5", 8080)
    cluster = base({port: None, NODE_PORT: RR, far: SERVING})
    local_rows = base({port: None, local: None, NODE_PORT: RR})
    assert verbs_on(make_plan(cluster, local_rows), local, far) == [("delete", local), ("add", far)]
    assert verbs_on(make_plan(local_rows, cluster), local, far) == [("update", far), ("add", local)]


def test_real_servers_wait_for_an_exemption_that_cannot_be_deleted() -> None:
    harness = Harness(WITH_LOCAL).fail(LOCAL, verbs="delete")
    assert harness.change_to(WITH_CLUSTER) == {FAR, chain("KUBE-LOAD-BALANCER")}, "a rule stays while entries match it"


def test_an_exemption_waits_for_a_real_server_that_cannot_be_drained() -> None:
    harness = Harness(WITH_CLUSTER).fail(FAR, verbs="update")
    assert harness.change_to(WITH_LOCAL) == {LOCAL}
    harness.fail()
    assert harness.change_to(WITH_LOCAL) == set()
    assert harness.kernel.rows[FAR] == DRAINING


EXTERNAL, EXTERNAL_LOCAL = (IpsetEntry(f"KUBE-EXTERNAL-IP{suffix}", "203.0.113.9,tcp:443") for suffix in ("", "-LOCAL"))


def test_an_external_ip_stays_admitted_and_masqueraded_when_one_of_its_steps_fails() -> None:
    common = {VIP_TLS: RR, NEAR: SERVING, VIP_ADDRESS: None, **entries("KUBE-IPVS-IPS 203.0.113.9")}
    cluster, local = base({**common, EXTERNAL: None, FAR: SERVING}), base({**common, EXTERNAL_LOCAL: None})
    assert Harness(cluster).fail(EXTERNAL_LOCAL).change_to(local) >= {EXTERNAL}
    assert Harness(cluster).fail(FAR, verbs="update").change_to(local) >= {EXTERNAL}
    assert Harness(local).fail(EXTERNAL).change_to(cluster) >= {EXTERNAL_LOCAL, FAR}
    assert Harness(local).fail(chain("KUBE-SERVICES"), verbs="update").change_to(cluster) >= {EXTERNAL, FAR}


def test_source_ranges_open_before_they_close_and_stay_until_they_are_open() -> None:
    cidr = IpsetEntry("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,192.0.2.0/24")
    balanced = IpsetEntry("KUBE-LOAD-BALANCER", "203.0.113.9,tcp:80")
    order = [step.key for step in make_plan(base(GUARDED), base({})) if step.key in (cidr, FW, balanced)]
    assert order == [cidr, FW, balanced]
    without = base({key: spec for key, spec in GUARDED.items() if key not in (cidr, FW)})
    assert [key for _, key in verbs_on(make_plan(without, base(GUARDED)), cidr, FW)] == [FW, cidr]


def test_a_second_step_on_a_chain_waits_while_the_first_is_under_way() -> None:
    key, entry = chain("KUBE-SERVICES"), IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.9,tcp:80")
    sets: Rows = dict(kube_names.ipsets("IPv4").items())
    harness = Harness({**sets, key: ChainSpec(("-j KUBE-A", "-j KUBE-B")), entry: None})
    tried: list[Step] = []

    def fault(step: Step) -> int:
        tried.append(step)
        return UNDER_WAY if step.key == key else 0

    harness.kernel.fault = fault
    assert harness.change_to({**sets, key: ChainSpec(("-j KUBE-B", "-j KUBE-C"))}) == {key}
    assert [step.key for step in tried] == [key, entry]


BALANCED_TLS = IpsetEntry("KUBE-LOAD-BALANCER", "203.0.113.9,tcp:443")
BALANCED_HTTP = IpsetEntry("KUBE-LOAD-BALANCER", "203.0.113.9,tcp:80")
CIDR = IpsetEntry("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,192.0.2.0/24")
OPEN: Rows = {key: spec for key, spec in GUARDED.items() if key not in (FW, CIDR)}
OTHER_POD = RealServer(VIP, "10.244.2.9", 8080)


def moved(rows: Rows) -> Rows:
    """Return *rows* after their frontend moved to a Service with another real server."""
    return base({**{key: spec for key, spec in rows.items() if not isinstance(key, RealServer)}, OTHER_POD: SERVING})


@pytest.mark.parametrize("missing", [EXTERNAL, BALANCED_TLS], ids=str)
def test_a_frontend_that_one_of_two_sets_admits_does_not_reach_the_port_of_the_host(missing: Key) -> None:
    harness = Harness(base(OPEN)).fail(missing)
    assert harness.change_to(base({**OPEN, **BALANCED, EXTERNAL: None, NEAR: SERVING})) == {NEAR}
    assert VIP_TLS in harness.kernel.rows


def test_real_servers_of_a_frontend_that_moved_wait_for_the_set_that_masquerades_them() -> None:
    near, far = (RealServer(NODE_PORT, address, 8080) for address in ("10.244.1.5", "10.244.2.5"))
    port, local = (
        IpsetEntry("KUBE-NODE-PORT-TCP", "30080"),
        IpsetEntry("KUBE-EXTERNAL-IP-LOCAL", "192.168.3.10,tcp:30080"),
    )
    harness = Harness(base({local: None, NODE_PORT: RR, near: SERVING})).fail(port)
    assert far in harness.change_to(base({port: None, NODE_PORT: RR, far: SERVING}))


def test_a_node_port_that_becomes_the_port_of_an_external_ip_stays_masqueraded() -> None:
    far = RealServer(NODE_PORT, "10.244.2.5", 8080)
    port, external = IpsetEntry("KUBE-NODE-PORT-TCP", "30080"), IpsetEntry("KUBE-EXTERNAL-IP", "192.168.3.10,tcp:30080")
    before, after = (base({entry: None, NODE_PORT: RR, far: SERVING}) for entry in (port, external))
    assert port in Harness(before).fail(external).change_to(after)
    assert external in Harness(after).fail(port).change_to(before)


def test_what_masquerades_a_frontend_that_stays_goes_after_what_exempts_it() -> None:
    local, balanced = (
        IpsetEntry(name, "192.168.3.10,tcp:30080") for name in ("KUBE-EXTERNAL-IP-LOCAL", "KUBE-LOAD-BALANCER")
    )
    port = IpsetEntry("KUBE-NODE-PORT-TCP", "30080")
    before, after = base({local: None, balanced: None, NODE_PORT: RR}), base({port: None, NODE_PORT: RR})
    assert verbs_on(make_plan(after, before), local, balanced) == [("delete", local), ("delete", balanced)]
    assert balanced in Harness(before).fail(local, verbs="delete").change_to(after)


def test_former_source_ranges_go_before_endpoints_come_that_are_closed_to_them() -> None:
    next_range = IpsetEntry("KUBE-LOAD-BALANCER-SOURCE-IP", "203.0.113.9,tcp:80,198.51.100.7")
    after = moved({key: spec for key, spec in {**GUARDED, next_range: None}.items() if key != CIDR})
    plan = make_plan(after, base(GUARDED))
    assert verbs_on(plan, next_range, CIDR, OTHER_POD) == [("add", next_range), ("delete", CIDR), ("add", OTHER_POD)]
    assert OTHER_POD in Harness(base(GUARDED)).fail(CIDR, verbs="delete").change_to(after)


def test_an_entry_whose_virtual_server_goes_does_not_wait_for_a_node_port_of_its_number() -> None:
    cluster_ip, port = IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.11,tcp:30080"), IpsetEntry("KUBE-NODE-PORT-TCP", "30080")
    before = base({cluster_ip: None, VirtualServer("10.96.0.11", 30080, "TCP"): RR})
    assert cluster_ip not in Harness(before).fail(port).change_to(base({port: None, NODE_PORT: RR}))


def test_an_exemption_waits_for_an_entry_of_its_frontend_that_failed_before() -> None:
    cluster_ip = IpsetEntry("KUBE-CLUSTER-IP", "203.0.113.9,tcp:443")
    before = base({VIP_TLS: RR, FAR: SERVING, EXTERNAL: None})
    desired = base({VIP_TLS: RR, FAR: SERVING, cluster_ip: None, EXTERNAL_LOCAL: None})
    tried = {**desired, EXTERNAL: None}.keys() - {cluster_ip}
    assert {EXTERNAL_LOCAL, EXTERNAL} <= Harness(before).change_to(desired, tried)


@pytest.mark.parametrize(
    "missing",
    [FW, next(jump for jump in kube_names.jumps("IPv4") if jump.target == kube_names.PROXY_FIREWALL_CHAIN)],
    ids=str,
)
def test_endpoints_of_a_service_with_source_ranges_wait_for_the_firewall_where_an_open_service_was(
    missing: Key,
) -> None:
    before = {key: spec for key, spec in base(OPEN).items() if key != missing}
    harness = Harness(before).fail(missing)
    assert OTHER_POD in harness.change_to(moved(GUARDED))


def test_the_firewall_stays_until_the_endpoints_of_the_service_with_source_ranges_are_gone() -> None:
    harness = Harness(base(GUARDED)).fail(RealServer(VIP, "10.244.1.5", 8080), verbs="update")
    assert {FW, CIDR} <= harness.change_to(moved(OPEN))


def test_source_ranges_stay_open_while_the_firewall_stays() -> None:
    harness = Harness(base(GUARDED)).fail(FW, verbs="delete")
    assert CIDR in harness.change_to(base(OPEN))
    assert CIDR in harness.kernel.rows


def test_a_service_with_source_ranges_is_not_admitted_at_a_bound_address_without_its_entry_in_the_firewall() -> None:
    harness = Harness(base(BALANCED)).fail(FW)
    assert {BALANCED_HTTP, VIP} <= harness.change_to(base({**BALANCED, **GUARDED}))
    assert BALANCED_HTTP not in harness.kernel.rows


def test_a_port_at_a_bound_address_is_not_admitted_before_what_masquerades() -> None:
    missing = jumps_and_chain("KUBE-POSTROUTING")
    before = {key: spec for key, spec in base(OPEN).items() if key not in missing}
    harness = Harness(before).fail(*missing)
    assert {BALANCED_TLS, VIP_TLS} <= harness.change_to(base({**OPEN, **BALANCED}))


def test_an_obsolete_exemption_goes_before_its_address_is_bound() -> None:
    before = {key: spec for key, spec in base({**BALANCED, LOCAL: None, FAR: SERVING}).items() if key != VIP_ADDRESS}
    desired = base({**BALANCED, FAR: SERVING})
    order = verbs_on(make_plan(desired, before), LOCAL, VIP_ADDRESS)
    assert order == [("delete", LOCAL), ("add", VIP_ADDRESS)]
    assert VIP_ADDRESS in Harness(before).fail(LOCAL, verbs="delete").change_to(desired)


def test_no_address_is_bound_while_an_entry_admits_a_port_of_the_host_there() -> None:
    before = base({BALANCED_HTTP: None})
    assert VIP_ADDRESS in Harness(before).fail(BALANCED_HTTP, verbs="delete").change_to(base(BALANCED))
