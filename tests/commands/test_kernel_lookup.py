"""A trace by what the kernel has reads each part of it once."""

from __future__ import annotations

from kubeproxy_py.commands.kernel_lookup import KernelLookup
from kubeproxy_py.kernel import Readable, Snapshot
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.rows import RealServer, RealServerSpec, Rows, VirtualServer, VirtualServerSpec

WEB, OTHER = (VirtualServer(f"10.96.0.{number}", 80, "TCP") for number in (10, 11))
ROWS: Rows = {WEB: VirtualServerSpec("rr"), RealServer(WEB, "10.244.1.5", 8080): RealServerSpec(3)}


class CountingKernel(MemoryKernel):
    """Notes what is read of it."""

    def __init__(self) -> None:
        super().__init__(ROWS)
        self.read_of: list[Readable] = []

    def snapshot(self, readable: Readable) -> Snapshot:
        self.read_of.append(readable)
        return super().snapshot(readable)


def test_real_servers_of_a_virtual_server_are_read_once() -> None:
    kernel = CountingKernel()
    lookup = KernelLookup(kernel)
    answers = [lookup.real_servers(server) for server in (WEB, OTHER, WEB, OTHER)]
    assert answers == [{RealServer(WEB, "10.244.1.5", 8080): 3}, {}] * 2
    assert kernel.read_of == [WEB, OTHER]
