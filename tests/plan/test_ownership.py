"""Which virtual servers another program created."""

from __future__ import annotations

import pytest

from kubeproxy_py.model.rows import (
    SERVING,
    Address,
    IpsetEntry,
    LoopbackPath,
    LoopbackSpec,
    RealServer,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.plan.ownership import filter_owned, filter_policies, is_foreign

NODE = "192.168.3.10"
ROWS: Rows = {
    IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"): None,
    IpsetEntry("KUBE-6-LOAD-BALANCER", "2001:db8::9,udp:53"): None,
    IpsetEntry("KUBE-NODE-PORT-TCP", "30080"): None,
    IpsetEntry("KUBE-NODE-PORT-SCTP-HASH", f"{NODE},sctp:30132"): None,
    Address("10.96.0.77"): None,
}


@pytest.mark.parametrize(
    ("server", "foreign"),
    [
        (VirtualServer("10.96.0.10", 80, "TCP"), False),
        (VirtualServer("10.96.0.10", 80, "UDP"), True),
        (VirtualServer("10.96.0.10", 81, "TCP"), True),
        (VirtualServer("2001:db8::9", 53, "UDP"), False),
        (VirtualServer(NODE, 30080, "TCP"), False),
        (VirtualServer(NODE, 30080, "UDP"), True),
        (VirtualServer(NODE, 30132, "SCTP"), False),
        (VirtualServer("192.168.3.100", 30080, "TCP"), True),  # kube-vip's address
        (VirtualServer("192.168.3.100", 6443, "TCP"), True),
        (VirtualServer("10.96.0.77", 9999, "TCP"), False),  # on kube-ipvs0
    ],
    ids=str,
)
def test_server_that_no_set_and_no_address_of_ours_names_is_foreign(server: VirtualServer, foreign: bool) -> None:
    assert is_foreign(server, ROWS, {NODE}) is foreign


def test_node_port_may_be_at_any_address_if_those_of_the_node_are_not_given() -> None:
    assert not is_foreign(VirtualServer("192.168.3.100", 30080, "TCP"), ROWS)


def test_foreign_servers_are_left_out_with_their_real_servers_unless_desired() -> None:
    ours, other, wanted = (VirtualServer(ip, 80, "TCP") for ip in ("10.96.0.10", "192.168.3.100", "192.168.3.101"))
    rows: Rows = {**ROWS}
    for server in (ours, other, wanted):
        rows |= {server: VirtualServerSpec(), RealServer(server, "10.244.1.5", 8080): SERVING}
    owned = filter_owned(rows, (), {wanted}, lambda server: is_foreign(server, rows, {NODE}))
    assert {key for key in rows if key not in owned} == {other, RealServer(other, "10.244.1.5", 8080)}


@pytest.mark.parametrize("has_path", [True, False])
def test_servers_at_a_loopback_address_are_of_exact_policies_only_with_the_path_there(has_path: bool) -> None:
    """kube-proxy 1.20 has such, too."""
    ours, other = VirtualServer("127.0.0.1", 30080, "TCP"), VirtualServer("::1", 30080, "TCP")
    rows: Rows = {ours: VirtualServerSpec(), RealServer(ours, "10.244.1.5", 8080): SERVING, other: VirtualServerSpec()}
    path: Rows = {LoopbackPath("IPv4"): LoopbackSpec(NODE, "30000-32767")} if has_path else {}
    expected = {**path, ours: rows[ours], RealServer(ours, "10.244.1.5", 8080): SERVING} if has_path else {}
    assert filter_policies({**rows, **path}) == expected
