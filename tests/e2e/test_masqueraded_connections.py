"""When Linux itself ends masqueraded connections through IPVS; no agent runs.

docs/reliability.md gives these reasons for the resets that soaks see:
  - A packet of the connection leaves by another interface than the one for which it was masqueraded, because its
    address is no longer one of the node.  Source: nf_nat_oif_changed in net/netfilter/nf_nat_core.c.
  - The last rule that needs connection tracking is deleted.  Source: nf_ct_netns_put in
    net/netfilter/nf_conntrack_proto.c.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.client import connect, read_answer
from lab.network import BY_NAME, Cluster
from tests.e2e.kernel_state import shell
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

cluster = cluster_fixture

VIP = "203.0.113.70"
TIMEOUT_S = 20.0  # for an echo; retransmissions take a second here
MASQUERADE = f"iptables -t nat -A POSTROUTING -s {BY_NAME['outside'].ipv4} -j MASQUERADE"


@contextmanager
def served_by(cluster: Cluster, pod: str) -> Iterator[None]:
    """Serve *pod* at VIP, with masquerading."""
    shell(
        cluster.node_a,
        f"echo 1 > /proc/sys/net/ipv4/vs/conntrack; {MASQUERADE}; ip link add kube-ipvs0 type dummy; "
        f"ip address add {VIP}/32 dev kube-ipvs0; ipvsadm -A -t {VIP}:80 -s rr; "
        f"ipvsadm -a -t {VIP}:80 -r {BY_NAME[pod].ipv4}:8080 -m",
    )
    try:
        yield
    finally:
        shell(cluster.node_a, "ipvsadm -C; ip link del kube-ipvs0; iptables -t nat -F; iptables -t mangle -F")


def survives(cluster: Cluster, change: str, repair: str = "true") -> bool:
    """Return whether a connection from outside to VIP survives *change*, a line sent after it, and then *repair*."""
    with connect(cluster["outside"], "tcp", VIP, 80, TIMEOUT_S) as sock:
        read_answer(sock)
        shell(cluster.node_a, change)
        try:
            sock.sendall(b"line")
            time.sleep(0.1)  # the line meets the node as it is now
            shell(cluster.node_a, repair)
            return sock.recv(4) == b"line"
        except ConnectionError:
            return False


@pytest.mark.parametrize(("pod", "survived"), [("pod-a1", False), ("pod-b1", True)], ids=["this node", "another node"])
def test_deleted_address_ends_masqueraded_connections_to_pods_behind_another_interface(
    cluster: Cluster, pod: str, survived: bool
) -> None:
    with served_by(cluster, pod):
        address = f"{VIP}/32 dev kube-ipvs0"
        assert survives(cluster, f"ip address del {address}", f"ip address add {address}") is survived


@pytest.mark.parametrize("other_rule", [False, True], ids=["no other rule", "another rule"])
def test_masqueraded_connections_end_with_the_last_rule_that_needs_connection_tracking(
    cluster: Cluster, other_rule: bool
) -> None:
    with served_by(cluster, "pod-b1"):
        if other_rule:
            shell(cluster.node_a, "iptables -t mangle -A PREROUTING -m conntrack --ctstate INVALID")
        assert survives(cluster, "iptables -t nat -F") is other_rule
