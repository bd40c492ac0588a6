"""The table of checks: what is found in each example, what is well, and what could not be looked at."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kubeproxy_py.checks.all_checks import CHECKS, REASONS, RESIDENT, run_checks
from kubeproxy_py.checks.check import Check, diagnose, worst
from kubeproxy_py.checks.programs import PROGRAMS
from kubeproxy_py.checks.rivals import Facts as RivalFacts
from kubeproxy_py.checks.rivals import ProxyProcess
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import (
    Affinity,
    ApiServer,
    ChainFacts,
    ConntrackFacts,
    HostFacts,
    IpvsTimeouts,
    Lack,
    ServedAddress,
)
from kubeproxy_py.model.node import HostAddress, Node
from tests.checks import doctor_page
from tests.checks.examples import (
    ADDRESSES,
    DAY_S,
    DOCTOR,
    EXAMPLES,
    FACTS,
    SYSCTLS,
    WELL,
    with_certificate,
    with_doctor,
    with_facts,
)

ALL_REASONS = [reason for check in CHECKS for reason in check.reasons]


def find(situation: Situation) -> dict[str, Finding]:
    """Return what all checks find, by reason."""
    return {finding.reason: finding for finding in run_checks(situation, CHECKS)}


def check_called(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


def test_each_reason_has_an_example_and_is_found_by_one_check() -> None:
    assert list(EXAMPLES) == ALL_REASONS
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("reason", EXAMPLES)
def test_example_is_found_with_cause_effect_and_remedy_and_nothing_else_is(reason: str) -> None:
    found = find(EXAMPLES[reason])
    assert list(found) == [reason]
    finding = found[reason]
    assert (finding.subject, finding.message, finding.hint) != ("", "", "")
    assert finding.message
    assert finding.hint
    assert finding.cause or reason == "AnotherServiceProxy"


def test_well_node_has_no_findings_and_every_check_is_ok() -> None:
    assert {diagnose(check, WELL).state for check in CHECKS} == {"ok"}


def test_nothing_is_found_where_nothing_is_known() -> None:
    assert run_checks(Situation(facts=HostFacts()), CHECKS) == ()


def test_page_is_generated_from_the_table_of_checks() -> None:
    assert doctor_page.PAGE.read_text(encoding="utf-8") == doctor_page.page(), "hint: make doctor-page"


def test_agent_reports_the_resident_checks_and_their_reasons() -> None:
    assert tuple(reason for check in RESIDENT for reason in check.reasons) == REASONS
    assert {"ConntrackTableFull", "HairpinOff", "InputDropsServices", "SourcePortReuse"} <= set(REASONS)
    assert [finding.reason for finding in run_checks(EXAMPLES["ConntrackTableFull"])] == ["ConntrackTableFull"]
    assert run_checks(EXAMPLES["ClockSkewed"]) == ()  # not resident


def test_api_server_that_does_not_answer_is_not_seen_to_answer_and_nothing_is_compared_with_it() -> None:
    away = replace(EXAMPLES["ApiServerUnreachable"], node=None)
    found = {check.name: diagnose(check, away) for check in CHECKS}
    assert found["api-server"].seen == ""
    unknown = {name: diagnosis.unread for name, diagnosis in found.items() if diagnosis.state == "unknown"}
    assert unknown == {
        "clock": "the API server does not answer; nothing was compared",
        "node-name": "no Node object with this name could be read; nothing was compared",
    }
    assert (found["clock"].seen, found["node-name"].seen) == ("", "")


def test_sysctls_that_no_agent_has_set_yet_are_not_counted() -> None:
    situation = replace(WELL, wanted_sysctls={})
    assert diagnose(check_called("sysctls"), situation).seen == "none is compared: the agent sets them at its start"


def test_what_is_seen_does_not_contradict_what_is_found() -> None:
    seen = {
        reason: diagnose(check, EXAMPLES[reason]).seen
        for check in CHECKS
        for reason in check.reasons
        if reason in ("RightsMissing", "SysctlWrong")
    }
    wanted = len(EXAMPLES["SysctlWrong"].wanted_sysctls)
    assert seen == {"RightsMissing": "", "SysctlWrong": f"{wanted - 1} sysctls have the required values"}


# Unknown


@pytest.mark.parametrize("check", [check for check in CHECKS if check.needs], ids=lambda check: check.name)
def test_check_whose_facts_could_not_be_read_is_unknown_and_says_why(check: Check) -> None:
    for part in check.needs:
        diagnosis = diagnose(check, with_doctor(unread={part: "Operation not permitted"}))
        assert (diagnosis.state, diagnosis.findings) == ("unknown", ())
        assert diagnosis.unread == f"{part}: Operation not permitted"
        diagnosis = diagnose(check, with_facts(unread={part: "Operation not permitted"}))
        assert diagnosis.state == "unknown"


@pytest.mark.parametrize(
    ("name", "situation", "why"),
    [
        (
            "clock",
            with_doctor(api_server=ApiServer("https://192.0.2.1")),
            "the API server has sent no time; nothing was compared",
        ),
        ("node-name", replace(WELL, node=Node("worker-1")), "Node worker-1 has no addresses; nothing was compared"),
        ("arp", with_doctor(sysctls={}), "net.ipv4.conf.all.arp_ignore cannot be read; nothing was compared"),
        (
            "local-ports",
            with_doctor(local_ports=(0, -1)),
            "net.ipv4.ip_local_port_range cannot be read; nothing was compared",
        ),
        (
            "idle-connections",
            with_doctor(sysctls={}),
            "net.ipv4.tcp_keepalive_time cannot be read; nothing was compared",
        ),
        ("kernel-features", EXAMPLES["RightsMissing"], "this process lacks rights; see the check rights"),
        ("kernel-settings", with_facts(kernel=None), "version and settings of the kernel cannot be read"),
    ],
)
def test_check_that_had_nothing_to_compare_with_is_unknown_and_says_so(
    name: str, situation: Situation, why: str
) -> None:
    diagnosis = diagnose(check_called(name), situation)
    assert (diagnosis.state, diagnosis.findings, diagnosis.unread) == ("unknown", (), why)


def test_node_without_an_api_server_has_no_unknown_checks() -> None:
    alone = replace(with_doctor(api_server=None, certificates=()), node=None)
    assert {diagnose(check, alone).state for check in CHECKS} == {"ok"}


def test_what_is_found_counts_although_a_part_could_not_be_read() -> None:
    situation = EXAMPLES["AnotherServiceProxy"]
    diagnosis = diagnose(
        check_called("other-proxies"), replace(situation, doctor=replace(DOCTOR, unread={"sets": "not permitted"}))
    )
    assert (diagnosis.state, len(diagnosis.findings), diagnosis.unread) == ("error", 1, "sets: not permitted")


def test_missing_rights_hide_the_rest_and_are_no_fault_of_the_node() -> None:
    diagnosis = diagnose(CHECKS[0], EXAMPLES["RightsMissing"])
    assert (diagnosis.check.name, diagnosis.state) == ("rights", "unknown")
    assert "NET_ADMIN and NET_RAW" in diagnosis.findings[0].cause


def test_wrong_is_worse_than_unknown_and_unknown_than_a_warning() -> None:
    assert worst(["ok", "warning", "unknown", "error"]) == "error"
    assert worst(["unknown", "warning"]) == "unknown"
    assert worst([]) == "ok"


# Sysctls and settings


@pytest.mark.parametrize(
    ("path", "value", "read_only", "severity", "remedy"),
    [
        ("net/ipv4/vs/conntrack", "0", False, "error", "sysctl -w net.ipv4.vs.conntrack=1; a running agent"),
        ("net/ipv4/vs/conntrack", "0", True, "error", "sysctl -w net.ipv4.vs.conntrack=1, on the host"),
        ("net/ipv4/vs/expire_nodest_conn", None, False, "error", "modprobe"),
        ("net/netfilter/nf_conntrack_max", "65536", True, "warning", "on the host"),
    ],
)
def test_sysctl_is_named_with_its_value_and_the_remedy(
    path: str, value: str | None, read_only: bool, severity: str, remedy: str
) -> None:
    sysctls = {name: text for name, text in DOCTOR.sysctls.items() if name != path}
    if value is not None:
        sysctls[path] = value
    found = find(with_doctor(sysctls=sysctls, read_only=frozenset((path,) if read_only else ())))
    finding = found["SysctlWrong"]
    assert (finding.subject, finding.severity) == (path.replace("/", "."), severity)
    assert remedy in finding.hint
    assert ("read-only" in finding.cause) == read_only
    assert (f"it is {value}, not {SYSCTLS[path]}" in finding.cause) == (value is not None)


def test_optional_sysctl_that_does_not_exist_is_well() -> None:
    path = "net/netfilter/nf_conntrack_max"
    assert find(with_doctor(sysctls={name: text for name, text in DOCTOR.sysctls.items() if name != path})) == {}


@pytest.mark.parametrize(
    ("ignore", "announce", "address", "found"),
    [
        ("0", "0", "192.168.3.200", True),
        ("1", "0", "192.168.3.200", True),
        ("1", "2", "192.168.3.200", False),
        ("2", "2", "192.168.3.200", False),
        ("0", "0", "203.0.113.1", False),  # routed to the node: nobody asks for it by ARP
        ("0", "0", "fd00:3::200", False),  # neighbour discovery has no such setting
    ],
)
def test_arp_matters_for_load_balancer_addresses_of_our_networks(
    ignore: str, announce: str, address: str, found: bool
) -> None:
    sysctls = {**DOCTOR.sysctls, "net/ipv4/conf/all/arp_ignore": ignore, "net/ipv4/conf/all/arp_announce": announce}
    served = frozenset((ServedAddress(address, "load balancer address"),))
    assert ("ArpAnswersForLoadBalancers" in find(with_doctor(sysctls=sysctls, served=served))) == found


def test_strict_reverse_paths_matter_where_no_route_leads() -> None:
    strict = dict.fromkeys(("lo", "eth0", "eth1", "cni0", "kube-ipvs0"), 1)
    assert find(with_doctor(rp_filter=strict))["ReversePathStrict"].subject == "interface eth1"
    assert find(with_doctor(rp_filter={"eth1": 2})) == {}


@pytest.mark.parametrize(
    ("ports", "reserved", "local", "named"),
    [
        ((30080,), (), (32768, 60999), ""),
        ((30080,), (30080,), (1024, 65000), ""),
        ((30080, 31000), (30080,), (1024, 65000), "NodePort 31000"),
        (range(30000, 30005), (), (1024, 65000), "NodePort 30000, 30001, 30002 and 2 more"),
        ((30080,), (), (0, -1), ""),
    ],
)
def test_node_ports_that_are_local_ports_are_named(
    ports: tuple[int, ...], reserved: tuple[int, ...], local: tuple[int, int], named: str
) -> None:
    found = find(with_doctor(node_ports=frozenset(ports), reserved_ports=frozenset(reserved), local_ports=local))
    assert [finding.subject for finding in found.values()] == ([named] if named else [])


@pytest.mark.parametrize(
    ("tcp_s", "keepalive", "found"), [(900, "7200", True), (900, "600", False), (7500, "7200", False)]
)
def test_ipvs_timeout_is_compared_with_keepalive(tcp_s: int, keepalive: str, found: bool) -> None:
    sysctls = {**DOCTOR.sysctls, "net/ipv4/tcp_keepalive_time": keepalive}
    findings = find(with_doctor(sysctls=sysctls, timeouts=IpvsTimeouts(tcp_s, 120, 300)))
    assert ("IdleConnectionsForgotten" in findings) == found
    assert all("--ipvs-tcp-timeout" in finding.hint for finding in findings.values())


def test_affinity_as_long_as_time_wait_is_well() -> None:
    assert find(with_doctor(affinities=(Affinity("10.96.0.10:80/TCP", 120),))) == {}


# Programs


def test_sets_chains_and_interfaces_give_another_proxy_away() -> None:
    traces = {
        "kube-router": (
            with_doctor(set_names=("kube-router-ipvs-services",)),
            with_doctor(interfaces=("kube-dummy-if",)),
            with_facts(tables={("IPv4", "filter"): {"KUBE-ROUTER-SERVICES": ChainFacts()}}),
        ),
        "Cilium": (
            with_doctor(interfaces=("cilium_host",)),
            with_facts(tables={("IPv4", "filter"): {"CILIUM_FORWARD": ChainFacts()}}),
        ),
    }
    for program, situations in traces.items():
        for situation in situations:
            finding = find(situation)["AnotherServiceProxy"]
            assert finding.subject == program
            assert finding.severity == ("warning" if program == "Cilium" else "error")


def test_network_policies_of_kube_router_are_no_service_proxy() -> None:
    assert find(with_facts(tables={("IPv4", "filter"): {"KUBE-ROUTER-INPUT": ChainFacts()}})) == {}


def test_proxy_that_was_seen_as_a_process_is_not_found_twice() -> None:
    situation = replace(
        with_doctor(interfaces=("kube-dummy-if",)), rivals=RivalFacts((ProxyProcess(12, "kube-router"),))
    )
    findings = list(check_called("other-proxies").find(situation))
    assert [finding.subject for finding in findings] == ["kube-router (pid 12)"]


def test_foreign_servers_that_are_kept_are_well_and_counted() -> None:
    situation = replace(EXAMPLES["ForeignVirtualServers"], keeps_foreign=True)
    diagnosis = diagnose(check_called("ipvs-users"), situation)
    assert (diagnosis.state, diagnosis.seen) == ("ok", "2 virtual servers, 1 of other programs, which are kept")


def test_programs_are_looked_for_that_checks_judge() -> None:
    assert {"firewalld", "keepalived"} <= set(PROGRAMS)


def test_feature_that_is_not_fatal_is_a_warning() -> None:
    found = find(with_doctor(lacks=(Lack("the kernel module xt_comment is missing", "modprobe xt_comment"),)))
    assert found["KernelLacks"].severity == "warning"


def test_any_backend_of_kubelet_that_is_ours_is_well() -> None:
    assert find(with_doctor(kubelet_backends=("nft", "legacy"))) == {}
    assert find(with_doctor(kubelet_backends=())) == {}


# Addresses and bridges


@pytest.mark.parametrize(
    ("kind", "severity"), [("ClusterIP", "error"), ("externalIP", "warning"), ("load balancer address", "warning")]
)
def test_service_address_on_another_interface_is_worse_for_a_cluster_ip(kind: str, severity: str) -> None:
    served = frozenset((ServedAddress("172.16.5.10", kind),))  # type: ignore[arg-type]
    finding = find(with_doctor(served=served))["ServiceAddressOnInterface"]
    assert (finding.severity, finding.cause) == (severity, "interface eth1 has it, too")
    assert "ip address del 172.16.5.10 dev eth1" in finding.hint


def test_address_that_has_just_gone_is_not_found() -> None:
    gone = HostAddress("eth1", "10.96.0.10", 32, is_gone=True)
    assert find(with_facts(addresses=(*ADDRESSES, gone))) == {}


def test_hairpin_matters_on_bridges_with_pods() -> None:
    assert find(with_facts(hairpin_off={"docker0": ("veth0",)})) == {}
    many = tuple(f"veth{number}" for number in range(5))
    assert "5 of its ports: veth0, veth1, veth2 ..." in find(with_facts(hairpin_off={"cni0": many}))["HairpinOff"].cause


def test_small_mtu_without_ipv6_services_and_the_kernels_own_addresses_are_well() -> None:
    device = check_called("device")
    assert diagnose(device, with_doctor(device_mtu=1000)).state == "ok"
    six = frozenset((ServedAddress("fd00:10:96::a", "ClusterIP"),))
    assert diagnose(device, with_doctor(device_mtu=1280, served=six)).state == "ok"
    assert diagnose(device, with_doctor(device_mtu=None, served=six)).seen == "no interface kube-ipvs0"
    own = (HostAddress("kube-ipvs0", "fe80::1", 64), HostAddress("kube-ipvs0", "fd00:10:96::a", 128))
    assert diagnose(device, with_facts(addresses=(*ADDRESSES, *own))).state == "ok"


def test_conntrack_without_a_limit_or_without_tracking_is_well() -> None:
    check = check_called("conntrack")
    assert diagnose(check, with_facts(conntrack=None)).seen == "connections are not tracked"
    unlimited = diagnose(check, with_facts(conntrack=ConntrackFacts(5, 0, 0)))
    assert (unlimited.state, unlimited.seen) == ("ok", "5 of any number of connections are tracked")


# API server


@pytest.mark.parametrize(("skew_s", "cause"), [(61, "ahead of"), (-61, "behind"), (59, ""), (-59, ""), (None, "")])
def test_clock_is_wrong_from_a_minute_on(skew_s: float | None, cause: str) -> None:
    found = find(with_doctor(api_server=ApiServer("https://192.0.2.1", skew_s=skew_s)))
    assert [cause in finding.cause for finding in found.values()] == ([True] if cause else [])


@pytest.mark.parametrize(
    ("first_s", "last_s", "reason", "cause"),
    [
        (-DAY_S, 31 * DAY_S, "", ""),
        (-DAY_S, 29 * DAY_S, "CertificateExpiresSoon", "it expires in 29 days"),
        (-DAY_S, 3600, "CertificateExpiresSoon", "it expires in 1.0 hours"),
        (-DAY_S, -3600, "CertificateExpired", "it expired 1.0 hours ago"),
        (7200, DAY_S, "CertificateNotYetValid", "it is valid only in 2.0 hours"),
    ],
)
def test_certificate_is_judged_by_its_dates(first_s: float, last_s: float, reason: str, cause: str) -> None:
    found = find(with_certificate(first_s, last_s))
    assert [(finding.reason, finding.cause) for finding in found.values()] == ([(reason, cause)] if reason else [])


def test_without_an_api_server_its_checks_are_well() -> None:
    situation = with_doctor(api_server=None, certificates=())
    names = ("api-server", "clock", "certificates")
    assert [diagnose(check_called(name), situation).state for name in names] == ["ok", "ok", "ok"]
    assert "--manifests" in diagnose(check_called("api-server"), situation).seen


def test_what_was_seen_is_told_where_all_is_well() -> None:
    seen = {check.name: diagnose(check, WELL).seen for check in CHECKS}
    assert seen["conntrack"] == "231 of 131072 connections are tracked"
    assert seen["sysctls"] == "3 sysctls have the required values"
    assert seen["hairpin"] == "bridges with pods: cni0"
    assert seen["certificates"] == "client certificate for 300 days, certificate authority for 3000 days"
    assert FACTS.conntrack is not None
