"""The number of Service ports that no endpoint serves: it follows every change, by the Services that were compiled."""

from __future__ import annotations

from collections.abc import Mapping

from kubeproxy_py.commands.unserved_counts import UnservedCounts
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.unserved import KINDS
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted
from tests.builders import THERE, endpoint, endpoint_slice, name, node_context, port, service


class Harness:
    """A compiler, and what is published of it."""

    def __init__(self) -> None:
        self.compiler = Compiler(lambda _node, _addresses: node_context(), {})
        self.published: list[dict[str, int]] = []
        self.counts = UnservedCounts(self.compiler, lambda counts: self.published.append(dict(counts)))

    def change(self, *events: object) -> dict[str, int]:
        """Handle *events*, compile, and return the reasons that are not 0."""
        for event in events:
            self.compiler.handle_event(event)  # type: ignore[arg-type]
        self.compiler.compile()
        self.counts.check([state.name for state in self.compiler.pop_states()])
        return positive(self.published[-1])


def positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in counts.items() if count}


def test_every_reason_is_published_before_the_first_service() -> None:
    assert Harness().published == [dict.fromkeys(KINDS, 0)]


def test_reason_follows_the_endpoints_of_a_service() -> None:
    harness = Harness()
    unready = endpoint(ready=False, serving=False)
    assert harness.change(ServiceUpserted(service())) == {"NoEndpointSlice": 1}
    assert harness.change(SliceUpserted(endpoint_slice(endpoints=()))) == {"NoEndpoints": 1}
    assert harness.change(SliceUpserted(endpoint_slice(endpoints=(unready,)))) == {"NotReady": 1}
    assert harness.change(SliceUpserted(endpoint_slice(label="web"))) == {"NoSuchPort": 1}
    assert harness.change(SliceUpserted(endpoint_slice())) == {}
    assert harness.change(SliceDeleted(endpoint_slice().name)) == {"NoEndpointSlice": 1}
    assert harness.change(ServiceDeleted(name("web"))) == {}


def test_ports_are_counted_one_by_one() -> None:
    harness = Harness()
    ports = (port(), port(number=53, protocol="UDP"))
    assert harness.change(ServiceUpserted(service(ports=ports)), SliceUpserted(endpoint_slice())) == {
        "WrongProtocol": 1
    }


def test_terminating_endpoint_and_local_policy_count_as_they_are_served() -> None:
    harness = Harness()
    terminating = endpoint(ready=False, serving=True, terminating=True)
    assert harness.change(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=(terminating,)))) == {}
    local = service(internal_local=True)
    elsewhere = endpoint_slice(endpoints=(endpoint(node=THERE),))
    assert harness.change(ServiceUpserted(local), SliceUpserted(elsewhere)) == {"NoLocalEndpoint": 1}


def test_nothing_is_published_while_nothing_changes() -> None:
    harness = Harness()
    harness.change(ServiceUpserted(service()))
    before = len(harness.published)
    harness.counts.check([name("web"), name("other")])
    assert len(harness.published) == before
