"""Checks after a sync: those of a Service itself run when it or the node changed, those of endpoints at each change."""

from collections.abc import Mapping

from kubeproxy_py.commands.after_sync import checks_after_sync
from kubeproxy_py.commands.callbacks import Callbacks
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.config.load import load
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import HostAddresses, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.node import HostAddress, Node
from tests.builders import endpoint_slice, host, node_context, service

VIP = "192.0.2.1"


def context_of(_node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    return node_context(foreign_addresses={"IPv4": frozenset(address.address for address in addresses)})


class Harness:
    """A compiler, and what the checks after its compiles publish."""

    def __init__(self) -> None:
        self.events: list[KubeEvent] = []
        self.unserved = 0
        self.compiler = Compiler(context_of)
        callbacks = Callbacks(on_unserved=self._on_unserved)
        self.check = checks_after_sync(load({}), self.compiler, MemoryKernel(), self.events.append, callbacks)

    def _on_unserved(self, counts: Mapping[str, int]) -> None:
        self.unserved = sum(counts.values())

    def change(self, *events: object) -> tuple[list[str], int]:
        """Return the reasons of the Events for *events*, and how many ports nothing serves."""
        for event in events:
            self.compiler.handle_event(event)  # type: ignore[arg-type]
        self.compiler.compile()
        self.check([state.name for state in self.compiler.pop_states()])
        reasons = [event.reason for event in self.events]
        self.events.clear()
        return reasons, self.unserved


def test_warnings_follow_the_service_and_the_node_and_counts_the_endpoints() -> None:
    harness = Harness()
    assert harness.change(ServiceUpserted(service(external_ips=(VIP,)))) == ([], 1)
    assert harness.change(SliceUpserted(endpoint_slice())) == ([], 0)
    (warned,), unserved = harness.change(HostAddresses(host(VIP)))
    assert (warned, unserved) == ("ExternalIPOnNode", 0)
    assert harness.change(SliceDeleted(endpoint_slice().name)) == ([], 1)
    assert harness.change(HostAddresses(())) == ([], 1)
    assert harness.change(HostAddresses(host(VIP)))[0] == [warned]


def test_address_refused_because_of_an_endpoint_is_published_once() -> None:
    harness = Harness()
    harness.change(ServiceUpserted(service(external_ips=(VIP,))))
    taking = SliceUpserted(endpoint_slice("other", endpoints=(VIP,)))
    assert harness.change(taking)[0] == ["AddressInUse"]
    assert harness.change(SliceUpserted(endpoint_slice()))[0] == []
