"""A complete node: plans from nothing to everything and back; state of other programs is not changed."""

import subprocess

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, RealServerSpec, Rows, VirtualServer
from kubeproxy_py.plan.plan import make_plan
from tests.contract.contract import DEVICE, PLAIN, carry_out, linux_kernel, rows_of
from tests.host_tools.recorded_tables import recorded_rows


def _node(services: int = 20) -> Rows:
    """Return the tables of a recorded node, all sets, and *services* with two real servers each, in both families."""
    rows: Rows = {DEVICE: None, **recorded_rows()}
    for family, prefix, pods in (("IPv4", "10.96.0.", "10.244.1."), ("IPv6", "fd00:10:96::", "fd00:10:244:1::")):
        rows |= kube_names.ipsets(family)  # type: ignore[arg-type]
        name = kube_names.CLUSTER_IP.name_in(family)  # type: ignore[arg-type]
        for n in range(1, services + 1):
            server = VirtualServer(f"{prefix}{n}", 80, "TCP")
            rows |= {server: PLAIN, Address(server.address): None}
            rows |= {RealServer(server, f"{pods}{pod}", 8080): RealServerSpec(1) for pod in (5, 6)}
            rows[IpsetEntry(name, f"{server.address},tcp:80")] = None
    return rows


def test_a_plan_from_nothing_creates_a_complete_node(kernel: Kernel) -> None:
    rows = _node()
    assert carry_out(kernel, make_plan(rows, {}).steps) == {}
    assert rows_of(kernel) == rows


def test_a_plan_to_nothing_leaves_nothing(kernel: Kernel) -> None:
    assert carry_out(kernel, make_plan(_node(), {}).steps) == {}
    assert carry_out(kernel, make_plan({}, rows_of(kernel)).steps) == {}
    assert rows_of(kernel) == {}


def test_a_second_plan_is_empty(kernel: Kernel) -> None:
    kernel.apply(make_plan(_node(), {}))
    assert make_plan(_node(), rows_of(kernel)).steps == ()


def test_applying_a_plan_twice_changes_nothing(kernel: Kernel) -> None:
    plan = make_plan(_node(), {})
    kernel.apply(plan)
    assert kernel.apply(plan).failures == ()
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
_SHOW_COMMANDS = (
    "ip -o addr show dev eth7",
    "ipset save CNI-SET",
    "ipset save KUBE-SRC-THEIRS",
    "ipvsadm -Sn",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
)


def _foreign_state() -> list[list[str]]:
    outputs = [subprocess.check_output(line.split(), text=True) for line in _SHOW_COMMANDS]
    return [[line.split(" [")[0] for line in text.splitlines() if line[0] != "#"] for text in outputs]


@pytest.mark.kernel
def test_state_of_other_programs_is_not_read_and_not_changed() -> None:
    with linux_kernel(policies=False) as kernel:
        create_all = make_plan(_node(2), {})
        kernel.apply(create_all)  # creates the tables, so that the output of the commands can be compared
        kernel.apply(make_plan({}, rows_of(kernel)))
        for line in _FOREIGN.strip().splitlines():
            subprocess.run(line.split(), check=True)
        before = _foreign_state()
        assert rows_of(kernel) == {}
        assert kernel.apply(create_all).failures == ()
        assert kernel.apply(make_plan({}, rows_of(kernel))).failures == ()
        assert _foreign_state() == before
