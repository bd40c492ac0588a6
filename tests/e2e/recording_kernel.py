"""A kernel that notes what it is told: between an agent in the test's process and the real one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from kubeproxy_py.kernel import Kernel, Readable, Scope, Snapshot
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import Connections, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Outcome, Plan, Step


class NotingKernel:
    """A Kernel that notes the steps it is told, and has *kernel* do them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.steps: list[Step] = []

    def apply(self, plan: Plan) -> Outcome:
        self.steps += plan.steps
        return self._kernel.apply(plan)

    def scopes(self) -> Sequence[Scope]:
        return self._kernel.scopes()

    def read(self, scope: Scope) -> Rows:
        return self._kernel.read(scope)

    def virtual_servers(self) -> Iterator[Rows]:
        return self._kernel.virtual_servers()

    def snapshot(self, part: Readable) -> Snapshot:
        return self._kernel.snapshot(part)

    def fingerprint(self, part: Readable) -> int:
        return self._kernel.fingerprint(part)

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        return self._kernel.connections(virtual_servers)

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        return self._kernel.idle(real_servers)

    def host_addresses(self) -> tuple[HostAddress, ...]:
        return self._kernel.host_addresses()

    def close(self) -> None:
        self._kernel.close()
