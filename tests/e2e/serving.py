"""A cluster whose pods answer, with the network settings of a real node.

Pods answer at 8080 with their name, and at 8091 with their name and port.  The ports of node A's bridge have hairpin
mode on, as CNI plugins set it: bridged answers of a pod to itself need it.  The machines on the LAN have a route to
node A's second address.  Node A sends ICMP errors without a rate limit: by default Linux sends at most one per second
to a peer after the first six, and a rejection without its ICMP error would look like a lost packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.echo import PROTOCOLS, EchoServers, Listener
from lab.network import BY_NAME, PODS, Cluster
from tests.e2e.kernel_state import shell

_SECOND_NETWORK = "172.16.5.0/24"


@contextmanager
def serving_cluster() -> Iterator[Cluster]:
    """Yield the cluster; node A has a separate namespace and forwards."""
    with cluster_and_servers() as (cluster, _):
        yield cluster


@pytest.fixture(scope="module")
def cluster_fixture() -> Iterator[Cluster]:
    """Yield `serving_cluster`, in a test module with `cluster = cluster_fixture` instead of conftest.py's cluster."""
    with serving_cluster() as cluster:
        yield cluster


@contextmanager
def cluster_and_servers() -> Iterator[tuple[Cluster, EchoServers]]:
    """Yield the cluster and the pods' servers, which record the datagrams that they receive."""
    with Cluster(ipv4_forward=True) as cluster:
        shell(cluster.node_a, "for port in vpod1 vpod2; do bridge link set dev $port hairpin on; done")
        for setting in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
            cluster.node_a.set_sysctl(setting, 0)
        for name in ("outside", "node-b"):
            shell(cluster[name], f"ip route add {_SECOND_NETWORK} via {BY_NAME['node-a'].ipv4}")
        with EchoServers(_listeners(cluster)) as servers:
            yield cluster, servers


def _listeners(cluster: Cluster) -> Iterator[Listener]:
    for pod in PODS:
        for protocol in PROTOCOLS:
            yield Listener(pod.name, cluster[pod.name], protocol, 8080)
            yield Listener(f"{pod.name}:8091", cluster[pod.name], protocol, 8091)
