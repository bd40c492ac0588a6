"""ServiceWarnings: what is refused of Services, and externalIPs that are addresses of this node."""

import logging
from typing import Literal

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import external_ips_on_node
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.events.service_warnings import ServiceWarnings
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, HostAddresses, ServiceDeleted, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Address, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.sources import FEEDS
from kubeproxy_py.sources.decode.settings import read_settings
from tests.builders import endpoint_slice, host, name, node_context, port, service

NODE_IP, NODE_IP_6, OTHER = "192.168.3.10", "fd00:3::10", "192.0.2.1"
BOTH = ("10.96.0.10", "fd00:96::10")
PORTS = tuple(port(number, label=f"p{number}") for number in range(1, 13))


class WarningsHarness:
    """An agent on a MemoryKernel, and the Events that it publishes."""

    def __init__(self) -> None:
        self.published: list[KubeEvent] = []
        compiler = Compiler(_make_node_context)
        self.now_s = 0.0
        self.kernel = MemoryKernel()
        self.kernel.addresses = host(NODE_IP)
        check = ServiceWarnings(compiler, self.published.append).check
        self.agent = Agent(self.kernel, compiler, lambda: self.now_s, on_compiled=check)
        for feed in FEEDS:
            self.agent.handle_event(Synced(feed), 0.0)

    def sync(self, *events: Event) -> list[KubeEvent]:
        """Handle *events*, sync, and return the Events that were published."""
        for event in events:
            self.agent.handle_event(event, self.now_s)
        self.agent.run_due(self.now_s)
        published = self.published[:]
        self.published.clear()
        return published


def _make_node_context(_node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    return node_context(foreign_addresses={"IPv4": frozenset(address.address for address in addresses)})


def with_external(*addresses: str, **fields: object) -> Service:
    return service(external_ips=addresses, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("external_service", "expected"),
    [
        (with_external(OTHER), ()),
        (with_external(OTHER, NODE_IP), (NODE_IP,)),
        (with_external(NODE_IP, NODE_IP_6, cluster_ips=BOTH), (NODE_IP, NODE_IP_6)),
        (with_external(NODE_IP, NODE_IP_6), (NODE_IP,)),  # not served in IPv6
        (with_external(NODE_IP, proxy_name="other"), ()),
        (with_external(NODE_IP, type="ExternalName"), ()),
        (service(load_balancer_ips=(NODE_IP,), type="LoadBalancer"), ()),
    ],
)
def test_external_ips_of_the_node_are_found_where_they_are_served(
    external_service: Service, expected: tuple[str, ...]
) -> None:
    assert external_ips_on_node(external_service, node_context()) == expected


def test_external_ip_of_a_family_that_is_not_served_is_ignored() -> None:
    external_service = with_external(NODE_IP, NODE_IP_6, cluster_ips=BOTH)
    assert external_ips_on_node(external_service, node_context(families=("IPv4",))) == (NODE_IP,)


def test_warning_names_service_address_and_node() -> None:
    (event,) = WarningsHarness().sync(ServiceUpserted(with_external(NODE_IP)))
    assert (event.type, str(event.regarding)) == ("Warning", "Service shop/web")
    assert NODE_IP in event.note
    assert "node-a" in event.note


def test_address_of_the_node_is_served_but_not_bound() -> None:
    harness = WarningsHarness()
    harness.sync(ServiceUpserted(with_external(NODE_IP, OTHER)))
    rows = harness.kernel.rows
    assert VirtualServer(NODE_IP, 80, "TCP") in rows
    assert (Address(NODE_IP) in rows, Address(OTHER) in rows) == (False, True)


def test_warning_is_published_once() -> None:
    harness = WarningsHarness()
    harness.sync(ServiceUpserted(with_external(NODE_IP)))
    assert harness.sync(ServiceUpserted(with_external(NODE_IP, affinity_timeout_s=60))) == []


def test_warning_is_published_again_after_the_address_was_removed() -> None:
    harness = WarningsHarness()
    assert len(harness.sync(ServiceUpserted(with_external(NODE_IP)))) == 1
    assert harness.sync(ServiceUpserted(with_external(OTHER))) == []
    assert len(harness.sync(ServiceUpserted(with_external(NODE_IP)))) == 1


def test_address_added_to_the_node_is_warned_of() -> None:
    harness = WarningsHarness()
    assert harness.sync(ServiceUpserted(with_external(OTHER))) == []
    (event,) = harness.sync(HostAddresses(host(NODE_IP, OTHER)))
    assert OTHER in event.note


def test_warning_is_published_again_for_a_service_that_was_deleted_and_created() -> None:
    harness = WarningsHarness()
    harness.sync(ServiceUpserted(with_external(NODE_IP)))
    assert harness.sync(ServiceDeleted(name("shop/web"))) == []
    assert len(harness.sync(ServiceUpserted(with_external(NODE_IP)))) == 1


def test_refused_address_is_published_once_and_again_after_it_was_allowed() -> None:
    harness = WarningsHarness()
    (event,) = harness.sync(ServiceUpserted(with_external("127.0.0.1", OTHER)))
    assert (event.reason, event.type, str(event.regarding)) == ("ForbiddenAddress", "Warning", "Service shop/web")
    assert "127.0.0.1" in event.note
    assert "node-a" in event.note
    assert harness.sync(ServiceUpserted(with_external("127.0.0.1"))) == []
    assert harness.sync(ServiceUpserted(with_external(OTHER))) == []
    assert len(harness.sync(ServiceUpserted(with_external("127.0.0.1")))) == 1


def test_event_for_the_loser_of_an_address_names_the_holder() -> None:
    harness = WarningsHarness()
    malicious = with_external("10.96.0.53", text="malicious")
    assert harness.sync(ServiceUpserted(malicious)) == []
    (event,) = harness.sync(ServiceUpserted(service("dns", ("10.96.0.53",))))
    assert (event.reason, str(event.regarding)) == ("AddressContested", "Service shop/malicious")
    assert "Service shop/dns" in event.note
    assert harness.sync(SliceUpserted(endpoint_slice("malicious"))) == []


def test_many_refusals_of_one_cause_are_one_event() -> None:
    harness = WarningsHarness()
    harness.sync(ServiceUpserted(service("a", ("10.96.0.11",), PORTS, external_ips=(OTHER,))))
    (event,) = harness.sync(ServiceUpserted(service("b", ("10.96.0.12",), PORTS, external_ips=(OTHER,))))
    assert f"{OTHER}:1/TCP, " in event.note
    assert "and 7 more" in event.note


def test_cluster_ip_that_another_interface_has_is_warned_of_once_and_stays_bound() -> None:
    harness = WarningsHarness()
    harness.sync(ServiceUpserted(service(cluster_ips=(OTHER,))))
    (event,) = harness.sync(HostAddresses(host(NODE_IP, OTHER)))
    assert (event.reason, str(event.regarding)) == ("ClusterIPOnNode", "Service shop/web")
    assert OTHER in event.note
    assert Address(OTHER) in harness.kernel.rows
    assert harness.sync(ServiceUpserted(service(cluster_ips=(OTHER,), affinity_timeout_s=60))) == []


def test_load_balancer_address_of_the_node_is_logged_without_an_event(caplog: pytest.LogCaptureFixture) -> None:
    harness = WarningsHarness()
    balanced = service(load_balancer_ips=(NODE_IP,), type="LoadBalancer")
    with caplog.at_level(logging.DEBUG, "kubeproxy_py"):
        assert harness.sync(ServiceUpserted(balanced)) == []
    messages = [record.msg for record in caplog.records if record.name.endswith("service_warnings")]
    assert messages == ["Load balancer addresses are addresses of this node; not bound"]


def test_setting_that_is_ignored_is_an_event_that_names_annotation_value_and_remedy() -> None:
    harness = WarningsHarness()
    wrong = read_settings({"kubeproxy-py.io/scheduler": "wr", "kubeproxy-py.io/max-connections": "5"})
    (event,) = harness.sync(ServiceUpserted(service(settings=wrong)), SliceUpserted(endpoint_slice()))
    assert (event.reason, str(event.regarding)) == ("SettingIgnored", "Service shop/web")
    assert "kubeproxy-py.io/scheduler=wr: is no scheduler of IPVS; ignored (did you mean wrr?)" in event.note
    assert VirtualServer("10.96.0.10", 80, "TCP") in harness.kernel.rows
    assert harness.sync(ServiceUpserted(service(settings=wrong, external_ips=(OTHER,)))) == [], "it is no news"
    assert harness.sync(ServiceUpserted(service())) == []
    assert len(harness.sync(ServiceUpserted(service(settings=wrong)))) == 1


def test_settings_of_a_service_of_another_proxy_are_its_concern() -> None:
    wrong = read_settings({"kubeproxy-py.io/scheduler": "wr"})
    harness = WarningsHarness()
    assert harness.sync(ServiceUpserted(service(settings=wrong, proxy_name="other"))) == []


@pytest.mark.parametrize("kind", ["ClusterIP", "ExternalName"])
def test_setting_that_has_no_effect_because_nothing_is_served_is_an_event(
    kind: Literal["ClusterIP", "ExternalName"],
) -> None:
    settings = read_settings({"kubeproxy-py.io/scheduler": "wrr"})
    (event,) = WarningsHarness().sync(ServiceUpserted(service(cluster_ips=(), type=kind, settings=settings)))
    assert event.reason == "SettingIgnored"
    assert "kubeproxy-py.io/scheduler=wrr: has no effect on a Service" in event.note


def annotated(annotations: dict[str, str], **fields: object) -> ServiceUpserted:
    given = read_settings({f"kubeproxy-py.io/{key}": value for key, value in annotations.items()})
    return ServiceUpserted(service(settings=given, **fields))  # type: ignore[arg-type]


def test_setting_that_is_ignored_for_another_cause_now_is_an_event_again() -> None:
    harness = WarningsHarness()
    both = {"scheduler": "sh", "health-check": "tcp"}
    (event,) = harness.sync(annotated(both))
    assert "has no effect with scheduler sh" in event.note
    assert harness.sync(annotated(both, external_ips=(OTHER,))) == []
    (event,) = harness.sync(annotated({**both, "scheduler-flags": "sh-fallback"}, ports=(port(53, "UDP"),)))
    assert event.note.endswith("health-check=tcp: has no effect without a TCP port; ignored (remove the annotation)")
    assert harness.sync(annotated({**both, "scheduler-flags": "sh-fallback"})) == []


@pytest.mark.parametrize("value", ["x" * 5000, "\U0001f600" * 200])
def test_each_annotation_and_the_remedy_are_named_however_long_the_values_are(value: str) -> None:
    (event,) = WarningsHarness().sync(annotated({f"unknown-{letter}": value for letter in "abcdefgh"}))
    assert all(f"kubeproxy-py.io/unknown-{letter}=" in event.note for letter in "abcdefgh")
    assert ": is unknown; ignored (known are scheduler, " in event.note
    assert len(event.note.encode()) <= 1024
    (event,) = WarningsHarness().sync(annotated({"scheduler": value}))
    assert "kubeproxy-py.io/scheduler=" in event.note
    assert ": is no scheduler of IPVS; ignored (one of rr, " in event.note
    assert len(event.note.encode()) <= 1024


def test_many_settings_that_are_ignored_for_one_cause_are_all_named() -> None:
    given = {"scheduler": "wrr", "max-connections": "5", "weights": "others=2", "drain-deadline": "5s"}
    given |= {"slow-start": "5s", "affinity-timeout": "5s", "affinity-mask": "ipv4/24", "source-hash-port": "true"}
    (event,) = WarningsHarness().sync(annotated(given, cluster_ips=()))
    assert all(f"kubeproxy-py.io/{key}={value}" in event.note for key, value in given.items())
    assert "without a ClusterIP (headless)" in event.note
