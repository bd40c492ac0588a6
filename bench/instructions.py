"""`python -m bench.instructions`: count the instructions of a change and of a cold start, without a kernel.

valgrind(1) counts them, so they are the same on a busy machine; what they miss is the kernel's work, and encoding
messages.  Every fifth Service has externalTrafficPolicy Local, and both policies are counted.  Each figure is the
difference between two processes that were forked at the same place, of which one does more.
"""

import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from bench import objects
from bench.inside.agent import make_observer
from bench.inside.lines import Lines
from bench.rows import Row, table_text
from kubeproxy_py import logging_setup as logs
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import RealServer
from kubeproxy_py.model.steps import Outcome, Plan
from kubeproxy_py.reconcile import loop as loop_module
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Loop

_MODES = ("kube-proxy", "exact")
_SERVICES, _CHANGES = 300, 10
_NOW_S = 1000.0
_COUNT = re.compile(r"I\s+refs:\s+([\d,]+)")
_KINDS = {"same rows": False, "externalTrafficPolicy Local": True}


class _NoKernel(MemoryKernel):
    """Takes every plan, and keeps nothing."""

    def apply(self, _plan: Plan) -> Outcome:
        return Outcome()

    def idle(self, _real_servers: object) -> set[RealServer]:
        return set()

    def host_addresses(self) -> tuple[HostAddress, ...]:
        return (HostAddress("eth0", objects.NODE_IP),)


class _Counted:
    """An agent whose clock is stopped."""

    def __init__(self, mode: str) -> None:
        loaded = load({"hostname-override": objects.NODE_NAME, "manifests": "/nowhere", "policies": mode})

        def context(node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
            return make_node_context(
                loaded.config, HostInfo(node_name=objects.NODE_NAME), node, addresses, loaded.agent
            )

        self._agent = Agent(_NoKernel(), Compiler(context), lambda: _NOW_S, mark_range=loaded.agent.mark_range)
        self._loop = Loop(self._agent, observer=make_observer())
        self._lines = Lines(objects.LOCAL_EVERY)
        self.initial = list(self._lines.initial_events(_SERVICES))

    def feed(self, events: Sequence[Event]) -> None:
        self._loop.enqueue(*events)
        self._loop.run_cycle()

    def program(self) -> None:
        """Run the first sync."""
        self.feed(self.initial)
        assert self._agent.state.counts  # as after the marks of the kernel were read

    def change(self, service: bytes | None, part: bytes) -> None:
        """Handle the watch lines of a change."""
        self.feed([*(self._lines.service(service) if service else ()), *self._lines.slice(part)])


def main() -> None:
    """Print the table; count in a process of valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        words += [f"--log-file={folder}/%p", sys.executable, "-m", "bench.instructions", "count"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        sys.stdout.write(table_text(rows_of(done.stdout.splitlines(), Path(folder))))


def rows_of(lines: Sequence[str], folder: Path) -> Iterator[Row]:
    """Yield the thousands of instructions by what *lines* say of the processes whose counts are in *folder*."""
    counts: dict[tuple[str, str], list[int]] = {}
    times: dict[str, int] = {}
    for line in lines:
        pid, mode, number, measure = line.split(maxsplit=3)
        found = _COUNT.search((folder / pid).read_text())
        assert found, pid
        counts.setdefault((measure, mode), []).append(int(found[1].replace(",", "")))
        times[measure] = int(number)
    for measure, changes in times.items():
        values = [(counts[measure, mode][1] - counts[measure, mode][0]) / changes / 1e3 for mode in _MODES]
        for mode, value in zip(_MODES, values, strict=True):
            yield Row(f"{measure}, {mode}", _SERVICES, value, "k")
        yield Row("  ratio", _SERVICES, values[1] / values[0], "x")


def _count() -> None:
    """Do everything that is counted, each in a process of its own, and print which did what."""
    gc.disable()
    logs.setup(stream=Path(os.devnull).open("w"))  # noqa: SIM115 - never closed; logging is part of the cost
    with patch.object(loop_module, "monotonic", lambda: _NOW_S):
        _Counted("exact").program()  # what happens once, such as imports, is not counted
        for mode in _MODES:
            _count_mode(mode)


def _count_mode(mode: str) -> None:
    counted = _Counted(mode)
    _fork(f"{mode} {_SERVICES} cold start, each Service", lambda: None, counted.program)
    counted.program()
    for kind, is_local in _KINDS.items():
        _fork_changes(f"{mode} {_CHANGES} endpoint replaced, {kind}", counted, list(_endpoints(is_local=is_local)))
        name = f"{mode} {_CHANGES} Service added or deleted, {kind}"
        _fork_changes(name, counted, list(_services(is_local=is_local)))


def _endpoints(*, is_local: bool) -> Iterator[tuple[None, bytes]]:
    """Yield changes of every Service of the kind, and so many more."""
    numbers = [number for number in range(_SERVICES) if _is(number, is_local=is_local)]
    for change in range(2 * len(numbers) + _CHANGES):
        turn, place = divmod(change, len(numbers))
        yield None, objects.slice_line(numbers[place], replaced=turn % 2 == 0)


def _services(*, is_local: bool) -> Iterator[tuple[bytes, bytes]]:
    number = next(number for number in range(_SERVICES, 2 * _SERVICES) if _is(number, is_local=is_local))
    for change in range(4 + _CHANGES):
        event = "DELETED" if change % 2 else "ADDED"
        yield objects.service_line(number, event, objects.LOCAL_EVERY), objects.slice_line(number, event)


def _is(number: int, *, is_local: bool) -> bool:
    return objects.is_external_local(number, objects.LOCAL_EVERY) == is_local and not objects.is_local(number)


def _fork_changes(label: str, counted: _Counted, changes: Sequence[tuple[bytes | None, bytes]]) -> None:
    """Count the last of *changes*; the others are done before, so that caches are warm."""

    def run(some: Sequence[tuple[bytes | None, bytes]]) -> None:
        for service, part in some:
            counted.change(service, part)

    _fork(label, lambda: run(changes[:-_CHANGES]), lambda: run(changes))


def _fork(label: str, *runs: Callable[[], None]) -> None:
    for run in runs:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            run()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, label
        print(pid, label, flush=True)


if __name__ == "__main__":
    _count() if sys.argv[1:] == ["count"] else main()
