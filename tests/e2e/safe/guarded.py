"""Load balancer Services of both families, a program of node A, and kernels that lack modules."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from lab.client import PATIENT_S, QueryError, query
from lab.network import Cluster
from lab.pristine import unload_modules
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Object, Port, endpoint_slice, service
from tests.e2e.module_loading import without_module_loading

HOST_PORT = 7022
"""A port on which a program of node A listens on all addresses, as sshd does."""

PODS = ("pod-a1", "pod-b1")
SILENT_S = 0.3
"""For how long a request waits that is to get no answer."""
XTABLES_LOCK = Path("/run/xtables.lock")

# All that a start would load, so that only what a test removes is missing.
_MODULES = (
    *("dummy", "ip_vs", "ip_vs_rr", "ip_set", "xt_set", "xt_ipvs", "xt_conntrack", "xt_addrtype", "xt_comment"),
    *(
        "xt_physdev",
        "xt_mark",
        "xt_MASQUERADE",
        "xt_tcpudp",
        "ipt_REJECT",
        "ip6t_REJECT",
        "iptable_nat",
        "ip6table_nat",
    ),
    *(
        "iptable_filter",
        "ip6table_filter",
        "nf_conntrack_netlink",
        "ip_set_hash_ip",
        "ip_set_hash_ipport",
        "ip_set_hash_ipportip",
    ),
    *("ip_set_hash_ipportnet", "ip_set_bitmap_port", "br_netfilter"),
)


class LoadBalancer(NamedTuple):
    """A Service with one load balancer address and ClusterIP of each family, at port 80."""

    number: int
    ranges: tuple[str, ...] = ()
    node_port: int = 0

    @property
    def name(self) -> str:
        return f"balanced-{self.number}"

    @property
    def addresses(self) -> tuple[str, str]:
        return f"203.0.113.{self.number}", f"2001:db8:f::{self.number}"

    @property
    def cluster_ips(self) -> tuple[str, str]:
        return f"10.96.9.{self.number}", f"fd00:10:96::9:{self.number}"

    def objects(self, **fields: object) -> list[Object]:
        """Return the Service and its two slices; *fields* are further fields of its spec."""
        ports = (Port(node_port=self.node_port),)
        spec = {"type": "LoadBalancer", "loadBalancerSourceRanges": list(self.ranges)}
        written = service(self.name, self.cluster_ips, ports, **{**spec, **fields})
        written["status"] = {"loadBalancer": {"ingress": [{"ip": address} for address in self.addresses]}}
        return [written, *(endpoint_slice(self.name, PODS, ports, version=version) for version in (4, 6))]


def answer(cluster: Cluster, client: str, address: str, port: int = 80, timeout_s: float = PATIENT_S) -> str:
    """Return the name of who answers *client* at *address*:*port*, or "" if nobody does within *timeout_s*."""
    try:
        return query(cluster[client], "tcp", address, port, timeout_s).name
    except (QueryError, OSError):
        return ""


def answers(
    cluster: Cluster, client: str, addresses: tuple[str, ...], port: int = 80, timeout_s: float = PATIENT_S
) -> set[str]:
    """Return who answers *client* at *addresses*, as often as there are endpoints, so that each has its turn."""
    return {answer(cluster, client, address, port, timeout_s) for address in addresses for _ in PODS}


def bound(cluster: Cluster) -> set[str]:
    """Return the addresses on kube-ipvs0 of node A."""
    lines = shell(cluster.node_a, "ip -o address show dev kube-ipvs0 2>/dev/null || true").splitlines()
    addresses = {line.split()[3].partition("/")[0] for line in lines}
    return {address for address in addresses if not address.startswith("fe80:")}


class ModuleLoading:
    """Whether the kernel may load modules."""

    def __init__(self, forbidden: ExitStack) -> None:
        self._forbidden = forbidden

    def allow(self) -> None:
        """Let the kernel load modules again."""
        self._forbidden.close()


@contextmanager
def without_modules(*names: str) -> Iterator[ModuleLoading]:
    """Have a kernel on which *names* cannot be loaded until that is allowed; everything else that is needed is."""
    for name in _MODULES:  # one by one, because some are built into some kernels
        subprocess.run(["modprobe", "-q", name], check=False)
    unload_modules(*names)
    with ExitStack() as forbidden:
        forbidden.enter_context(without_module_loading())
        yield ModuleLoading(forbidden)


@contextmanager
def held_xtables_lock() -> Iterator[None]:
    """Hold the lock of iptables, as another program that changes rules does."""
    with XTABLES_LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
