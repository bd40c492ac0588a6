"""Churn: so many endpoints replaced each second, all over the Services, for as long as it takes to see a trend.

Law: the load is open: a change is due at its moment whether or not the last one is done, and its latency counts from
that moment.  A process of its own writes the lines of the watch into a pipe; here a thread reads and decodes them, as
in the product, and the main thread runs the loop, with its full compares at their default period.

How busy we are is the wall clock of turns that have something to do, and the time that decoding takes of lines that
are decoded outside these: what is decoded while a turn lasts, makes the turn longer by as much, for there is one CPU
and Python runs one thread at a time.  It is rather too high, since the process that writes the lines has its part of
it.  The lab kernel's own account of CPU is in ticks of 10 ms, and does not see work that begins at one tick and is
done before the next, as this does.

Each Service's first pod is one, then another, then the first again, as one whose probe fails now and then.  The
other load has a new address each time, as a rollout without end has: there the kernel's list of real servers that were
deleted within two minutes grows, and comes to cost more than everything else (docs/performance.md).
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
from bench.inside.process import memory_bytes, wait_s
from bench.inside.spent import spent_in
from kubeproxy_py import logging_setup as logs
from kubeproxy_py.kernel.netlink.socket import Socket
from kubeproxy_py.model.events import Event as ClusterEvent
from kubeproxy_py.model.events import SliceUpserted
from kubeproxy_py.reconcile.loop import Loop, Observer
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus

RATE = 1000  # changes a second
_TICK_S = 0.01
_HEADER = struct.Struct("=dI")  # when the line is due, by time.monotonic; its length
_TURN_MAX_S = 0.05
_DECODED = 300  # lines
_FORK = multiprocessing.get_context("fork")

Figures = dict[str, float]


class Watch:
    """An observer of the loop that knows when each change was due, and says how late it was done."""

    def __init__(self, product: Observer) -> None:
        self._product = product  # which counts what the loop does, for metrics and health
        self.due_s: deque[float] = deque()  # of changes that were told and not taken; taken in the order of telling
        self.latencies_s: list[float] = []
        self.waiting: list[int] = []  # at the end of each turn
        self.decoded = 0  # lines, counted by the thread that decodes
        self.decoded_within = 0  # of them, while a turn was busy
        self.busy_s = 0.0  # from the first event taken to the end of the turn
        self.failed = 0
        self._taken_s: list[float] = []
        self._began_s = 0.0
        self._decoded_before = 0  # when the turn became busy

    def on_pending_since(self, since_s: float | None) -> None:
        self._product.on_pending_since(since_s)

    def on_event(self, event: ClusterEvent) -> None:
        self._product.on_event(event)
        if self.due_s and isinstance(event, SliceUpserted):
            if not self._began_s:
                self._began_s, self._decoded_before = time.monotonic(), self.decoded
            self._taken_s.append(self.due_s.popleft())

    def on_report(self, report: SyncReport) -> None:
        self._product.on_report(report)
        self.failed += len(report.failed)

    def on_cycle_end(self, standing: SyncStatus) -> None:
        self._product.on_cycle_end(standing)
        if not standing.has_work and self._taken_s:
            now_s = time.monotonic()
            self.latencies_s += [now_s - due_s for due_s in self._taken_s]
            self._taken_s.clear()
            self.busy_s += now_s - self._began_s
            self.decoded_within += self.decoded - self._decoded_before
            self._began_s = 0.0
            self.waiting.append(len(self.due_s))


def measure_new(n: int, seconds: int) -> Figures:
    """The same, but no address ever comes back."""
    return measure(n, seconds, returning=False)


def measure(n: int, seconds: int, *, returning: bool = True) -> Figures:
    """*seconds* of churn among *n* Services."""
    logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - for good; the log is part of what a change costs
    reading, writing = os.pipe()
    go = _FORK.Event()
    feeder = _FORK.Process(target=_feed, args=(writing, n, seconds, go, returning), daemon=True)
    feeder.start()
    os.close(writing)
    with fresh_namespace(), os.fdopen(reading, "rb", buffering=1 << 16) as pipe:
        watch, lines = Watch(agent.serving()), Lines()
        made = agent.whole(lambda _: None, sync_period="30s", observer=watch, turn_max_s=_TURN_MAX_S)
        for event in lines.listed(n):
            made.loop.enqueue(event)
        made.loop.turn()
        agent.check_programmed(made.parts.kernel, n)
        go.set()
        with spent_in(Socket, "_exchange") as sent_s:  # within a send the kernel carries out its messages
            figures = _churned(made.loop, watch, lines, pipe, seconds)
        figures["kernel_share"] = sent_s[0] / seconds
        figures["compares"] = made.agent.status().compares
        made.parts.kernel.close()
    feeder.join()
    return figures


def _churned(loop: Loop, watch: Watch, lines: Lines, pipe: IO[bytes], seconds: int) -> Figures:
    """Turn the loop until all is done that comes through *pipe*."""
    reader = threading.Thread(target=_read, args=(pipe, lines, loop, watch), daemon=True)
    began_s = time.monotonic()
    reader.start()
    while reader.is_alive() or len(watch.latencies_s) < RATE * seconds:
        loop.turn()
        assert time.monotonic() - began_s < 4 * seconds + 30, "it does not keep up at all"
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
    """Seconds that decoding one line takes."""
    made = [objects.slice_line(number) for number in range(_DECODED)]
    began_s = time.perf_counter()
    for line in made:
        lines.slice(line)
    return (time.perf_counter() - began_s) / _DECODED


def _read(pipe: IO[bytes], lines: Lines, loop: Loop, watch: Watch) -> None:
    """Decode what comes, and tell it: the thread of a watch."""
    while header := pipe.read(_HEADER.size):
        at_s, length = _HEADER.unpack(header)
        for event in lines.slice(pipe.read(length)):
            watch.due_s.append(at_s)
            loop.enqueue(event)
        watch.decoded += 1


def _feed(writing: int, n: int, seconds: int, go: Event, returning: bool) -> None:
    """Write RATE lines a second, in bursts of a tick, each as due; made before, so that writing is all it costs."""
    pods = (1, 0) if returning else range(1, RATE * seconds // n + 2)
    made = [[objects.slice_line(place, replaced=replaced) for place in range(n)] for replaced in pods]
    go.wait()
    burst, began_s = round(RATE * _TICK_S), time.monotonic() + 2 * _TICK_S
    for tick in range(round(seconds / _TICK_S)):
        at_s = began_s + tick * _TICK_S
        turns = (divmod(number, n) for number in range(tick * burst, (tick + 1) * burst))
        lines = [made[turn % len(made)][place * 7919 % n] for turn, place in turns]
        wait_s(at_s)
        data = b"".join(_HEADER.pack(at_s, len(line)) + line for line in lines)
        while data:
            data = data[os.write(writing, data) :]
    os.close(writing)
