"""NodePortGuard: NodePorts on which processes of the host listen, and which NodePorts are reserved."""

from collections.abc import Collection

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.events.node_port_guard import NodePortGuard
from kubeproxy_py.kernel.host.listening import ListeningSocket
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted
from kubeproxy_py.model.services import Service
from kubeproxy_py.net import Family, Protocol
from tests.builders import name, node_context, port, service

BOTH = ("10.96.0.10", "fd00:96::10")


class Harness:
    """A guard of a compiler, with the *sockets* of the host."""

    def __init__(self, *sockets: ListeningSocket, context: NodeContext | None = None) -> None:
        self.compiler = Compiler(lambda _node, _addresses: context or node_context())
        self.published: list[KubeEvent] = []
        self.reserved: list[tuple[list[int], list[int]]] = []
        self.listed = 0
        self._sockets = sockets
        self._guard = NodePortGuard(
            self.compiler, self.published.append, self._list, self._reserve, lambda: (32768, 60999)
        )
        self.check()
        self.reserved.clear()

    def _list(self) -> Collection[ListeningSocket]:
        self.listed += 1
        return self._sockets

    def _reserve(self, added: Collection[int], removed: Collection[int]) -> None:
        self.reserved.append((list(added), list(removed)))

    def check(self, *services: Service) -> list[str]:
        """Handle *services*, and return the notes of the Events."""
        for each in services:
            self.compiler.handle_event(ServiceUpserted(each))
        names = list(self.compiler.cluster.dirty)
        self.compiler.compile()
        self._guard.check(names)
        return [event.note for event in self.published]

    def delete(self, text: str) -> None:
        self.compiler.handle_event(ServiceDeleted(name(text)))
        self.check()


def listening(
    number: int, protocol: Protocol = "TCP", address: str = "0.0.0.0", family: Family = "IPv4"
) -> ListeningSocket:
    return ListeningSocket(protocol, family, address, number)


def with_node_port(number: int = 30022, protocol: Protocol = "TCP", text: str = "web", **fields: object) -> Service:
    return service(text, ports=(port(protocol=protocol, node_port=number),), **{"type": "NodePort", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("socket", "is_used"),
    [
        (listening(30022), True),
        (listening(30022, address="192.168.3.10"), True),
        (listening(30022, address="127.0.0.1"), False),
        (listening(30022, address="10.244.1.1"), False),
        (listening(30022, "UDP"), False),
        (listening(30023), False),
    ],
)
def test_socket_is_reported_where_the_node_port_is_served(socket: ListeningSocket, is_used: bool) -> None:
    harness = Harness(socket)
    assert bool(harness.check(with_node_port())) == is_used
    assert [event.reason for event in harness.published] == ["NodePortInUse"] * is_used


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_every_protocol_and_family_is_checked(protocol: Protocol) -> None:
    socket = listening(30022, protocol, "::", "IPv6")
    assert Harness(socket).check(with_node_port(protocol=protocol)) == []
    (note,) = Harness(socket).check(with_node_port(protocol=protocol, cluster_ips=BOTH))
    assert f"node port 30022/{protocol}" in note


def test_udp_socket_at_a_port_that_the_kernel_chooses_may_be_a_client_s() -> None:
    assert Harness(listening(40123, "UDP")).check(with_node_port(40123, "UDP")) == []
    assert Harness(listening(40123)).check(with_node_port(40123))


def test_sockets_are_listed_once_for_all_new_node_ports_and_not_for_known_ones() -> None:
    harness = Harness(listening(30022))
    harness.check(with_node_port(), with_node_port(30023, text="other"))
    assert harness.listed == 1
    harness.check(with_node_port(external_ips=("203.0.113.7",)))
    harness.delete("other")
    assert (harness.listed, len(harness.published)) == (1, 1)


@pytest.mark.parametrize(
    "unserved",
    [
        with_node_port(proxy_name="other"),
        with_node_port(type="ExternalName"),
        with_node_port(cluster_ips=()),
        service(),
    ],
)
def test_node_ports_that_are_not_served_are_neither_reported_nor_reserved(unserved: Service) -> None:
    harness = Harness(listening(30022))
    assert (harness.check(unserved), harness.reserved) == ([], [])


def test_node_ports_are_reserved_while_any_service_uses_them() -> None:
    harness = Harness()
    harness.check(with_node_port(40123), with_node_port(40123, "UDP", text="other"))
    harness.delete("web")
    harness.delete("other")
    harness.check(with_node_port(40124))
    harness.check(with_node_port(40125))
    assert harness.reserved == [([40123], []), ([], [40123]), ([40124], []), ([40125], [40124])]
