"""The full compare of a kernel that is right, against dumping alone.

Law: the real agent, in its own turns, of which an event would have to wait for the longest; only its clock is set
forward from one compare to the next.  Dumping alone is the same requests sent again, and the same asked by getsockopt,
and their answers read, nothing decoded.  Turn about.  The tables of iptables are read once before, for from then on
both ask the kernel alone whether they are as they were.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

from bench.inside import agent
from bench.inside.floor import asked, asked_again_s, recorded, replayed
from bench.inside.lines import Lines
from bench.inside.network import fresh_namespace
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.kernel.ipvs.sockopt import GET_DESTS
from kubeproxy_py.reconcile.reconciler import Reconciler


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Seconds of *repeats* compares, of the longest turn of each, and of as many dumps by their parts."""
    with fresh_namespace():
        made = _Shifted(n)
        first = made.compare()
        with recorded() as sends, asked() as asks:
            made.kernel.close()  # so that it opens sockets that are recorded
            read_all(made.kernel)
            requests, servers = list(sends), [ask for ask in asks if ask[1] == GET_DESTS]
        compares, dumps = [], []
        for _ in range(repeats):
            compares.append(made.compare())
            tables_s = _seconds(lambda: _read_tables(made.kernel))
            real_servers = {"IPVS, real servers": asked_again_s(servers)}
            dumps.append({**replayed(requests)[0], **real_servers, "iptables": tables_s})
        made.kernel.close()
    return {
        "first": sum(first),
        "first_longest": max(first),
        "compare": [sum(turns) for turns in compares],
        "longest": [max(turns) for turns in compares],
        "dump": [sum(parts.values()) for parts in dumps],
        "dump_parts": dumps,
    }


class _Shifted:
    """An agent that has programmed *n* Services, and whose clock can be set forward."""

    def __init__(self, n: int) -> None:
        made = agent.parts()
        self.kernel = made.kernel
        self._ahead_s = 0.0
        self._agent = Reconciler(made.kernel, made.compiler, lambda: time.monotonic() + self._ahead_s)
        for event in Lines().listed(n):
            self._agent.handle_event(event, time.monotonic())
        self._agent.step()
        agent.check_programmed(self.kernel, n)
        gc.collect()
        gc.freeze()  # as the loop does after the first sync

    def compare(self) -> list[float]:
        """Seconds of each turn of one whole compare."""
        done = self._agent.status().compares
        self._ahead_s += 3600.0
        turns = []
        while self._agent.status().compares == done:
            began_s = time.perf_counter()
            reports = self._agent.step()
            turns.append(time.perf_counter() - began_s)
            assert not reports, f"the kernel was not right: {reports}"
        return turns


def _read_tables(kernel: Kernel) -> None:
    for scope in kernel.scopes():
        if scope.kind == "table":
            kernel.read(scope)


def _seconds(do: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    do()
    return time.perf_counter() - began_s
