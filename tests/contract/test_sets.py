"""Sets and their entries, by netlink and by the ipset tool: they read back as written; what does not fit is refused."""

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.memory import IPSET_ERR_BUSY, IPSET_ERR_HASH_FULL
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.kube_names import SET_KINDS
from kubeproxy_py.model.rows import ChainSpec, Ipset, IpsetEntry, IpsetSpec, Rows, named_sets
from kubeproxy_py.model.services import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import (
    CLUSTER_IP,
    ENTRY,
    LARGER_SPEC,
    LINUX,
    LINUX_BY_TOOL,
    PORTS_SPEC,
    SERVICES,
    SETS,
    EveryRow,
    EveryRowThatChanges,
    add,
    carry_out,
    each,
    each_that_changes,
    make,
    rows_of,
    update,
)

_ENTRIES: dict[tuple[str, Family], tuple[str, ...]] = {
    ("hash:ip", "IPv4"): ("10.96.0.10", "203.0.113.255"),
    ("hash:ip", "IPv6"): ("fd00:10:96::a", "2001:db8::ffff:1:2"),
    ("hash:ip,port", "IPv4"): ("10.96.0.10,tcp:80", "10.96.0.10,udp:53", "10.96.0.10,sctp:65535"),
    ("hash:ip,port", "IPv6"): ("fd00:10:96::a,tcp:80", "fd00:10:96::a,udp:53", "2001:db8::,sctp:1"),
    ("hash:ip,port,ip", "IPv4"): ("10.244.1.5,tcp:8080,10.244.1.5",),
    ("hash:ip,port,ip", "IPv6"): ("fd00:10:244:1::5,tcp:8080,fd00:10:244:1::5",),
    ("hash:ip,port,net", "IPv4"): ("203.0.113.9,tcp:80,10.0.0.0/8", "203.0.113.9,udp:80,192.0.2.7"),
    ("hash:ip,port,net", "IPv6"): ("2001:db8::9,tcp:80,fd00::/8", "2001:db8::9,sctp:80,2001:db8::7"),
    ("bitmap:port", "IPv4"): ("1", "30080", "65535"),
    ("bitmap:port", "IPv6"): ("1", "30080", "65535"),
}


pytestmark = pytest.mark.parametrize("kernel", ["memory", LINUX, LINUX_BY_TOOL], indirect=True)


@each(SETS)
class TestSet(EveryRow):
    pass


@each_that_changes(SETS)
class TestSetThatChanges(EveryRowThatChanges):
    pass


def test_a_set_that_is_changed_keeps_its_entries_and_its_users(kernel: Kernel) -> None:
    user = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",))
    make(kernel, {CLUSTER_IP: PORTS_SPEC, ENTRY: None, SERVICES: user})
    assert carry_out(kernel, [update(CLUSTER_IP, LARGER_SPEC, PORTS_SPEC)]) == {}
    assert rows_of(kernel, CLUSTER_IP, SERVICES) == {CLUSTER_IP: LARGER_SPEC, ENTRY: None, SERVICES: user}


def _sets(family: Family) -> Rows:
    return {**tables.ipsets(family)}  # type: ignore[dict-item]  # a dict of some keys is one of all


@pytest.mark.parametrize("family", FAMILIES)
def test_entries_of_every_set_read_back_as_written(kernel: Kernel, family: Family) -> None:
    rows = _sets(family)
    rows |= {IpsetEntry(kind.name_in(family), e): None for kind in SET_KINDS for e in _ENTRIES[kind.type, family]}
    make(kernel, rows)
    assert rows_of(kernel, *rows) == rows


@pytest.mark.parametrize("family", FAMILIES)
def test_deleted_entries_are_gone_and_the_others_stay(kernel: Kernel, family: Family) -> None:
    sets = _sets(family)
    first: Rows = {IpsetEntry(kind.name_in(family), _ENTRIES[kind.type, family][0]): None for kind in SET_KINDS}
    last: Rows = {IpsetEntry(kind.name_in(family), _ENTRIES[kind.type, family][-1]): None for kind in SET_KINDS}
    make(kernel, {**sets, **first, **last})
    make(kernel, {**sets, **last}, before={**sets, **first, **last})
    assert rows_of(kernel, *sets) == {**sets, **last}


def test_an_entry_of_the_other_family_is_refused_alone(kernel: Kernel) -> None:
    make(kernel, {CLUSTER_IP: PORTS_SPEC})
    wrong = IpsetEntry(CLUSTER_IP.name, "fd00::1,tcp:80")
    right = IpsetEntry(CLUSTER_IP.name, "10.96.0.11,tcp:80")
    assert carry_out(kernel, [add(ENTRY), add(wrong), add(right)]).keys() == {wrong}
    assert rows_of(kernel, CLUSTER_IP) == {CLUSTER_IP: PORTS_SPEC, ENTRY: None, right: None}


def test_a_full_set_refuses_what_is_too_much(kernel: Kernel) -> None:
    small = IpsetSpec("hash:ip", "IPv4", maxelem=64)
    ips = Ipset("KUBE-IPVS-IPS")
    entries = [IpsetEntry(ips.name, f"10.96.0.{n}") for n in range(1, 67)]
    make(kernel, {ips: small})
    assert carry_out(kernel, [add(entry) for entry in entries]) == dict.fromkeys(entries[64:], IPSET_ERR_HASH_FULL)


_OTHER_KIND = IpsetSpec("hash:ip", "IPv4")
_LOOKING = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",))


def test_a_set_is_not_given_another_type_while_a_rule_looks_at_it(kernel: Kernel) -> None:
    make(kernel, {CLUSTER_IP: _OTHER_KIND, SERVICES: _LOOKING})
    assert carry_out(kernel, [update(CLUSTER_IP, PORTS_SPEC, _OTHER_KIND)]) == {CLUSTER_IP: IPSET_ERR_BUSY}
    assert rows_of(kernel, CLUSTER_IP) == {CLUSTER_IP: _OTHER_KIND}


def test_a_plan_makes_a_set_of_another_type_anew_and_once_it_serves_it_does_at_every_step(kernel: Kernel) -> None:
    desired: Rows = {CLUSTER_IP: PORTS_SPEC, ENTRY: None, SERVICES: _LOOKING}
    make(kernel, {CLUSTER_IP: _OTHER_KIND, IpsetEntry(CLUSTER_IP.name, "10.96.0.9"): None, SERVICES: _LOOKING})
    concerned = (CLUSTER_IP, Ipset(tables.PLACEHOLDER_SET), SERVICES)
    served = []
    for step in make_plan(desired, rows_of(kernel, *concerned)).steps:
        assert carry_out(kernel, [step]) == {}
        served.append(_is_served(rows_of(kernel, *concerned)))
    assert served == sorted(served), "a packet met a gap"
    assert rows_of(kernel, *concerned) == desired


def _is_served(rows: Rows) -> bool:
    spec = rows[SERVICES]
    assert isinstance(spec, ChainSpec)
    return any(rows.get(IpsetEntry(name, ENTRY.entry), 1) is None for name in named_sets(spec.rules))


def test_a_set_does_not_get_smaller_than_what_it_holds(kernel: Kernel) -> None:
    ips, large, small = Ipset("KUBE-IPVS-IPS"), IpsetSpec("hash:ip", "IPv4"), IpsetSpec("hash:ip", "IPv4", maxelem=64)
    rows: Rows = {ips: large, **{IpsetEntry(ips.name, f"10.96.0.{n}"): None for n in range(1, 67)}}
    make(kernel, rows)
    assert carry_out(kernel, [update(ips, small, large)]) == {ips: IPSET_ERR_HASH_FULL}
    assert rows_of(kernel, ips) == rows
