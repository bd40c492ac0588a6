"""A whole node: plans from nothing to everything and back, and what others have on the same kernel stays."""

import subprocess

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, RealServerSpec, Rows, VirtualServer
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import DEVICE, PLAIN, carry_out, linux_kernel, rows_of
from tests.host_tools.tables_of_a_node import recorded_rows


def _node(services: int = 20) -> Rows:
    """The tables of a recorded node, all sets, and *services* with two real servers each, in both families."""
    rows: Rows = {DEVICE: None, **recorded_rows()}
    for family, prefix, pods in (("IPv4", "10.96.0.", "10.244.1."), ("IPv6", "fd00:10:96::", "fd00:10:244:1::")):
        rows |= tables.ipsets(family)  # type: ignore[arg-type]
        name = tables.CLUSTER_IP.name_in(family)  # type: ignore[arg-type]
        for n in range(1, services + 1):
            server = VirtualServer(f"{prefix}{n}", 80, "TCP")
            rows |= {server: PLAIN, Address(server.address): None}
            rows |= {RealServer(server, f"{pods}{pod}", 8080): RealServerSpec(1) for pod in (5, 6)}
            rows[IpsetEntry(name, f"{server.address},tcp:80")] = None
    return rows


def test_a_plan_from_nothing_makes_a_whole_node(kernel: Kernel) -> None:
    rows = _node()
    assert carry_out(kernel, make_plan(rows, {}).steps) == {}
    assert rows_of(kernel) == rows


def test_a_plan_to_nothing_leaves_nothing(kernel: Kernel) -> None:
    assert carry_out(kernel, make_plan(_node(), {}).steps) == {}
    assert carry_out(kernel, make_plan({}, rows_of(kernel)).steps) == {}
    assert rows_of(kernel) == {}


def test_after_a_plan_there_is_nothing_to_plan(kernel: Kernel) -> None:
    kernel.apply(make_plan(_node(), {}))
    assert make_plan(_node(), rows_of(kernel)).steps == ()


def test_a_plan_given_twice_changes_nothing(kernel: Kernel) -> None:
    plan = make_plan(_node(), {})
    kernel.apply(plan)
    assert kernel.apply(plan).failed == ()
    assert rows_of(kernel) == _node()


_FOREIGN = """
ip link add eth7 type dummy
ip addr add 192.0.2.1/24 dev eth7
ip addr add fd00:7::1/64 dev eth7
ipset create CNI-SET hash:ip
ipset add CNI-SET 192.0.2.9
ipset create KUBE-SRC-THEIRS hash:net
ipvsadm -A -f 7 -s rr
iptables-legacy -t nat -N CNI-CHAIN
iptables-legacy -t nat -A PREROUTING -j CNI-CHAIN
iptables-legacy -N KUBE-FIREWALL
iptables-legacy -A INPUT -j KUBE-FIREWALL
ip6tables-legacy -P FORWARD DROP
"""
_LOOK = (
    "ip -o addr show dev eth7",
    "ipset save CNI-SET",
    "ipset save KUBE-SRC-THEIRS",
    "ipvsadm -Sn",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
)


def _see() -> list[list[str]]:
    printed = [subprocess.check_output(line.split(), text=True) for line in _LOOK]
    return [[line.split(" [")[0] for line in text.splitlines() if line[0] != "#"] for text in printed]


@pytest.mark.kernel
def test_what_others_have_is_no_row_and_stays() -> None:
    with linux_kernel() as kernel:
        make_all = make_plan(_node(2), {})
        kernel.apply(make_all)  # tables come into being, so that what is printed can be compared
        kernel.apply(make_plan({}, rows_of(kernel)))
        for line in _FOREIGN.strip().splitlines():
            subprocess.run(line.split(), check=True)
        before = _see()
        assert rows_of(kernel) == {}
        assert kernel.apply(make_all).failed == ()
        assert kernel.apply(make_plan({}, rows_of(kernel))).failed == ()
        assert _see() == before
