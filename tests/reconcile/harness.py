"""An agent on a MemoryKernel, with a clock that the test turns."""

from typing import Any

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Feed, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer
from kubeproxy_py.reconcile.agent import Agent
from tests.builders import endpoint_slice, node_context, service

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
POD = RealServer(SERVER, "10.244.1.5", 8080)
FEEDS: tuple[Feed, ...] = ("services", "slices", "node")


class Bench:
    """An agent on a MemoryKernel, with a clock that the test turns."""

    def __init__(self, rows: Rows | None = None, *, synced: bool = True, **options: object) -> None:
        self.now_s = 100.0
        self.kernel = MemoryKernel(rows)
        compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
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

    def tell(self, *events: object) -> list[Any]:
        for event in events:
            self.agent.handle_event(event, self.now_s)  # type: ignore[arg-type]
        return self.agent.step()

    def after(self, seconds: float) -> list[Any]:
        self.now_s += seconds
        return self.agent.step()

    def steps(self) -> list[tuple[str, Key]]:
        """What was applied since the last look."""
        done: list[tuple[str, Key]] = [(step.verb, step.key) for step in self.kernel.applied]
        self.kernel.applied.clear()
        return done


def serving(**options: object) -> Bench:
    """A bench on which shop/web is served by one pod, with nothing left to do."""
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    bench.steps()
    return bench
