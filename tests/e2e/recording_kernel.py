"""A kernel that records the steps that an agent in the test's process applies to the real kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from kubeproxy_py.kernel import Kernel, MarkReader, Readable, RealServerListing, Scope, Snapshot
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import Connections, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Outcome, Plan, Step
from kubeproxy_py.net import IP


class RecordingKernel:
    """A Kernel that records the steps that it is given, and passes every call to *kernel*."""

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

    def snapshot(self, readable: Readable) -> Snapshot:
        return self._kernel.snapshot(readable)

    def fingerprint(self, readable: Readable) -> int:
        return self._kernel.fingerprint(readable)

    def mark_readers(self) -> Sequence[MarkReader]:
        return self._kernel.mark_readers()

    def real_server_listing(self) -> RealServerListing | None:
        return self._kernel.real_server_listing()

    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        return self._kernel.connections(virtual_servers)

    def idle(self, real_servers: Iterable[RealServer]) -> set[RealServer]:
        return self._kernel.idle(real_servers)

    def host_addresses(self) -> tuple[HostAddress, ...]:
        return self._kernel.host_addresses()

    def gateways(self) -> dict[IP, str]:
        return self._kernel.gateways()

    def solicit(self, targets: Iterable[HostAddress]) -> None:
        self._kernel.solicit(targets)

    def neighbours(self, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
        return self._kernel.neighbours(interfaces)

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        return self._kernel.udp_flows(servers)

    def delete_flows(self, flows: Collection[Flow]) -> tuple[int, list[str]]:
        return self._kernel.delete_flows(flows)

    def close(self) -> None:
        self._kernel.close()
