"""Which rows may stay changed for a while: those that no packet to a Service needs at once."""

import pytest

from kubeproxy_py.model.rows import (
    SERVING,
    Address,
    Chain,
    ChainSpec,
    IpsetEntry,
    Jump,
    JumpSpec,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    Sysctl,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.plan.urgency import may_stay_changed

SERVER, FOREIGN = VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("198.51.100.7", 80, "TCP")
POD = RealServer(SERVER, "10.244.1.5", 8080)
JUMP = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
CHAIN = Chain("IPv4", "nat", "KUBE-SERVICES")
TIMEOUT, FORWARD = Sysctl("net/netfilter/nf_conntrack_udp_timeout"), Sysctl("net/ipv4/ip_forward")
DESIRED: Rows = {
    SERVER: VirtualServerSpec(),
    POD: SERVING,
    JUMP: JumpSpec("-j KUBE-SERVICES"),
    CHAIN: ChainSpec(()),
    TIMEOUT: "30",
    FORWARD: "1",
}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (TIMEOUT, "60"),
        (JUMP, JumpSpec("-j KUBE-SERVICES", behind="CNI-HOSTPORT-DNAT")),
        (FOREIGN, VirtualServerSpec()),
        (RealServer(FOREIGN, "10.244.1.5", 8080), SERVING),
    ],
    ids=str,
)
def test_limits_order_and_foreign_servers_may_stay_changed(key: Key, found: Spec) -> None:
    assert may_stay_changed(key, found, DESIRED)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (FORWARD, "0"),
        (Sysctl("net/ipv4/vs/conntrack"), "0"),
        (JUMP, None),
        (JUMP, JumpSpec("-j KUBE-SERVICES\n-j KUBE-SERVICES")),
        (CHAIN, None),
        (SERVER, None),
        (SERVER, VirtualServerSpec("wlc")),
        (POD, None),
        (POD, RealServerSpec(0)),
        (RealServer(SERVER, "10.244.1.66", 8080), SERVING),
        (Address("10.96.0.10"), None),
        (IpsetEntry("KUBE-CLUSTER-IP", "10.96.9.9,tcp:80"), None),
    ],
    ids=str,
)
def test_what_packets_need_may_not_stay_changed(key: Key, found: Spec) -> None:
    assert not may_stay_changed(key, found, DESIRED)
