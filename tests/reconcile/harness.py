"""AgentHarness: the fixture of tests that drive an Agent without a loop, a clock or a real kernel."""

from typing import Any

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Feed, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.report import Report
from tests.builders import endpoint_slice, node_context, service

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
POD = RealServer(SERVER, "10.244.1.5", 8080)
FEEDS: tuple[Feed, ...] = ("services", "slices", "node")


class AgentHarness:
    """An agent on a MemoryKernel, at a time that the test sets.

    Args:
        rows: The rows of the kernel before the agent starts.
        kernel: The kernel, if it is not a plain MemoryKernel with *rows*.
        synced: Whether all feeds have delivered their (empty) initial lists.
        compiler: The compiler, if it is not one of IPv4 only.
        options: Further arguments of Agent.
    """

    def __init__(
        self,
        rows: Rows | None = None,
        *,
        kernel: MemoryKernel | None = None,
        synced: bool = True,
        compiler: Compiler | None = None,
        **options: object,
    ) -> None:
        self.now_s = 100.0
        self.kernel = kernel or MemoryKernel(rows)
        compiler = compiler or Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
        self.problems: list[Problem] = []
        self.agent = Agent(
            self.kernel,
            compiler,
            lambda: self.now_s,
            on_problem=self.problems.append,
            **options,  # type: ignore[arg-type]
        )
        for feed in FEEDS if synced else ():
            self.agent.handle_event(Synced(feed), self.now_s)

    def handle(self, *events: object) -> list[Any]:  # Any: each test knows which kind of report it gets
        """Handle *events*, then do what is due now."""
        for event in events:
            self.agent.handle_event(event, self.now_s)  # type: ignore[arg-type]
        return self.agent.run_due(self.now_s)

    def advance(self, seconds: float) -> list[Any]:
        """Let *seconds* pass, then do what is due."""
        self.now_s += seconds
        return self.agent.run_due(self.now_s)

    def run_all_due(self) -> list[Report]:
        """Do what is due until nothing is due at this time; return the reports."""
        reports: list[Report] = []
        while self.agent.due_s() <= self.now_s:
            reports += self.agent.run_due(self.now_s)
        return reports

    def applied_steps(self) -> list[tuple[str, Key]]:
        """Return verb and key of each step that was applied since the last call."""
        applied: list[tuple[str, Key]] = [(step.verb, step.key) for step in self.kernel.applied]
        self.kernel.applied.clear()
        return applied


def serving(**options: object) -> AgentHarness:
    """Return a harness that serves shop/web with one pod and has nothing left to do."""
    harness = AgentHarness(**options)  # type: ignore[arg-type]
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    harness.applied_steps()
    return harness
