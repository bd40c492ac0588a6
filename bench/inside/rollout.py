"""A rollout: one Service, whose pods are replaced one after the other.

Law: the real loop, agent and kernel, told values; each pod is a turn of the loop, in which what drains is looked at
when it is due, as in the product.  Both sizes take turns in one boot, each time in a fresh namespace.
"""

import time
from collections.abc import Sequence

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from kubeproxy_py.kernel import VIRTUAL_SERVERS
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.rows import SERVING, RealServer
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.sources import FEEDS


def measure(sizes: Sequence[int], repeats: int) -> dict[str, list[float]]:
    """Milliseconds for each pod, in Services of so many pods, *repeats* times."""
    _rollout_ms(sizes[0])  # the first meets cold caches, and would make the others look cheap
    found: dict[str, list[float]] = {str(pods): [] for pods in sizes}
    for _ in range(repeats):
        for pods in sizes:
            found[str(pods)].append(_rollout_ms(pods) / pods)
    return found


def _rollout_ms(pods: int) -> float:
    with fresh_namespace():
        made = agent.whole(_must_succeed, observer=agent.serving())
        service, parts = objects.wide(pods)
        events: list[Event] = [ServiceUpserted(service), *map(SliceUpserted, parts), *map(Synced, FEEDS)]
        for event in events:
            made.loop.enqueue(event)
        made.loop.turn()
        changes = [SliceUpserted(objects.wide_slice(place, pods, replaced=place + 1)) for place in range(pods)]
        began_s = time.perf_counter()
        for change in changes:
            made.loop.enqueue(change)
            made.loop.turn()
        took_s = time.perf_counter() - began_s
        rows = made.parts.kernel.read(VIRTUAL_SERVERS)
        made.parts.kernel.close()
        served = sum(spec == SERVING for key, spec in rows.items() if isinstance(key, RealServer))
        assert served == pods, f"{served} of {pods} pods are served"
        return took_s * 1e3


def _must_succeed(report: SyncReport) -> None:
    assert not report.failed, report.failed
