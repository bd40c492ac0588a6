"""The full compare of a kernel without drift, compared with dumping the kernel's state only.

The agent is the product's, in its own slices; an event waits for the longest of them at most.  Only its clock is
set forward from one compare to the next.  "Dump only" sends the same netlink and getsockopt requests again and reads
the answers without decoding them; both are measured alternately.  The iptables tables are read once before, because
from then on both only check with the kernel whether the tables have changed.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

from bench.inside import agent
from bench.inside.floor import recorded_options, recorded_sends, replay, replay_options_s
from bench.inside.lines import Lines
from bench.inside.network import fresh_namespace
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.kernel.ipvs.sockopt import GET_DESTS
from kubeproxy_py.reconcile.agent import Agent


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of *repeats* compares, of the longest slice of each, and of as many dumps by their parts."""
    with fresh_namespace():
        measured = _ClockedAgent(n)
        first = measured.compare()
        with recorded_sends() as sends, recorded_options() as options:
            measured.kernel.close()  # so that it opens recorded sockets
            read_all(measured.kernel)
            requests, servers = list(sends), [request for request in options if request[1] == GET_DESTS]
        compares, dumps = [], []
        for _ in range(repeats):
            compares.append(measured.compare())
            tables_s = _seconds(lambda: _read_tables(measured.kernel))
            real_servers = {"IPVS, real servers": replay_options_s(servers)}
            dumps.append({**replay(requests)[0], **real_servers, "iptables": tables_s})
        measured.kernel.close()
    return {
        "first": sum(first),
        "first_longest": max(first),
        "compare": [sum(turns) for turns in compares],
        "longest": [max(turns) for turns in compares],
        "dump": [sum(parts.values()) for parts in dumps],
        "dump_parts": dumps,
    }


class _ClockedAgent:
    """An agent that has programmed *n* Services, with a clock that can be set forward."""

    def __init__(self, n: int) -> None:
        parts = agent.make_parts()
        self.kernel = parts.kernel
        self._ahead_s = 0.0
        self._agent = Agent(parts.kernel, parts.compiler, self._clock)
        for event in Lines().initial_events(n):
            self._agent.handle_event(event, time.monotonic())
        self._agent.run_due(self._clock())
        agent.check_programmed(self.kernel, n)
        gc.collect()
        gc.freeze()  # as the loop does after the first sync

    def _clock(self) -> float:
        return time.monotonic() + self._ahead_s

    def compare(self) -> list[float]:
        """Return the seconds of each slice of one full compare."""
        done = self._agent.status().compares
        self._ahead_s += 3600.0
        turns = []
        while self._agent.status().compares == done:
            began_s = time.perf_counter()
            reports = self._agent.run_due(self._clock())
            turns.append(time.perf_counter() - began_s)
            assert not reports, f"the kernel has drift: {reports}"
        return turns


def _read_tables(kernel: Kernel) -> None:
    for scope in kernel.scopes():
        if scope.kind == "table":
            kernel.read(scope)


def _seconds(do: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    do()
    return time.perf_counter() - began_s
