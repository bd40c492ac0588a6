"""The agent's parts as `kubeproxy-py run` makes them, fed with events by the bench; and a check of the kernel's state.

commands/parts.py makes the parts, as it does for the product.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from bench import objects
from kubeproxy_py.commands.parts import Parts, real_parts
from kubeproxy_py.commands.parts import make_agent as make_product_agent
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.metrics.rest_client import RestClientMetrics
from kubeproxy_py.model.rows import Address, Ipset, IpsetEntry, Key, RealServer, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import FAMILIES, IP
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Loop, Observer
from kubeproxy_py.reconcile.report import Report
from kubeproxy_py.server.node_servers import Collectors, NodeServers
from kubeproxy_py.server.observer import ServerObserver

# Only the initial network namespace may write the limit of tracked connections.
FLAGS = {"hostname-override": objects.NODE_NAME, "conntrack-max-per-core": "0"}
NO_FULL_COMPARE = "24h"  # the full compare is measured separately, and must not disturb other measurements


class BenchAgent(NamedTuple):
    """An agent, its parts, and the loop that feeds it."""

    parts: Parts
    agent: Agent
    loop: Loop


def make_parts(policies: str = "kube-proxy") -> Parts:
    """Return the parts of an agent for this network namespace; its source is never started."""
    return real_parts(_loaded(NO_FULL_COMPARE, policies))


def make_agent(
    on_report: Callable[[Report], None],
    *,
    sync_period: str = NO_FULL_COMPARE,
    observer: Observer | None = None,
    turn_max_s: float = NEVER,
    policies: str = "kube-proxy",
) -> BenchAgent:
    """Return an agent for this network namespace that is fed by the bench; a cycle of its loop ends by *turn_max_s*."""
    loaded = _loaded(sync_period, policies)
    parts = real_parts(loaded)
    agent = make_product_agent(loaded, parts)
    return BenchAgent(parts, agent, Loop(agent, on_report, alive=lambda: turn_max_s, observer=observer))


def make_observer() -> ServerObserver:
    """Return the product's observer of the loop, which counts for metrics and health."""
    registry = MetricsRegistry()
    collectors = Collectors(registry, RestClientMetrics(registry), IpvsAdapter)
    loaded = _loaded(NO_FULL_COMPARE)
    return NodeServers(objects.NODE_NAME, FAMILIES, lambda: loaded, collectors, lambda _event: None).observer


def _loaded(sync_period: str, policies: str = "kube-proxy") -> LoadedConfig:
    return load({**FLAGS, "ipvs-sync-period": sync_period, "manifests": "/nowhere", "policies": policies})


def check_programmed(
    kernel: Kernel, n: int, *, besides: IP | None = None, local_every: int = 0, policies: str = "kube-proxy"
) -> int:
    """Return the number of rows of *kernel*.  Raises AssertionError unless those of *n* Services are among them.

    The Service with the address *besides*, which an API server creates for itself, may be programmed or not; then
    another program may have made the rows, and kube-proxy 1.20 has no set KUBE-IPVS-IPS.
    """
    rows = [key for key in read_all(kernel) if besides is None or served_address(key) != besides]
    counts: Counter[type] = Counter(type(key) for key in rows)
    local = [number for number in range(n) if objects.is_external_local(number, local_every)]
    by_mark = len(local) if policies == "exact" else 0
    servers, addresses = n + 2 * len(local) + by_mark, n + len(local)
    # The two external frontends of a Service with a pod on this node serve only that one.
    elsewhere = 2 * (objects.ENDPOINTS - 1) * sum(map(objects.is_local, local))
    real_servers = servers * objects.ENDPOINTS - elsewhere
    expected: dict[type, int] = {VirtualServer: servers, RealServer: real_servers, Address: addresses}
    assert {kind: counts[kind] for kind in expected} == expected, f"the kernel has {counts}, not {expected}"
    entries = Counter(key.set for key in rows if isinstance(key, IpsetEntry))
    has_addresses = besides is None or Ipset("KUBE-IPVS-IPS") in rows
    found = entries["KUBE-IPVS-IPS"] if has_addresses else addresses
    numbers = entries["KUBE-CLUSTER-IP"], found, entries["KUBE-PY-INSIDE"]
    assert numbers == (n, addresses, 2 * by_mark), f"the sets have {entries}"
    return len(rows)


def served_address(key: Key) -> IP:
    """Return the Service address that a row belongs to; "" if it belongs to none."""
    match key:
        case VirtualServer() | Address():
            return key.address
        case RealServer():
            return key.virtual_server.address
        case IpsetEntry():
            return key.entry.partition(",")[0]
        case _:
            return ""
