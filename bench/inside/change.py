"""One change, from the receipt of the watch line until the kernel has acknowledged it.

Invariants:
  - Decoder, loop, agent, compiler, kernel and address monitor are those of the product.
  - Each N has a process and a namespace of its own.
  - All N are measured in one boot, alternately in short runs, so that their ratios are valid on a busy machine.
  - What a change causes afterwards (the kernel's notifications of the agent's own addresses) is measured separately.
  - What is due besides (marks, checks of real servers) is done before, as by a loop that waits for the change.
"""

import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import objects
from bench.inside import agent
from bench.inside.lines import Lines
from bench.inside.network import add_node_address, fresh_namespace
from bench.inside.spent import time_spent_in
from kubeproxy_py import logging_setup as logs
from kubeproxy_py.kernel.address.monitor import AddressMonitor
from kubeproxy_py.kernel.netlink.socket import Socket
from kubeproxy_py.model.events import AddressesChanged, Event
from kubeproxy_py.model.rows import DRAINING
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger

_NOTIFICATION_S = 0.25  # twice the time within which the monitor reports
_SERVICE_ROWS = 14  # 10 real servers, the virtual server, its address, two set entries
# With externalTrafficPolicy Local: three virtual servers, two addresses, seven set entries.
_LOCAL_SERVICE_ROWS = 42
# By mark: another virtual server, two entries that lead to it, two of what is dropped.
_MARK_ROWS = 15
RUN_LENGTH = 10  # changes of one worker before the next worker runs
# Many changes at once, because the lab's kernel accounts CPU in ticks of 10 ms.
_CPU_RUN, _CPU_SERVICES = 500, 100
_TURN_MAX_S = 0.05  # of a cycle of the loop in which nothing happens
_FORK = multiprocessing.get_context("fork")

Figures = dict[str, list[float]]


class ChangeBench:
    """An agent that has programmed *n* Services; its methods change them and return the milliseconds of each change.

    *local_every* is that of the objects; those methods that change Services with externalTrafficPolicy Local need it.
    """

    def __init__(self, n: int, policies: str = "kube-proxy", local_every: int = 0) -> None:
        self.n = n
        self._services = 0
        self._policies, self._local_every = policies, local_every
        self._numbers = self._scattered(is_local=False), self._scattered(is_local=True)
        self._changes: Counter[bool] = Counter()  # of Services with policy Local, and of the others
        self._notifications: deque[AddressesChanged] = deque()  # not enqueued yet
        self._reports: list[Report] = []
        self._lines = Lines(local_every)
        logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - never closed; logging is part of the cost
        self._parts, self._agent, self._loop = agent.make_agent(
            self._reports.append, observer=agent.make_observer(), turn_max_s=_TURN_MAX_S, policies=policies
        )
        self._monitor = AddressMonitor(self._notifications.append)

    def _scattered(self, *, is_local: bool) -> list[int]:
        """Return the Services with policy Local, or the others, in an order in which no neighbours follow each other.

        Of those with policy Local only such without a pod on this node, which are nearly all: others have fewer rows.
        """
        numbers = (place * 7919 % self.n for place in range(self.n))  # a prime: each Service once
        chosen = [number for number in numbers if objects.is_external_local(number, self._local_every) == is_local]
        return [number for number in chosen if not objects.is_local(number)] if is_local else chosen

    def program(self) -> None:
        """Run the first sync and handle the notifications that it causes."""
        for event in self._lines.initial_events(self.n):
            self._loop.enqueue(event)
        self._loop.run_cycle()
        agent.check_programmed(self._parts.kernel, self.n, local_every=self._local_every, policies=self._policies)
        self._monitor.start()
        self._address_notification_ms()
        self.replace_endpoints()

    def replace_endpoints(self) -> Figures:
        """Replace one pod after the other, of Services in a scattered order; replace them back once each was."""
        return {"endpoint": [self._when_idle(self._slice_changed, line) for line in self._next_lines(RUN_LENGTH)]}

    def replace_local_endpoints(self) -> Figures:
        """Do as `replace_endpoints` with Services that have policy Local."""
        lines = [self._next_line(is_local=True) for _ in range(RUN_LENGTH)]
        return {"local endpoint": [self._when_idle(self._local_slice_changed, line) for line in lines]}

    def change_local_service(self) -> Figures:
        """Add and delete a Service with policy Local."""
        added = self._when_idle(self._service_changed, "ADDED", True)
        self._address_notification_ms()
        deleted = self._when_idle(self._service_changed, "DELETED", True)
        self._address_notification_ms()
        return {"local added": [added], "local deleted": [deleted]}

    def count_rows(self) -> Figures:
        """Return the number of rows."""
        return {"rows": [float(len(self._agent.state.rows))]}

    def measure_endpoint_cpu(self) -> Figures:
        """Measure the agent's CPU time for one endpoint, as the mean of many."""
        lines = self._next_lines(_CPU_RUN)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for line in lines:
            self._slice_changed(line)
        return {
            "cpu": [_mean_ms(cpu_s, time.process_time(), len(lines))],
            "row": [_mean_ms(began_s, time.perf_counter(), len(lines))],
        }

    def change_service(self) -> Figures:
        """Add and delete a Service, and measure the handling of the notification of its address after each."""
        added = self._when_idle(self._service_changed, "ADDED", False)
        notification = self._address_notification_ms()
        deleted = self._when_idle(self._service_changed, "DELETED", False)
        return {"added": [added], "deleted": [deleted], "echo": [notification, self._address_notification_ms()]}

    def measure_service_cpu(self) -> Figures:
        """Measure the CPU time for a Service added or deleted, as the mean of many, with the address notifications."""
        lines = self._many_services()
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for service, part in lines:
            self._both_changed(service, part)
        figures = {
            "service_cpu": [_mean_ms(cpu_s, time.process_time(), len(lines))],
            "service_row": [_mean_ms(began_s, time.perf_counter(), len(lines))],
        }
        lines = self._many_services()
        with time_spent_in(
            Socket, "_send_batch"
        ) as sent_s:  # repeated: within a send the kernel carries out its messages
            for service, part in lines:
                self._both_changed(service, part)
        return {**figures, "service_sends": [_mean_ms(0.0, sent_s[0], len(lines))]}

    def _many_services(self) -> list[tuple[bytes, bytes]]:
        """Return the watch lines that add and delete _CPU_SERVICES Services."""
        return [self._service_lines(event) for _ in range(_CPU_SERVICES) for event in ("ADDED", "DELETED")]

    def close(self) -> None:
        """Stop the monitor and close the kernel's sockets."""
        self._monitor.stop()
        self._parts.kernel.close()

    def _next_lines(self, count: int) -> list[bytes]:
        return [self._next_line() for _ in range(count)]

    def _next_line(self, *, is_local: bool = False) -> bytes:
        numbers = self._numbers[is_local]
        turn, place = divmod(self._changes[is_local], len(numbers))
        self._changes[is_local] += 1
        return objects.slice_line(numbers[place], replaced=turn % 2 == 0)

    def _service_lines(self, event: str, *, is_local: bool = False) -> tuple[bytes, bytes]:
        """Return the watch lines of a new Service (ADDED), or of the last one that was added (DELETED)."""
        if event == "ADDED":
            self._services += 1
            while not self._is_usual(self.n + self._services, is_local=is_local):
                self._services += 1
        number = self.n + self._services
        return objects.service_line(number, event, self._local_every), objects.slice_line(number, event)

    def _is_usual(self, number: int, *, is_local: bool) -> bool:
        """Return whether that Service has that policy and no pod on this node, which would cause one more step."""
        return objects.is_external_local(number, self._local_every) == is_local and not objects.is_local(number)

    def _service_changed(self, event: str, is_local: bool) -> float:
        rows = _LOCAL_SERVICE_ROWS + self._mark_rows(event) if is_local else _SERVICE_ROWS
        return self._both_changed(*self._service_lines(event, is_local=is_local), rows)

    def _mark_rows(self, event: str) -> int:
        """Return the steps for the virtual server by mark of a Service; it is deleted later, when it has drained."""
        return (_MARK_ROWS if event == "ADDED" else _MARK_ROWS - 1) if self._policies == "exact" else 0

    def _both_changed(self, service: bytes, part: bytes, steps: int = _SERVICE_ROWS) -> float:
        decode = self._lines
        return self._change(lambda: [*decode.service(service), *decode.slice(part)], steps=steps)

    def _slice_changed(self, line: bytes) -> float:
        return self._change(lambda: self._lines.slice(line), steps=2)

    def _local_slice_changed(self, line: bytes) -> float:
        servers = 4 if self._policies == "exact" else 3
        return self._change(lambda: self._lines.slice(line), steps=2 * servers)

    def _change(self, decode: Callable[[], Sequence[Event]], steps: int) -> float:
        """Return the milliseconds until the events of *decode* are in the kernel, by exactly so many *steps*.

        Real servers that have drained since earlier changes are deleted in the same cycle; the time includes that,
        *steps* does not.
        """
        self._reports.clear()
        took_ms = self._run_cycle(decode)
        syncs = [report for report in self._reports if isinstance(report, SyncReport)]
        done = [_without_drained(report) for report in syncs if report.trigger is Trigger.EVENT]
        assert done == [steps], f"{done} steps, not {steps}: {self._reports}"
        assert not any(report.failures for report in syncs), syncs
        return took_ms

    def _when_idle(self, change: Callable[..., float], *arguments: object) -> float:
        """Return the milliseconds of *change* with *arguments*, after the loop has done what was due."""
        self._run_due()
        return change(*arguments)

    def _run_due(self) -> None:
        while self._agent.due_s() <= time.monotonic():
            self._loop.run_cycle()

    def _address_notification_ms(self) -> float:
        """Return the milliseconds to handle the kernel's notifications of the addresses of the last change."""
        end_s = time.monotonic() + _NOTIFICATION_S
        while time.monotonic() < end_s:
            self._loop.run_cycle()
        self._run_due()
        if not self._notifications:
            return 0.0
        while self._notifications:
            self._loop.enqueue(self._notifications.popleft())
        return self._run_cycle()

    def _run_cycle(self, decode: Callable[[], Sequence[Event]] = tuple) -> float:
        began_s = time.perf_counter()
        for event in decode():
            self._loop.enqueue(event)
        self._loop.run_cycle()
        return (time.perf_counter() - began_s) * 1e3


def _without_drained(report: SyncReport) -> int:
    """Return the number of steps, without deletions of real servers that had drained."""
    return sum(step.verb != "delete" or step.before != DRAINING for step in report.steps)


def _mean_ms(began_s: float, ended_s: float, count: int) -> float:
    return (ended_s - began_s) * 1e3 / count


class Worker:
    """A ChangeBench in a process of its own."""

    def __init__(self, n: int, policies: str = "kube-proxy", local_every: int = 0) -> None:
        self.n = n
        self.figures: Figures = {}
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(theirs, n, policies, local_every), daemon=True)
        self._process.start()
        theirs.close()
        self.run("program")

    def run(self, method: str) -> None:
        """Call *method* of the ChangeBench and add its figures.  Raises EOFError if it failed."""
        self._pipe.send(method)
        for name, values in (self._pipe.recv() or {}).items():
            self.figures.setdefault(name, []).extend(values)

    def close(self) -> None:
        """End the process."""
        self.run("close")
        self._process.join()


def _serve(pipe: "Connection[Any, Any]", n: int, policies: str, local_every: int) -> None:
    with fresh_namespace(wait=False):
        if local_every:
            add_node_address()
        bench = ChangeBench(n, policies, local_every)
        method = ""
        while method != "close":
            method = pipe.recv()
            pipe.send(getattr(bench, method)())


def measure(sizes: Sequence[int], repeats: int) -> dict[str, Figures]:
    """Return milliseconds of *repeats* endpoints replaced and a tenth as many Services added and deleted, by size."""
    workers = [Worker(n) for n in sizes]
    plan = ["replace_endpoints"] * (repeats // RUN_LENGTH) + ["change_service"] * max(2, repeats // 10)
    for method in [*plan, "measure_endpoint_cpu", "measure_service_cpu", "close"]:
        for worker in workers:
            worker.run(method)
    return {str(worker.n): worker.figures for worker in workers}
