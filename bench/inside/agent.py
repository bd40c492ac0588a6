"""The agent's parts as ``kubeproxy-py run`` makes them, but told events by us; and what the kernel then has to hold.

Law: commands/app.py puts the parts together, as it does for the product.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from bench import objects
from kubeproxy_py.commands.app import Parts, make_agent, real_parts
from kubeproxy_py.config.load import LoadedConfig, load
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, VirtualServer
from kubeproxy_py.model.services import FAMILIES
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.loop import Loop, Observer
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.server.observer import ServerObserver

# The limit of tracked connections is the host's alone: no other namespace may write it.
FLAGS = {"hostname-override": objects.NODE_NAME, "conntrack-max-per-core": "0"}
NEVER_COMPARED = "24h"  # the full compare is measured by itself, and kept out of what else is


class Whole(NamedTuple):
    """An agent, its parts, and the loop that feeds it."""

    parts: Parts
    agent: Reconciler
    loop: Loop


def parts() -> Parts:
    """The parts of an agent for this network namespace; its source is never started."""
    return real_parts(_loaded(NEVER_COMPARED))


def whole(
    on_report: Callable[[SyncReport], None],
    *,
    sync_period: str = NEVER_COMPARED,
    observer: Observer | None = None,
    turn_max_s: float = NEVER,
) -> Whole:
    """An agent for this network namespace that is told events by us; a turn of its loop ends after *turn_max_s*."""
    loaded = _loaded(sync_period)
    made = real_parts(loaded)
    agent = make_agent(loaded, made, print)
    return Whole(made, agent, Loop(agent, on_report, alive=lambda: turn_max_s, observer=observer))


def serving() -> ServerObserver:
    """What the product has watch the loop: it counts for metrics and health.  Nobody asks it."""
    return ServerObserver(_loaded(NEVER_COMPARED), objects.NODE_NAME, FAMILIES, IpvsAdapter)


def _loaded(sync_period: str) -> LoadedConfig:
    return load({**FLAGS, "ipvs-sync-period": sync_period, "manifests": "/nowhere"})


def check_programmed(kernel: Kernel, n: int) -> int:
    """How many rows *kernel* has.  Raises AssertionError unless those of *n* Services are among them."""
    rows = read_all(kernel)
    found: Counter[type] = Counter(type(key) for key in rows)
    wanted: dict[type, int] = {VirtualServer: n, RealServer: n * objects.ENDPOINTS, Address: n}
    assert {kind: found[kind] for kind in wanted} == wanted, f"the kernel has {found}"
    entries = Counter(key.set for key in rows if isinstance(key, IpsetEntry))
    assert entries["KUBE-CLUSTER-IP"] == entries["KUBE-IPVS-IPS"] == n, f"the sets have {entries}"
    return len(rows)
