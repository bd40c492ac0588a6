"""The agent's parts as ``kubeproxy-py run`` makes them, but told events by us; and what the kernel then has to hold.

Law: wiring.py puts the parts together, as it does for the product.
"""

from collections import Counter
from collections.abc import Callable

from bench import objects
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.loop import Loop
from kubeproxy_py.model.events import Event, ServiceSet, SliceSet, Synced
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, VirtualServer
from kubeproxy_py.plan.report import SyncReport
from kubeproxy_py.sources import FEEDS
from kubeproxy_py.wiring import Parts, make_agent, real_parts

# The limit of tracked connections is the host's alone: no other namespace may write it.
FLAGS = {"hostname-override": objects.NODE_NAME, "conntrack-max-per-core": "0"}
# The full compare is measured by itself, and kept out of what else is.
_FLAGS = {**FLAGS, "ipvs-sync-period": "24h", "manifests": "/nowhere"}


def parts() -> Parts:
    """The parts of an agent for this network namespace; its source is never started."""
    return real_parts(load(_FLAGS))


def loop_of(made: Parts, on_report: Callable[[SyncReport], None]) -> Loop:
    """The loop of an agent that has *made*."""
    return Loop(make_agent(load(_FLAGS), made, print), on_report)


def first_events(n: int) -> list[Event]:
    """All that a source tells of *n* Services before it is synced, and that it is."""
    events: list[Event] = []
    for service, part in objects.values(n):
        events += (ServiceSet(service), SliceSet(part))
    return [*events, *(Synced(feed) for feed in FEEDS)]


def check_programmed(kernel: Kernel, n: int) -> int:
    """How many rows *kernel* has.  Raises AssertionError unless those of *n* Services are among them."""
    rows = read_all(kernel)
    found: Counter[type] = Counter(type(key) for key in rows)
    wanted: dict[type, int] = {VirtualServer: n, RealServer: n * objects.ENDPOINTS, Address: n}
    assert {kind: found[kind] for kind in wanted} == wanted, f"the kernel has {found}"
    entries = Counter(key.set for key in rows if isinstance(key, IpsetEntry))
    assert entries["KUBE-CLUSTER-IP"] == entries["KUBE-IPVS-IPS"] == n, f"the sets have {entries}"
    return len(rows)
