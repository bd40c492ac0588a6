"""ipsets and their entries, by netlink and by the ipset command: they read back as written, or are refused."""

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.ipset.constants import IPSET_ERR_BUSY, IPSET_ERR_HASH_FULL
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IPSET_DEFINITIONS
from kubeproxy_py.model.rows import ChainSpec, Ipset, IpsetEntry, IpsetSpec, MarkSpec, Rows, referenced_sets
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import (
    CLUSTER_IP,
    ENTRY,
    INSIDE,
    LARGER_SPEC,
    LINUX,
    LINUX_IPSET_COMMAND,
    MARKED_FRONT,
    MARKS_SPEC,
    POLICY_OUTPUT,
    PORTS_SPEC,
    SERVICES,
    SET_MARK,
    SETS,
    EveryRow,
    EveryRowThatChanges,
    add,
    bring_to,
    carry_out,
    delete,
    for_each,
    for_each_with_another_spec,
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


pytestmark = pytest.mark.parametrize("kernel", ["memory", LINUX, LINUX_IPSET_COMMAND], indirect=True)


@for_each(SETS)
class TestSet(EveryRow):
    pass


@for_each_with_another_spec(SETS)
class TestSetWithAnotherSpec(EveryRowThatChanges):
    pass


def test_an_updated_set_keeps_its_entries_and_references(kernel: Kernel) -> None:
    referring = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",))
    bring_to(kernel, {CLUSTER_IP: PORTS_SPEC, ENTRY: None, SERVICES: referring})
    assert carry_out(kernel, [update(CLUSTER_IP, LARGER_SPEC, PORTS_SPEC)]) == {}
    assert rows_of(kernel, CLUSTER_IP, SERVICES) == {CLUSTER_IP: LARGER_SPEC, ENTRY: None, SERVICES: referring}


def _sets(family: Family) -> Rows:
    return {**kube_names.ipsets(family)}  # type: ignore[dict-item]  # a dict of some keys is one of all


@pytest.mark.parametrize("family", FAMILIES)
def test_entries_of_every_set_read_back_as_written(kernel: Kernel, family: Family) -> None:
    rows = _sets(family)
    rows |= {
        IpsetEntry(kind.name_in(family), e): None for kind in IPSET_DEFINITIONS for e in _ENTRIES[kind.type, family]
    }
    bring_to(kernel, rows)
    assert rows_of(kernel, *rows) == rows


def test_an_entry_gets_another_mark_and_keeps_it_in_a_set_of_another_size(kernel: Kernel) -> None:
    bring_to(kernel, {INSIDE: MARKS_SPEC, MARKED_FRONT: MarkSpec(0x2002)})
    assert carry_out(kernel, [update(MARKED_FRONT, MarkSpec(0x2003), MarkSpec(0x2002))]) == {}
    assert rows_of(kernel, INSIDE) == {INSIDE: MARKS_SPEC, MARKED_FRONT: MarkSpec(0x2003)}
    larger = IpsetSpec(MARKS_SPEC.type, "IPv4", maxelem=131072)
    assert carry_out(kernel, [update(INSIDE, larger, MARKS_SPEC)]) == {}
    assert rows_of(kernel, INSIDE) == {INSIDE: larger, MARKED_FRONT: MarkSpec(0x2003)}


def test_a_rule_that_takes_marks_from_a_set_reads_back_as_written(kernel: Kernel) -> None:
    chain = ChainSpec((SET_MARK, f"-i cni+ {SET_MARK}"))
    bring_to(kernel, {INSIDE: MARKS_SPEC, POLICY_OUTPUT: chain})
    assert rows_of(kernel, INSIDE, POLICY_OUTPUT) == {INSIDE: MARKS_SPEC, POLICY_OUTPUT: chain}
    assert carry_out(kernel, [delete(INSIDE, MARKS_SPEC)]) == {INSIDE: IPSET_ERR_BUSY}


@pytest.mark.parametrize("family", FAMILIES)
def test_deleting_entries_leaves_the_others(kernel: Kernel, family: Family) -> None:
    sets = _sets(family)
    first: Rows = {IpsetEntry(kind.name_in(family), _ENTRIES[kind.type, family][0]): None for kind in IPSET_DEFINITIONS}
    last: Rows = {IpsetEntry(kind.name_in(family), _ENTRIES[kind.type, family][-1]): None for kind in IPSET_DEFINITIONS}
    bring_to(kernel, {**sets, **first, **last})
    bring_to(kernel, {**sets, **last}, before={**sets, **first, **last})
    assert rows_of(kernel, *sets) == {**sets, **last}


def test_an_entry_of_the_other_family_fails_and_others_do_not(kernel: Kernel) -> None:
    bring_to(kernel, {CLUSTER_IP: PORTS_SPEC})
    wrong = IpsetEntry(CLUSTER_IP.name, "fd00::1,tcp:80")
    right = IpsetEntry(CLUSTER_IP.name, "10.96.0.11,tcp:80")
    assert carry_out(kernel, [add(ENTRY), add(wrong), add(right)]).keys() == {wrong}
    assert rows_of(kernel, CLUSTER_IP) == {CLUSTER_IP: PORTS_SPEC, ENTRY: None, right: None}


def test_entries_beyond_the_size_of_a_set_fail(kernel: Kernel) -> None:
    small = IpsetSpec("hash:ip", "IPv4", maxelem=64)
    ips = Ipset("KUBE-IPVS-IPS")
    entries = [IpsetEntry(ips.name, f"10.96.0.{n}") for n in range(1, 67)]
    bring_to(kernel, {ips: small})
    assert carry_out(kernel, [add(entry) for entry in entries]) == dict.fromkeys(entries[64:], IPSET_ERR_HASH_FULL)


_OTHER_TYPE = IpsetSpec("hash:ip", "IPv4")
_REFERRING = ChainSpec(("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",))


def test_changing_the_type_of_a_set_fails_while_a_rule_refers_to_it(kernel: Kernel) -> None:
    bring_to(kernel, {CLUSTER_IP: _OTHER_TYPE, SERVICES: _REFERRING})
    assert carry_out(kernel, [update(CLUSTER_IP, PORTS_SPEC, _OTHER_TYPE)]) == {CLUSTER_IP: IPSET_ERR_BUSY}
    assert rows_of(kernel, CLUSTER_IP) == {CLUSTER_IP: _OTHER_TYPE}


def test_a_plan_recreates_a_set_of_another_type_without_a_gap_in_service(kernel: Kernel) -> None:
    desired: Rows = {CLUSTER_IP: PORTS_SPEC, ENTRY: None, SERVICES: _REFERRING}
    bring_to(kernel, {CLUSTER_IP: _OTHER_TYPE, IpsetEntry(CLUSTER_IP.name, "10.96.0.9"): None, SERVICES: _REFERRING})
    keys = (CLUSTER_IP, Ipset(kube_names.PLACEHOLDER_SET), SERVICES)
    served = []
    for step in make_plan(desired, rows_of(kernel, *keys)).steps:
        assert carry_out(kernel, [step]) == {}
        served.append(_is_served(rows_of(kernel, *keys)))
    assert served == sorted(served), "a packet met a gap"
    assert rows_of(kernel, *keys) == desired


def _is_served(rows: Rows) -> bool:
    spec = rows[SERVICES]
    assert isinstance(spec, ChainSpec)
    return any(rows.get(IpsetEntry(name, ENTRY.entry), 1) is None for name in referenced_sets(spec.rules))


def test_shrinking_a_set_below_its_entries_fails(kernel: Kernel) -> None:
    ips, large, small = Ipset("KUBE-IPVS-IPS"), IpsetSpec("hash:ip", "IPv4"), IpsetSpec("hash:ip", "IPv4", maxelem=64)
    rows: Rows = {ips: large, **{IpsetEntry(ips.name, f"10.96.0.{n}"): None for n in range(1, 67)}}
    bring_to(kernel, rows)
    assert carry_out(kernel, [update(ips, small, large)]) == {ips: IPSET_ERR_HASH_FULL}
    assert rows_of(kernel, ips) == rows
