"""A rollout: one Service, whose pods are replaced one after the other.

Loop, agent and kernel are the product's and get values; each pod is a cycle of the loop, in which draining real
servers are checked when due.  Both sizes are measured alternately in one boot, each time in a new namespace.
"""

import time
from collections.abc import Sequence

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from kubeproxy_py.kernel import VIRTUAL_SERVERS
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.rows import SERVING, RealServer
from kubeproxy_py.reconcile.report import Report, StaleFlowReport
from kubeproxy_py.sources import FEEDS


def measure(sizes: Sequence[int], repeats: int) -> dict[str, list[float]]:
    """Return milliseconds for each pod, by the number of pods of the Service, *repeats* times."""
    _rollout_ms(sizes[0])  # not counted: the first one runs with cold caches
    by_size: dict[str, list[float]] = {str(pods): [] for pods in sizes}
    for _ in range(repeats):
        for pods in sizes:
            by_size[str(pods)].append(_rollout_ms(pods) / pods)
    return by_size


def _rollout_ms(pods: int) -> float:
    with fresh_namespace():
        measured = agent.make_agent(_must_succeed, observer=agent.make_observer())
        service, parts = objects.wide(pods)
        events: list[Event] = [ServiceUpserted(service), *map(SliceUpserted, parts), *map(Synced, FEEDS)]
        for event in events:
            measured.loop.enqueue(event)
        measured.loop.run_cycle()
        changes = [SliceUpserted(objects.wide_slice(place, pods, replaced=place + 1)) for place in range(pods)]
        began_s = time.perf_counter()
        for change in changes:
            measured.loop.enqueue(change)
            measured.loop.run_cycle()
        took_s = time.perf_counter() - began_s
        rows = measured.parts.kernel.read(VIRTUAL_SERVERS)
        measured.parts.kernel.close()
        served = sum(spec == SERVING for key, spec in rows.items() if isinstance(key, RealServer))
        assert served == pods, f"{served} of {pods} pods are served"
        return took_s * 1e3


def _must_succeed(report: Report) -> None:
    assert isinstance(report, StaleFlowReport) or not report.failures, report
