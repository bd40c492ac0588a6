"""Loop with a Worker: while chains and jumps hang, endpoints are followed; afterwards everything is served."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel import LINK, Readable, Scope, Snapshot, snapshot_of, table_scope
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.kernel.worker import Worker
from kubeproxy_py.model.events import Feed, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.rows import Address, Chain, Jump, Key, RealServer, Rows
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Loop
from tests.builders import endpoint_slice, node_context, service
from tests.reconcile.harness import SERVER

PATIENCE_S = 60.0
TABLES = [table_scope("IPv4", "nat"), table_scope("IPv4", "filter")]


class HangingRules:
    """An adapter of the chains and jumps of *kernel*, which hangs in "apply" or "read" until it is released."""

    def __init__(self, kernel: MemoryKernel, hangs_in: str) -> None:
        self.released = threading.Event()
        self._kernel = kernel
        self._hangs_in = hangs_in

    def scopes(self) -> Sequence[Scope]:
        return TABLES

    def read(self, scope: Scope) -> Rows:
        assert self._hangs_in != "read" or self.released.wait(10 * PATIENCE_S)
        return self._kernel.read(scope)

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        assert self._hangs_in != "apply" or self.released.wait(10 * PATIENCE_S)
        return self._kernel.apply(Plan(tuple(steps))).failures

    def close(self) -> None:
        """Do nothing."""


class LenientKernel(MemoryKernel):
    """Refuses nothing; it has chains and jumps, and not the sets that they refer to."""

    def _errno(self, _step: Step) -> int:
        return 0


class SplitKernel(MemoryKernel):
    """A kernel whose chains and jumps are those of *rules*."""

    rules: Worker

    def scopes(self) -> list[Scope]:
        return list(dict.fromkeys((LINK, *super().scopes(), *TABLES)))

    def apply(self, plan: Plan) -> Outcome:
        if any(isinstance(step.key, Chain | Jump) for step in plan):
            return Outcome(tuple(self.rules.apply(plan.steps)))
        return super().apply(plan)

    def read(self, scope: Scope) -> Rows:
        return self.rules.read(scope) if scope in TABLES else super().read(scope)

    def snapshot(self, readable: Readable) -> Snapshot:
        return snapshot_of(self.read(readable)) if isinstance(readable, Scope) else super().snapshot(readable)


def run_until(loop: Loop, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        loop.run_cycle()


@pytest.mark.parametrize("hangs_in", ["apply", "read"])
def test_endpoints_are_followed_while_rules_hang(hangs_in: str) -> None:
    rules_kernel, kernel = LenientKernel(), SplitKernel()
    rules = HangingRules(rules_kernel, hangs_in)
    kernel.rules = Worker("rules", rules, patience_s=0.05)
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
    loop = Loop(Agent(kernel, compiler, time.monotonic), alive=lambda: 0.1)
    kernel.rules.start(loop.enqueue)
    feeds: tuple[Feed, ...] = ("services", "slices", "node")
    loop.enqueue(ServiceUpserted(service()), SliceUpserted(endpoint_slice()), *(Synced(feed) for feed in feeds))
    run_until(loop, lambda: SERVER in kernel.rows)
    for number in range(2, 30):
        began_s = time.monotonic()
        pod: Key = RealServer(SERVER, f"10.244.1.{number}", 8080)
        loop.enqueue(SliceUpserted(endpoint_slice(endpoints=[f"10.244.1.{number}"])))
        run_until(loop, lambda pod=pod: pod in kernel.rows)  # type: ignore[misc]
        assert time.monotonic() - began_s < PATIENCE_S  # the rules hang until they are released, below
    assert Address("10.96.0.10") not in kernel.rows
    rules.released.set()
    run_until(loop, lambda: Address("10.96.0.10") in kernel.rows)
    assert [key for key in rules_kernel.rows if isinstance(key, Jump)]
