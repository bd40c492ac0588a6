"""The result of a TCP connect to an endpoint for which a router answers with an ICMP error, of each kind and family."""

from __future__ import annotations

import pytest

from kubeproxy_py.kernel.host.tcp_connects import Answer, TcpConnects
from lab.network import BY_NAME, Cluster
from tests.e2e.kernel_state import shell
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

POD = BY_NAME["pod-b1"]
LONG_S = 30.0  # an answer that is known at once comes long before
SILENT = (
    *("icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable"),
    *("icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited"),
    *("icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable", "icmp6-policy-fail", "icmp6-reject-route"),
)
REFUSED = ("icmp-port-unreachable", "icmp6-port-unreachable", "tcp-reset")

cluster = cluster_fixture


@pytest.fixture(autouse=True)
def errors_without_rate_limit(cluster: Cluster) -> None:
    for setting in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        cluster["router"].set_sysctl(setting, 0)


@pytest.mark.parametrize(
    ("error", "expected"), [*((error, "silent") for error in SILENT), *((error, "refused") for error in REFUSED)]
)
def test_icmp_error_is_no_answer_of_an_endpoint(cluster: Cluster, error: str, expected: Answer) -> None:
    is_v6 = error.startswith("icmp6")
    command, address = ("ip6tables", POD.ipv6) if is_v6 else ("iptables", POD.ipv4)
    rule = f"FORWARD -p tcp -d {address} -j REJECT --reject-with {error}"
    shell(cluster["router"], f"{command} -I {rule}")
    try:
        with cluster.node_a.inside():
            connects = TcpConnects()
            try:
                assert connects.begin((address, 8080), LONG_S) is None
                assert list(connects.results(LONG_S / 2)) == [((address, 8080), expected)]
            finally:
                connects.close()
    finally:
        shell(cluster["router"], f"{command} -D {rule}")
