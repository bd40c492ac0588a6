"""Churn: RATE endpoints replaced per second, spread over all Services, long enough to show a trend.

The load is open: a change is due at its time whether or not the last one is done, and its latency counts from that
time.  A separate process writes the watch lines into a pipe; here a thread reads and decodes them, as in the product,
and the main thread runs the loop, with full compares at their default period.

"Busy" is the wall time of cycles that have work, plus the decoding time of lines that are decoded outside of them:
lines decoded during a cycle make that cycle longer, because there is one CPU and Python runs one thread at a time.
It is slightly too high, because the process that writes the lines has a share of it.  The lab kernel's CPU accounting
has ticks of 10 ms and misses work that begins after one tick and ends before the next, as this work does.

Each Service's first pod alternates between two addresses, like a pod whose probe fails now and then.  The other load
uses a new address each time, like a rollout without end: there the kernel's list of real servers that were deleted
within two minutes grows, and costs more than everything else (docs/performance.md).
"""

import multiprocessing
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import fmean, quantiles
from typing import IO

from bench import objects
from bench.inside import agent
from bench.inside.lines import Lines
from bench.inside.network import fresh_namespace
from bench.inside.process import memory_bytes, sleep_until
from bench.inside.spent import time_spent_in
from kubeproxy_py import logging_setup as logs
from kubeproxy_py.kernel.netlink.socket import Socket
from kubeproxy_py.model.events import Event as ClusterEvent
from kubeproxy_py.model.events import SliceUpserted
from kubeproxy_py.reconcile.loop import Loop, Observer
from kubeproxy_py.reconcile.report import Report, StaleFlowReport
from kubeproxy_py.reconcile.sync_status import SyncStatus

RATE = 1000  # changes a second
_TICK_S = 0.01
_HEADER = struct.Struct("=dI")  # when the line is due, by time.monotonic; its length
_TURN_MAX_S = 0.05
_DECODED = 300  # lines
_FORK = multiprocessing.get_context("fork")

Figures = dict[str, float]


class LatencyObserver:
    """An observer of the loop that records how late each change is done."""

    def __init__(self, product: Observer) -> None:
        self._product = product  # counts what the loop does, for metrics and health
        self.due_s: deque[float] = deque()  # due times of changes that are enqueued and not yet handled, in order
        self.latencies_s: list[float] = []
        self.waiting: list[int] = []  # changes waiting at the end of each cycle
        self.decoded = 0  # lines, counted by the thread that decodes
        self.decoded_within = 0  # of these, during a busy cycle
        self.busy_s = 0.0  # from the first handled event to the end of the cycle
        self.failed = 0
        self._handled_due_s: list[float] = []  # due times of the changes that this cycle handles
        self._began_s = 0.0
        self._decoded_before = 0  # lines when the cycle became busy

    def on_pending_since(self, since_s: float | None) -> None:
        self._product.on_pending_since(since_s)

    def on_event(self, event: ClusterEvent) -> None:
        self._product.on_event(event)
        if self.due_s and isinstance(event, SliceUpserted):
            if not self._began_s:
                self._began_s, self._decoded_before = time.monotonic(), self.decoded
            self._handled_due_s.append(self.due_s.popleft())

    def on_report(self, report: Report) -> None:
        self._product.on_report(report)
        if not isinstance(report, StaleFlowReport):
            self.failed += len(report.failures)

    def on_cycle_end(self, status: SyncStatus) -> None:
        self._product.on_cycle_end(status)
        if not status.has_work and self._handled_due_s:
            now_s = time.monotonic()
            self.latencies_s += [now_s - due_s for due_s in self._handled_due_s]
            self._handled_due_s.clear()
            self.busy_s += now_s - self._began_s
            self.decoded_within += self.decoded - self._decoded_before
            self._began_s = 0.0
            self.waiting.append(len(self.due_s))


def measure_new_addresses(n: int, seconds: int) -> Figures:
    """Measure the churn with new addresses only."""
    return measure(n, seconds, returning=False)


def measure(n: int, seconds: int, *, returning: bool = True) -> Figures:
    """Measure *seconds* of churn among *n* Services."""
    logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - never closed; logging is part of the cost
    reading, writing = os.pipe()
    go = _FORK.Event()
    feeder = _FORK.Process(target=_feed, args=(writing, n, seconds, go, returning), daemon=True)
    feeder.start()
    os.close(writing)
    with fresh_namespace(), os.fdopen(reading, "rb", buffering=1 << 16) as pipe:
        watch, lines = LatencyObserver(agent.make_observer()), Lines()
        measured = agent.make_agent(lambda _: None, sync_period="30s", observer=watch, turn_max_s=_TURN_MAX_S)
        for event in lines.initial_events(n):
            measured.loop.enqueue(event)
        measured.loop.run_cycle()
        agent.check_programmed(measured.parts.kernel, n)
        go.set()
        with time_spent_in(Socket, "_send_batch") as sent_s:  # within a send the kernel carries out its messages
            figures = _churned(measured.loop, watch, lines, pipe, seconds)
        figures["kernel_share"] = sent_s[0] / seconds
        figures["compares"] = measured.agent.status().compares
        measured.parts.kernel.close()
    feeder.join()
    return figures


def _churned(loop: Loop, watch: LatencyObserver, lines: Lines, pipe: IO[bytes], seconds: int) -> Figures:
    """Run the loop until all changes from *pipe* are done."""
    reader = threading.Thread(target=_read, args=(pipe, lines, loop, watch), daemon=True)
    began_s = time.monotonic()
    reader.start()
    while reader.is_alive() or len(watch.latencies_s) < RATE * seconds:
        loop.run_cycle()
        assert time.monotonic() - began_s < 4 * seconds + 30, "the agent cannot keep up"
    took_s = time.monotonic() - began_s
    assert not watch.failed, f"{watch.failed} rows failed"
    assert len(watch.latencies_s) == RATE * seconds, len(watch.latencies_s)
    quarter = len(watch.waiting) // 4
    return {
        "changes": len(watch.latencies_s),
        "share": (watch.busy_s + (watch.decoded - watch.decoded_within) * _decode_s(lines)) / took_s,
        "late_s": watch.latencies_s[-1],
        "growth": fmean(watch.waiting[-quarter:]) - fmean(watch.waiting[:quarter]),
        "waiting_most": max(watch.waiting),
        "worst_at": watch.latencies_s.index(max(watch.latencies_s)) / RATE,
        **_latency_ms(watch.latencies_s),
        **memory_bytes(os.getpid()),
    }


def _latency_ms(latencies_s: Sequence[float]) -> Figures:
    hundredths = quantiles(latencies_s, n=100)
    return {"p50_ms": hundredths[49] * 1e3, "p99_ms": hundredths[98] * 1e3, "worst_ms": max(latencies_s) * 1e3}


def _decode_s(lines: Lines) -> float:
    """Return the seconds of decoding one line."""
    encoded = [objects.slice_line(number) for number in range(_DECODED)]
    began_s = time.perf_counter()
    for line in encoded:
        lines.slice(line)
    return (time.perf_counter() - began_s) / _DECODED


def _read(pipe: IO[bytes], lines: Lines, loop: Loop, watch: LatencyObserver) -> None:
    """Decode the lines and enqueue their events: the thread of a watch."""
    while header := pipe.read(_HEADER.size):
        at_s, length = _HEADER.unpack(header)
        for event in lines.slice(pipe.read(length)):
            watch.due_s.append(at_s)
            loop.enqueue(event)
        watch.decoded += 1


def _feed(writing: int, n: int, seconds: int, go: Event, returning: bool) -> None:
    """Write RATE lines per second, in bursts of a tick, when due; encoded before, so that only writing costs time."""
    pods = (1, 0) if returning else range(1, RATE * seconds // n + 2)
    encoded = [[objects.slice_line(place, replaced=replaced) for place in range(n)] for replaced in pods]
    go.wait()
    burst, began_s = round(RATE * _TICK_S), time.monotonic() + 2 * _TICK_S
    for tick in range(round(seconds / _TICK_S)):
        at_s = began_s + tick * _TICK_S
        places = (divmod(number, n) for number in range(tick * burst, (tick + 1) * burst))
        lines = [encoded[cycle % len(encoded)][place * 7919 % n] for cycle, place in places]
        sleep_until(at_s)
        data = b"".join(_HEADER.pack(at_s, len(line)) + line for line in lines)
        while data:
            data = data[os.write(writing, data) :]
    os.close(writing)
