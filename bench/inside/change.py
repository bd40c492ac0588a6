"""One change, from the line of the watch being received until the kernel has acknowledged it.

Law: the real decoder, loop, agent, compiler and kernel, with the address monitor running, as in the product; each N
is a process and a namespace of its own.  All N are measured in one boot, turn about in short runs, so that their ratios
mean something on a machine that others use too.  What a change causes afterwards (the kernel tells us of our own
addresses) is counted apart.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import objects
from bench.inside import agent
from bench.inside.lines import Lines
from bench.inside.network import fresh_namespace
from bench.inside.spent import spent_in
from kubeproxy_py import logging_setup as logs
from kubeproxy_py.kernel.address.monitor import AddressMonitor
from kubeproxy_py.kernel.netlink.socket import Socket
from kubeproxy_py.model.events import AddressesChanged, Event
from kubeproxy_py.model.rows import DRAINING
from kubeproxy_py.reconcile.report import SyncReport

_ECHO_S = 0.25  # twice the time in which the monitor tells
_SERVICE_ROWS = 14  # 10 real servers, the virtual server, its address, two set entries
_RUN = 10  # changes, then it is the next one's turn
# Changes at once, for the lab's kernel books CPU in ticks of 10 ms.
_CPU_RUN, _CPU_SERVICES = 500, 100
_FORK = multiprocessing.get_context("fork")

Figures = dict[str, list[float]]


class Bench:
    """An agent that has programmed *n* Services; it changes them one after the other, and says the ms of each."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._changes = self._services = self._heard = 0
        self._reports: list[SyncReport] = []
        self._lines = Lines()
        logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - for good; the log is part of what a change costs
        self._parts, _, self._loop = agent.whole(self._reports.append, observer=agent.serving())
        self._monitor = AddressMonitor(self._on_addresses)

    def program(self) -> None:
        """The first sync, and whatever it causes."""
        for event in self._lines.listed(self.n):
            self._loop.enqueue(event)
        self._loop.turn()
        agent.check_programmed(self._parts.kernel, self.n)
        self._monitor.start()
        self._echo()
        self.endpoints()

    def endpoints(self) -> Figures:
        """One pod after the other replaced, in Services all over; by the same again, once each was."""
        return {"endpoint": [self._slice_changed(line) for line in self._next_lines(_RUN)]}

    def cpu(self) -> Figures:
        """Our CPU for one endpoint, as the mean of many."""
        lines = self._next_lines(_CPU_RUN)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for line in lines:
            self._slice_changed(line)
        return {
            "cpu": [_mean_ms(cpu_s, time.process_time(), len(lines))],
            "row": [_mean_ms(began_s, time.perf_counter(), len(lines))],
        }

    def service(self) -> Figures:
        """A Service added and deleted, and what hearing of its address takes after each."""
        added = self._service_changed("ADDED")
        echo = self._echo()
        deleted = self._service_changed("DELETED")
        return {"added": [added], "deleted": [deleted], "echo": [echo, self._echo()]}

    def service_cpu(self) -> Figures:
        """Our CPU for a Service that comes or goes, as the mean of many; hearing of its address is part of it."""
        lines = self._many_services()
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for service, part in lines:
            self._both_changed(service, part)
        figures = {
            "service_cpu": [_mean_ms(cpu_s, time.process_time(), len(lines))],
            "service_row": [_mean_ms(began_s, time.perf_counter(), len(lines))],
        }
        lines = self._many_services()
        with spent_in(Socket, "_exchange") as sent_s:  # once more: within a send the kernel carries out its messages
            for service, part in lines:
                self._both_changed(service, part)
        return {**figures, "service_sends": [_mean_ms(0.0, sent_s[0], len(lines))]}

    def _many_services(self) -> list[tuple[bytes, bytes]]:
        """The lines with which so many come and go."""
        return [self._service_lines(event) for _ in range(_CPU_SERVICES) for event in ("ADDED", "DELETED")]

    def close(self) -> None:
        self._monitor.stop()
        self._parts.kernel.close()

    def _next_lines(self, count: int) -> list[bytes]:
        return [self._next_line() for _ in range(count)]

    def _next_line(self) -> bytes:
        turn, place = divmod(self._changes, self.n)
        self._changes += 1
        number = place * 7919 % self.n  # a prime: each Service once before any comes again
        return objects.slice_line(number, replaced=turn % 2 == 0)

    def _service_lines(self, event: str) -> tuple[bytes, bytes]:
        """Of a Service that did not exist before, ADDED; DELETED: of the last that was added."""
        if event == "ADDED":
            self._services += 1
            self._services += objects.is_local(self.n + self._services)  # it would be worth one step more
        number = self.n + self._services
        return objects.service_line(number, event), objects.slice_line(number, event)

    def _service_changed(self, event: str) -> float:
        return self._both_changed(*self._service_lines(event))

    def _both_changed(self, service: bytes, part: bytes) -> float:
        decode = self._lines
        return self._change(lambda: [*decode.service(service), *decode.slice(part)], steps=_SERVICE_ROWS)

    def _slice_changed(self, line: bytes) -> float:
        return self._change(lambda: self._lines.slice(line), steps=2)

    def _change(self, decode: Callable[[], Sequence[Event]], steps: int) -> float:
        """The ms until what *decode* gives is in the kernel; it must take just so many *steps*, all of them done.

        What has drained since earlier changes goes in the same turn; its steps are not counted, its time is.
        """
        self._reports.clear()
        took_ms = self._turn(decode)
        done = [_without_drained(report) for report in self._reports if not report.why]
        assert done == [steps], f"{done} steps, not {steps}: {self._reports}"
        assert not any(report.failed for report in self._reports), self._reports
        return took_ms

    def _echo(self) -> float:
        """The ms it takes us to hear of the addresses that the last change put on our device or took off it."""
        time.sleep(_ECHO_S)
        took_ms = 0.0
        while self._heard:
            self._heard -= 1
            took_ms += self._turn()
        return took_ms

    def _turn(self, decode: Callable[[], Sequence[Event]] = tuple) -> float:
        began_s = time.perf_counter()
        for event in decode():
            self._loop.enqueue(event)
        self._loop.turn()
        return (time.perf_counter() - began_s) * 1e3

    def _on_addresses(self, change: AddressesChanged) -> None:
        self._heard += 1
        self._loop.enqueue(change)


def _without_drained(report: SyncReport) -> int:
    """How many steps were made, but for real servers that had drained."""
    return sum(step.verb != "delete" or step.before != DRAINING for step in report.steps)


def _mean_ms(began_s: float, ended_s: float, count: int) -> float:
    return (ended_s - began_s) * 1e3 / count


class Worker:
    """A Bench in a process of its own."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.figures: Figures = {}
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(n, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.do("program")

    def do(self, what: str) -> None:
        """Have the Bench do *what*, and keep its figures.  Raises EOFError if it failed."""
        self._pipe.send(what)
        for name, found in (self._pipe.recv() or {}).items():
            self.figures.setdefault(name, []).extend(found)

    def close(self) -> None:
        self.do("close")
        self._process.join()


def _serve(n: int, pipe: "Connection[Any, Any]") -> None:
    with fresh_namespace(wait=False):
        bench = Bench(n)
        what = ""
        while what != "close":
            what = pipe.recv()
            pipe.send(getattr(bench, what)())


def measure(sizes: Sequence[int], repeats: int) -> dict[str, Figures]:
    """Milliseconds of *repeats* endpoints replaced and a tenth as many Services added and deleted, at each size."""
    workers = [Worker(n) for n in sizes]
    plan = ["endpoints"] * (repeats // _RUN) + ["service"] * max(2, repeats // 10)
    for what in [*plan, "cpu", "service_cpu", "close"]:
        for worker in workers:
            worker.do(what)
    return {str(worker.n): worker.figures for worker in workers}
