"""One change, from the event being told to the loop until the kernel has acknowledged it.

Law: the real loop, agent, compiler and kernel, with the address monitor running, as in the product; each N is a
process and a namespace of its own.  All N are measured in one boot, turn about in short runs, so that their ratios
mean something on a machine that others use too.  What a change causes afterwards (the kernel tells us of our own
addresses) is counted apart.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from kubeproxy_py import logs
from kubeproxy_py.kernel import read_all
from kubeproxy_py.kernel.monitor import AddressMonitor
from kubeproxy_py.loop import Loop
from kubeproxy_py.model.events import AddressesChanged, Event, ServiceGone, ServiceSet, SliceGone, SliceSet
from kubeproxy_py.plan.report import SyncReport

_ECHO_S = 0.25  # twice the time in which the monitor tells
_SERVICE_ROWS = 14  # 10 real servers, the virtual server, its address, two set entries
_RUN = 10  # changes, then it is the next one's turn
_CPU_RUN = 500  # changes at once: the lab's kernel books CPU in ticks of 10 ms
_FORK = multiprocessing.get_context("fork")

Figures = dict[str, list[float]]


class Bench:
    """An agent that has programmed *n* Services; it changes them one after the other, and says the ms of each."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._changes = self._services = self._heard = 0
        self._reports: list[SyncReport] = []
        self._parts = agent.parts()
        logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - for good; the log is part of what a change costs
        self._loop: Loop = agent.loop_of(self._parts, self._reports.append)
        self._monitor = AddressMonitor(self._on_addresses)

    def program(self) -> None:
        """The first sync, and whatever it causes."""
        for event in agent.first_events(self.n):
            self._loop.tell(event)
        self._loop.turn()
        agent.check_programmed(self._parts.kernel, self.n)
        self._monitor.start()
        self._echo()
        self.endpoints()

    def endpoints(self, count: int = _RUN) -> Figures:
        """One pod after the other replaced, in Services all over; by the same again, once each was."""
        return {"endpoint": [self._endpoint() for _ in range(count)]}

    def cpu(self) -> Figures:
        """Our CPU for one endpoint, as the mean of many."""
        before_s = time.process_time()
        self.endpoints(_CPU_RUN)
        return {"cpu": [(time.process_time() - before_s) * 1e3 / _CPU_RUN]}

    def service(self) -> Figures:
        """A Service added and deleted, and what hearing of its address takes after each."""
        self._services += 1
        number = self.n + self._services
        service, part = objects.service(number), objects.endpoint_slice(number)
        added = self._change(ServiceSet(service), SliceSet(part), steps=_SERVICE_ROWS)
        echo = self._echo()
        deleted = self._change(ServiceGone(service.name), SliceGone(part.name), steps=_SERVICE_ROWS)
        return {"added": [added], "deleted": [deleted], "echo": [echo, self._echo()]}

    def compare(self) -> Figures:
        """Reading all back, as the full compare does; nothing else is done meanwhile."""
        began_s = time.perf_counter()
        read_all(self._parts.kernel)
        return {"compare": [(time.perf_counter() - began_s) * 1e3]}

    def close(self) -> None:
        self._monitor.stop()
        self._parts.kernel.close()

    def _endpoint(self) -> float:
        turn, place = divmod(self._changes, self.n)
        self._changes += 1
        number = place * 7919 % self.n  # a prime: each Service once before any comes again
        return self._change(SliceSet(objects.endpoint_slice(number, replaced=turn % 2 == 0)), steps=2)

    def _change(self, *events: Event, steps: int) -> float:
        """The ms until *events* are in the kernel; it must take just so many *steps*, all of which succeed."""
        self._reports.clear()
        took_ms = self._turn(*events)
        done = [len(report.steps) for report in self._reports if not report.why]
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

    def _turn(self, *events: Event) -> float:
        began_s = time.perf_counter()
        for event in events:
            self._loop.tell(event)
        self._loop.turn()
        return (time.perf_counter() - began_s) * 1e3

    def _on_addresses(self, change: AddressesChanged) -> None:
        self._heard += 1
        self._loop.tell(change)


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
    """Milliseconds of *repeats* endpoints replaced and a fifth as many Services added and deleted, at each size."""
    workers = [Worker(n) for n in sizes]
    plan = (
        ["endpoints"] * (repeats // _RUN) + ["service"] * max(2, repeats // 5) + ["cpu", "compare", "compare", "close"]
    )
    for what in plan:
        for worker in workers:
            worker.do(what)
    return {str(worker.n): worker.figures for worker in workers}
